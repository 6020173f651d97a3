"""pillow-semicodec: a learned image format, ``.sgc``, for Pillow and imageio.

Importing this package registers the format with Pillow::

    import pillow_semicodec
    from PIL import Image

    Image.open("photo.png").save("photo.sgc", quality=75)
    Image.open("photo.sgc").show()

No model is loaded before a picture is decoded or saved.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import options
from ._version import __version__
from .errors import (
    BundleError,
    ChecksumError,
    FormatError,
    LimitExceededError,
    SemicodecError,
    TruncatedError,
    UnknownModelError,
    UnsupportedError,
)
from .limits import Limits, check_limits
from .semantics import Label, SegmentationMap, Semantics, read_semantics

if TYPE_CHECKING:
    from .analysis import analyze, describe
    from .animation import decode_frames, encode_animation
    from .bundle import find_model, list_models
    from .codec import decode, encode, read_prologue
    from .head_bundle import find_heads, list_heads

__all__ = [
    "BundleError",
    "ChecksumError",
    "FormatError",
    "Label",
    "LimitExceededError",
    "Limits",
    "SegmentationMap",
    "Semantics",
    "SemicodecError",
    "TruncatedError",
    "UnknownModelError",
    "UnsupportedError",
    "__version__",
    "analyze",
    "decode",
    "decode_frames",
    "describe",
    "encode",
    "encode_animation",
    "find_heads",
    "find_model",
    "list_heads",
    "list_models",
    "options",
    "read_prologue",
    "read_semantics",
    "register",
]

_LAZY = {
    "analyze": "analysis",
    "decode": "codec",
    "decode_frames": "animation",
    "describe": "analysis",
    "encode": "codec",
    "encode_animation": "animation",
    "find_heads": "head_bundle",
    "find_model": "bundle",
    "list_heads": "head_bundle",
    "list_models": "bundle",
    "read_prologue": "codec",
}


def register(
    *, threads: int | None = None, limits: Limits | None = None, providers: str | tuple[str, ...] | None = None
) -> None:
    """Register the format with Pillow; importing the package does it already.

    Args:
        threads: sets ``options.THREADS``. limits: sets ``options.LIMITS``. providers: sets ``options.PROVIDERS``.

    Raises:
        TypeError, ValueError: arguments of the wrong kind or range.
    """
    if threads is not None:
        options.check_threads(threads)
    if limits is not None:
        check_limits(limits)
    if providers is not None:
        providers = (providers,) if isinstance(providers, str) else tuple(providers)
        if not all(isinstance(provider, str) for provider in providers):
            raise TypeError(f"providers must be names of ONNX Runtime's execution providers, not {providers!r}")
    if threads is not None:
        options.THREADS = int(threads)
    if limits is not None:
        options.LIMITS = limits
    if providers is not None:
        options.PROVIDERS = providers
    from . import SemicodecImagePlugin

    SemicodecImagePlugin.register()


if not TYPE_CHECKING:  # to checkers every name would be one

    def __getattr__(name: str) -> Any:
        if name in _LAZY:  # the codec imports NumPy and constriction; an import of the package does not
            import importlib

            return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


register()
