"""What a picture keeps beside its pixels when it goes from one format to another: EXIF, XMP, a comment, ICC profile, dpi."""

from __future__ import annotations

import contextlib
import struct
import warnings
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .container import write_resolution

EXIF_IFDS = (0x8769, 0x8825)  # of the exposure, of the place
INTEROPERABILITY = 0xA005  # where in the TIFF another directory lies
# Of a TIFF's own directory: description, make, model, software, time, artist, copyright. The others describe its pixels.
DESCRIPTIVE = (0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x8298)
DESCRIPTION, XMP = 0x010E, 0x02BC
# Bytes of JPEG's markers, less what stands before the data.
JPEG_LIMITS = {"exif": 65533, "xmp": 65533 - 29, "comment": 65533}


def load(image: Image.Image) -> dict[str, Any]:
    """Load the picture; returns what goes along with it, by the keywords that SGC has for it.

    EXIF may stand behind the pixels, and the file of a TIFF is closed behind them. A TIFF's pixels come turned as its
    orientation says, which is therefore left out.
    """
    exif = _of_tiff(image) if image.format == "TIFF" else None
    image.load()
    if image.format != "TIFF":
        exif = image.getexif()
    texts = {key: image.info.get(key) for key in ("exif", "xmp", "comment", "icc_profile")}
    if image.format == "PNG" and not texts["comment"]:
        texts["comment"] = image.info.get("Comment")
    kept: dict[str, Any] = {
        key: text for key, text in texts.items() if text and isinstance(text, (bytes, str) if key == "comment" else bytes)
    }
    if exif and "exif" not in kept:
        try:
            kept["exif"] = exif.tobytes()
        except (struct.error, TypeError, ValueError, OverflowError) as error:
            warnings.warn(f"{getattr(image, 'filename', '')}: its EXIF cannot be kept: {error}", stacklevel=2)
    with contextlib.suppress(KeyError, ValueError):  # some files state a resolution of 0, or none that is a number
        write_resolution(image.info["dpi"])
        kept["dpi"] = image.info["dpi"]
    return kept


def _of_tiff(image: Image.Image) -> Image.Exif:
    stored, exif = image.getexif(), Image.Exif()
    for tag in DESCRIPTIVE:
        if tag in stored:
            exif[tag] = stored[tag]
    for tag in EXIF_IFDS:
        if directory := stored.get_ifd(tag):
            exif[tag] = {key: value for key, value in directory.items() if key != INTEROPERABILITY}
    return exif


def keywords(name: str, kept: dict[str, Any], source: str = "") -> dict[str, Any]:
    """What ``load`` gave, by the keywords that a format's writer in Pillow has for it; what does not fit is warned of."""
    save = dict(kept)
    if name == "PNG":
        save["pnginfo"] = PngInfo()
        for key, title in (("xmp", "XML:com.adobe.xmp"), ("comment", "Comment")):
            if key in save:
                save["pnginfo"].add_itxt(title, _text(save.pop(key)))
    elif name == "TIFF" and ("xmp" in save or "comment" in save):
        exif = Image.Exif()
        exif.load(save.get("exif", b""))
        if "xmp" in save:
            exif[XMP] = _text(save.pop("xmp")).encode()
        if "comment" in save:
            exif.setdefault(DESCRIPTION, _text(save.pop("comment")))
        save["exif"] = exif
    elif name == "SGC":
        save.pop("icc_profile", None)  # the writer takes the picture's own where it fits the colours that are coded
    elif name == "JPEG":
        for key, limit in JPEG_LIMITS.items():
            if len(save.get(key, b"")) > limit:
                size = len(save.pop(key))
                warnings.warn(f"{source}: {size} bytes of {key} do not fit into JPEG and are left out", stacklevel=2)
    return save


def _text(text: bytes | str) -> str:
    return text.decode("utf-8", "replace") if isinstance(text, bytes) else text
