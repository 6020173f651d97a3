"""Pixels ↔ padded arrays, and which positions of the latents belong to which coding step."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

LATENT_STRIDE = 16  # pixels per latent position
HYPER_STRIDE = 4  # latent positions per hyper-latent position

BLOCK_SIDE = 512  # pixels that are reduced at a time
NEUTRAL_SIDE = 128  # pixels of squares that are looked at together
REMEMBERED = 2**21  # latents whose positions are kept for the next slice of this size; they take 8 bytes each

LUMA = np.array([19595, 38470, 7471], np.uint32)  # of red, green and blue, in 1/65536

Pixels = NDArray[np.uint8]


def to_rgb(pixels: NDArray[Any]) -> NDArray[Any]:
    """[H, W] or [H, W, 3] → [H, W, 3]; grey is repeated."""
    return pixels if pixels.ndim == 3 else np.repeat(pixels[:, :, None], 3, 2)


def to_luma(rgb: NDArray[Any]) -> NDArray[Any]:
    """[…, 3] → […]: ITU-R BT.601 in 16-bit fixed point, rounded, as Pillow converts RGB to L; levels in float32 are
    not rounded.
    """
    if rgb.dtype == np.float32:
        luma: NDArray[Any] = rgb @ (LUMA.astype(np.float32) / 2**16)
        return luma
    return ((rgb @ LUMA + 0x8000) >> 16).astype(np.uint8)


def is_neutral(picture: Any, exact: bool = False) -> bool:
    """Whether red, green and blue are the same everywhere: grey, given in colour. Colours under alpha 0 do not count.

    Args:
        picture: [H, W] or [H, W, C], in front of alpha if C is 2 or 4: an array, or anything out of which boxes are cut. Of
            a picture in colour mostly the first one or two are read.
        exact: colours under alpha 0 count, too.
    """
    if len(picture.shape) == 2 or picture.shape[2] < 3:
        return False
    height, width, bands = picture.shape
    side = NEUTRAL_SIDE
    for top in range(0, height, side):
        for left in range(0, width, side):
            part = np.asarray(picture[top : min(top + side, height), left : min(left + side, width)])
            seen = True if exact or bands == 3 else part[:, :, 3] > 0
            if (coloured(part) & seen).any():
                return False
    return True


def coloured(rgb: NDArray[Any]) -> NDArray[np.bool_]:
    """[H, W, 3 or more] → [H, W]: where red, green and blue are not the same."""
    found: NDArray[np.bool_] = (rgb[:, :, 0] != rgb[:, :, 1]) | (rgb[:, :, 0] != rgb[:, :, 2])
    return found


def latent_shape(height: int, width: int) -> tuple[int, int]:
    return -(-height // LATENT_STRIDE), -(-width // LATENT_STRIDE)


def hyper_shape(height: int, width: int) -> tuple[int, int]:
    h, w = latent_shape(height, width)
    return -(-h // HYPER_STRIDE), -(-w // HYPER_STRIDE)


def pad_to_multiple(array: NDArray[np.generic], multiple: int, axes: tuple[int, int]) -> NDArray[np.generic]:
    """Repeat the last row and column until both ``axes`` are multiples of ``multiple``."""
    padding = [(0, 0)] * array.ndim
    for axis in axes:
        padding[axis] = (0, -array.shape[axis] % multiple)
    return np.pad(array, padding, mode="edge") if any(p[1] for p in padding) else array


@functools.lru_cache(maxsize=16)
def step_mask(channels: int, height: int, width: int) -> NDArray[np.bool_]:
    """True where a latent is coded in step 1: a checkerboard over channels, rows and columns, [M, h, w]."""
    i, j = np.ogrid[:height, :width]
    even = (i + j) % 2 == 0
    mask = np.empty((channels, height, width), np.bool_)
    mask[::2], mask[1::2] = even, ~even
    mask.flags.writeable = False  # shared by all who ask
    return mask


def step_positions(channels: int, height: int, width: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Flat positions of the latents of step 1 and of step 2, in raster order over [M, h, w]."""
    find = _step_positions if channels * height * width <= REMEMBERED else _step_positions.__wrapped__
    return find(channels, height, width)


@functools.lru_cache(maxsize=4)  # inner slices, those at both edges, the corner
def _step_positions(channels: int, height: int, width: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    mask = step_mask(channels, height, width).ravel()
    found = np.flatnonzero(mask), np.flatnonzero(~mask)
    for positions in found:
        positions.flags.writeable = False
    return found


def reduced(picture: Any, scale: int, alpha: bool) -> Pixels:
    """A picture ``scale`` times smaller: means of squares, in front of alpha (the last band) weighted by it.

    Args:
        picture: [H, W] or [H, W, C]: an array, or anything out of which boxes are cut.
    """
    height, width = picture.shape[:2]
    out = np.empty((-(-height // scale), -(-width // scale), *picture.shape[2:]), picture.dtype)
    side = max(1, BLOCK_SIDE // scale) * scale
    for top in range(0, height, side):
        for left in range(0, width, side):
            block = _block_reduced(picture[top : min(top + side, height), left : min(left + side, width)], scale, alpha)
            i, j = top // scale, left // scale
            out[i : i + block.shape[0], j : j + block.shape[1]] = block
    return out


def _block_reduced(picture: NDArray[Any], scale: int, alpha: bool) -> NDArray[Any]:
    picture = np.asarray(picture)
    height, width, *bands = picture.shape
    rows, columns = (np.arange(0, n, scale) for n in (height, width))
    whole = picture.dtype.kind != "f"  # numbers: their sums are exact in any order
    # Zeros beyond the edges add nothing; a single row or column of squares is as narrow as the picture.
    tall, wide = (
        len(starts) * scale if whole and len(starts) > 1 else n for starts, n in ((rows, height), (columns, width))
    )
    part = np.zeros((tall, wide, *bands))
    part[:height, :width] = picture
    if alpha:
        part[:, :, :-1] *= part[:, :, -1:]
    if whole:
        summed = part.reshape(len(rows), tall // len(rows), -1).sum(1)
        sums = summed.reshape(len(rows), len(columns), wide // len(columns), *bands).sum(2)
    else:
        sums = np.add.reduceat(np.add.reduceat(part, rows, 0), columns, 1)
    counts = np.outer(*(np.diff(np.append(starts, n)) for starts, n in ((rows, height), (columns, width))))
    if alpha:
        sums[:, :, :-1] /= np.maximum(sums[:, :, -1:], 1)
        sums[:, :, -1] /= counts
    else:
        sums /= counts.reshape(*counts.shape, *[1] * (part.ndim - 2))
    if picture.dtype == np.bool_:  # as many as are white, or more
        sums += 1e-9
    if whole:
        sums = np.rint(sums)
    result: NDArray[Any] = sums.astype(picture.dtype)
    return result
