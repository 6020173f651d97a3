"""The optimisers: AdamW for everything, or Muon for the matrices and AdamW for the rest."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn

from .config import TrainConfig
from .layers import DepthConvBlock

MUON_MOMENTUM = 0.95
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan et al. (2024): singular values come near 1 within five rounds
NEWTON_SCHULZ_ROUNDS = 5
STEPS, STEPS_SPEED = ("log_steps", "log_stream_step"), 8.0  # of 8-bit blocks: logarithms may move faster than weights
MUON_RMS = 0.2  # of an entry of an update, about AdamW's (Liu et al., 2025): the two share one learning rate


def orthogonalise(matrices: Tensor) -> Tensor:
    """[N, rows, columns] → matrices of the same singular vectors, singular values between about 0.7 and 1.2."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if tall else matrices).bfloat16()
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    a, b, c = NEWTON_SCHULZ
    for _ in range(NEWTON_SCHULZ_ROUNDS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).float()


class MuonAdamW(torch.optim.AdamW):
    """AdamW, but parameters of groups marked ``muon`` (pointwise convolutions) move by orthogonalised momentum.

    Source: Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024); scale of the update after
    Liu et al., "Muon is scalable for LLM training" (2025).
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        groups = self.param_groups
        try:
            self.param_groups = [group for group in groups if not group["muon"]]
            super().step(closure)
        finally:
            self.param_groups = groups
        for group in groups:
            if group["muon"]:
                self._muon_step(group)

    def _muon_step(self, group: dict[str, Any]) -> None:
        alike: dict[tuple[int, int], list[Tensor]] = defaultdict(list)
        for p in group["params"]:
            if p.grad is not None:
                alike[p.shape[0], p[0].numel()].append(p)
        for (rows, columns), parameters in alike.items():  # one batched product for all matrices of a shape
            updates = []
            for p in parameters:
                momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
                momentum.lerp_(p.grad, 1 - MUON_MOMENTUM)
                updates.append(torch.lerp(p.grad, momentum, MUON_MOMENTUM).reshape(rows, columns))  # Nesterov's
            scale = -group["lr"] * MUON_RMS * max(rows, columns) ** 0.5
            for p, update in zip(parameters, orthogonalise(torch.stack(updates)), strict=True):
                p.mul_(1 - group["lr"] * group["weight_decay"]).add_(update.reshape(p.shape), alpha=scale)


def make_optimiser(module: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Over all parameters of ``module``; a group's ``speed`` multiplies its learning rate. Muon takes the pointwise
    convolutions of the residual blocks; what carries the linear path, depth-wise and integer layers stay with AdamW.
    """
    matrices = {
        id(layer.weight)
        for block in module.modules()
        if isinstance(block, DepthConvBlock)
        for layer in (block.pointwise_in, block.pointwise_out, block.expand, block.project)
    }
    steps = {id(p) for name, p in module.named_parameters() if name.endswith(STEPS)}
    groups: list[dict[str, Any]] = [
        {"params": [], "muon": False, "speed": 1.0},
        {"params": [], "muon": False, "speed": STEPS_SPEED, "weight_decay": 0.0},
        {"params": [], "muon": True, "speed": 1.0},
    ]
    for p in module.parameters():
        groups[1 if id(p) in steps else 2 if config.muon and id(p) in matrices else 0]["params"].append(p)
    groups = [group for group in groups if group["params"]]
    kind = MuonAdamW if config.muon else torch.optim.AdamW
    return kind(groups, config.lr, config.betas, weight_decay=config.weight_decay)


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
        fits = name in saved and all(not v.ndim or v.shape == p.shape for v in saved[name].values())
        muon = any(group.get("muon") and any(p is q for q in group["params"]) for group in optimiser.param_groups)
        if fits and name.startswith(only) and ("momentum" in saved[name]) == muon:  # of the same optimiser
            # The count of steps, a scalar, stays on the CPU.
            optimiser.state[p] = {k: v.to(p.device) if v.ndim else v for k, v in saved[name].items()}
