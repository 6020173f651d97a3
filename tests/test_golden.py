"""Golden files: good ones decode for ever, bad ones raise the error that their name states."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import latents_of
from PIL import Image

import pillow_semicodec as sgc

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("path", sorted((GOLDEN / "v0").glob("*.sgc")), ids=lambda p: p.stem)
def test_good_files(path: Path) -> None:
    """z, residuals and indexes exactly; pixels within one level of 256."""
    expected = np.load(path.with_suffix(".npz"))
    latents = sgc.read_prologue(path.read_bytes()).header.latents
    for name, value in (latents_of(path.read_bytes())._asdict() if latents else {}).items():
        assert np.array_equal(value, expected[name]), name
    pixels = sgc.decode(path.read_bytes())
    numbers = sgc.read_prologue(path.read_bytes()).numbers
    level = (numbers.high - numbers.low) / 255 if numbers else 1
    assert pixels.dtype == expected["pixels"].dtype
    assert np.abs(pixels.astype(float) - expected["pixels"]).max() <= level * latents
    if "frames" in expected:
        assert np.abs(np.stack(list(sgc.decode_frames(path.read_bytes()))).astype(int) - expected["frames"]).max() <= 1


def test_metadata() -> None:
    """Packed or not, byte for byte."""
    said = {
        "metadata": {b"e": b"Exif\0\0some", b"c": b"profile"},
        "metadata-more": {b"x": b"<x/>", b"t": b"said", b"v": b"HSV", b"d": (300_000).to_bytes(4) + (72_000).to_bytes(4)},
        "metadata-packed": {b"x": b"<x/>" * 50, b"t": b"said", b"c": bytes(200)},
    }
    for name, expected in said.items():
        assert sgc.read_prologue(GOLDEN / "v0" / f"{name}.sgc").metadata == expected


@pytest.mark.parametrize("path", sorted((GOLDEN / "bad").glob("*.sgc")), ids=lambda p: p.stem)
def test_bad_files(path: Path) -> None:
    """The codec raises exactly the error in the file's name; Pillow an OSError, UnidentifiedImageError counted in."""
    with pytest.raises(sgc.SemicodecError) as caught:
        sgc.decode(path.read_bytes())
    assert type(caught.value).__name__ == path.stem.split("__")[1]
    assert len(str(caught.value)) > 15
    with pytest.raises(OSError), Image.open(path) as image:
        image.load()
