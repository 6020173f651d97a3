"""The two models of the codec: a static prior of z and a scale-conditional prior of the residuals."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .coder import StreamDecoder, StreamEncoder, TableModels
from .tables import TableSet

Latents = NDArray[np.int32]


class StaticPrior:
    """Prior of z: a table for every band of rates and channel; table ``band * channels + channel``."""

    def __init__(self, tables: TableSet, channels: int) -> None:
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
    """Prior of the residuals: table k belongs to the k-th scale; table 0 codes nothing, its residuals are zero."""

    def __init__(self, tables: TableSet) -> None:
        self.models = TableModels(tables)
        self.codes_nothing = tables.sizes == 0

    def zero_uncoded(self, residual: Latents, indexes: NDArray[np.uint8]) -> Latents:
        """``residual`` with zeros where its table codes nothing; the reconstruction then is the mean."""
        return np.where(self.codes_nothing[indexes], np.int32(0), residual)

    def encode(self, encoder: StreamEncoder, residual: Latents, indexes: NDArray[np.uint8]) -> None:
        encoder.encode(residual, indexes, self.models)

    def decode(self, decoder: StreamDecoder, indexes: NDArray[np.uint8]) -> Latents:
        return decoder.decode(indexes, self.models)

    def bits(self, residual: Latents, indexes: NDArray[np.uint8]) -> float:
        tables = self.models.tables
        return float(sum(tables.bits(int(k), residual[indexes == k]).sum() for k in np.unique(indexes)))
