"""Residuals of step 1 that are coded as differences to a prediction from their neighbours: those of channels like the mean
colour of a block, which goes on from block to block and which z knows too little of.

Whole numbers alone, within a slice, row by row (FORMAT.md, section 5): a decoder adds up rows, an encoder subtracts all at
once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .entropy.coder import MAGNITUDE_LIMIT
from .errors import FormatError

Residuals = NDArray[np.int32]  # [K, rows, columns]; zero but at the positions of step 1, which lie like a checkerboard


def _from_above(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """What rows [..., columns] predict of those below them: the mean of both neighbours, rounded up, or the one there is."""
    guess = np.zeros_like(rows)
    if rows.shape[-1] > 1:
        guess[..., 1:-1] = (rows[..., :-2] + rows[..., 2:] + 1) >> 1
        guess[..., 0], guess[..., -1] = rows[..., 1], rows[..., -2]
    return guess


def differences(residual: Residuals, channels: Sequence[int], step1: NDArray[np.bool_]) -> Residuals:
    """Residuals [M, rows, columns] of a slice, with those of ``channels`` as they are coded."""
    if not channels:
        return residual
    own, coded = residual[list(channels)].astype(np.int64), residual.copy()
    guess = np.zeros_like(own)
    guess[:, 0, 2:] = own[:, 0, :-2]
    guess[:, 1:] = _from_above(own[:, :-1])
    coded[list(channels)] = own - guess * step1[list(channels)]
    return coded


def restore(coded: Residuals, channels: Sequence[int], step1: NDArray[np.bool_]) -> None:
    """The reverse of ``differences``, in place.

    Raises:
        FormatError: residuals that no encoder makes.
    """
    if not channels:
        return
    own, at = coded[list(channels)].astype(np.int64), step1[list(channels)]
    for start in (0, 1):
        own[:, 0, start::2] = np.cumsum(own[:, 0, start::2], 1)
    for i in range(1, own.shape[1]):
        own[:, i] += _from_above(own[:, i - 1]) * at[:, i]
    if np.abs(own).max(initial=0) > MAGNITUDE_LIMIT:
        raise FormatError("differences add up to residuals that no encoder makes")
    coded[list(channels)] = own
