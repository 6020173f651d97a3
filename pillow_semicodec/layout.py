"""What a picture's streams are laid out by: its size, its slices, its rates."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import container, options, pixels
from .container import Prologue
from .planes import Box, Grid, run_squares

WINDOWS, PIXELS_AT_ONCE = 4, 2**23  # slices in work at a time, and their pixels, at most: some 200 bytes each


class Latents(NamedTuple):
    """What the entropy coder codes, the same bit for bit in encoder and decoder on every machine.

    z_hat int32 [Z, h/4, w/4]; residual int32 and indexes uint8 [M, h, w], both steps merged.
    """

    z_hat: NDArray[np.int32]
    residual: NDArray[np.int32]
    indexes: NDArray[np.uint8]


Streams = Sequence[bytes]  # one of all layers, or the layers one after another, each slice by slice


@dataclasses.dataclass(frozen=True)
class RatePlan:
    """The rate of a picture and, where it has regions, that of every latent position.

    Attributes:
        rate: 0 … 65535. rates, levels: ``rates[levels[i, j]]`` is the rate of position (i, j), uint8 [h, w].
    """

    rate: int
    rates: tuple[int, ...] = ()
    levels: NDArray[np.uint8] | None = None

    @staticmethod
    def of_file(prologue: Prologue) -> RatePlan:
        """Raises FormatError where the regions do not fit the picture."""
        rate, payload = prologue.index.rate, prologue.metadata.get(container.REGIONS)
        if payload is None:
            return RatePlan(rate)
        h, w = pixels.latent_shape(prologue.header.height, prologue.header.width)
        regions = container.read_regions(payload, h * w)
        return RatePlan(rate, regions.rates, np.frombuffer(regions.levels, np.uint8).reshape(h, w))

    def chunk(self) -> bytes | None:
        """The payload of the regions' chunk, if there are any."""
        if self.levels is None:
            return None
        return container.write_regions(container.Regions(self.rates, self.levels.tobytes()))


class Layout:
    """Size of a picture, in pixels, latent and hyper positions, and how it is cut into slices.

    Args:
        side: pixels of a slice's side, a multiple of 64; 0 for one slice, the whole picture.
        alpha: whether every slice has a stream of alpha, too.
    """

    def __init__(self, height: int, width: int, side: int = 0, alpha: bool = False) -> None:
        self.height, self.width, self.alpha = height, width, alpha
        rows, columns = pixels.latent_shape(height, width)
        unit = side // pixels.LATENT_STRIDE or max(rows, columns)
        unit = -(-unit // pixels.HYPER_STRIDE) * pixels.HYPER_STRIDE
        self.latents = Grid(rows, columns, unit)
        self.hyper = Grid(*pixels.hyper_shape(height, width), unit // pixels.HYPER_STRIDE)
        self.side = side if self.slices > 1 else 0

    @property
    def slices(self) -> int:
        rows, columns = self.latents.shape
        return rows * columns

    @property
    def streams(self) -> int:
        """Of the latents; those of alpha follow."""
        return container.stream_count(self.slices)

    def pixels_of(self, box: Box) -> Box:
        """The pixels of latent positions, cut at the picture's border."""
        return box.scaled(pixels.LATENT_STRIDE).grown(0, 0, Box(0, 0, self.height, self.width))

    def workers(self, threads: int) -> tuple[int, int]:
        """(slices to compute at a time, threads for each)."""
        threads = threads or options.cores()
        area = container.slice_pixels(self.width, self.height, self.side)
        workers = min(threads, WINDOWS, self.slices, max(1, PIXELS_AT_ONCE // area))
        return workers, max(1, threads // workers)

    def run(self, work: Callable[[int, int], None], threads: int, box: Box | None = None) -> None:
        """``work(i, j)`` on all slices that a box of latent positions touches, which depend on no others."""
        run_squares(self.latents, box or self.latents.bounds, work, lambda k, axis: None, self.workers(threads)[0])
