"""Integer frequency tables: the only probabilities there are at run time.

A table is a run of consecutive symbols with positive integer frequencies, the last of them an escape; frequencies sum
to 2**16. Tables are data of a model bundle, built once at export; nothing here computes one from a formula at run time.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from ..errors import BundleError

TOTAL = 2**16
Frequencies = NDArray[np.uint32]


@dataclasses.dataclass(frozen=True)
class TableSet:
    """Tables behind one another: table k has ``sizes[k]`` frequencies and starts at value ``minimums[k]``.

    Attributes:
        minimums: int32 [K], the value of each table's first symbol.
        sizes: int32 [K], symbols of each table, the escape counted in; 0 marks a table that codes nothing: every
            value is then 0.
        frequencies: uint32 [sum of sizes].
    """

    minimums: NDArray[np.int32]
    sizes: NDArray[np.int32]
    frequencies: Frequencies

    def __len__(self) -> int:
        return len(self.sizes)

    def check(self) -> None:
        """Raise BundleError unless every table is complete, positive and sums to 2**16."""
        if self.minimums.shape != self.sizes.shape or (self.sizes < 0).any() or (self.sizes == 1).any():
            raise BundleError("probability tables: sizes are wrong")
        if int(self.sizes.sum()) != len(self.frequencies) or (self.frequencies == 0).any():
            raise BundleError("probability tables: frequencies are missing or zero")
        coding = np.flatnonzero(self.sizes)
        starts = (np.cumsum(self.sizes) - self.sizes)[coding]
        sums = np.add.reduceat(self.frequencies, starts, dtype=np.int64) if len(coding) else starts
        for k in coding[sums != TOTAL]:
            raise BundleError(f"probability table {k} does not sum to {TOTAL}")

    def table(self, k: int) -> Frequencies:
        end = int(self.sizes[: k + 1].sum())
        table: Frequencies = self.frequencies[end - int(self.sizes[k]) : end]
        return table

    def split(self, count: int) -> list[TableSet]:
        """Sets of ``count`` tables each, in order; ``count`` divides how many there are."""
        ends = np.concatenate([[0], np.cumsum(self.sizes)])[::count]
        parts = (slice(k, k + count) for k in range(0, len(self), count))
        return [
            TableSet(self.minimums[part], self.sizes[part], self.frequencies[start:end])
            for part, start, end in zip(parts, ends[:-1], ends[1:], strict=True)
        ]

    def bits(self, k: int, values: NDArray[np.int32]) -> NDArray[np.float64]:
        """Ideal code length of each value under table ``k``, the escape's extra bits counted as the coder codes them."""
        if not self.sizes[k]:
            return np.zeros(values.shape)
        table = self.table(k)
        symbols = values.astype(np.int64) - int(self.minimums[k])
        escaped = (symbols < 0) | (symbols >= len(table) - 1)
        bits = -np.log2(table[np.where(escaped, len(table) - 1, symbols)] / TOTAL)
        return bits + np.where(escaped, escape_bits(values), 0)


def escape_bits(values: NDArray[np.int32]) -> NDArray[np.float64]:
    """Bits of the escape code: a class of 32, then the magnitude's bits below its leading one, then the sign."""
    folded = np.where(values < 0, -2 * values.astype(np.int64) - 1, 2 * values.astype(np.int64)) + 1
    bits: NDArray[np.float64] = 5.0 + np.floor(np.log2(folded))
    return bits


def quantise(probabilities: NDArray[np.float64]) -> Frequencies:
    """Positive integer frequencies that sum to 2**16, proportional to ``probabilities`` as nearly as may be."""
    free = TOTAL - len(probabilities)
    exact = probabilities / probabilities.sum() * free
    counts = np.floor(exact).astype(np.int64)
    remainder = np.argsort(counts - exact, kind="stable")[: free - int(counts.sum())]
    counts[remainder] += 1
    frequencies: Frequencies = (counts + 1).astype(np.uint32)
    return frequencies


def join(tables: list[tuple[int, Frequencies]]) -> TableSet:
    """A TableSet of (value of the first symbol, frequencies) pairs."""
    result = TableSet(
        np.array([minimum for minimum, _ in tables], np.int32),
        np.array([len(frequencies) for _, frequencies in tables], np.int32),
        np.concatenate([frequencies for _, frequencies in tables]).astype(np.uint32),
    )
    result.check()
    return result
