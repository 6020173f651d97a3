"""Regions of interest: more bits inside, the same bytes, and decoders that follow."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from conftest import coded, photo
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import pillow_semicodec as sgc
from pillow_semicodec import container, slices
from pillow_semicodec.container import Regions, read_regions, with_chunks, write_regions
from pillow_semicodec.head_bundle import Task, find_heads
from pillow_semicodec.regions import cells_of

BOX = (48, 16, 112, 64)


def squared(a: np.ndarray, b: np.ndarray, box: tuple[int, int, int, int] = BOX) -> float:
    left, top, right, bottom = box
    return float(((a[top:bottom, left:right].astype(float) - b[top:bottom, left:right]) ** 2).mean())


@given(st.lists(st.integers(0, 65535), min_size=1, max_size=16), st.data())
def test_the_chunk_round_trips(rates: list[int], data: st.DataObject) -> None:
    """Rates and levels come back; every prefix and a wrong number of positions are refused."""
    levels = bytes(data.draw(st.lists(st.integers(0, len(rates) - 1), min_size=1, max_size=60)))
    payload = write_regions(Regions(tuple(rates), levels))
    assert read_regions(payload, len(levels)) == Regions(tuple(rates), levels)
    for positions in (len(levels) - 1, len(levels) + 1):
        with pytest.raises(sgc.FormatError):
            read_regions(payload, positions)
    with pytest.raises(sgc.FormatError):
        read_regions(payload[: data.draw(st.integers(0, len(payload) - 1))], len(levels))


@given(st.binary(max_size=60), st.integers(1, 40))
def test_any_bytes_as_a_chunk(payload: bytes, positions: int) -> None:
    with contextlib.suppress(sgc.FormatError):
        read_regions(payload, positions)


@pytest.mark.parametrize("kind", ["mask", "image", "box", "boxes"])
def test_bits_move_into_the_region(kind: str, tmp_path: Path) -> None:
    """Inside the error falls, outside it rises, and the file is no larger; all ways to say it agree."""
    picture = photo(128, 192, 4)
    mask = np.zeros((128, 192), bool)
    mask[BOX[1] : BOX[3], BOX[0] : BOX[2]] = True
    roi = {"mask": mask, "image": Image.fromarray(mask), "box": BOX, "boxes": [BOX]}[kind]
    Image.fromarray(picture).save(tmp_path / "plain.sgc", quality=60)
    Image.fromarray(picture).save(tmp_path / "roi.sgc", quality=60, roi=roi)
    plain, moved = (np.asarray(Image.open(tmp_path / f"{name}.sgc")) for name in ("plain", "roi"))
    assert (tmp_path / "roi.sgc").stat().st_size <= (tmp_path / "plain.sgc").stat().st_size
    assert squared(moved, picture) < squared(plain, picture)
    whole = (0, 0, 192, 128)
    assert squared(moved, picture, whole) > squared(plain, picture, whole)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I", "F"])
def test_masks_of_any_mode_mean_the_same(mode: str) -> None:
    """What is not black is inside, whatever number a palette gives it, and however the picture is saved."""
    picture, inside = photo(128, 192, 4), np.zeros((128, 192), bool)
    inside[BOX[1] : BOX[3], BOX[0] : BOX[2]] = True
    expected = sgc.encode(picture, 60, roi=inside)
    if mode == "P":
        mask = Image.fromarray((~inside).astype(np.uint8), "L")
        mask.putpalette([255, 255, 255, 0, 0, 0])
    else:
        mask = Image.fromarray(np.uint8(255 * inside)).convert(mode)
    held = io.BytesIO()
    Image.fromarray(picture).save(held, "SGC", quality=60, roi=mask)
    assert held.getvalue() == expected
    assert sgc.encode(picture, 60, roi=mask) == expected
    assert iio.imwrite("<bytes>", picture, extension=".sgc", quality=60, roi=mask) == expected


@given(st.integers(1, 70), st.integers(1, 70), st.data())
def test_any_region_decodes(height: int, width: int, data: st.DataObject) -> None:
    """Any mask, any size: a valid file, never larger than without (palettes, as of tiny pictures, have none)."""
    seed = data.draw(st.integers(0, 99))
    mask = np.random.default_rng(seed).random((height, width)) < data.draw(st.sampled_from([0.0, 0.01, 0.3, 1.0]))
    picture = photo(height, width, seed)
    coded = sgc.encode(picture, 60, roi=mask, threads=1)
    assert sgc.decode(coded, threads=1).shape == picture.shape
    assert len(coded) <= len(sgc.encode(picture, 60, indexed=False, threads=1))


@pytest.mark.parametrize("quality", [30, 42, 50, 58, 66])
def test_many_slices_take_no_more_bytes(quality: int) -> None:
    """What the index says of their sizes counts, too: bytes that a longer stream adds there. Targets hold."""
    picture, left = photo(320, 320, 5), [(0, 0, 160, 320)]
    plain = len(sgc.encode(picture, quality, slice_side=64, threads=1))
    assert len(sgc.encode(picture, quality, roi=left, slice_side=64, threads=1)) <= plain
    assert len(sgc.encode(picture, target_size=plain, roi=left, slice_side=64, threads=1)) <= plain


def test_everything_or_nothing_changes_nothing() -> None:
    """An empty region, and one of the whole picture, leave the file as it is."""
    plain = sgc.encode(photo(), 60)
    for mask in (np.zeros((96, 160), bool), np.ones((96, 160), bool), [], Image.new("L", (160, 96)), [[0] * 160] * 96):
        assert sgc.encode(photo(), 60, roi=mask) == plain


@pytest.mark.parametrize("side", [0, 64])
def test_regions_are_read_back(side: int) -> None:
    """Rates that change from position to position come back whole, and slices make no difference to pixels."""
    model, picture = sgc.find_model(), photo(150, 90)
    levels = (np.indices((10, 6)).sum(0) % 3).astype(np.uint8)
    plan = slices.RatePlan(20000, (9000, 20000, 31000), levels)
    whole, sliced = (slices.Decoder(*pair(picture, plan, model, s)).picture() for s in (0, side))
    assert np.abs(whole.astype(int) - sliced).max() <= 1
    assert np.abs(whole.astype(int) - picture).mean() < 12


def pair(picture: np.ndarray, plan: slices.RatePlan, model: sgc.bundle.ModelBundle, side: int) -> tuple:
    streams, layout = coded(picture, plan, model, 1, side)
    return streams, plan, model, layout, 1


def test_auto_follows_the_foreground() -> None:
    """``roi="auto"`` is the region of foreground cells and their neighbours."""
    picture = photo(128, 192, 2)
    seen = sgc.analyze(sgc.encode(picture, 60))
    cells = seen.maps[0].array() == seen.maps[0].classes.index("car")
    grown = np.pad(cells, 1)
    grown = cells | grown[:-2, 1:-1] | grown[2:, 1:-1] | grown[1:-1, :-2] | grown[1:-1, 2:]
    assert sgc.encode(picture, 60, roi="auto") == sgc.encode(picture, 60, roi=grown.repeat(16, 0).repeat(16, 1))


def test_auto_needs_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Classes of whole pictures say nothing of where they are."""
    (heads,) = find_heads(sgc.find_model().model_id)
    monkeypatch.setattr(heads, "tasks", (Task("shapes", "classification", ("a", "b"), foreground=("a",)),))
    with pytest.raises(sgc.BundleError, match="maps"):
        sgc.encode(photo(), 60, roi="auto")


def test_wrong_regions_are_told_apart() -> None:
    """Boxes outside, masks of another size and words are ValueErrors; other things TypeErrors."""
    for roi in ([(0, 0, 200, 10)], [(5, 5, 5, 9)], np.zeros((4, 4, 4)), "automatic", [(1, 2, 3)], (0, 0, 1, 2, 3)):
        with pytest.raises(ValueError, match=r"roi|box"):
            sgc.encode(photo(), 50, roi=roi)
    with pytest.raises(TypeError, match="roi"):
        sgc.encode(photo(), 50, roi=object())


def test_cells_touch_the_region() -> None:
    """A single pixel selects its cell, also in the cut-off last row."""
    mask = np.zeros((40, 20), bool)
    mask[39, 19] = True
    cells = cells_of(mask, 40, 20)
    assert cells is not None
    assert np.argwhere(cells).tolist() == [[2, 1]]


def test_old_readers_refuse_regions() -> None:
    """The chunk is critical, and one that does not fit is a FormatError."""
    assert container.REGIONS.isupper()
    data = sgc.encode(photo(), 60, roi=[(16, 16, 64, 64)])
    wrong = {container.REGIONS: write_regions(Regions((5, 6), b"\0\1"))}
    with pytest.raises(sgc.FormatError, match="positions"):
        sgc.decode(with_chunks(data, wrong))
