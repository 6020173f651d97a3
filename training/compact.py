"""Shrink a checkpoint for keeping: ``python -m training.compact RUN/checkpoint.pt SMALL.pt``.

Only the moving average is kept, in 16 bits; a run resumes from it with ``--resume SMALL.pt --restart-clock``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from .train import save_checkpoint


def compact(source: Path, target: Path) -> None:
    state = torch.load(source, map_location="cpu", weights_only=True)
    weights = {name: value.half() for name, value in state["ema"].items()}
    kept = {key: state[key] for key in ("step", "seconds", "model_config", "train_config")}
    save_checkpoint(target, {**kept, "model": weights, "ema": weights})


if __name__ == "__main__":
    compact(Path(sys.argv[1]), Path(sys.argv[2]))
