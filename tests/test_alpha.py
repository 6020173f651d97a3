"""Alpha: kept exactly in every size and slice; what nobody sees costs nothing, and edges do not bleed."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
import reference_decoder
from conftest import TINY, photo
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from strategies import planes

import pillow_semicodec as sgc
from pillow_semicodec import alpha, container
from pillow_semicodec.alpha import REACH, VisibleColours, filled, levels_of
from pillow_semicodec.entropy import lossless
from pillow_semicodec.entropy.coder import StreamDecoder, StreamEncoder
from pillow_semicodec.entropy.lossless import decode_plane, encode_plane

sizes = st.integers(1, 90)


def coded(plane: np.ndarray) -> bytes:
    encoder = StreamEncoder()
    encode_plane(encoder, plane)
    return encoder.finish()


@given(planes())
def test_planes_come_back(plane: np.ndarray) -> None:
    """Bit for bit, and the stream holds nothing else."""
    stream = coded(plane)
    decoder = StreamDecoder(stream)
    assert np.array_equal(decode_plane(decoder, plane.shape), plane)
    decoder.finish()
    assert len(stream) <= plane.size * 1.1 + 64


@given(planes(40), st.data())
def test_damaged_planes(plane: np.ndarray, data: st.DataObject) -> None:
    """Any bytes are a plane or a FormatError."""
    stream = bytearray(coded(plane))
    stream[data.draw(st.integers(0, len(stream) - 1))] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(sgc.FormatError):
        assert decode_plane(StreamDecoder(bytes(stream)), plane.shape).shape == plane.shape


def test_simple_planes_are_small() -> None:
    """What is opaque costs a few bytes; a disc with a soft edge less than PNG takes."""
    assert len(coded(np.full((2000, 1000), 255, np.uint8))) <= 24
    i, j = np.mgrid[:300, :400]
    disc = np.clip(128 - 100 * (np.hypot(i - 150, j - 200) - 120), 0, 255).astype(np.uint8)
    png = io.BytesIO()
    Image.fromarray(disc).save(png, "PNG", optimize=True)
    assert len(coded(disc)) < 0.7 * png.tell()


@given(sizes, sizes, st.sampled_from([0, 64]), st.booleans(), st.integers(0, 99))
def test_alpha_is_exact(height: int, width: int, side: int, grey: bool, seed: int) -> None:
    """In pictures of any size, in slices or not; a box is part of the whole; grey stays grey."""
    alpha = np.random.default_rng(seed).choice([0, 0, 7, 255, 255], (height, width)).astype(np.uint8)
    colours = photo(height, width)[:, :, :1] if grey else photo(height, width)
    picture = np.concatenate([colours, alpha[:, :, None]], 2)
    file = sgc.encode(picture, 50, slice_side=side)
    decoded = sgc.decode(file)
    assert decoded.shape == picture.shape
    assert np.array_equal(decoded[:, :, -1], alpha)
    assert sgc.read_prologue(file).header.mode == ("LA" if grey else "RGBA")
    box = (width // 3, height // 3, width // 3 + width // 2 + 1, height // 3 + height // 2 + 1)
    box = (*box[:2], min(box[2], width), min(box[3], height))
    part = decoded[box[1] : box[3], box[0] : box[2]].astype(int)
    assert np.abs(sgc.decode(file, box=box) - part).max() <= 1


def test_unseen_colours_cost_nothing() -> None:
    """Noise under alpha 0 takes no bits, unless it is asked for, and what is seen is the same."""
    picture = np.concatenate([photo(256, 256), np.full((256, 256, 1), 255, np.uint8)], 2)
    picture[:, 100:, 3] = 0
    noisy = picture.copy()
    noisy[:, 100:, :3] = np.random.default_rng(0).integers(0, 256, (256, 156, 3))
    plain, same, exact = (len(sgc.encode(p, 80, exact=e)) for p, e in ((picture, False), (noisy, False), (noisy, True)))
    assert plain == same
    assert exact > 1.5 * same
    assert np.abs(sgc.decode(sgc.encode(noisy, 95))[:, :96, :3] - picture[:, :96, :3].astype(int)).mean() < 12


def test_filled_colours_go_on_from_the_edge() -> None:
    """Near the edge they are the edge's, and what is visible stays."""
    colours = np.zeros((100, 200, 3), np.uint8)
    colours[:, :80] = (200, 40, 90)
    alpha = np.zeros((100, 200), np.uint8)
    alpha[:, :80] = 255
    result = filled(colours, alpha, np.full(3, 7.0))
    assert np.array_equal(result[:, :80], colours[:, :80])
    assert np.abs(result[:, 80:84] - np.array([200, 40, 90])).max() < 20
    assert (filled(colours, np.zeros_like(alpha), np.full(3, 7.0)) == 7).all()
    assert (VisibleColours(np.dstack([colours, alpha]))[0:100, 0:200] == (200, 40, 90)).all()  # far ones, too


@given(st.integers(0, 300), st.integers(0, 300), st.integers(1, 99), st.integers(1, 99), st.integers(0, 9))
def test_a_box_is_filled_as_in_the_whole(top: int, left: int, rows: int, columns: int, seed: int) -> None:
    """However the picture is cut: that is what lets slices leave no trace."""
    random = np.random.default_rng(seed)
    picture = random.integers(0, 256, (401, 400, 4), dtype=np.uint8)
    picture[..., 3] *= random.random((401, 400)) < 0.0005
    whole = VisibleColours(picture)[0:401, 0:400]
    at = (slice(top, top + rows), slice(left, left + columns))
    assert np.array_equal(VisibleColours(picture)[at], whole[at])
    assert REACH >= 128


@pytest.mark.parametrize("quality", [0, 30, 70, 95, 100])
def test_alpha_quality(quality: int) -> None:
    """Fewer levels, fewer bytes; opaque and transparent stay what they are; 100 is exact."""
    i, j = np.mgrid[:120, :120]
    alpha = np.clip(i * 3 - j, 0, 255).astype(np.uint8)
    picture = np.concatenate([photo(120, 120), alpha[:, :, None]], 2)
    file = sgc.encode(picture, 30, alpha_quality=quality)
    decoded = sgc.decode(file)[:, :, 3]
    assert np.abs(decoded - alpha.astype(int)).max() <= (0 if quality == 100 else 128 / (levels_of(quality) - 1) + 0.5)
    assert {0, 255} <= set(np.unique(decoded))
    assert len(file) <= len(sgc.encode(picture, 30))
    noise = np.random.default_rng(0).integers(0, 256, (120, 120, 4), dtype=np.uint8)
    kept = sgc.decode(sgc.encode(noise, 30, alpha_quality=quality))[:, :, 3]
    assert len(np.unique(kept)) in (levels_of(quality), 256 if quality > 90 else 0)


@pytest.mark.parametrize("value", [0, 7, 255])
@pytest.mark.parametrize("indexed", [True, False])
def test_alpha_of_one_value(value: int, indexed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of screens that are saved with it: two bytes, and no pixel is looked at when it is read."""
    picture = np.dstack([photo(100, 130) // 64 * 64, np.full((100, 130), value, np.uint8)])
    files = [sgc.encode(p, 60, slice_side=64, indexed=indexed, threads=1) for p in (picture, picture[:, :, :3])]
    slices = 6
    assert len(files[0]) - len(files[1]) <= slices * 12
    assert np.array_equal(reference_decoder.decode_alpha(bytes([2, value]), (3, 5)), np.full((3, 5), value))
    monkeypatch.setattr(alpha, "decode_plane", None)
    assert (sgc.decode(files[0])[:, :, 3] == value).all()
    for broken in (b"\2", b"\2\0\0"):
        with pytest.raises(sgc.FormatError, match="unknown kind"):
            alpha.decode_alpha(broken, (3, 5))


@pytest.mark.parametrize(("value", "error"), [(-1, ValueError), (101, ValueError), (True, TypeError), (2.5, TypeError)])
def test_alpha_quality_is_checked(value: object, error: type[Exception]) -> None:
    """The message names the range."""
    with pytest.raises(error, match="from 0 to 100"):
        sgc.encode(photo(8, 8), alpha_quality=value)


@given(planes(60))
def test_black_and_white_planes(plane: np.ndarray) -> None:
    """Bit for bit; what has no structure takes hardly more than a bit a pixel."""
    bilevel = np.where(plane > 127, 255, 0).astype(np.uint8)
    encoder = StreamEncoder()
    encode_plane(encoder, bilevel, bilevel=True)
    stream = encoder.finish()
    decoder = StreamDecoder(stream)
    assert np.array_equal(decode_plane(decoder, plane.shape, bilevel=True), bilevel)
    decoder.finish()
    assert len(stream) <= plane.size / 8 * 1.3 + 64


@given(planes(60), st.booleans())
def test_cut_outs(plane: np.ndarray, exact: bool) -> None:
    """Alpha of 0 and 255 alone: two choices a pixel; the second decoder agrees."""
    plane = np.where(plane > 127, 255, 0).astype(np.uint8) if exact else plane
    stream = alpha._coded(plane)
    assert np.array_equal(alpha.decode_alpha(stream, plane.shape), plane)
    assert np.array_equal(reference_decoder.decode_alpha(stream, plane.shape), plane)
    assert not exact or stream[0] != alpha.BY_CONTEXT


def test_masks_are_small() -> None:
    """What is ragged takes a bit a pixel; letters repeat."""
    noise = np.random.default_rng(0).integers(0, 2, (200, 200), np.uint8) * np.uint8(255)
    assert len(alpha._coded(noise)) < 1.1 * noise.size / 8
    assert len(alpha._coded(np.tile(noise[:20, :20], (20, 20)))) < 500


@given(planes(40), st.data())
def test_damaged_cut_outs(plane: np.ndarray, data: st.DataObject) -> None:
    """Any bytes are a plane or a FormatError."""
    stream = bytearray(alpha._coded(np.where(plane > 127, 255, 0).astype(np.uint8)))
    stream[data.draw(st.integers(0, len(stream) - 1))] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(sgc.FormatError):
        assert alpha.decode_alpha(bytes(stream), plane.shape).shape == plane.shape


def test_exact_says_nothing_where_all_is_seen() -> None:
    """So that nothing is lost by it. Fewer levels may hide what is hardly seen."""
    picture = np.dstack([photo(70, 90), np.full((70, 90), 200, np.uint8)])
    picture[:30, :, 3] = 2
    plain, exact, rounded = (
        sgc.encode(picture, exact=exact, alpha_quality=levels) for exact, levels in ((False, 100), (True, 100), (True, 0))
    )
    assert plain == exact
    assert container.UNSEEN_KEPT in sgc.read_prologue(rounded).metadata


@given(st.integers(1, 90), st.integers(1, 90), st.integers(5, 40), st.integers(0, 9))
def test_a_picture_is_looked_over_in_squares(height: int, width: int, side: int, seed: int) -> None:
    """However they lie."""
    picture = np.random.default_rng(seed).integers(0, 256, (height, width, 4), np.uint8)
    picture[..., 3] *= picture[..., 3] > 9
    with pytest.MonkeyPatch.context() as patch:
        whole, cut = VisibleColours(picture), VisibleColours(picture)
        assert whole.hidden == (picture[..., 3] == 0).any()
        assert (whole.far == alpha.UNSEEN).all() == (not picture[..., 3].any())
        patch.setattr(alpha, "LOOKED_OVER", side)
        assert cut.hidden == whole.hidden
        assert np.array_equal(cut.far, whole.far)


def test_without_lzma(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alpha needs it no more than a choice does."""
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 4), np.uint8)
    monkeypatch.setattr(alpha, "is_available", lambda: False)
    monkeypatch.setattr(alpha, "pack", None)
    assert np.array_equal(sgc.decode(sgc.encode(picture))[:, :, 3], picture[:, :, 3])


def test_counts_are_halved_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """After every part, even where they are too many still, and where it has none of them; the second decoder agrees."""
    monkeypatch.setattr(lossless, "LARGEST_COUNT", 1500)
    monkeypatch.setattr(reference_decoder, "LARGEST_COUNT", 1500)
    plane = photo(90, 100)[:, :, 0].copy()
    plane[20:] = 255 * (plane[20:] > 200)
    picture = plane > 100
    assert np.array_equal(reference_decoder.decode_black_and_white(sgc.encode(picture)), picture)
    data = sgc.encode(np.dstack([plane, plane]), 20, indexed=False)
    pixels, *_ = reference_decoder.decode(data, reference_decoder.Model(TINY))
    assert np.array_equal(pixels[:, :, -1], plane)
    assert np.array_equal(sgc.decode(data)[:, :, -1], plane)
