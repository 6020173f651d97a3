"""A training run of a second, for tests of what starts from a checkpoint."""

from __future__ import annotations

from pathlib import Path

from conftest import photo
from PIL import Image

from training import train

SETTINGS = [
    f"--set={s}"
    for s in (
        "model.latent_channels=12", "model.hyper_channels=4", "model.analysis_width=24", "model.analysis_blocks=1",
        "model.synthesis_width=16", "model.synthesis_blocks=1", "model.hyper_width=16", "model.context_width=16",
        "model.scale_width=16", "model.scale_context_width=8", "model.rate_anchors=3",
        "train.crop=64", "train.batch=2", "train.msssim_share=0", "train.synthetic_share=0", "train.bf16=false",
    )
]  # fmt: skip


def small_pictures(folder: Path) -> Path:
    """Three pictures of 192x192; the folder."""
    folder.mkdir(exist_ok=True)
    for seed in range(3):
        Image.fromarray(photo(192, 192, seed)).save(folder / f"{seed}.png")
    return folder


def small_run(data: Path, out: Path, *more: str, steps: int = 2) -> Path:
    """The checkpoint of a run of ``steps`` of the smallest model; ``more`` goes to the command line."""
    train.main(["--data", str(data), "--out", str(out), "--steps", str(steps), "--threads", "1", *SETTINGS, *more])
    return out / "checkpoint.pt"
