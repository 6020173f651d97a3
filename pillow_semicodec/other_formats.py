"""Formats that other packages bring to Pillow, where they are installed: HEIC and JPEG XL."""

from __future__ import annotations

import functools
import importlib

PACKAGES = ("pillow_heif", "pillow_jxl")


@functools.cache
def register(package: str) -> bool:
    """Whether it is there; then Pillow knows its formats. One that is broken is none."""
    try:
        module = importlib.import_module(package)
    except (ImportError, OSError):
        return False
    if package == "pillow_heif":  # the other registers itself
        module.register_heif_opener()
    return True


def register_all() -> None:
    for package in PACKAGES:
        register(package)
