"""What Pillow's own tests ask of its formats, asked of ours: the cases of WebP, AVIF, QOI and JPEG, and of the core."""

from __future__ import annotations

import io
import logging
import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import photo
from PIL import Image, ImageFile, ImageOps, ImagePalette, ImageSequence, UnidentifiedImageError, features
from test_pillow import saved

from pillow_semicodec.SemicodecImagePlugin import SgcImageFile

SIZE = 64, 48
ORIENTATION = 0x0112
NEAR = 20  # levels, on average: what a tiny model is good for


def picture(mode: str = "RGB") -> Image.Image:
    """A photograph; where there is alpha, three levels of it."""
    rgb = Image.fromarray(photo(SIZE[1], SIZE[0]))
    if mode in ("I;16", "I;16B", "I", "F"):
        grey = np.asarray(rgb.convert("L"))
        image = Image.fromarray(
            {"I": grey.astype(np.int32), "F": grey / np.float32(255)}.get(mode, grey.astype(np.uint16) * 257)
        )
        return image if mode != "I;16B" else Image.frombytes(mode, SIZE, grey.astype(">u2").tobytes())
    if mode in ("LA", "La", "RGBA", "RGBa", "PA"):
        image = rgb.convert({"LA": "L", "La": "L", "PA": "P"}.get(mode, "RGB"))
        if mode == "PA":
            image = image.convert("PA")
        image.putalpha(steps())
        return image.convert(mode)
    return rgb.convert(mode)


def steps() -> Image.Image:
    """Alpha: transparent, half, opaque."""
    alpha = Image.new("L", SIZE, 255)
    alpha.paste(0, (0, 0, 20, 48))
    alpha.paste(128, (20, 0, 40, 48))
    return alpha


def distance(one: Image.Image, other: Image.Image) -> float:
    """Mean difference of two pictures in levels, as they look on black."""
    assert one.size == other.size
    pair = [p.convert(p.mode.upper()) if p.mode in ("La", "RGBa") else p for p in (one, other)]
    pair = [np.asarray(Image.alpha_composite(Image.new("RGBA", one.size, "black"), p.convert("RGBA"))) for p in pair]
    return float(np.abs(pair[0].astype(int) - pair[1]).mean())


def animation(frames: list[Image.Image] | None = None, **options: object) -> io.BytesIO:
    frames = frames or [picture(), picture().rotate(180), picture().transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    return saved(frames[0], save_all=True, append_images=frames[1:], **options)


# ---- modes and pixels --------------------------------------------------------------------------------------------

LOADED_AS = {mode: mode for mode in ("1", "L", "LA", "La", "RGB", "RGBX", "RGBA", "RGBa", "CMYK", "YCbCr", "LAB", "HSV")} | {
    "P": "RGB",
    "PA": "RGBA",
    "I;16": "I;16",
    "I;16B": "I;16",
    "I": "I",
    "F": "F",
}


@pytest.mark.parametrize(("mode", "loaded"), LOADED_AS.items())
def test_every_mode(mode: str, loaded: str, tmp_path: Path) -> None:
    """By path, of every mode that Pillow has: size, mode and format are known before the pixels, which look the same."""
    source = picture(mode)
    before = source.tobytes()
    source.save(tmp_path / "x.sgc", quality=95)
    assert source.tobytes() == before
    with Image.open(tmp_path / "x.sgc") as opened:
        assert (opened.mode, opened.size, opened.format) == (loaded, SIZE, "SGC")
        opened.load()
        assert opened.getbands() == Image.new(loaded, (1, 1)).getbands()
        if mode in ("I", "F", "I;16", "I;16B"):
            difference = np.asarray(opened).astype(float) - np.asarray(source)
            assert np.abs(difference).mean() <= NEAR * float(np.asarray(source).max()) / 255
        elif mode == "1":
            assert opened.tobytes() == before
        else:
            assert distance(opened, source) < NEAR


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "CMYK", "F"])
def test_flat_colours(mode: str) -> None:
    """One colour stays about that colour, in both corners."""
    colour = {"L": 90, "LA": (90, 200), "RGB": (200, 90, 30), "RGBA": (200, 90, 30, 77), "CMYK": (40, 90, 9, 0), "F": 0.25}[
        mode
    ]
    with Image.open(saved(Image.new(mode, (20, 20), colour), quality=95)) as opened:
        for at in ((0, 0), (19, 19)):
            assert opened.getpixel(at) == pytest.approx(colour, abs=0.2 if mode == "F" else 40)


class TestAlpha:
    """WebP's and AVIF's cases of transparency."""

    def test_a_palette_with_alpha(self) -> None:
        """A palette of four bands is RGBA."""
        source = Image.new("P", (8, 8))
        source.putpalette([0, 0, 0, 0, 250, 250, 250, 255], "RGBA")
        source.paste(1, (4, 0, 8, 8))
        with Image.open(saved(source, quality=90)) as opened:
            assert opened.mode == "RGBA"
            assert opened.getchannel("A").tobytes() == source.convert("RGBA").getchannel("A").tobytes()
            assert "transparency" not in opened.info

    def test_one_pixel_of_a_palette(self) -> None:
        """Of one transparent pixel nothing is lost."""
        source = Image.new("RGBA", (1, 1)).convert("P")
        assert source.mode == "P"
        with Image.open(saved(source)) as opened:
            assert opened.convert("RGBA").getpixel((0, 0))[3] == source.convert("RGBA").getpixel((0, 0))[3]

    def test_alpha_of_every_palette_entry(self) -> None:
        """Transparency in bytes, one for each entry, as PNG has it."""
        source = picture("P")
        source.info["transparency"] = bytes(range(256))
        with Image.open(saved(source)) as opened:
            assert opened.mode == "RGBA"
            assert opened.getchannel("A").tobytes() == source.convert("RGBA").getchannel("A").tobytes()

    def test_from_a_png(self) -> None:
        """A transparent colour that came with a file."""
        png = io.BytesIO()
        Image.new("RGB", (30, 30), (9, 8, 7)).save(png, "PNG", transparency=(9, 8, 7))
        with Image.open(png) as source, Image.open(saved(source)) as opened:
            assert opened.mode == "RGBA"
            assert opened.getchannel("A").getextrema() == (0, 0)

    @pytest.mark.parametrize("colour", [(255, 0, 0), (0, 160, 255)])
    def test_colours_under_transparency(self, colour: tuple[int, int, int]) -> None:
        """With exact=True they are kept as well as others."""
        source = Image.new("RGBA", SIZE, (*colour, 0))
        source.paste((20, 20, 20, 255), (32, 0, 64, 48))
        with Image.open(saved(source, exact=True, quality=95)) as opened:
            assert opened.getpixel((4, 24)) == pytest.approx((*colour, 0), abs=60)
            assert opened.getchannel("A").tobytes() == source.getchannel("A").tobytes()

    @pytest.mark.parametrize("mode", ["LA", "RGBA"])
    def test_fewer_levels(self, mode: str) -> None:
        """alpha_quality changes alpha alone; below 0 and above 100 it is refused."""
        source = picture(mode)
        source.putalpha(Image.radial_gradient("L").resize(SIZE))
        whole, less = (Image.open(saved(source, alpha_quality=n)) for n in (100, 10))
        assert whole.getchannel("A").tobytes() == source.getchannel("A").tobytes() != less.getchannel("A").tobytes()
        assert len(set(less.getchannel("A").tobytes())) < 100
        for wrong in (-1, 101):
            with pytest.raises(ValueError, match="alpha_quality"):
                saved(source, alpha_quality=wrong)

    def test_the_background_of_a_gif(self) -> None:
        """A GIF's frames become frames, whatever it calls its background; and back."""
        gif = io.BytesIO()
        frames = [Image.new("P", (16, 16), k) for k in (1, 2)]
        for frame in frames:
            frame.putpalette([0, 0, 0, 230, 20, 20, 20, 20, 230])
        frames[0].save(gif, "GIF", save_all=True, append_images=frames[1:], background=0, disposal=2)
        with Image.open(gif) as source:
            expected = source.convert("RGB").getpixel((3, 3))
            file = saved(source, save_all=True, quality=95)
        again = io.BytesIO()
        with Image.open(file) as opened:
            assert (opened.n_frames, opened.getpixel((3, 3))) == (2, pytest.approx(expected, abs=60))
            opened.save(again, "GIF", save_all=True)
        with Image.open(again) as back:
            assert back.n_frames == 2
            assert back.convert("RGB").getpixel((3, 3)) == pytest.approx(expected, abs=60)


# ---- metadata ----------------------------------------------------------------------------------------------------


class TestExif:
    """AVIF's grid, and what comes from files of other formats."""

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("kind", ["bytes", "without prefix", "Exif"])
    @pytest.mark.parametrize("in_place", [False, True])
    def test_orientation(self, orientation: int, kind: str, in_place: bool) -> None:
        """The tag is kept, pixels are not turned; ``exif_transpose`` turns them, once."""
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        before = exif.tobytes()
        form = {"bytes": before, "without prefix": before.removeprefix(b"Exif\0\0"), "Exif": exif}[kind]
        source = Image.linear_gradient("L").resize(SIZE)
        with Image.open(saved(source, exif=form, quality=95)) as opened:
            assert opened.size == SIZE
            assert dict(opened.getexif()) == {ORIENTATION: orientation}
            turned = ImageOps.exif_transpose(opened, in_place=in_place) or opened
            wanted = source.copy()
            wanted.info["exif"] = before
            assert distance(turned, ImageOps.exif_transpose(wanted)) < NEAR
            assert turned.getexif().get(ORIENTATION, 1) == 1
            assert distance(ImageOps.exif_transpose(turned), turned) == 0
        assert exif.tobytes() == before

    def test_without_orientation(self) -> None:
        """Other tags come back, none is added."""
        exif = Image.Exif()
        exif[0x010F], exif[0x8298] = "a maker", "of someone"
        with Image.open(saved(picture(), exif=exif)) as opened:
            assert dict(opened.getexif()) == dict(exif)
            assert ImageOps.exif_transpose(opened).size == SIZE

    def test_none(self) -> None:
        """What is empty, or nothing at all, is no EXIF."""
        for form in (None, b""):
            with Image.open(saved(picture(), exif=form)) as opened:
                assert "exif" not in opened.info
                assert not opened.getexif()

    @pytest.mark.parametrize("garbage", [b"no EXIF", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", bytes(9)])
    def test_garbage(self, garbage: bytes) -> None:
        """It is kept as it is, and keeps no picture from being shown."""
        with Image.open(saved(picture(), exif=garbage)) as opened:
            assert opened.info["exif"] == garbage
            opened.load()

    @pytest.mark.parametrize("source", ["JPEG", "PNG", "WEBP"])
    def test_of_another_file(self, source: str) -> None:
        """``exif=image.getexif()``, with what lies deeper, by way of a real file."""
        exif = Image.Exif()
        exif[0x010F], exif[ORIENTATION] = "a maker", 6
        exif.get_ifd(0x8769)[0x9003] = "2024:02:29 12:00:00"
        exif.get_ifd(0x8825)[1] = "N"
        file = io.BytesIO()
        picture().save(file, source, exif=exif)
        with Image.open(file) as other, Image.open(saved(other, exif=other.getexif())) as opened:
            found = opened.getexif()
        assert (found[0x010F], found[ORIENTATION]) == ("a maker", 6)
        assert found.get_ifd(0x8769)[0x9003] == "2024:02:29 12:00:00"
        assert found.get_ifd(0x8825)[1] == "N"

    def test_large(self) -> None:
        """JPEG's limit of 64 kB is not ours."""
        exif = Image.Exif()
        exif[0x010E] = "x" * 200_000
        with Image.open(saved(picture(), exif=exif)) as opened:
            assert opened.getexif()[0x010E] == "x" * 200_000


@pytest.mark.parametrize("size", [1, 100, 65_533, 300_000])
def test_profiles_of_any_size(size: int) -> None:
    """Byte for byte, beyond what fits into one of JPEG's markers; and on to other formats."""
    profile = bytes(np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8))
    png = io.BytesIO()
    with Image.open(saved(picture(), icc_profile=profile)) as opened:
        assert opened.info["icc_profile"] == profile
        opened.save(png, "PNG")
    with Image.open(png) as other:
        assert other.info["icc_profile"] == profile


@pytest.mark.parametrize(
    "form",
    ["<x:xmpmeta xmlns:x='adobe:ns:meta/'/>", b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>", "<é/>"],
    ids=["str", "bytes", "é"],
)
def test_xmp(form: str | bytes) -> None:
    """As text or bytes; it does not come along by itself; getxmp finds it."""
    expected = form if isinstance(form, bytes) else form.encode()
    with Image.open(saved(picture(), xmp=form)) as opened:
        assert opened.info["xmp"] == expected
        with Image.open(saved(opened)) as again:
            assert "xmp" not in again.info
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # without defusedxml it says so and finds nothing
            assert set(opened.getxmp()) <= {"xmpmeta", "é"}


@pytest.mark.parametrize("source", ["JPEG", "PNG", "TIFF", "BMP"])
@pytest.mark.parametrize("dpi", [72, 100, 300, 508])
def test_dpi_of_another_file(source: str, dpi: int) -> None:
    """``dpi=image.info["dpi"]``, in whatever numbers a format has it."""
    file = io.BytesIO()
    picture().save(file, source, dpi=(dpi, dpi))
    with Image.open(file) as other, Image.open(saved(other, dpi=other.info["dpi"])) as opened:
        assert opened.info["dpi"] == pytest.approx(other.info["dpi"], abs=0.001)
        assert opened.info["dpi"] == pytest.approx((dpi, dpi), abs=0.02)


@pytest.mark.parametrize("source", ["JPEG", "GIF"])
def test_comments_of_another_file(source: str) -> None:
    """``comment=image.info["comment"]``, and back."""
    file, again = io.BytesIO(), io.BytesIO()
    picture().save(file, source, comment=b"said")
    with Image.open(file) as other, Image.open(saved(other, comment=other.info["comment"])) as opened:
        assert opened.info["comment"] == b"said"
        opened.save(again, "JPEG", comment=opened.info["comment"])
    with Image.open(again) as back:
        assert back.info["comment"] == b"said"


def test_metadata_of_animations() -> None:
    """They are those of the file, at every frame."""
    exif = Image.Exif()
    exif[ORIENTATION] = 3
    options = {"icc_profile": b"profile", "xmp": b"<x/>", "comment": b"said", "dpi": (300.0, 300.0)}
    with Image.open(animation(exif=exif, **options)) as opened:
        for frame in ImageSequence.Iterator(opened):
            frame.load()
            assert {key: frame.info[key] for key in options} == options
            assert frame.getexif()[ORIENTATION] == 3


# ---- frames ------------------------------------------------------------------------------------------------------


class TestFrames:
    def test_one_picture(self) -> None:
        """It has one frame and tells 0; there are no times."""
        with Image.open(saved(picture())) as opened:
            assert (opened.n_frames, opened.is_animated, opened.tell()) == (1, False, 0)
            assert "duration" not in opened.info
            for wrong in (-1, 1, 99):
                with pytest.raises(EOFError):
                    opened.seek(wrong)
            opened.load()
            opened.seek(0)
            assert opened.tell() == 0
            assert len(list(ImageSequence.Iterator(opened))) == 1

    @pytest.mark.parametrize("more", [[], (), iter(())])
    def test_nothing_more(self, more: object) -> None:
        """save_all with nothing to append is a picture."""
        with Image.open(saved(picture(), save_all=True, append_images=more)) as opened:
            assert opened.n_frames == 1

    @pytest.mark.parametrize(
        ("given", "stored"),
        [
            (70, [70, 70, 70]),
            (70.7, [71, 71, 71]),
            ([10, 20.4, 30], [10, 20, 30]),
            ((10, 20, 30), [10, 20, 30]),
            (np.array([10, 20, 30]), [10, 20, 30]),
            (0, [0, 0, 0]),
            (10_000_000, [10_000_000] * 3),
        ],
        ids=str,
    )
    def test_durations(self, given: object, stored: list[int]) -> None:
        """One for all, or a sequence of them; whole milliseconds; timestamps are their sums; known without loading."""
        with Image.open(animation(duration=given)) as opened:
            for k, duration in enumerate(stored):
                opened.seek(k)
                assert (opened.info["duration"], opened.info["timestamp"]) == (duration, sum(stored[:k]))

    def test_backwards(self) -> None:
        """Frames read from the last to the first are those that were read from the first to the last."""
        file = animation()
        with Image.open(file) as opened:
            forth = [frame.tobytes() for frame in ImageSequence.Iterator(opened)]
        with Image.open(file) as opened:
            for k in reversed(range(3)):
                opened.seek(k)
                assert opened.tobytes() == forth[k]
        assert len(set(forth)) == 3

    @pytest.mark.parametrize("source", ["GIF", "PNG", "WEBP", "TIFF"])
    def test_of_another_file(self, source: str) -> None:
        """As many frames, as long each, that look the same; and as many when it goes back."""
        frames = [Image.new("RGB", SIZE, colour) for colour in ("red", "blue", "white", "green")]
        file, again = io.BytesIO(), io.BytesIO()
        options = {} if source == "TIFF" else {"duration": [100, 200, 300, 400]}
        frames[0].save(file, source, save_all=True, append_images=frames[1:], **options)
        with Image.open(file) as other:
            place = 0 if source == "PNG" else 2  # Pillow's APNG cannot be rewound from a frame that is loaded
            other.seek(place)
            with Image.open(saved(other, save_all=True, quality=95)) as opened:
                assert other.tell() == place
                times = []
                for frame, expected in zip(ImageSequence.Iterator(opened), frames, strict=True):
                    times.append(frame.info["duration"])
                    assert distance(frame, expected) < 60
                assert times == options.get("duration", [0] * 4)
                opened.save(again, "WEBP", save_all=True, duration=times)
        with Image.open(again) as back:
            assert back.n_frames == 4

    def test_iterator_and_all_frames(self) -> None:
        """Pillow's own ways through a sequence."""
        with Image.open(animation()) as opened:
            iterator = ImageSequence.Iterator(opened)
            assert iterator[1].tell() == 1
            with pytest.raises(IndexError):
                _ = iterator[3]
            assert iterator[0].tell() == 0
            opened.seek(1)
            small = ImageSequence.all_frames([opened, picture()], lambda frame: frame.resize((5, 5)))
            assert [frame.size for frame in small] == [(5, 5)] * 4
            assert opened.tell() == 1

    def test_each_frame_saved_on_its_own(self) -> None:
        """Without save_all it is the frame that is shown."""
        with Image.open(animation()) as opened:
            for k in (0, 2):
                opened.seek(k)
                with Image.open(saved(opened)) as single:
                    assert single.n_frames == 1
                    assert distance(single, opened) < NEAR

    def test_a_mask_between(self) -> None:
        """Alpha that changes from frame to frame is exact in each."""
        frames = [picture("RGBA") for _ in range(3)]
        for k, frame in enumerate(frames):
            frame.putalpha(steps().rotate(90 * k))
        with Image.open(animation(frames)) as opened:
            for frame, expected in zip(ImageSequence.Iterator(opened), frames, strict=True):
                assert frame.getchannel("A").tobytes() == expected.getchannel("A").tobytes()


# ---- files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [b"", b"\x8aSGC", b"\x8aSG", b"This is not an image.", b"\x89PNG\r\n\x1a\n" * 9, b"\x8aSGC" * 20], ids=len
)
def test_invalid_files(content: bytes, tmp_path: Path) -> None:
    """An error that Pillow's users expect; the class itself says SyntaxError or OSError, and closes what it opened."""
    (tmp_path / "x.sgc").write_bytes(content)
    with pytest.raises(OSError):
        Image.open(tmp_path / "x.sgc")
    with pytest.raises((SyntaxError, OSError)):
        SgcImageFile(io.BytesIO(content))
    with pytest.raises((SyntaxError, OSError)):
        SgcImageFile(tmp_path / "x.sgc")


def test_why_it_was_not_identified(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow can tell what each format had against a file."""
    monkeypatch.setattr(Image, "WARN_POSSIBLE_FORMATS", True)
    cut = io.BytesIO(saved(picture()).getvalue()[:20])
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with pytest.raises(UnidentifiedImageError):
            Image.open(cut)
    assert any("SGC opening failed" in str(warning.message) for warning in told)


@pytest.mark.parametrize("formats", [["SGC"], ("PNG", "sgc"), ["JPEG", "SGC"]])
def test_formats_to_try(formats: list[str]) -> None:
    """Ours among them, in either case."""
    with Image.open(saved(picture()), formats=formats) as opened:
        assert opened.format == "SGC"


def test_formats_without_ours() -> None:
    """Named formats alone are tried."""
    with pytest.raises(UnidentifiedImageError):
        Image.open(saved(picture()), formats=["JPEG", "PNG"])
    png = io.BytesIO()
    picture().save(png, "PNG")
    with pytest.raises(UnidentifiedImageError):
        Image.open(png, formats=["SGC"])


def test_registries() -> None:
    """The format stands once in each of them; upper case works, too."""
    assert Image.ID.count("SGC") == 1
    assert {"SGC"} == {name for extension, name in Image.registered_extensions().items() if "sgc" in extension.lower()}
    assert Image.MIME["SGC"] == "image/x-sgc"
    assert all("SGC" in registry for registry in (Image.OPEN, Image.SAVE, Image.SAVE_ALL))
    listing = io.StringIO()
    features.pilinfo(listing)
    entry = next(part for part in listing.getvalue().split("-" * 68) if part.strip().startswith("SGC"))
    assert "image/x-sgc" in entry
    assert "Extensions: .sgc" in entry
    assert "Features: open, save, save_all" in entry


class TestNames:
    @pytest.mark.parametrize("kind", [str, os.fsencode, Path])
    def test_paths(self, kind: Callable[[str], str | bytes | Path], tmp_path: Path) -> None:
        """As text, bytes and Path, with an extension in capitals and a name beyond ASCII."""
        path = kind(str(tmp_path / "größe.SGC"))
        picture().save(path)
        with Image.open(path) as opened:
            assert opened.format == "SGC"
            assert opened.filename == os.fspath(path)

    def test_over_itself(self, tmp_path: Path) -> None:
        """A picture that is not loaded yet can be saved under its own name."""
        picture().save(tmp_path / "x.sgc")
        with Image.open(tmp_path / "x.sgc") as opened:
            opened.save(tmp_path / "x.sgc", quality=90)
        with Image.open(tmp_path / "x.sgc") as opened:
            assert distance(opened, picture()) < 2 * NEAR

    def test_replaced_after_opening(self, tmp_path: Path) -> None:
        """What was opened stays what it is when another file takes its name."""
        picture().save(tmp_path / "x.sgc")
        Image.new("RGB", (9, 9)).save(tmp_path / "y.sgc")
        with Image.open(tmp_path / "x.sgc") as opened:
            (tmp_path / "y.sgc").replace(tmp_path / "x.sgc")
            assert distance(opened, picture()) < NEAR

    def test_an_existing_file_is_replaced(self, tmp_path: Path) -> None:
        """All of it, though the new one be shorter."""
        (tmp_path / "x.sgc").write_bytes(bytes(100_000))
        picture().save(tmp_path / "x.sgc")
        assert (tmp_path / "x.sgc").read_bytes() == saved(picture()).getvalue()


class TestHandles:
    """Who closes what."""

    def test_no_resource_warnings(self, tmp_path: Path) -> None:
        """Neither opening, nor saving under another name, leaves a file open."""
        picture().save(tmp_path / "x.sgc")
        animation_file = tmp_path / "m.sgc"
        animation_file.write_bytes(animation().getvalue())
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for name in ("x.sgc", "m.sgc"):
                with Image.open(tmp_path / name) as opened:
                    opened.save(tmp_path / "y.sgc")
                    opened.save(tmp_path / "y.png")

    def test_a_file_object_can_be_used_again(self, tmp_path: Path) -> None:
        """By two pictures in turn; it stays open, also where it holds several frames."""
        for data in (saved(picture()).getvalue(), animation().getvalue()):
            (tmp_path / "x.sgc").write_bytes(data)
            with (tmp_path / "x.sgc").open("rb") as file:
                with Image.open(file) as first:
                    first.load()
                assert not file.closed
                file.seek(0)
                with Image.open(file) as second:
                    second.load()
                assert not file.closed
                assert first.getexif() is not None

    @pytest.mark.parametrize("several", [False, True])
    def test_close(self, several: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """Twice, before and after loading, without a word; what was loaded stays, what was not is gone."""
        (tmp_path / "x.sgc").write_bytes((animation() if several else saved(picture())).getvalue())
        caplog.set_level(logging.DEBUG, "PIL.Image")
        opened = Image.open(tmp_path / "x.sgc")
        opened.close()
        opened.close()
        for use in (
            opened.load,
            lambda: opened.getpixel((0, 0)),
            lambda: opened.crop((0, 0, 9, 9)),
            lambda: opened.reduce(2),
        ):
            with pytest.raises(ValueError, match="closed"):
                use()
        with Image.open(tmp_path / "x.sgc") as opened:
            opened.load()
            pixels = opened.tobytes()
        assert opened.tobytes() == pixels
        assert not [record for record in caplog.records if record.levelno > logging.DEBUG]

    @pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs a list of open files")
    def test_no_open_files_are_left(self, tmp_path: Path) -> None:
        """By path, loaded or failed."""
        good = saved(picture()).getvalue()
        for name, data in (("x", good), ("cut", good[:-9]), ("head", good[:18])):
            (tmp_path / f"{name}.sgc").write_bytes(data)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            with Image.open(tmp_path / "x.sgc") as opened:
                opened.load()
            with Image.open(tmp_path / "cut.sgc") as opened, pytest.raises(OSError, match="ends inside"):
                opened.load()
            with pytest.raises(UnidentifiedImageError):
                Image.open(tmp_path / "head.sgc")
        assert len(os.listdir("/proc/self/fd")) == before

    @pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="needs the size of this process")
    def test_no_memory_is_left(self) -> None:
        """After opening, and after saving, again and again."""

        def size() -> int:
            return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

        source = Image.fromarray(photo(256, 512))
        file = saved(source)

        def rounds(count: int) -> int:
            for _ in range(count):
                with Image.open(file) as opened:
                    opened.load()
                saved(source)
            return size()

        before = rounds(4)
        assert rounds(20) - before < 20 * 512 * 256 * 3 // 2


class TestParser:
    """``ImageFile.Parser``, which is fed bytes as they come."""

    @staticmethod
    def parse(data: bytes, step: int) -> Image.Image:
        parser = ImageFile.Parser()
        for k in range(0, len(data), step):
            parser.feed(data[k : k + step])
        return parser.close()

    @pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "CMYK", "I;16", "F"])
    @pytest.mark.parametrize("step", [100, 1_000_000])
    def test_pictures(self, mode: str, step: int) -> None:
        """In pieces or at once, what ``open`` gives."""
        data = saved(picture(mode)).getvalue()
        with Image.open(io.BytesIO(data)) as opened:
            assert self.parse(data, step).tobytes() == opened.tobytes()

    def test_animations(self) -> None:
        """The first frame."""
        data = animation().getvalue()
        with Image.open(io.BytesIO(data)) as opened:
            assert self.parse(data, 50).tobytes() == opened.tobytes()

    def test_what_is_not_complete(self) -> None:
        """Is an OSError, whether the header is there or not, and so is what is no picture."""
        data = saved(picture()).getvalue()
        for broken in (data[:20], data[:-5], b"x" * 200, b""):
            with pytest.raises(OSError):
                self.parse(broken, 30)


class TestBombs:
    """``Image.MAX_IMAGE_PIXELS``."""

    def test_a_warning(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Up to twice the limit there is one warning, and a picture."""
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", SIZE[0] * SIZE[1] - 1)
        for file in (saved(picture()), animation()):
            with pytest.warns(Image.DecompressionBombWarning) as told:
                opened = Image.open(file)
                opened.load()
            assert len(told) == 1

    @pytest.mark.parametrize("limit", [None, SIZE[0] * SIZE[1]])
    def test_no_warning(self, limit: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without a limit, or just below it."""
        file = saved(picture())
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            Image.open(file).load()


# ---- what is done with pictures that are not loaded yet ------------------------------------------------------------


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "I;16", "F"])
@pytest.mark.parametrize("loaded", [False, True])
def test_pickle(mode: str, loaded: bool, tmp_path: Path) -> None:
    """By a file and every protocol, whether loaded or not; info and mode come along."""
    picture(mode).save(tmp_path / "x.sgc", comment=b"said")
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with Image.open(tmp_path / "x.sgc") as opened:
            if loaded:
                opened.load()
            with (tmp_path / "x.pickle").open("wb") as file:
                pickle.dump(opened, file, protocol)
            with (tmp_path / "x.pickle").open("rb") as file:
                again = pickle.load(file)
            assert again == opened
            assert again.info == opened.info


@pytest.mark.parametrize(
    "use",
    [
        lambda image: image.copy(),
        lambda image: image.convert("L"),
        lambda image: image.rotate(90, expand=True),
        lambda image: image.transpose(Image.Transpose.ROTATE_90),
        lambda image: image.resize((9, 7)),
        lambda image: image.resize((9, 7), box=(3, 4, 40, 40)),
        lambda image: image.crop((3, 4, 5, 7)),
        lambda image: image.crop((-5, -5, 80, 60)),
        lambda image: image.getchannel(1),
        lambda image: image.split()[2],
        lambda image: image.point(lambda level: 255 - level),
        lambda image: image.transform((20, 20), Image.Transform.EXTENT, (0, 0, 40, 40)),
        lambda image: image.quantize(8),
        lambda image: ImageOps.fit(image, (11, 11)),
        ImageOps.autocontrast,
    ],
)
def test_lazy_or_not(use: Callable[[Image.Image], Image.Image]) -> None:
    """Whatever is asked first of a picture that is not loaded, it gives what a loaded one gives."""
    file = saved(picture())
    with Image.open(file) as lazy, Image.open(file) as other:
        other.load()
        result, expected = use(lazy), use(other)
        assert (result.mode, result.size) == (expected.mode, expected.size)
        if result.size in ((11, 11),):  # by a smaller version
            assert distance(result, expected) < NEAR
        else:
            assert result.tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image.putpixel((1, 1), (9, 9, 9)),
        lambda image: image.paste((9, 9, 9), (0, 0, 5, 5)),
        lambda image: image.putalpha(77),
    ],
    ids=["putpixel", "paste", "putalpha"],
)
def test_changes_stay(change: Callable[[Image.Image], None], tmp_path: Path) -> None:
    """A change before loading is not undone by it, and does not reach the file."""
    picture().save(tmp_path / "x.sgc")
    before = (tmp_path / "x.sgc").read_bytes()
    with Image.open(tmp_path / "x.sgc") as lazy, Image.open(tmp_path / "x.sgc") as other:
        other.load()
        change(lazy)
        change(other)
        lazy.load()
        assert lazy.tobytes() == other.tobytes()
    assert (tmp_path / "x.sgc").read_bytes() == before


def test_palettes_are_not_left_behind() -> None:
    """What was a palette has none when it comes back."""
    source = Image.new("P", (8, 8))
    source.putpalette(ImagePalette.sepia().palette)
    with Image.open(saved(source)) as opened:
        opened.load()
        assert opened.palette is None
        assert opened.getpalette() is None


class TestThumbnail:
    """Sizes are those that Pillow would choose for any other format."""

    @pytest.mark.parametrize(
        "size", [(1, 100), (100, 1), (3, 200), (200, 3), (145, 100), (100, 145), (100, 30), (30, 100), (99, 99)]
    )
    @pytest.mark.parametrize("wanted", [(20, 20), (33, 3.7), (5, 300), (1, 1)])
    def test_sizes(self, size: tuple[int, int], wanted: tuple[float, float]) -> None:
        """Sides in the same proportion, never 0, rounded as always."""
        plain = Image.new("L", size)
        with Image.open(saved(plain)) as opened:
            opened.thumbnail(wanted)
            plain.thumbnail(wanted)
            opened.load()
            assert opened.size == plain.size

    @pytest.mark.parametrize("wanted", [SIZE, (640, 480), (64, 4800)])
    def test_not_larger(self, wanted: tuple[int, int]) -> None:
        """A picture that fits stays as it is."""
        file = saved(picture())
        with Image.open(file) as opened, Image.open(file) as other:
            opened.thumbnail(wanted)
            assert opened.tobytes() == other.tobytes()

    def test_transposed(self) -> None:
        """After ``transpose`` it is the turned picture that is made small."""
        with Image.open(saved(picture())) as opened:
            turned = opened.transpose(Image.Transpose.ROTATE_90)
            turned.thumbnail((10, 100))
            assert turned.size == (10, 13)

    def test_of_all_pixels(self) -> None:
        """reducing_gap=None asks for the exact one."""
        file = saved(picture())
        with Image.open(file) as opened, Image.open(file) as other:
            other.load()
            opened.thumbnail((10, 10), reducing_gap=None)
            other.thumbnail((10, 10), reducing_gap=None)
            assert opened.tobytes() == other.tobytes()

    @pytest.mark.parametrize("gap", [1.0, 2.0, 3.0])
    def test_edges(self, gap: float) -> None:
        """Drafts that do not divide the sides leave the edges where they are."""
        source = Image.new("L", (257, 257), 255)
        source.paste(0, (0, 0, 128, 257))
        with Image.open(saved(source, quality=95)) as opened:
            opened.thumbnail((32, 32), reducing_gap=gap)
            source.thumbnail((32, 32), reducing_gap=gap)
            assert distance(opened, source) < NEAR

    def test_of_a_frame(self) -> None:
        """Of an animation it is the frame that is shown."""
        frames = [Image.new("RGB", SIZE, colour) for colour in ("white", "black")]
        with Image.open(animation(frames, quality=95)) as opened:
            opened.seek(1)
            opened.thumbnail((8, 8))
            assert opened.size == (8, 6)
            assert opened.getpixel((4, 3)) == pytest.approx((0, 0, 0), abs=60)
            opened.seek(0)
            assert opened.size == SIZE
            assert opened.getpixel((4, 3)) == pytest.approx((255, 255, 255), abs=60)


@pytest.mark.parametrize("target", ["BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP", "PPM", "TGA"])
def test_on_to_other_formats(target: str) -> None:
    """Straight from a picture that is not loaded, with all the metadata that SGC keeps."""
    exif = Image.Exif()
    exif[ORIENTATION] = 1
    file, there = (
        saved(picture(), exif=exif, xmp=b"<x/>", comment=b"said", dpi=(72, 72), icc_profile=b"profile"),
        io.BytesIO(),
    )
    with Image.open(file) as opened:
        opened.save(there, target)
        with Image.open(there) as other:
            assert other.format == target
            assert distance(other, opened) < NEAR
