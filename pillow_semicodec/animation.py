"""Animations: a file of the first frame, and behind it files of what changed in each of the others.

Strategy: a frame replaces boxes of the frame before it: the smallest that holds every pixel that differs, cut where much
of it stays as it is. One that differs nowhere takes no bytes beside its duration. Readers that know no animations show the
first frame.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Generator, Iterable, Iterator, Sequence
from io import BytesIO
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from . import codec, container
from .container import Animation, Frame, Prologue
from .errors import FormatError, LimitExceededError, SemicodecError
from .files import Source, opened
from .limits import DEFAULT_LIMITS, Limits
from .options import TARGETS
from .pixels import Pixels
from .planes import Box
from .progress import Progress, check_progress, stage

LEAST_SPARED = 4096  # pixels that a cut has to spare, for every box is a file of its own
MOST_BOXES = 64  # of a frame
FIRST_ONLY = ("icc_profile", "exif", "xmp", "comment", "dpi", "shown_as", "roi", "semantics", "preview")


def encode_animation(
    frames: Iterable[NDArray[Any]],
    quality: float = codec.DEFAULT_QUALITY,
    *,
    durations: Sequence[float] | float = 0,
    loop: int = 0,
    **options: Any,
) -> bytes:
    """Compress pictures of one shape, one after another.

    Args:
        frames: as ``pillow_semicodec.encode`` takes them; two are held at a time.
        durations: milliseconds of every frame, or of each of them; whole ones are kept.
        loop: how often the animation is shown; 0: again and again.
        options: as for ``encode``; metadata, ``semantics`` and ``roi`` are those of the first frame; ``progress`` is told of
            every frame, where their number is known (``len``).

    Raises:
        ValueError: no frames, more than 65536, frames of different shapes, durations that are negative or of another number.
        TypeError and others: see ``encode``.
    """
    _check_loop(loop)
    check_progress(report := options.pop("progress", None))
    count, counted = operator.length_hint(frames), hasattr(frames, "__len__")  # a hint may be wrong
    alone = counted and count == 1
    step = stage(Progress(report) if report and count > 1 else None, count)
    if alone:
        options["progress"] = report
    elif options.get("preview") is None:
        options["preview"] = False  # nothing reads that of an animation
    files, described = [b""], list[Frame]()
    target = _target_in(options)
    later = {key: value for key, value in options.items() if key not in FIRST_ONLY} | {"preview": False}
    if counted:
        _check_count(count)
        _check_target(target, count)
        _checked_durations(durations, count)
    before: Pixels | None = None
    for k, frame in enumerate(frames):
        _check_count(k + 1)
        codec.check_unmasked(frame)
        picture = np.asarray(frame)
        _check_target(target, k + 1)
        if before is None:
            files[0] = codec.encode(picture, quality, **options)
            boxes = [Box(0, 0, *picture.shape[:2])]
        elif (before.shape, before.dtype) != (picture.shape, picture.dtype):
            raise ValueError(f"frame {k} is {_named(picture)}, and the first one {_named(before)}: frames must be alike")
        else:
            boxes = _changed(before, picture, bool(options.get("exact")))
            files.append(_file_of(picture, boxes, quality, later))
        left, top = (boxes[0].left, boxes[0].top) if boxes else (0, 0)
        described.append(Frame(0, left, top, len(files[-1]) if k else 0))
        before = picture if alone else picture.copy()  # a reader of films may fill one array again and again
        step()
    if not described:
        raise ValueError("an animation without frames")
    times = _checked_durations(durations, len(described))
    if len(described) == 1:
        return files[0]
    frames_of_file = tuple(Frame(t, f.left, f.top, f.size) for t, f in zip(times, described, strict=True))
    limits = options.get("limits", DEFAULT_LIMITS)
    description = container.write_animation(Animation(loop, frames_of_file))
    head = container.with_chunks(files[0], {container.ANIMATION: description}, limits)
    container.read_prologue(BytesIO(head).read, limits)  # what is written can be read within the same limits
    return head + b"".join(files[1:])


def _file_of(picture: Pixels, boxes: list[Box], quality: float, options: dict[str, Any]) -> bytes:
    """Of a frame behind the first one: files of all boxes, one behind the other."""
    cut = (np.ascontiguousarray(picture[b.top : b.bottom, b.left : b.right]) for b in boxes)
    files = [codec.encode(part, quality, **options) for part in cut]
    if len(files) > 1:
        parts = [Frame(0, box.left, box.top, len(file)) for box, file in zip(boxes[1:], files[1:], strict=True)]
        limits = options.get("limits", DEFAULT_LIMITS)
        files[0] = container.with_chunks(files[0], {container.PARTS: container.write_parts(parts)}, limits)
        try:
            container.read_prologue(BytesIO(files[0]).read, limits, frame=True)
        except LimitExceededError:  # which one box need not do
            top, left, bottom, right = zip(*boxes, strict=True)
            return _file_of(picture, [Box(min(top), min(left), max(bottom), max(right))], quality, options)
    return b"".join(files)


def check_settings(
    frames: int, quality: float, *, durations: Sequence[float] | float = 0, loop: int = 0, **options: Any
) -> None:
    """Raise TypeError or ValueError for settings that ``encode_animation`` would refuse whatever frames are still to come:
    of the wrong kind, outside their ranges, or for single pictures; there are ``frames`` of them by now. Metadata, models
    and the number of durations are not looked at.
    """
    _check_loop(loop)
    _check_target(_target_in(options), frames)
    _checked_durations(durations, len(durations) if np.ndim(durations) else frames)  # type: ignore[arg-type]
    codec.check_settings(quality, **options)


def _check_loop(loop: int) -> None:
    if isinstance(loop, bool) or not isinstance(loop, (int, np.integer)) or not 0 <= loop < 2**32:
        raise ValueError(f"loop must be a whole number of 0 or more, not {loop!r}")


def _target_in(options: dict[str, Any]) -> str | None:
    return next((key for key in TARGETS if options.get(key) is not None), None)


def _check_count(frames: int) -> None:
    if frames > container.MAX_FRAMES:
        raise ValueError(f"more than {container.MAX_FRAMES} frames, the most that a file holds")


def _check_target(target: str | None, frames: int) -> None:
    if target is not None and frames > 1:
        raise ValueError(f"{target} is for single pictures, not for animations")


def _named(picture: Pixels) -> str:
    return f"{picture.dtype} {list(picture.shape)}"


def _checked_durations(durations: Sequence[float] | float, count: int) -> list[int]:
    given: Any = durations.tolist() if isinstance(durations, np.ndarray) else durations
    times = list(given) if np.ndim(given) else [given] * count
    if len(times) != count:
        raise ValueError(f"{len(times)} durations for {count} frame{'s' * (count > 1)}")
    try:
        rounded = [round(time) for time in times]
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"durations must be numbers of milliseconds, not {durations!r}") from error
    if not all(0 <= time < 2**32 for time in rounded):
        raise ValueError(f"durations must be milliseconds of 0 or more, not {durations!r}")
    return rounded


def _changed(before: Pixels, picture: Pixels, exact: bool) -> list[Box]:
    """Boxes that hold all pixels that differ."""
    differs = before != picture
    if differs.ndim == 3:
        alpha = picture.shape[2] in (2, 4) and not exact
        differs = differs.any(2) & ((before[:, :, -1] > 0) | (picture[:, :, -1] > 0)) if alpha else differs.any(2)
    least = LEAST_SPARED
    while (boxes := _boxes(differs, least)) is None:
        least *= 4
    return boxes


def _tight(differs: NDArray[np.bool_], box: Box) -> Box:
    """The smallest one that holds all that differs in ``box``, where there is something."""
    part = differs[box.top : box.bottom, box.left : box.right]
    (top, bottom), (left, right) = (np.flatnonzero(part.any(axis))[[0, -1]].tolist() for axis in (1, 0))
    return Box(box.top + top, box.left + left, box.top + bottom + 1, box.left + right + 1)


def _boxes(differs: NDArray[np.bool_], least: int) -> list[Box] | None:
    """Cut along whatever rows or columns spare most, again and again, while that is ``least`` pixels or more: so text is
    found on pages (Nagy & Seth, 1984). None where that makes too many.
    """
    waiting, boxes = [Box(0, 0, *differs.shape)] if differs.any() else [], list[Box]()
    while waiting:
        if len(waiting) + len(boxes) > MOST_BOXES:
            return None
        box = _tight(differs, waiting.pop())
        part = differs[box.top : box.bottom, box.left : box.right]
        gaps = []
        for axis in (0, 1):
            used = np.flatnonzero(part.any(1 - axis))
            widths = np.diff(used) - 1
            k = int(widths.argmax()) if len(widths) else 0
            if len(widths) and widths[k]:
                gaps.append((int(widths[k]) * part.shape[1 - axis], axis, int(used[k]) + 1))
        spared, axis, at = max(gaps, default=(0, 0, 0))
        if spared < least:
            boxes.append(box)
        elif axis == 0:
            waiting += [box._replace(top=box.top + at), box._replace(bottom=box.top + at)]
        else:
            waiting += [box._replace(left=box.left + at), box._replace(right=box.left + at)]
    return boxes


def read_parts(
    data: bytes, frame: Frame, first: Prologue, limits: Limits, arrived: bool = False
) -> Iterator[tuple[Frame, Prologue, tuple[bytes, ...]]]:
    """(where it lies, prologue, streams) of every file of one later frame; with ``arrived``, whatever there is of them.

    Raises:
        FormatError: it is no part of the first frame; and others, see ``container``.
    """
    stream = BytesIO(data)
    prologue, streams = _read_part(stream, frame, first, limits, arrived, False)
    yield frame, prologue, streams
    others = container.read_parts(prologue.metadata[container.PARTS]) if container.PARTS in prologue.metadata else ()
    at, left = frame.size - sum(part.size for part in others), _area(first) - _area(prologue)
    if others and at != stream.tell() and not arrived:
        raise FormatError(f"parts that begin at byte {at} of a frame whose first one ends at {stream.tell()}")
    for part in others:
        with contextlib.suppress(SemicodecError) if arrived else contextlib.nullcontext():
            prologue, streams = _read_part(
                BytesIO(data[max(at, 0) : max(at + part.size, 0)]), part, first, limits, arrived, True
            )
            left -= _area(prologue)
            if left < 0:  # from there on none: a small file could ask for 256 pictures' work
                raise FormatError("parts of a frame that have more pixels than the picture")
            yield part, prologue, streams
        at += part.size


def _area(prologue: Prologue) -> int:
    return prologue.header.width * prologue.header.height


def _read_part(
    stream: BytesIO, frame: Frame, first: Prologue, limits: Limits, arrived: bool, further: bool
) -> tuple[Prologue, tuple[bytes, ...]]:
    prologue = container.read_prologue(stream.read, limits, frame=not further)
    header, whole = prologue.header, first.header
    if header.mode != whole.mode or frame.left + header.width > whole.width or frame.top + header.height > whole.height:
        raise FormatError(
            f"a frame of {header.width}x{header.height} {header.mode} at {frame.left}, {frame.top} does not fit into "
            f"{whole.width}x{whole.height} {whole.mode}"
        )
    if prologue.numbers and first.numbers and prologue.numbers.kind != first.numbers.kind:
        raise FormatError("a frame has numbers of another kind than the first one")
    read = container.read_arrived if arrived else container.read_slices
    return prologue, read(stream.read, prologue.index)


def decode_frames(
    source: Source, *, start: int = 0, threads: int = 0, limits: Limits = DEFAULT_LIMITS
) -> Generator[NDArray[Any], None, None]:
    """All frames of a file one after another, arrays of their own; of a file of one picture, that. Nothing is read, and no
    error raised, before the first frame is asked for; a file given by its name is open until the last, or
    until ``close`` is called.

    Args:
        source: a file's name, what it holds, or a file, open for reading bytes.
        start: the first frame that is given, counted from 0; from the end on there are none.

    Raises:
        OSError: the file cannot be read.
        SemicodecError: one of its subclasses; frames before the damage come first.
        TypeError, ValueError: ``source`` is none of these; ``start``, ``threads`` or ``limits`` are none that may be asked
            for.
    """
    if isinstance(start, bool) or not isinstance(start, (int, np.integer)):
        raise TypeError(f"start must be a whole number, not {start!r}")
    if start < 0:
        raise ValueError(f"start must be 0 or more, not {start}")
    with opened(source) as file:
        yield from _frames(file, start, threads, limits)


def _frames(file: IO[bytes], start: int, threads: int, limits: Limits) -> Iterator[NDArray[Any]]:
    first = container.read_prologue(file.read, limits)
    streams = container.read_slices(file.read, first.index)
    canvas = codec.decode_picture(first, streams, threads=threads)
    if not start:
        yield canvas.copy()
    for k, frame in enumerate(first.animation.frames[1:] if first.animation else (), 1):
        if frame.size:
            data = container.read_exactly(file.read, frame.size, "a frame")
            for at, prologue, streams in read_parts(data, frame, first, limits):
                bottom, right = at.top + prologue.header.height, at.left + prologue.header.width
                codec.decode_picture(prologue, streams, out=canvas[at.top : bottom, at.left : right], threads=threads)
        if k >= start:
            yield canvas.copy()
