"""How far a call has come, for those who wait for it."""

from __future__ import annotations

import threading
from collections.abc import Callable

Report = Callable[[float], object]
NOTHING = 1e-9  # of the way; what sums are wrong by is less


class Progress:
    """Shares the way from 0 to 1 among stages, of which not all need be known beforehand.

    Args:
        report: called with what is done, rising to 1, by one thread at a time; what it raises ends the call.
    """

    def __init__(self, report: Report) -> None:
        self._report, self._lock = report, threading.Lock()
        self._done, self._given = 0.0, 0.0

    def stage(self, steps: int, share: float = 1.0) -> Callable[[], None]:
        """Reserve a share of the rest of the way; the function that comes back takes one of its steps. Of nothing, or where
        nothing is left, it says nothing: the end is told once.
        """
        length = (1 - self._given) * share
        self._given += length
        if length < NOTHING:
            return lambda: None

        def step() -> None:
            with self._lock:
                self._done = min(self._done + length / steps, 1.0)
                self._report(1.0 if self._done > 1 - NOTHING else self._done)

        return step

    def finish(self) -> None:
        """All is done, whatever was reserved."""
        if self._done < 1:
            self._done = 1.0
            self._report(1.0)


def stage(progress: Progress | None, steps: int, share: float = 1.0) -> Callable[[], None]:
    """A stage, or nothing where nobody waits."""
    return progress.stage(steps, share) if progress else lambda: None


def check_progress(report: Report | None) -> None:
    """Raise TypeError unless ``report`` is a function, or None."""
    if report is not None and not callable(report):
        raise TypeError(f"progress must be a function that takes a share from 0 to 1, not {type(report).__name__}")
