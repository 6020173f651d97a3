"""Training pictures in memory as uint8, and random crops of them."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from pillow_semicodec.convert import as_rgb
from pillow_semicodec.indexed import LUMA

from .synthetic import synthetic_pictures

Picture = NDArray[np.uint8]  # [H, W, 3]
REDUCED_SHARE = 0.5  # of the crops are reduced: sharper, busier, and free of what their pictures' coding left in them
LEAST_REDUCED, MOST_REDUCED, LEAST_ROOM = 1.2, 2.0, 1.4  # a side is divided by so much; pictures without room are left alone
TURNED_SHARE = 0.25  # of the crops are turned by a quarter: the world has an up and a down
SYNTHETIC_COUNT = 260
VALIDATION_EVERY = 60  # one picture in so many is held out
LEAST_VALIDATED = 192  # pixels a side of it
# Qualities 5 to 95 are rates from a little below 0 to 7/8; quality 100 is rate 1.
LOWEST_RATE, FREQUENT_RATE, SHARE_ABOVE = -0.09, 0.89, 0.05


def rates_of(quantiles: NDArray[np.float64]) -> NDArray[np.float32]:
    """Rates to train at, of numbers that are spread evenly over [0, 1)."""
    shares, rates = (0, 1 - SHARE_ABOVE, 1), (LOWEST_RATE, FREQUENT_RATE, 1)
    return np.interp(quantiles, shares, rates).astype(np.float32)


def random_rates(count: int, device: torch.device | None = None) -> Tensor:
    """Rates [count] as files have them, by PyTorch's generator."""
    return torch.from_numpy(rates_of(torch.rand(count, dtype=torch.float64).numpy())).to(device)


def read_pictures(folder: Path, names: list[str]) -> list[Picture]:
    """Raises OSError where a picture cannot be read; the message names it."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda name: read_rgb(folder / name), names))


def names_of(folder: Path, sets: tuple[str, ...] = ()) -> list[str]:
    """Every picture listed in ``folder/index.csv`` (columns ``file``, ``set``), or every file where there is none, sorted.

    Args:
        sets: keep only these sets; empty keeps all.

    Raises:
        FileNotFoundError: there are none. ValueError: sets or columns that the index does not have.
    """
    index = folder / "index.csv"
    if index.exists():
        with index.open(newline="") as file:
            rows = list(csv.DictReader(file))
        if missing := {"file", *(["set"] if sets else [])} - set(rows[0] if rows else ()):
            raise ValueError(f"{index} has no column {', no '.join(sorted(missing))}")
        if unknown := set(sets) - {row["set"] for row in rows if sets}:
            known = ", ".join(sorted({row["set"] for row in rows}))
            raise ValueError(f"{index} knows no set {', '.join(sorted(unknown))}; it has {known}")
        names = [row["file"] for row in rows if not sets or row["set"] in sets]
    elif sets:
        raise ValueError(f"{folder} has no index.csv to choose sets by")
    else:
        names = [path.name for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []
    if not names:
        raise FileNotFoundError(f"no training pictures in {folder}")
    return sorted(names)


def read_rgb(path: Path) -> Picture:
    """Raises OSError where the picture cannot be read; the message names it."""
    try:
        with Image.open(path) as image:
            return np.asarray(as_rgb(image))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise OSError(f"cannot read training picture {path}: {error}") from error


def usual_crop(pictures: list[Picture], most: int) -> int:
    """The side, a multiple of 64 from 64 to ``most``, of the largest crop that nine of ten pictures have room for."""
    sides = sorted(min(picture.shape[:2]) for picture in pictures)
    return max(64, min(most, sides[len(sides) // 10] // 64 * 64))


class _Deck:
    """Numbers below the count of ``shares``, in rounds of so many draws: in each of them all come about as often as they
    should, in an order of its own. What differs between pictures is noise in the gradients, and adds up less like that.
    """

    def __init__(self, shares: NDArray[np.float64]) -> None:
        self.ends = np.cumsum(shares / shares.sum())
        self.left: list[int] = []
        self.random: np.random.Generator | None = None

    def draw(self, random: np.random.Generator) -> int:
        """Another generator begins another round."""
        if not self.left or random is not self.random:
            count = len(self.ends)
            places = (np.arange(count) + random.random()) / count
            numbers = np.searchsorted(self.ends, places, "right").clip(max=count - 1)
            self.left, self.random = random.permutation(numbers).tolist(), random
        return self.left.pop()


class CropSampler:
    """Endless random crops, mirrored, some turned, some reduced, some grey, some vivid, some synthetic.

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
        self.synthetic = synthetic_pictures(SYNTHETIC_COUNT, 2 * crop, seed, self.full) if synthetic_share else []
        self.synthetic_share = synthetic_share
        if not self.full:
            raise ValueError(f"no training picture is as large as the crop, {crop} pixels")
        self._pictures, self._synthetic = _Deck(shares), _Deck(np.ones(len(self.synthetic)))

    def _crop(self) -> Picture:
        kind, side = self.random.random(), self.crop
        if kind < self.synthetic_share:
            picture = self.synthetic[self._synthetic.draw(self.random)]
        else:
            picture = self.full[self._pictures.draw(self.random)]
            if kind < self.synthetic_share + REDUCED_SHARE:
                room = min(MOST_REDUCED, min(picture.shape[:2]) / self.crop)
                side = int(self.crop * self.random.uniform(LEAST_REDUCED, room)) if room >= LEAST_ROOM else self.crop
        top = self.random.integers(picture.shape[0] - side + 1)
        left = self.random.integers(picture.shape[1] - side + 1)
        out = picture[top : top + side, left : left + side]
        if side > self.crop:
            out = np.asarray(Image.fromarray(out).resize((self.crop, self.crop), Image.Resampling.LANCZOS))
        if self.random.random() < TURNED_SHARE:
            out = np.rot90(out)
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


class _Sampler(Protocol):
    random: np.random.Generator

    def next(self) -> Any: ...


class _Endless(IterableDataset[Any]):
    def __init__(self, sampler: _Sampler, seed: int) -> None:
        super().__init__()
        self.sampler, self.seed = sampler, seed

    def __iter__(self) -> Iterator[Any]:
        if (worker := get_worker_info()) is not None:  # a copy of the sampler that has to draw other crops
            self.sampler.random = np.random.default_rng([self.seed, worker.id])
            if hasattr(os, "setpgrp"):
                os.setpgrp()  # a signal to the group of the run is for the run to answer
        while True:
            yield self.sampler.next()


def batches(sampler: _Sampler, workers: int, seed: int) -> Iterator[Any]:
    """What ``sampler.next()`` gives, for ever, drawn here or by so many processes of their own, which a GPU is fed by."""
    pinned = workers > 0 and torch.cuda.is_available()
    context = "fork" if workers and sys.platform == "linux" else None  # which shares the pictures; others copy them
    endless = _Endless(sampler, seed)
    return iter(
        DataLoader(endless, batch_size=None, num_workers=workers, pin_memory=pinned, multiprocessing_context=context)
    )


def _luma(picture: Picture) -> NDArray[np.float64]:
    luma: NDArray[np.float64] = picture @ np.array(LUMA)
    return luma


def rounds(count: int, size: int, random: np.random.Generator) -> Iterator[NDArray[np.intp]]:
    """Numbers below ``count``, ``size`` at a time, for ever; every round has them all in an order of its own."""
    while True:
        yield from np.split(random.permutation(count), range(size, count, size))


class Split(NamedTuple):
    """Pictures to learn from, their files, and held-out pictures, cut to multiples of 64, at most 512 pixels a side."""

    training: list[Picture]
    names: list[str]
    validation: list[Picture]


def read_split(folder: Path, sets: tuple[str, ...] = (), limit: int = 0) -> Split:
    """The pictures of ``names_of``, or the first ``limit`` of them.

    Held out is every ``VALIDATION_EVERY``th file of the whole folder, whatever is chosen of it, so that all commands agree;
    where nothing of that is among the chosen ones, every so-manieth of those. Those that are too small for MS-SSIM then are
    in neither.

    Raises:
        ValueError: nothing is left to learn from, or to validate with; and others, see ``names_of``.
        OSError: a picture cannot be read.
    """
    names = names_of(folder, sets)[: limit or None]
    held = set(names_of(folder)[::VALIDATION_EVERY])
    held = held & set(names) or set(names[::VALIDATION_EVERY])
    pictures = dict(zip(names, read_pictures(folder, names), strict=True))
    kept = [name for name in names if name not in held]
    validation = [
        p[: min(p.shape[0], 512) // 64 * 64, : min(p.shape[1], 512) // 64 * 64]
        for p in (pictures[name] for name in names if name in held)
        if min(p.shape[:2]) >= LEAST_VALIDATED
    ]
    if not kept or not validation:
        raise ValueError(
            f"{len(names)} pictures are too few: every {VALIDATION_EVERY}th, from the first on, is held out, and has to "
            f"have {LEAST_VALIDATED} pixels a side"
        )
    return Split([pictures[name] for name in kept], kept, validation)


def to_signal(crops: Tensor) -> Tensor:
    """uint8 [B, 3, H, W] → float in [-0.5, 0.5], channels last in memory."""
    return (crops.float() / 255 - 0.5).contiguous(memory_format=torch.channels_last)
