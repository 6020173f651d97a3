"""What a picture keeps when it goes from one format to another: frames, EXIF, XMP, a comment, ICC profile, dpi."""

from __future__ import annotations

import contextlib
import struct
import warnings
from collections.abc import Iterator
from typing import Any

from PIL import Image, ImageOps, ImageSequence
from PIL.PngImagePlugin import PngInfo

from .container import write_resolution
from .files import printable

EXIF_IFDS = (0x8769, 0x8825)  # of the exposure, of the place
INTEROPERABILITY = 0xA005  # where in the file another directory lies
# Of a TIFF's own directory: description, make, model, software, time, artist, copyright. The others describe its pixels,
DESCRIPTIVE = (0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x8298)
# and some of these are found in EXIF, too, where they may be out of date.
OF_PIXELS = {0x0100, 0x0101, 0x0102, 0x0103, 0x0106, 0x0111, 0x0115, 0x0116, 0x0117, 0x011C, 0x0140, 0x0142, 0x0143, 0x0144}
OF_PIXELS |= {0x0145, 0x0152, 0x0153, 0x0201, 0x0202, 0x0211, 0x0212, 0x0213, 0x0214}
DESCRIPTION, ORIENTATION, X_RESOLUTION, XMP = 0x010E, 0x0112, 0x011A, 0x02BC
# Bytes of JPEG's markers, less what stands before the data; of JPEG 2000's Pillow takes a few less.
OF_JPEG = {"exif": 65533, "xmp": 65533 - 29, "comment": 65533}
OF_JPEG_2000 = {"comment": 65530}
LIMITS = {"JPEG": OF_JPEG, "MPO": OF_JPEG, "JPEG2000": OF_JPEG_2000, "PDF": OF_JPEG | OF_JPEG_2000}  # its pages are such
WITH_PROFILES = ("JPEG", "MPO", "PNG", "WEBP", "AVIF", "TIFF", "PDF", "HEIF")
AS_RGB = ("WEBP", "AVIF")  # whatever the picture's mode is
WITH_CMYK = ("JPEG", "MPO", "TIFF", "PDF")  # others have it as RGB
COLOURS = (b"GRAY", b"RGB ", b"CMYK", b"Lab ")  # of ICC profiles
TURNED_BY_A_QUARTER = (5, 6, 7, 8)  # orientations
TOLD = ("exif", "xmp", "XML:com.adobe.xmp", "comment", "Comment")  # of a picture, by Pillow's names
EXIF_MARKER = b"Exif\x00\x00"  # what EXIF begins with in a JPEG
BROKEN = (SyntaxError, LookupError, struct.error, TypeError, ValueError, OverflowError)  # what EXIF makes Pillow raise


def has_default_image(image: Image.Image) -> bool:
    """Whether the first frame is none: an APNG's picture for viewers that know no frames."""
    return bool(getattr(image, "n_frames", 1) > 1 and image.info.get("default_image"))


def frames(image: Image.Image) -> Iterator[Image.Image]:
    """The picture itself, at one of its frames after the other."""
    if getattr(image, "n_frames", 1) < 1:  # a PSD without layers: what they make together is there
        yield image
        return
    if not has_default_image(image):
        yield from ImageSequence.Iterator(image)
        return
    for k in range(1, image.n_frames):  # type: ignore[attr-defined]
        image.seek(k)  # not by way of 0: behind that Pillow may lose its place
        yield image


def seek(image: Image.Image, place: int) -> None:
    """Of a PSD without layers no place can be sought, not even where it is."""
    if image.tell() != place:
        image.seek(place)


def loop(image: Image.Image) -> int:
    """What an animation says of how often it is shown; where it says nothing, 0, for ever, and 1, once, of a GIF."""
    said: int = image.info.get("loop", 1 if image.format == "GIF" else 0)
    return said


def load(image: Image.Image) -> dict[str, Any]:
    """Load the picture; returns what goes along with it, by the keywords that SGC has for it.

    EXIF may stand behind the pixels, and the file of a TIFF is closed behind them. Of pixels that come turned
    the orientation is left out.
    """
    exif, says_dpi = _exif(image) if image.format == "TIFF" else None, _says_dpi(image)
    turned: Any = 1
    with contextlib.suppress(*BROKEN):
        turned = image.getexif().get(ORIENTATION) if image.format == "TIFF" else 1
    image.load()
    texts = {key: image.info.get(key) for key in ("exif", "xmp", "comment", "icc_profile")}
    if not texts["exif"]:
        texts["exif"] = exif if image.format == "TIFF" else _exif(image)
    if image.format == "PNG" and not texts["comment"]:
        texts["comment"] = image.info.get("Comment")
    if image.format == "JXL" and comes_turned(image) and texts["exif"]:
        texts["exif"] = without_orientation(texts["exif"])
    kept: dict[str, Any] = {
        key: text for key, text in texts.items() if text and isinstance(text, (bytes, str) if key == "comment" else bytes)
    }
    if says_dpi:
        with contextlib.suppress(KeyError, ValueError):  # some files state a resolution of 0, or none that is a number
            write_resolution(image.info["dpi"])
            kept["dpi"] = image.info["dpi"][::-1] if turned in TURNED_BY_A_QUARTER else image.info["dpi"]
    return kept


def comes_turned(image: Image.Image) -> bool:
    """Whether what its EXIF says of its orientation has been done, or is to be ignored (ISO/IEC 18181-2, of JPEG XL)."""
    return image.format in ("TIFF", "HEIF") or (image.format == "JXL" and not getattr(image, "jpeg", False))


def turn(image: Image.Image, kept: dict[str, Any]) -> dict[str, Any]:
    """Turn a picture as what is kept of it says; returns what is left to be said."""
    image.info |= {key: kept[key] for key in ("exif", "xmp") if key in kept}
    with contextlib.suppress(*BROKEN):
        ImageOps.exif_transpose(image, in_place=True)
    return {**kept, "exif": without_orientation(kept["exif"])} if "exif" in kept else kept


def without_orientation(data: bytes) -> bytes:
    """EXIF that says none; what is no EXIF as it is."""
    exif = Image.Exif()
    try:
        exif.load(data)
        return _copied(exif, {ORIENTATION}).tobytes() if ORIENTATION in exif else data
    except BROKEN:
        return data


def _says_dpi(image: Image.Image) -> bool:
    """Pillow says 1 of a TIFF that does not, and 72 of a JPEG whose EXIF does not, or not in numbers that make sense."""
    if image.format == "TIFF":
        return X_RESOLUTION in image.tag_v2  # type: ignore[attr-defined]
    if image.format in ("JPEG", "MPO", "JXL") and image.info.get("dpi") == (72, 72) and not image.info.get("jfif_unit"):
        with contextlib.suppress(*BROKEN):
            return bool(image.getexif().get(X_RESOLUTION) == 72)
        return False
    return True


def stripped(image: Image.Image, kept: dict[str, Any]) -> dict[str, Any]:
    """Of what ``load`` gave ICC profile, resolution and how the picture is turned; ``image`` tells no more, either."""
    left: dict[str, Any] = {key: kept[key] for key in ("icc_profile", "dpi") if key in kept}
    told, exif = Image.Image(), Image.Exif()  # Pillow finds the orientation in EXIF or XMP
    told.info.update(kept)
    with contextlib.suppress(*BROKEN):
        if not comes_turned(image) and (turned := told.getexif().get(ORIENTATION)):
            exif[ORIENTATION] = turned
            left["exif"] = exif.tobytes()
    for key in TOLD:  # some writers take what there is
        image.info.pop(key, None)
    return left


def _exif(image: Image.Image) -> bytes | None:
    try:
        stored = image.getexif()
        exif = _copied(stored, set(stored) - set(DESCRIPTIVE)) if image.format == "TIFF" else stored
        return exif.tobytes() if exif else None
    except BROKEN as error:
        warnings.warn(f"{printable(str(getattr(image, 'filename', '')))}: its EXIF cannot be kept: {error}", stacklevel=3)
        return None


def _copied(exif: Image.Exif, without: set[int]) -> Image.Exif:
    """Both directories and the tags beside them but some; text, which Pillow reads as Latin-1, byte for byte."""
    copy = Image.Exif()
    for tag in set(exif) - without - set(EXIF_IFDS):
        copy[tag] = _as_stored(exif[tag])
    for tag in EXIF_IFDS:
        if directory := exif.get_ifd(tag):
            own = {key: _as_stored(value) for key, value in directory.items() if key != INTEROPERABILITY}
            copy.get_ifd(tag).update(own)
            copy[tag] = own
    return copy


def _as_stored(value: Any) -> Any:
    return value.encode("latin-1", "replace") if isinstance(value, str) and not value.isascii() else value


def profile_is_of(profile: bytes, *colours: bytes) -> bool:
    """Whether it describes colours of one of these kinds, or none that are known (ICC.1:2022, table 19)."""
    return profile[16:20] in colours or profile[16:20] not in COLOURS


def _colours_of(name: str, mode: str) -> tuple[bytes, ...]:
    """What a profile may describe in a file of a format that is written of a picture of a mode; grey is RGB's, too."""
    if mode == "CMYK" and name in WITH_CMYK:
        return (b"CMYK",)
    if mode == "LAB" and name == "TIFF":
        return (b"Lab ",)
    return (b"RGB ",) if name in AS_RGB or mode[0] not in "1LIF" or mode == "LAB" else (b"GRAY", b"RGB ")


def keywords(name: str, kept: dict[str, Any], mode: str, source: str = "") -> dict[str, Any]:
    """What ``load`` gave, by the keywords that a format's writer in Pillow has for it; what does not fit is warned of.

    Args:
        mode: of the picture that is written.
    """
    save = dict(kept)
    if name in WITH_PROFILES and not profile_is_of(save.get("icc_profile", b""), *_colours_of(name, mode)):
        save["icc_profile"] = None  # instead of what the picture has
        warnings.warn(f"{source}: its ICC profile is not of the colours that {name} stores, and is left out", stacklevel=2)
    if name == "JXL" and save.pop("icc_profile", None):
        warnings.warn(f"{source}: its ICC profile is left out, for pillow-jxl-plugin writes none", stacklevel=2)
    if name == "PNG":
        save["pnginfo"] = PngInfo()
        for key, title in (("xmp", "XML:com.adobe.xmp"), ("comment", "Comment")):
            if key in save:
                save["pnginfo"].add_itxt(title, _text(save.pop(key)))
    elif name == "TIFF" and {"exif", "xmp", "comment"} & set(save):
        save["exif"] = _for_tiff(save.pop("exif", b""), save.pop("xmp", b""), save.pop("comment", b""), source)
    elif name == "SGC":
        save.pop("icc_profile", None)  # the writer takes the picture's own where it fits the colours that are coded
    exif = save.get("exif")
    if exif and name in ("JPEG", "MPO", "PDF") and _is_exif(exif):
        save["exif"] = EXIF_MARKER + exif.removeprefix(EXIF_MARKER)  # their writers add none, and readers look for it
    elif exif and name == "AVIF" and not _is_exif(exif, rewritten=True):
        save["exif"] = b""
        warnings.warn(f"{source}: what stands for its EXIF is none, and is left out", stacklevel=2)
    if isinstance(save.get("comment"), str) and name in LIMITS:
        save["comment"] = save["comment"].encode()  # whose bytes count
    for key, limit in LIMITS.get(name, {}).items():
        size = len(save.get(key, b""))
        if size > limit:
            save[key] = b""  # instead of what the picture has
            warnings.warn(f"{source}: {size} bytes of {key} do not fit into {name} and are left out", stacklevel=2)
    return save


def _is_exif(data: bytes, rewritten: bool = False) -> bool:
    """Whether Pillow can read it, and write it without its orientation, which AVIF has a place of its own for."""
    exif = Image.Exif()
    try:
        exif.load(data)
        if rewritten and ORIENTATION in exif:
            exif.tobytes()
    except BROKEN:
        return False
    return True


def _for_tiff(data: bytes, xmp: bytes, comment: bytes | str, source: str) -> Image.Exif:
    exif = Image.Exif()
    try:
        exif.load(data)
        exif = _copied(exif, OF_PIXELS)
    except BROKEN as error:
        exif = Image.Exif()
        warnings.warn(f"{source}: its EXIF does not fit into TIFF: {error}", stacklevel=3)
    if xmp:
        exif[XMP] = xmp
    if comment:
        exif.setdefault(DESCRIPTION, _text(comment).encode())
    return exif


def _text(text: bytes | str) -> str:
    if isinstance(text, str):
        return text
    try:
        return text.decode()
    except UnicodeDecodeError:
        return text.decode("latin-1")
