"""Bounds on what a file may ask of a reader, checked before anything of that size is allocated."""

from __future__ import annotations

import dataclasses
import numbers
from typing import Any


@dataclasses.dataclass(frozen=True)
class Limits:
    """Frozen bounds; pass another instance to ``codec.decode`` to widen or narrow them. ``math.inf`` is none.

    Attributes:
        max_side: pixels of the longer side. Keeps every size within 32-bit arithmetic after padding.
        max_pixels: pixels of a picture. Memory beside the pixels themselves grows with the shorter side alone.
        max_slice_pixels: pixels of one slice; a side counts 16 at least.
        max_latent_slice_pixels: likewise where networks make them, which takes some 200 bytes each.
        max_analysed_pixels: pixels of a picture that heads look at anew, which takes some 10 bytes each.
        max_chunks: chunks before the slices, their index counted in; each kind is met once, so twenty are many.
        max_index_bytes: bytes of the slice index; 1 MiB holds some 200,000 slices.
        max_metadata_bytes: bytes of one chunk other than the slice index. EXIF allows 64 KB in JPEG; ICC profiles reach a
            few MB.

    Raises:
        TypeError, ValueError: a bound that is no number of 0 or more.
    """

    max_side: float = 2**20
    max_pixels: float = 2**30
    max_slice_pixels: float = 2**25
    max_chunks: float = 1024
    max_index_bytes: float = 2**20
    max_metadata_bytes: float = 2**26
    max_latent_slice_pixels: float = 2**22
    max_analysed_pixels: float = 2**27

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, bool) or not isinstance(value, numbers.Real):
                raise TypeError(f"{name} must be a number, not {value!r}")
            if not float(value) >= 0:
                raise ValueError(f"{name} must be 0 or more, not {value}")

    def slice_pixels(self, latents: bool) -> float:
        """The most that a slice may have, of latents or not."""
        return min(self.max_slice_pixels, self.max_latent_slice_pixels) if latents else self.max_slice_pixels


DEFAULT_LIMITS = Limits()


def check_limits(limits: Any) -> None:
    """Raise TypeError for anything but ``Limits``."""
    if not isinstance(limits, Limits):
        raise TypeError(f"limits must be Limits, not {type(limits).__name__}")
