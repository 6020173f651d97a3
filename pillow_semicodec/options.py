"""Settings of the plugins that ``Image.open`` has no arguments for; set them here, or through ``register(...)``."""

from __future__ import annotations

import contextlib
import math
import numbers
import os
import warnings
from pathlib import Path

from .limits import DEFAULT_LIMITS, Limits

MOST_THREADS = 1024  # that may be asked for
THREADS_VARIABLE = "SGC_THREADS"
QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container: microseconds of CPU time, in how many


def threads_by_default() -> int:
    """What the environment says, for processes that run nobody's code, like workers of a pool; else 0."""
    said = os.environ.get(THREADS_VARIABLE) or "0"
    if said.isdecimal() and int(said) <= MOST_THREADS:
        return int(said)
    warnings.warn(f"{THREADS_VARIABLE} must be a whole number from 0 to {MOST_THREADS}, not {said!r}", stacklevel=2)
    return 0


THREADS: int = threads_by_default()
"""CPU threads for encoding and decoding; 0 takes one per core."""

PROVIDERS: tuple[str, ...] = ()
"""ONNX Runtime execution providers for the analysis and synthesis, best first, before the CPU's: "CUDAExecutionProvider",
"CoreMLExecutionProvider", "DmlExecutionProvider", "OpenVINOExecutionProvider", … What chooses probability tables always
runs on the CPU, so that a file holds the same latents wherever it is read."""

LIMITS: Limits = DEFAULT_LIMITS
"""Bounds on what is opened and saved; ``Image.MAX_IMAGE_PIXELS`` applies beside them."""

TARGETS = ("target_size", "target_bpp", "target_psnr")  # what may be asked for instead of a quality


def cores() -> int:
    """CPU cores that this process may run on, or as many as its container's quota is worth."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):  # there is none, or it is "max"
        quota, period = map(int, QUOTA.read_text().split())
        count = min(count, max(1, math.ceil(quota / period)))
    return count


def check_threads(threads: int) -> None:
    """Raise TypeError or ValueError unless ``threads`` is a whole number from 0 to ``MOST_THREADS``."""
    if isinstance(threads, bool) or not isinstance(threads, numbers.Integral):  # NumPy's are, too
        raise TypeError(f"threads must be a whole number, not {type(threads).__name__}")
    if not 0 <= threads <= MOST_THREADS:
        raise ValueError(f"threads must be from 0 (one per core) to {MOST_THREADS}, not {threads}")
