"""Small, honest ablations: the same start, the same steps, one change.

``python -m training.ablate --start CHECKPOINT --data FOLDER --out RUNS --steps 300 NAME[:ARGUMENT…] …`` trains every
variant from the same checkpoint and prints BD-rates against the first one, from quantised latents' likelihoods and 8-bit
pixels of the held-out pictures. ARGUMENTs are the trainer's, split as a shell would: ``"joint:--labels a.csv b.csv"``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np

from pillow_semicodec.bench.curves import METRICS, Row, bd_rate
from pillow_semicodec.metrics import msssim_db

from . import train
from .commands import one_line
from .compare import figures
from .data import Picture, read_split
from .state import load_checkpoint


def curve(checkpoint: Path, pictures: list[Picture]) -> list[Row]:
    """A point for every rate: means over ``pictures`` of the checkpoint's moving average."""
    points = []
    for of_rate in figures(checkpoint, pictures):
        rows = [(bpp, -10 * np.log10(mse), 1 - unlike, 100 - distance) for bpp, distance, _, unlike, mse in of_rate]
        bpp, psnr, similarity, score = np.mean(rows, 0)
        points.append({"bpp": bpp, "psnr": psnr, "msssim_db": msssim_db(similarity), "ssimulacra2": score})
    return points


def _begun(folder: Path, described: dict[str, Any]) -> bool:
    """Whether a variant's run lies there; ValueError where that is another one."""
    description = folder / "ablation.json"
    if not (folder / "checkpoint.pt").exists():
        folder.mkdir(parents=True, exist_ok=True)
        description.write_text(json.dumps(described))
        return False
    if not description.exists() or json.loads(description.read_text()) != described:
        raise ValueError(f"{folder} holds a run of another start, other data, steps or arguments: take another --out")
    return True


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("variants", nargs="+", metavar="NAME[:ARGUMENTS]")
    parser.add_argument("--start", type=Path, required=True, help="checkpoint that every variant starts from")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=300)
    args = parser.parse_args(arguments)
    validation = read_split(args.data).validation
    with args.start.open("rb") as file:
        described = {"start": hashlib.file_digest(file, "sha256").hexdigest(), "steps": args.steps}
        described["data"] = str(args.data.resolve())
    curves: dict[str, Any] = {}
    for variant in args.variants:
        name, _, extra = variant.partition(":")
        common = ["--data", str(args.data), "--out", str(args.out / name), "--minutes", "100000", "--steps", str(args.steps)]
        start = ["--resume", str(args.start), "--restart-clock"]
        if _begun(args.out / name, {**described, "arguments": extra}):  # by a run that was stopped: go on
            start = []
        train.main([*common, *start, *shlex.split(extra)])
        if load_checkpoint(args.out / name / "checkpoint.pt")["step"] < args.steps:
            raise ValueError(f"{name} was stopped before its {args.steps} steps; the same command goes on")
        curves[name] = curve(args.out / name / "checkpoint.pt", validation)
    first = next(iter(curves))
    print(f"| BD-rate against {first}, % | " + " | ".join(METRICS) + " |")
    print("|---" * (1 + len(METRICS)) + "|")
    for name, points in list(curves.items())[1:]:
        print(f"| {name} | " + " | ".join(f"{bd_rate(curves[first], points, metric):+.2f}" for metric in METRICS) + " |")


if __name__ == "__main__":
    with one_line("ablate"):
        main()
