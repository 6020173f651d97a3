"""Overlays: what is drawn in a picture that holds photographs too, kept as palette and numbers on top of what networks make.

Screens show photographs among letters and flat grounds. Cells of 16x16 pixels that one or two colours fill for the most part
are coded like indexed pictures; the networks see their grounds alone, which cost next to nothing.
"""

from __future__ import annotations

import threading
import zlib
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import container
from .alpha import VisibleColours
from .container import Header
from .errors import FormatError
from .indexed import (
    WORTH_COLOURS,
    Colours,
    bytes_of,
    pack_numbers,
    read_palette,
    unpack_numbers,
    visible,
    write_palette,
)
from .pixels import LATENT_STRIDE as CELL
from .pixels import coloured, reduced
from .planes import Box

FILLED = 0.5  # share of a cell's pixels that its two most frequent colours have, if it is drawn
RETURNS = 4  # pixels of a picture that have a colour, if it is one of a screen; edges of photographs have others everywhere
LONELY = 0.05  # share of a cell's pixels that may have other colours
GROUND_COST = 0.02  # share of a file that exact flat grounds may cost: white that is nearly white shows on a white page
LEAST_DRAWN = 0.05  # share of the cells, if an overlay is worth trying

Mask = NDArray[np.bool_]


class Parts(NamedTuple):
    """A picture taken apart.

    Attributes:
        payload: of the overlay's chunk. cells: which are drawn. rest: what the networks are shown, which gives boxes.
    """

    payload: bytes
    cells: Mask
    rest: VisibleColours
    neutral: bool  # whether all that can be seen of the rest is grey, and given in colour
    simpler: bool  # whether the rest is anything but the picture itself


def drawn_cells(colours: NDArray[np.signedinteger[Any]], flat: bool = False) -> tuple[Mask, NDArray[np.signedinteger[Any]]]:
    """(which cells one or two colours fill, beside others that return elsewhere, or, if ``flat``, one alone; the most
    frequent colour of each): [H, W] → [H/16, W/16], rounded up.
    """
    height, width = colours.shape
    padded = np.pad(colours, ((0, -height % CELL), (0, -width % CELL)), mode="edge")
    rows, columns = (n // CELL for n in padded.shape)
    cells = padded.reshape(rows, CELL, columns, CELL).transpose(0, 2, 1, 3).reshape(rows * columns, CELL**2)
    cells = np.sort(cells, 1)
    ends = np.ones(cells.shape, np.bool_)
    ends[:, :-1] = cells[:, 1:] != cells[:, :-1]
    places = np.flatnonzero(ends)  # of the last one of every colour of a cell
    lengths = np.diff(places, prepend=-1)
    counts = np.zeros(cells.size, np.int32)
    counts[places] = lengths
    counts = counts.reshape(cells.shape)
    grounds = np.take_along_axis(cells, counts.argmax(1)[:, None], 1)
    if flat:
        drawn = counts.max(1) == CELL**2
    else:
        _, which = np.unique(cells.ravel()[places], return_inverse=True)
        rare = np.bincount(which, lengths)[which] < RETURNS
        lonely = np.bincount(places[rare] // CELL**2, lengths[rare], len(cells))
        drawn = np.partition(counts, -2, 1)[:, -2:].sum(1) >= FILLED * CELL**2
        drawn &= lonely <= LONELY * CELL**2
    drawn &= grounds[:, 0] >= 0  # what nobody sees is not drawn
    return drawn.reshape(rows, columns), grounds.reshape(rows, columns)


def take_apart(picture: NDArray[np.uint8], share: float, flat: bool = False) -> Parts | None:
    """What is drawn and what is not; None where that is not worth trying.

    Args:
        picture: uint8 [H, W] or [H, W, 2 to 4]. share: as ``indexed.share_of`` gives it.
        flat: take cells of one single colour alone: then ``rest`` is the picture itself.
    """
    height, width = picture.shape[:2]
    numbers, seen = visible(picture)
    cells, grounds = drawn_cells(numbers, flat)
    if not LEAST_DRAWN <= cells.mean() < 1:
        return None
    where = _pixels(cells, height, width)
    colours = Colours(picture, where=where)
    if colours.found > WORTH_COLOURS:
        return None
    indexed = colours.indexed(share)
    packed = zlib.compress(cells.astype(np.uint8).tobytes(), 9)
    palette = write_palette(indexed.palette)
    parts = (container.write_varint(len(packed)), packed, container.write_varint(len(palette)), palette)
    ways = [pack_numbers(filled.numbers, len(filled.palette)) for filled in colours.fillings(indexed)]
    payload = b"".join((*parts, min(ways, key=len)))
    bands = 1 if picture.ndim == 2 else picture.shape[2]
    own = picture.reshape(height, width, bands)
    own, alpha = (own[:, :, :-1], own[:, :, -1]) if bands in (2, 4) else (own, np.full((height, width), 255, np.uint8))
    plain = where if seen is None else where & seen
    rest = np.where(plain[:, :, None], bytes_of(_pixels(grounds, height, width), colours.grey), own)
    photographed = ~where if seen is None else ~where & seen
    neutral = bands > 2 and not (coloured(own) & photographed).any()
    return Parts(payload, cells, VisibleColours(np.dstack([rest, alpha])), neutral, not np.array_equal(rest, own))


def drawn_pixels(cells: Mask, box: Box, side: int = CELL) -> Mask:
    """Which pixels of a box lie in cells, of so many pixels a side, that are drawn, [rows, columns]."""
    return cells[(np.arange(box.top, box.bottom) // side)[:, None], np.arange(box.left, box.right) // side]


def _pixels(cells: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    return cells.repeat(CELL, 0).repeat(CELL, 1)[:height, :width]


class Overlaid:
    """Takes boxes of decoded pixels and passes them on with what is drawn on them.

    Args:
        payload: of the overlay's chunk. left, top: of the picture, where ``out`` begins.
        out: of [rows, columns] or with bands: takes boxes.
        scale: how many times smaller, up to 16, everything is: a small pixel lies in one cell, a mean of its colours.

    Raises:
        FormatError: the payload is no overlay of such a picture.
    """

    def __init__(self, payload: bytes, header: Header, left: int, top: int, out: Any, scale: int = 1) -> None:
        self._scale = scale
        stream = BytesIO(payload)
        rows, columns = -(-header.height // CELL), -(-header.width // CELL)
        mask = container.read_map(_sized(stream), rows * columns, 2)
        self._cells = np.frombuffer(mask, np.bool_).reshape(rows, columns)
        self._palette = read_palette(_sized(stream), header.grey)
        self._stream, self._header, self._left, self._top, self._out = stream.read(), header, left, top, out
        self._lock = threading.Lock()
        self._numbers: NDArray[Any] | None = None

    def __setitem__(self, at: tuple[slice, slice], box: NDArray[Any]) -> None:
        shape = self._header.height, self._header.width
        with self._lock:
            if self._numbers is None:
                self._numbers = unpack_numbers(self._stream, len(self._palette), shape)
        first, last = at[0].start + self._top, at[0].stop + self._top
        left, right = at[1].start + self._left, at[1].stop + self._left
        where = drawn_pixels(self._cells, Box(first, left, last, right), CELL // self._scale)
        numbers = self._numbers[first * self._scale : last * self._scale, left * self._scale : right * self._scale]
        box = box.copy()
        if self._scale == 1:
            colours = self._palette[numbers[where]]
        else:
            colours = reduced(self._palette[numbers], self._scale, False)[where]
        if box.ndim == 2:
            box[where] = colours[:, 0]
        else:
            box[where, : colours.shape[1]] = colours
        self._out[at] = box


def _sized(stream: BytesIO) -> bytes:
    size, _ = container.read_varint(stream.read)
    data = stream.read(size)
    if len(data) != size:
        raise FormatError("an overlay ends too early")
    return data
