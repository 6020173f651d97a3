"""Planes: tensors over a whole picture, computed slice by slice when first read, and forgotten when left behind.

Strategy: every network of the codec reads a window of the plane before it, as much larger than what it computes as its
receptive field asks for, and cut at the picture's border. So a picture in slices equals the picture in one piece,
memory is bounded by a few rows of slices, a region pulls only the slices it needs, and slices are computed in parallel.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple
from weakref import WeakMethod

import numpy as np
from numpy.typing import NDArray

Arrays = tuple[NDArray[Any], ...]  # each [C, rows, columns], of one box


class Box(NamedTuple):
    """Positions from (top, left) up to, but without, (bottom, right)."""

    top: int
    left: int
    bottom: int
    right: int

    def grown(self, top_left: int, bottom_right: int, bounds: Box) -> Box:
        """Larger by so many positions, cut at ``bounds``."""
        return Box(
            max(self.top - top_left, bounds.top),
            max(self.left - top_left, bounds.left),
            min(self.bottom + bottom_right, bounds.bottom),
            min(self.right + bottom_right, bounds.right),
        )

    def scaled(self, factor: int) -> Box:
        return Box(*(n * factor for n in self))

    def divided(self, divisor: int) -> Box:
        """The coarser positions that it touches."""
        return Box(self.top // divisor, self.left // divisor, -(-self.bottom // divisor), -(-self.right // divisor))

    def within(self, outer: Box) -> tuple[slice, slice]:
        """Rows and columns of an array that covers ``outer``."""
        return (
            slice(self.top - outer.top, self.bottom - outer.top),
            slice(self.left - outer.left, self.right - outer.left),
        )

    @property
    def shape(self) -> tuple[int, int]:
        return self.bottom - self.top, self.right - self.left


class Grid(NamedTuple):
    """``rows`` x ``columns`` positions cut into squares of ``side``; those of the last row and column may be smaller."""

    rows: int
    columns: int
    side: int

    @property
    def bounds(self) -> Box:
        return Box(0, 0, self.rows, self.columns)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of squares."""
        return -(-self.rows // self.side), -(-self.columns // self.side)

    def box(self, i: int, j: int) -> Box:
        return Box(i, j, i + 1, j + 1).scaled(self.side).grown(0, 0, self.bounds)

    def squares(self, box: Box) -> Iterator[tuple[int, int]]:
        """Those that ``box`` touches, in raster order."""
        touched = box.divided(self.side)
        return ((i, j) for i in range(touched.top, touched.bottom) for j in range(touched.left, touched.right))

    def number(self, i: int, j: int) -> int:
        """Place of a square in raster order."""
        return i * self.shape[1] + j


class Plane:
    """Arrays over a grid; ``make(i, j, box)`` computes those of one square. Safe to read from several threads."""

    def __init__(self, grid: Grid, make: Callable[[int, int, Box], Arrays]) -> None:
        self.grid, self._make = grid, make
        self._squares: dict[tuple[int, int], Future[Arrays]] = {}
        self._lock = threading.Lock()

    def read(self, box: Box) -> Arrays:
        """The arrays of ``box``, which lies within the grid."""
        squares = list(self.grid.squares(box))
        begun = [self._begin(i, j) for i, j in squares]  # all, so that threads do not wait for each other in step
        pieces = []
        try:
            for k, (i, j) in enumerate(squares):
                pieces.append((self.grid.box(i, j), begun[k].result()))
        finally:
            begun.clear()
        if len(pieces) == 1:
            outer, arrays = pieces[0]
            return arrays if outer == box else tuple(a[:, *box.within(outer)] for a in arrays)
        out = tuple(np.empty((a.shape[0], *box.shape), a.dtype) for a in pieces[0][1])
        for outer, arrays in pieces:
            common = Box(*map(max, outer[:2], box[:2]), *map(min, outer[2:], box[2:]))
            for target, source in zip(out, arrays, strict=True):
                target[:, *common.within(box)] = source[:, *common.within(outer)]
        return out

    def _begin(self, i: int, j: int) -> Future[Arrays]:
        """Make a square here and now, unless somebody does or did.

        No frame that an error's traceback leads to keeps what leads to the error, here and below: pictures would stay in
        memory until a collector comes by.
        """
        with self._lock:
            future = self._squares.get((i, j))
            if future is not None:
                return future
            future = self._squares[i, j] = Future()
        try:
            future.set_result(self._make(i, j, self.grid.box(i, j)))
        except BaseException as error:  # whoever waits for it must hear of it
            with self._lock:
                self._squares.pop((i, j), None)
            future.set_exception(error)
        try:
            return future
        finally:
            del future

    def forget(self, before: int, axis: int) -> None:
        """Let go of rows (``axis`` 0) or columns (1) of squares that lie before a position."""
        with self._lock:
            for key in [k for k in self._squares if (k[axis] + 1) * self.grid.side <= before]:
                del self._squares[key]


def weakly(make: Callable[[int, int, Box], Arrays]) -> Callable[[int, int, Box], Arrays]:
    """A method for a plane of its own object: without a circle of references, which would keep pictures in memory."""
    method = WeakMethod(make)

    def made(i: int, j: int, box: Box) -> Arrays:
        bound = method()
        assert bound is not None  # whoever reads the plane holds its owner
        result: Arrays = bound(i, j, box)
        return result

    return made


def begun(pool: ThreadPoolExecutor, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
    """``work`` on the pool; where the interpreter is ending, and begins nothing any more, done here and now."""
    try:
        return pool.submit(work, *arguments)
    except RuntimeError as error:
        if "after interpreter shutdown" not in str(error):  # no thread could be started: somebody may do it yet
            raise
        future: Future[Any] = Future()
        try:
            future.set_result(work(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future


def run_squares(
    grid: Grid, box: Box, work: Callable[[int, int], None], left_behind: Callable[[int, int], None], workers: int
) -> None:
    """``work(i, j)`` for all squares that ``box`` touches, so many at a time: row by row, or column by column where the box
    is wider than high; and ``left_behind(k, axis)`` as soon as the k-th row or column, and all before it, are done.
    """
    touched = box.divided(grid.side)
    axis = int(touched.right - touched.left > touched.bottom - touched.top)
    across = range(touched[1 - axis], touched[3 - axis])
    bands = {k: [(k, n) if axis == 0 else (n, k) for n in across] for k in range(touched[axis], touched[2 + axis])}
    if workers <= 1:
        for k, squares in bands.items():
            for square in squares:
                work(*square)
            left_behind(k, axis)
        return
    with ThreadPoolExecutor(workers) as pool:
        try:
            futures = {k: [begun(pool, work, *square) for square in squares] for k, squares in bands.items()}
            for k in bands:
                for n in range(len(futures[k])):
                    futures[k][n].result()
                left_behind(k, axis)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            futures.clear()
            raise
