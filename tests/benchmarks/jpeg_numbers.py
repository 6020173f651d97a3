"""Files at JPEG's numbers: ``python tests/benchmarks/jpeg_numbers.py FOLDER``.

At every number, SSIMULACRA2 of SGC and of JPEG as Pillow saves it by default, SGC's bytes as a share of JPEG's, and how many
pictures look at least as good.
"""

from __future__ import annotations

import argparse
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

import pillow_semicodec as sgc
from pillow_semicodec.bench.curves import coded, photographs, read_rgb

NUMBERS = (10, 30, 50, 70, 75, 90)


def both(path: Path, number: int) -> list[float]:
    sgc.options.THREADS = 1
    picture = read_rgb(path)
    return [*coded(picture, "SGC", quality=number), *coded(picture, "JPEG", quality=number)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    paths = photographs(args.folder)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for number in NUMBERS:
            sizes, scores, jpeg_sizes, jpeg_scores = np.array(list(pool.map(partial(both, number=number), paths))).T
            share, good = 100 * sizes.sum() / jpeg_sizes.sum(), int((scores >= jpeg_scores).sum())
            means = f"SSIMULACRA2 {scores.mean():.1f}, JPEG {jpeg_scores.mean():.1f}"
            print(f"{number}: {means}, {share:.1f} % of the bytes, {good} of {len(paths)} at least as good", flush=True)


if __name__ == "__main__":
    main()
