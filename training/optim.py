"""The optimisers: AdamW for everything, or SOAP for the codec's convolutions and AdamW for the rest."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .config import TrainConfig
from .heads import SemanticHeads
from .layers import IntegerConv2d

SOAP_WARM_UP = 10  # steps that only gather covariances, before there is a basis
SOAP_EVERY = 20  # steps between two turns of the basis
SOAP_LARGEST = 640  # sides of a matrix longer than this keep the basis they have
STEPS, STEPS_SPEED = ("log_steps", "log_stream_step"), 8.0  # of 8-bit blocks: logarithms may move faster than weights


class SoapAdamW(torch.optim.AdamW):
    """AdamW, but weights of groups marked ``soap`` are matrices [outputs, inputs x taps], and their AdamW runs in the
    eigenbasis of their gradients' covariances.

    Source: Vyas et al., "SOAP: improving and stabilizing Shampoo using Adam" (2024).
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        groups = self.param_groups
        try:
            self.param_groups = [group for group in groups if not group["soap"]]
            super().step(closure)
        finally:
            self.param_groups = groups
        for group in groups:
            if group["soap"]:
                for p in group["params"]:
                    if p.grad is not None:
                        _soap_step(p, self.state[p], group)


def _soap_step(p: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
    gradient = p.grad.reshape(len(p), -1)  # type: ignore[union-attr]
    beta1, beta2 = group["betas"]
    if not state:
        state["soap_step"] = torch.zeros(())
        for side, size in zip(("left", "right"), gradient.shape, strict=True):
            if size <= SOAP_LARGEST:
                state[f"{side}_covariance"] = gradient.new_zeros(size, size)
    state["soap_step"] += 1
    step = int(state["soap_step"])
    for side, g in (("left", gradient), ("right", gradient.mT)):
        if f"{side}_covariance" in state:
            state[f"{side}_covariance"].addmm_(g, g.mT, beta=beta2, alpha=1 - beta2)
    if step < SOAP_WARM_UP:
        return
    if step == SOAP_WARM_UP:
        for side in ("left", "right"):
            if f"{side}_covariance" in state:
                state[f"{side}_basis"] = _eigenbasis(state[f"{side}_covariance"])
        state["momentum"], state["variance"] = torch.zeros_like(gradient), torch.zeros_like(gradient)
    elif step % SOAP_EVERY == 0:
        _turn(state)
    count = step - SOAP_WARM_UP + 1
    turned = _rotate(gradient, state)
    state["momentum"].lerp_(turned, 1 - beta1)
    state["variance"].lerp_(turned.square(), 1 - beta2)
    update = (state["momentum"] / (1 - beta1**count)) / ((state["variance"] / (1 - beta2**count)).sqrt_() + group["eps"])
    update = _rotate(update, state, back=True)
    p.mul_(1 - group["lr"] * group["weight_decay"]).add_(update.reshape(p.shape), alpha=-group["lr"])


def _eigenbasis(covariance: Tensor) -> Tensor:
    """In double precision, and raised a little: LAPACK gives up on a matrix with many eigenvalues that are nearly 0."""
    matrix = covariance.double()
    matrix = matrix / matrix.diagonal().mean().clamp_min(1e-300)
    return torch.linalg.eigh(matrix + 1e-9 * torch.diag(torch.arange(len(matrix), device=matrix.device))).eigenvectors.to(
        covariance.dtype
    )


def _rotate(matrix: Tensor, state: dict[str, Tensor], back: bool = False) -> Tensor:
    """Into the basis of the sides that have one, or back."""
    if "left_basis" in state:
        matrix = (state["left_basis"] if back else state["left_basis"].mT) @ matrix
    if "right_basis" in state:
        matrix = matrix @ (state["right_basis"].mT if back else state["right_basis"])
    return matrix


def _turn(state: dict[str, Tensor]) -> None:
    """The bases after one round of orthogonal iteration, sorted by variance so that axes keep their places; the
    momentum goes with them, the variances stay with their axes.
    """
    momentum = _rotate(state["momentum"], state, back=True)
    for axis, side in enumerate(("left", "right")):
        if f"{side}_basis" in state:
            product = state[f"{side}_covariance"] @ state[f"{side}_basis"]
            order = (state[f"{side}_basis"] * product).sum(0).argsort(descending=True)
            state["variance"] = state["variance"].index_select(axis, order)
            state[f"{side}_basis"] = torch.linalg.qr(product.index_select(1, order)).Q
    state["momentum"] = _rotate(momentum, state)


def make_optimiser(module: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Over all parameters of ``module``; a group's ``speed`` multiplies its learning rate. SOAP takes the codec's
    convolutions; integer layers, gains, biases and heads stay with AdamW.
    """
    others = [part for part in module.modules() if isinstance(part, (IntegerConv2d, SemanticHeads))]
    matrices = {id(p) for p in module.parameters() if p.ndim == 4} - {id(p) for part in others for p in part.parameters()}
    steps = {id(p) for name, p in module.named_parameters() if name.endswith(STEPS)}
    groups: list[dict[str, Any]] = [
        {"params": [], "soap": False, "speed": 1.0},
        {"params": [], "soap": False, "speed": STEPS_SPEED, "weight_decay": 0.0},
        {"params": [], "soap": True, "speed": 1.0},
    ]
    for p in module.parameters():
        groups[1 if id(p) in steps else 2 if config.soap and id(p) in matrices else 0]["params"].append(p)
    groups = [group for group in groups if group["params"]]
    kind = SoapAdamW if config.soap else torch.optim.AdamW
    return kind(groups, config.lr, config.betas, weight_decay=config.weight_decay, fused=None if config.soap else True)


def state_of(optimiser: torch.optim.Optimizer, objective: nn.Module) -> dict[str, dict[str, Tensor]]:
    """{name of the parameter: its moments}, to be kept in a checkpoint."""
    return {name: optimiser.state[p] for name, p in objective.named_parameters() if p in optimiser.state}


def load_state(
    optimiser: torch.optim.Optimizer, objective: nn.Module, saved: dict[str, dict[str, Tensor]], only: str = ""
) -> None:
    """Put the moments back; parameters that have none saved, those of another optimiser, or whose names do not begin with
    ``only``, start without.
    """
    by_soap = {id(p) for group in optimiser.param_groups if group.get("soap") for p in group["params"]}
    for name, p in objective.named_parameters():
        kept = saved.get(name, {})
        if name.startswith(only) and (_fits_soap(kept, p) if id(p) in by_soap else _fits_adam(kept, p)):
            # SOAP counts its steps on the CPU.
            optimiser.state[p] = {k: v if k == "soap_step" else v.to(p.device) for k, v in kept.items()}


def _fits_adam(kept: dict[str, Tensor], p: Tensor) -> bool:
    return "exp_avg" in kept and kept["exp_avg"].shape == p.shape


def _fits_soap(kept: dict[str, Tensor], p: Tensor) -> bool:
    sides = zip(("left", "right"), (len(p), p.numel() // len(p)), strict=True)
    expected = {f"{side}_covariance": size for side, size in sides if size <= SOAP_LARGEST}
    return "soap_step" in kept and expected == {k: len(v) for k, v in kept.items() if k.endswith("_covariance")}
