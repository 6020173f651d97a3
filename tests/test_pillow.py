"""Manners of the Pillow plugin."""

from __future__ import annotations

import io
import os
import pickle
import re
import shutil
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, Sink, photo
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFile, UnidentifiedImageError, features

import pillow_semicodec
from pillow_semicodec import bundle, codec, container, pixels
from pillow_semicodec.container import with_chunks
from pillow_semicodec.limits import Limits
from pillow_semicodec.SemicodecImagePlugin import SgcImageFile


def saved(image: Image.Image, **options: object) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, "SGC", **options)
    file.seek(0)
    return file


def test_save_and_open_by_extension(tmp_path: Path, image: Image.Image) -> None:
    """The extension chooses the format; opening finds it by its signature."""
    image.save(tmp_path / "x.sgc")
    with Image.open(tmp_path / "x.sgc") as opened:
        assert (opened.format, opened.size, opened.mode) == ("SGC", image.size, "RGB")
        assert opened.get_format_mimetype() == "image/x-sgc"
        difference = np.abs(np.asarray(opened).astype(float) - np.asarray(image)).mean()
    assert difference < 20
    os.rename(tmp_path / "x.sgc", tmp_path / "no-extension")
    with Image.open(tmp_path / "no-extension", formats=["SGC"]) as opened:
        assert opened.format == "SGC"


def test_opening_decodes_nothing(image: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    """Size, mode and metadata need no network, and no slice is read."""
    file = saved(image, exif=b"Exif\0\0x")
    monkeypatch.setattr("pillow_semicodec.codec.decode_picture", lambda *a, **k: pytest.fail("decoded"))
    head = io.BytesIO(file.getvalue()[:80])
    with Image.open(head) as opened:
        assert opened.size == image.size
        assert opened.info["exif"] == b"Exif\0\0x"


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"])
def test_modes_are_kept(image: Image.Image, mode: str) -> None:
    """L and RGB are coded as they are, others as Pillow converts them to RGB and back."""
    source = Image.merge("LAB", image.split()) if mode == "LAB" else image.convert(mode)
    coded_as = "L" if mode == "L" else "RGB"
    decoded = Image.open(saved(source, quality=90))
    expected = Image.open(saved(source.convert(coded_as), quality=90)).convert(mode)
    assert decoded.mode == mode
    assert decoded.tobytes() == expected.tobytes()
    assert pickle.loads(pickle.dumps(decoded)).mode == mode


@pytest.mark.parametrize("size", [(1, 1), (7, 3), (160, 96), (1100, 40)])
def test_black_and_white_is_exact(size: tuple[int, int]) -> None:
    """Without a model, in fewer bytes than PNG takes for a drawing, whole and in boxes."""
    drawing = Image.new("1", size, 1)
    ImageDraw.Draw(drawing).line((0, 0, size[0] // 2, size[1]), 0, 3)
    file = saved(drawing)
    with Image.open(file) as opened:
        assert (opened.mode, opened.size, opened.info) == ("1", size, {})
        opened.verify()
    with Image.open(file) as opened:
        assert opened.crop((0, 0, 1, 1)).getpixel((0, 0)) == drawing.getpixel((0, 0))
        assert opened.tobytes() == drawing.tobytes()
    png = io.BytesIO()
    drawing.save(png, "PNG", optimize=True)
    assert len(file.getvalue()) <= png.tell() + 20


def test_palettes_become_colours(image: Image.Image) -> None:
    """A palette is coded by its colours."""
    decoded = Image.open(saved(image.convert("P"), quality=90))
    assert decoded.tobytes() == Image.open(saved(image.convert("P").convert("RGB"), quality=90)).tobytes()


@pytest.mark.parametrize(("mode", "result"), {"RGBA": "RGBA", "LA": "LA", "PA": "RGBA", "La": "La", "RGBa": "RGBa"}.items())
def test_modes_with_alpha(image: Image.Image, mode: str, result: str) -> None:
    """Alpha is kept exactly, colours where they are seen."""
    alpha = Image.new("L", image.size, 255)
    alpha.paste(0, (20, 20, 60, 60))
    alpha.paste(100, (80, 20, 90, 60))
    source = image.convert("L" if mode in ("LA", "La") else "RGB")
    source.putalpha(alpha)
    if mode == "PA":
        source = source.convert("RGB").convert("P").convert("PA")
        source.putalpha(alpha)
    expected = source.convert(result)
    decoded = Image.open(saved(source.convert(mode), quality=95))
    assert decoded.mode == result
    assert decoded.getchannel(decoded.getbands()[-1]).tobytes() == alpha.tobytes()
    seen = np.asarray(alpha) == 255
    difference = np.asarray(decoded).astype(int) - np.asarray(expected)
    assert np.abs(difference[seen]).mean() < 20  # a palette's dither, by a tiny model


@pytest.mark.parametrize("mode", ["1", "P", "L", "RGB"])
def test_one_transparent_colour(image: Image.Image, mode: str) -> None:
    """A colour that info calls transparent becomes alpha."""
    picture = image.convert(mode)
    picture.info["transparency"] = picture.getpixel((5, 5))
    decoded = Image.open(saved(picture))
    expected = picture.convert("LA" if mode in ("1", "L") else "RGBA")
    assert decoded.mode == expected.mode
    assert decoded.getchannel("A").tobytes() == expected.getchannel("A").tobytes()
    assert 0 in decoded.getchannel("A").tobytes()


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
def test_empty_pictures(size: tuple[int, int]) -> None:
    """There is no empty SGC file."""
    with pytest.raises(ValueError, match="empty"):
        saved(Image.new("RGB", size))


@pytest.mark.parametrize(("quality", "error"), [(0, ValueError), (101, ValueError), ("high", TypeError), (None, TypeError)])
def test_quality_is_checked(image: Image.Image, tmp_path: Path, quality: object, error: type[Exception]) -> None:
    """A wrong quality is told the range, and leaves no file behind."""
    with pytest.raises(error, match="1 to 100"):
        image.save(tmp_path / "x.sgc", quality=quality)
    assert not list(tmp_path.iterdir())


def test_unknown_model(image: Image.Image) -> None:
    """A model that is not installed is a wrong option."""
    with pytest.raises(ValueError, match="nonesuch is not installed"):
        saved(image, model="nonesuch")


def test_better_quality_takes_more_bytes(image: Image.Image) -> None:
    """Bytes rise with quality; unknown keywords are ignored, as Pillow documents."""
    sizes = [len(saved(image, quality=quality, unknown=1).getvalue()) for quality in (5, 30, 60, 90)]
    assert sizes == sorted(set(sizes))


def test_metadata(image: Image.Image) -> None:
    """ICC goes with the picture, EXIF when passed, as bytes or as an Exif object that stays as it was."""
    image.info["icc_profile"] = b"profile"
    assert Image.open(saved(image)).info["icc_profile"] == b"profile"
    assert "icc_profile" not in Image.open(saved(image, icc_profile=None)).info
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    before = exif.tobytes()
    for form in (exif, before):
        opened = Image.open(saved(image, exif=form))
        assert dict(opened.getexif()) == {0x0112: 6, 0x010E: "a description"}
    assert exif.tobytes() == before
    assert "exif" not in Image.open(saved(image)).info
    options = {"xmp": b"<x:xmpmeta/>", "comment": "zwölf", "dpi": (300, 72.5)}
    with Image.open(saved(image, **options)) as opened:
        info = {key: opened.info[key] for key in options}
        assert info == {**options, "comment": "zwölf".encode(), "dpi": (300.0, 72.5)}
        for key in options:
            assert key not in Image.open(saved(opened)).info
    for wrong in ({"exif": 5}, {"comment": 3}, {"xmp": [60, 61]}, {"icc_profile": "text"}):
        with pytest.raises(TypeError, match=f"{next(iter(wrong))} must be bytes"):
            saved(image, **wrong)
    for wrong in ((0, 1), (1, 2, 3), "fine", "72", 300, (1e9, 1)):
        with pytest.raises(ValueError, match="dpi"):
            saved(image, dpi=wrong)


def test_numbers_of_numpy_are_numbers() -> None:
    """As options, too."""
    image = Image.fromarray(photo(20, 30))
    options = {"quality": np.float32(60), "threads": np.int64(1), "effort": np.int8(1), "dpi": np.array([72, 72])}
    with Image.open(saved(image, **options)) as opened:
        assert opened.info["dpi"] == (72, 72)
    numbers = {"loop": np.int64(3), "slice_side": np.int64(64), "durations": np.array([10, 20])}
    data = pillow_semicodec.encode_animation([photo(80, 70)] * 2, **numbers)
    assert pillow_semicodec.read_prologue(data).animation.loop == 3
    assert pillow_semicodec.decode(data, threads=np.int64(1)).shape == (80, 70, 3)


def test_truncated_files(image: Image.Image) -> None:
    """A cut in the header is no picture; a cut in the slice is an OSError at load."""
    data = saved(image).getvalue()
    for length in (0, 3, 20, 30):
        with pytest.raises(UnidentifiedImageError):
            Image.open(io.BytesIO(data[:length]))
    with Image.open(io.BytesIO(data[:-5])) as opened, pytest.raises(OSError, match="ends inside"):
        opened.load()


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "HSV"])
@pytest.mark.parametrize("size", [(301, 200), (1, 90), (1201, 40)])
def test_thumbnails_come_from_the_preview(mode: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of any mode and size, near to those of the whole picture, which is not decoded; larger ones decode it."""
    picture = Image.fromarray(photo(size[1], size[0])).convert(mode)
    file = saved(picture, quality=90, preview=True)
    with Image.open(file) as opened:
        expected = opened.reduce(2 if size[0] < 1000 else 4)
    with Image.open(file) as opened:
        assert opened.draft(None, opened.size) is None
        drafted = opened.draft(None, (2, 2) if min(size) > 1 else (1, 1))
        assert drafted is not None
        assert drafted[0] == mode
        assert opened.size == expected.size
        assert np.allclose(drafted[1][2:], [n / (2 if size[0] < 1000 else 4) for n in size])
        real, decoded = codec.decode_picture, []
        monkeypatch.setattr(codec, "decode_picture", lambda p, *a, **k: (decoded.append(p.header.width), real(p, *a, **k)))
        difference = np.abs(np.asarray(opened.convert("RGB")).astype(int) - np.asarray(expected.convert("RGB")))
        assert difference.mean() < 25
        assert decoded == [opened.width]
    with Image.open(file) as opened:
        opened.thumbnail((size[0] // 4 + 1, 99))
        assert opened.width <= size[0] // 4 + 1


def test_thumbnails_of_large_pictures_decode_their_preview(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of pictures that are wider than high, too: what counts is the thumbnail, not the square that it fits into."""
    file = saved(Image.fromarray(photo(800, 1200)).resize((2400, 1600)), quality=30, preview=True)
    real, decoded = codec.decode_picture, []
    monkeypatch.setattr(codec, "decode_picture", lambda p, *a, **k: (decoded.append(p.header.width), real(p, *a, **k)))
    with Image.open(file) as opened:
        opened.thumbnail((128, 128))
        assert (opened.size, decoded) == ((128, 85), [300])


def test_previews_are_for_large_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default from a size on; a preview that is damaged, of another size or indexed is none."""
    monkeypatch.setattr("pillow_semicodec.codec.PREVIEW_FROM", 5000)
    small, large = (Image.fromarray(photo(n, 100)) for n in (40, 60))
    for picture, options, there in ((small, {}, False), (large, {}, True), (large, {"preview": False}, False)):
        prologue = container.read_prologue(saved(picture, **options).read)
        assert (prologue.preview is not None) == there
    good = saved(large).getvalue()
    for at in (60, 40):  # of the preview; its chunk is sealed anew
        preview = bytearray(pillow_semicodec.read_prologue(good).metadata[container.PREVIEW])
        preview[at] ^= 1
        damaged = with_chunks(good, {container.PREVIEW: bytes(preview)})
        with Image.open(io.BytesIO(damaged)) as opened:
            opened.thumbnail((20, 20))
            assert opened.width <= 20
    indexed = pillow_semicodec.encode(np.full((20, 50, 3), 7, np.uint8), indexed=True)
    foreign = saved(Image.fromarray(photo(70, 100))).getvalue()
    for preview in (b"", b"no file", foreign, indexed):
        prologue = container.read_prologue(saved(small).read)
        broken = container.Prologue(prologue.header, prologue.index, {container.PREVIEW: preview})
        assert broken.preview is None


def test_a_resolution_of_nothing() -> None:
    """As JPEGs state it, and ``dpi=image.info.get("dpi")`` passes it on: none."""
    with Image.open(saved(Image.fromarray(photo(20, 30)), dpi=(0, 0))) as opened:
        assert "dpi" not in opened.info


@pytest.mark.parametrize("scale", [4, 32])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "I;16"])
def test_a_preview_that_cannot_be_decoded(mode: str, scale: int) -> None:
    """Sound to the last checksum, but of a stream that no encoder makes: the picture itself is shown."""
    picture = Image.fromarray(photo(150, 200)).convert("L" if mode == "I;16" else mode)
    picture = Image.fromarray(np.asarray(picture).astype(np.uint16) * 257) if mode == "I;16" else picture
    small = container.read_prologue(saved(picture.resize((-(-200 // scale), -(-150 // scale))), preview=False).read)
    streams = [bytes(2 + size) for size in small.index.stream_sizes]
    preview = container.write_container(small.header, small.index.rate, streams, small.metadata)
    file = with_chunks(saved(picture, preview=False).getvalue(), {container.PREVIEW: preview})
    with pytest.raises(pillow_semicodec.FormatError):
        pillow_semicodec.decode(preview)
    with Image.open(io.BytesIO(file)) as opened, Image.open(io.BytesIO(file)) as whole:
        assert opened.draft(None, (5, 4)) is not None
        assert opened.size == (small.header.width, small.header.height)
        expected = np.asarray(whole.resize(opened.size, Image.Resampling.BOX)).astype(float)
        unit = 257 if mode == "I;16" else 1
        assert np.abs(np.asarray(opened) - expected).mean() < 25 * unit


def test_a_preview_with_a_preview_is_none() -> None:
    """FORMAT.md, section 3; nor is one of another mode."""
    picture = Image.fromarray(photo(150, 200))
    small = saved(picture.resize((50, 38)), preview=False).getvalue()
    grey = saved(picture.convert("L").resize((50, 38)), preview=False).getvalue()
    for preview, taken in ((small, True), (with_chunks(small, {container.PREVIEW: small}), False), (grey, False)):
        file = with_chunks(saved(picture, preview=False).getvalue(), {container.PREVIEW: preview})
        with Image.open(io.BytesIO(file)) as opened:
            opened.draft(None, (50, 38))
            assert bool(opened.tile[0].args[2]) == taken  # type: ignore[index]


def test_a_preview_of_other_numbers_is_none() -> None:
    """FORMAT.md, section 3: of the same kind of numbers."""
    grey = photo(150, 200)[:, :, 0].astype(np.int32) * 100
    small = pillow_semicodec.encode(pixels.reduced(grey.astype(np.uint16), 4, False))
    file = with_chunks(pillow_semicodec.encode(grey), {container.PREVIEW: small})
    with Image.open(io.BytesIO(file)) as opened:
        opened.draft(None, (50, 38))
        assert not opened.tile[0].args[2]  # type: ignore[index]
        opened.load()
        assert opened.mode == "I"


def test_a_target_asks_for_no_preview(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless one is asked for, too."""
    monkeypatch.setattr(codec, "PREVIEW_FROM", 1)
    for options, has in (({}, True), ({"target_size": 3000}, False), ({"target_size": 3000, "preview": True}, True)):
        data = pillow_semicodec.encode(photo(60, 80), **options)
        assert (container.PREVIEW in pillow_semicodec.read_prologue(data).metadata) == has


def test_the_preview_of_a_damaged_picture() -> None:
    """After loading failed it is a picture of its own size, and no corner of a larger one."""
    data = bytearray(saved(Image.fromarray(photo(150, 200)), preview=True).getvalue())
    data[-9] ^= 1
    with Image.open(io.BytesIO(data)) as opened:
        with pytest.raises(OSError, match="checksum"):
            opened.load()
        opened.draft(None, (50, 38))
        assert opened.copy().size == opened.convert("L").size == opened.size < (200, 150)


@pytest.fixture
def lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)


@settings(max_examples=20)
@given(st.floats(0, 1), st.sampled_from(["L", "RGB", "RGBA", "1"]), st.booleans())
def test_what_has_arrived_is_shown(part: float, mode: str, sliced: bool) -> None:
    """Of a file that is cut anywhere behind its index."""
    whole = Image.fromarray(photo(200, 330)).convert(mode)
    if mode == "RGBA":
        whole.putalpha(Image.linear_gradient("L").resize(whole.size))
    data = pillow_semicodec.encode(np.asarray(whole), 60, slice_side=64 if sliced else 0)
    with Image.open(io.BytesIO(data)) as opened:
        start = opened.tile[0].offset
        expected = np.asarray(opened)
    end = round(start + part * (len(data) - start))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
        with Image.open(io.BytesIO(data[:end])) as opened:
            shown = np.asarray(opened)
    assert shown.shape == expected.shape
    if end == len(data):
        assert np.array_equal(shown, expected)
    if mode in ("RGBA", "1"):  # exact, or else opaque, or white
        plane, wanted = (shown[..., 3], expected[..., 3]) if mode == "RGBA" else (shown, expected)
        assert ((plane == wanted) | (plane == plane.dtype.type(255))).all()


def test_slices_that_have_arrived_are_exact(lenient: None) -> None:
    """Of a file that ends before the last layer of the two lowest rows of slices."""
    data = pillow_semicodec.encode(photo(200, 330), 60, slice_side=64)
    with Image.open(io.BytesIO(data)) as opened:
        start, expected = opened.tile[0].offset, np.asarray(opened)
    sizes = container.read_prologue(io.BytesIO(data).read).index.stream_sizes  # 3 layers of 4 x 6
    end = start + sum(map(container.stream_size, sizes[:-12]))
    with Image.open(io.BytesIO(data[:end])) as opened:
        shown = np.asarray(opened)
    assert np.array_equal(shown[:64], expected[:64])  # 128 rows are whole, three latents (48) depend on others
    assert not np.array_equal(shown, expected)


def test_more_bytes_show_more(lenient: None) -> None:
    """In one slice, too: what is certain of a cut stream is used."""
    data = saved(Image.fromarray(photo(200, 330)), quality=90).getvalue()
    expected = np.asarray(Image.open(io.BytesIO(data))).astype(int)
    errors = [
        np.abs(np.asarray(Image.open(io.BytesIO(data[: round(len(data) * part)]))) - expected).mean()
        for part in (0.1, 0.5, 0.8, 0.97, 1)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] == 0 < errors[-2] < errors[0] / 2


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("of_checksum", [False, True])
def test_damage_stays_where_it_happened(lenient: None, layer: int, of_checksum: bool) -> None:
    """A slice whose bytes or checksum are wrong is left out, with what depends on it; far from it nothing changes."""
    data = bytearray(pillow_semicodec.encode(photo(400, 640), 90, slice_side=64))
    with Image.open(io.BytesIO(data)) as opened:
        start = opened.tile[0].offset
        expected = np.asarray(opened)
    sizes = container.read_prologue(io.BytesIO(data).read).index.stream_sizes
    last = (layer + 1) * len(sizes) // 3 - 1  # of the right bottom corner
    data[start + sum(map(container.stream_size, sizes[:last])) + of_checksum * sizes[last]] ^= 4
    with Image.open(io.BytesIO(data)) as opened:
        assert np.asarray(opened.crop((600, 300, 640, 400))).shape == (100, 40, 3)
        shown = np.asarray(opened)
    assert np.array_equal(shown[:100, :250], expected[:100, :250])
    assert not np.array_equal(shown, expected)
    assert np.abs(shown.astype(int) - expected).mean() < 12


def test_bytes_that_are_lost_on_the_way(lenient: None) -> None:
    """Streams behind them stand elsewhere than they should: none is taken for the beginning of another."""
    data = pillow_semicodec.encode(photo(200, 330), 60, slice_side=64)
    with Image.open(io.BytesIO(data)) as opened:
        start = opened.tile[0].offset
    sizes = container.read_prologue(io.BytesIO(data).read).index.stream_sizes
    end = start + sum(map(container.stream_size, sizes[:-24]))  # of the first of three layers
    shown = []
    for rest in (b"", data[end + 5 :]):
        with Image.open(io.BytesIO(data[:end] + rest)) as opened:
            shown.append(np.asarray(opened))
    assert np.array_equal(*shown)


def test_damaged_files(image: Image.Image) -> None:
    """A flipped bit in the slice is an OSError at load and in verify."""
    data = bytearray(saved(image).getvalue())
    data[-20] ^= 4
    with Image.open(io.BytesIO(data)) as opened, pytest.raises(OSError, match="checksum"):
        opened.load()
    with Image.open(io.BytesIO(data)) as opened, pytest.raises(OSError, match="checksum"):
        opened.verify()
    with Image.open(saved(image)) as opened:
        opened.verify()


def test_errors_name_the_file(image: Image.Image, tmp_path: Path) -> None:
    """Where it has a name: whoever goes through a folder learns which one it was, from functions of arrays, too."""
    data = bytearray(saved(image).getvalue())
    data[-20] ^= 4
    path = tmp_path / "damaged.sgc"
    path.write_bytes(data)
    told = rf"SGC file {re.escape(str(path))}: the checksum"
    for use in (SgcImageFile.load, SgcImageFile.verify, lambda opened: opened.reduce(2)):
        with Image.open(path) as opened, pytest.raises(OSError, match=told):
            use(opened)
    path.with_name("newer.sgc").write_bytes(data[:4] + b"\x09" + data[5:])
    with pytest.raises(OSError, match=r"newer\.sgc: .*format version 9"):
        Image.open(path.with_name("newer.sgc"))
    for read in (pillow_semicodec.decode, pillow_semicodec.analyze):
        with pytest.raises(pillow_semicodec.ChecksumError, match=re.escape(f"{path}: the checksum")):
            read(path)


def test_what_another_build_could_read(image: Image.Image) -> None:
    """A newer version and a foreign model are told as such, not as an unknown file."""
    data = saved(image).getvalue()
    with pytest.raises(OSError, match="format version 9") as caught:
        Image.open(io.BytesIO(data[:4] + b"\x09" + data[5:]))
    assert not isinstance(caught.value, UnidentifiedImageError)
    header = container.Header(8, 8, "RGB", b"nonesuch")
    foreign = io.BytesIO(container.write_container(header, 0, (b"",), {}))
    with Image.open(foreign) as opened, pytest.raises(OSError, match=b"nonesuch".hex()):
        opened.load()


def test_one_file_object_many_images(image: Image.Image) -> None:
    """Where the caller's file stands does not matter at load; two images may share one file."""
    file = saved(image)
    first, second = Image.open(file), Image.open(file)
    file.seek(3)
    first.load()
    file.seek(0)
    assert second.tobytes() == first.tobytes()


def test_verify_comes_first(image: Image.Image) -> None:
    """After load or verify there is nothing left to verify, and the message says so."""
    for use in ("load", "verify"):
        opened = Image.open(saved(image))
        getattr(opened, use)()
        with pytest.raises(RuntimeError, match="directly after open"):
            opened.verify()


def test_what_this_version_lacks_is_not_ignored(image: Image.Image) -> None:
    """lossless is refused; save_all of one frame is fine."""
    with pytest.raises(ValueError, match="this version"):
        saved(image, lossless=True)
    assert saved(image, save_all=True).getvalue() == saved(image).getvalue()


def test_a_profile_of_other_colours_is_dropped(image: Image.Image) -> None:
    """A CMYK profile would spoil the RGB picture that is written."""
    cmyk = image.convert("CMYK")
    cmyk.info["icc_profile"] = bytes(16) + b"CMYK" + bytes(100)
    assert "icc_profile" not in Image.open(saved(cmyk)).info
    image.info["icc_profile"] = bytes(16) + b"RGB " + bytes(100)
    assert Image.open(saved(image)).info["icc_profile"] == image.info["icc_profile"]
    for mode in ("1", "L", "LA", "I;16", "I", "F"):
        grey = image.convert("L").convert("I" if mode == "I;16" else mode).convert(mode)
        for colours, kept in ((b"GRAY", True), (b"RGB ", False)):
            grey.info["icc_profile"] = bytes(16) + colours + bytes(100)
            assert ("icc_profile" in Image.open(saved(grey)).info) is kept, (mode, colours)


def test_a_transparent_colour_of_16_bits_is_refused() -> None:
    """There is no alpha beside 16 bits, and none is lost without a word."""
    picture = Image.new("I;16", (20, 20), 7)
    picture.info["transparency"] = 7
    with pytest.raises(OSError, match=r"no transparent colour in 16 bits"):
        saved(picture)
    picture = Image.new("L", (20, 20), 7)
    picture.info["transparency"] = 7
    assert Image.open(saved(picture.convert("F"))).mode == "F"


def test_limits_apply(image: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our limits and Pillow's own both guard opening."""
    file = saved(image)
    monkeypatch.setattr(pillow_semicodec.options, "LIMITS", Limits(max_pixels=10))
    with pytest.raises(OSError, match="limit"):
        Image.open(file)
    monkeypatch.undo()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(file)


def test_a_failed_save_writes_nothing(tmp_path: Path, image: Image.Image) -> None:
    """Options are checked before a byte goes to an open file; by path, Pillow itself empties a file that exists."""
    target = io.BytesIO(b"old")
    with pytest.raises(ValueError, match="quality"):
        image.save(target, "SGC", quality=0)
    assert target.getvalue() == b"old"
    with pytest.raises(OSError, match="No such file"):
        image.save(tmp_path / "nowhere" / "x.sgc")
    (tmp_path / "old.sgc").write_bytes(b"old")
    for name in ("new.sgc", "old.sgc"):
        with pytest.raises(ValueError, match="quality"):
            image.save(tmp_path / name, quality=0)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("old.sgc", b"")]


def test_errors_of_the_table(image: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """REFERENCE.md, Errors: frames of several kinds, limits, a broken installation."""
    file, deep = saved(image), Image.fromarray(np.zeros((96, 160), np.uint16))
    with pytest.raises(OSError, match="I;16 beside others"):
        saved(deep, save_all=True, append_images=[image])
    with monkeypatch.context() as patch, pytest.raises(ValueError, match="cannot write SGC"):
        patch.setattr(pillow_semicodec.options, "LIMITS", Limits(max_pixels=10))
        saved(image)
    shutil.copytree(TINY, tmp_path / "tiny")
    for graph in (tmp_path / "tiny").glob("*.onnx"):
        graph.write_bytes(b"")
    monkeypatch.setenv(bundle.PATH_VARIABLE, str(tmp_path))
    with pytest.raises(OSError, match="cannot write SGC"):
        saved(image)
    with Image.open(file) as opened, pytest.raises(OSError, match="cannot decode SGC"):
        opened.load()


def test_sinks_and_sources(tmp_path: Path, image: Image.Image) -> None:
    """Write-only sinks, unseekable sources and incremental parsers work."""
    sink = Sink()
    image.save(sink, "SGC")
    assert sink.written == saved(image).getvalue()
    parser = ImageFile.Parser()
    for k in range(0, len(sink.written), 64):
        parser.feed(sink.written[k : k + 64])
        if k >= 64:
            assert parser.image is not None
            assert parser.image.size == image.size
    assert parser.close().tobytes() == Image.open(saved(image)).tobytes()
    read_end, write_end = os.pipe()
    with os.fdopen(write_end, "wb") as pipe:
        writer = threading.Thread(target=lambda: (pipe.write(sink.written), pipe.close()))
        writer.start()
        with os.fdopen(read_end, "rb") as source, Image.open(source) as opened:
            assert opened.size == image.size
        writer.join()


def test_file_handling(tmp_path: Path, image: Image.Image) -> None:
    """A path's file is closed after loading; a caller's file stays open and can be read again."""
    image.save(tmp_path / "x.sgc")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened = Image.open(tmp_path / "x.sgc")
        opened.load()
        assert opened.fp is None
        del opened
    with (tmp_path / "x.sgc").open("rb") as file:
        for _ in range(2):
            Image.open(file).load()
        assert not file.closed


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle(image: Image.Image, protocol: int) -> None:
    """A loaded picture survives pickling."""
    opened = Image.open(saved(image))
    again = pickle.loads(pickle.dumps(opened, protocol))
    assert again.tobytes() == opened.tobytes()
    for way in (lambda p: p.reduce(2), lambda p: p.crop((3, 4, 20, 30)), lambda p: p.resize((9, 9))):
        assert way(again).tobytes() == way(opened).tobytes()


def test_registration_may_be_repeated() -> None:
    """Registering again changes nothing; options can be set with it."""
    before = dict(Image.registered_extensions())
    threads = pillow_semicodec.options.THREADS
    pillow_semicodec.register(threads=1)
    for wrong, error in (
        ({"threads": "2"}, TypeError),
        ({"threads": -1}, ValueError),
        ({"limits": 5}, TypeError),
        ({"threads": 2, "providers": 5}, TypeError),
        ({"threads": 2, "providers": [("CUDAExecutionProvider", {})]}, TypeError),
    ):
        with pytest.raises(error):
            pillow_semicodec.register(**wrong)
    assert pillow_semicodec.options.THREADS == 1
    pillow_semicodec.options.THREADS = threads
    assert Image.registered_extensions() == before
    assert before[".sgc"] == "SGC"
    assert Image.OPEN["SGC"][0] is SgcImageFile
    assert features.check("jpg")


def test_unwritable_target(tmp_path: Path, image: Image.Image) -> None:
    """A directory as target is an OSError and stays a directory."""
    (tmp_path / "x.sgc").mkdir()
    with pytest.raises(OSError, match=r"x\.sgc"):
        image.save(tmp_path / "x.sgc")
    assert (tmp_path / "x.sgc").is_dir()


@pytest.mark.model
@pytest.mark.parametrize("before", ["", "picture.resize((20, 20)).save('0.sgc')"])
@pytest.mark.parametrize("last", ["threading.Thread(target=work).start()", "ThreadPoolExecutor().submit(work)"])
def test_threads_that_outlive_the_main_one(before: str, last: str, tmp_path: Path) -> None:
    """Save and load all the same, where no further thread can be started."""
    code = f"""
import threading, time
from concurrent.futures import ThreadPoolExecutor
from PIL import Image
import pillow_semicodec
picture = Image.linear_gradient("L").resize((1100, 1000)).convert("RGB")
{before}
def work():
    time.sleep(0.3)
    picture.save("1.sgc", slice_side=512, threads=2)
    Image.open("1.sgc").resize((30, 20)).save("2.png")
{last}
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=tmp_path, timeout=120, check=True)
    with Image.open(tmp_path / "2.png") as opened:
        assert opened.size == (30, 20)


def test_what_is_saved_to_an_open_file_is_there(tmp_path: Path, image: Image.Image) -> None:
    """For others who open it by name, before it is closed."""
    with (tmp_path / "x.sgc").open("wb") as file:
        image.save(file, "SGC")
        assert np.array_equal(np.asarray(Image.open(tmp_path / "x.sgc")), np.asarray(Image.open(saved(image))))


@pytest.mark.parametrize("more", [{}, {"save_all": True}])
def test_saving_with_all_that_was_known(more: dict[str, bool], tmp_path: Path, image: Image.Image) -> None:
    """``**info`` is taken as it comes, with what a picture shows, and Nones."""
    with Image.open(saved(image, semantics=True, comment=b"yes", dpi=(72, 72))) as opened:
        opened.save(tmp_path / "y.sgc", **opened.info, duration=None, loop=None, **more)
        with Image.open(tmp_path / "y.sgc") as again:
            assert (again.info["comment"], again.info["dpi"]) == (b"yes", (72, 72))
            assert again.info["semantics"].names() == opened.info["semantics"].names()


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "HSV", "RGBX"])
def test_a_transparent_colour_that_is_left_over(image: Image.Image, mode: str) -> None:
    """Of what a picture was converted from says nothing of it."""
    image.info["transparency"] = (1, 2, 3)
    picture = image.convert(mode)
    assert "transparency" in picture.info
    with Image.open(saved(picture)) as opened:
        assert opened.mode == mode


def test_texts_of_nothing(image: Image.Image) -> None:
    """Stand for none, as Pillow's other writers take them."""
    assert saved(image, icc_profile="", exif="").getvalue() == saved(image).getvalue()


def test_saving_while_it_is_saved(image: Image.Image) -> None:
    """From ``progress`` or another thread, has options of its own."""
    inner = list[bytes]()

    def save(_: float) -> None:
        inner.append(saved(image, quality=20).getvalue())

    outer = saved(image, quality=90, progress=save).getvalue()
    assert inner[-1] == saved(image, quality=20).getvalue()
    assert outer == saved(image, quality=90).getvalue()
    assert not getattr(image, "encoderinfo", {})


@pytest.mark.parametrize(
    ("option", "given", "kept"),
    [
        ("threads", 3, 3),
        ("limits", Limits(max_pixels=10), Limits(max_pixels=10)),
        ("providers", "A", ("A",)),
        ("providers", ["A", "B"], ("A", "B")),
    ],
)
def test_registered_options_are_kept(option: str, given: object, kept: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """For all that Pillow opens from then on."""
    monkeypatch.setattr(pillow_semicodec.options, option.upper(), None)
    pillow_semicodec.register(**{option: given})  # type: ignore[arg-type]
    assert getattr(pillow_semicodec.options, option.upper()) == kept


@settings(max_examples=5)
@given(st.integers(1, 9), st.integers(1, 9))
def test_threads_are_those_that_were_asked_for(image: Image.Image, registered: int, asked: int) -> None:
    """By ``save``, or else of the package."""
    heard = list[int]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pillow_semicodec.options, "THREADS", registered)
        for name in ("encode", "decode_picture"):
            real = getattr(codec, name)
            patch.setattr(codec, name, lambda *a, real=real, **k: heard.append(k["threads"]) or real(*a, **k))
        Image.open(saved(image, threads=asked)).load()
        saved(image)
    assert heard == [asked, registered, registered]


def test_threads_of_a_process() -> None:
    """Are those of its environment."""
    code = "import pillow_semicodec; print(pillow_semicodec.options.THREADS)"
    environment = os.environ | {"SGC_THREADS": "3"}
    assert subprocess.check_output([sys.executable, "-c", code], env=environment, text=True).strip() == "3"


@given(st.sampled_from(["L", "LA", "RGB", "RGBA"]), st.sampled_from([*container.VIEWS, "", "XYZ", "P"]))
def test_views_that_do_not_fit_are_ignored(image: Image.Image, mode: str, view: str) -> None:
    """FORMAT.md, section 3: such a chunk says nothing."""
    data = with_chunks(saved(image.convert(mode)).getvalue(), {container.SHOWN_AS: view.encode()})
    with Image.open(io.BytesIO(data)) as opened:
        opened.load()
        assert opened.mode == (view if container.VIEWS.get(view) == mode else mode)
