"""Where the codec loses most: ``python -m training.hardness --data FOLDER --out hardness.csv``.

For the middle of every training picture, the bytes of SGC over those of Pillow's AVIF at equal SSIMULACRA2. ``python -m
training.train --hardness hardness.csv`` then draws crops of a picture in proportion to the square of its ratio.
"""

from __future__ import annotations

import argparse
import csv
import math
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

import pillow_semicodec
from pillow_semicodec.bench.curves import coded

from .commands import one_line
from .data import names_of, read_rgb

SIDE = 384  # pixels of what is looked at
QUALITY, AVIF_QUALITIES = 60, (35, 55, 72)
LEAST, MOST = 0.5, 2.0  # bounds of a ratio over the median, before it is squared


def ratio_of(folder: Path, name: str) -> float:
    """Bytes of SGC over AVIF's at equal looks."""
    pillow_semicodec.options.THREADS = 1
    picture = Image.fromarray(read_rgb(folder / name))
    left, top = (max(0, (n - SIDE) // 2) for n in picture.size)
    part = picture.crop((left, top, min(left + SIDE, picture.width), min(top + SIDE, picture.height)))
    size, score = coded(part, "SGC", quality=QUALITY, indexed=False)
    curve = sorted(coded(part, "AVIF", quality=q, speed=6)[::-1] for q in AVIF_QUALITIES)
    scores, sizes = zip(*curve, strict=True)
    return float(size / np.exp(np.interp(score, scores, np.log(sizes))))


def read_hardness(path: Path) -> dict[str, float]:
    """{file: weight of its crops}, 1 in the middle.

    Raises:
        ValueError: the table has no columns ``file`` and ``ratio``, or what stands there is no positive number.
    """
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    try:
        ratios = {row["file"]: float(row["ratio"]) for row in rows}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: columns file and ratio, a number, are due: {error}") from error
    if not ratios or not all(0 < ratio < math.inf for ratio in ratios.values()):
        raise ValueError(f"{path}: ratios should be positive numbers")
    middle = float(np.median(list(ratios.values())))
    return {name: min(max(ratio / middle, LEAST), MOST) ** 2 for name, ratio in ratios.items()}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args(arguments)
    if not args.out.absolute().parent.is_dir():
        raise ValueError(f"no folder for {args.out}")
    names = names_of(args.data)
    with ProcessPoolExecutor(args.workers) as pool:
        ratios = list(tqdm(pool.map(partial(ratio_of, args.data), names), total=len(names), mininterval=10))
    with args.out.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["file", "ratio"])
        writer.writerows((name, f"{ratio:.4f}") for name, ratio in zip(names, ratios, strict=True))
    print(f"median {np.median(ratios):.3f}, a tenth above {np.quantile(ratios, 0.9):.3f}")


if __name__ == "__main__":
    with one_line("hardness"):
        main()
