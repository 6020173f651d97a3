"""Planes of bytes, losslessly, from coarse to fine: alpha channels, and pictures in black and white.

Strategy: every pass doubles the resolution in one direction, so that all values of a pass have known neighbours on both
sides and are coded at once. A value is its first neighbour's, its second neighbour's, or another; which one, and what other,
is coded with counts of what stood in the same surroundings before. Integers alone: planes are equal on every machine.

Source: context modelling and binary counts after Rissanen & Langdon (1981); passes like those of interlaced PNG.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from ..errors import FormatError
from .coder import StreamDecoder, StreamEncoder
from .tables import TOTAL

PlaneOfBytes = NDArray[np.uint8]
Counts = NDArray[np.int64]

FIRST, SECOND, OTHER = range(3)  # what a value is equal to
OTHERS = 6  # neighbours beside the two
PATTERNS = 2 ** (OTHERS + 1)
SPREADS = (0, 8, 64)  # largest difference within a class of surroundings of the choice
FINE_SPREADS = (0, 1, 2, 4, 8, 16, 32, 64, 128)  # and of the residual
COARSE, FINE = (np.searchsorted(s, np.arange(256)).astype(np.uint16) for s in (SPREADS, FINE_SPREADS))  # classes
PART = 2048  # values of a pass from which on counts are brought up to date in the middle of it
LARGEST_COUNT = 2**20
GAIN = 4


class _Model:
    """Counts of both decisions, and the tables that follow from them."""

    def __init__(self, bilevel: bool) -> None:
        self.choices = np.ones((3 * PATTERNS * (len(SPREADS) + 1), 2 if bilevel else 3), np.int64)
        self.choices[PATTERNS - 1 :: PATTERNS, FIRST] = 8
        distance = np.minimum(np.arange(256), 256 - np.arange(256))
        self.residuals = np.tile(1 + 16 // (1 + distance), (len(FINE_SPREADS) + 1, 1)).astype(np.int64)

    @staticmethod
    def tables(counts: Counts, contexts: NDArray[np.intp]) -> NDArray[np.float64]:
        """Of every context positive frequencies that sum to 2**16, the first of the most frequent taking what rounding
        leaves.
        """
        counts = counts[contexts]
        free = TOTAL - counts.shape[1]
        frequencies = 1 + counts * free // counts.sum(1, keepdims=True)
        frequencies[np.arange(len(counts)), counts.argmax(1)] += TOTAL - frequencies.sum(1)
        result: NDArray[np.float64] = frequencies.astype(np.float64)
        return result

    def choice(self, contexts: NDArray[np.intp]) -> NDArray[np.float64]:
        return self.tables(self.choices, contexts)

    def residual(self, contexts: NDArray[np.intp]) -> NDArray[np.float64]:
        return self.tables(self.residuals, contexts)

    @staticmethod
    def learn(counts: Counts, contexts: NDArray[np.uint16], symbols: NDArray[np.integer]) -> None:
        size = counts.shape[1]
        seen = np.bincount(contexts.astype(np.intp) * size + symbols, minlength=counts.size).reshape(counts.shape)
        counts += GAIN * seen
        full = counts.sum(1) > LARGEST_COUNT
        counts[full] = (counts[full] + 1) // 2


def _framed(known: PlaneOfBytes) -> PlaneOfBytes:
    """With its border repeated, as far as ``_shifted`` looks."""
    return np.pad(known, ((1, 2), (1, 2)), "edge")


def _shifted(framed: PlaneOfBytes, rows: int, columns: int, count: tuple[int, int]) -> PlaneOfBytes:
    """What was framed, from (rows, columns) on, -1 to 2, [count]."""
    return framed[1 + rows : 1 + rows + count[0], 1 + columns : 1 + columns + count[1]]


Surroundings = tuple[list[PlaneOfBytes], NDArray[np.int16]]  # the two neighbours, then others; and a guess


def _passes(plane: PlaneOfBytes) -> Iterator[tuple[int, PlaneOfBytes, Callable[[], Surroundings]]]:
    """(kind, the values of a pass as a view of ``plane``, what surrounds them) in coding order.

    Surroundings are computed when called, from values of earlier passes alone.
    """
    step = 1 << (max(plane.shape) - 1).bit_length() if max(plane.shape) > 1 else 1
    while step > 1:
        half = step // 2
        even, between = plane[::step, ::step], plane[half::step, ::step]  # rows between rows
        if between.size:
            yield 0, between, lambda e=even, n=between.shape: _between(e, e, n)  # type: ignore[misc]
        right = plane[::step, half::step]
        if right.size:
            yield 1, right, lambda e=even, b=between, n=right.shape: _between(e.T, b.T, n[::-1], True)  # type: ignore[misc]
        middle = plane[half::step, half::step]
        if middle.size:
            yield 2, middle, lambda e=even, b=between, r=right, n=middle.shape: _amid(e, b, r, n)  # type: ignore[misc]
        step = half


def _between(known: PlaneOfBytes, diagonal: PlaneOfBytes, count: tuple[int, int], turned: bool = False) -> Surroundings:
    """Of rows between the rows of ``known``. ``diagonal`` lies between its columns, or is ``known`` itself."""
    framed = _framed(known)
    first, second, before, behind = (_shifted(framed, k, 0, count) for k in (0, 1, -1, 2))
    if diagonal is known:  # the nearest of the next columns
        others = [_shifted(framed, i, j, count) for i in (0, 1) for j in (-1, 1)]
    elif diagonal.size:
        framed = _framed(diagonal)
        others = [_shifted(framed, i, j, count) for i in (0, 1) for j in (-1, 0)]
    else:
        others = [first, first, second, second]
    guess = _cubic([first, second], [before, behind])
    values = [first, second, *others, before, behind]
    return ([v.T for v in values], guess.T) if turned else (values, guess)


def _cubic(near: list[PlaneOfBytes], far: list[PlaneOfBytes]) -> NDArray[np.int16]:
    """Cubic interpolation between values at one and at three steps on both sides, rounded and kept within bytes."""
    total = 9 * sum(v.astype(np.int16) for v in near) - sum(v.astype(np.int16) for v in far)
    shift = 3 + len(near) // 2
    guess: NDArray[np.int16] = np.clip((total + (1 << (shift - 1))) >> shift, 0, 255)
    return guess


def _amid(even: PlaneOfBytes, between: PlaneOfBytes, right: PlaneOfBytes, count: tuple[int, int]) -> Surroundings:
    """Of what has known values on all eight sides."""
    even, between, right = (_framed(known) for known in (even, between, right))
    first, second = (_shifted(between, 0, j, count) for j in (0, 1))
    above, below = (_shifted(right, i, 0, count) for i in (0, 1))
    corners = [_shifted(even, i, j, count) for i in (0, 1) for j in (0, 1)]
    farther = [_shifted(between, 0, j, count) for j in (-1, 2)] + [_shifted(right, i, 0, count) for i in (-1, 2)]
    guess = _cubic([first, second, above, below], farther)
    return [first, second, above, below, *corners], guess


def _contexts(kind: int, values: list[PlaneOfBytes]) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """(contexts of the choice, contexts of the residual), flat; of 16 bits they are sorted fast."""
    first = values[0]
    pattern = np.zeros(first.shape, np.uint8)
    low, high = first, first
    for value in values[1:]:
        pattern = pattern * 2 + (value == first)
        low, high = np.minimum(low, value), np.maximum(high, value)
    spread = high - low
    choice = (kind * (len(SPREADS) + 1) + COARSE[spread]) * PATTERNS + pattern
    return choice.ravel(), FINE[spread].ravel()


def _parts(size: int) -> Iterator[slice]:
    """Stretches of a pass, each longer than the one before."""
    start = 0
    while start < size:
        end = size if size < PART else min(size, max(size // 8, 3 * start))
        yield slice(start, end)
        start = end


def encode_plane(encoder: StreamEncoder, plane: PlaneOfBytes, bilevel: bool = False) -> None:
    """Code uint8 [H, W].

    Args:
        bilevel: there are no values but 0 and 255: what is not the first neighbour's is the other one.
    """
    model = _Model(bilevel)
    encoder.encode_uniform(plane[:1, :1].ravel().astype(np.int32), 256)
    for kind, values, surroundings in _passes(plane):
        neighbours, guess = surroundings()
        choices, finer = _contexts(kind, neighbours)
        first, second, flat, guesses = (a.ravel() for a in (neighbours[0], neighbours[1], values, guess))
        symbols = np.where(flat == first, FIRST, np.where((flat == second) | bilevel, SECOND, OTHER))
        for part in _parts(flat.size):
            context, symbol = choices[part], symbols[part]
            encoder.encode_counted(symbol, context, model.choice)
            model.learn(model.choices, context, symbol)
            rest = np.flatnonzero(symbol == OTHER) + part.start
            residuals = (flat[rest].astype(np.intp) - guesses[rest]) & 255
            encoder.encode_counted(residuals, finer[rest], model.residual)
            model.learn(model.residuals, finer[rest], residuals)


def decode_plane(decoder: StreamDecoder, shape: tuple[int, int], bilevel: bool = False) -> PlaneOfBytes:
    """Mirror of ``encode_plane``.

    Raises:
        FormatError: the stream cannot have been made by an encoder.
    """
    model, plane = _Model(bilevel), np.zeros(shape, np.uint8)
    plane[0, 0] = decoder.decode_uniform(1, 256)[0]
    for kind, values, surroundings in _passes(plane):
        neighbours, guess = surroundings()
        choices, finer = _contexts(kind, neighbours)
        first, second, guesses = (a.ravel() for a in (neighbours[0], neighbours[1], guess))
        flat = np.empty(first.size, np.uint8)
        for part in _parts(flat.size):
            context = choices[part]
            symbol = decoder.decode_counted(context, model.choice)
            model.learn(model.choices, context, symbol)
            if bilevel:
                flat[part] = np.where(symbol == FIRST, first[part], 255 - first[part])
                continue
            rest = np.flatnonzero(symbol == OTHER) + part.start
            residuals = decoder.decode_counted(finer[rest], model.residual)
            model.learn(model.residuals, finer[rest], residuals)
            flat[part] = np.where(symbol == FIRST, first[part], second[part])
            flat[rest] = (guesses[rest] + residuals) & 255
            if (flat[rest] == first[rest]).any():  # said to be another
                raise FormatError("a plane is not coded as it should be")
        values[...] = flat.reshape(values.shape)
    return plane
