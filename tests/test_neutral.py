"""Grey pictures that are given in colour come back grey."""

from __future__ import annotations

import io

import numpy as np
import pytest
from conftest import photo
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from strategies import planes

import pillow_semicodec as sgc
from pillow_semicodec import container, pixels
from pillow_semicodec.rate_control import SquaredError


def thrice(plane: np.ndarray) -> np.ndarray:
    return np.stack([plane] * 3, 2)


def is_neutral(data: bytes) -> bool:
    return container.NEUTRAL in sgc.read_prologue(data).metadata


@settings(max_examples=15)
@given(planes(80), st.integers(1, 100), st.sampled_from([0, 64]), st.sampled_from([None, 2, 16]))
def test_as_the_same_picture_in_one_band(plane: np.ndarray, quality: int, side: int, scale: int | None) -> None:
    """Whole, in boxes and smaller, in slices or not, the three bands are those of the grey picture."""
    asked: dict = {"quality": quality, "slice_side": side, "indexed": False, "threads": 1}
    data, grey = sgc.encode(thrice(plane), **asked), sgc.encode(plane, **asked)
    box = (plane.shape[1] // 2, 0, plane.shape[1], plane.shape[0] // 2 + 1)
    for read in ({"scale": scale or 1}, {"box": box, "scale": scale or 1}):
        assert np.array_equal(sgc.decode(data, threads=1, **read), thrice(sgc.decode(grey, threads=1, **read)))


@given(planes(60), st.booleans(), st.booleans(), st.data())
def test_one_pixel_of_colour(plane: np.ndarray, alpha: bool, exact: bool, data: st.DataObject) -> None:
    """Is enough to be a picture in colour, unless it cannot be seen."""
    picture = np.dstack([thrice(plane), np.full_like(plane, 255)]) if alpha else thrice(plane)
    assert pixels.is_neutral(picture, exact)
    at = data.draw(st.integers(0, plane.shape[0] - 1)), data.draw(st.integers(0, plane.shape[1] - 1))
    picture[(*at, data.draw(st.integers(0, 2)))] ^= data.draw(st.integers(1, 255))
    assert not pixels.is_neutral(picture, exact)
    if alpha:
        picture[(*at, 3)] = 0
        assert pixels.is_neutral(picture, exact) is not exact


def test_colour_is_kept() -> None:
    assert not is_neutral(sgc.encode(photo(), indexed=False))
    for grey in (photo()[:, :, 0], photo()[:, :, :2]):
        assert not is_neutral(sgc.encode(grey, indexed=False))


@given(planes(40))
def test_sixteen_bits(plane: np.ndarray) -> None:
    deep = thrice(plane.astype(np.uint16) * 257)
    decoded = sgc.decode(sgc.encode(deep, 60, threads=1), threads=1)
    assert decoded.dtype == np.uint16
    assert (decoded == decoded[:, :, :1]).all()


@pytest.mark.model
def test_letters_in_colour_over_a_grey_photograph() -> None:
    """The letters keep their colours, and the photograph has none."""
    picture = thrice(photo(192, 256)[:, :, 1])
    picture[:64] = 240
    picture[20:40:4, 10:200:3] = (200, 30, 30)
    data = sgc.encode(picture, 95)
    assert is_neutral(data)
    assert container.OVERLAY in sgc.read_prologue(data).metadata
    decoded = sgc.decode(data)
    assert np.array_equal(decoded[:64], picture[:64])
    assert (decoded[64:] == decoded[64:, :, :1]).all()


@pytest.mark.parametrize("scale", [1, 2])
def test_transparent(scale: int) -> None:
    picture = np.dstack([thrice(photo()[:, :, 0]), photo()[:, :, 1]])
    decoded = sgc.decode(sgc.encode(picture, 60, indexed=False), scale=scale)
    assert (decoded[:, :, :3] == decoded[:, :, :1]).all()


def test_targets_know() -> None:
    """A PSNR is that of what comes back, without the tint that is left out."""
    picture = thrice(photo()[:, :, 1])

    def psnr(data: bytes) -> float:
        error = SquaredError(picture, grey=False)
        error[0 : picture.shape[0], 0 : picture.shape[1]] = sgc.decode(data)
        return error.psnr

    wanted = psnr(sgc.encode(picture, 50, indexed=False))
    assert wanted <= psnr(sgc.encode(picture, target_psnr=wanted, indexed=False)) < wanted + 0.3


def test_pillow_gives_the_mode_back() -> None:
    file = io.BytesIO()
    Image.fromarray(thrice(photo()[:, :, 1])).save(file, "SGC", indexed=False)
    with Image.open(file) as image:
        assert image.mode == "RGB"
        red, green, blue = (np.asarray(band) for band in image.split())
    assert np.array_equal(red, green)
    assert np.array_equal(red, blue)


@pytest.mark.parametrize(("picture", "payload"), [(photo()[:, :, 0], b""), (photo(), b"x")])
def test_where_the_chunk_must_not_be(picture: np.ndarray, payload: bytes) -> None:
    stream = io.BytesIO(sgc.encode(picture, indexed=False))
    prologue = container.read_prologue(stream.read)
    streams = container.read_slices(stream.read, prologue.index)
    data = container.write_container(prologue.header, prologue.index.rate, streams, {container.NEUTRAL: payload})
    with pytest.raises(sgc.FormatError, match="neutral"):
        sgc.decode(data)
