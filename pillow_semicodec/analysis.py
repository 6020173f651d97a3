"""Read what a picture shows from its file: entropy decoding of step 1 and small heads, no synthesis. Arrays and bytes.

A file that was saved with its semantics needs no model at all.
"""

from __future__ import annotations

from io import BytesIO
from os import PathLike
from pathlib import Path

from . import codec, container, pixels, slices
from .bundle import find_model
from .container import Prologue
from .errors import FormatError
from .head_bundle import find_heads
from .heads import run_heads
from .limits import DEFAULT_LIMITS, Limits
from .semantics import Semantics, read_semantics
from .slices import RatePlan


def analyze(
    source: str | PathLike[str] | bytes | bytearray | memoryview,
    *,
    heads: str | tuple[str, ...] = (),
    threads: int = 0,
    limits: Limits = DEFAULT_LIMITS,
) -> Semantics:
    """Labels with probabilities, a map of segments and an embedding, from a file or its bytes, without decoding pixels.

    Args:
        heads: names of installed heads; none named takes what the file itself says, or else all heads of its model.
        threads: CPU threads; 0 takes one per core.

    Raises:
        OSError: the file cannot be read.
        SemicodecError: one of its subclasses, for bytes that are no file this build can read, and for heads that are not
            installed.
    """
    codec.check_threads(threads)
    names = (heads,) if isinstance(heads, str) else tuple(heads)
    if isinstance(source, (bytes, bytearray, memoryview)):
        stream = BytesIO(source)
        prologue = container.read_prologue(stream.read, limits)
        return _of_file(prologue, stream, names, threads, limits)
    with Path(source).open("rb") as file:
        prologue = container.read_prologue(file.read, limits)
        return _of_file(prologue, file, names, threads, limits)  # type: ignore[arg-type]


def _of_file(prologue: Prologue, stream: BytesIO, names: tuple[str, ...], threads: int, limits: Limits) -> Semantics:
    header = prologue.header
    if container.SEMANTICS in prologue.metadata and not names:
        return read_semantics(prologue.metadata[container.SEMANTICS], header.width, header.height)
    bundle = find_model(header.model_id)
    chosen = find_heads(header.model_id, names)
    payloads = container.read_slices(stream.read, prologue.index, limits)
    if not payloads:
        raise FormatError("a picture without slices")
    plan = RatePlan.of_file(prologue)
    latents = slices.decode_semantic_latents(payloads[0], plan, bundle, header.height, header.width, threads)
    return run_heads(latents, chosen, threads)


def describe(
    picture: pixels.Pixels,
    *,
    quality: float = 50,
    model: str | None = None,
    heads: str | tuple[str, ...] = (),
    threads: int = 0,
) -> Semantics:
    """The semantics of pixels uint8 [H, W] or [H, W, 3], as of a file of this quality."""
    bundle = find_model(model)
    chosen = find_heads(bundle.model_id, (heads,) if isinstance(heads, str) else tuple(heads))
    rgb = pixels.to_rgb(picture)
    plan = RatePlan(bundle.rate_bank.rate_of_quality(quality))
    y = slices.analyse(rgb, bundle, threads)
    return run_heads(slices.semantic_latents(y, plan, bundle, rgb.shape[0], rgb.shape[1], threads), chosen, threads)
