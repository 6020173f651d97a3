"""Pillow plugin: ``Image.open("x.sgc")`` and ``Image.save("x.sgc")``.

Strategy: opening reads header, metadata and slice index; pixels are decoded by a pulling decoder when they are first
asked for. Errors of the codec are translated here and nowhere else: an unreadable file is a SyntaxError while Pillow
looks for a plugin, and an OSError from then on; a version, mode or model that this build lacks is an OSError that
says so. The codec, and NumPy with it, is imported when first used: importing this module must stay cheap.
"""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401  which cannot be imported by threads that outlive the main one
import contextlib
import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from io import BytesIO
from typing import IO, TYPE_CHECKING, Any, NamedTuple, cast

from PIL import Image, ImageFile
from PIL._util import DeferredError

from . import container, options
from .errors import BundleError, FormatError, LimitExceededError, SemicodecError, UnsupportedError
from .semantics import Semantics, read_semantics

if TYPE_CHECKING:
    from .pixels import Pixels

FORMAT = "SGC"
EXTENSION = ".sgc"
MIME = "image/x-sgc"

_SAVED_AS = {
    "L": "L",
    "RGB": "RGB",
    "LA": "LA",
    "RGBA": "RGBA",
    "PA": "RGBA",
    "1": "1",
    "P": "RGB",
    **container.VIEWS,
    "I;16": "I;16",
    "I;16L": "I;16",
    "I;16B": "I;16",
    "I;16N": "I;16",
    "I": "I",
    "F": "F",
}
_DTYPES = {"1": "bool", "I;16": "uint16", "I": "int32", "F": "float32"}


def _accept(prefix: bytes) -> bool:
    return prefix.startswith(container.MAGIC)


class SgcImageFile(ImageFile.ImageFile):
    """A picture in an SGC file.

    ``info`` holds ``icc_profile``, ``exif``, ``xmp``, ``comment`` (bytes), ``dpi``, ``model_id`` (hexadecimal, unless
    the file needs no model) and, if the file was saved with it, ``semantics`` (a ``pillow_semicodec.Semantics``).
    """

    format = FORMAT
    format_description = "Semicodec learned image"

    # What an unpickled picture, which was never opened, has.
    fp: Any = None
    _lock: Any = contextlib.nullcontext()
    _min_frame = 0
    _cropped = 0  # pixels that were decoded for crops
    _first: container.Prologue | None = None
    _start = 0  # of the first slice
    _frame = 0
    _to_fit = False  # whether it is enough for a draft to reach one side of what is asked for
    _held = False  # whether the file of an animation is in memory
    _shown: tuple[int, Image.Image, bool] | None = None  # the last frame that was put together; whether leniently

    def _open(self) -> None:
        assert self.fp is not None
        try:
            prologue = container.read_prologue(self.fp.read, options.LIMITS)
        except FormatError as error:
            raise SyntaxError(str(error)) from error
        except SemicodecError as error:
            raise self._undecodable(error) from error
        header = prologue.header
        self._size, self._mode = (header.width, header.height), prologue.shown_as
        if header.latents:
            self.info["model_id"] = header.model_id.hex()
        most = Image.MAX_IMAGE_PIXELS
        shown = most is None or header.width * header.height <= 2 * most  # or Pillow refuses it in a moment
        if container.SEMANTICS in prologue.metadata and shown:
            with contextlib.suppress(
                FormatError, UnsupportedError
            ):  # an ancillary chunk never keeps a picture from being shown
                self.info["semantics"] = read_semantics(prologue.metadata[container.SEMANTICS], *self._size)
        for key, kind in container.KEYWORDS.items():
            if kind in prologue.metadata:
                self.info[key] = prologue.metadata[kind]
        if prologue.dpi:
            self.info["dpi"] = prologue.dpi
        self._first, self._start, self._lock = prologue, self.fp.tell(), threading.Lock()
        self.tile = [ImageFile._Tile("sgc", (0, 0, *self.size), self._start, (prologue,))]
        if prologue.animation:
            self._close_exclusive_fp_after_loading = False  # for the other frames
            self._fp = self.fp
            frames = prologue.animation.frames
            self.info["loop"] = prologue.animation.loop
            self._times = list(itertools.accumulate((frame.duration for frame in frames), initial=0))
            start = self._start + sum(map(container.stream_size, prologue.index.stream_sizes))
            self._places = list(itertools.accumulate((frame.size for frame in frames), initial=start))
            self._tell_times()

    # ---- frames ----

    @property
    def n_frames(self) -> int:
        return len(self._first.animation.frames) if self._first and self._first.animation else 1

    @property
    def is_animated(self) -> bool:
        return self.n_frames > 1

    def tell(self) -> int:
        return self._frame

    def seek(self, frame: int) -> None:
        """Raises EOFError outside of the sequence."""
        if not self._seek_check(frame):
            return
        assert self._first is not None
        if isinstance(self._fp, DeferredError):  # closed
            raise self._fp.ex
        self._frame = frame
        self.fp = self._fp
        self._tell_times()
        header = self._first.header
        self._size, self._mode = (header.width, header.height), self._first.shown_as  # whatever became of the last frame
        if self._im is not None and (self._im.size, self._im.mode) != (self._size, self._mode):
            self._im = None
        self.tile = [ImageFile._Tile("sgc", (0, 0, *self.size), self._start, (self._first,))]

    def _tell_times(self) -> None:
        assert self._first is not None
        assert self._first.animation is not None
        self.info["duration"] = self._first.animation.frames[self._frame].duration
        self.info["timestamp"] = self._times[self._frame]

    @contextlib.contextmanager
    def _translated(self, part: str = "") -> Iterator[None]:
        """Errors of the file, or of a part of it, as Pillow has them."""
        try:
            yield
        except SemicodecError as error:
            raise self._undecodable(error, part) from error

    def _undecodable(self, error: SemicodecError, part: str = "") -> OSError:
        """With the file's name, where it is known."""
        name = f" {os.fsdecode(self.filename)}" if self.filename else ""
        return OSError(f"cannot decode SGC file{name}: {part}{error}")

    def load(self) -> Any:
        if self.is_animated:
            self._hold()
        if self.tile and self._frame:
            self._put_together()
        lenient = ImageFile.LOAD_TRUNCATED_IMAGES
        with self._translated():
            result = super().load()
        if self.is_animated and not self._frame and (self._shown is None or self._shown[0]):
            self._shown = 0, self._new(self.im.copy()), lenient
        return result

    def _hold(self) -> None:
        """Take the file of an animation into memory before its first frame is decoded: ``save`` under its own name, which
        empties the file before it asks for the other frames, then loses none, nor does whoever closes a file of his own.
        """
        if self._held or self.fp is None:
            return
        place = self.fp.tell()
        self.fp.seek(0)
        held = BytesIO(container.read_up_to(self.fp.read, self._places[-1]))  # what stands behind may be anything
        held.seek(place)
        if getattr(self, "_exclusive_fp", False):
            self.fp.close()
        self.fp = self._fp = held
        self._held = True

    def _put_together(self) -> None:
        """The picture of this frame: that of the last one that is known, and what changed since."""
        assert self._first is not None
        assert self._first.animation is not None
        target, lenient = self._frame, ImageFile.LOAD_TRUNCATED_IMAGES
        if self._shown is None or self._shown[0] > target or (self._shown[2] and not lenient):
            self._shown = None
            self.seek(0)
            try:
                self.load()
            finally:
                self.seek(target)
        assert self._shown is not None
        at, canvas, harmed = self._shown
        canvas = canvas.copy()
        for k in range(at + 1, target + 1):
            if self._first.animation.frames[k].size:
                self._paste(canvas, k, lenient)
        self._shown = target, canvas, lenient or harmed
        self.im, self.tile = canvas.im.copy(), []

    def _paste(self, canvas: Image.Image, k: int, lenient: bool) -> None:
        """What changed in frame k; where Pillow was lenient and nothing of it has arrived, nothing."""
        assert self._first is not None
        assert self._first.animation is not None
        from . import animation

        if isinstance(self._fp, DeferredError):  # closed
            raise self._fp.ex
        frame = self._first.animation.frames[k]
        with contextlib.suppress(SemicodecError) if lenient else self._translated(f"frame {k}: "):
            container.seek(self.fp, self._places[k])
            read = container.read_up_to if lenient else partial(container.read_exactly, what="a frame")
            data = read(self.fp.read, frame.size)
            for part, prologue, streams in animation.read_parts(data, frame, self._first, options.LIMITS, lenient):
                with contextlib.suppress(SemicodecError) if lenient else contextlib.nullcontext():
                    _decode(prologue, streams, _Canvas(canvas.im, prologue, part.left, part.top))

    # ---- parts ----

    def load_seek(self, pos: int) -> None:
        """Move to the first slice. That this method exists makes ``ImageFile.Parser`` wait for the whole file."""
        assert self.fp is not None
        self.fp.seek(pos)

    def draft(self, mode: str | None, size: tuple[int, int] | None) -> tuple[str, tuple[int, int, float, float]] | None:
        """Decode a version 2, 4, 8 or 16 times smaller, that is not smaller than ``size``: without the synthesis, or from
        the preview that large pictures hold.

        ``Image.thumbnail`` asks for it by itself. The mode stays.
        """
        prologue = self._prologue()
        if size is None or prologue is None:
            return None

        def is_enough(scale: int) -> bool:
            sides = [-(-side // scale) >= wanted for side, wanted in zip(self.size, size, strict=True)]
            return scale <= max(self.size) and (any(sides) if self._to_fit else all(sides))

        scale, preview = self._preview(prologue, is_enough)
        if not preview:
            scale = next((s for s in (16, 8, 4, 2) if is_enough(s)), 1)
            if scale == 1 or not _can_reduce(prologue):
                return None
        box = (0, 0, self.width / scale, self.height / scale)
        self._size = -(-self.width // scale), -(-self.height // scale)
        self._im = None  # of the size that it had when loading failed
        self.tile = [ImageFile._Tile("sgc", (0, 0, *self._size), self.tile[0].offset, (prologue, scale, preview))]
        return self.mode, box

    def _preview(self, prologue: container.Prologue, is_enough: Callable[[int], bool]) -> tuple[int, bytes]:
        """(how many times smaller, file) of the preview, if that is enough and it fits the picture; else (1, nothing)."""
        scale, data = prologue.preview or (1, b"")
        if scale == 1 or not is_enough(scale):
            return 1, b""
        with contextlib.suppress(SemicodecError):  # an ancillary chunk never keeps a picture from being shown
            stream = BytesIO(data)
            small = container.read_prologue(stream.read, options.LIMITS)
            container.read_slices(stream.read, small.index)
            kinds = [p.numbers.kind if p.numbers else 0 for p in (small, prologue)]
            alike = (small.header.mode, small.header.model_id) == (prologue.header.mode, prologue.header.model_id)
            if alike and kinds[0] == kinds[1] and container.PREVIEW not in small.metadata:
                return scale, data
        return 1, b""

    def reduce(self, factor: int | tuple[int, int], box: tuple[int, int, int, int] | None = None) -> Image.Image:
        """As always; but a picture that is not loaded is decoded 2, 4, 8 or 16 times smaller, without the synthesis."""
        pair = factor if isinstance(factor, tuple) else (factor, factor)
        scale = pair[0]
        if box is None and pair[1] == scale and scale in (2, 4, 8, 16) and not ImageFile.LOAD_TRUNCATED_IMAGES:
            with self._lock:  # which has until now what is to be read
                prologue = self._prologue()
                if prologue is not None and _can_reduce(prologue):
                    return self._decoded(prologue, (-(-self.width // scale), -(-self.height // scale)), scale=scale)
        return super().reduce(factor, box)

    def thumbnail(
        self,
        size: tuple[float, float],
        resample: Image.Resampling = Image.Resampling.BICUBIC,
        reducing_gap: float | None = 2.0,
    ) -> None:
        """As always; from the preview, or decoded smaller, where that has the pixels for a thumbnail that fits."""
        self._to_fit = True  # while Pillow asks for a draft
        try:
            super().thumbnail(size, resample, reducing_gap)
        finally:
            self._to_fit = False

    def crop(self, box: tuple[float, float, float, float] | None = None) -> Image.Image:
        """As always; but of a large picture that is not loaded, a small box is read and decoded alone.

        Where slices that were decoded for boxes have added up to half of the picture, it is loaded.
        """
        if box is None or self._prologue() is None or ImageFile.LOAD_TRUNCATED_IMAGES:
            return super().crop(box)
        with self._lock:  # crops of several threads read one file
            prologue = self._prologue()
            part = None if prologue is None else self._part(box, prologue)
            return super().crop(box) if part is None else part

    def _prologue(self) -> container.Prologue | None:
        """Of the whole picture, as long as that alone is what ``load`` will decode."""
        if self.is_animated or self.fp is None:  # closed
            return None
        arguments = cast(tuple[container.Prologue, ...], self.tile[0].args) if self.tile else ()
        return arguments[0] if len(arguments) == 1 else None

    def _part(self, box: tuple[float, float, float, float], prologue: container.Prologue) -> Image.Image | None:
        """A box of the picture, unless it is as well to load all of it, or it is for Pillow to say what is wrong."""
        left, top, right, bottom = (round(n) for n in box)
        if not (0 <= left < right <= self.width and 0 <= top < bottom <= self.height):
            return None
        touched = container.pixels_touched(prologue, left, top, right, bottom)
        if 2 * (self._cropped + touched) > self.width * self.height:
            return None
        self._cropped += touched
        return self._decoded(prologue, (right - left, bottom - top), box=(left, top, right, bottom))

    def _decoded(self, prologue: container.Prologue, size: tuple[int, int], **what: Any) -> Image.Image:
        """A picture of its own of a ``box``, or at a ``scale``; this one stays as it is."""
        canvas = _Canvas(Image.new(self.mode, size).im, prologue)
        assert self.fp is not None
        self.fp.seek(self.tile[0].offset)
        with self._translated():
            _decode(prologue, container.SliceReader(self.fp, prologue.index), canvas, **what)
        return self._new(canvas.im)

    def verify(self) -> None:
        """Read every slice and compare its checksum, without decoding.

        Raises:
            OSError: the file is damaged or ends too early.
            RuntimeError: the picture was loaded or verified before.
        """
        if self.fp is None or not self.tile:
            raise RuntimeError("verify must be called directly after open")
        self.fp.seek(self.tile[0].offset)
        prologue = cast(tuple[container.Prologue], self.tile[0].args)[0]
        with self._translated():
            container.read_slices(self.fp.read, prologue.index)
            for frame in prologue.animation.frames if prologue.animation else ():
                if frame.size:
                    from .animation import read_parts

                    data = container.read_exactly(self.fp.read, frame.size, "a frame")
                    for _ in read_parts(data, frame, prologue, options.LIMITS):  # one at a time
                        pass
        super().verify()


class SgcDecoder(ImageFile.PyDecoder):
    """Decodes all slices into the image; ``args`` are those of ``_show``. ``SgcImageFile.load`` translates its errors.

    With ``ImageFile.LOAD_TRUNCATED_IMAGES`` what is missing or damaged is what the model expects on average.
    """

    _pulls_fd = True

    def decode(self, buffer: Any) -> tuple[int, int]:
        self._show(*self.args)
        return -1, 0

    def _show(self, prologue: container.Prologue, scale: int = 1, preview: bytes = b"") -> None:
        """Args: scale: how many times smaller. preview: the file of a preview of this scale, to be decoded instead."""
        if preview:
            with contextlib.suppress(SemicodecError):  # an ancillary chunk never keeps a picture from being shown
                file = BytesIO(preview)
                self._read(container.read_prologue(file.read, options.LIMITS), file, self.im)
                return
        assert self.fd is not None
        assert self.im is not None
        if scale <= 16:
            self._read(prologue, self.fd, self.im, scale)
        else:  # as a preview of a very large picture may be
            picture = Image.new(self.im.mode, (-(-prologue.header.width // 16), -(-prologue.header.height // 16)))
            self._read(prologue, self.fd, picture.im, 16)
            self.im.paste(picture.resize(self.im.size, Image.Resampling.BOX).im, (0, 0, *self.im.size))

    def _read(self, prologue: container.Prologue, file: IO[bytes], im: Any, scale: int = 1) -> None:
        read = container.read_arrived if ImageFile.LOAD_TRUNCATED_IMAGES else container.read_slices
        streams = read(file.read, prologue.index)
        _decode(prologue, streams, _Canvas(im, prologue), scale=scale)


def _decode(
    prologue: container.Prologue,
    streams: Sequence[bytes],
    canvas: _Canvas,
    box: tuple[int, int, int, int] | None = None,
    scale: int = 1,
) -> None:
    from . import codec, depth

    shown = depth.SIXTEEN_BITS if prologue.header.mode == "RGB;16" else None  # which Pillow has as RGB
    codec.decode_picture(prologue, streams, box=box, scale=scale, out=canvas, threads=options.THREADS, shown=shown)


def _can_reduce(prologue: container.Prologue) -> bool:
    """Whether the picture can be decoded smaller without its synthesis."""
    from .codec import can_reduce

    try:
        return can_reduce(prologue)
    except (BundleError, UnsupportedError):  # loading will say so
        return False


class _Boxes:
    """Gives boxes of pixels, in the mode that is saved, straight out of Pillow's memory."""

    def __init__(self, image: Image.Image, mode: str) -> None:
        import numpy as np

        image.load()  # before several threads ask for boxes
        self.image, self.mode, self.dtype = image, mode, np.dtype(_DTYPES.get(mode, "uint8"))
        bands = Image.getmodebands(mode)
        self.shape = (image.height, image.width, bands)[: 3 if bands > 1 else 2]

    def __getitem__(self, at: tuple[slice, slice]) -> Pixels:
        import numpy as np

        rows, columns = at
        edges = columns.start, rows.start, columns.stop, rows.stop
        box = self.image if edges == (0, 0, *self.image.size) else self.image.crop(edges)
        if box.mode in ("La", "RGBa"):
            box = box.convert(box.mode.upper())
        if self.mode == "I;16":  # in either order of bytes
            return np.asarray(box).astype(np.uint16)
        return np.asarray(box if box.mode == self.mode else box.convert(self.mode))

    def whole(self) -> Pixels:
        return self[0 : self.shape[0], 0 : self.shape[1]]


class _Canvas:
    """Takes decoded boxes of a file straight into Pillow's memory; a whole picture is never held twice."""

    def __init__(self, im: Any, prologue: container.Prologue, left: int = 0, top: int = 0) -> None:
        header = prologue.header
        self.im, self.left, self.top = im, left, top
        self.mode = im.mode if header.deep else header.mode
        width, height = map(min, im.size, (header.width, header.height))  # of a frame, or of a box
        bands = Image.getmodebands(self.mode)
        self.shape = (height, width, bands)[: 3 if bands > 1 else 2]

    def __setitem__(self, at: tuple[slice, slice], box: Pixels) -> None:
        import numpy as np

        rows, columns = at
        raw = np.packbits(box, 1) if self.mode == "1" else box.astype("<u2") if self.mode == "I;16" else box
        part = Image.frombytes(self.mode, (box.shape[1], box.shape[0]), raw.tobytes())
        if part.mode != self.im.mode:
            part = part.convert(self.im.mode)
        left, top = self.left + columns.start, self.top + rows.start
        self.im.paste(part.im, (left, top, left + part.width, top + part.height))


def _save(im: Image.Image, fp: IO[bytes], filename: str | bytes) -> None:
    """Save keywords: ``quality`` (1 to 100, default 75) or one of ``target_size`` (bytes), ``target_bpp`` and
    ``target_psnr`` (dB), ``effort`` (1 to 9, default 1), ``icc_profile`` (default: that of ``im.info``), ``exif``
    (bytes or Image.Exif), ``model`` (name or id), ``threads``, ``semantics`` (True, or names of heads, stores what the
    picture shows), ``roi`` (region of interest: a mask as an image or array, boxes, or "auto"), ``alpha_quality`` (0 to 100,
    default 100: exact), ``exact`` (True keeps colours under alpha 0), ``xmp``, ``comment`` (bytes or str), ``dpi``,
    ``preview`` (default: from 2²³ pixels on; for ``draft`` and ``thumbnail``), ``indexed`` (default: where a palette takes
    fewer bytes, or few more), ``progress`` (a function that is told the share of the work that is done).

    Raises:
        OSError: a mode that cannot be written.
        ValueError, TypeError: an option outside its range; an empty picture; ``lossless``, which this version does not have.
    """
    boxes = _Boxes(im, _mode_of(im))
    from . import codec

    settings = _options(im, boxes.mode)
    im.encoderinfo = {}  # which ``save`` in another thread, or called by ``progress``, would take for its own
    _write(fp, lambda: codec.encode(boxes, **settings))


def _save_all(im: Image.Image, fp: IO[bytes], filename: str | bytes) -> None:
    """``save_all=True``: all frames of the picture and of ``append_images`` (any iterable of pictures); ``duration``:
    milliseconds of every frame, or a list of them, by default or with None those of ``info``; ``loop``: likewise that of
    ``info``, failing that 0, for ever, and 1 for a GIF. Frames that share no mode are saved as RGB, or RGBA.
    """
    from . import animation, metadata

    settings = im.encoderinfo
    sources = [_source(im), *_appended(settings.get("append_images", ()))]
    try:
        modes, durations = [], []
        for frame in _frames(sources):
            frame.load()  # some formats know the duration only then
            modes.append(_mode_of(frame))
            durations.append(frame.info.get("duration", 0))
        if len(modes) == 1:
            if metadata.has_default_image(im):
                im.seek(1)
            _save(im, fp, filename)
            return
        mode = _common(modes)
        pictures = _Counted((_Boxes(frame, mode).whole() for frame in _frames(sources)), len(modes))
        chosen, loop = settings.get("duration"), settings.get("loop")
        settings = {**_options(im, mode), "shown_as": None}
        if "icc_profile" not in im.encoderinfo:  # im stands at its last page
            settings["icc_profile"] = _profile_of(sources[0].shown, mode)
        settings["durations"] = durations if chosen is None else chosen
        settings["loop"] = metadata.loop(im) if loop is None else loop
        im.encoderinfo = {}  # as in ``_save``
        _write(fp, lambda: animation.encode_animation(pictures, **settings))
    finally:
        for source in sources:
            metadata.seek(source.image, source.place)


class _Counted:
    """An iterator of a known length."""

    def __init__(self, items: Iterator[Pixels], count: int) -> None:
        self._items, self._count = items, count

    def __iter__(self) -> Iterator[Pixels]:
        return self._items

    def __len__(self) -> int:
        return self._count


class _Source(NamedTuple):
    """A picture whose frames are saved, and which of them it shows, as it looks."""

    image: Image.Image
    place: int
    shown: Image.Image


def _source(image: Image.Image) -> _Source:
    """What was drawn into the frame that is shown is lost when another one is sought, be it to count them."""
    shown = image if type(image) is Image.Image else image.copy()
    return _Source(image, image.tell(), shown if getattr(image, "n_frames", 1) > 1 else image)


def _appended(images: Iterable[Image.Image]) -> Iterator[_Source]:
    """What makes its pictures one by one may draw into the same one again, or close it."""
    from . import metadata

    passing = not isinstance(images, Sequence)
    for image in images:
        source = _source(image)
        if not passing:
            yield source
            continue
        try:
            for frame in _frames([source]):
                frame.load()  # some formats know the duration only then
                yield _source(frame.copy())
        finally:
            metadata.seek(image, source.place)


def _frames(sources: list[_Source]) -> Iterator[Image.Image]:
    from . import metadata

    for image, place, shown in sources:
        for frame in metadata.frames(image):
            yield shown if image.tell() == place else frame


def _common(modes: list[str]) -> str:
    """The mode that frames of these modes are saved in."""
    if len(set(modes)) == 1:
        return modes[0]
    if deep := [mode for mode in modes if mode in container.DEEP_MODES.values()]:
        raise OSError(f"cannot write frames of mode {deep[0]} beside others of other modes as SGC")
    base = "L" if all(mode in ("1", "L", "LA") for mode in modes) else "RGB"
    return base + "A" * any(mode.endswith("A") for mode in modes)


def _options(im: Image.Image, mode: str) -> dict[str, Any]:
    """The arguments of ``codec.encode`` that the save keywords stand for, for a picture coded in ``mode``."""
    settings = im.encoderinfo
    if settings.get("lossless"):
        raise ValueError("cannot write SGC: this version has no lossless")
    exif = settings.get("exif")
    if isinstance(exif, Image.Exif):
        exif = exif.tobytes()
    dpi, semantics = settings.get("dpi"), settings.get("semantics") or False
    given = {key: settings[key] for key in ("quality", "alpha_quality", "effort", *options.TARGETS) if key in settings}
    return {
        **given,
        "model": settings.get("model"),
        "threads": settings.get("threads", options.THREADS),
        "icc_profile": settings.get("icc_profile", _profile_of(im, mode)) or None,  # "" is none, as with Pillow's writers
        "exif": exif or None,
        "xmp": settings.get("xmp"),
        "comment": settings.get("comment"),
        "dpi": None if isinstance(dpi, tuple) and not any(dpi) else dpi,  # JPEGs say (0, 0) where they know none
        "roi": settings.get("roi"),
        "semantics": True if isinstance(semantics, Semantics) else semantics,  # with all of another picture's ``info``
        "exact": settings.get("exact") or False,
        "shown_as": im.mode if container.VIEWS.get(im.mode) == mode else None,
        "preview": settings.get("preview"),
        "indexed": settings.get("indexed"),
        "progress": settings.get("progress"),
        "limits": options.LIMITS,
    }


def _write(fp: IO[bytes], encode: Callable[[], bytes]) -> None:
    try:
        data = encode()
    except (LimitExceededError, UnsupportedError) as error:
        raise ValueError(f"cannot write SGC: {error}") from error
    except BundleError as error:
        raise OSError(f"cannot write SGC: {error}") from error
    fp.write(data)
    if hasattr(fp, "flush"):  # as Pillow's own writers do
        fp.flush()


def _profile_of(im: Image.Image, mode: str) -> bytes | None:
    """The ICC profile of ``im.info``, unless it describes other colours than those of the mode that is written."""
    from . import metadata

    profile: bytes | None = im.info.get("icc_profile")
    return profile if metadata.profile_is_of(profile or b"", b"RGB " if mode in ("RGB", "RGBA") else b"GRAY") else None


def _mode_of(im: Image.Image) -> str:
    """The mode that a picture is coded in."""
    if not im.width or not im.height:
        raise ValueError("cannot write empty image as SGC")
    mode = _SAVED_AS.get(im.mode)
    if mode is None:
        raise OSError(f"cannot write mode {im.mode} as SGC; convert it to L or RGB first")
    # In a palette, or as one colour; others may have it left over from what they were converted from.
    if im.mode in ("1", "L", "P", "RGB") and im.has_transparency_data:
        mode = "LA" if mode == "1" else mode + "A"
    if mode == "I;16" and im.has_transparency_data:  # F and I may have it left over from what they were converted from
        raise OSError("SGC has no transparent colour in 16 bits; delete info['transparency'] to write the picture without")
    return mode


def register() -> None:
    """Register the format with Pillow; may be called again."""
    Image.register_open(FORMAT, SgcImageFile, _accept)
    Image.register_decoder("sgc", SgcDecoder)
    Image.register_save(FORMAT, _save)
    Image.register_save_all(FORMAT, _save_all)
    Image.register_extension(FORMAT, EXTENSION)
    Image.register_mime(FORMAT, MIME)


register()
