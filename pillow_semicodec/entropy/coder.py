"""The range coder: values grouped by table index ↔ bytes, over constriction.

Strategy: symbols are sorted by table index (stable), so that each table codes its symbols in one call. Values that a
table does not hold are coded as its escape symbol; what they were follows behind all groups. Both directions walk
the same groups in the same order; ``_groups`` is the one place that says which.

Source: range coding after Martin (1979), implemented by constriction (Bamler, arXiv 2201.01741).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

from ..errors import FormatError
from .tables import TableSet

Values = NDArray[np.int32]
Tables = Callable[[NDArray[np.intp]], NDArray[np.float64]]  # contexts [K] → their frequencies [K, symbols]
MAGNITUDE_LIMIT = 2**22  # escapes beyond it cannot be coded; pixels reach some thousand quantisation steps
_CLASSES = constriction.stream.model.Uniform(32)
_MANTISSAS = constriction.stream.model.Uniform()


class TableModels:
    """A TableSet together with constriction's models of its tables, made when first used."""

    def __init__(self, tables: TableSet) -> None:
        self.tables = tables
        self._starts = np.concatenate([[0], np.cumsum(tables.sizes)])
        self._models: dict[int, constriction.stream.model.Categorical] = {}

    def model(self, k: int) -> constriction.stream.model.Categorical:
        if k not in self._models:
            # Frequencies are integers below 2**24, so the floats that constriction takes hold them exactly.
            self._models[k] = _categorical(self.tables.frequencies[self._starts[k] : self._starts[k + 1]].astype(np.float64))
        return self._models[k]


def _categorical(frequencies: NDArray[np.float64]) -> Any:
    return constriction.stream.model.Categorical(frequencies, lazy=False, perfect=False)


class StreamEncoder:
    """Codes arrays of values, one after another, into one stream."""

    def __init__(self) -> None:
        self._coder = constriction.stream.queue.RangeEncoder()

    def encode(self, values: Values, indexes: NDArray[np.integer], models: TableModels) -> None:
        """Code ``values`` [N], each with table ``indexes`` [N].

        Raises:
            ValueError: a value that its table cannot express: beyond 2**22, or not 0 where nothing is coded.
        """
        if values.size and int(np.abs(values).max()) > MAGNITUDE_LIMIT:
            raise ValueError("a latent is too large to be coded")
        order, present, runs = _groups(indexes)
        ordered = values[order]
        escapes = []
        for k, (start, end) in zip(present.tolist(), runs, strict=True):
            group, size = ordered[start:end], int(models.tables.sizes[k])
            if not size:
                if group.any():
                    raise ValueError("a latent that its table holds to be zero is not")
                continue
            symbols = group - models.tables.minimums[k]
            outside = (symbols < 0) | (symbols >= size - 1)
            if outside.any():
                escapes.append(group[outside])
                symbols = np.where(outside, size - 1, symbols)
            self._coder.encode(symbols.astype(np.int32, copy=False), models.model(k))
        if escapes:
            self._encode_escapes(np.concatenate(escapes))

    def _encode_escapes(self, values: Values) -> None:
        folded = np.where(values < 0, -2 * values - 1, 2 * values) + 1  # ≥ 1
        classes = np.floor(np.log2(folded)).astype(np.int32)
        self._coder.encode(classes, _CLASSES)
        wide = classes > 0
        if wide.any():
            sizes = (1 << classes[wide]).astype(np.int32)
            self._coder.encode((folded[wide] - sizes).astype(np.int32), _MANTISSAS, sizes)

    def encode_uniform(self, symbols: Values, size: int) -> None:
        """Code symbols [N] of ``size`` equally probable ones."""
        self._coder.encode(symbols, constriction.stream.model.Uniform(size))

    def encode_counted(self, symbols: NDArray[np.integer], contexts: NDArray[np.integer], tables: Tables) -> None:
        """Code ``symbols`` [N], each with the frequencies, which sum to 2**16, of its context [N]."""
        order, present, runs = _groups(contexts)
        ordered = symbols[order].astype(np.int32)
        for table, (start, end) in zip(tables(present), runs, strict=True):
            self._coder.encode(ordered[start:end], _categorical(table))

    def finish(self) -> bytes:
        """The stream: 32-bit words, little-endian."""
        stream: bytes = self._coder.get_compressed().astype("<u4").tobytes()
        return stream


class StreamDecoder:
    """Mirror of StreamEncoder.

    Args:
        cut: the stream may lack its end; what is not certain without it is decoded as 0.
    """

    def __init__(self, stream: bytes, cut: bool = False) -> None:
        if len(stream) % 4 and not cut:
            raise FormatError("an entropy-coded stream is not a whole number of words")
        words = np.frombuffer(stream[: len(stream) // 4 * 4], "<u4").astype(np.uint32)
        self._coder = constriction.stream.queue.RangeDecoder(words)
        # Words that are missing count as zeros. Symbols that zeros and ones in their place agree on do not depend on them.
        ones = np.full(4, 2**32 - 1, np.uint32)
        self._other = constriction.stream.queue.RangeDecoder(np.concatenate([words, ones])) if cut else None
        self.ended = False  # something was asked for that a cut stream does not say

    @property
    def cut(self) -> bool:
        return self._other is not None

    def _take(self, *arguments: Any) -> Values:
        """As many symbols as were asked for, or those that are certain."""
        if self._other is None:
            return _checked(self._coder.decode, *arguments)
        if self.ended:
            return np.empty(0, np.int32)
        try:
            symbols, others = (_checked(coder.decode, *arguments) for coder in (self._coder, self._other))
        except FormatError:
            symbols, others = np.zeros(1, np.int32), np.ones(1, np.int32)
        differing = np.flatnonzero(symbols != others)
        self.ended = bool(len(differing))
        return symbols[: differing[0]] if self.ended else symbols

    def decode(self, indexes: NDArray[np.integer], models: TableModels) -> Values:
        """Values [N] for table ``indexes`` [N].

        Raises:
            FormatError: the stream cannot have been made by an encoder.
        """
        order, present, runs = _groups(indexes)
        ordered = np.zeros(len(indexes), np.int32)
        escapes = []
        for k, (start, end) in zip(present.tolist(), runs, strict=True):
            size = int(models.tables.sizes[k])
            if not size:
                continue
            symbols = self._take(models.model(k), end - start)
            ordered[start : start + len(symbols)] = symbols + models.tables.minimums[k]
            escapes.append(start + np.flatnonzero(symbols == size - 1))
        if escapes:
            positions = np.concatenate(escapes)
            if len(positions):
                ordered[positions] = self._decode_escapes(len(positions))
        values = np.empty_like(ordered)
        values[order] = ordered
        return values

    def _decode_escapes(self, count: int) -> Values:
        classes = self._take(_CLASSES, count)
        if len(classes) and classes.max() > 23:
            if self._other is not None:
                return np.zeros(count, np.int32)
            raise FormatError("an escaped value is out of range")
        folded = (1 << classes).astype(np.int32)
        wide = classes > 0
        if wide.any():
            mantissas = self._take(_MANTISSAS, folded[wide].copy())
            folded[wide] = np.where(np.arange(wide.sum()) < len(mantissas), folded[wide], 1)
            folded[np.flatnonzero(wide)[: len(mantissas)]] += mantissas
        folded -= 1
        values = np.zeros(count, np.int32)
        values[: len(folded)] = np.where(folded & 1, -(folded + 1) // 2, folded // 2)
        if int(np.abs(values).max()) > MAGNITUDE_LIMIT:
            if self._other is not None:
                return np.zeros(count, np.int32)
            raise FormatError("an escaped value is out of range")
        return values

    def decode_uniform(self, count: int, size: int) -> Values:
        return _checked(self._coder.decode, constriction.stream.model.Uniform(size), count)

    def decode_counted(self, contexts: NDArray[np.integer], tables: Tables) -> Values:
        order, present, runs = _groups(contexts)
        symbols = np.empty(len(contexts), np.int32)
        for table, (start, end) in zip(tables(present), runs, strict=True):
            symbols[order[start:end]] = _checked(self._coder.decode, _categorical(table), end - start)
        return symbols

    def finish(self) -> None:
        """Raise FormatError if the stream holds more than was decoded."""
        if self._other is None and not self._coder.maybe_exhausted():
            raise FormatError("an entropy-coded stream is longer than its picture")


def _groups(indexes: NDArray[np.integer]) -> tuple[NDArray[np.intp], NDArray[np.intp], list[tuple[int, int]]]:
    """(stable order by table index, the indexes that there are, the run (start, end) of each in that order)."""
    order = np.argsort(indexes, kind="stable")
    counts = np.bincount(indexes) if len(indexes) else np.zeros(0, np.intp)
    present = np.flatnonzero(counts)
    ends = np.cumsum(counts[present])
    return order, present, list(zip((ends - counts[present]).tolist(), ends.tolist(), strict=True))


def _checked(decode: object, *arguments: object) -> Values:
    """constriction states an impossible stream as an AssertionError; here it is the file's fault."""
    try:
        return decode(*arguments)  # type: ignore[operator, no-any-return]
    except AssertionError as error:
        raise FormatError(f"an entropy-coded stream is invalid: {error}") from error
