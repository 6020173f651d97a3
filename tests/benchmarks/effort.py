"""What ``effort`` saves: ``python tests/benchmarks/effort.py FOLDER``.

Every third picture at five qualities with efforts 1, 5 and 9, one thread each: BD-rates against effort 1, seconds a picture.
"""

from __future__ import annotations

import argparse
import io
import os
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

import pillow_semicodec as sgc
from pillow_semicodec.bench.curves import METRICS, Row, bd_rate, compared, mean_curve, photographs, read_rgb

QUALITIES, EFFORTS = (15, 35, 55, 75, 90), (1, 5, 9)


def measured(path: Path, quality: int, effort: int) -> tuple[Row, float]:
    sgc.options.THREADS = 1
    picture, file = read_rgb(path), io.BytesIO()
    picture.crop((0, 0, 64, 64)).save(io.BytesIO(), "SGC", effort=effort, indexed=False)  # the model is there
    start = time.perf_counter()
    picture.save(file, "SGC", quality=quality, effort=effort, indexed=False)
    seconds = time.perf_counter() - start
    return compared(picture, file.getvalue()), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    paths = photographs(args.folder)[::3]
    curves = {}
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for effort in EFFORTS:
            jobs = [(path, quality, effort) for path in paths for quality in QUALITIES]
            found = list(pool.map(measured, *zip(*jobs, strict=True)))
            figures: dict[str, dict[int, Row]] = {}
            for (path, quality, _), (row, _) in zip(jobs, found, strict=True):
                figures.setdefault(path.name, {})[quality] = row
            curves[effort] = mean_curve(figures)
            rates = {m: bd_rate(curves[1], curves[effort], m) for m in METRICS}
            told = ", ".join(f"{metric} {rate:+.2f} %" for metric, rate in rates.items())
            print(f"effort {effort}: {told} of the bytes; {np.mean([s for _, s in found]):.2f} s a picture", flush=True)


if __name__ == "__main__":
    main()
