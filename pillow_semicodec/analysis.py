"""Read what a picture shows from its file: entropy decoding of step 1 and small heads, no synthesis. Pictures with palettes
or in black and white, which have no latents of what is drawn, are decoded and looked at by the default model's heads.

A file that was saved with its semantics needs no model: then nothing but the standard library is imported.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

from . import container
from .container import Prologue
from .errors import UnsupportedError
from .files import Source, opened
from .limits import DEFAULT_LIMITS, Limits
from .options import check_threads
from .semantics import Semantics, read_semantics

INSTALLED = "*"


def analyze(
    source: Source,
    *,
    heads: str | tuple[str, ...] = (),
    threads: int = 0,
    limits: Limits = DEFAULT_LIMITS,
) -> Semantics:
    """Labels with probabilities, a map of segments and an embedding, from a file, by its name, its bytes or open, without
    decoding pixels (but of indexed pictures and overlays). Of an animation, those of its first frame.

    Heads read a picture at its own scale; they know things of the size that they were trained on.

    Args:
        source: a file's name, what it holds, or a file, open for reading bytes.
        heads: names of installed heads; none named takes what the file itself says, or else all heads of its model;
            ``"*"``, all heads of its model, whatever the file says.
        threads: CPU threads; 0 takes one per core.

    Raises:
        OSError: the file cannot be read.
        SemicodecError: one of its subclasses, for bytes that are no file this build can read, and for heads that are not
            installed.
        TypeError, ValueError: ``source`` is none of these; ``threads`` or ``limits`` are none that may be asked for.
    """
    names = (heads,) if isinstance(heads, str) else tuple(heads)
    with opened(source) as file:
        return _of_file(file.read, names, threads, limits)


def _of_file(read: Callable[[int], bytes], names: tuple[str, ...], threads: int, limits: Limits) -> Semantics:
    check_threads(threads)
    prologue = container.read_prologue(read, limits)
    header = prologue.header
    if container.SEMANTICS in prologue.metadata and not names:
        with contextlib.suppress(UnsupportedError):  # a later version of the chunk: look anew
            return read_semantics(prologue.metadata[container.SEMANTICS], header.width, header.height)
    return _by_heads(prologue, read, names, threads, limits)


def _by_heads(
    prologue: Prologue, read: Callable[[int], bytes], names: tuple[str, ...], threads: int, limits: Limits
) -> Semantics:
    from .bundle import find_model
    from .head_bundle import find_heads
    from .heads import run_heads
    from .layout import Layout, RatePlan
    from .slices import Decoder

    header = prologue.header
    most = min(limits.max_pixels, limits.max_analysed_pixels)
    container.check_size(header.width, header.height, dataclasses.replace(limits, max_pixels=most))
    if not header.latents or container.OVERLAY in prologue.metadata:  # what latents do not know, pixels do
        from .codec import decode_picture

        picture = decode_picture(prologue, container.read_slices(read, prologue.index), threads=threads)
        model = header.model_id.hex() if header.latents else None
        return describe(picture, model=model, heads=() if names == (INSTALLED,) else names, threads=threads)
    bundle = find_model(header.model_id)
    chosen = find_heads(header.model_id, () if names == (INSTALLED,) else names)
    streams = container.read_slices(read, prologue.index)
    plan = RatePlan.of_file(prologue)
    layout = Layout(header.height, header.width, prologue.index.side, header.alpha)
    latents = Decoder(streams, plan, bundle, layout, threads).semantic_latents()
    return run_heads(latents, chosen, threads)


def describe(
    picture: Any,
    *,
    quality: float = 50,
    model: str | None = None,
    heads: str | tuple[str, ...] = (),
    threads: int = 0,
) -> Semantics:
    """The semantics of pixels uint8 [H, W] or [H, W, 3], or one band more for alpha, or bool, or of more than 8 bits, like
    ``encode``'s, as of a file of this quality.

    Args:
        heads: names of installed heads; none named takes all heads of the model.

    Raises:
        TypeError, ValueError: arguments of the wrong kind, shape or range.
        UnknownModelError, BundleError: model or heads are not installed.
    """
    import numpy as np

    from . import codec
    from .bundle import find_model
    from .head_bundle import find_heads
    from .heads import run_heads

    codec.check_picture(picture)
    if picture.dtype == bool:
        height, width = picture.shape
        picture = np.asarray(picture[0:height, 0:width]) * np.uint8(255)
    codec.check_quality(quality)
    check_threads(threads)
    bundle = find_model(model)
    chosen = find_heads(bundle.model_id, heads)
    _, colours = codec.colours_of(picture, False, {})
    return run_heads(codec.latents_seen(colours, bundle, quality, threads), chosen, threads)
