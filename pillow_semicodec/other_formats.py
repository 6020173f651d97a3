"""Formats that other packages bring to Pillow, where they are installed: HEIC and JPEG XL."""

from __future__ import annotations

import functools
import importlib

from PIL import Image

PACKAGES = ("pillow_heif", "pillow_jxl")


@functools.cache
def register(package: str) -> bool:
    """Whether it is there; then Pillow knows its formats, behind its own ones. One that is broken is none."""
    Image.init()  # or pillow-heif would be asked for AVIF first, and say yes to some
    try:
        module = importlib.import_module(package)
        if package == "pillow_heif":  # the other registers itself
            module.register_heif_opener()
    except (ImportError, OSError):
        return False
    return True


def register_all() -> None:
    for package in PACKAGES:
        register(package)
