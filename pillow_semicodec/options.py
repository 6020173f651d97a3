"""Settings of the plugins that ``Image.open`` has no arguments for; set them here, or through ``register(...)``."""

from __future__ import annotations

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

TARGETS = ("target_size", "target_bpp", "target_psnr")  # what may be asked for instead of a quality


def cores() -> int:
    """CPU cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
