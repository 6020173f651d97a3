"""Write files with their latents, or check files written elsewhere: see versions.sh.

``versions.py write|check FOLDER REPOSITORY``: pictures are the Kodak set beside the repository, or synthetic ones.
"""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path

import constriction  # noqa: F401
import numpy as np
import onnxruntime
import PIL
from PIL import Image

from pillow_semicodec import bundle, codec, container, inference, slices

SETTINGS = ((1, True), (2, True), (1, False), (2, False))  # threads, graph optimisation


def pictures(repository: Path) -> dict[str, np.ndarray]:
    paths = sorted((repository.parent / "shared" / "data" / "kodak").glob("*.png"))[::4]
    found = {path.stem: np.asarray(Image.open(path).convert("RGB")) for path in paths}
    i, j = np.mgrid[:150, :210]
    found["synthetic"] = np.stack([128 + 90 * np.sin(i / (7 + k) + j / 13) for k in range(3)], 2).astype(np.uint8)
    return found


def write(folder: Path, repository: Path) -> None:
    folder.mkdir()
    for name, picture in pictures(repository).items():
        for quality in (5, 50, 95):
            (folder / f"{name}-{quality}.sgc").write_bytes(codec.encode(picture, quality))


def check(folder: Path) -> None:
    levels, decodes = 0, 0
    for path in sorted(folder.glob("*.sgc")):
        data = BytesIO(path.read_bytes())
        prologue = container.read_prologue(data.read)
        streams = container.read_slices(data.read, prologue.index)
        header, model = prologue.header, bundle.find_model(prologue.header.model_id)
        known = path.with_suffix(".npz")
        for threads, optimised in SETTINGS:
            inference.GRAPH_OPTIMISATION = optimised
            layout = slices.Layout(header.height, header.width, prologue.index.side)
            arguments = (streams, slices.RatePlan(prologue.index.rate), model, layout, threads)
            pixels, latents = slices.Decoder(*arguments).picture(), slices.Decoder(*arguments).latents()
            if not known.exists():
                np.savez(known, pixels=pixels, **latents._asdict())
            expected = np.load(known)
            for name, value in latents._asdict().items():
                assert np.array_equal(value, expected[name]), (
                    f"{path.name}: {name} differs at {threads} threads, {optimised}"
                )
            levels = max(levels, int(np.abs(pixels.astype(int) - expected["pixels"]).max()))
            decodes += 1
    versions = f"onnxruntime {onnxruntime.__version__}, numpy {np.__version__}, pillow {PIL.__version__}"
    print(f"{folder.name} under {versions}: {decodes} decodes, identical latents, pixels within {levels} level(s)")


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(Path(sys.argv[2]), Path(sys.argv[3]))
    check(Path(sys.argv[2]))
