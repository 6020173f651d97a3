"""Settings of the plugins that ``Image.open`` has no arguments for; set them here, or through ``register(...)``."""

from __future__ import annotations

import numbers
import os

from .limits import DEFAULT_LIMITS, Limits

THREADS: int = 0
"""CPU threads for encoding and decoding; 0 takes one per core."""

PROVIDERS: tuple[str, ...] = ()
"""ONNX Runtime execution providers for the analysis and synthesis, best first, before the CPU's: "CUDAExecutionProvider",
"CoreMLExecutionProvider", "DmlExecutionProvider", "OpenVINOExecutionProvider", … What chooses probability tables always
runs on the CPU, so that a file holds the same latents wherever it is read."""

LIMITS: Limits = DEFAULT_LIMITS
"""Bounds on what a file may ask for; ``Image.MAX_IMAGE_PIXELS`` applies beside them."""

MOST_THREADS = 1024  # that may be asked for

TARGETS = ("target_size", "target_bpp", "target_psnr")  # what may be asked for instead of a quality


def cores() -> int:
    """CPU cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_threads(threads: int) -> None:
    """Raise TypeError or ValueError unless ``threads`` is a whole number from 0 to ``MOST_THREADS``."""
    if isinstance(threads, bool) or not isinstance(threads, numbers.Integral):  # NumPy's are, too
        raise TypeError(f"threads must be a whole number, not {type(threads).__name__}")
    if not 0 <= threads <= MOST_THREADS:
        raise ValueError(f"threads must be from 0 (one per core) to {MOST_THREADS}, not {threads}")
