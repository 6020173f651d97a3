"""More than 8 bits: numbers ↔ levels, floats from 0 to 255, as the networks know them.

A file says which numbers level 0 and level 255 stand for. What an encoder chooses: whole numbers are coded as so many bits
as their largest one has, so that a picture of 12 bits kept in 16 is coded as well as if it filled them; floats from 0 to 1,
or to 255, as those; and what fills less than a quarter of that, or leaves it, as the range that it has.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .container import FLOAT, LARGEST_FLOAT, SIGNED, UNSIGNED, Numbers

DTYPES: dict[int, np.dtype[Any]] = {UNSIGNED: np.dtype(np.uint16), SIGNED: np.dtype(np.int32), FLOAT: np.dtype(np.float32)}
KINDS = {dtype: kind for kind, dtype in DTYPES.items()}
ROWS_AT_ONCE = 2**20  # numbers
SIXTEEN_BITS = Numbers(UNSIGNED, 0.0, 65535.0)  # what 8 bits stand for where a reader has no more
LEAST_FILLED = 0.25  # of a usual range, for it to be taken


def numbers_of(picture: Any) -> Numbers:
    """How a picture's numbers are coded; it is read once, band by band.

    Raises:
        ValueError: a number that is not finite.
    """
    height, width = picture.shape[:2]
    rows = max(1, ROWS_AT_ONCE // width)
    low, high = math.inf, -math.inf
    for top in range(0, height, rows):
        band = np.asarray(picture[top : min(top + rows, height), 0:width])
        least, most = float(band.min()), float(band.max())
        if not (math.isfinite(least) and math.isfinite(most)):
            raise ValueError("cannot write a picture with NaN or infinite values")
        low, high = min(low, least), max(high, most)
    return Numbers(KINDS[picture.dtype], *_range(picture.dtype, low, high))


def _range(dtype: np.dtype[Any], low: float, high: float) -> tuple[float, float]:
    of_floats = 1.0 if high <= 1 else 255.0
    usual = of_floats if dtype.kind == "f" else 2.0 ** max(8, int(max(high, 0)).bit_length()) - 1
    if low >= 0 and high <= usual and high - low >= LEAST_FILLED * usual:
        return 0.0, usual
    if high > low:
        return low, high
    # So little that all levels become one number, whatever the networks make of level 0.
    apart = max(abs(low) * 2.0**-26, 2.0**-200) if dtype.kind == "f" else 1.0
    return (low, low + apart) if low + apart <= LARGEST_FLOAT else (low - apart, low)


class Levels:
    """A picture of numbers as one of levels, float32: boxes are cut out of it like out of an array."""

    def __init__(self, picture: Any, numbers: Numbers) -> None:
        self.picture, self.numbers = picture, numbers
        self.shape, self.dtype = picture.shape, np.dtype(np.float32)

    def __getitem__(self, at: Any) -> NDArray[np.float32]:
        low, high = self.numbers.low, self.numbers.high
        values = np.asarray(self.picture[at]).astype(np.float64)
        return ((values - low) * (255 / (high - low))).astype(np.float32)


class FromLevels:
    """Takes levels and passes numbers on; or, for readers that have 8 bits, bytes.

    Args:
        shown: numbers whose range 8 bits stand for.
    """

    def __init__(self, out: Any, numbers: Numbers, shown: Numbers | None = None) -> None:
        self.out, self.numbers, self.shown = out, numbers, shown

    def __setitem__(self, at: Any, levels: NDArray[np.float32]) -> None:
        low, high, dtype = self.numbers.low, self.numbers.high, DTYPES[self.numbers.kind]
        values = levels.astype(np.float64) * ((high - low) / 255) + low
        if self.shown is not None:
            values = (values - self.shown.low) * (255 / (self.shown.high - self.shown.low))
            dtype = np.dtype(np.uint8)
        if dtype.kind != "f":
            limits = np.iinfo(dtype)
            values = np.clip(np.rint(values), limits.min, limits.max)
        self.out[at] = values.astype(dtype)


class AsRead:
    """Takes levels and passes on those that a reader gets, who has whole numbers where the picture does."""

    def __init__(self, out: Any, numbers: Numbers) -> None:
        self.out, self.numbers = out, numbers

    def __setitem__(self, at: Any, levels: NDArray[np.float32]) -> None:
        read = np.empty(levels.shape, DTYPES[self.numbers.kind])
        FromLevels(read, self.numbers)[...] = levels
        self.out[at] = Levels(read, self.numbers)[...]
