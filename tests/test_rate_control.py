"""Targets: met from the right side, or refused with what is possible."""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import imageio.v3 as iio
import numpy as np
import pytest
from conftest import photo
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import pillow_semicodec as sgc
from pillow_semicodec.metrics import psnr
from pillow_semicodec.rate_control import TRIALS, _search


@settings(max_examples=15)
@given(st.floats(0.05, 0.95), st.sampled_from(["L", "RGB", "RGBA"]), st.sampled_from([0, 64]))
def test_sizes_are_met(share: float, mode: str, side: int) -> None:
    """Never more bytes than asked for, and within a range of the sizes that are possible little less."""
    picture = np.asarray(Image.fromarray(photo(130, 200)).convert(mode))
    smallest, largest = (len(sgc.encode(picture, quality, slice_side=side)) for quality in (1, 100))
    wanted = round(math.exp(math.log(smallest) + share * math.log(largest / smallest)))
    size = len(sgc.encode(picture, target_size=wanted, slice_side=side))
    assert 0.95 * wanted - 16 <= size <= wanted
    assert len(sgc.encode(picture, target_bpp=8 * wanted / (130 * 200), slice_side=side)) == size


@settings(max_examples=8)
@given(st.floats(0.1, 0.9), st.sampled_from(["L", "RGB"]))
def test_psnr_is_met(share: float, mode: str) -> None:
    """Not less than asked for, and hardly more."""
    picture = np.asarray(Image.fromarray(photo(100, 120)).convert(mode))
    worst, best = (psnr(picture, sgc.decode(sgc.encode(picture, quality))) for quality in (1, 100))
    wanted = worst + share * (best - worst)
    got = psnr(picture, sgc.decode(sgc.encode(picture, target_psnr=wanted)))
    assert wanted - 1e-6 <= got <= wanted + 0.3


def test_only_what_is_visible_counts() -> None:
    """Colours under alpha 0 are no part of the PSNR."""
    picture = np.dstack([photo(80, 80), np.full((80, 80), 255, np.uint8)])
    hidden = picture.copy()
    hidden[40:, :, 3] = 0
    noisy = hidden.copy()
    noisy[40:, :, :3] = 255 - noisy[40:, :, :3]
    assert sgc.encode(hidden, target_psnr=20) == sgc.encode(noisy, target_psnr=20)


def test_exact_pictures_have_no_psnr() -> None:
    """Where nothing is visible, or everything is exact, any target is met; bytes are told."""
    invisible = np.dstack([photo(40, 40), np.zeros((40, 40), np.uint8)])
    for effort in (1, 2):
        assert sgc.decode(sgc.encode(invisible, target_psnr=30, effort=effort)).shape == invisible.shape
        blank = np.full((64, 64), 1000, np.uint16)
        assert np.array_equal(sgc.decode(sgc.encode(blank, target_psnr=50, effort=effort)), blank)
    bilevel = photo(40, 40)[:, :, 0] > 100
    assert np.array_equal(sgc.decode(sgc.encode(bilevel, target_psnr=30)), bilevel)
    with pytest.raises(ValueError, match="exactly"):
        sgc.encode(bilevel, target_size=10)


def test_what_is_not_possible() -> None:
    """The message says what is."""
    picture = photo(100, 120)
    with pytest.raises(ValueError, match=r"takes [0-9]+ at least") as caught:
        sgc.encode(picture, target_size=60)
    least = int(str(caught.value).split("takes ")[1].split()[0])
    assert len(sgc.encode(picture, target_size=least)) == least
    with pytest.raises(ValueError, match="dB at most"):
        sgc.encode(picture, target_psnr=99)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"target_size": 0}, ValueError, "positive"),
        ({"target_size": "small"}, TypeError, "number"),
        ({"target_bpp": -1.0}, ValueError, "positive"),
        ({"target_psnr": float("inf")}, ValueError, "positive"),
        ({"target_psnr": True}, TypeError, "number"),
        ({"target_size": 900, "target_bpp": 1}, ValueError, "exclude"),
        ({"target_psnr": 30, "roi": [(0, 0, 5, 5)]}, ValueError, "exclude"),
        ({"target_bpp": 1e-9}, ValueError, "too few"),
    ],
)
def test_wrong_targets(options: dict[str, object], error: type[Exception], text: str) -> None:
    """Told apart, before anything is coded."""
    with pytest.raises(error, match=text):
        sgc.encode(photo(20, 20), **options)


@pytest.mark.parametrize("target", [1e16, 1e306, 1e308, 10**400])
def test_huge_targets(target: float) -> None:
    """Any size is enough; no picture is that good."""
    picture = photo(20, 20)
    best = sgc.encode(picture, target_size=10**9)
    assert sgc.encode(picture, target_bpp=target) == sgc.encode(picture, target_size=target) == best
    with pytest.raises(ValueError, match="out of reach"):
        sgc.encode(picture, target_psnr=target)


def test_every_way_in() -> None:
    """Pillow and imageio have the same names; animations have no target."""
    picture, file = photo(130, 200), io.BytesIO()
    Image.fromarray(picture).save(file, "SGC", target_size=1500)
    assert file.getvalue() == sgc.encode(picture, target_size=1500)
    assert file.getvalue() == iio.imwrite("<bytes>", picture, extension=".sgc", target_size=1500)
    with pytest.raises(ValueError, match="animations"):
        sgc.encode_animation([picture, picture], target_size=900)


@given(
    st.floats(0.1, 3), st.integers(100, 30000), st.integers(30001, 65535), st.floats(-1, 2), st.sampled_from([-0.015, 0.05]),
    st.floats(0, 0.3),
)  # fmt: skip
def test_the_search_ends_on_the_right_side(
    steepness: float, low: int, high: int, share: float, slack: float, bend: float
) -> None:
    """In few trials, for any rising function."""
    asked = []

    def value(rate: int) -> float:
        asked.append(rate)
        return steepness * (rate / 4096 + bend * math.sin(rate / 9000))

    goal = steepness * (low + share * (high - low)) / 4096
    found = _search(value, goal, 0.45, low, high, slack)
    assert len(asked) <= TRIALS + 1
    possible: Callable[[int], bool] = lambda rate: value(rate) <= goal if slack < 0 else value(rate) >= goal  # noqa: E731
    assert all(low <= rate <= high for rate in asked)
    if found is None:
        assert not possible(low if slack < 0 else high)
    else:
        assert possible(found)


@given(share=st.floats(0.15, 0.85), flat=st.floats(0, 0.95), bend=st.floats(0, 0.4))
def test_targets_are_met_where_much_of_a_file_is_fixed(share: float, flat: float, bend: float) -> None:
    """Metadata that no rate changes leave a curve a fraction of the slope that pictures have."""

    def value(rate: int) -> float:
        picture = math.exp(0.45 * rate / 4096 + bend * math.sin(rate / 9000))
        return math.log(flat / (1 - flat) * math.exp(0.45 * 5) + picture)

    goal = value(round(65535 * share))
    found = _search(value, goal, 0.45, 0, 65535, -0.015)
    assert found is not None
    assert goal - 0.03 <= value(found) <= goal


@given(st.integers(0, 30000), st.integers(30001, 65535), st.floats(0, 1), st.floats(30, 80), st.floats(20, 60))
def test_where_nothing_differs(low: int, high: int, share: float, goal: float, under: float) -> None:
    """A picture may have no error from some rate on: what is found was tried, and meets the goal."""
    exact, tried = low + share * (high - low), {}

    def value(rate: int) -> float:
        tried[rate] = math.inf if rate >= exact else min(under, goal - 1)
        return tried[rate]

    found = _search(value, goal, 3.0, low, high, 0.05)
    assert found is not None
    assert tried[found] == math.inf


def test_a_quality_counts_for_nothing_beside_a_target() -> None:
    """Neither for a preview nor for what is seen in the picture."""
    picture = photo(90, 120)
    files = {sgc.encode(picture, quality, target_size=2500, preview=True, roi="auto") for quality in (10, 90)}
    assert len(files) == 1
