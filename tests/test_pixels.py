"""Pictures made smaller by means of squares."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from conftest import photo
from hypothesis import given
from hypothesis import strategies as st

from pillow_semicodec import pixels


@given(
    st.integers(1, 60),
    st.integers(1, 60),
    st.sampled_from([2, 4, 8, 64, 1024]),
    st.sampled_from([1, 3, 4]),
    st.sampled_from([np.uint8, np.uint16, np.int32, np.float32, np.bool_]),
)
def test_means_of_squares(height: int, width: int, scale: int, bands: int, dtype: type) -> None:
    """Every pixel is the mean of its square, rounded once, squares at the border of what there is; alpha weighs colours."""
    most = {np.uint8: 256, np.bool_: 2}.get(dtype, 65536)
    picture = np.random.default_rng(height * width).integers(0, most, (height, width, bands)).astype(dtype)
    small = pixels.reduced(picture if bands > 1 else picture[:, :, 0], scale, bands == 4)
    assert small.shape == (-(-height // scale), -(-width // scale), bands)[: 3 if bands > 1 else 2]
    for i, j in np.ndindex(*small.shape[:2]):
        at = slice(i * scale, (i + 1) * scale), slice(j * scale, (j + 1) * scale)
        square = picture[at].reshape(-1, bands).astype(float)
        sums, weights = square.sum(0), np.full(bands, float(len(square)))
        if bands == 4:
            sums[:3], weights[:3] = square[:, :3].T @ square[:, 3], max(square[:, 3].sum(), 1)
        mean = sums / weights + (1e-9 if dtype is np.bool_ else 0)
        expected = mean.astype(dtype) if dtype is np.float32 else np.rint(mean).astype(dtype)
        assert np.array_equal(small[i, j], expected if bands > 1 else expected[0])


def test_narrow_pictures_ask_for_little_memory() -> None:
    """A square may be 32768 pixels a side; only what there is of it is summed."""
    tracemalloc.start()
    try:
        small = pixels.reduced(np.full((3, 70_000, 3), 9, np.uint8), 32768, False)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()
    assert np.array_equal(small, np.full((1, 3, 3), 9, np.uint8))


@pytest.mark.parametrize("shape", [(64, 9000, 3), (9000, 64, 3), (1100, 1300, 3)])
def test_blocks_leave_no_trace_and_bound_memory(shape: tuple[int, ...]) -> None:
    """However long a picture is, little of it is asked for at a time."""
    whole, largest = np.resize(photo(100, 130), shape), 0

    class Provider:
        dtype = whole.dtype

        def __getitem__(self, at: tuple[slice, slice]) -> np.ndarray:
            nonlocal largest
            largest = max(largest, whole[at].shape[0] * whole[at].shape[1])
            return whole[at]

    provider = Provider()
    provider.shape = shape
    small = pixels.reduced(provider, 16, False)
    assert largest <= 512**2
    rows = whole[: shape[0] // 16 * 16, : shape[1] // 16 * 16].reshape(shape[0] // 16, 16, shape[1] // 16, 16, 3)
    expected = np.rint(rows.mean((1, 3)))
    assert np.array_equal(small[: shape[0] // 16, : shape[1] // 16], expected)
