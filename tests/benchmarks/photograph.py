"""1600x1600 pixels of photographs at quality 75: ``python tests/benchmarks/photograph.py FOLDER``.

Pictures of FOLDER (Kodak's) are smaller, so that parts of several are put side by side, in full resolution: busier, and
with more edges, than one large photograph. Prints bytes and SSIMULACRA2, what JPEG, WebP and AVIF, with the settings of
``sgc bench``, take at the same score, and the score that 250 kB reach.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

import pillow_semicodec  # noqa: F401
from pillow_semicodec.bench.codecs import present
from pillow_semicodec.bench.curves import coded, photographs

SIDE, QUALITY, TARGET = 1600, 75, 250_000
OTHERS = {"JPEG": range(40, 96, 9), "WEBP": range(40, 96, 9), "AVIF": range(40, 90, 7)}


def mosaic(paths: list[Path]) -> Image.Image:
    """Rows of pictures, scaled by nothing, until the square is full."""
    square, left, top, row = Image.new("RGB", (SIDE, SIDE)), 0, 0, 0
    for path in paths:
        if left >= SIDE:
            left, top, row = 0, top + row, 0
        with Image.open(path) as image:
            part = image.convert("RGB")
        part = part.rotate(90, expand=True) if part.height > part.width else part
        square.paste(part, (left, top))
        left, row = left + part.width, max(row, part.height)
    if top + row < SIDE or left < SIDE:
        raise ValueError("too few pictures for a square")
    return square


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    paths = photographs(args.folder)
    settings = {codec.kind: codec.settings for codec in present()}
    for first in range(0, len(paths), 12):
        image = mosaic((paths[first:] + paths[:first])[:12])
        size, score = coded(image, "SGC", quality=QUALITY)
        beside = []
        for name, qualities in OTHERS.items():
            sizes, scores = zip(*(coded(image, name, quality=q, **settings[name]) for q in qualities), strict=True)
            beside.append(f"{name} {np.exp(np.interp(score, scores, np.log(sizes))) / 1e3:.0f} kB")
        print(f"{paths[first].name} and on: {size / 1e3:.0f} kB, SSIMULACRA2 {score:.1f}; at that {', '.join(beside)}")
        size, score = coded(image, "SGC", target_size=TARGET)
        print(f"    in {size / 1e3:.0f} kB: {score:.1f}")


if __name__ == "__main__":
    main()
