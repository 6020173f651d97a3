"""Alpha channels, and pictures in black and white: coded losslessly, slice by slice; and colours that nobody sees.

What lies under alpha 0 is taken from the visible colours around it, coarse where those are far, so that edges of transparent
pictures neither bleed nor cost anything behind them. It depends on its neighbourhood alone, and, where nothing in that is
visible, on the mean of all that is: slices leave no trace.

Source: the push-pull pyramid of Gortler et al., "The lumigraph" (1996).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .container import CutStream
from .entropy.coder import StreamDecoder, StreamEncoder
from .entropy.lossless import decode_plane, encode_plane
from .entropy.repetition import is_available, pack, unpack
from .errors import FormatError
from .layout import Layout, Streams
from .lazy import lazily
from .pixels import LATENT_STRIDE, Pixels
from .planes import Box

LEVELS = 6  # of the pyramid; its coarsest cells have 64 pixels
CELL = 2**LEVELS
REACH = 2 * CELL  # no filled colour depends on what is farther away
BY_CONTEXT, BY_REPETITION, CONSTANT, CUT_OUT = 0, 1, 2, 3  # first byte of a stream of alpha
COSTLY = 64  # pixels a byte of a stream: where fewer are coded, patterns that repeat are looked for
UNSEEN = 127.5  # where nothing is visible
LOOKED_OVER = 1024  # pixels of a side of what is looked at together


class VisibleColours:
    """The colours of a picture with alpha as a picture without: boxes are cut out of it like out of an array.

    Args:
        picture: uint8 [H, W, 2] or [H, W, 4], an array or anything that gives boxes.
        exact: leave colours under alpha 0 as they are.
    """

    def __init__(self, picture: Any, exact: bool = False) -> None:
        self.picture, self.exact, self.dtype = picture, exact, picture.dtype
        height, width, bands = picture.shape
        self.shape = (height, width, 3) if bands == 4 else (height, width)

    def _squares(self) -> Iterator[Pixels]:
        """All of the picture, some at a time, [pixels, bands]."""
        height, width = self.shape[:2]
        for top, left in itertools.product(range(0, height, LOOKED_OVER), range(0, width, LOOKED_OVER)):
            box = Box(top, left, min(top + LOOKED_OVER, height), min(left + LOOKED_OVER, width))
            yield np.asarray(self.picture[box.top : box.bottom, box.left : box.right]).reshape(-1, self.picture.shape[2])

    @lazily
    def hidden(self) -> bool:
        """Whether there is alpha 0."""
        return any(not part[:, -1].all() for part in self._squares())

    @lazily
    def far(self) -> NDArray[np.float64]:
        """The mean of the colours that are seen, weighted by alpha. Its sums are whole numbers, the same in any order."""
        weight, sums = 0.0, np.zeros(self.picture.shape[2] - 1)
        for part in self._squares():
            alpha = part[:, -1].astype(np.float64)
            weight += alpha.sum()
            sums += [alpha @ part[:, band] for band in range(len(sums))]
        return sums / weight if weight else np.full(len(sums), UNSEEN)

    def seen(self, box: Box) -> NDArray[np.bool_]:
        """Which pixels of a box are seen, or shall be kept all the same, [rows, columns]."""
        alpha: Pixels = np.asarray(self.picture[box.top : box.bottom, box.left : box.right])[:, :, -1]
        return np.ones(alpha.shape, np.bool_) if self.exact else alpha > 0

    def __getitem__(self, at: tuple[slice, slice]) -> Pixels:
        rows, columns = at
        box = Box(rows.start, columns.start, rows.stop, columns.stop)
        part = np.asarray(self.picture[rows, columns])
        if not self.exact and not part[:, :, -1].all():
            bounds = Box(0, 0, *self.shape[:2])
            window = box.divided(CELL).scaled(CELL).grown(REACH, REACH, bounds)
            around = np.asarray(self.picture[window.top : window.bottom, window.left : window.right])
            part = filled(around[:, :, :-1], around[:, :, -1], self.far)[box.within(window)]
        else:
            part = part[:, :, :-1]
        return part if part.shape[2] == 3 else part[:, :, 0]


def filled(colours: Pixels, alpha: Pixels, far: NDArray[np.float64]) -> Pixels:
    """Colours [H, W, C] with those under alpha 0 made up from their neighbours, or ``far`` [C] where those are not seen."""
    height, width = alpha.shape
    padding = ((0, -height % CELL), (0, -width % CELL))
    weights = [np.pad(alpha, padding).astype(np.float64)]
    sums = [np.pad(colours, (*padding, (0, 0))).astype(np.float64) * weights[0][:, :, None]]
    for _ in range(LEVELS):
        weights.append(_sum_of_fours(weights[-1][:, :, None])[:, :, 0])
        sums.append(_sum_of_fours(sums[-1]))
    guess = np.broadcast_to(far, sums[-1].shape).copy()
    for weight, total in zip(weights[:0:-1], sums[:0:-1], strict=True):  # what is seen of the finest is not guessed
        seen = weight > 0
        guess[seen] = total[seen] / weight[seen, None]
        guess = _twice(guess)
    result: Pixels = np.where(alpha[:, :, None] > 0, colours, np.rint(guess[:height, :width]).astype(np.uint8))
    return result


def _sum_of_fours(x: NDArray[np.float64]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = (x[::2, ::2] + x[::2, 1::2]) + (x[1::2, ::2] + x[1::2, 1::2])
    return result


def _twice(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bilinear, [H, W, C] → [2H, 2W, C]; the border is repeated."""
    for axis in (0, 1):
        before, behind = (np.take(x, np.clip(np.arange(x.shape[axis]) + k, 0, x.shape[axis] - 1), axis) for k in (-1, 1))
        pair = np.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * behind], axis + 1)
        x = pair.reshape(*x.shape[:axis], 2 * x.shape[axis], *x.shape[axis + 1 :])
    return x


def levels_of(quality: int) -> int:
    """Different values of alpha that are kept at a quality from 0 to 100; the steps are those of WebP's."""
    quality = int(quality)  # NumPy's small integers would overflow
    if quality >= 100:
        return 256
    return 2 + quality // 5 if quality <= 70 else 16 + 8 * (quality - 70)


def encode_alpha(
    picture: Any, layout: Layout, levels: int, threads: int, step: Callable[[], None] = lambda: None
) -> tuple[bytes, ...]:
    """The streams of alpha, the last band of ``picture``, or of a picture bool [H, W]; one for every slice, after which
    ``step`` is called.
    """
    streams = [b""] * layout.slices

    def work(i: int, j: int) -> None:
        at = layout.pixels_of(layout.latents.box(i, j))
        part = np.asarray(picture[at.top : at.bottom, at.left : at.right])
        alpha = part[:, :, -1] if part.ndim == 3 else part.astype(np.uint8) * np.uint8(255)
        choices = [_coded(alpha, part.ndim == 2)]
        if levels < 256:  # which breaks what is regular: fewer levels may cost more
            choices.append(_coded(np.rint(np.rint(alpha * ((levels - 1) / 255)) * (255 / (levels - 1))).astype(np.uint8)))
        streams[layout.latents.number(i, j)] = min(choices, key=len)
        step()

    layout.run(work, threads)
    return tuple(streams)


def _coded(plane: Pixels, bilevel: bool = False) -> bytes:
    if not bilevel and (plane == plane[0, 0]).all():
        return bytes([CONSTANT, plane[0, 0]])
    cut_out = not bilevel and not ((plane != 0) & (plane != 255)).any()
    encoder = StreamEncoder()
    encode_plane(encoder, plane, bilevel or cut_out)
    stream = encoder.finish()
    if bilevel:
        return stream
    choices = [bytes([CUT_OUT if cut_out else BY_CONTEXT]) + stream]
    if len(stream) * COSTLY > plane.size and is_available():
        choices.append(bytes([BY_REPETITION]) + pack(np.diff(plane, axis=0, prepend=np.uint8(0)).tobytes()))
    return min(choices, key=len)


def decode_alpha(stream: bytes, shape: tuple[int, int], bilevel: bool = False) -> Pixels:
    """Alpha of one slice, uint8 [rows, columns], or black and white; opaque, or white, if it has not arrived as a whole.

    Raises:
        FormatError: the stream cannot have been made by an encoder.
    """
    if isinstance(stream, CutStream):
        return np.full(shape, 255, np.uint8)
    cut_out = False
    if not bilevel:
        if stream[:1] == bytes([BY_REPETITION]):
            steps = np.frombuffer(unpack(stream[1:], shape[0] * shape[1]), np.uint8).reshape(shape)
            return np.cumsum(steps, 0, np.uint8)
        if stream[:1] == bytes([CONSTANT]) and len(stream) == 2:
            return np.full(shape, stream[1], np.uint8)
        cut_out = stream[:1] == bytes([CUT_OUT])
        if not cut_out and stream[:1] != bytes([BY_CONTEXT]):
            raise FormatError("alpha of an unknown kind")
        stream = stream[1:]
    decoder = StreamDecoder(stream)
    plane = decode_plane(decoder, shape, bilevel or cut_out)
    decoder.finish()
    if cut_out and plane[0, 0] not in (0, 255):
        raise FormatError("alpha of a cut-out that is neither 0 nor 255")
    return plane


def decode_bilevel(
    streams: Streams, layout: Layout, box: Box, out: Any, threads: int, step: Callable[[], None] = lambda: None
) -> None:
    """A box of a picture in black and white, into ``out``, bool; ``step`` is called after every slice."""

    def work(i: int, j: int) -> None:
        at = layout.pixels_of(layout.latents.box(i, j))
        part = at.grown(0, 0, box)
        plane = decode_alpha(streams[layout.latents.number(i, j)], at.shape, bilevel=True)
        rows, columns = part.within(box)
        out[rows, columns] = plane[part.within(at)] > 127
        step()

    layout.run(work, threads, box.divided(LATENT_STRIDE))
