"""SemicodecPlugin: the codec as an imageio v3 plugin, without Pillow's images in between."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import struct
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from imageio.core.request import URI_BYTES, URI_FILE, InitializationError, IOMode, Request
from imageio.core.v3_plugin_api import ImageProperties, PluginV3
from numpy.typing import ArrayLike, NDArray

import pillow_semicodec as sgc

EXTENSION = ".sgc"
SIGNATURE = b"\x8aSGC"
ORIENTATION = 0x0112  # tag of EXIF


def _turned(picture: NDArray[Any], orientation: int) -> NDArray[Any]:
    """As the EXIF orientation from 1 to 8 says; others change nothing."""
    if orientation in (5, 6, 7, 8):
        picture = np.swapaxes(picture, 0, 1)
    if orientation in (2, 3, 6, 7):
        picture = picture[:, ::-1]
    if orientation in (3, 4, 7, 8):
        picture = picture[::-1]
    return np.ascontiguousarray(picture)


def _can_seek(file: Any) -> bool:
    return bool(getattr(file, "seekable", lambda: False)())  # some that can be written to do not even say


def _can_go_back(file: Any, start: int) -> bool:
    """Where something was written from ``start`` on. A GzipFile says that it can seek, and then cannot."""
    if not _can_seek(file):
        return False
    with contextlib.suppress(OSError):
        place = file.tell()
        file.seek(start)
        file.seek(place)
        return True
    return False


def _hold(request: Request) -> None:
    """Read what cannot seek, pipes and responses of servers, at once: its first bytes are looked at before the others."""
    try:
        file = request.get_file()
    except OSError:
        if os.path.isdir(request.filename or ""):
            return
        raise
    try:
        file.seek(file.tell())
    except (AttributeError, OSError):
        request._file = io.BytesIO(file.read())  # type: ignore[attr-defined]
        if request._uri_type != URI_FILE:
            file.close()


def _rewound(request: Request) -> bool:
    """Whether a file that the caller opened, and has read or written before, begins as SGC files do; then it is there."""
    if request._uri_type != URI_FILE:
        return False
    with contextlib.suppress(AttributeError, OSError):  # it cannot seek
        file = request.get_file()
        place = file.tell()
        file.seek(0)
        found = file.read(len(SIGNATURE)) == SIGNATURE
        file.seek(0 if found else place)
        return found
    return False


def _is_batch(pictures: ArrayLike | list[ArrayLike]) -> bool:
    return isinstance(pictures, (list, tuple)) or len(shape := np.shape(pictures)) == 4 or (len(shape) == 3 and shape[2] > 4)


class SemicodecPlugin(PluginV3):
    """Reads and writes pictures and animations.

    Raises:
        InitializationError: on construction, for a resource that is not SGC; imageio then tries other plugins.
    """

    def __init__(self, request: Request, **kwargs: Any) -> None:
        super().__init__(request)
        self._data: bytes | None = None
        self._parsed: Any = None  # its prologue
        self._running: tuple[int, Iterator[NDArray[Any]]] = (0, iter(()))  # frames, and which one comes next
        self._frames_written: list[NDArray[Any]] = []
        self._start = 0  # of what is written, in the caller's file
        self._pending: dict[str, Any] | None = None  # options of an animation that is to be written
        if kwargs:
            request.finish()
            raise TypeError(f"unknown arguments {', '.join(kwargs)}")
        if request.mode.io_mode == IOMode.write:
            if request.extension is not None and request.extension.lower() != EXTENSION:
                raise InitializationError(f"SGC files end in {EXTENSION}, not in {request.extension}")
            return
        _hold(request)
        if request.firstbytes[: len(SIGNATURE)] != SIGNATURE and not _rewound(request):
            raise InitializationError(f"{request.raw_uri!r} is not an SGC file")

    # ---- reading ----

    def _bytes(self) -> bytes:
        if self._data is None:
            self._data = self.request.get_file().read()
        return self._data

    def _prologue(self) -> Any:
        with self._translated():
            if self._parsed is None:
                self._parsed = sgc.read_prologue(self._bytes(), sgc.options.LIMITS)
            return self._parsed

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Errors of the file as imageio has them, with its name where it is known."""
        try:
            yield
        except sgc.SemicodecError as error:
            uri = self.request.raw_uri
            name = f" {uri}" if isinstance(uri, (str, os.PathLike)) else ""
            raise OSError(f"cannot read SGC file{name}: {error}") from error

    def _count(self) -> int:
        animation = self._prologue().animation
        return len(animation.frames) if animation else 1

    def _checked_index(self, index: Any) -> int:
        """Place of a frame; ValueError outside of the file, TypeError for what is no index."""
        count = self._count()
        if not isinstance(index, (int, np.integer)) or isinstance(index, bool):
            raise TypeError(f"index must be a whole number, ... or None, not {index!r}")
        if not -count <= index < count:
            raise ValueError(f"index {index} is out of range: the file holds {count} picture{'s' * (count > 1)}")
        return int(index) % count

    def read(
        self,
        *,
        index: Any = None,
        mode: str | None = None,
        rotate: bool = False,
        writeable_output: bool = True,
        apply_gamma: bool = False,
        pilmode: str | None = None,
        exifrotate: bool | None = None,
    ) -> NDArray[Any]:
        """Decode a picture.

        Args:
            index: a frame, counted from 0 or, below 0, from the end; ``...`` for all of them; None (the default) for the
                one picture of a file, or all frames of an animation.
            mode: Pillow mode to convert to, as with imageio's Pillow plugin.
            rotate: turn the picture as the orientation in its EXIF, or else XMP, says.
            pilmode, exifrotate: names of these two in imageio 2.
            writeable_output, apply_gamma: accepted for that plugin's sake; the array can always be written to, and SGC files
                state no gamma.

        Returns:
            uint8 or uint16 [H, W] or [H, W, 3], with alpha uint8 [H, W, 2 or 4], or bool [H, W], or what else was encoded;
            of all frames behind a first axis.

        Raises:
            ValueError, TypeError: another index. OSError: the file is damaged or needs a model that is not installed.
            PIL.Image.DecompressionBombError: more than twice ``PIL.Image.MAX_IMAGE_PIXELS``, as with Pillow.
        """
        mode, rotate = mode or pilmode, rotate or bool(exifrotate)
        everything = index is Ellipsis or (index is None and self._count() > 1)
        last = self._count() - 1 if everything else 0 if index is None else self._checked_index(index)
        header, limit = self._prologue().header, sgc.options.LIMITS.max_pixels
        if everything and (last + 1) * header.width * header.height > limit:
            raise OSError(f"{last + 1} frames have more than {limit} pixels together; read them one by one")
        if not everything:
            return self._transformed(self._frame(last), mode, rotate)
        frames = (self._transformed(frame, mode, rotate) for frame in self._frames())
        first = next(frames)
        result = np.empty((last + 1, *first.shape), first.dtype)  # a list of frames would be as much again
        for k, frame in enumerate(itertools.chain([first], frames)):
            result[k] = frame
        return result

    def _frame(self, place: int) -> NDArray[Any]:
        """Forwards, each is decoded once; where it is behind what was read last, all before it are again."""
        (following, frames), self._running = self._running, (0, iter(()))  # nothing follows a damaged one
        if not 0 < following <= place:
            following, frames = place, self._frames(place)
        frame = next(itertools.islice(frames, place - following, None))
        self._running = (place + 1, frames) if place + 1 < self._count() else (0, iter(()))
        return frame

    def _frames(self, start: int = 0) -> Iterator[NDArray[Any]]:
        from PIL import Image

        header, threads, limits = self._prologue().header, sgc.options.THREADS, sgc.options.LIMITS
        Image._decompression_bomb_check((header.width, header.height))  # a file of 500 bytes may ask for a gigapixel
        with self._translated():
            if self._count() == 1:  # without the copies that an animation needs
                yield sgc.decode(self._bytes(), threads=threads, limits=limits)
            else:
                yield from sgc.decode_frames(self._bytes(), start=start, threads=threads, limits=limits)

    def _transformed(self, picture: NDArray[Any], mode: str | None, rotate: bool) -> NDArray[Any]:
        if not mode and not rotate:
            return picture
        from PIL import Image

        if rotate:
            told = Image.Image()  # Pillow finds the orientation in EXIF or XMP
            told.info.update(self.metadata())
            with contextlib.suppress(SyntaxError, ValueError, OSError, struct.error):  # EXIF that says nothing
                picture = _turned(picture, told.getexif().get(ORIENTATION, 1))
        if not mode:
            return picture
        if picture.dtype == np.uint16:  # which Pillow has in grey alone, and would cut
            if mode == "I;16" and picture.ndim == 2:
                return picture
            if mode in ("I", "F") and picture.ndim == 2:
                return picture.astype(np.int32 if mode == "I" else np.float32)
            picture = np.rint(picture / 257).astype(np.uint8)
        return np.array(Image.fromarray(picture).convert(mode))

    def iter(
        self, *, mode: str | None = None, rotate: bool = False, writeable_output: bool = True, apply_gamma: bool = False
    ) -> Iterator[NDArray[Any]]:
        """Frame after frame; ``mode`` and ``rotate`` as with ``read``."""
        for frame in self._frames():
            yield self._transformed(frame, mode, rotate)

    def properties(self, index: Any = None) -> ImageProperties:
        """Shape and dtype of what ``read`` gives; nothing is decoded."""
        header, count = self._prologue().header, self._count()
        shape: tuple[int, ...] = (header.height, header.width) + ((header.bands,) if header.bands > 1 else ())
        dtype = sgc.codec.dtype_of(self._prologue())
        spacing = self._prologue().dpi
        if index is Ellipsis or (index is None and count > 1):
            return ImageProperties(shape=(count, *shape), dtype=dtype, n_images=count, is_batch=True, spacing=spacing)
        self._checked_index(index or 0)
        return ImageProperties(shape=shape, dtype=dtype, is_batch=False, spacing=spacing)

    def metadata(self, index: Any = None, exclude_applied: bool = True) -> dict[str, Any]:
        """``mode``, ``shape`` and, where the file has them, ``model_id`` (hexadecimal), ``icc_profile``, ``exif``, ``xmp``,
        ``comment``, ``dpi`` and ``semantics`` (a ``pillow_semicodec.Semantics``); of an animation ``loop``, and of one of
        its frames ``duration`` and ``timestamp`` in milliseconds.
        """
        prologue = self._prologue()
        header = prologue.header
        result: dict[str, Any] = {"mode": prologue.mode, "shape": (header.width, header.height)}
        if header.latents:
            result["model_id"] = header.model_id.hex()
        for key, kind in (("icc_profile", b"c"), ("exif", b"e"), ("xmp", b"x"), ("comment", b"t")):
            if kind in prologue.metadata:
                result[key] = prologue.metadata[kind]
        if prologue.dpi:
            result["dpi"] = prologue.dpi
        if b"m" in prologue.metadata:
            with contextlib.suppress(
                sgc.FormatError, sgc.UnsupportedError
            ):  # as with Pillow: it never keeps a picture from being read
                result["semantics"] = sgc.read_semantics(prologue.metadata[b"m"], header.width, header.height)
        if prologue.animation:
            result["loop"] = prologue.animation.loop
        if index is not None and index is not Ellipsis:
            place = self._checked_index(index)
            if prologue.animation:
                times = [frame.duration for frame in prologue.animation.frames]
                result["duration"], result["timestamp"] = times[place], sum(times[:place])
        return result

    # ---- writing ----

    def write(
        self,
        ndimage: ArrayLike | list[ArrayLike],
        *,
        quality: float = 75,
        target_size: int | None = None,
        target_bpp: float | None = None,
        target_psnr: float | None = None,
        is_batch: bool | None = None,
        duration: float | list[float] = 0,
        fps: float | None = None,
        loop: int = 0,
        threads: int | None = None,
        model: str | None = None,
        icc_profile: bytes | None = None,
        exif: Any = None,
        xmp: bytes | str | None = None,
        comment: bytes | str | None = None,
        dpi: tuple[float, float] | None = None,
        roi: Any = None,
        semantics: bool | str | tuple[str, ...] = False,
        alpha_quality: int = 100,
        effort: int = 1,
        exact: bool = False,
        preview: bool | None = None,
        indexed: bool | None = None,
        progress: Callable[[float], object] | None = None,
    ) -> bytes | None:
        """Encode a picture, uint8 or uint16 [H, W] or [H, W, 3], uint8 with alpha [H, W, 2 or 4], or bool [H, W]; options
        mean what they do for ``pillow_semicodec.encode``. A list or a batch makes an animation; so do further calls, and the
        options of the last one count. Until the file is closed a copy of all frames is kept for these.

        Args:
            is_batch: the first axis counts frames; by default it does in a list, and in an array of four axes, or of three
                the last of which is longer than the bands of a picture.
            duration: milliseconds of every frame, or of each of them. fps: frames a second, instead.
            loop: how often they are shown; 0: again and again. exif: bytes, or a ``PIL.Image.Exif``.

        Returns:
            The bytes, of all frames so far, if the target is ``"<bytes>"``.

        Raises:
            TypeError: another dtype; nothing is scaled or rounded silently.
            ValueError: NaN, a shape that is no picture, frames of different shapes, an option outside its range, a model
                that is not installed.
            OSError: no model at all, or a broken one.
        """
        options = {
            "quality": quality,
            "target_size": target_size,
            "target_bpp": target_bpp,
            "target_psnr": target_psnr,
            "durations": 1000 / fps if fps else duration,
            "loop": loop,
            "model": model,
            "icc_profile": icc_profile,
            "exif": exif.tobytes() if hasattr(exif, "get_ifd") else exif,
            "xmp": xmp,
            "comment": comment,
            "dpi": dpi,
            "roi": roi,
            "semantics": semantics,
            "alpha_quality": alpha_quality,
            "effort": effort,
            "exact": exact,
            "preview": preview,
            "indexed": indexed,
            "progress": progress,
            "threads": sgc.options.THREADS if threads is None else threads,
            "limits": sgc.options.LIMITS,
        }
        batch = _is_batch(ndimage) if is_batch is None else is_batch
        frames = [_native(picture) for picture in ndimage] if batch else [_native(ndimage)]  # type: ignore[union-attr]
        for picture in frames:
            if picture.dtype.kind == "f" and np.isnan(picture).any():
                raise ValueError("the picture contains NaN")
            if picture.dtype not in (np.uint8, np.uint16, np.bool_):
                raise TypeError(
                    f"SGC takes uint8, uint16 and bool pictures, not {picture.dtype}; scale and round to one of them first"
                )
        if self._frames_written and len({(p.dtype, p.shape) for p in (self._frames_written[0], *frames)}) > 1:
            raise ValueError("frames must be alike, in shape and dtype")  # now, for the end would lose those before it, too
        to_bytes = self.request._uri_type == URI_BYTES
        if self._frames_written and not _can_go_back(self.request.get_file(), self._start):
            raise ValueError("further frames cannot be added where nothing can be written anew: give all of them at once")
        if self._frames_written and not to_bytes:  # the animation is coded as a whole when the file is closed
            sgc.animation.check_settings(len(self._frames_written) + len(frames), **options)  # then it would be too late
            self._frames_written += _kept(frames)
            self._pending = options
            return None
        self._encode(self._frames_written + frames, options)
        self._frames_written += _kept(frames)
        if to_bytes:  # nobody could ask for them later
            file = self.request.get_file()
            file.seek(0)
            return bytes(file.read())
        return None

    def _encode(self, frames: list[NDArray[Any]], options: dict[str, Any]) -> None:
        bytes_so_far = self._frames_written and self.request._uri_type == URI_BYTES
        if (len(frames) == 1 or bytes_so_far) and np.ndim(options["durations"]):  # of frames, too, that further writes add
            options = {**options, "durations": options["durations"][: len(frames)]}
        try:
            data = sgc.encode_animation(frames, **options)
        except (sgc.LimitExceededError, sgc.UnsupportedError) as error:
            raise ValueError(f"cannot write SGC: {error}") from error
        except sgc.BundleError as error:
            raise OSError(f"cannot write SGC: {error}") from error
        file = self.request.get_file()
        if self._frames_written:
            file.seek(self._start)
            file.truncate()
        self._start = file.tell() if _can_seek(file) else 0
        file.write(data)
        if hasattr(file, "flush"):
            file.flush()

    def close(self) -> None:
        """Write the animation, if ``write`` was called more than once."""
        pending, self._pending = self._pending, None  # closed once more where this fails
        try:
            if pending is not None:
                self._encode(self._frames_written, pending)
        finally:
            super().close()


def _native(picture: Any) -> NDArray[Any]:
    """As an array, in this machine's order of bytes."""
    if np.ma.is_masked(picture):
        raise TypeError("masked pixels cannot be kept; fill them first")
    array = np.asarray(picture)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _kept(frames: list[NDArray[Any]]) -> list[NDArray[Any]]:
    """Copies, for a caller may fill an array anew before the file is closed; not of what is mapped to be read only."""
    return [frame if isinstance(frame.base, np.memmap) and not frame.flags.writeable else frame.copy() for frame in frames]
