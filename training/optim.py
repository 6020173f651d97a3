"""The optimiser, AdamW, and its moments in a checkpoint."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .config import TrainConfig

# Pixels, and latents of flat parts, are many numbers of one sign: at the others' speed a step of the layers that meet
# them moves light by a good part of what it is quantised to at high rates, and everybody's gradients with it.
ENDS, ENDS_SPEED = ("analysis.embed.", "analysis.merge.", "synthesis.split.", "synthesis.project.", "synthesis.bypass_"), 0.2
STEPS, STEPS_SPEED = ("log_steps", "log_stream_step"), 8.0  # of 8-bit blocks: logarithms may move faster than weights


def make_optimiser(module: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Over all parameters of ``module``; a group's ``speed`` multiplies its learning rate."""
    steps, ends, others = [], [], []
    for name, p in module.named_parameters():
        (steps if name.endswith(STEPS) else ends if any(end in name for end in ENDS) else others).append(p)
    groups = [
        {"params": others, "speed": 1.0},
        # LSQ makes gradients tiny, but smaller ones than this are noise
        {"params": steps, "speed": STEPS_SPEED, "weight_decay": 0.0, "eps": 1e-9},
        {"params": ends, "speed": ENDS_SPEED},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, config.lr, config.betas, weight_decay=config.weight_decay, fused=True)


def state_of(optimiser: torch.optim.Optimizer, objective: nn.Module) -> dict[str, dict[str, Tensor]]:
    """{name of the parameter: its moments}, to be kept in a checkpoint."""
    return {name: optimiser.state[p] for name, p in objective.named_parameters() if p in optimiser.state}


def load_state(
    optimiser: torch.optim.Optimizer, objective: nn.Module, saved: dict[str, dict[str, Tensor]], only: str = ""
) -> None:
    """Put the moments back; parameters that have none saved, those of another optimiser, or whose names do not begin with
    ``only``, start without.
    """
    for name, p in objective.named_parameters():
        kept = saved.get(name, {})
        if name.startswith(only) and "exp_avg" in kept and kept["exp_avg"].shape == p.shape:
            optimiser.state[p] = {k: kept[k].to(p.device) for k in ("step", "exp_avg", "exp_avg_sq")}
