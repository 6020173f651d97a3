"""What other libraries do with Pillow's formats works with this one; none of them is needed here."""

from __future__ import annotations

import io
import multiprocessing
import site
import urllib.request
import zipfile
from pathlib import Path

import pytest
from conftest import photo, served
from PIL import ExifTags, Image, ImageFile, ImageOps
from test_autoload import run

from pillow_semicodec import autoload


def file_of(image: Image.Image, **options: object) -> bytes:
    target = io.BytesIO()
    image.save(target, "SGC", **options)
    return target.getvalue()


def pixels_of(data: bytes) -> bytes:
    return Image.open(io.BytesIO(data)).tobytes()


@pytest.mark.parametrize("piece", [64, 1024])
@pytest.mark.parametrize("mode", ["RGB", "LA", "1"])
def test_parsers(mode: str, piece: int) -> None:
    """The size is known from the first kilobyte, the pixels at the end; half of a file is an error then."""
    data = file_of(Image.fromarray(photo(200, 240)).convert(mode))
    assert len(data) > 1200
    parser = ImageFile.Parser()
    for k in range(0, len(data), piece):
        parser.feed(data[k : k + piece])
        if k + piece >= 1024:
            assert parser.image is not None
            assert parser.image.size == (240, 200)
    assert parser.close().tobytes() == pixels_of(data)
    parser = ImageFile.Parser()
    parser.feed(data[: len(data) // 2])
    with pytest.raises(OSError, match="SGC"):
        parser.close()


def test_parsers_of_files_that_begin_with_much_else() -> None:
    """As Django reads them, in pieces that double: the size is known before the pixels have come."""
    image = Image.fromarray(photo(200, 240))
    data = file_of(image, quality=95, icc_profile=bytes(1500), xmp=b"x" * 3000, preview=True, semantics=True)
    frames = file_of(image, save_all=True, append_images=[image.rotate(180)])
    for whole in (data, frames):
        file, parser, piece = io.BytesIO(whole), ImageFile.Parser(), 1024
        while not parser.image:
            part = file.read(piece)
            assert part
            parser.feed(part)
            piece *= 2
        assert parser.image.size == image.size
        assert file.tell() < len(whole)
        parser.feed(file.read())
        assert parser.close().tobytes() == pixels_of(whole)


class OnlyRead:
    """The least that is a file."""

    def __init__(self, data: bytes) -> None:
        self.read = io.BytesIO(data).read


def test_files_without_seek(sgc_bytes: bytes) -> None:
    """They open, give parts, and load."""
    with Image.open(OnlyRead(sgc_bytes)) as opened:  # type: ignore[arg-type]
        assert opened.crop((10, 10, 30, 30)).size == (20, 20)
        assert opened.tobytes() == pixels_of(sgc_bytes)


def test_http(tmp_path: Path, sgc_bytes: bytes) -> None:
    """A response, straight."""
    (tmp_path / "x.sgc").write_bytes(sgc_bytes)
    with served(tmp_path) as url, urllib.request.urlopen(f"{url}/x.sgc") as response:
        assert not response.seekable()
        with Image.open(response) as opened:
            assert opened.tobytes() == pixels_of(sgc_bytes)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_of_archives(sgc_bytes: bytes, method: int) -> None:
    """They are read lazily, behind other members; saving into one works, too."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", method) as archive:
        archive.writestr("first", "something else")
        with archive.open("x.sgc", "w") as member:
            Image.fromarray(photo()).save(member, "SGC", quality=60)
    with zipfile.ZipFile(target) as archive, archive.open("x.sgc") as member, Image.open(member) as opened:
        opened.verify()
        member.seek(0)
        again = Image.open(member)
        assert again.tobytes() == pixels_of(sgc_bytes)


def test_fsspec(sgc_bytes: bytes) -> None:
    """In memory, and in an archive there."""
    fsspec = pytest.importorskip("fsspec")
    with fsspec.open("memory://neighbours/x.sgc", "wb") as file:
        Image.fromarray(photo()).save(file, "SGC", quality=60)
    with fsspec.open("memory://neighbours/x.zip", "wb") as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr("y.sgc", sgc_bytes)
    for url in ("memory://neighbours/x.sgc", "zip://y.sgc::memory://neighbours/x.zip"):
        with fsspec.open(url) as file, Image.open(file) as opened:
            assert opened.tobytes() == pixels_of(sgc_bytes)


def test_the_report_of_pillow(tmp_path: Path) -> None:
    """``python -m PIL`` imports nothing but Pillow: it lists the format for those who have ``sgc autoload on``."""
    report = "import runpy; runpy.run_module('PIL', run_name='__main__')"
    if not any((Path(folder) / autoload.NAME).exists() for folder in site.getsitepackages()):
        assert "SGC" not in run(tmp_path, report)
    autoload.switch_on(tmp_path)
    assert "SGC image/x-sgc\nExtensions: .sgc\nFeatures: open, save, save_all\n" in run(tmp_path, report)


def _saved_by_a_worker(image: Image.Image) -> tuple[bytes, bytes]:
    return image.tobytes(), file_of(image, quality=60)


def test_spawned_workers(image: Image.Image, sgc_bytes: bytes) -> None:
    """A picture that is opened here travels to a worker that starts from nothing, and is saved there."""
    opened = Image.open(io.BytesIO(sgc_bytes))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pixels, saved = pool.apply(_saved_by_a_worker, (opened,))
    assert pixels == pixels_of(sgc_bytes)
    assert saved == file_of(opened, quality=60)


def test_orientation(image: Image.Image) -> None:
    """Known after loading, for those who turn pictures then."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    opened = Image.open(io.BytesIO(file_of(image, exif=exif)))
    opened.load()
    assert opened.getexif()[ExifTags.Base.Orientation] == 6
    turned = ImageOps.exif_transpose(opened)
    assert turned.size == (image.height, image.width)
    assert ExifTags.Base.Orientation not in turned.getexif()
