"""SemicodecPlugin: the codec as an imageio v3 plugin, without PIL in between."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from imageio.core.request import URI_BYTES, InitializationError, IOMode, Request
from imageio.core.v3_plugin_api import ImageProperties, PluginV3
from numpy.typing import ArrayLike, NDArray

import pillow_semicodec as sgc

EXTENSION = ".sgc"
SIGNATURE = b"\x8aSGC"


class SemicodecPlugin(PluginV3):
    """Reads and writes files of one picture.

    Raises:
        InitializationError: on construction, for a resource that is not SGC; imageio then tries other plugins.
    """

    def __init__(self, request: Request, **kwargs: Any) -> None:
        super().__init__(request)
        if kwargs:
            request.finish()
            raise TypeError(f"unknown arguments {', '.join(kwargs)}")
        if request.mode.io_mode == IOMode.write:
            if request.extension not in (None, EXTENSION):
                raise InitializationError(f"SGC files end in {EXTENSION}, not in {request.extension}")
        elif request.firstbytes[: len(SIGNATURE)] != SIGNATURE:
            raise InitializationError(f"{request.raw_uri!r} is not an SGC file")
        self._data: bytes | None = None
        self._written = False

    # ---- reading ----

    def _bytes(self) -> bytes:
        if self._data is None:
            self._data = self.request.get_file().read()
        return self._data

    def _prologue(self) -> Any:
        try:
            return sgc.read_prologue(self._bytes(), sgc.options.LIMITS)
        except sgc.SemicodecError as error:
            raise OSError(f"cannot read SGC file: {error}") from error

    @staticmethod
    def _check_index(index: Any) -> None:
        if index is not Ellipsis and index not in (None, 0):
            raise ValueError(f"index {index} is out of range: the file holds one picture")

    def read(
        self, *, index: Any = 0, mode: str | None = None, rotate: bool = False, writeable_output: bool = True
    ) -> NDArray[Any]:
        """Decode the picture.

        Args:
            index: 0 or None for the picture, ``...`` for a batch of one.
            mode: Pillow mode to convert to, as with imageio's Pillow plugin.
            rotate: turn the picture as its EXIF orientation says.
            writeable_output: accepted for that plugin's sake; the array can always be written to.

        Returns:
            uint8 [H, W] or [H, W, 3], with alpha [H, W, 2] or [H, W, 4], or bool [H, W]; with ``index=...``
            behind a first axis of length 1.

        Raises:
            ValueError: another index. OSError: the file is damaged or needs a model that is not installed.
        """
        self._check_index(index)
        try:
            picture: NDArray[np.uint8] = sgc.decode(self._bytes(), threads=sgc.options.THREADS, limits=sgc.options.LIMITS)
        except sgc.SemicodecError as error:
            raise OSError(f"cannot read SGC file: {error}") from error
        if mode or rotate:
            picture = self._transformed(picture, mode, rotate)
        picture = picture if picture.flags.writeable else picture.copy()
        return picture[None] if index is Ellipsis else picture

    def _transformed(self, picture: NDArray[np.uint8], mode: str | None, rotate: bool) -> NDArray[Any]:
        from PIL import Image, ImageOps

        image = Image.fromarray(picture)
        exif = self.metadata().get("exif")
        if rotate and exif:
            image.info["exif"] = exif
            image = ImageOps.exif_transpose(image)
        return np.asarray(image.convert(mode) if mode else image)

    def iter(self) -> Iterator[NDArray[np.uint8]]:
        yield self.read()

    def properties(self, index: Any = 0) -> ImageProperties:
        """Shape and dtype; nothing is decoded."""
        self._check_index(index)
        header = self._prologue().header
        shape: tuple[int, ...] = (header.height, header.width) + ((len(header.mode),) if len(header.mode) > 1 else ())
        dtype = np.dtype(np.bool_ if header.mode == "1" else np.uint8)
        if index is Ellipsis:
            return ImageProperties(shape=(1, *shape), dtype=dtype, n_images=1, is_batch=True)
        return ImageProperties(shape=shape, dtype=dtype, is_batch=False)

    def metadata(self, index: int = 0, exclude_applied: bool = True) -> dict[str, Any]:
        """``mode``, ``shape``, ``model_id`` (hexadecimal) and, where the file has them, ``icc_profile``, ``exif``, ``xmp``,
        ``comment``, ``dpi`` and ``semantics`` (a ``pillow_semicodec.Semantics``).
        """
        self._check_index(index)
        prologue = self._prologue()
        header = prologue.header
        result = {"mode": header.mode, "shape": (header.width, header.height), "model_id": header.model_id.hex()}
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
        return result

    # ---- writing ----

    def write(
        self,
        ndimage: ArrayLike | list[ArrayLike],
        *,
        quality: float = 75,
        is_batch: bool | None = None,
        icc_profile: bytes | None = None,
        exif: bytes | None = None,
        model: str | None = None,
        threads: int | None = None,
        roi: Any = None,
        semantics: bool | str | tuple[str, ...] = False,
        alpha_quality: int = 100,
        exact: bool = False,
        xmp: bytes | str | None = None,
        dpi: tuple[float, float] | None = None,
        comment: bytes | str | None = None,
        preview: bool | None = None,
    ) -> bytes | None:
        """Encode a picture, uint8 [H, W], [H, W, 3] or, with alpha, [H, W, 2 or 4], or bool [H, W]; the options are those of
        ``pillow_semicodec.encode``.

        Returns:
            The bytes, if the target is ``"<bytes>"``.

        Raises:
            TypeError: another dtype; nothing is scaled or rounded silently.
            ValueError: NaN, a shape that is no picture, more than one picture, an option outside its range.
            OSError: the model is missing or broken.
        """
        picture = np.asarray(ndimage)
        if isinstance(ndimage, list) or is_batch:
            if len(picture) != 1:
                raise ValueError(f"an SGC file of this version holds one picture, not {len(picture)}")
            picture = picture[0]
        if self._written:
            raise ValueError("an SGC file of this version holds one picture; a second was written")
        if picture.dtype.kind == "f" and np.isnan(picture).any():
            raise ValueError("the picture contains NaN")
        if picture.dtype not in (np.uint8, np.bool_):
            raise TypeError(f"SGC takes uint8 and bool pictures, not {picture.dtype}; scale and round to uint8 first")
        try:
            data = sgc.encode(
                picture,
                quality,
                model=model,
                threads=sgc.options.THREADS if threads is None else threads,
                icc_profile=icc_profile,
                exif=exif,
                roi=roi,
                semantics=semantics,
                alpha_quality=alpha_quality,
                exact=exact,
                xmp=xmp,
                dpi=dpi,
                comment=comment,
                preview=preview,
                limits=sgc.options.LIMITS,
            )
        except (sgc.LimitExceededError, sgc.UnsupportedError) as error:
            raise ValueError(f"cannot write SGC: {error}") from error
        except sgc.BundleError as error:
            raise OSError(f"cannot write SGC: {error}") from error
        self._written = True
        file = self.request.get_file()
        file.write(data)
        if self.request._uri_type == URI_BYTES:
            file.seek(0)
            return bytes(file.read())
        return None
