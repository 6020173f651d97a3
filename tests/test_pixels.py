"""Pictures made smaller by means of squares."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import photo
from hypothesis import given
from hypothesis import strategies as st

from pillow_semicodec import pixels


@given(st.integers(1, 60), st.integers(1, 60), st.sampled_from([2, 4, 8, 64]), st.sampled_from([1, 3, 4]))
def test_means_of_squares(height: int, width: int, scale: int, bands: int) -> None:
    """Every pixel is the mean of its square, squares at the border of what there is; alpha weighs colours."""
    picture = np.random.default_rng(height * width).integers(0, 256, (height, width, bands), dtype=np.uint8)
    small = pixels.reduced(picture if bands > 1 else picture[:, :, 0], scale, bands == 4)
    assert small.shape == (-(-height // scale), -(-width // scale), bands)[: 3 if bands > 1 else 2]
    square = picture[:scale, :scale].reshape(-1, bands).astype(float)
    if bands == 4:
        expected = [(square[:, c] @ square[:, 3]) / max(square[:, 3].sum(), 1) for c in range(3)] + [square[:, 3].mean()]
    else:
        expected = square.mean(0)
    assert np.abs(small[0, 0] - expected).max() <= 0.5 + 1e-9


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
