"""Start a larger model from the weights of a smaller one: what is new starts silent, so that nothing is lost."""

from __future__ import annotations

import torch
from torch import Tensor

from .model import SemicodecModel


@torch.no_grad()
def load_grown(model: SemicodecModel, weights: dict[str, Tensor]) -> list[str]:
    """Load ``weights`` of a model of the same or a smaller shape; returns the names of what grew or is new.

    More channels: the new inputs of a layer weigh nothing, its new outputs start as in a fresh model. More anchors of
    the rate bank: continued linearly, for the lambdas of the first anchors to stay (the caller sets ``lambda_max``).

    Raises:
        ValueError: a parameter is smaller here, or has no place.
    """
    own = model.state_dict()
    unknown = sorted(set(weights) - set(own))
    if unknown:
        raise ValueError(f"the checkpoint holds {', '.join(unknown)}, which this shape has no place for")
    grown = sorted(set(own) - set(weights))
    for name, saved in weights.items():
        target, value = own[name], saved.float()
        if value.ndim != target.ndim or any(a > b for a, b in zip(value.shape, target.shape, strict=True)):
            raise ValueError(f"{name}: {list(value.shape)} in the checkpoint does not fit {list(target.shape)}")
        if name == "scale_context.index.weight" and value.shape[1] != target.shape[1]:
            raise ValueError(
                "scale_width and scale_context_width cannot grow: their channels stand side by side in one layer"
            )
        if value.shape != target.shape:
            grown.append(name)
            if name.endswith("weight"):
                target[: value.shape[0], value.shape[1] :] = 0
        target[tuple(slice(n) for n in value.shape)] = value
        if name.startswith("rate_bank.") or name == "prior.log_scale":
            for anchor in range(value.shape[0], target.shape[0]):
                target[anchor, : value.shape[1]] = value[-1] + (anchor - value.shape[0] + 1) * (value[-1] - value[-2])
    model.load_state_dict(own)
    return grown
