"""Rates that meet a target: bytes of a file, or PSNR. A trial costs no analysis; for PSNR it costs a synthesis."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .bundle import RATE_UNIT, ModelBundle
from .pixels import Pixels

TRIALS = 10
SIZE_SLACK = 0.015  # share of the bytes that may be left over
PSNR_SLACK = 0.05  # dB
LARGEST_SIZE, LARGEST_PSNR = 2.0**62, 1000.0  # beyond what any picture takes or has; arithmetic ends farther on
LOG_BYTES_PER_ANCHOR, DB_PER_ANCHOR = 0.45, 1.9  # a first guess at how both rise with the rate
STEEP_DB_PER_ANCHOR = 2.4


class OutOfReachError(ValueError):
    """No rate meets the target; the message says what is possible."""


class Target(NamedTuple):
    """One of them is wanted."""

    size: int | None = None  # bytes at most
    psnr: float | None = None  # dB at least


def target_of(size: int | None, bpp: float | None, psnr: float | None, pixels: int) -> Target | None:
    """What the options ask for; None where they ask for nothing.

    Raises:
        TypeError, ValueError: more than one target, or one that is no positive number.
    """
    given = {"target_size": size, "target_bpp": bpp, "target_psnr": psnr}
    wanted = {name: value for name, value in given.items() if value is not None}
    if not wanted:
        return None
    if len(wanted) > 1:
        raise ValueError(f"{' and '.join(wanted)} exclude each other: give one")
    ((name, value),) = wanted.items()
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be a positive number, not {value}")
    if psnr is not None:
        return Target(psnr=float(min(psnr, LARGEST_PSNR)))
    bytes_wanted = size if size is not None else float(min(value, LARGEST_SIZE)) * pixels / 8 + 1e-6
    return Target(size=max(1, int(min(bytes_wanted, LARGEST_SIZE))))


def rate_for(target: Target, bundle: ModelBundle, size_at: Callable[[int], int], psnr_at: Callable[[int], float]) -> int:
    """The rate whose file is as large as may be, or whose picture is as good as it must be, but hardly better.

    Args:
        size_at, psnr_at: bytes of the file and PSNR of the picture at a rate.

    Raises:
        OutOfReachError: no rate meets the target.
    """
    bank = bundle.rate_bank
    low, high = max(0, bank.rate_of_quality(1) - RATE_UNIT), bank.rate_of_quality(100)
    if target.size is not None:
        goal = math.log(target.size)
        found = _search(lambda rate: math.log(size_at(rate)), goal, LOG_BYTES_PER_ANCHOR, low, high, -SIZE_SLACK)
        if found is None:
            raise OutOfReachError(f"{target.size} bytes are too few: this picture takes {size_at(low)} at least")
        return found
    assert target.psnr is not None
    found = _search(psnr_at, target.psnr, DB_PER_ANCHOR, low, high, PSNR_SLACK)
    if found is None:
        raise OutOfReachError(
            f"a PSNR of {target.psnr:g} dB is out of reach: this picture has {psnr_at(high):.2f} dB at most"
        )
    return found


def lowered(rate: int, size: int, most: int) -> int:
    """The rate at which a file that takes ``size`` bytes should take ``most``."""
    return max(0, rate - math.ceil((math.log(size / most) + SIZE_SLACK / 4) / LOG_BYTES_PER_ANCHOR * RATE_UNIT))


def rate_between(known: list[tuple[int, float]], psnr: float) -> int:
    """The rate that should have this PSNR, or hardly more, as those tell of which it is known, the highest first: on a line
    between the nearest of both sides, or as steep as it may be below one.
    """
    above = min((one for one in known if one[1] >= psnr), default=known[0], key=lambda one: one[1])
    below = max((one for one in known if one[1] < psnr), default=None, key=lambda one: one[1])
    if below is None or above[0] <= below[0]:
        more = min(max(above[1] - psnr, 0.0) / STEEP_DB_PER_ANCHOR, above[0] / RATE_UNIT)  # infinite where nothing differs
        return above[0] - int(more * RATE_UNIT)
    share = (psnr + PSNR_SLACK / 2 - below[1]) / max(above[1] - below[1], PSNR_SLACK)
    return min(above[0], below[0] + math.ceil(share * (above[0] - below[0])))


def _search(
    value_at: Callable[[int], float], goal: float, per_anchor: float, low: int, high: int, slack: float
) -> int | None:
    """A rate in [low, high] at which a rising function lies between ``goal`` and ``goal + slack``; failing that, the nearest
    one on that side of the goal; None if there is none.
    """
    best: tuple[float, int] | None = None
    known: list[tuple[int, float]] = []
    below, above = low - 1, high + 1
    rate = (low + high) // 2
    for _ in range(TRIALS):
        value = value_at(rate)
        known.append((rate, value))
        if (value <= goal) if slack < 0 else (value >= goal):
            best = min(best or (math.inf, rate), (abs(value - goal), rate))
            if abs(value - goal) <= abs(slack):
                break
        if value < goal:
            below = max(below, rate)
        else:
            above = min(above, rate)
        if above - below <= 1:
            break
        slope = per_anchor / RATE_UNIT
        if not math.isfinite(value):  # nothing differs
            rate = (below + above) // 2
            continue
        if len(known) > 1 and math.isfinite(known[-2][1]):
            measured = (known[-1][1] - known[-2][1]) / (known[-1][0] - known[-2][0])
            # What no rate changes, metadata or noise, may leave little of the slope that pictures have.
            slope = measured if slope / 64 < measured < 4 * slope else slope
        aimed = rate + round((goal + slack / 2 - value) / slope)
        rate = min(max(aimed, below + 1), above - 1)
        if rate in (r for r, _ in known):
            rate = (below + above) // 2
    if best is None:  # the end of the range has the last word
        end = low if slack < 0 else high
        if end not in (r for r, _ in known):
            value = value_at(end)
            if (value <= goal) if slack < 0 else (value >= goal):
                return end
        return None
    return best[1]


class SquaredError:
    """Takes decoded boxes, with alpha or without, and adds up how far their colours are off where that is visible."""

    def __init__(self, picture: Any) -> None:
        self.picture = picture
        self.deep = picture.dtype.kind == "f"
        self._sum, self._count, self._lock = 0.0, 0, threading.Lock()

    def __setitem__(self, at: tuple[slice, slice], box: Pixels) -> None:
        original, decoded = np.atleast_3d(np.asarray(self.picture[at])), np.atleast_3d(box)
        alpha = original[:, :, -1:] > 0 if original.shape[2] in (2, 4) else None
        bands = original.shape[2] - (alpha is not None)
        colours: NDArray[Any] = original[:, :, :bands].astype(np.float64 if self.deep else np.int32)
        squares: NDArray[Any] = (colours - decoded[:, :, :bands]) ** 2
        if alpha is not None:
            squares = squares * alpha
        with self._lock:
            self._sum += float(squares.sum())
            self._count += bands * (int(alpha.sum()) if alpha is not None else original.shape[0] * original.shape[1])

    @property
    def psnr(self) -> float:
        """dB; infinite where nothing differs."""
        return 10 * math.log10(255**2 * self._count / self._sum) if self._sum else math.inf
