"""Overlays: what is drawn in a picture that holds photographs too."""

from __future__ import annotations

import io

import numpy as np
import pytest
import reference_decoder
from conftest import TINY, photo
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_effort import psnr
from test_indexed import screen

import pillow_semicodec as sgc
from pillow_semicodec import codec, container, indexed, overlay, pixels
from pillow_semicodec.container import with_chunks


def mixed(bands: int = 3) -> np.ndarray:
    """A photograph among letters, uint8 [150, 230] or with bands; alpha is a ramp that ends in nothing."""
    picture = screen(150, 230)
    picture[40:125, 90:200] = photo(85, 110)
    picture = picture[:, :, 1] if bands < 3 else picture
    alpha = np.repeat(np.clip(np.arange(229, -1, -1) * 2, 0, 255).astype(np.uint8)[None], 150, 0)
    return np.dstack([picture, alpha]) if bands in (2, 4) else picture


def laid_over(picture: np.ndarray, quality: float, side: int = 0) -> bytes:
    """The file with an overlay, whether it is the smallest or not."""
    parts = overlay.take_apart(picture, indexed.share_of(quality))
    assert parts is not None
    height, width = picture.shape[:2]
    rest = parts.rest[slice(0, height), slice(0, width)]
    if picture.ndim == 3 and picture.shape[2] in (2, 4):
        rest = np.dstack([rest, picture[:, :, -1]])
    exact = picture.ndim == 3  # colours under alpha 0 are those of the rest
    file = sgc.encode(rest, quality, slice_side=side, indexed=False, threads=1, exact=exact)
    stream = io.BytesIO(file)
    prologue = container.read_prologue(stream.read)
    streams = container.read_slices(stream.read, prologue.index)
    chunks = {container.OVERLAY: parts.payload}
    return container.write_container(prologue.header, prologue.index.rate, streams, chunks, prologue.index.side)


def has_overlay(data: bytes) -> bool:
    return container.OVERLAY in sgc.read_prologue(data).metadata


@settings(max_examples=12)
@given(st.sampled_from([1, 2, 3, 4]), st.integers(60, 100), st.sampled_from([0, 64]))
def test_the_second_decoder_agrees(bands: int, quality: int, side: int) -> None:
    """Drawn cells are exact from quality 95 on."""
    picture = mixed(bands)
    data = laid_over(picture, quality, side)
    decoded = sgc.decode(data, threads=1)
    pixels, *_ = reference_decoder.decode(data, reference_decoder.Model(TINY))
    assert np.abs(pixels.astype(int) - decoded).max() <= 1
    if quality >= 95:
        prologue = sgc.read_prologue(data)
        cells = overlay.Overlaid(prologue.metadata[container.OVERLAY], prologue.header, 0, 0, None)._cells
        drawn = cells.repeat(16, 0).repeat(16, 1)[:150, :230]
        assert drawn.mean() > 0.2
        drawn &= picture[:, :, -1] > 0 if bands in (2, 4) else True
        assert np.array_equal(decoded[drawn], picture[drawn])
    if bands in (2, 4):
        assert np.array_equal(decoded[:, :, -1], picture[:, :, -1])


@given(st.data())
def test_boxes_and_scales(data: st.DataObject) -> None:
    """Are parts of the whole, or means of it."""
    file = laid_over(mixed(), 80, data.draw(st.sampled_from([0, 64])))
    whole = sgc.decode(file, threads=1)
    left, top = data.draw(st.integers(0, 229)), data.draw(st.integers(0, 149))
    right, bottom = data.draw(st.integers(left + 1, 230)), data.draw(st.integers(top + 1, 150))
    assert np.array_equal(sgc.decode(file, box=(left, top, right, bottom), threads=1), whole[top:bottom, left:right])
    scale = data.draw(st.sampled_from([2, 4, 8, 16]))
    small = sgc.decode(file, scale=scale, threads=1)
    cells = overlay.Overlaid(sgc.read_prologue(file).metadata[container.OVERLAY], sgc.read_prologue(file).header, 0, 0, None)
    drawn = cells._cells.repeat(16 // scale, 0).repeat(16 // scale, 1)[: small.shape[0], : small.shape[1]]
    means = pixels.reduced(whole, scale, False)
    assert drawn.any()
    assert np.abs(small.astype(int) - means)[drawn].max() <= 1
    area = (left // scale, top // scale, -(-right // scale), -(-bottom // scale))
    part = sgc.decode(file, box=(left, top, right, bottom), scale=scale, threads=1)
    assert np.array_equal(part, small[area[1] : area[3], area[0] : area[2]])


def test_no_overlay_that_readers_would_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within their limits."""
    picture = np.tile(screen(150, 230), (2, 1, 1))
    picture[40:125, 90:200] = photo(85, 110)
    assert has_overlay(sgc.encode(picture, 80, threads=1))
    limits = sgc.Limits(max_metadata_bytes=50)
    sgc.decode(sgc.encode(picture, 80, threads=1, limits=limits), limits=limits)


def test_no_analysis_of_what_is_too_large() -> None:
    """Whether latents are read or pixels."""
    for data in (laid_over(mixed(), 80), sgc.encode(photo(150, 230), indexed=False)):
        sgc.analyze(data, limits=sgc.Limits(max_analysed_pixels=150 * 230))
        with pytest.raises(sgc.LimitExceededError, match="150"):
            sgc.analyze(data, limits=sgc.Limits(max_analysed_pixels=150 * 230 - 1))


def test_what_an_overlay_shows_is_for_the_heads_of_its_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for those of the default one."""
    data = laid_over(mixed(), 80)
    monkeypatch.setattr("pillow_semicodec.analysis.describe", lambda picture, **settings: settings["model"])
    assert sgc.analyze(data) == sgc.read_prologue(data).header.model_id.hex()


@pytest.mark.model
@pytest.mark.parametrize("bands", [1, 3, 4])
def test_the_smallest_file_is_taken(bands: int) -> None:
    """That with an overlay, unless it is forbidden; photographs are what networks make of them."""
    picture = np.concatenate([np.tile(mixed(bands)[:32], (8, 1) + (1,) * (bands > 1)), mixed(bands)])
    plain, data = (sgc.encode(picture, 80, indexed=choice, threads=1) for choice in (False, None))
    assert len(data) < len(plain)
    assert not has_overlay(plain)
    assert has_overlay(data)
    assert len(data) == len(laid_over(picture, 80)) < len(sgc.encode(picture, 80, indexed=True))
    box = slice(-102, -38), slice(96, 192)  # the photograph
    without, within = (np.abs(sgc.decode(d)[box].astype(int) - picture[box]) for d in (plain, data))
    assert within.mean() < 1.1 * without.mean()


@pytest.mark.model
@pytest.mark.parametrize("bands", [1, 3, 4])
def test_targets_are_met_with_overlays(bands: int) -> None:
    """Where letters take less that way, the rest gets more of the bytes, or the file gets smaller."""
    picture = np.concatenate([np.tile(mixed(bands)[:32], (8, 1) + (1,) * (bands > 1)), mixed(bands)])
    size = len(sgc.encode(picture, 85, threads=1))
    data, plain = (sgc.encode(picture, target_size=size, indexed=choice, threads=1) for choice in (None, False))
    assert has_overlay(data)
    assert 0.97 * size <= len(data) <= size
    assert len(plain) <= size
    best, worst = (psnr(picture, d) for d in (data, plain))
    assert best > worst + 1
    wanted = best - 0.5
    data, plain = (sgc.encode(picture, target_psnr=wanted, indexed=choice, threads=1) for choice in (None, False))
    assert has_overlay(data)
    assert len(data) < len(plain)
    assert wanted <= psnr(picture, data) <= wanted + 0.5


@pytest.mark.model
def test_large_photographs_on_screens() -> None:
    """However many colours they have, the letters beside them are drawn; a photograph alone is none of that."""
    picture = screen(600, 1000)
    photograph = np.random.default_rng(0).normal(photo(560, 480), 12).clip(0, 255).astype(np.uint8)
    picture[20:580, 500:980] = photograph
    assert len(np.unique(picture[::18].reshape(-1, 3), axis=0)) > indexed.WORTH_COLOURS
    plain, data = (sgc.encode(picture, 75, indexed=choice, threads=1) for choice in (False, None))
    assert has_overlay(data)
    assert len(data) < 0.97 * len(plain)
    assert indexed.is_worth_trying(picture)
    assert not indexed.is_worth_trying(photograph)


@pytest.mark.model
def test_generous_targets_keep_letters_exactly() -> None:
    """And the rest at least as well as without an overlay; a quality beside a target counts for nothing."""
    picture = np.concatenate([np.tile(mixed()[:32], (8, 1, 1)), mixed()])
    data, same = (sgc.encode(picture, quality, target_size=10**6, threads=1) for quality in (20, 90))
    assert data == same
    assert has_overlay(data)
    assert np.array_equal(sgc.decode(data, threads=1)[:200], picture[:200])
    assert psnr(picture, data) >= psnr(picture, sgc.encode(picture, target_size=10**6, indexed=False, threads=1))


def test_a_palette_meets_what_latents_cannot() -> None:
    """However many colours it takes, where nothing else is that good."""
    picture = np.random.default_rng(1).integers(0, 256, (150, 230, 3), dtype=np.uint8)
    picture[:75] = screen(75, 230)
    with pytest.raises(ValueError, match="out of reach"):
        sgc.encode(picture, target_psnr=50, indexed=False)
    data = sgc.encode(picture, target_psnr=50)
    assert sgc.read_prologue(data).header.indexed
    assert psnr(picture, data) >= 50


@pytest.mark.model
def test_effort_and_exact_pictures_meet_targets_too() -> None:
    """Effort is spent on the rest; what nobody sees is kept where that was asked for, and has no overlay."""
    picture = np.concatenate([np.tile(mixed(4)[:32], (8, 1, 1)), mixed(4)])
    size = len(sgc.encode(picture, 85, threads=1))
    data = sgc.encode(picture, target_size=size, effort=2, threads=1)
    assert has_overlay(data)
    assert len(data) <= size
    exact = sgc.encode(picture, target_size=2 * size, exact=True, threads=1)
    assert not has_overlay(exact)
    assert len(exact) <= 2 * size
    with pytest.raises(ValueError, match="too few"):
        sgc.encode(picture, target_size=200)


def test_cells() -> None:
    """One or two colours fill them; a photograph, or a gradient, does not."""
    colours = np.zeros((40, 64), np.int32)
    colours[:16, :16] = np.arange(256).reshape(16, 16)  # a gradient
    colours[:16, 16:32] = np.arange(16) < 8  # two colours
    colours[:16, 32:48] = np.arange(16)  # stripes
    expected = np.ones((3, 4), bool)
    expected[0, [0, 2]] = False
    assert np.array_equal(overlay.drawn_cells(colours)[0], expected)
    expected[0, 1] = False
    cells, grounds = overlay.drawn_cells(colours, flat=True)
    assert np.array_equal(cells, expected)
    assert (grounds[cells] == 0).all()
    assert overlay.take_apart(photo(100, 100), 0) is None
    assert overlay.take_apart(np.full((96, 96), 9, np.uint8), 0) is None  # all of it is drawn


@pytest.mark.model
@pytest.mark.parametrize("ground", [255, 0, 90])
def test_flat_grounds_are_exact(ground: int) -> None:
    """Around a photograph, for next to no bytes."""
    picture = np.full((320, 400, 3), ground, np.uint8)
    picture[60:260, 80:320] = photo(200, 240)
    plain, data = (sgc.encode(picture, 60, indexed=choice) for choice in (False, None))
    decoded = sgc.decode(data)
    assert len(data) <= 1.02 * len(plain) + 10
    for rows, columns in ((slice(0, 48), slice(None)), (slice(272, 320), slice(None)), (slice(None), slice(0, 80))):
        assert (decoded[rows, columns] == ground).all()


def test_pillow_makes_thumbnails_of_them() -> None:
    file = io.BytesIO(laid_over(mixed(), 90))
    with Image.open(file) as image:
        image.thumbnail((60, 60))
        assert image.size == (60, 39)
    with Image.open(file) as image:
        assert np.array_equal(np.asarray(image.crop((0, 0, 40, 20))), sgc.decode(file.getvalue())[:20, :40])


def rewritten(data: bytes, payload: bytes, **changes: object) -> bytes:
    stream = io.BytesIO(data)
    prologue = container.read_prologue(stream.read)
    streams = container.read_slices(stream.read, prologue.index)
    header = container.Header(**{**prologue.header.__dict__, **changes})  # type: ignore[arg-type]
    return container.write_container(header, prologue.index.rate, streams, {container.OVERLAY: payload})


@settings(max_examples=40)
@given(st.data())
def test_damage_is_an_error_of_ours(data: st.DataObject) -> None:
    file = laid_over(mixed(), 80)
    payload = bytearray(sgc.read_prologue(file).metadata[container.OVERLAY])
    place = data.draw(st.integers(0, len(payload) - 1))
    if data.draw(st.booleans()):
        payload[place] ^= data.draw(st.integers(1, 255))
    else:
        del payload[place:]
    try:
        assert sgc.decode(rewritten(file, bytes(payload)), threads=1).shape == (150, 230, 3)
    except sgc.SemicodecError as error:
        assert len(str(error)) > 15


def test_where_overlays_must_not_be() -> None:
    file = laid_over(mixed(), 80)
    payload = sgc.read_prologue(file).metadata[container.OVERLAY]
    with pytest.raises(sgc.FormatError, match="an overlay in"):
        sgc.decode(
            rewritten(file, payload, width=8192, height=8192),
            limits=sgc.Limits(max_slice_pixels=2**27, max_latent_slice_pixels=2**27),
        )
    with pytest.raises(sgc.FormatError, match="an overlay in"):
        sgc.decode(with_chunks(sgc.encode(screen(), indexed=True), {container.OVERLAY: payload}))
    with pytest.raises(sgc.FormatError):
        sgc.decode(with_chunks(file, {container.OVERLAY: b""}))


@pytest.mark.parametrize("scale", [2, 8, 16])
def test_small_versions_show_no_colours_that_nobody_sees(scale: int) -> None:
    """Under alpha 0 a drawn cell may hold any."""
    picture = np.dstack([screen(150, 230), np.full((150, 230), 255, np.uint8)])
    picture[40:125, 90:200, :3] = photo(85, 110)
    picture[:, :16] = (30, 30, 30, 255)
    picture[:, :6, 3] = 0
    data = laid_over(picture, 80)
    assert np.array_equal(sgc.decode(data, scale=scale), pixels.reduced(sgc.decode(data), scale, True))


@pytest.mark.parametrize(("target", "times"), [({}, 1), ({"target_psnr": 30}, 2)])
def test_flat_frames_cost_no_second_analysis(target: dict[str, int], times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is drawn on top is what the networks would see anyway; only a target may need it to be exact."""
    picture = np.full((160, 160, 3), 250, np.uint8)
    picture[48:112, 48:112] = photo(64, 64)
    analyse, seen = codec.analyse, []

    def counting(colours: object, *arguments: object) -> object:
        seen.append(colours)
        return analyse(colours, *arguments)

    monkeypatch.setattr(codec, "analyse", counting)
    sgc.encode(picture, 60, threads=1, **target)
    assert len(seen) == times
