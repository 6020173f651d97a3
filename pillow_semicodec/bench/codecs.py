"""The codecs that are compared: Pillow's own, and those of plugins where they are installed."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import io
import sys
from collections.abc import Callable
from typing import Any

from PIL import AvifImagePlugin, Image, features

from .. import options, other_formats

OURS = "SGC"


def _quality(quality: float) -> dict[str, Any]:
    return {"quality": quality}


def _decibels(quality: float) -> dict[str, Any]:
    return {"quality_layers": [quality]}


@dataclasses.dataclass(frozen=True)
class Codec:
    """One line of the comparison.

    Attributes:
        kind: Pillow's name of the format. settings: keywords of ``save`` besides the quality.
        qualities: points of its curve, rising.
        keywords: quality → keywords of ``save``.
        needs: what must be there: a module that registers the format, or a feature of Pillow.
    """

    name: str
    kind: str
    settings: dict[str, Any]
    qualities: tuple[int, ...]
    keywords: Callable[[float], dict[str, Any]] = _quality
    needs: str = ""

    def save(self, picture: Image.Image, quality: float) -> bytes:
        file = io.BytesIO()
        threads = {"num_threads": options.THREADS or options.cores()} if self.kind == "JXL" else {}
        picture.save(file, self.kind, **self.settings, **threads, **self.keywords(quality))
        return file.getvalue()

    def nearest(self, picture: Image.Image, size: int) -> int:
        """The quality whose file is nearest to ``size`` bytes; files grow with quality."""
        size_of = functools.cache(lambda quality: len(self.save(picture, quality)))
        if self.keywords is not _quality:
            return min(self.qualities, key=lambda quality: abs(size_of(quality) - size))
        low, high = 1, 100
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if size_of(middle) <= size else (low, middle)
        return min((low, high), key=lambda quality: abs(size_of(quality) - size))

    def version(self) -> str:
        """Name and version of the plugin that brings it; Pillow's own have Pillow's."""
        package = self.needs.replace("_", "-") if self.needs.startswith("pillow_") else ""
        package = {"pillow-jxl": "pillow-jxl-plugin"}.get(package, package)
        return f"{package} {importlib.metadata.version(package)}" if package else ""

    def label(self) -> str:
        """What a curve's figures depend on, in words."""
        return " ".join([self.kind, *(f"{name}={value}" for name, value in self.settings.items())])


def load(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def share_threads() -> None:
    """Let the other codecs have as many threads as SGC where they have a setting: AVIF, HEIC (decoding) and JPEG XL."""
    count = AvifImagePlugin.DEFAULT_MAX_THREADS = options.THREADS or options.cores()
    for module in ("pillow_heif.options", "pillow_jxl.JpegXLImagePlugin"):
        if module in sys.modules:
            sys.modules[module].DECODE_THREADS = count  # type: ignore[attr-defined]


CODECS = (
    Codec(OURS, "SGC", {}, (5, 10, 13, 16, 20, 30, 40, 50, 60, 70, 75, 80, 90, 95)),
    Codec("JPEG", "JPEG", {"optimize": True, "progressive": True}, (5, 10, 20, 30, 45, 60, 75, 85, 90, 95)),
    Codec("WebP", "WEBP", {"method": 4}, (1, 5, 15, 30, 50, 65, 75, 85, 90, 95, 98), needs="webp"),
    Codec("AVIF", "AVIF", {"speed": 6}, (10, 20, 30, 40, 50, 60, 70, 80, 87, 93), needs="avif"),
    Codec(
        "JPEG 2000",
        "JPEG2000",
        {"irreversible": True, "mct": 1, "quality_mode": "dB"},
        (25, 28, 30, 32, 34, 36, 38, 40, 42, 45),
        _decibels,
        needs="jpg_2000",
    ),
    Codec("HEIC", "HEIF", {"chroma": 444}, (5, 15, 25, 35, 45, 55, 65, 75, 85, 92), needs="pillow_heif"),
    Codec("JPEG XL", "JXL", {"effort": 7}, (10, 25, 40, 55, 65, 75, 82, 88, 92, 96), needs="pillow_jxl"),
)


def present(names: list[str] | None = None) -> list[Codec]:
    """Those that can be used here, registered with Pillow.

    Args:
        names: only these; a name that is not here is a ValueError that lists what is.
    """
    found = [codec for codec in CODECS if _register(codec.needs)]
    if names is None:
        return found
    here = {codec.name.lower(): codec for codec in found}
    for name in names:
        if name.lower() not in here:
            raise ValueError(f"no codec {name!r} here; there are {', '.join(codec.name for codec in found)}")
    return [here[name.lower()] for name in names]


def _register(needs: str) -> bool:
    if needs in ("webp", "avif", "jpg_2000"):
        return bool(features.check(needs))
    return not needs or other_formats.register(needs)
