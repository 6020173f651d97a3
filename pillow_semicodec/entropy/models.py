"""The two models of the codec: a static prior of z and a scale-conditional prior of the residuals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import BundleError
from .coder import MAGNITUDE_LIMIT, StreamDecoder, StreamEncoder, TableModels
from .tables import TableSet

SCALES = 64  # of residuals: indexes are 0 to 63

# Half of the widths of the dead zones that encoders quantise residuals of ±1 with, by table. Index 9 stands for a scale of
# a third of a step (training/entropy_models.py); below it ones are so rare that they may cost more bits than they are
# worth: rate-distortion optimised quantisation. Training has the same symbols; its rates come from noise that knows none.
FIRST_WITHOUT = 9
DEAD_ZONES = (0.5 + 0.015 * np.maximum(FIRST_WITHOUT - np.arange(SCALES), 0)).astype(np.float32)
# Where much is going on they are twice as wide: what is lost does not show. On quiet ground it may be a star.
BUSY_DEAD_ZONES = 2 * DEAD_ZONES - np.float32(0.5)
QUIET = 0.25  # share of the tables from FIRST_WITHOUT on, at the highest rate; at others as much less as these are lower

Latents = NDArray[np.int32]


def is_busy(indexes: NDArray[np.uint8], rate: float) -> bool:
    """Whether a slice, of whose step 1 these are the tables, has wider dead zones at a rate from 0 to 1."""
    return bool(np.count_nonzero(indexes >= FIRST_WITHOUT) > QUIET * rate * indexes.size)


class StaticPrior:
    """Prior of z: a table for every band of rates and channel; table ``band * channels + channel``.

    Raises:
        BundleError: the tables are not of this layout.
    """

    def __init__(self, tables: TableSet, channels: int) -> None:
        if not len(tables) or len(tables) % channels:
            raise BundleError(f"{len(tables)} probability tables of hyper-latents, not {channels} for every band of rates")
        self.models, self.channels = TableModels(tables), channels
        self.bands = len(tables) // channels

    def _indexes(self, band: int, shape: tuple[int, int]) -> NDArray[np.intp]:
        return np.repeat(np.arange(self.channels) + band * self.channels, shape[0] * shape[1])

    def encode(self, encoder: StreamEncoder, z: Latents, band: int) -> None:
        """z [Z, h, w]."""
        encoder.encode(z.ravel(), self._indexes(band, z.shape[1:]), self.models)

    def decode(self, decoder: StreamDecoder, band: int, shape: tuple[int, int]) -> Latents:
        return decoder.decode(self._indexes(band, shape), self.models).reshape(self.channels, *shape)

    def bits(self, z: Latents, band: int) -> float:
        tables = self.models.tables
        return float(sum(tables.bits(band * self.channels + c, z[c]).sum() for c in range(self.channels)))


class ScaleConditional:
    """Prior of the residuals: a table for every band of rates and scale; table ``band * SCALES + scale``.

    Tables that code nothing, whose residuals are zero, do so in every band.

    Raises:
        BundleError: the tables are not of this layout.
    """

    def __init__(self, tables: TableSet) -> None:
        if not len(tables) or len(tables) % SCALES:
            raise BundleError(f"{len(tables)} probability tables of residuals, not {SCALES} for every band of rates")
        self._models = [TableModels(of_band) for of_band in tables.split(SCALES)]
        empty = tables.sizes.reshape(-1, SCALES) == 0
        self.codes_nothing = empty[0]
        if (empty != empty[0]).any():
            raise BundleError("a probability table of residuals codes nothing in some bands of rates alone")
        # Magnitudes below these become 0, by table: with dead zones, and in rounding alone, which needs no bound of its own.
        self._least, *self._least_dead = (
            np.where(self.codes_nothing, np.inf, least).astype(np.float32)
            for least in (np.zeros(SCALES), DEAD_ZONES, BUSY_DEAD_ZONES)
        )

    @property
    def bands(self) -> int:
        return len(self._models)

    def tables(self, band: int) -> TableSet:
        return self._models[band].tables

    def rounded(self, values: NDArray[np.float32], indexes: NDArray[np.uint8]) -> Latents:
        """Residuals [M, h, w] in quantisation steps → the nearest that can be coded."""
        return _whole(values, self._least.take(indexes))

    def quantised(
        self, values: NDArray[np.float32], indexes: NDArray[np.uint8], plain: Sequence[int | slice], busy: bool = False
    ) -> Latents:
        """Residuals [M, h, w] in quantisation steps → what an encoder codes: rounded, but 0 in the dead zone of their table.

        Args:
            plain: channels that are only rounded: those that are predicted from their neighbours, of which a difference is
                coded, so that a 0 saves nothing. Of flat residuals [N], where these lie. busy: see ``is_busy``.
        """
        least = self._least_dead[busy].take(indexes)
        for channel in plain:
            least[channel] = self._least.take(indexes[channel])
        return _whole(values, least)

    def zero_uncoded(self, residual: Latents, indexes: NDArray[np.uint8]) -> Latents:
        """``residual`` with zeros where its table codes nothing; the reconstruction then is the mean."""
        return np.where(self.codes_nothing[indexes], np.int32(0), residual)

    def encode(self, encoder: StreamEncoder, residual: Latents, indexes: NDArray[np.uint8], band: int) -> None:
        encoder.encode(residual, indexes, self._models[band])

    def decode(self, decoder: StreamDecoder, indexes: NDArray[np.uint8], band: int) -> Latents:
        return decoder.decode(indexes, self._models[band])

    def bits(self, residual: Latents, indexes: NDArray[np.uint8], band: int) -> float:
        tables = self.tables(band)
        return float(sum(tables.bits(int(k), residual[indexes == k]).sum() for k in np.unique(indexes)))


def _whole(values: NDArray[np.float32], least: NDArray[np.float32]) -> Latents:
    """Rounded, and 0 where the magnitude is less than ``least``."""
    limit = MAGNITUDE_LIMIT // 2 - 1  # differences of two are coded, too
    values = np.clip(values, -limit, limit)
    return np.where(np.abs(values) >= least, np.rint(values), np.float32(0)).astype(np.int32)
