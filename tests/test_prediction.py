"""Differences of residuals: added up again they are the residuals, in any slice, and as FORMAT.md says."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import numpy as np
import pytest
import reference_decoder
from conftest import TINY, latents_of, photo
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageFile
from test_bundle import copy_of

import pillow_semicodec as sgc
from pillow_semicodec import bundle, pixels
from pillow_semicodec.entropy.coder import MAGNITUDE_LIMIT
from pillow_semicodec.errors import BundleError, FormatError
from pillow_semicodec.prediction import differences, restore

CHANNELS = (0, 1, 5)


@given(data=st.data(), height=st.integers(1, 9), width=st.integers(1, 9))
def test_added_up_they_are_the_residuals(data: st.DataObject, height: int, width: int) -> None:
    """Of any shape and size; other channels are left alone, and the second decoder adds up the same."""
    largest = MAGNITUDE_LIMIT // 2
    step1 = pixels.step_mask(6, height, width)
    residual = data.draw(arrays(np.int32, step1.shape, elements=st.integers(-largest, largest))) * step1
    channels = data.draw(st.lists(st.integers(0, 5), unique=True))
    coded = differences(residual, channels, step1)
    others = [c for c in range(6) if c not in channels]
    assert np.array_equal(coded[others], residual[others])
    assert not coded[~step1].any()
    again = coded.copy()
    restore(again, channels, step1)
    for channel in channels:
        reference_decoder.add_predictions(coded[channel], channel)
    assert np.array_equal(coded, residual)
    assert np.array_equal(again, residual)


def test_smooth_residuals_become_small() -> None:
    """A plane leaves next to nothing but where it begins."""
    step1 = pixels.step_mask(2, 20, 30)
    plane = (np.add.outer(5 * np.arange(20), 2 * np.arange(30))[None] + 100) * step1
    coded = differences(plane.astype(np.int32), [0, 1], step1)
    assert np.abs(coded[:, 1:, 1:-1]).max() <= 5
    assert np.abs(coded[0, 0, 2:]).max() == 4


def test_sums_without_end() -> None:
    """What no encoder makes is told, not wrapped around."""
    step1 = pixels.step_mask(1, 5000, 8)
    with pytest.raises(FormatError, match="no encoder"):
        restore(np.full(step1.shape, 2000, np.int32) * step1, [0], step1)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = copy_of(tmp_path, "predicted", name="predicted", bundle_version=3, predicted=list(CHANNELS))
    of_tiny, own = (bundle.ModelBundle(directory).model_id.hex() for directory in (TINY, folder))
    companion = folder / "gradient.json"
    companion.write_text(companion.read_text().replace(of_tiny, own))
    monkeypatch.setenv(bundle.PATH_VARIABLE, f"{TINY}:{folder}")
    return folder


@pytest.mark.parametrize("quality", [30, 80])
def test_cut_files(quality: int, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Differences that have not arrived spoil nothing below them."""
    picture = photo(320, 320)
    picture[:160] //= 4
    data = sgc.encode(picture, quality, model="predicted")
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    errors = []
    for part in (0.3, 0.4, 0.45, 0.5, 0.6, 0.8, 1):
        shown = np.asarray(Image.open(io.BytesIO(data[: round(len(data) * part)]))).astype(float)
        errors.append(np.square(shown - picture).mean())
    assert all(after < 1.1 * before for before, after in itertools.pairwise(errors))


@pytest.mark.parametrize("options", [{}, {"slice_side": 64}, {"slice_side": 64, "roi": [(0, 0, 60, 90)]}, {"effort": 2}])
@pytest.mark.parametrize("quality", [5, 60, 95])
def test_files(quality: int, options: dict[str, object], model: Path) -> None:
    """The second decoder reads the same latents; pictures are those of a model that predicts nothing."""
    picture = photo(150, 190)
    data = sgc.encode(picture, quality, model="predicted", **options)
    shown, z, residual, indexes = reference_decoder.decode(data, reference_decoder.Model(model))
    assert all(np.array_equal(a, b) for a, b in zip(latents_of(data), (z, residual, indexes), strict=True))
    assert np.abs(shown.astype(int) - sgc.decode(data)).max() <= 1
    plain = sgc.decode(sgc.encode(picture, quality, model="tiny", **options))
    if not {"effort", "roi"} & set(options):  # which move bits; where an index is 0, what is predicted is coded all the same
        assert np.abs(plain.astype(float) - sgc.decode(data)).mean() < 0.5
    assert np.array_equal(sgc.decode(data, box=(70, 40, 150, 140)), sgc.decode(data)[40:140, 70:150])


def test_the_coder_needs_what_is_promised(model: Path) -> None:
    """As many bits as the tables say, within the coder's overhead."""
    from pillow_semicodec.slices import ideal_bits

    data = sgc.encode(photo(150, 190), 60, model="predicted")
    prologue = sgc.read_prologue(data)
    ideal = ideal_bits(latents_of(data), prologue.index.rate, bundle.find_model("predicted"))
    assert ideal <= 8 * sum(prologue.index.stream_sizes) <= 1.02 * ideal + 200


def test_wrong_channels(tmp_path: Path) -> None:
    """A manifest that names channels twice, or that there are not."""
    for k, channels in enumerate(([0, 0], [-1], [10**6])):
        with pytest.raises(BundleError, match="predicted"):
            bundle.ModelBundle(copy_of(tmp_path, str(k), bundle_version=3, predicted=channels))
    assert not bundle.ModelBundle(copy_of(tmp_path, "old", predicted=[0])).predicted
