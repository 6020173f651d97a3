"""Encode and decode files: the composition of container, slices and heads. Arrays only: no PIL, no paths."""

from __future__ import annotations

import contextlib
import math
import operator
from functools import partial
from io import BytesIO
from typing import Any, NamedTuple, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from . import container, pixels
from .alpha import VisibleColours, decode_bilevel, encode_alpha, levels_of
from .bundle import ModelBundle, find_model
from .companions import GRADIENT, REDUCED, SCALES, has_companion
from .container import INDEXED_MODES, Header, Prologue
from .depth import DTYPES, KINDS, AsRead, FromLevels, Levels, numbers_of
from .effort import ROUNDS, refine
from .files import Source, opened
from .head_bundle import find_heads
from .heads import run_heads
from .indexed import LEAST_SIDE, Drawing, decode_indexed, is_worth_trying, read_palette, share_of
from .inference import Tensor
from .layout import Layout, RatePlan, Streams
from .limits import DEFAULT_LIMITS, Limits, check_limits
from .options import check_threads
from .overlay import GROUND_COST, Overlaid, drawn_pixels, take_apart
from .planes import Box, Plane
from .progress import Progress, Report, check_progress, stage
from .rate_control import OutOfReachError, SquaredError, Target, lowered, rate_between, rate_for, target_of
from .regions import Cells, Roi, auto_cells, balance, cells_of, heads_with_foreground
from .semantics import write_semantics
from .slices import Decoder, Encoder, analyse

DEFAULT_QUALITY = 75
PALETTE_WORTH = 1.15  # times the bytes of latents that a palette may take: it is sharper, at low qualities by much
SLICE_SIDE, SMALL_SLICE_SIDE, BILEVEL_SLICE_SIDE = 1024, 512, 2048  # pixels
PREVIEW_FROM, PREVIEW_SIDE, PREVIEW_QUALITY = 2**23, 512, 60  # pixels of pictures that get one, its longer side at most
REFINED_TRIES = 3  # of effort for a PSNR
TRIAL_SHARE = 1 / 5  # of what is left to do, as progress counts it
SMALL_FROM = 4096  # pixels of the shorter side: from here on several rows of large slices would take much memory
Out = TypeVar("Out")


def encode(
    picture: Any,
    quality: float = DEFAULT_QUALITY,
    *,
    target_size: int | None = None,
    target_bpp: float | None = None,
    target_psnr: float | None = None,
    slice_side: int | None = None,
    model: str | None = None,
    threads: int = 0,
    icc_profile: bytes | None = None,
    exif: bytes | None = None,
    roi: Roi = None,
    semantics: bool | str | tuple[str, ...] = False,
    alpha_quality: int = 100,
    effort: int = 1,
    exact: bool = False,
    xmp: bytes | str | None = None,
    dpi: tuple[float, float] | None = None,
    comment: bytes | str | None = None,
    shown_as: str | None = None,
    preview: bool | None = None,
    indexed: bool | None = None,
    progress: Report | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> bytes:
    """Compress a picture.

    Args:
        picture: uint8 [H, W] (grey), [H, W, 3] (RGB), or one band more, alpha; or bool [H, W], kept exactly; or of more than
            8 bits: uint16 [H, W] or [H, W, 3], int32 or float32 [H, W], scaled as ``depth`` says. An array, or anything with
            ``shape`` and ``dtype`` out of which boxes are cut like out of an array, ``picture[top:bottom, left:right]``
            (``numpy.memmap``, zarr, h5py), so that a picture need not fit in memory. Boxes are asked for from several
            threads; ``dtype`` is a ``numpy.dtype``. Masked pixels are an error.
        quality: 1 to 100, as with JPEG.
        target_size, target_bpp, target_psnr: instead of a quality, the bytes of the file at most, its bits per pixel at
            most, or the PSNR in dB at least, over all bands but alpha, where the picture is visible. Found in up to ten
            trials, twenty where letters may be kept as a palette, mostly within 1.5 % of the bytes and 0.05 dB. Pictures in
            black and white, which are kept exactly, know no options but ``target_size``, metadata, ``slice_side``,
            ``threads`` and ``progress``.
        slice_side: pixels of a slice's side, a power of two from 64 to 65536, or 0 for one slice; by default pictures of
            more than 2²⁰ pixels are cut into slices of 1024, those whose shorter side has 4096 or more into slices of 512,
            black and white into slices of 2048 and palettes into slices of 4096. Slices leave no trace in the picture.
            Those of anything but a palette have at most ``limits.max_latent_slice_pixels``.
        model: name or id of an installed model; the default one otherwise.
        threads: CPU threads; 0 takes one per core.
        icc_profile, exif, xmp, comment: kept byte for byte; strings in UTF-8.
        dpi: dots per inch, across and down.
        roi: region of interest, which gets more of the bits while the file keeps its size: a mask, an array [H, W] or an
            image (not zero is inside), boxes (left, top, right, bottom) in pixels, or "auto": where the model's heads see
            foreground. A region that is empty, or everything, changes nothing; another costs up to seven trials of the
            entropy coding.
        semantics: also store what the model's heads see, for readers without a model: True for all installed heads, or
            the names of some.
        alpha_quality: 0 to 100; below 100 alpha is kept in fewer levels, from 2 up, which cost fewer bits.
        effort: 1 to 9; above 1 the encoder tries other roundings, for about 20 times as long at most, three times that with
            ``target_psnr``, where the model has a network for it: at equal PSNR 5 and more save about 1.6 % of the bytes. It
            takes more memory then: 0.3 GB for every thread and 10 bytes for every pixel.
        exact: spend bits on colours under alpha 0, too; otherwise they are made up from what is visible around them.
        shown_as: mode of Pillow, one of ``container.VIEWS``, that the picture had and shall have when Pillow opens it.
        preview: store a version of at most 512 pixels, too, of which thumbnails are made without decoding the picture; by
            default from 2²³ pixels on, where it takes about half a percent of the bytes, unless there is a target.
        indexed: store a palette and the numbers of its colours instead of latents: exact from quality 95 on, with fewer
            colours below. By default where that takes fewer bytes, or up to 15 % more, for it is sharper, as with screens,
            text and drawings, and neither regions nor a preview are asked for. Such a file needs no model, holds no preview
            and knows no effort. Pictures like these, of up to 65536 colours, have one where nothing else meets a
            ``target_psnr``. Beside photographs, letters and flat grounds are kept like that cell by cell, unless ``indexed``
            is False; with a target, where that leaves more for the photographs, or takes less.
        progress: called now and then with the share of the work that is done, rising to 1; from other threads, one at a
            time. What it raises ends the call.

    Raises:
        TypeError, ValueError: arguments of the wrong kind, shape or range; metadata beyond the limit.
        LimitExceededError, UnknownModelError, BundleError.
    """
    check_picture(picture)
    check_limits(limits)
    check_settings(
        quality,
        threads=threads,
        slice_side=slice_side,
        alpha_quality=alpha_quality,
        effort=effort,
        exact=exact,
        preview=preview,
        indexed=indexed,
        progress=progress,
    )
    threads, slice_side = int(threads), None if slice_side is None else int(slice_side)
    way = Progress(progress) if progress else None
    height, width = picture.shape[:2]
    container.check_size(width, height, limits)
    texts = {"icc_profile": icc_profile, "exif": exif, "xmp": xmp, "comment": comment}
    metadata = _metadata(texts, dpi, shown_as, limits)
    layout = _layout(picture, slice_side, not indexed, limits)
    if layout.slices == 1:  # several parts of the encoder ask for all of it
        picture = np.asarray(picture[0:height, 0:width])
    target = target_of(target_size, target_bpp, target_psnr, height * width)
    quality = quality if target is None else DEFAULT_QUALITY  # of a preview, and of latents that show what is to be seen
    if target is not None and target.psnr is not None and roi is not None:
        raise ValueError("target_psnr and roi exclude each other: regions move bits, and the PSNR with them")
    cells = cells_of(roi, height, width)
    if picture.dtype == np.bool_:
        return _finished(_encode_bilevel(picture, metadata, layout, target, threads, way), way, limits)
    mode, colours = colours_of(picture, exact, metadata, levels_of(alpha_quality))
    indexed = _may_index(picture, mode, roi, False if preview and indexed is None else indexed)
    draw = partial(Drawing, picture, mode, threads, levels_of(alpha_quality), exact, slice_side, limits)
    if indexed:
        if semantics:
            bundle = find_model(model)
            _look(latents_seen(colours, bundle, quality, threads), bundle, None, None, semantics, metadata, threads)
        return _encode_indexed(draw(metadata, must=True), quality, target, way)
    bundle = find_model(model)
    header = Header(width, height, mode, bundle.model_id)
    if preview or (preview is None and target is None and height * width >= PREVIEW_FROM):
        metadata[container.PREVIEW] = encode(
            pixels.reduced(picture, _preview_scale(height, width), header.alpha),
            min(quality, PREVIEW_QUALITY),
            model=model,
            threads=layout.workers(threads)[1] if layout.slices > 1 else threads,  # on the networks that are there anyway
            alpha_quality=alpha_quality,
            exact=exact,
            slice_side=slice_side,
            preview=False,
            indexed=False,
            limits=limits,
        )
        if preview is None and len(metadata[container.PREVIEW]) > limits.max_metadata_bytes:
            del metadata[container.PREVIEW]
    plan = _plan(bundle, quality)
    y = analyse(colours, bundle, layout, threads)
    if semantics or isinstance(roi, str):
        latents = Encoder(y, plan, bundle, layout, threads).semantic_latents()
        cells = _look(latents, bundle, roi, cells, semantics, metadata, threads)
    drawing = draw(metadata) if indexed is None and target else None
    palette = drawing.file_for(quality, target) if drawing else None
    if palette is not None and target is not None and target.size is not None:
        return _finished(palette, way, limits)
    planes: Streams = ()
    if header.alpha:
        planes = encode_alpha(picture, layout, levels_of(alpha_quality), threads, stage(way, layout.slices, 1 / 4))
    marked = _marked(metadata, pixels.is_neutral(picture, exact))
    original, wanted = colours if header.deep else picture, target or Target()
    job = _Job(header, marked, y, colours, original, planes, wanted, cells, effort, bundle, layout, threads, way, {})
    if target is None:
        if indexed is None:
            stage(way, 1, 1 / 2)  # reserved for what is drawn on top
        data = job.data(plan)
        return _finished(data if indexed is False else job.drawn(data, draw(metadata), quality, plan), way, limits)
    return _finished(job.met(drawing, palette), way, limits)


def _with_grounds(data: bytes, picture: pixels.Pixels, limits: Limits) -> bytes:
    """The file with its flat grounds kept exactly, if it is one of latents alone and that costs next to nothing."""
    prologue = container.read_prologue(BytesIO(data).read, limits)
    if not prologue.header.latents or not {container.OVERLAY, container.UNSEEN_KEPT}.isdisjoint(prologue.metadata):
        return data
    parts = take_apart(picture, 0, flat=True)
    if parts is None or len(parts.payload) > min(GROUND_COST * len(data), limits.max_metadata_bytes):
        return data
    return container.with_chunks(data, _marked({}, parts.neutral) | {container.OVERLAY: parts.payload}, limits)


def _plan(bundle: ModelBundle, quality: float) -> RatePlan:
    return RatePlan(bundle.rate_bank.rate_of_quality(quality))


def _finished(data: bytes, way: Progress | None, limits: Limits) -> bytes:
    """The file, which a reader of the same limits takes.

    Raises:
        LimitExceededError: it would not: the index of so many slices is too long.
    """
    container.read_prologue(BytesIO(data).read, limits)
    if way:
        way.finish()
    return data


def _encode_indexed(drawing: Drawing, quality: float, target: Target | None, way: Progress | None) -> bytes:
    data = drawing.file_for(quality, target, way)
    if data is None:
        raise ValueError("the target is out of reach of an indexed picture")
    return _finished(data, way, drawing.limits)


def _may_index(picture: Any, mode: str, roi: Roi, wanted: bool | None) -> bool | None:
    """True: it must be; None: where that takes fewer bytes, or few more; False: no.

    Raises:
        ValueError: it must be, and cannot.
    """
    possible = mode in INDEXED_MODES.values() and roi is None
    if wanted and not possible:
        raise ValueError("only pictures of 8 bits, and without regions, can be indexed")
    if wanted is None:
        return None if possible and is_worth_trying(picture) else False
    return bool(wanted)


def _look(
    latents: Tensor,
    bundle: ModelBundle,
    roi: Roi,
    cells: Cells | None,
    semantics: bool | str | tuple[str, ...],
    metadata: dict[bytes, bytes],
    threads: int,
) -> Cells | None:
    """What heads see: into ``metadata``, and for ``roi`` "auto" as the cells of the region that come back."""
    if isinstance(roi, str):
        heads = heads_with_foreground(bundle.model_id)
        cells = auto_cells(run_heads(latents, heads, threads), heads)
    if semantics:
        heads = find_heads(bundle.model_id, () if isinstance(semantics, (bool, int, np.bool_)) else semantics)
        metadata[container.SEMANTICS] = write_semantics(run_heads(latents, heads, threads))
    return cells


class _Job(NamedTuple):
    """A picture that is coded at one rate or another.

    Attributes:
        colours: what y was made of. original: what PSNR is measured from. planes: of alpha.
        target: an empty one is always met. cells: of the region of interest.
        tried: streams by rate, of trials for a target. drawn_cells: of an overlay.
    """

    header: Header
    metadata: dict[bytes, bytes]
    y: Plane
    colours: Any
    original: Any
    planes: Streams
    target: Target
    cells: Cells | None
    effort: int
    bundle: ModelBundle
    layout: Layout
    threads: int
    way: Progress | None
    tried: dict[int, Streams]
    drawn_cells: NDArray[np.bool_] | None = None

    def data(self, plan: RatePlan) -> bytes:
        """The file; what effort makes of it, if that meets the target."""
        plan, streams = self.coded(plan)
        return self.file(plan.rate, streams)

    def met(self, drawing: Drawing | None, palette: bytes | None) -> bytes:
        """The smallest file that meets the target: of latents, with what is drawn on top or not, or ``palette``, that of a
        picture of few colours, which meets it. Of many colours only where nothing else meets it.

        Raises:
            OutOfReachError: none does.
        """
        try:
            job, plan = self.planned(drawing)
        except OutOfReachError:
            palette = palette or (drawing.costly(self.target) if drawing and self.target.psnr is not None else None)
            if palette is None:
                raise
            return palette
        data = job.data(plan)
        return min(palette or data, data, key=len)

    def planned(self, drawing: Drawing | None) -> tuple[_Job, RatePlan]:
        """How the target is met: by this job, or with what is drawn on top where that leaves more of a size for the rest, or
        takes fewer bytes for a PSNR. What is drawn is as exact as at the quality that the target allows without it.

        Raises:
            OutOfReachError: by neither.
        """
        plan, why, size = None, "", self.target.size
        try:
            plan = self.plan_for()
        except OutOfReachError as failure:
            why = str(failure)  # alone: its traceback leads here
        quality = self.bundle.rate_bank.quality_of_rate(plan.rate) if plan else 1.0 if size else 100.0
        if drawing and (laid := self.overlaid(drawing, quality, below=size or math.inf)):
            with contextlib.suppress(OutOfReachError):
                other = laid.plan_for()
                if plan is None or (other.rate >= plan.rate if size else laid.size_at(other.rate) < self.size_at(plan.rate)):
                    return laid, other
        if plan is None:
            raise OutOfReachError(why)
        return self, plan

    def drawn(self, data: bytes, drawing: Drawing, quality: float, plan: RatePlan) -> bytes:
        """``data``, or the picture as a palette, which may take a little more, or with one on top, which may not."""
        plain = len(data)
        latents = plain - sum(map(len, (*container.packed(self.metadata).values(), *self.planes)))
        data = drawing.file(share_of(quality), below=plain + (PALETTE_WORTH - 1) * latents) or data
        most = min(plain, len(data))
        if job := self.overlaid(drawing, quality, below=most):
            laid = job.data(plan)
            data = laid if len(laid) < most else data
        return _with_grounds(data, drawing.pixels, drawing.limits)

    def overlaid(self, drawing: Drawing, quality: float, below: float) -> _Job | None:
        """The same with what is drawn on top, unless that alone takes ``below`` bytes or there is nothing like that."""
        if container.UNSEEN_KEPT in self.metadata:
            return None
        parts = take_apart(drawing.pixels, share_of(quality))
        if parts is None or len(parts.payload) >= below or len(parts.payload) > drawing.limits.max_metadata_bytes:
            return None
        if not (parts.simpler or any(self.target)):  # as many bytes of latents, and those on top
            return None
        y = analyse(parts.rest, self.bundle, self.layout, self.threads)
        metadata = _marked(self.metadata, parts.neutral) | {container.OVERLAY: parts.payload}
        return self._replace(metadata=metadata, y=y, colours=parts.rest, tried={}, drawn_cells=parts.cells)

    def file(self, rate: int, streams: Streams) -> bytes:
        return container.write_container(self.header, rate, (*streams, *self.planes), self.metadata, self.layout.side)

    def trial(self, rate: int, share: float) -> Streams:
        if rate not in self.tried:
            self.tried[rate] = self.streams(RatePlan(rate), share=share)
        return self.tried[rate]

    def streams(self, plan: RatePlan, refined: Plane | None = None, *, keep: bool = True, share: float) -> Streams:
        encoder = Encoder(self.y, plan, self.bundle, self.layout, self.threads, refined)
        return encoder.streams(keep, stage(self.way, self.layout.slices, share))

    def coded(self, plan: RatePlan) -> tuple[RatePlan, Streams]:
        """Streams at a rate, with regions if there are any, and with effort, unless its streams miss the target."""
        harder = self.effort > 1 and has_companion(self.bundle, GRADIENT)
        streams: Streams = ()
        cells = self.cells
        if cells is not None and cells.any() and not cells.all():
            streams = self.trial(plan.rate, 1 / 8)
            plan, streams = balance(self.y, plan.rate, cells, streams, self.bundle, self.layout, self.threads)
            if (regions := plan.chunk()) is not None:
                self.metadata[container.REGIONS] = regions
        elif not harder:
            streams = self.tried.get(plan.rate) or self.streams(plan, keep=False, share=1.0)
        elif any(self.target):  # what is kept if the refined ones do not meet it
            streams = self.trial(plan.rate, 1 / 8)
        if not harder:
            return plan, streams
        if self.target.psnr is not None:
            return self.smallest_refined(plan, streams, self.target.psnr)
        size = self.target.size
        again = size is not None and plan.levels is None
        better = self.refined(plan, keep=again)
        excess = len(self.file(plan.rate, better)) - size if size is not None else 0
        if size is None or excess <= 0:
            return plan, better
        latents = sum(map(len, better))
        if again and excess < latents:  # at the same rate they may take a little more
            lower = RatePlan(lowered(plan.rate, latents, latents - excess))
            better = self.refined(lower, keep=False)
            if len(self.file(lower.rate, better)) <= size:
                return lower, better
        return plan, streams

    def smallest_refined(self, plan: RatePlan, streams: Streams, psnr: float) -> tuple[RatePlan, Streams]:
        """At the same rate refined streams are better than they must be: the rate is lowered until they hardly are."""
        stage(self.way, 1, 1 / 4)  # reserved for looks at what comes out
        found, known = [(plan, streams)], list[tuple[int, float]]()
        rate = plan.rate
        for k in range(REFINED_TRIES):
            other = RatePlan(rate)
            better = self.refined(other, keep=k < REFINED_TRIES - 1)
            known.append((rate, self.psnr(other, better)))
            if known[-1][1] >= psnr:
                found.append((other, better))
            rate = rate_between(known, psnr)
            if rate in (one for one, _ in known):
                break
        return min(found, key=lambda one: len(self.file(one[0].rate, one[1])))

    def refined(self, plan: RatePlan, *, keep: bool) -> Streams:
        """Args: keep: there may be another try, at a lower rate."""
        step = stage(self.way, self.layout.slices * ROUNDS[self.effort], 1 / 2 if keep else 9 / 10)
        networks = self.y, self.colours, plan, self.bundle, self.layout
        latents = refine(*networks, self.effort, self.threads, step, self.shown)
        return self.streams(plan, latents, keep=keep, share=1 / 10 if keep else 1.0)

    def shown(self, box: Box) -> NDArray[np.bool_]:
        """Where something is seen of what networks make: not under alpha 0, nor under what is drawn on top."""
        shape = box.shape
        seen = self.colours.seen(box) if isinstance(self.colours, VisibleColours) else np.ones(shape, np.bool_)
        return seen if self.drawn_cells is None else seen & ~drawn_pixels(self.drawn_cells, box)

    def psnr(self, plan: RatePlan, streams: Streams, share: float = 0.0) -> float:
        found = SquaredError(self.original)
        out: Any = found
        if self.header.deep:
            out = AsRead(found, container.read_numbers(self.metadata[container.NUMBERS], self.header))
        decoder = Decoder(streams, plan, self.bundle, self.layout, self.threads, found.deep)
        decoder.picture(out=_shown(out, self.header, self.metadata), step=stage(self.way, self.layout.slices, share))
        return found.psnr

    def size_at(self, rate: int) -> int:
        return len(self.file(rate, self.trial(rate, TRIAL_SHARE)))

    def plan_for(self) -> RatePlan:
        def psnr_at(rate: int) -> float:
            return self.psnr(RatePlan(rate), self.trial(rate, TRIAL_SHARE / 2), TRIAL_SHARE / 2)

        return RatePlan(rate_for(self.target, self.bundle, self.size_at, psnr_at))


def _encode_bilevel(
    picture: Any,
    metadata: dict[bytes, bytes],
    layout: Layout,
    target: Target | None,
    threads: int,
    way: Progress | None,
) -> bytes:
    streams = encode_alpha(picture, layout, 256, threads, stage(way, layout.slices))
    data = container.write_container(Header(layout.width, layout.height, "1"), 0, streams, metadata, layout.side)
    if target is not None and target.size is not None and len(data) > target.size:
        raise ValueError(f"{target.size} bytes are too few: this picture, which is kept exactly, takes {len(data)}")
    return data


def colours_of(picture: Any, exact: bool, metadata: dict[bytes, bytes], levels: int = 256) -> tuple[str, Any]:
    """(mode of the file, what the networks are shown); says in ``metadata`` what it has to say of it.

    Args:
        levels: of alpha: with fewer than 256 some of it may become 0.
    """
    bands = 1 if len(picture.shape) == 2 else picture.shape[2]
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[bands]
    if picture.dtype in KINDS:
        numbers = numbers_of(picture)
        metadata[container.NUMBERS] = container.write_numbers(numbers)
        return "I;16" if mode == "L" else "RGB;16", Levels(picture, numbers)
    if mode.endswith("A"):
        visible = VisibleColours(picture, exact)
        if exact and (levels < 256 or visible.hidden):
            metadata[container.UNSEEN_KEPT] = b""
        return mode, visible
    return mode, picture


def _marked(metadata: dict[bytes, bytes], neutral: bool) -> dict[bytes, bytes]:
    """With the chunk for ``neutral`` colours: of the networks' pixels only luma shall count, for what they add is a tint."""
    return {**metadata, container.NEUTRAL: b""} if neutral else metadata


def check_settings(
    quality: float,
    *,
    threads: int = 0,
    slice_side: int | None = None,
    alpha_quality: int = 100,
    effort: int = 1,
    exact: bool = False,
    preview: bool | None = None,
    indexed: bool | None = None,
    progress: Report | None = None,
    **others: Any,
) -> None:
    """Raise TypeError or ValueError for a setting of ``encode`` of the wrong kind or outside its range; what depends on the
    picture, the model or the file (``others``) is not looked at.
    """
    check_quality(quality)
    check_threads(threads)
    _check_within("alpha_quality", alpha_quality, 0, 100)
    if slice_side is not None:
        check_slice_side(slice_side)
    _check_within("effort", effort, 1, max(ROUNDS))
    check_progress(progress)
    _check_flags(exact=exact, preview=preview, indexed=indexed)


def _check_flags(**flags: bool | None) -> None:
    for name, flag in flags.items():
        if flag is not None and not isinstance(flag, (bool, np.bool_)):
            raise TypeError(f"{name} must be True or False, not {flag!r}")


def _preview_scale(height: int, width: int) -> int:
    """The smallest one, of at least 2, whose preview has no more than ``PREVIEW_SIDE`` pixels a side."""
    scale = 2
    while -(-max(height, width) // scale) > PREVIEW_SIDE:
        scale *= 2
    return scale


def _metadata(
    texts: dict[str, bytes | str | None], dpi: tuple[float, float] | None, shown_as: str | None, limits: Limits
) -> dict[bytes, bytes]:
    """Payloads of the chunks, of texts by their keywords; what is empty is left out."""
    metadata = {}
    for name, text in texts.items():
        kind = container.KEYWORDS[name]
        known = (bytes, bytearray, memoryview, *([str] if kind in (container.XMP, container.COMMENT) else []))
        if text is not None and not isinstance(text, known):
            wanted = "bytes or a string" if str in known else "bytes"
            raise TypeError(f"{name} must be {wanted}, not {type(text).__name__}")
        if text:
            payload = text.encode() if isinstance(text, str) else bytes(text)
            if len(payload) > limits.max_metadata_bytes:
                raise ValueError(f"{len(payload)} bytes of metadata exceed the limit of {limits.max_metadata_bytes}")
            metadata[kind] = payload
    if dpi is not None:
        metadata[container.RESOLUTION] = container.write_resolution(dpi)
    if shown_as is not None:
        if shown_as not in container.VIEWS:
            raise ValueError(f"shown_as must be one of {', '.join(container.VIEWS)}, not {shown_as!r}")
        metadata[container.SHOWN_AS] = shown_as.encode()
    return metadata


def latents_seen(colours: Any, bundle: ModelBundle, quality: float, threads: int) -> Tensor:
    """What heads read, float32 [1, M, h, w], of a picture that has no file of latents, as of one of this quality."""
    height, width = colours.shape[:2]
    layout = Layout(height, width, default_side(height, width))
    y = analyse(colours, bundle, layout, threads)
    return Encoder(y, _plan(bundle, quality), bundle, layout, threads).semantic_latents()


def _layout(picture: Any, slice_side: int | None, latents: bool, limits: Limits) -> Layout:
    """Raises LimitExceededError for slices that are too large or too many."""
    (height, width), bilevel = picture.shape[:2], picture.dtype == np.bool_
    planes = int(bilevel or (len(picture.shape) == 3 and picture.shape[2] in (2, 4)))
    if slice_side is None:
        slice_side = default_side(height, width)
        if bilevel and slice_side:  # every slice learns its contexts anew
            slice_side = BILEVEL_SLICE_SIDE
        while container.slice_pixels(width, height, slice_side) > limits.slice_pixels(latents) and slice_side != LEAST_SIDE:
            slice_side = slice_side // 2 or SLICE_SIDE
    layout = Layout(height, width, slice_side)
    container.check_slices(width, height, layout.side, latents and not bilevel, limits)
    container.check_index(container.stream_count(layout.slices, not bilevel, planes), limits)
    return layout


def default_side(height: int, width: int) -> int:
    """Pixels of a slice's side for a picture of this size; 0 for one slice."""
    if max(height, width) <= SLICE_SIDE or container.slice_pixels(width, height, 0) <= SLICE_SIDE**2:
        return 0
    return SMALL_SLICE_SIDE if min(height, width) >= SMALL_FROM else SLICE_SIDE


def check_picture(picture: Any) -> None:
    """Raise TypeError or ValueError unless ``picture`` is one that ``encode`` takes, and not empty."""
    shape, dtype = getattr(picture, "shape", None), getattr(picture, "dtype", None)
    if shape is not None and dtype is not None and not isinstance(dtype, np.dtype):
        raise TypeError(f"a picture's dtype must be a numpy.dtype, not {dtype!r}")
    check_unmasked(picture)
    if shape is None or dtype not in (np.uint8, np.bool_, *KINDS):
        raise TypeError(
            f"a picture must be an array of uint8, uint16, int32, float32 or bool, not {dtype or type(picture).__name__}"
        )
    if len(shape) != 2 and dtype in (np.bool_, np.int32, np.float32):
        raise ValueError(f"a picture of {dtype} must have shape [H, W], not {list(shape)}")
    if dtype == np.uint16 and len(shape) == 3 and shape[2] in (2, 4):
        raise ValueError("a picture of uint16 cannot have alpha; convert it to uint8")
    if len(shape) != 2 and (len(shape) != 3 or shape[2] not in (2, 3, 4)):
        raise ValueError(f"a picture must have shape [H, W], [H, W, 3] or, with alpha, [H, W, 2 or 4], not {list(shape)}")
    if not shape[0] or not shape[1]:
        raise ValueError("cannot write an empty picture")


def check_unmasked(picture: Any) -> None:
    """Raise TypeError for an array with masked pixels."""
    if np.ma.is_masked(picture):
        raise TypeError("masked pixels cannot be kept; fill them first")


def check_slice_side(side: int) -> None:
    """Raise TypeError or ValueError unless ``side`` is 0 or a side that slices may have."""
    if isinstance(side, bool) or not isinstance(side, (int, np.integer)):
        raise TypeError(f"slice_side must be a whole number, not {type(side).__name__}")
    if side < 0 or (side and (int(side).bit_count() != 1 or int(side).bit_length() - 1 not in container.SIDE_CODES)):
        raise ValueError(f"slice_side must be 0 or a power of two from 64 to 65536, not {side}")


def check_quality(quality: float) -> None:
    """Raise TypeError or ValueError unless ``quality`` is a number from 1 to 100."""
    if isinstance(quality, bool) or not isinstance(quality, (int, float, np.integer, np.floating)):
        raise TypeError(f"quality must be a number from 1 to 100, not {type(quality).__name__}")
    if not 1 <= quality <= 100:
        raise ValueError(f"quality must be from 1 to 100, not {quality}")


def _check_within(name: str, value: Any, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be a whole number from {least} to {most}, not {type(value).__name__}")
    if not least <= value <= most:
        raise ValueError(f"{name} must be from {least} to {most}, not {value}")


def read_prologue(source: Source, limits: Limits = DEFAULT_LIMITS) -> Prologue:
    """Size, mode, model and metadata of a file, without its pixels and without running a network.

    Args:
        source: a file's name, what it holds, or a file, open for reading bytes.

    Raises:
        OSError: the file cannot be read.
        SemicodecError: one of its subclasses, for any bytes that are not a file this build can read.
        TypeError: ``source`` is none of these; ``limits`` are no ``Limits``.
    """
    with opened(source) as file:
        return container.read_prologue(file.read, limits)


@overload
def decode(
    source: Source,
    *,
    box: tuple[int, int, int, int] | None = None,
    scale: int = 1,
    out: None = None,
    threads: int = 0,
    progress: Report | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> NDArray[Any]: ...
@overload
def decode(
    source: Source,
    *,
    box: tuple[int, int, int, int] | None = None,
    scale: int = 1,
    out: Out,
    threads: int = 0,
    progress: Report | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Out: ...
def decode(
    source: Source,
    *,
    box: tuple[int, int, int, int] | None = None,
    scale: int = 1,
    out: Any = None,
    threads: int = 0,
    progress: Report | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Any:
    """Decompress a file to uint8 [H, W] or [H, W, 3], with alpha [H, W, 2] or [H, W, 4], or whatever dtype was given.
    Of an animation the first frame; ``decode_frames`` gives all of them.

    Args:
        source: a file's name, what it holds, or a file, open for reading bytes and seekable.
        box: decode the pixels (left, top, right, bottom) only, from the slices that they depend on; no other slice is read.
        scale: 2, 4, 8 or 16 for a picture so many times smaller, sides rounded up, whose pixels stand for squares of the
            picture: without the synthesis, where the model has a network for it. A box is still one of the whole picture;
            all squares that it touches are decoded.
        out: what takes the pixels instead of a new array: anything of the shape of the result that takes boxes,
            ``out[top:bottom, left:right] = pixels`` (``numpy.memmap``, zarr, h5py), in any order and from several threads.
        progress: called with the share of the slices that are decoded, as in ``encode``.

    Raises:
        OSError: the file cannot be read.
        SemicodecError: one of its subclasses, for any bytes that are not a file this build can read.
        TypeError, ValueError: ``source`` is none of these; ``threads`` or ``limits`` are none that may be asked for; a box
            that is empty or leaves the picture; another scale; an ``out`` without a shape, of another, or that cannot hold
            the pixels.
    """
    with opened(source) as file:
        prologue = container.read_prologue(file.read, limits)
        streams: Streams
        if box is None:  # damage is found before anything is computed
            streams = container.read_slices(file.read, prologue.index)
        else:
            streams = container.SliceReader(file, prologue.index)
        return decode_picture(prologue, streams, box=box, scale=scale, out=out, threads=threads, progress=progress)


class _Luma:
    """Takes RGB pixels, with alpha or without, and passes luma on, in one band or in three."""

    def __init__(self, out: Any, bands: int) -> None:
        self.out, self.bands = out, bands

    def __setitem__(self, at: Any, colours: pixels.Pixels) -> None:
        bands = [pixels.to_luma(colours[:, :, :3])] * self.bands + [colours[:, :, k] for k in range(3, colours.shape[2])]
        self.out[at] = np.stack(bands, 2) if len(bands) > 1 else bands[0]


def _shown(out: Any, header: Header, metadata: dict[bytes, bytes], left: int = 0, top: int = 0, scale: int = 1) -> Any:
    """What takes the networks' RGB and gives ``out``, whose corner lies there, the colours that the picture has."""
    if (overlay := metadata.get(container.OVERLAY)) is not None:
        out = Overlaid(overlay, header, left, top, out, scale)
    if header.grey:
        return _Luma(out, 1)
    return _Luma(out, 3) if container.NEUTRAL in metadata else out


def decode_picture(
    prologue: Prologue,
    streams: Streams,
    *,
    box: tuple[int, int, int, int] | None = None,
    scale: int = 1,
    out: Any = None,
    threads: int = 0,
    shown: container.Numbers | None = None,
    progress: Report | None = None,
) -> Any:
    """Decompress a file that ``container`` has taken apart; see ``decode``.

    Args:
        shown: of a picture of more than 8 bits: give uint8, which stands for the range of these numbers.
    """
    check_threads(threads)
    threads = int(threads)
    check_progress(progress)
    if isinstance(scale, bool) or not isinstance(scale, (int, np.integer)) or scale not in (1, *SCALES):
        raise ValueError(f"scale must be 1, 2, 4, 8 or 16, not {scale!r}")
    scale = int(scale)
    header = prologue.header
    area = _area(box, header).divided(scale)
    numbers = prologue.numbers
    shape = area.shape if header.bands == 1 else (*area.shape, header.bands)
    made = np.dtype(np.uint8) if shown else dtype_of(prologue)
    if out is None:
        out = np.empty(shape, made)
    elif not hasattr(out, "shape"):
        raise TypeError(f"out must have a shape, as arrays do; {type(out).__name__} has none")
    elif tuple(out.shape) != shape:
        raise ValueError(f"out has the shape {list(out.shape)}, and the pixels have {list(shape)}")
    elif (held := getattr(out, "dtype", made)) is not None and not np.can_cast(made, held, "safe"):
        raise ValueError(f"out holds {held}, and the pixels are {made}")
    layout = Layout(header.height, header.width, prologue.index.side, header.alpha)
    bundle = find_model(header.model_id) if header.latents else None
    touched = sum(1 for _ in layout.latents.squares(area.scaled(scale).divided(pixels.LATENT_STRIDE)))
    step = stage(Progress(progress) if progress else None, touched)
    if scale > 1 and not can_reduce(prologue):
        whole = area.scaled(scale).grown(0, 0, Box(0, 0, header.height, header.width))
        around = (whole.left, whole.top, whole.right, whole.bottom)
        picture = decode_picture(prologue, streams, box=around, threads=threads, shown=shown, progress=progress)
        out[0 : shape[0], 0 : shape[1]] = pixels.reduced(picture, scale, header.alpha)
    elif header.indexed:
        palette = read_palette(prologue.metadata[container.PALETTE], header.grey)
        decode_indexed(palette, streams, layout, area, out, threads, step)
    elif bundle is None:
        decode_bilevel(streams, layout, area, out, threads, step)
    else:
        target = FromLevels(out, numbers, shown) if numbers else out
        target = _shown(target, header, prologue.metadata, area.left, area.top, scale)
        decoder = Decoder(streams, RatePlan.of_file(prologue), bundle, layout, threads, numbers is not None, scale)
        decoder.picture(area, target, step)
    return out


def can_reduce(prologue: Prologue) -> bool:
    """Whether a picture can be decoded smaller without its synthesis: not where that would mix in colours that nobody sees.

    Raises:
        UnknownModelError, BundleError: its model is not installed, or broken.
    """
    header, kept = prologue.header, {container.UNSEEN_KEPT, container.OVERLAY}
    if not header.latents or (header.alpha and not kept.isdisjoint(prologue.metadata)):
        return False
    return has_companion(find_model(prologue.header.model_id), REDUCED)


def dtype_of(prologue: Prologue) -> np.dtype[Any]:
    """Of the pixels of a file."""
    if prologue.numbers:
        return DTYPES[prologue.numbers.kind]
    return np.dtype(np.bool_ if prologue.header.bilevel else np.uint8)


def _area(box: tuple[int, int, int, int] | None, header: Header) -> Box:
    if box is None:
        return Box(0, 0, header.height, header.width)
    try:
        left, top, right, bottom = (operator.index(n) for n in box)
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"a box is four whole numbers (left, top, right, bottom), not {box!r}") from None
    if not (0 <= left < right <= header.width and 0 <= top < bottom <= header.height):
        raise ValueError(f"box {tuple(box)} does not lie in {header.width}x{header.height} pixels")
    return Box(top, left, bottom, right)
