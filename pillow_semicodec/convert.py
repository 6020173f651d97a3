"""Convert many pictures: from folders, globs, archives and URLs, by a pool of processes or a Dask cluster.

Strategy: a job is two names and depends on no other; its result is written whole or not at all. So a run that was killed
is taken up by giving the same command again: results that exist are skipped. Originals are only ever read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import glob
import io
import json
import math
import os
import posixpath
import signal
import stat
import sys
import threading
import unicodedata
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import IO, Any

from PIL import Image, ImageOps, UnidentifiedImageError

from . import metadata, options, other_formats
from .container import FLOAT, MAX_FRAMES, VIEWS, Numbers
from .files import EXISTS, PREFIX, SUFFIX, ignores_case, is_lost, is_picture, printable, sweep, walk, write_atomically

ARCHIVES = {".zip": "zip", ".tar": "tar", ".tgz": "tar", ".tar.gz": "tar", ".tar.bz2": "tar", ".tar.xz": "tar"}
ONE_PICTURE = ("MPO", "HEIF", "PSD")  # a phone's further frames are by-products, layers are no frames
SUBFILE_TYPE, REDUCED = 254, 1  # tag of a TIFF's page, and its bit for a smaller version of another page
CLIPPING = ("WEBP", "AVIF", "GIF")  # cut what has more than 8 bits at 255, where other formats of Pillow refuse it
CLIPPING_32_BITS = ("PPM", "HEIF", "PNG", "ICO", "ICNS")  # cut mode I at 65535, the last three before Pillow 13
DROPPING_ALPHA = ("BMP", "DIB", "PPM")  # show what is transparent in the colour that it happens to have
CLEARED = 2  # a GIF's frame before the next one is drawn: nothing old shows through its holes
CODESTREAMS = (".j2k", ".j2c", ".jpc")  # JPEG 2000 without the boxes of JP2
LARGEST_LOOP = 2**16 - 1  # that GIF and WebP hold
# Whose transactions, as fsspec has them, need a /tmp there, or are none.
RENAMED = {"ftp", "sftp", "ssh", "hdfs", "arrow_hdfs", "webhdfs", "webHDFS"}
MOST_BYTES = 2**31  # of a picture in an archive or at a URL, which is held in memory
Kinds = set[tuple[str, str]]  # mode and compression of every frame
ATTEMPTS = 2  # of a job whose worker died, before it is given up


@dataclasses.dataclass(frozen=True)
class Job:
    source: str  # path or URL
    target: str


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all jobs of a run share.

    Attributes:
        save: keywords of ``Image.save`` for SGC; other formats take the quality, and their defaults.
        flatten: put transparent pictures on white. strip: keep no metadata but colours, resolution and how the picture is
        turned. measure: decode what was written and compare it with the source.
        overwrite: replace a result that has come to exist since the run was planned. run: tells it from others, for which
            archives are read anew.
    """

    save: dict[str, Any] = dataclasses.field(default_factory=dict)
    flatten: bool = False
    strip: bool = False
    measure: bool = False
    overwrite: bool = False
    run: bytes = dataclasses.field(default_factory=partial(os.urandom, 8))


@dataclasses.dataclass(frozen=True)
class Outcome:
    job: Job
    before: int = 0  # bytes of the source
    after: int = 0  # bytes of the result
    quality: dict[str, float] = dataclasses.field(default_factory=dict)  # PSNR in dB and SSIMULACRA2, where measured
    error: str = ""


Outcomes = Generator[Outcome, None, None]


def is_url(name: str) -> bool:
    return "://" in name  # chained ones, too: zip://…::file


def without_scheme(name: str) -> str:
    """The path that a URL of this machine's files stands for; other names as they are."""
    if name.startswith(("file://", "local://")) and "::" not in name:
        return str(_fsspec().implementations.local.LocalFileSystem._strip_protocol(name))
    return name


def reason(error: BaseException) -> str:
    """One line; of the system's errors without their numbers."""
    told = str(error)
    if isinstance(error, UnidentifiedImageError):  # which names the file in a way of its own
        told = "not a picture that Pillow can read"
    elif isinstance(error, OSError) and error.strerror:
        told = error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    return " ".join(told.split()) or type(error).__name__


def named(source: object, why: str) -> str:
    """The reason why something is wrong with ``source``, which it names once."""
    name = " ".join(str(source).split())
    return why if why.startswith(f"{name}: ") or f" {name}: " in why else f"{name}: {why}"


# ---- one picture -----------------------------------------------------------------------------------------------


def _formats(name: str) -> list[str] | None:
    """That a source of this name may have: PostScript, a program that Ghostscript runs, only where the name says so."""
    Image.init()
    if is_url(name):  # the last of the names is the archive's
        name = name.partition("::")[0].partition("?")[0]
    return None if name.lower().endswith((".eps", ".ps")) else [kind for kind in Image.ID if kind != "EPS"]


def _check_frames(frames: int, name: str) -> None:
    most = MAX_FRAMES if name == "SGC" else math.inf if name in Image.SAVE_ALL else 1
    if frames > most:
        raise ValueError(f"it has {frames} frames, and {name} stores {'one' if most == 1 else most}")


def recode(source: IO[bytes] | Path, target: str, settings: Settings, output: IO[bytes], called: str = "") -> None:
    """Read one picture and write it as the format that ``target`` ends in; frames, where it has such, and metadata are kept.

    Args:
        called: name of a source that is no path.

    Raises:
        OSError, ValueError: the picture cannot be read or written.
    """
    name = format_of(target)
    with Image.open(source, formats=_formats(called or str(source))) as image:
        kept, flatten = metadata.load(image), settings.flatten
        aside = metadata.has_default_image(image)
        place, frames = 1 if aside else image.tell(), _frames(image) - aside
        _check_frames(frames, name)
        durations, kinds, holes = _walked(metadata.frames(image) if frames > 1 or aside else [image], name)
        if image.format == "PNG" and (frames > 1 or aside):
            kept = metadata.load(image) | kept  # some may stand behind the last frame
        if settings.strip:
            kept = metadata.stripped(image, kept)
        save = dict(settings.save) if name == "SGC" else _options_for(name, target, settings.save, kinds)
        if frames > 1:
            save |= {"save_all": True, "duration": durations, "loop": _loop_of(image, name)}
            if holes and not flatten:
                save["disposal"] = CLEARED
        metadata.seek(image, place)
        flatten_one = flatten and image.has_transparency_data
        bare = settings.strip and "SGC" not in (name, image.format)  # other writers take what TIFFs and frames tell again
        picture = _apart(image, flatten_one, bare) if flatten_one or aside or bare else image
        if (flatten or aside or bare) and "save_all" in save:
            picture, *save["append_images"] = (_apart(frame, flatten, bare) for frame in metadata.frames(image))
        if name in DROPPING_ALPHA and not _is_opaque(picture):
            raise ValueError(f"{name} has no alpha; --flatten puts transparent pictures on white")
        if name == "JXL":  # whose readers ignore the orientation of EXIF
            kept = metadata.turn(picture, kept)
        if name == "PDF" and _is_fax(kinds):  # whose pages go by way of TIFFs, and EXIF would replace tags there
            kept = {key: kept[key] for key in ("icc_profile", "dpi") if key in kept}
        save |= metadata.keywords(name, kept, picture.mode, printable(str(getattr(image, "filename", ""))))
        if name == "TIFF" and frames > 1 and save.get("icc_profile"):
            del save["icc_profile"]  # every page has its own
        buffer = io.BytesIO()  # Pillow's writers of JPEG and others do not notice a full disk
        try:
            _save(picture, buffer, name, save)
        except OSError as error:  # Pillow's "cannot write mode RGBA as JPEG"
            if picture.has_transparency_data and "cannot write mode" in str(error):
                raise ValueError(f"{error}; --flatten puts transparent pictures on white") from error
            raise
        output.write(buffer.getbuffer())


def _walked(frames: Iterable[Image.Image], name: str) -> tuple[list[float], Kinds, bool]:
    """Times, kinds, and whether one of them has holes that a GIF would have to show."""
    durations, kinds, holes = list[float](), Kinds(), False
    for frame in frames:
        frame.load()  # some formats know the time only then
        durations.append(frame.info.get("duration", 0))
        kinds.add((frame.mode, frame.info.get("compression", "")))
        holes |= name == "GIF" and frame.has_transparency_data
    return durations, kinds, holes


def _is_fax(kinds: Kinds) -> bool:
    return any(mode == "1" for mode, _ in kinds)


def _options_for(name: str, target: str, chosen: dict[str, Any], kinds: Kinds) -> dict[str, Any]:
    """Keywords of other formats' writers: the quality, but those of TIFF and of a PDF's pages in black and white raise an
    error where something is not coded as JPEG.
    """
    if name == "TIFF":
        takes_quality = all(compression in ("raw", "jpeg", "tiff_jpeg") for _, compression in kinds)
    else:
        takes_quality = name != "PDF" or not _is_fax(kinds)
    options: dict[str, Any] = {"quality": round(chosen["quality"])} if "quality" in chosen and takes_quality else {}
    if name == "JPEG2000" and target.lower().endswith(CODESTREAMS):
        options["no_jp2"] = True
    if name == "JXL":
        options["lossless_jpeg"] = False  # the picture, not the JPEG file that it comes from
    return options


def _loop_of(image: Image.Image, name: str) -> int | None:
    """What a format has to be told for an animation to be shown as often as it is now. A GIF counts the repetitions, in 16
    bits; None is for once.
    """
    rounds = metadata.loop(image)
    if image.format == "GIF" and image.info.get("loop"):
        rounds += 1
    if name == "GIF":
        return None if rounds == 1 else min(max(rounds - 1, 0), LARGEST_LOOP)
    return min(rounds, LARGEST_LOOP) if name == "WEBP" else rounds


def _is_opaque(image: Image.Image) -> bool:
    if not image.has_transparency_data or image.mode[0] in "IF":
        return not image.has_transparency_data
    alpha = (image.convert("LA") if image.mode == "La" else image).convert("RGBA").getchannel("A")
    return alpha.getextrema() == (255, 255)


def _apart(image: Image.Image, flatten: bool, bare: bool) -> Image.Image:
    """A copy of a frame, on white or not; ``bare``, without what it tells of itself. Pillow does not take it for one of an
    APNG that has a picture for viewers without frames.
    """
    picture = on_white(image) if flatten else image.copy()
    for key in ("default_image", *(metadata.TOLD if bare else ())):
        picture.info.pop(key, None)
    return picture


def _frames(image: Image.Image) -> int:
    """Number of frames to keep: by-products of the first one do not count."""
    frames: int = getattr(image, "n_frames", 1)
    if image.format in ONE_PICTURE:
        return 1
    if frames > 1 and image.format == "TIFF":
        place, reduced = image.tell(), 0
        for k in range(frames):
            image.seek(k)
            reduced += k != place and image.tag_v2.get(SUBFILE_TYPE, 0) & REDUCED  # type: ignore[attr-defined]
        image.seek(place)
        if reduced == frames - 1:  # a pyramid, or a thumbnail
            return 1
    return frames


def _save(picture: Image.Image, buffer: io.BytesIO, name: str, save: dict[str, Any]) -> None:
    """As a format; a picture whose mode it lacks in that which an SGC file has it in, CMYK as RGB; 16 bits in 8."""
    deep = picture.mode[0] in "IF"
    view = "L" if picture.mode.startswith("I;16") else None
    if picture.format == "SGC":
        view = view or {**VIEWS, "1": "L"}.get(picture.mode)
    try:
        if deep and (name in CLIPPING or (picture.mode == "I" and name in CLIPPING_32_BITS and _is_beyond_16_bits(picture))):
            raise OSError(f"cannot write mode {picture.mode} as {name}")
        if save.get("no_jp2") and picture.mode in ("CMYK", "YCbCr"):  # nothing would say that it is not RGB
            raise OSError(f"cannot write mode {picture.mode} as a codestream of {name}")
        picture.save(buffer, name, **save)
    except (OSError, ValueError, NotImplementedError, KeyError):  # formats say in many ways that they lack a mode
        if view is None or name == "SGC":  # which takes every mode, and says why it does not take this picture
            raise
        buffer.seek(0)
        buffer.truncate()  # some find out when they have begun
        first, *rest = _shown(picture, save, view)
        first.save(buffer, name, **(save | {"append_images": rest} if rest else save))


def _is_beyond_16_bits(picture: Image.Image) -> bool:
    low, high = picture.getextrema()
    return bool(low < 0 or high > 65535)  # type: ignore[operator]


def _shown(picture: Image.Image, save: dict[str, Any], view: str) -> list[Image.Image]:
    """The picture, or all its frames, in 8 bits or another mode."""
    frames: Iterable[Image.Image] = [picture, *save.get("append_images", ())]
    if "save_all" in save and "append_images" not in save:
        frames = metadata.frames(picture)
    return [in_eight_bits(f, 0, 65535) if f.mode[0] in "IF" else f.convert(view) for f in frames]


def in_eight_bits(image: Image.Image, low: float | None = None, high: float | None = None) -> Image.Image:
    """What has more than 8 bits, and ``convert`` would cut at 255, in 8: the numbers from ``low`` to ``high``, by default
    those that an SGC file would be coded for (``depth``). Others as they are.
    """
    if image.mode[0] not in "IF":
        return image
    import numpy as np

    from .depth import KINDS, Levels, numbers_of

    picture = np.asarray(image)
    if low is None or high is None:
        numbers = numbers_of(picture if picture.dtype in KINDS else picture.astype(np.uint16))  # big-endian
    else:
        numbers = Numbers(FLOAT, low, high)
    return Image.fromarray(np.rint(np.clip(Levels(picture, numbers)[...], 0, 255)).astype(np.uint8))


def on_white(image: Image.Image) -> Image.Image:
    """On white; grey stays grey, and what has more than 8 bits, and no transparency, as it is.

    Raises:
        ValueError: it has more than 8 bits and a transparent colour.
    """
    if image.mode[0] in "IF":
        if image.mode.startswith("I;16") and image.has_transparency_data:
            raise ValueError(f"a picture of mode {image.mode} cannot be put on white")
        return image.copy()
    mode = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    if image.mode in ("La", "RGBa"):
        image = image.convert(image.mode.upper())  # the only mode that Pillow makes of La
    picture = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA")).convert(mode)
    picture.info = {key: value for key, value in image.info.items() if key not in ("transparency", "default_image")}
    return picture


def as_rgb(image: Image.Image) -> Image.Image:
    """In 8 bits, on white where it is transparent (but for one colour of more than 8 bits), and without metadata, which some
    formats would write and others not.
    """
    transparent = image.has_transparency_data and image.mode[0] not in "IF"
    picture = (on_white(image) if transparent else in_eight_bits(image)).convert("RGB")
    picture.info = {}
    return picture


def format_of(target: str) -> str:
    """Name of the format that a target's extension stands for; ValueError where there is none that can be written."""
    other_formats.register_all()
    suffix = os.path.splitext(target)[1].lower()
    name = Image.registered_extensions().get(suffix)
    if name is None or name not in Image.SAVE:
        raise ValueError(f"{target}: no format that can be written has the extension {suffix!r}")
    return name


def convert(job: Job, settings: Settings) -> Outcome:
    """One job; whatever goes wrong is told in the outcome."""
    try:
        format_of(job.target)  # before anything is read: an unknown extension must not cost a download
        source, before = _opened(job.source, settings.run)
        if not is_url(job.target) and isinstance(source, Path) and _same_file(source, Path(job.target)):
            raise ValueError("source and target are the same file")
        quality: dict[str, float] = {}

        def write(file: IO[bytes]) -> None:
            result = io.BytesIO()
            recode(_readable(source), job.target, settings, result, job.source)
            if settings.measure:
                quality.update(_measured(_readable(source), result))
            file.write(result.getbuffer())

        after = _written(job.target, write, settings.overwrite)
        return Outcome(job, before, after, quality)
    except Exception as error:  # Pillow's readers raise whatever a broken file makes them; the others go on
        return Outcome(job, error=reason(error))


def _same_file(a: Path, b: Path) -> bool:
    return b.exists() and b.samefile(a)


def _opened(name: str, run: bytes) -> tuple[Path | bytes, int]:
    """(where it lies or what it holds, its bytes)."""
    if not is_url(name):
        path = Path(name)
        return path, path.stat().st_size
    with _opened_there(name, run) as file:
        data = io.BytesIO()
        while block := file.read(2**20):  # of which a server may give less
            data.write(block)
            if data.tell() > MOST_BYTES:  # a few kilobytes of an archive may unfold to that
                raise ValueError(f"it has more than {MOST_BYTES} bytes, the most that is read from archives and URLs")
    return data.getvalue(), data.tell()


def _readable(source: Path | bytes) -> Path | IO[bytes]:
    """For Pillow, some readers of which close what they are given."""
    return source if isinstance(source, Path) else io.BytesIO(source)


@contextlib.contextmanager
def _opened_there(url: str, run: bytes) -> Iterator[Any]:
    member, chained, archive = url.partition("::")
    kind, _, place = member.partition("://")
    if kind in ARCHIVES.values() and chained:
        filesystem = _archive(f"{kind}://::{archive}", run, threading.get_ident())  # which has to outlive the file
        with filesystem.open(place, "rb") as file:
            yield file
    else:
        with _fsspec().open(url, "rb") as file:
            yield file


@functools.lru_cache(maxsize=1)
def _archive(url: str, run: bytes, thread: int) -> Any:
    """Its file system. Made anew for every member it would read the list of all, and of a compressed one all there is."""
    return _fsspec().core.url_to_fs(url)[0]


def _written(name: str, write: Callable[[IO[bytes]], None], replace: bool) -> int:
    name = without_scheme(name)
    if not is_url(name):
        path = Path(name)
        if not replace and path.exists():  # before any work
            raise FileExistsError(errno.EEXIST, EXISTS, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        return write_atomically(path, write, replace=replace)
    filesystem, path_there = _fsspec().core.url_to_fs(name)
    if not replace and filesystem.exists(path_there):
        raise FileExistsError(errno.EEXIST, EXISTS, name)
    buffer = io.BytesIO()
    write(buffer)
    filesystem.makedirs(filesystem._parent(path_there), exist_ok=True)
    protocol = filesystem.protocol
    if not RENAMED.isdisjoint([protocol] if isinstance(protocol, str) else protocol):
        _renamed_there(filesystem, path_there, buffer, replace)
    else:
        with filesystem.transaction, filesystem.open(path_there, "wb") as file:  # in its place when it is whole
            file.write(buffer.getbuffer())
    return buffer.tell()


def _renamed_there(filesystem: Any, path: str, buffer: io.BytesIO, replace: bool) -> None:
    """Write beside ``path``, then rename."""
    temporary = f"{filesystem._parent(path).rstrip('/')}/{PREFIX}{os.urandom(8).hex()}{SUFFIX}"

    def move() -> None:
        filesystem.mv(temporary, path)
        if filesystem.exists(temporary):  # WebHDFS says in its answer alone that it did not
            raise OSError(f"{temporary} cannot be renamed to {path}")

    lost = False  # what was there before: then the new one is kept, whatever it is called
    try:
        with filesystem.open(temporary, "wb") as file:
            file.write(buffer.getbuffer())
        try:
            move()
        except Exception:  # there are servers that replace nothing
            if not (replace and filesystem.exists(path) and filesystem.exists(temporary)):
                raise
            lost = True
            filesystem.rm_file(path)
            move()
    except BaseException:
        if not lost:
            with contextlib.suppress(Exception):
                filesystem.rm_file(temporary)
        raise


def _measured(source: Path | IO[bytes], result: IO[bytes]) -> dict[str, float]:
    import numpy as np

    from .metrics import psnr, ssimulacra2

    images, turned = list[Image.Image](), list[bool]()
    result.seek(0)
    for file in (source, result):
        with Image.open(file) as image:
            turned.append(metadata.comes_turned(image))
            if metadata.has_default_image(image):
                image.seek(1)
            # On white: of what is transparent nobody sees the colour.
            images.append(on_white(image) if image.has_transparency_data else image.copy())
    if turned == [False, True]:
        with contextlib.suppress(*metadata.BROKEN):
            ImageOps.exif_transpose(images[0], in_place=True)
    low, high = 0.0, 65535.0  # as ``_save`` makes 8 bits of 16
    if images[1].mode[0] in "IF":  # in 8 bits of the source's range
        numbers = np.asarray(images[0]).astype(np.float64)
        low, high = numbers.min(), max(numbers.max(), numbers.min() + 1e-9)
    pictures = [np.asarray(in_eight_bits(image, low, high).convert("RGB")) for image in images]
    return {"psnr": psnr(*pictures), "ssimulacra2": ssimulacra2(*pictures)}


def _fsspec() -> Any:
    try:
        import fsspec
        import fsspec.implementations.local
        import fsspec.utils
    except ImportError as error:
        raise ValueError('archives and URLs need: pip install "pillow-semicodec[bulk]"') from error
    fsspec.utils.compressions.setdefault("tgz", "gzip")  # whose extension it does not know
    return fsspec


# ---- which pictures --------------------------------------------------------------------------------------------


def find_sources(names: list[str], extensions: frozenset[str], failures: list[Outcome]) -> Iterator[tuple[str, str]]:
    """(source, its place in the results' folder) of every picture that ``names`` stand for: files, folders, globs, archives
    and URLs. What cannot be listed is added to ``failures``.
    """
    for given in names:
        try:
            name = without_scheme(given)
            if is_url(name):
                yield from _remote(name, extensions, partial(_failed, failures))
            elif (kind := _archive_kind(name)) and os.path.isfile(name):
                yield from _remote(f"{kind}://::{name}", extensions, partial(_failed, failures))
            elif os.path.lexists(name):
                for path, relative in walk([Path(name)], extensions, partial(_failed, failures)):
                    yield str(path), str(relative)
            else:
                yield from _globbed(name, extensions, partial(_failed, failures))
        except Exception as error:  # readers of archives and clients of clouds raise exceptions of their own
            _failed(failures, error, given)


def _globbed(pattern: str, extensions: frozenset[str], failed: Callable[[OSError], None]) -> Iterator[tuple[str, str]]:
    """Places are relative to the folder before the first wildcard; links to folders are not followed by ``**``."""
    parts = Path(pattern).parts
    anchor = 1 if Path(pattern).anchor else 0  # on Windows it may hold a ?
    fixed = next((k for k, part in enumerate(parts) if k >= anchor and glob.has_magic(part)), len(parts))
    base, rest = Path(*parts[:fixed]), parts[fixed:]
    found = sorted(base.glob(str(Path(*rest)))) if rest else []
    if not found:
        raise FileNotFoundError("no such file, folder or glob")
    modes = {path: _mode(path, failed) for path in found}
    files = {path: None for path in found if is_picture(path.name, extensions) and stat.S_ISREG(modes[path])}
    deepest = fixed + (rest.index("**") if "**" in rest else len(rest))  # where links to folders are followed
    folders = {path for path in found if stat.S_ISDIR(modes[path]) and not (len(path.parts) > deepest and path.is_symlink())}
    outermost = sorted(folder for folder in folders if folders.isdisjoint(folder.parents))
    files |= {path: None for path, _ in walk(outermost, extensions, failed)}
    for path in files:
        yield str(path), str(path.relative_to(base))


def _mode(path: Path, failed: Callable[[OSError], None]) -> int:
    """Of what it leads to; 0 where that is nothing, or where one may not look, which is told."""
    try:
        return os.stat(path).st_mode
    except OSError as error:
        if not is_lost(path, error):
            failed(error)
        return 0


def _failed(failures: list[Outcome], error: BaseException, name: str = "") -> None:
    failures.append(Outcome(Job(name or str(getattr(error, "filename", "")), ""), error=reason(error)))


def _archive_kind(name: str) -> str:
    return next((kind for suffix, kind in ARCHIVES.items() if name.lower().endswith(suffix)), "")


def _remote(url: str, extensions: frozenset[str], failed: Callable[[BaseException, str], None]) -> Iterator[tuple[str, str]]:
    """Of a URL as fsspec takes it: a file, a folder or a glob, chained (``zip://*.png::s3://…``) or not.

    A file that is named itself is taken whatever its name ends in; of an HTTP address "?" begins the query.
    """
    filesystem, path = _fsspec().core.url_to_fs(url)
    _, chained, rest = url.partition("::")
    page, query, _ = path.partition("?") if path.startswith(("http://", "https://")) else (path, "", "")
    if query and "*" not in path:
        yield url, os.path.basename(page)
        return
    index = getattr(filesystem, "index", None) or {}  # of a tar
    if "*" in path or "?" in path:
        found, base = filesystem.glob(path), os.path.dirname(path.partition("*")[0].partition("?")[0])
    elif filesystem.isdir(path) or not path:
        listed = [name for name, (info, *_) in index.items() if info["type"] == "file" and _lies_in(name, path)]
        found, base = listed if index else filesystem.find(path), path  # folder by folder it takes the square of the time
    else:
        yield _url_of(filesystem, url, path) + chained + rest, os.path.basename(path)
        return
    if not found:
        raise FileNotFoundError("nothing found")
    # By their places in a tar, for that is read forwards alone where it is compressed.
    for member in sorted(found, key=lambda name: (index[name][1] if name in index else 0, name)):
        if not is_picture(member, extensions):
            continue
        whole = _url_of(filesystem, url, member) + chained + rest
        if "::" in member:  # it would lead elsewhere
            failed(ValueError("a name with :: in it is not read"), whole)
        elif member in index and index[member][0].get("linkname") and not rest.lower().endswith(".tar"):
            failed(ValueError("a link in a compressed archive, which would be unpacked anew for it, is not read"), whole)
        else:
            yield whole, posixpath.relpath(member, base or ".").lstrip("/")


def _lies_in(name: str, folder: str) -> bool:
    return not folder or name.startswith(folder.rstrip("/") + "/")


def _url_of(filesystem: Any, url: str, path: str) -> str:
    """Of a path in the file system of ``url``, on the same server, which fsspec leaves out of paths."""
    scheme, _, rest = url.partition("://")
    there = f"{scheme}://{rest.partition('/')[0]}/{path.lstrip('/')}"
    if filesystem._get_kwargs_from_urls(url) and filesystem._strip_protocol(there) == path:
        return there
    return str(filesystem.unstrip_protocol(path))


def plan(
    sources: list[str],
    output: str | None,
    suffix: str,
    extensions: frozenset[str],
    overwrite: bool,
    failures: list[Outcome],
    keep_extension: bool = False,
) -> tuple[list[Job], list[Job]]:
    """(jobs, those whose results exist already). What cannot be listed or would be written twice is added to ``failures``.

    Args:
        keep_extension: a result of ``a.jpg`` is called ``a.jpg.sgc``, not ``a.sgc``.
    """
    if output == "":
        raise ValueError("the name of the folder for the results is empty")
    if output is not None and not is_url(output) and _archive_kind(output) and not os.path.isdir(output):
        raise ValueError(f"{output}: results go into folders and URLs, not into archives")
    jobs, skipped, taken = list[Job](), list[Job](), dict[str, str]()
    exists, found = _exists(output), list(find_sources(sources, extensions, failures))
    originals = {_identity(source) for source, _ in found}
    for source, place in found:
        if output is None and is_url(source):
            failures.append(
                Outcome(Job(source, ""), error="there is no place beside it: give a folder for the results (-o)")
            )
            continue
        if os.path.isabs(place) or ".." in Path(place).parts:
            failures.append(Outcome(Job(source, ""), error=f"its place {place} lies outside the folder of the results"))
            continue
        beside = source if output is None else f"{output.rstrip('/')}/{place.replace(os.sep, '/')}"
        target = (beside if keep_extension else os.path.splitext(beside)[0]) + suffix
        job = Job(*(name if is_url(name) else os.path.abspath(name) for name in (source, target)))
        try:
            result = _identity(job.target)
        except ValueError as error:  # a name that no file can have
            failures.append(Outcome(Job(source, ""), error=reason(error)))
            continue
        if taken.get(result) == job.source:
            continue  # named twice
        if result in originals:
            failures.append(Outcome(job, error=f"its result {job.target} would replace a source"))
            continue
        if result in taken:
            taker = taken[result]
            meet = os.path.splitext(source)[1] != os.path.splitext(taker)[1] and not keep_extension
            hint = " (see --keep-extension)" if meet else ""
            failures.append(Outcome(job, error=f"its result {job.target} is that of {taker} too{hint}"))
            continue
        taken[result] = job.source
        (skipped if not overwrite and exists(job.target) else jobs).append(job)
    return jobs, skipped


def _identity(name: str) -> str:
    """The same for a file by whatever links, or ways to write its name that make no difference there, it is reached."""
    if is_url(name):
        return name
    path = os.path.realpath(name)
    if sys.platform == "darwin":  # an é is found as an e with an accent, too
        path = unicodedata.normalize("NFC", path)
    return path.lower() if ignores_case(path) else path


def _exists(output: str | None) -> Callable[[str], bool]:
    if output is None or not is_url(output):
        return os.path.exists
    filesystem, path = _fsspec().core.url_to_fs(output)
    there = set(filesystem.find(path)) if filesystem.exists(path) else set()
    return lambda target: filesystem._strip_protocol(target) in there


def sweep_targets(jobs: list[Job]) -> None:
    """Remove what a run that was killed left half written beside the results."""
    sweep({Path(job.target).parent for job in jobs if not is_url(job.target)})


def summary(outcomes: list[Outcome], skipped: int) -> str:
    done = [outcome for outcome in outcomes if not outcome.error]
    before, after = sum(o.before for o in done), sum(o.after for o in done)
    share = f", {before} → {after} bytes ({100 * after / before:.1f} %)" if before else ""
    told = f"{len(done)} converted{share}, {skipped} skipped (exist already), {len(outcomes) - len(done)} failed"
    measured = [o.quality for o in done if o.quality]
    if measured:
        ratios = [q["psnr"] for q in measured if math.isfinite(q["psnr"])]
        exact = f" ({len(measured) - len(ratios)} exact ones apart)" if len(ratios) < len(measured) else ""
        told += f"; mean PSNR {sum(ratios) / len(ratios):.2f} dB{exact}" if ratios else "; all exact"
        scores = [q["ssimulacra2"] for q in measured if math.isfinite(q["ssimulacra2"])]
        told += f", mean SSIMULACRA2 {sum(scores) / len(scores):.1f}" if scores else ""
    return told


def report(outcomes: list[Outcome], planned: list[Job], before: str = "") -> str:
    """JSON with a row for every file: of what was ``planned`` and has no outcome, for an earlier run has converted it, the
    one that the report of that run has, if there is one.
    """
    rows, done = [row(outcome) for outcome in outcomes], {outcome.job for outcome in outcomes}
    earlier: list[dict[str, Any]] = []
    with contextlib.suppress(ValueError, TypeError, LookupError, RecursionError):  # another kind of JSON, or none
        known = {(old["source"], old["target"]): old for old in json.loads(before)["files"] if not old["error"]}
        keys = [(fields["source"], fields["target"]) for fields in (row(Outcome(job)) for job in planned if job not in done)]
        found = [known[key] for key in keys if key in known]
        json.dumps(found, allow_nan=False)
        earlier = found
    return json.dumps({"files": earlier + rows}, indent=1, allow_nan=False) + "\n"


def row(outcome: Outcome) -> dict[str, Any]:
    """For the report; names that are no text are written with escapes, numbers that are none as null."""
    fields = dataclasses.asdict(outcome)
    names = {k: v.encode("utf-8", "backslashreplace").decode() for k, v in fields.pop("job").items()}
    fields["quality"] = {k: v if math.isfinite(v) else None for k, v in fields["quality"].items()}
    return {**names, **fields}


# ---- engines ---------------------------------------------------------------------------------------------------


def end_with_parent() -> None:
    """Let this worker end as soon as the process that started it is gone, however that ended."""
    parent = parent_process()

    def end() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()


def _end_at(stop: Any) -> None:
    stop.acquire()
    stop.release()  # for all others: one that ends alone may take a lock with it that they wait for
    os._exit(1)


def _start_worker(threads: int, providers: tuple[str, ...], stop: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops the pool
    end_with_parent()
    threading.Thread(target=_end_at, args=(stop,), daemon=True).start()
    options.THREADS, options.PROVIDERS = threads, providers


@contextlib.contextmanager
def _interrupts_later() -> Iterator[None]:
    """Processes started in here are spared Ctrl-C before ``_start_worker`` can ignore it; this one hears it afterwards."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def has_processes() -> bool:
    """Whether they can be given work here: some containers know no semaphores."""
    try:
        get_context("spawn").Semaphore(0)
    except (OSError, ImportError):
        return False
    return True


def run_pool(
    jobs: list[Job], settings: Settings, workers: int, threads: int, work: Callable[[Job, Settings], Outcome] = convert
) -> Outcomes:
    """Outcomes as they come, from ``workers`` processes of ``threads`` threads. A worker that dies costs nothing but time:
    the jobs that it may have had are tried again one by one, and the one that kills its worker again is given up.
    """
    waiting, suspects, deaths = deque(jobs), deque[Job](), Counter[Job]()
    context = get_context("spawn")
    stop = context.Semaphore(0)
    while waiting or suspects:
        running: dict[Future[Outcome], Job] = {}
        alone = False
        pool = ProcessPoolExecutor(workers, context, _start_worker, (threads, options.PROVIDERS, stop))
        try:
            while waiting or suspects or running:
                if not running:
                    alone = bool(suspects)
                queue, most = (suspects, 1) if alone else (waiting, 2 * workers)
                # A worker may have died behind the last step of its job.
                asked = dataclasses.replace(settings, overwrite=settings.overwrite or alone)
                while queue and len(running) < most:
                    with _interrupts_later():
                        running[pool.submit(work, queue[0], asked)] = queue[0]
                    queue.popleft()
                # Windows hears Ctrl-C in between.
                for future in wait(running, timeout=1, return_when=FIRST_COMPLETED).done:
                    error = future.exception()
                    if isinstance(error, BrokenProcessPool):
                        raise error
                    job = running.pop(future)
                    yield future.result() if error is None else Outcome(job, error=reason(error))
        except BrokenProcessPool:
            pool.shutdown(wait=True, cancel_futures=True)  # the others are being ended
            sweep_targets(jobs)
            for job in running.values():
                deaths[job] += alone
                if deaths[job] < ATTEMPTS:
                    suspects.append(job)
                else:
                    yield Outcome(job, error="the process that converted it died, twice: out of memory?")
        except BaseException:  # Ctrl-C: what is not done by now is left, for nobody hears of it any more
            stop.release()
            pool.shutdown(wait=True, cancel_futures=True)
            sweep_targets(jobs)
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def run_dask(jobs: list[Job], settings: Settings, scheduler: str, workers: int, threads: int) -> Outcomes:
    """Outcomes as they come from a Dask cluster, at an address or started here; jobs of workers that die go to others."""
    try:
        from dask.distributed import Client, LocalCluster, as_completed
    except ImportError as error:
        raise ValueError('a Dask cluster needs: pip install "pillow-semicodec[dask]"') from error
    with contextlib.ExitStack() as stack:
        where: Any = scheduler
        if not scheduler:
            where = stack.enter_context(LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None))
        client = stack.enter_context(Client(where))
        repeated = dataclasses.replace(settings, overwrite=True)  # a worker may die behind the last step of its job
        work = partial(_convert_there, settings=repeated, threads=threads, providers=options.PROVIDERS)
        futures = client.map(work, jobs, pure=False, retries=ATTEMPTS)
        by_key = {future.key: job for future, job in zip(futures, jobs, strict=True)}
        try:
            for future in as_completed(futures):
                if future.key not in by_key:
                    continue  # its worker died with the outcome, and another repeated the job
                job = by_key.pop(future.key)
                died = future.exception()
                yield future.result() if died is None else Outcome(job, error=reason(died))
        finally:
            sweep_targets(jobs)  # workers may have died


def _convert_there(job: Job, settings: Settings, threads: int, providers: tuple[str, ...]) -> Outcome:
    options.THREADS, options.PROVIDERS = threads, providers
    return convert(job, settings)
