"""The optimiser: AdamW, with a long memory of the codec's gradients where a run asks for one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .config import TrainConfig
from .heads import SemanticHeads

STEPS, STEPS_SPEED = ("log_steps", "log_stream_step"), 8.0  # of 8-bit blocks: logarithms may move faster than weights
SLOW_FADE = 0.2  # the last share of the clock, over which the slow average loses its weight: weights come to rest


class AdEMAMix(torch.optim.AdamW):
    """AdamW plus, in groups with a ``slow_weight``, so many times a second, slower moving average of the gradients, over
    the same root of their squares.

    What a step of a few crops says is mostly noise. A rate that is high enough for directions in which the loss hardly
    bends lets the others jump about; an average over a thousand steps is large in the former only.

    Source: Pagliardini, Ablin & Grangier, "The AdEMAMix optimizer: better, faster, older" (2024).
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        super().step(closure)
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None] if group["slow_weight"] else []
            if not parameters:
                continue
            states = [self.state[p] for p in parameters]
            slow = [s.setdefault("exp_avg_slow", torch.zeros_like(p)) for s, p in zip(states, parameters, strict=True)]
            torch._foreach_lerp_(slow, [p.grad for p in parameters], 1 - group["slow_decay"])
            begun = (1 - group["betas"][1] ** float(states[0]["step"])) ** 0.5
            roots = torch._foreach_sqrt([s["exp_avg_sq"] for s in states])
            torch._foreach_div_(roots, begun)
            torch._foreach_add_(roots, group["eps"])
            torch._foreach_addcdiv_(parameters, slow, roots, value=-group["lr"] * group["slow_weight"])


def make_optimiser(module: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Over all parameters of ``module``; a group's ``speed`` multiplies its learning rate. Heads, which learn in some steps
    only, and the steps of 8-bit blocks have no long memory.
    """
    heads = {id(p) for part in module.modules() if isinstance(part, SemanticHeads) for p in part.parameters()}
    steps = {id(p) for name, p in module.named_parameters() if name.endswith(STEPS)}
    slow = {"slow_weight": config.slow_weight, "slow_decay": config.slow_decay}
    none = {"slow_weight": 0.0, "slow_decay": config.slow_decay}
    groups: list[dict[str, Any]] = [
        {"params": [], "speed": 1.0, **slow},
        {"params": [], "speed": STEPS_SPEED, **none, "weight_decay": 0.0},
        {"params": [], "speed": 1.0, **none},
    ]
    for p in module.parameters():
        groups[1 if id(p) in steps else 2 if id(p) in heads else 0]["params"].append(p)
    groups = [group for group in groups if group["params"]]
    return AdEMAMix(groups, config.lr, config.betas, weight_decay=config.weight_decay, fused=True)


def set_rates(optimiser: torch.optim.Optimizer, config: TrainConfig, lr: float, progress: float) -> None:
    """For the next step: the learning rate, and the slow average's weight at a ``progress`` from 0 to 1 through the run."""
    for group in optimiser.param_groups:
        group["lr"] = lr * group["speed"]
        if group["slow_weight"]:
            group["slow_weight"] = config.slow_weight * min(1.0, max(1e-9, (1 - progress) / SLOW_FADE))


def state_of(optimiser: torch.optim.Optimizer, objective: nn.Module) -> dict[str, dict[str, Tensor]]:
    """{name of the parameter: its moments}, to be kept in a checkpoint."""
    return {name: optimiser.state[p] for name, p in objective.named_parameters() if p in optimiser.state}


def load_state(
    optimiser: torch.optim.Optimizer, objective: nn.Module, saved: dict[str, dict[str, Tensor]], only: str = ""
) -> None:
    """Put the moments back; parameters that have none saved, or whose names do not begin with ``only``, start without."""
    for name, p in objective.named_parameters():
        kept = saved.get(name, {})
        if name.startswith(only) and "exp_avg" in kept and kept["exp_avg"].shape == p.shape:
            optimiser.state[p] = {k: v.to(p.device) for k, v in kept.items()}
