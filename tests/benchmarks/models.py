"""Times of models beside one another at equal bytes: ``python tests/benchmarks/models.py FOLDER MODEL MODEL …``.

Models by name or id, as ``SGC_MODEL_PATH`` has them; the first one at quality 50, the others at the quality that takes as
many bytes. Every third picture, models in turns, nine rounds.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

import pillow_semicodec as sgc
from pillow_semicodec.bench.curves import photographs, read_rgb

ROUNDS, HALVINGS = 9, 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("models", nargs="+")
    args = parser.parse_args()
    pictures = [np.asarray(read_rgb(path)) for path in photographs(args.folder)[::3]]

    def size(model: str, quality: float) -> int:
        return sum(len(sgc.encode(picture, quality, model=model, indexed=False)) for picture in pictures)

    qualities, goal = {args.models[0]: 50.0}, size(args.models[0], 50)
    for model in args.models[1:]:
        low, high = 20.0, 80.0
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if size(model, middle) < goal else (low, middle)
        qualities[model] = low
    times = np.zeros((len(args.models), 2, ROUNDS, len(pictures)))
    for turn in range(ROUNDS):
        for n, picture in enumerate(pictures):
            for k in np.roll(np.arange(len(args.models)), turn):
                model, start = args.models[k], time.perf_counter()
                data = sgc.encode(picture, qualities[model], model=model, indexed=False)
                between = time.perf_counter()
                sgc.decode(data)
                times[k, :, turn, n] = between - start, time.perf_counter() - between
    for model, both in zip(args.models, times, strict=True):
        encoding, decoding = 1e3 * np.median(both, (1, 2))
        beside = np.median(both / times[0], (1, 2))
        print(f"{model}, quality {qualities[model]:.1f}: encode {encoding:.1f} ms, decode {decoding:.1f} ms; ", end="")
        print(f"{beside[0]:.3f} and {beside[1]:.3f} times those of {args.models[0]}", flush=True)


if __name__ == "__main__":
    main()
