"""Grey pictures that are given in colour come back grey."""

from __future__ import annotations

import io

import numpy as np
import pytest
import reference_decoder
from conftest import TINY, photo
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from strategies import planes
from test_effort import psnr
from test_overlay import laid_over, screen

import pillow_semicodec as sgc
from pillow_semicodec import container, pixels
from pillow_semicodec.container import with_chunks


def thrice(plane: np.ndarray) -> np.ndarray:
    return np.stack([plane] * 3, 2)


def is_neutral(data: bytes) -> bool:
    return container.NEUTRAL in sgc.read_prologue(data).metadata


@settings(max_examples=20)
@given(planes(80), st.integers(1, 100), st.sampled_from([0, 64]), st.sampled_from([1, 2, 16]), st.booleans())
def test_as_the_same_picture_in_one_band(plane: np.ndarray, quality: int, side: int, scale: int, alpha: bool) -> None:
    """Whole, in boxes and smaller, in slices, with alpha, the three bands are those of the grey picture."""
    asked: dict = {"quality": quality, "slice_side": side, "indexed": False, "threads": 1}
    seen = np.roll(plane, 7) // 2
    picture, grey = (np.dstack([x, seen]) if alpha else x for x in (thrice(plane), plane))
    files = sgc.encode(picture, **asked), sgc.encode(grey, **asked)
    box = (plane.shape[1] // 2, 0, plane.shape[1], plane.shape[0] // 2 + 1)
    for area in (None, box):
        decoded, expected = (sgc.decode(data, threads=1, scale=scale, box=area) for data in files)
        assert np.array_equal(decoded, expected[:, :, [0, 0, 0, 1]] if alpha else thrice(expected))


@settings(max_examples=8)
@given(planes(60), st.integers(1, 100), st.booleans())
def test_the_second_decoder_agrees(plane: np.ndarray, quality: int, drawn: bool) -> None:
    """With letters on top, too, which may have colours."""
    if drawn:
        picture = screen(150, 230)
        picture[40:125, 90:200] = thrice(photo(85, 110)[:, :, 0])
        data = sgc.encode(thrice(photo(150, 230)[:, :, 0]), quality, indexed=False, threads=1)
        payload = sgc.read_prologue(laid_over(picture, 90)).metadata[container.OVERLAY]
        data = with_chunks(data, {container.NEUTRAL: b"", container.OVERLAY: payload})
    else:
        data = sgc.encode(thrice(plane), quality, indexed=False, threads=1)
    pixels, *_ = reference_decoder.decode(data, reference_decoder.Model(TINY))
    assert is_neutral(data)
    assert np.abs(pixels.astype(int) - sgc.decode(data, threads=1)).max() <= 1


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
    deep = plane.astype(np.uint16) * 257
    data = sgc.encode(thrice(deep), 60, threads=1)
    assert is_neutral(data)
    assert np.array_equal(sgc.decode(data, threads=1), thrice(sgc.decode(sgc.encode(deep, 60, threads=1), threads=1)))


@pytest.mark.model
def test_letters_in_colour_over_a_grey_photograph() -> None:
    """The letters keep their colours, and the photograph has none."""
    picture = thrice(photo(192, 256)[:, :, 1])
    picture[:64] = (250, 240, 215)
    picture[20:40:4, 10:200:3] = (200, 30, 30)
    data = sgc.encode(picture, 95)
    assert is_neutral(data)
    assert container.OVERLAY in sgc.read_prologue(data).metadata
    decoded = sgc.decode(data)
    assert np.array_equal(decoded[:64], picture[:64])
    assert (decoded[64:] == decoded[64:, :, :1]).all()


def test_frames_each_for_itself() -> None:
    """A coloured frame between grey ones keeps its colours."""
    frames = [photo(64, 64, seed) for seed in range(3)]
    frames[0], frames[2] = (thrice(frame[:, :, 0]) for frame in (frames[0], frames[2]))
    decoded = list(sgc.decode_frames(sgc.encode_animation(frames, 60, durations=10, indexed=False)))
    assert [bool(pixels.coloured(frame).any()) for frame in decoded] == [False, True, False]


def test_little_is_read_of_a_picture_in_colour() -> None:
    class Boxes:
        shape, read = (9000, 4000, 3), 0

        def __getitem__(self, at: tuple[slice, slice]) -> np.ndarray:
            height, width = (part.stop - part.start for part in at)
            Boxes.read += height * width
            return np.broadcast_to(np.array([1, 2, 3], np.uint8), (height, width, 3))

    assert not pixels.is_neutral(Boxes())
    assert Boxes.read <= 2**14


def test_targets_know() -> None:
    """A PSNR is that of what comes back, without the tint that is left out."""
    picture = thrice(photo()[:, :, 1])
    wanted = psnr(picture, sgc.encode(picture, 50, indexed=False))
    assert wanted <= psnr(picture, sgc.encode(picture, target_psnr=wanted, indexed=False)) < wanted + 0.3


def test_pillow_gives_the_mode_back() -> None:
    file = io.BytesIO()
    Image.fromarray(thrice(photo()[:, :, 1])).save(file, "SGC", indexed=False)
    with Image.open(file) as image:
        assert image.mode == "RGB"
        crop = image.crop((10, 10, 50, 40))
        image.draft("RGB", (40, 24))
        for shown in (crop, image):
            assert not pixels.coloured(np.asarray(shown)).any()


@pytest.mark.parametrize(
    ("picture", "payload", "options"),
    [
        (photo()[:, :, 0], b"", {"indexed": False}),
        (photo(), b"x", {"indexed": False}),
        (screen(), b"", {"indexed": True}),
        (photo()[:, :, 0] > 100, b"", {}),
        (photo()[:, :, 0].astype(np.uint16), b"", {}),
    ],
)
def test_where_the_chunk_must_not_be(picture: np.ndarray, payload: bytes, options: dict) -> None:
    with pytest.raises(sgc.FormatError, match="neutral"):
        sgc.decode(with_chunks(sgc.encode(picture, **options), {container.NEUTRAL: payload}))
