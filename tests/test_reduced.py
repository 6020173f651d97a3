"""Small versions straight from the latents, and how far a call has come."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, photo
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from test_pillow import saved

import pillow_semicodec as sgc
from pillow_semicodec import bundle, companions, pixels
from pillow_semicodec.companions import REDUCED, SCALES

with pytest.MonkeyPatch.context() as patch:
    patch.setenv(bundle.PATH_VARIABLE, str(TINY))
    SLICED = sgc.encode(photo(150, 200), 70, slice_side=64, threads=1, model="tiny")
SHAPES = [(96, 160), (75, 131, 3), (9, 5, 3), (33, 200, 4), (40, 17, 2)]


def made(shape: tuple[int, ...]) -> np.ndarray:
    picture = photo(*shape[:2])
    if len(shape) == 2:
        return picture[:, :, 0]
    alpha = np.full((*shape[:2], 1), 200, np.uint8)
    alpha[: shape[0] // 2] = 0
    return {2: np.concatenate([picture[:, :, :1], alpha], 2), 3: picture, 4: np.concatenate([picture, alpha], 2)}[shape[2]]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", SCALES)
def test_sizes_and_likeness(shape: tuple[int, ...], scale: int) -> None:
    """Sides are rounded up; it is about the decoded picture, reduced; alpha exactly; slices leave no trace."""
    picture, found = made(shape), []
    for side in (0, 64):
        data = sgc.encode(picture, 90, slice_side=side)
        small, whole = sgc.decode(data, scale=scale), sgc.decode(data)
        assert small.dtype == np.uint8
        assert small.shape == (-(-shape[0] // scale), -(-shape[1] // scale), *shape[2:])
        expected = pixels.reduced(whole, scale, False)
        assert np.abs(small.astype(float) - expected).mean() < 12
        if shape[-1] in (2, 4):
            assert np.array_equal(small[..., -1], expected[..., -1])
        found.append(small.astype(int))
    assert np.abs(found[0] - found[1]).max() <= 1


@given(st.integers(0, 199), st.integers(0, 149), st.integers(1, 200), st.integers(1, 150), st.sampled_from(SCALES))
def test_boxes_at_a_scale(left: int, top: int, width: int, height: int, scale: int) -> None:
    """A box decodes all squares that it touches, as the whole small picture has them."""
    right, bottom = min(left + width, 200), min(top + height, 150)
    small = sgc.decode(SLICED, scale=scale)
    part = sgc.decode(SLICED, box=(left, top, right, bottom), scale=scale)
    expected = small[top // scale : -(-bottom // scale), left // scale : -(-right // scale)]
    assert part.shape == expected.shape
    assert np.abs(part.astype(int) - expected).max() <= 1


def test_hidden_colours_stay_hidden() -> None:
    """With exact, what lies under alpha 0 does not bleed into small versions."""
    picture = np.zeros((96, 96, 4), np.uint8)
    i, j = np.mgrid[:96, :96]
    picture[np.hypot(i - 48, j - 48) < 30] = 255
    for exact in (False, True):
        data = sgc.encode(picture, 95, exact=exact)
        small, whole = sgc.decode(data, scale=8), pixels.reduced(sgc.decode(data), 8, True)
        seen = whole[:, :, 3] > 40
        assert np.abs(small[seen].astype(int) - whole[seen]).mean() < 20
        assert np.array_equal(small[:, :, 3], whole[:, :, 3])
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.draft(None, (12, 12)) is None


def test_other_dtypes() -> None:
    """Pictures in black and white and of more than 8 bits have small versions, too."""
    bilevel = photo(50, 70)[:, :, 0] > 110
    assert sgc.decode(sgc.encode(bilevel), scale=4).shape == (13, 18)
    assert sgc.decode(sgc.encode(bilevel), scale=4).dtype == np.bool_
    deep = photo(50, 70).astype(np.uint16) * 257
    small = sgc.decode(sgc.encode(deep, 90), scale=8)
    assert (small.shape, small.dtype) == ((7, 9, 3), np.uint16)
    assert np.abs(small / 257 - pixels.reduced(photo(50, 70), 8, False)).mean() < 12


@pytest.mark.parametrize("scale", [0, 3, 32, 2.5, 2.0, True, "2"])
def test_other_scales(sgc_bytes: bytes, scale: object) -> None:
    """Only 1, 2, 4, 8 and 16."""
    with pytest.raises(ValueError, match="1, 2, 4, 8 or 16"):
        sgc.decode(sgc_bytes, scale=scale)


@pytest.fixture
def without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pillow_semicodec.codec.has_companion", lambda bundle, name: False)


def test_without_a_network(sgc_bytes: bytes, without_network: None) -> None:
    """A model that has none: the decoded picture, reduced; boxes too."""
    whole = sgc.decode(sgc_bytes)
    small = sgc.decode(sgc_bytes, scale=4)
    assert np.array_equal(small, pixels.reduced(whole, 4, False))
    assert np.array_equal(sgc.decode(sgc_bytes, box=(9, 10, 42, 31), scale=4), small[2:8, 2:11])


def test_a_network_that_is_broken(tmp_path: Path) -> None:
    """Of another model, of another version, or no description: the error says which file."""
    for content in ({"companion_version": 1, "model_id": "00" * 8, "sha256": ""}, {"companion_version": 9}, []):
        for part in TINY.iterdir():
            (tmp_path / part.name).write_bytes(part.read_bytes())
        (tmp_path / "reduced.json").write_text(json.dumps(content))
        with pytest.raises(sgc.BundleError, match=r"reduced\.json"):
            companions.find_companion(bundle.ModelBundle(tmp_path), REDUCED)


@pytest.mark.parametrize(
    ("wanted", "size"), [((41, 20), (80, 50)), ((21, 10), (40, 25)), ((9, 9), (20, 13)), ((1, 1), (10, 7))]
)
def test_draft(wanted: tuple[int, int], size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Half, a quarter, an eighth, a sixteenth: the smallest that has the pixels; a second draft changes nothing."""
    file = saved(Image.fromarray(photo(100, 160)), quality=90)
    whole = Image.open(file)
    with Image.open(file) as opened:
        mode, box = opened.draft("L", wanted)
        assert (mode, opened.size) == ("RGB", size)
        assert box == (0, 0, 160 / (160 // size[0]), 100 / (160 // size[0]))
        assert opened.draft(None, (1, 1)) is None
        monkeypatch.setattr("pillow_semicodec.inference.Transforms.synthesis", lambda *a: pytest.fail("the synthesis"))
        difference = np.asarray(opened).astype(float) - np.asarray(whole.reduce(160 // size[0]).resize(size))
        assert np.abs(difference).mean() < 12


def test_draft_that_is_as_large() -> None:
    """What does not get smaller, or has no network, stays whole."""
    file = saved(Image.fromarray(photo(100, 160)))
    with Image.open(file) as opened:
        assert opened.draft(None, (81, 10)) is None
        assert opened.draft(None, None) is None
        assert opened.size == (160, 100)
    bilevel = saved(Image.new("1", (64, 64)))
    with Image.open(bilevel) as opened:
        assert opened.draft(None, (9, 9)) is None


def forbid_synthesis(patch: pytest.MonkeyPatch) -> None:
    for name in ("synthesis", "synthesis_of_levels"):
        patch.setattr(f"pillow_semicodec.inference.Transforms.{name}", lambda *_: pytest.fail("the synthesis"))


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "CMYK", "I;16"])
def test_reduce_and_thumbnail(mode: str) -> None:
    """Of a picture that is not loaded: without its synthesis, in its mode; the picture itself stays as it is."""
    picture = Image.fromarray(photo(100, 160))
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    file = saved(picture if mode == "I;16" else picture.convert(mode), quality=90)
    with Image.open(file) as opened:
        with pytest.MonkeyPatch.context() as patch:
            forbid_synthesis(patch)
            small = opened.reduce(4)
        assert (small.mode, small.size, opened.size) == (mode, (40, 25), (160, 100))
        opened.load()
        if mode != "I;16":
            later = opened.reduce(4)
            assert np.abs(np.asarray(small).astype(float) - np.asarray(later)).mean() < 16
    with Image.open(file) as opened, pytest.MonkeyPatch.context() as patch:
        forbid_synthesis(patch)
        opened.thumbnail((20, 20))
        assert (opened.mode, opened.size) == (mode, (20, 13))
    if mode != "I;16":  # which Pillow itself cannot reduce
        with Image.open(file) as opened:
            assert opened.reduce(3).size == (54, 34)


def test_cut_files_have_thumbnails(monkeypatch: pytest.MonkeyPatch) -> None:
    """With LOAD_TRUNCATED_IMAGES a small version shows what arrived."""
    monkeypatch.setattr("PIL.ImageFile.LOAD_TRUNCATED_IMAGES", True)
    with Image.open(io.BytesIO(SLICED[:-200])) as opened:
        opened.draft(None, (20, 18))
        opened.load()
        assert opened.size == (25, 19)
    with Image.open(io.BytesIO(SLICED)) as whole:
        whole.draft(None, (20, 18))
        assert np.array_equal(np.asarray(opened)[:8, :12], np.asarray(whole)[:8, :12])


# ---- progress --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"slice_side": 64},
        {"slice_side": 64, "target_size": 3000},
        {"target_psnr": 25},
        {"slice_side": 64, "roi": [(0, 0, 40, 40)]},
        {"threads": 2, "slice_side": 64},
    ],
)
@pytest.mark.parametrize("bands", [1, 3, 4])
def test_progress_rises_to_one(options: dict[str, object], bands: int) -> None:
    """Shares rise from above 0 to 1, whatever the work is made of."""
    said: list[float] = []
    picture = made((130, 150, bands)) if bands > 1 else made((130, 150)) > 100
    if bands == 1:
        options = {k: v for k, v in options.items() if k in ("slice_side", "threads")}
    data = sgc.encode(picture, progress=said.append, **options)
    assert said == sorted(said)
    assert said[0] > 0 and said[-1] == 1
    said.clear()
    sgc.decode(data, progress=said.append)
    sgc.decode(data, box=(3, 3, 70, 70), scale=4, progress=said.append)
    assert said.count(1.0) == 2
    assert len(said) >= (9 if options.get("slice_side") else 1)


def test_progress_may_stop_the_work(tmp_path: Path) -> None:
    """What it raises comes through, and nothing is written."""

    class Cancelled(Exception):
        pass

    def stop(share: float) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        Image.fromarray(photo()).save(tmp_path / "x.sgc", progress=stop)
    assert not list(tmp_path.iterdir())
    with pytest.raises(TypeError, match="progress"):
        sgc.encode(photo(), progress=3)


def test_progress_of_frames() -> None:
    """Frames of a known number are counted; Pillow knows it."""
    said: list[float] = []
    frames = [Image.fromarray(photo(40, 40, k)) for k in range(4)]
    frames[0].save(io.BytesIO(), "SGC", save_all=True, append_images=iter(frames[1:]), progress=said.append)
    assert said == [0.25, 0.5, 0.75, 1]
