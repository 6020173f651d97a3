"""Real bytes against the model's likelihood: ``python tests/benchmarks/rate.py [FOLDER]``; the Kodak pictures by default.

At qualities 5, 50 and 95: bytes of the whole file, and of a perfect entropy coder under the model's tables.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

import pillow_semicodec as sgc
from pillow_semicodec import slices
from pillow_semicodec.bench.curves import photographs

folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("../shared/data/kodak")
bundle, worst = sgc.find_model(), -np.inf
for path in photographs(folder):
    picture = np.asarray(Image.open(path).convert("RGB"))
    cells = []
    for quality in (5, 50, 95):
        rate = bundle.rate_bank.rate_of_quality(quality)
        layout, plan = slices.Layout(*picture.shape[:2]), slices.RatePlan(rate)
        streams = slices.Encoder(slices.analyse(picture, bundle, layout), plan, bundle, layout).streams()
        ideal = slices.ideal_bits(slices.Decoder(streams, plan, bundle, layout).latents(), rate, bundle) / 8
        size = len(sgc.encode(picture, quality))
        worst = max(worst, size - 1.005 * ideal)
        cells.append(f"q{quality}: {size:7} bytes, {ideal:9.1f} ideal, {100 * (size / ideal - 1):+.3f} %")
    print(f"{path.stem:10} " + "   ".join(cells))
print(f"largest excess over the likelihood + 0.5 %: {worst:.1f} bytes (64 are allowed)")
sys.exit(worst > 64)
