"""Training pictures in memory as uint8, and random crops of them."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pillow_semicodec.indexed import LUMA

from .synthetic import synthetic_pictures

Picture = NDArray[np.uint8]  # [H, W, 3]
HALF_SCALE_SHARE = 0.25  # of the crops come from pictures reduced by two: sharper, and busier
SYNTHETIC_COUNT = 260
VALIDATION_EVERY = 60  # one picture in so many is held out


def read_folder(folder: Path, sets: tuple[str, ...] = ()) -> list[Picture]:
    """Every picture listed in ``folder/index.csv`` (columns ``file``, ``set``), or every file where there is no index.

    Args:
        sets: keep only these sets; empty keeps all.

    Raises:
        FileNotFoundError: no picture was found.
        OSError: a picture cannot be read; the message names it.
    """
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda name: _read_rgb(folder / name), names_of(folder, sets)))


def names_of(folder: Path, sets: tuple[str, ...] = ()) -> list[str]:
    """The files that ``read_folder`` reads, in its order.

    Raises:
        FileNotFoundError: there are none.
    """
    index = folder / "index.csv"
    if index.exists():
        with index.open(newline="") as file:
            names = [row["file"] for row in csv.DictReader(file) if not sets or row["set"] in sets]
    else:
        names = [path.name for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []
    if not names:
        raise FileNotFoundError(f"no training pictures in {folder}")
    return sorted(names)


def _read_rgb(path: Path) -> Picture:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except OSError as error:
        raise OSError(f"cannot read training picture {path}: {error}") from error


class CropSampler:
    """Endless random crops, mirrored and rotated, some halved, some grey, some vivid, some synthetic.

    Args:
        weights: how often a picture is drawn, relative to others; all alike by default.
        vivid_share: of the crops that are not made grey, those whose colours are moved away from grey.
    """

    def __init__(
        self,
        pictures: list[Picture],
        crop: int,
        batch: int,
        grey_share: float,
        synthetic_share: float,
        seed: int,
        weights: list[float] | None = None,
        vivid_share: float = 0.0,
    ) -> None:
        self.random = np.random.default_rng(seed)
        self.crop, self.batch, self.grey_share, self.vivid_share = crop, batch, grey_share, vivid_share
        weights = weights or [1.0] * len(pictures)
        large = [(p, w) for p, w in zip(pictures, weights, strict=True) if min(p.shape[:2]) >= crop]
        self.full, shares = [p for p, _ in large], np.array([w for _, w in large])
        doubled = [(p, w) for p, w in large if min(p.shape[:2]) >= 2 * crop]
        self.half, half_shares = [halve(p) for p, _ in doubled], np.array([w for _, w in doubled])
        self.synthetic = synthetic_pictures(SYNTHETIC_COUNT, 2 * crop, seed, self.full) if synthetic_share else []
        self.synthetic_share = synthetic_share
        if not self.full:
            raise ValueError(f"no training picture is as large as the crop, {crop} pixels")
        self._shares = {id(pool): s / s.sum() for pool, s in ((self.full, shares), (self.half, half_shares)) if len(s)}

    def _crop(self) -> Picture:
        kind = self.random.random()
        pool = self.full
        if kind < self.synthetic_share:
            pool = self.synthetic
        elif kind < self.synthetic_share + HALF_SCALE_SHARE and self.half:
            pool = self.half
        picture = pool[self.random.choice(len(pool), p=self._shares.get(id(pool)))]
        top = self.random.integers(picture.shape[0] - self.crop + 1)
        left = self.random.integers(picture.shape[1] - self.crop + 1)
        out = picture[top : top + self.crop, left : left + self.crop]
        out = np.rot90(out, self.random.integers(4))
        if self.random.random() < 0.5:
            out = out[:, ::-1]
        if self.random.random() < self.grey_share:
            out = np.repeat(_luma(out) + 0.5, 3).reshape(out.shape).astype(np.uint8)
        elif self.vivid_share and self.random.random() < self.vivid_share:
            grey = _luma(out)[:, :, None]
            out = np.clip(grey + self.random.uniform(1.3, 2.5) * (out - grey) + 0.5, 0, 255).astype(np.uint8)
        return out

    def next(self) -> Tensor:
        """uint8 [B, 3, crop, crop]."""
        crops = np.stack([self._crop() for _ in range(self.batch)])
        return torch.from_numpy(crops).permute(0, 3, 1, 2)


def _luma(picture: Picture) -> NDArray[np.float64]:
    luma: NDArray[np.float64] = picture @ np.array(LUMA)
    return luma


def rounds(count: int, size: int, random: np.random.Generator) -> Iterator[NDArray[np.intp]]:
    """Numbers below ``count``, ``size`` at a time, for ever; every round has them all in an order of its own."""
    while True:
        yield from np.split(random.permutation(count), range(size, count, size))


def halve(picture: Picture) -> Picture:
    image = Image.fromarray(picture)
    return np.asarray(image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS))


def split_validation(pictures: list[Picture]) -> tuple[list[Picture], list[Picture]]:
    """(training, validation); validation pictures are cut to multiples of 64, at most 512 pixels a side."""
    held_out = [
        p[: min(p.shape[0], 512) // 64 * 64, : min(p.shape[1], 512) // 64 * 64] for p in pictures[::VALIDATION_EVERY]
    ]
    return [p for i, p in enumerate(pictures) if i % VALIDATION_EVERY], held_out


def to_signal(crops: Tensor) -> Tensor:
    """uint8 [B, 3, H, W] → float in [-0.5, 0.5], channels last in memory."""
    return (crops.float() / 255 - 0.5).contiguous(memory_format=torch.channels_last)
