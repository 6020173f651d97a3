"""Checkpoints: what a run goes on from."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

KEPT = ("step", "seconds", "averaged", "heads", "tasks", "heads_config")  # beside weights and configurations


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write to the side and rename: a kill leaves the old checkpoint whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def save_changed(path: Path, state: dict[str, Any], weights: dict[str, torch.Tensor]) -> None:
    """Write a loaded checkpoint with other weights, those of the model and of its moving average alike. What followed the
    old ones is left out: the optimiser's moments, the heads' students, alignments of their labels.
    """
    kept = {key: state[key] for key in KEPT if key in state}
    save_checkpoint(path, {**kept, "configs": json.dumps(state["configs"]), "ema": weights, "model": weights})


def load_checkpoint(path: Path, needs: tuple[str, ...] = ("model", "ema", "step", "seconds")) -> dict[str, Any]:
    """Args: needs: what the caller will look for; by default what a run goes on from.

    Raises:
        ValueError: anything that is no checkpoint, or lacks one of ``needs``; the message names the file.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        state["configs"] = json.loads(state["configs"])
    except Exception as error:  # torch's reader raises whatever a broken file makes it
        raise ValueError(f"{path} is no checkpoint: {type(error).__name__}: {str(error).splitlines()[0]}") from error
    missing = [name for name in needs if name not in state]
    if missing:
        raise ValueError(f"{path} is another kind of checkpoint: it holds no {', no '.join(missing)}")
    return dict(state)
