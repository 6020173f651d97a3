"""Encode and decode files: the composition of container, slices and heads. Arrays only: no PIL, no paths."""

from __future__ import annotations

from io import BytesIO

import numpy as np

from . import container, pixels
from .bundle import find_model
from .container import Header, Prologue
from .errors import FormatError
from .head_bundle import find_heads
from .heads import run_heads
from .limits import DEFAULT_LIMITS, Limits
from .regions import Roi, auto_cells, balance, cells_of
from .semantics import write_semantics
from .slices import RatePlan, analyse, decode_slice, encode_latents, semantic_latents

DEFAULT_QUALITY = 75


def encode(
    picture: pixels.Pixels,
    quality: float = DEFAULT_QUALITY,
    *,
    model: str | None = None,
    threads: int = 0,
    icc_profile: bytes | None = None,
    exif: bytes | None = None,
    roi: Roi = None,
    semantics: bool = False,
    limits: Limits = DEFAULT_LIMITS,
) -> bytes:
    """Compress a picture.

    Args:
        picture: uint8 [H, W] (grey) or [H, W, 3] (RGB).
        quality: 1 to 100, as with JPEG.
        model: name or id of an installed model; the default one otherwise.
        threads: CPU threads; 0 takes one per core.
        icc_profile, exif: kept byte for byte.
        roi: region of interest, which gets more of the bits while the file keeps its size: a mask [H, W] (not zero is
            inside), boxes (left, top, right, bottom) in pixels, or "auto": where the model's heads see foreground. A region
            that is empty, or everything, changes nothing; another costs up to seven trials of the entropy coding.
        semantics: also store what the model's heads see, for readers without a model.

    Raises:
        TypeError, ValueError: arguments of the wrong kind, shape or range; metadata beyond the limit.
        LimitExceededError, UnknownModelError, BundleError.
    """
    check_picture(picture)
    check_quality(quality)
    check_threads(threads)
    height, width = picture.shape[:2]
    container.check_size(width, height, limits)
    metadata = {}
    for kind, value in ((container.ICC_PROFILE, icc_profile), (container.EXIF, exif)):
        if value:
            if len(value) > limits.max_metadata_bytes:
                raise ValueError(f"{len(value)} bytes of metadata exceed the limit of {limits.max_metadata_bytes}")
            metadata[kind] = bytes(value)
    cells = cells_of(roi, height, width)
    bundle = find_model(model)
    plan = RatePlan(bundle.rate_bank.rate_of_quality(quality))
    y = analyse(pixels.to_rgb(picture), bundle, threads)
    if semantics or isinstance(roi, str):
        heads = find_heads(bundle.model_id)
        seen = run_heads(semantic_latents(y, plan, bundle, height, width, threads), heads, threads)
        if isinstance(roi, str):
            cells = auto_cells(seen, heads)
        if semantics:
            metadata[container.SEMANTICS] = write_semantics(seen)
    stream = encode_latents(y, plan, bundle, height, width, threads).stream
    if cells is not None and cells.any() and not cells.all():
        plan, stream = balance(y, plan.rate, cells, stream, bundle, height, width, threads)
        if (regions := plan.chunk()) is not None:
            metadata[container.REGIONS] = regions
    header = Header(width, height, "L" if picture.ndim == 2 else "RGB", bundle.model_id)
    return container.write_container(header, plan.rate, (stream,), metadata)


def check_picture(picture: pixels.Pixels) -> None:
    """Raise TypeError or ValueError unless ``picture`` is uint8 [H, W] or [H, W, 3], and not empty."""
    if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8:
        raise TypeError(f"a picture must be a uint8 array, not {getattr(picture, 'dtype', type(picture).__name__)}")
    if picture.ndim != 2 and (picture.ndim != 3 or picture.shape[2] != 3):
        raise ValueError(f"a picture must have shape [H, W] or [H, W, 3], not {list(picture.shape)}")
    if not picture.size:
        raise ValueError("cannot write an empty picture")


def check_quality(quality: float) -> None:
    """Raise TypeError or ValueError unless ``quality`` is a number from 1 to 100."""
    if isinstance(quality, bool) or not isinstance(quality, (int, float, np.integer, np.floating)):
        raise TypeError(f"quality must be a number from 1 to 100, not {type(quality).__name__}")
    if not 1 <= quality <= 100:
        raise ValueError(f"quality must be from 1 to 100, not {quality}")


def check_threads(threads: int) -> None:
    """Raise TypeError or ValueError unless ``threads`` is a whole number, 0 or more."""
    if isinstance(threads, bool) or not isinstance(threads, int):
        raise TypeError(f"threads must be a whole number, not {type(threads).__name__}")
    if threads < 0:
        raise ValueError(f"threads must be 0 (one per core) or more, not {threads}")


def read_prologue(data: bytes, limits: Limits = DEFAULT_LIMITS) -> Prologue:
    """Size, mode, model and metadata of a file, without its pixels and without running a network."""
    return container.read_prologue(BytesIO(data).read, limits)


def decode(data: bytes, *, threads: int = 0, limits: Limits = DEFAULT_LIMITS) -> pixels.Pixels:
    """Decompress a file to uint8 [H, W] or [H, W, 3].

    Raises:
        SemicodecError: one of its subclasses, for any bytes that are not a file this build can read.
        TypeError, ValueError: ``threads`` is no whole number of 0 or more.
    """
    stream = BytesIO(data)
    prologue = container.read_prologue(stream.read, limits)
    return decode_picture(prologue, container.read_slices(stream.read, prologue.index, limits), threads=threads)


def decode_picture(prologue: Prologue, slices: tuple[bytes, ...], *, threads: int = 0) -> pixels.Pixels:
    """Decompress a file that ``container`` has taken apart."""
    check_threads(threads)
    header = prologue.header
    bundle = find_model(header.model_id)
    if not slices:
        raise FormatError("a picture without slices")
    rgb, _ = decode_slice(slices[0], RatePlan.of_file(prologue), bundle, header.height, header.width, threads)
    return pixels.to_luma(rgb) if header.mode == "L" else rgb
