"""What reading semantics costs beside decoding, and what regions of interest bring.

``python tests/benchmarks/semantics.py [FOLDER] [--labels SEG.CSV] [--quality Q]``: times are medians over repeats, summed
over the pictures of FOLDER (default: Kodak). With labels of segments, ``roi="auto"`` is measured on their test pictures:
PSNR inside the region, with and without it, at the same bytes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import pillow_semicodec as sgc
from pillow_semicodec import codec, regions
from pillow_semicodec.bench.costs import median_ms
from pillow_semicodec.bench.curves import photographs
from pillow_semicodec.metrics import psnr

COLD = """
import sys, time, pillow_semicodec as sgc
start = time.perf_counter()
sgc.analyze(sys.argv[1])
print(1000 * (time.perf_counter() - start), "onnxruntime" in sys.modules)"""


def times(paths: list[Path], quality: float) -> None:
    pictures = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    plain = [sgc.encode(picture, quality) for picture in pictures]
    told = [sgc.encode(picture, quality, semantics=True) for picture in pictures]
    decode, analyze, stored = (
        sum(median_ms(lambda data=data, run=run: run(data)) for data in files) / len(files)
        for run, files in ((sgc.decode, plain), (sgc.analyze, plain), (sgc.analyze, told))
    )
    extra = np.mean([len(b) - len(a) for a, b in zip(plain, told, strict=True)])
    print(f"decode {decode:.1f} ms; analyze {analyze:.1f} ms = {100 * analyze / decode:.0f} % of it")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "x.sgc").write_bytes(told[0])
        cold = subprocess.run([sys.executable, "-c", COLD, f"{folder}/x.sgc"], capture_output=True, text=True, check=True)
    milliseconds, imported = cold.stdout.split()
    print(f"stored: {stored:.2f} ms; in a fresh process {float(milliseconds):.1f} ms, onnxruntime imported: {imported}")
    print(f"the chunk takes {extra:.0f} bytes")


def region_gain(paths: list[Path], quality: float) -> None:
    gains, sizes, areas, outside = [], [], [], []
    for path in paths:
        picture = np.asarray(Image.open(path).convert("RGB"))
        plain, moved = sgc.encode(picture, quality), sgc.encode(picture, quality, roi="auto")
        model = sgc.find_model()
        cells = regions.auto_cells(sgc.analyze(plain), sgc.find_heads(model.model_id))
        if cells is None or not cells.any() or cells.all():
            continue
        inside = cells.repeat(16, 0).repeat(16, 1)[: picture.shape[0], : picture.shape[1]]
        before, after = codec.decode(plain), codec.decode(moved)
        gains.append(psnr(picture[inside], after[inside]) - psnr(picture[inside], before[inside]))
        outside.append(psnr(picture[~inside], after[~inside]) - psnr(picture[~inside], before[~inside]))
        sizes.append(len(moved) / len(plain) - 1)
        areas.append(inside.mean())
    print(
        f"roi='auto' at quality {quality:g} on {len(gains)} of {len(paths)} pictures: inside {np.mean(gains):+.2f} dB "
        f"(least {min(gains):+.2f}), outside {np.mean(outside):+.2f} dB, bytes {100 * np.mean(sizes):+.2f} %, "
        f"area {100 * np.mean(areas):.0f} %"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("../shared/data/kodak"))
    parser.add_argument("--labels", type=Path, help="CSV with columns image, mask, split")
    parser.add_argument("--quality", type=float, default=50)
    args = parser.parse_args()
    times(photographs(args.folder), args.quality)
    if args.labels:
        rows = [line.split(",") for line in args.labels.read_text().splitlines()[1:]]
        tests = [args.labels.parent / row[0] for row in rows if row[2] == "test"]
        for quality in (30, args.quality, 75):
            region_gain(tests, quality)


if __name__ == "__main__":
    main()
