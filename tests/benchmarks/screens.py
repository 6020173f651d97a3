"""Screens, text and drawings beside WebP: ``python tests/benchmarks/screens.py FOLDER``.

For every picture and quality, the bytes of SGC, its SSIMULACRA2, that of WebP at equal bytes, and the bytes of WebP at equal
SSIMULACRA2 under those of SGC (below 1: SGC needs fewer). WebP is interpolated between its qualities, in logarithms of
bytes; beyond their ends, it is the end; or it is lossless WebP, where that takes fewer. Both codecs get the picture as RGB.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

import pillow_semicodec  # noqa: F401
from pillow_semicodec.bench.curves import coded

QUALITIES = (10, 25, 50, 75, 90)
WEBP_QUALITIES = (0, 1, 5, 10, 20, 35, 50, 65, 75, 85, 92, 97, 100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    worse = 0
    for path in sorted(p for p in args.folder.iterdir() if p.is_file()):
        with Image.open(path) as opened:
            image = opened.convert("RGB")  # of a terminal's rounded corners what is under them, too
        image.info = {}  # profiles, which WebP would not write
        webp = [coded(image, "WEBP", quality=q) for q in WEBP_QUALITIES]
        sizes = np.log([size for size, _ in webp])
        scores = np.maximum.accumulate([score for _, score in webp])
        exact, _ = coded(image, "WEBP", lossless=True)
        print(f"{path.name[:40]:40} {image.width}x{image.height}")
        for quality in QUALITIES:
            size, score = coded(image, "SGC", quality=quality)
            of_webp = 100.0 if size >= exact else float(np.interp(np.log(size), sizes, scores))
            lossy = float(np.exp(np.interp(score, scores, sizes)))
            ratio = size / min(lossy, exact)
            beyond = size < min(exact, np.exp(sizes[0]))  # smaller than any WebP: nothing to be compared with
            worse += score < of_webp and not beyond
            told = f"{ratio:5.2f} of WebP's bytes" + (", lossless" if exact < lossy else "")
            told += "; no WebP is as small" if beyond else ""
            print(f"  {quality:3} {size:8} {score:7.2f}, WebP {of_webp:7.2f}   {told}", flush=True)
    print(f"worse than WebP at equal bytes: {worse}")


if __name__ == "__main__":
    main()
