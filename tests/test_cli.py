"""The command line: what it writes, prints and returns."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import re
import shutil
import stat
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import imageio.v3 as iio
import numpy as np
import pytest
from conftest import TINY, photo
from PIL import Image, ImageCms, ImageSequence, features
from PIL.PngImagePlugin import PngInfo

import pillow_semicodec as sgc
from pillow_semicodec import bundle, cli, container, convert, metadata, options
from pillow_semicodec.cli import main
from pillow_semicodec.files import write_atomically
from pillow_semicodec.metadata import ORIENTATION


@pytest.fixture
def png(tmp_path: Path) -> Path:
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(photo(200, 240)).save(tmp_path / "x.png", exif=exif, icc_profile=b"icc")
    return tmp_path / "x.png"


def test_encode_decode_info(png: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """There and back, with metadata, and a description without a network."""
    assert main(["encode", str(png), "-q", "90"]) == 0
    sgc = png.with_suffix(".sgc")
    with Image.open(sgc) as image:
        assert image.info["icc_profile"] == b"icc"
        assert image.getexif()[0x0112] == 3
    png.rename(png.with_name("old.png"))
    assert main(["decode", str(sgc)]) == 0
    with Image.open(png) as a, Image.open(sgc) as b:
        assert a.tobytes() == b.tobytes()
        assert a.info["icc_profile"] == b"icc"
        assert a.getexif()[0x0112] == 3
    capsys.readouterr()
    monkeypatch.setattr("pillow_semicodec.inference._Sessions._session", lambda *_: pytest.fail("a network"))
    assert main(["info", str(sgc)]) == 0
    text = capsys.readouterr().out
    for part in ("240x200 RGB", "(tiny)", "ICC profile: 3 bytes unpacked", "checksums: good"):
        assert part in text
    assert main(["info", "--json", str(sgc)]) == 0
    facts = json.loads(capsys.readouterr().out)
    shown = {name: facts[name] for name in ("file", "width", "height", "mode", "bytes", "model_name", "slices", "frames")}
    assert shown == dict(zip(shown, (str(sgc), 240, 200, "RGB", sgc.stat().st_size, "tiny", 1, None), strict=True))
    assert facts["metadata"]["ICC profile"] == 3
    assert facts["head_bytes"] + facts["slice_bytes"] == facts["bytes"]


@pytest.mark.parametrize("order", ["-q 90 A B", "A -q 90 B", "A B -q 90", "-q 90 -- A B"])
def test_options_stand_anywhere(order: str, png: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before, between and after names; the quality that was asked for is told."""
    target = png.with_name("b.sgc")
    names = {"A": str(png), "B": str(target)}
    assert main(["encode", *(names.get(word, word) for word in order.split())]) == 0
    assert main(["info", str(target)]) == 0
    assert main(["info", str(target), "--threads", "1", str(target)]) == 0
    assert capsys.readouterr().out.count("(tiny), quality 90, rate") == 3


def test_names_that_look_like_options(png: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They stand behind ``--``."""
    monkeypatch.chdir(png.parent)
    png.rename("-q.png")
    assert main(["encode", "-q", "90", "--", "-q.png", "-b.sgc"]) == 0
    assert Path("-b.sgc").exists()


def test_info_needs_no_model(
    png: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is described, but for its quality, where its model is damaged or not there."""
    assert main(["encode", str(png)]) == 0
    models = tmp_path / "models"
    shutil.copytree(TINY, models / "tiny")
    (models / "tiny" / "rates.npz").write_bytes(b"junk")
    for place, told in ((models, "(tiny), rate"), (tmp_path / "none", "(not installed), rate")):
        monkeypatch.setenv(bundle.PATH_VARIABLE, str(place))
        assert main(["info", str(png.with_suffix(".sgc"))]) == 0
        text = capsys.readouterr().out
        assert told in text and "checksums: good" in text


def test_failures_are_one_line_and_leave_nothing(png: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 1, the file's name and the cause on standard error, no file left."""
    (tmp_path / "broken.sgc").write_bytes(b"\x8aSGC\0\2broken")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "there.sgc").write_bytes(b"mine")
    data = (tmp_path / "x.png").read_bytes()
    (tmp_path / "badchunk.png").write_bytes(data[:40] + b"\0\0\0\0" + data[44:])
    before = sorted(tmp_path.iterdir())
    for arguments, text in (
        (["decode", "broken.sgc"], "broken.sgc"),
        (["info", "broken.sgc"], "ends inside its header"),
        (["encode", "nonesuch.png"], "nonesuch.png"),
        (["encode", "text.png"], "text.png"),
        (["encode", "x.png", "nowhere/x.sgc"], "nowhere"),
        (["encode", "x.png", "x.jpg"], "x.jpg"),
        (["encode", "x.png", "there.sgc"], "--overwrite"),
        (["encode", "badchunk.png"], "badchunk.png"),
        (["encode", "x.png", "--model", "nonesuch"], "nonesuch"),
    ):
        full = [str(tmp_path / a) if "." in a else a for a in arguments]
        assert main(full) == 1, arguments
        error = capsys.readouterr().err
        assert text in error
        assert error.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["encode"],
        ["nonesuch"],
        ["encode", "x", "-q", "0"],
        ["encode", "x", "--threads", "-1"],
        ["encode", "x", "--nonesuch", "y"],
    ],
)
def test_wrong_usage(arguments: list[str]) -> None:
    """Exit code 2."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_flatten(tmp_path: Path) -> None:
    """--flatten puts transparency on white; without it alpha is kept."""
    Image.new("RGBA", (40, 40), (0, 0, 0, 0)).save(tmp_path / "a.png")
    assert main(["encode", str(tmp_path / "a.png")]) == 0
    with Image.open(tmp_path / "a.sgc") as image:
        assert image.getextrema()[3] == (0, 0)
    assert main(["encode", str(tmp_path / "a.png"), "--flatten", "--overwrite"]) == 0
    with Image.open(tmp_path / "a.sgc") as image:
        assert np.asarray(image).min() > 200
        assert image.mode == "RGB"
    grey = Image.new("LA", (40, 40), (70, 128))
    grey.save(tmp_path / "b.png", icc_profile=bytes(16) + b"GRAY" + bytes(100))
    assert main(["convert", str(tmp_path / "b.png"), "--to", "jpg", "--flatten"]) == 0
    with Image.open(tmp_path / "b.jpg") as image:
        assert (image.mode, image.info["icc_profile"][16:20]) == ("L", b"GRAY")


def test_sixteen_bits_are_not_flattened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A transparent colour in 16 bits is an error, with --flatten, too, which would make them 8; without one all is kept."""
    picture = Image.fromarray(np.full((20, 30), 40000, np.uint16))
    picture.save(tmp_path / "a.png", transparency=7)
    for flatten in ([], ["--flatten"]):
        assert main(["encode", str(tmp_path / "a.png"), *flatten]) == 1
        assert not (tmp_path / "a.sgc").exists()
    assert "16 bits" in capsys.readouterr().err
    picture.save(tmp_path / "b.png")
    assert main(["encode", str(tmp_path / "b.png"), "--flatten"]) == 0
    with Image.open(tmp_path / "b.sgc") as image:
        assert image.mode == "I;16"


@pytest.mark.parametrize("mode", container.VIEWS)
def test_modes_that_png_lacks(mode: str, tmp_path: Path) -> None:
    """What SGC keeps as RGB, grey or with alpha is decoded as that; JPEG gets its CMYK."""
    source = Image.fromarray(photo(40, 50)).convert("RGBA").convert({"La": "LA", "LAB": "RGB"}.get(mode, "RGBA"))
    if mode == "LAB":
        profile = ImageCms.createProfile
        source = ImageCms.profileToProfile(source, profile("sRGB"), profile("LAB"), outputMode="LAB")
    else:
        source = (source if mode in ("La", "RGBa") else source.convert("RGB")).convert(mode)
    source.save(tmp_path / "a.sgc")
    assert main(["decode", str(tmp_path / "a.sgc")]) == 0
    with Image.open(tmp_path / "a.png") as png, Image.open(tmp_path / "a.sgc") as image:
        assert image.mode == mode
        assert png.mode == {"La": "LA", "RGBa": "RGBA"}.get(mode, "RGB")
        assert np.array_equal(np.asarray(png), np.asarray(image.convert(png.mode)))
    if mode == "CMYK":
        assert main(["decode", str(tmp_path / "a.sgc"), str(tmp_path / "a.jpg")]) == 0
        with Image.open(tmp_path / "a.jpg") as image:
            assert image.mode == "CMYK"


@pytest.mark.parametrize("density", [(0, 0), (72, 0)])
def test_resolutions_that_say_nothing(density: tuple[int, int], tmp_path: Path) -> None:
    """Cameras and scanners write them; the picture is converted without."""
    Image.fromarray(photo(40, 50)).save(tmp_path / "a.jpg", dpi=(72, 72))
    data = bytearray((tmp_path / "a.jpg").read_bytes())
    at = data.index(b"JFIF\0") + 8
    data[at : at + 4] = struct.pack(">HH", *density)
    (tmp_path / "a.jpg").write_bytes(data)
    assert main(["encode", str(tmp_path / "a.jpg")]) == 0
    with Image.open(tmp_path / "a.sgc") as image:
        assert "dpi" not in image.info


@pytest.mark.skipif(os.name != "posix", reason="needs a named pipe")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Pillow leaves the pipe to the collector
def test_from_a_pipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A pipe has no size that the result could be compared with."""
    os.mkfifo(tmp_path / "pipe")
    file = io.BytesIO()
    Image.fromarray(photo(40, 50)).save(file, "PNG")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(file.getvalue(),))
    writer.start()
    assert main(["encode", str(tmp_path / "pipe"), str(tmp_path / "a.sgc")]) == 0
    writer.join()
    assert capsys.readouterr().out.endswith(f"{(tmp_path / 'a.sgc').stat().st_size} bytes\n")


@pytest.mark.skipif(os.name != "posix", reason="needs a named pipe")
@pytest.mark.parametrize("more", [[], ["--semantics"], ["--json"]])
def test_info_reads_a_pipe(more: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe")
    data = sgc.encode(photo(40, 50))
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(data,), daemon=True)
    writer.start()
    assert main(["info", str(tmp_path / "pipe"), *more]) == 0, capsys.readouterr().err
    writer.join(10)
    assert not writer.is_alive()


@pytest.mark.skipif(os.name != "posix", reason="needs a shell of POSIX")
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_nobody_has_to_listen(closed: str, png: Path, tmp_path: Path) -> None:
    """What is done is done, and reported as such, where output or errors are closed."""
    command = f"{sys.executable} -m pillow_semicodec"
    encode = f"{command} encode {png} {tmp_path / 'a.sgc'} {closed}"
    tree = f"{command} convert {png} -o {tmp_path / 'out'} --workers 1 --report {tmp_path / 'r.json'} {closed}"
    assert subprocess.run(f"{encode} && {tree}", shell=True, capture_output=True, check=False).returncode == 0
    assert (tmp_path / "a.sgc").exists()
    assert len(list((tmp_path / "out").rglob("*.sgc"))) == 1


@pytest.mark.skipif(os.name != "posix", reason="needs pipes of POSIX")
def test_a_report_is_written_though_nobody_listens(png: Path, tmp_path: Path) -> None:
    """Before what was done is told: rows of files that are there could not be had again."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(png.read_bytes())
    (tmp_path / "in" / "b.png").write_bytes(b"no picture")
    report = tmp_path / "r.json"
    command = [sys.executable, "-m", "pillow_semicodec", "convert", str(tmp_path / "in"), "-o", str(tmp_path / "out")]
    reading, writing = os.pipe()
    os.close(reading)
    subprocess.run([*command, "--workers", "1", "--report", str(report)], stdout=writing, stderr=writing, check=False)
    os.close(writing)
    assert len(json.loads(report.read_text())["files"]) == 2


def test_what_killed_runs_left_is_removed(png: Path, tmp_path: Path) -> None:
    """Beside what is written next."""
    left = tmp_path / ".sgc-killed.part"
    left.touch()
    os.utime(left, (0, 0))
    assert main(["encode", str(png), str(tmp_path / "a.sgc")]) == 0
    assert not left.exists()


@pytest.mark.skipif(os.name != "posix", reason="needs pipes of POSIX")
@pytest.mark.parametrize("count", [1, 300])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_who_reads_only_the_beginning_hears_no_complaint(count: int, unbuffered: str, png: Path, tmp_path: Path) -> None:
    """As with ``sgc info … | head -1``, whatever is left when the command ends."""
    assert main(["encode", str(png), str(tmp_path / "a.sgc")]) == 0
    command = [sys.executable, "-m", "pillow_semicodec", "info", *([str(tmp_path / "a.sgc")] * count)]
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None and process.stderr is not None
        if count > 1:
            process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""


@pytest.mark.parametrize("name", [None, "x.sgc"])
def test_windows_calls_a_closed_pipe_by_another_name(name: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless that is said of a file."""
    monkeypatch.setattr(cli.os, "name", "nt")
    assert cli._nobody_reads(OSError(errno.EINVAL, "Invalid argument", name)) == (name is None)


def test_formats_without_alpha(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What stands in the way of a JPEG is said, with what helps; and that helps."""
    Image.new("RGBA", (40, 40), (0, 0, 0, 0)).save(tmp_path / "a.sgc")
    arguments = ["decode", str(tmp_path / "a.sgc"), str(tmp_path / "a.jpg")]
    assert main(arguments) == 1
    assert "--flatten" in capsys.readouterr().err
    assert not (tmp_path / "a.jpg").exists()
    assert main([*arguments, "--flatten"]) == 0
    with Image.open(tmp_path / "a.jpg") as image:
        assert np.asarray(image).min() == 255


def test_missing_file_is_named_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["encode", str(tmp_path / "nothere.png")]) == 1
    assert capsys.readouterr().err.count("nothere.png") == 1


def test_animations_stay_animated(tmp_path: Path) -> None:
    """From GIF and back, with their times; flattened, every frame is."""
    frames = [Image.new("RGBA", (30, 30), (k, k, k, 255)) for k in (210, 250)]
    for frame in frames:
        frame.paste((0, 0, 0, 0), (0, 0, 9, 9))
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], duration=[30, 40])
    assert main(["encode", str(tmp_path / "a.webp")]) == 0
    assert main(["decode", str(tmp_path / "a.sgc"), str(tmp_path / "b.webp")]) == 0
    with Image.open(tmp_path / "a.sgc") as image, Image.open(tmp_path / "b.webp") as back:
        assert image.n_frames == back.n_frames == 2
        assert image.getextrema()[3] == (0, 255)
        for k, duration in enumerate((30, 40)):
            image.seek(k)
            assert image.info["duration"] == duration
    assert main(["encode", str(tmp_path / "a.webp"), "--flatten", "--overwrite"]) == 0
    with Image.open(tmp_path / "a.sgc") as image:
        assert (image.n_frames, image.mode) == (2, "RGB")
        assert np.asarray(image).min() > 150
    assert main(["decode", str(tmp_path / "a.sgc"), str(tmp_path / "c.bmp")]) == 1  # which would lose a frame
    assert main(["info", str(tmp_path / "a.sgc")]) == 0
    data = (tmp_path / "a.sgc").read_bytes()
    (tmp_path / "a.sgc").write_bytes(data[:-3])
    assert main(["info", str(tmp_path / "a.sgc")]) == 1


def test_convert_folders_both_ways(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A tree goes to .sgc and back to PNG; what fails is listed, what exists is skipped."""
    source = tmp_path / "in"
    (source / "deep").mkdir(parents=True)
    Image.fromarray(photo(40, 60)).save(source / "a.png")
    Image.fromarray(photo(40, 60, 1)).save(source / "deep" / "b.JPG")
    (source / "notes.txt").write_text("not a picture")
    assert main(["convert", str(source), "-o", str(tmp_path / "out")]) == 0
    assert {p.name for p in (tmp_path / "out").rglob("*.sgc")} == {"a.sgc", "b.sgc"}
    assert "2 converted" in capsys.readouterr().out
    (source / "broken.png").write_bytes(b"broken")
    assert main(["convert", str(source), "-o", str(tmp_path / "out")]) == 1
    output = capsys.readouterr()
    assert "0 converted, 2 skipped (exist already), 1 failed" in output.out
    assert "broken.png" in output.err
    assert main(["convert", str(tmp_path / "out"), "--to", "png", "-o", str(tmp_path / "back")]) == 0
    assert {p.name for p in (tmp_path / "back").rglob("*.png")} == {"a.png", "b.png"}
    for quality in ("20", "90"):  # of other formats, too
        assert main(["convert", str(tmp_path / "out"), "--to", "jpg", "-o", str(tmp_path / quality), "-q", quality]) == 0
    assert 1.2 * (tmp_path / "20" / "a.jpg").stat().st_size < (tmp_path / "90" / "a.jpg").stat().st_size


def test_two_sources_with_one_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The second is reported, not written over the first."""
    Image.fromarray(photo(40, 60)).save(tmp_path / "a.png")
    Image.fromarray(photo(40, 60, 1)).save(tmp_path / "a.jpg")
    assert main(["convert", str(tmp_path / "a.png"), str(tmp_path / "a.jpg")]) == 1
    assert "a.jpg: its result" in capsys.readouterr().err


def test_decode_spares_the_original(png: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The picture that was encoded is not replaced by its lossy copy, unless asked for."""
    original = png.read_bytes()
    assert main(["encode", str(png)]) == 0
    assert main(["decode", str(png.with_suffix(".sgc"))]) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert png.read_bytes() == original
    assert main(["decode", str(png.with_suffix(".sgc")), "--overwrite"]) == 0
    assert png.read_bytes() != original


def test_late_exif_is_kept(tmp_path: Path) -> None:
    """EXIF that a format holds behind its pixels goes along."""
    exif = Image.Exif()
    exif[0x010E] = "late"
    Image.fromarray(photo(20, 20)).save(tmp_path / "a.png", exif=exif)
    data = (tmp_path / "a.png").read_bytes()
    start = data.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    (tmp_path / "a.png").write_bytes(data[:start] + data[end:-12] + data[start:end] + data[-12:])
    assert main(["encode", str(tmp_path / "a.png")]) == 0
    with Image.open(tmp_path / "a.sgc") as image:
        assert image.getexif()[0x010E] == "late"


def test_metadata_go_through_every_format(tmp_path: Path) -> None:
    """There and back: XMP and a comment, and of a TIFF what cameras write, though not the shape of its pixels."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "a maker", 6
    for tag, directory in ((0x8769, {0x9003: "2026:01:02 03:04:05"}), (0x8825, {1: "N"})):
        exif.get_ifd(tag).update(directory)
        exif[tag] = directory
    image = Image.fromarray(photo(30, 50))
    exif.get_ifd(0x8769)[0xA005] = 8
    image.save(tmp_path / "a.tif", exif=exif)
    image.save(tmp_path / "b.jpg", exif=exif, xmp=b"<x>\xc3\xa9</x>", comment="said")
    assert main(["convert", str(tmp_path / "a.tif"), str(tmp_path / "b.jpg"), "--workers", "1"]) == 0
    with Image.open(tmp_path / "a.sgc") as found:
        tags = found.getexif()
        assert (found.size, tags.get(0x0112), tags[0x010F]) == ((30, 50), None, "a maker")  # turned, once
        assert (tags.get_ifd(0x8769)[0x9003], tags.get_ifd(0x8825)[1]) == ("2026:01:02 03:04:05", "N")
        assert not {0x0100, 0x0111} & set(tags)
    for suffix, comment in (("png", True), ("tif", False), ("jpg", True), ("webp", None)):
        back = tmp_path / f"back.{suffix}"
        assert main(["decode", str(tmp_path / "b.sgc"), str(back), "--overwrite"]) == 0
        assert main(["encode", str(back), "--overwrite"]) == 0
        with Image.open(back) as shown, Image.open(tmp_path / "back.sgc") as found:
            tags = found.getexif()
            assert shown.info["xmp"].rstrip(b"\0") == found.info["xmp"].rstrip(b"\0") == b"<x>\xc3\xa9</x>"
            assert tags[0x010F] == "a maker"
            assert tags.get_ifd(0x8769)[0x9003] == "2026:01:02 03:04:05"
            if comment is not None:
                assert (found.info["comment"] if comment else tags[0x010E].encode()) == b"said"


@pytest.mark.parametrize("key", ["xmp", "comment", "exif"])
def test_metadata_beyond_what_jpeg_holds(key: str, tmp_path: Path) -> None:
    """They are left out, and that is said; the picture is written, with the others."""
    texts = {"xmp": b"<x/>", "comment": b"short", key: b"x" * 70000}
    Image.fromarray(photo(30, 50)).save(tmp_path / "a.sgc", **texts)
    with pytest.warns(UserWarning, match=rf"a\.sgc: 70000 bytes of {key} do not fit"):
        assert main(["decode", str(tmp_path / "a.sgc"), str(tmp_path / "a.jpg")]) == 0
    with Image.open(tmp_path / "a.jpg") as image:
        assert not image.info.get(key)
        assert [image.info[k] for k in ("xmp", "comment") if k != key] == [texts[k] for k in ("xmp", "comment") if k != key]


def test_exif_of_formats_that_leave_its_marker_out(tmp_path: Path) -> None:
    """WebP has none; a JPEG's readers look for it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photo(30, 50)).save(tmp_path / "a.webp", exif=exif)
    assert main(["encode", str(tmp_path / "a.webp"), str(tmp_path / "a.sgc")]) == 0
    for name in ("a.jpg", "a.mpo", "a.webp", "a.png", "a.avif"):
        assert main(["decode", str(tmp_path / "a.sgc"), str(tmp_path / name), "--overwrite"]) == 0
        with Image.open(tmp_path / name) as image:
            assert image.getexif()[0x0112] == 6


@pytest.mark.skipif(not features.check("jpg_2000"), reason="needs JPEG 2000")
def test_comments_beyond_what_jpeg_2000_holds(tmp_path: Path) -> None:
    """The longest that fits is kept; a longer one is left out, which is told."""
    for size, kept in ((65530, True), (65531, False)):
        Image.fromarray(photo(30, 50)).save(tmp_path / "a.sgc", comment=b"x" * size)
        with contextlib.nullcontext() if kept else pytest.warns(UserWarning, match="of comment do not fit into JPEG2000"):
            assert main(["decode", str(tmp_path / "a.sgc"), str(tmp_path / "a.jp2"), "--overwrite"]) == 0
        with Image.open(tmp_path / "a.jp2") as image:
            assert image.info["comment"].startswith(b"xxx") == kept  # or it is the library's own


def test_text_that_is_not_ascii(tmp_path: Path) -> None:
    """Keeps its bytes, whichever they are, from and to TIFF; comments are UTF-8, or were Latin-1."""
    exif = Image.Exif()
    exif[0x013B], exif[0x8298] = "José".encode(), "© Zoë".encode("latin-1")
    image = Image.fromarray(photo(30, 50))
    image.save(tmp_path / "a.tif", exif=exif)
    image.save(tmp_path / "b.jpg", comment="un café".encode("latin-1"))
    assert main(["convert", str(tmp_path / "a.tif"), str(tmp_path / "b.jpg"), "--workers", "1"]) == 0
    assert main(["decode", str(tmp_path / "a.sgc"), str(tmp_path / "back.tif")]) == 0
    for name in ("a.sgc", "back.tif"):
        with Image.open(tmp_path / name) as found:
            tags = found.getexif()
            assert (tags[0x013B].encode("latin-1"), tags[0x8298]) == ("José".encode(), "© Zoë")
    assert main(["decode", str(tmp_path / "b.sgc"), str(tmp_path / "b.png")]) == 0
    assert main(["decode", str(tmp_path / "b.sgc"), str(tmp_path / "b.tif")]) == 0
    with Image.open(tmp_path / "b.png") as png, Image.open(tmp_path / "b.tif") as tif:
        assert png.info["Comment"] == "un café"
        assert tif.getexif()[0x010E].encode("latin-1").decode() == "un café"


def test_exif_that_is_broken_or_speaks_of_other_pixels(tmp_path: Path) -> None:
    """It goes along where it can, and keeps no picture from being converted or read."""
    image = Image.fromarray(photo(30, 50))
    image.save(tmp_path / "a.sgc", exif=b"no EXIF at all")
    exif = Image.Exif()
    exif[0x0100], exif[0x0101], exif[0x010F] = 4000, 3000, "a maker"
    image.save(tmp_path / "b.sgc", exif=exif.tobytes())
    assert main(["decode", str(tmp_path / "a.sgc"), str(tmp_path / "a.jpg")]) == 0
    assert main(["encode", str(tmp_path / "a.jpg"), str(tmp_path / "c.sgc")]) == 0
    with pytest.warns(UserWarning, match=r"a\.sgc: its EXIF does not fit into TIFF"):
        assert main(["decode", str(tmp_path / "a.sgc"), str(tmp_path / "a.tif")]) == 0
    with pytest.warns(UserWarning, match=r"a\.sgc: what stands for its EXIF is none"):
        assert main(["decode", str(tmp_path / "a.sgc"), str(tmp_path / "a.avif")]) == 0
    assert main(["decode", str(tmp_path / "b.sgc"), str(tmp_path / "b.tif")]) == 0
    with Image.open(tmp_path / "b.tif") as found:
        found.load()
        assert (found.size, found.getexif()[0x010F]) == ((50, 30), "a maker")


@pytest.mark.parametrize("suffix", ["gif", "webp"])
def test_animations_of_sixteen_bits(suffix: str, tmp_path: Path) -> None:
    """Keep their frames in eight."""
    frames = [Image.fromarray(np.full((30, 40), level, np.uint16)) for level in (9000, 30000, 60000)]
    frames[0].save(tmp_path / "a.sgc", save_all=True, append_images=frames[1:])
    assert main(["decode", str(tmp_path / "a.sgc"), str(tmp_path / f"a.{suffix}")]) == 0
    with Image.open(tmp_path / f"a.{suffix}") as image:
        levels = [np.asarray(frame.convert("L")).mean() for frame in ImageSequence.Iterator(image)]
    assert np.allclose(levels, [35, 117, 233], atol=8)


@pytest.mark.parametrize("suffix", ["webp", "avif", "gif", "jpg", "png"])
def test_more_than_eight_bits_are_not_cut(suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Formats of 8 bits get the upper ones of 16; floats have no range that would be theirs."""
    ramp = np.linspace(0, 65535, 40 * 60).reshape(40, 60)
    Image.fromarray(ramp.astype(np.uint16)).save(tmp_path / "a.sgc", quality=90)
    Image.fromarray((ramp / 65535).astype(np.float32)).save(tmp_path / "f.sgc")
    target = tmp_path / f"a.{suffix}"
    assert main(["decode", str(tmp_path / "a.sgc"), str(target)]) == 0
    with Image.open(target) as image:
        levels = np.asarray(image).astype(float) / 257 if suffix == "png" else np.asarray(image.convert("L")).astype(float)
    assert np.abs(levels - ramp / 257).mean() < 6
    assert main(["decode", str(tmp_path / "f.sgc"), str(tmp_path / f"f.{suffix}")]) == 1
    assert "cannot write mode F" in capsys.readouterr().err


def test_readers_errors_name_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever kind they are."""
    Image.fromarray(photo(30, 50)).save(buffer := io.BytesIO(), "PNG")
    data = bytearray(buffer.getvalue())
    data[33 + 4 : 33 + 8] = bytes(4)  # the type of the second chunk: Pillow raises a SyntaxError
    (tmp_path / "a.png").write_bytes(data)
    assert main(["encode", str(tmp_path / "a.png")]) == 1
    assert f"sgc: {tmp_path / 'a.png'}: " in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege")
def test_links_and_devices(tmp_path: Path) -> None:
    """A link stays a link, and what is no regular file is written to, not replaced."""
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_atomically(tmp_path / "link", lambda file: file.write(b"new"))
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"
    assert write_atomically(Path(os.devnull), lambda file: file.write(b"new")) == 3
    assert not Path(os.devnull).is_file()


def test_atomic_writing(tmp_path: Path) -> None:
    """A writer that fails leaves the old file and no temporary one; a good one keeps the permissions."""
    target = tmp_path / "x"
    target.write_bytes(b"old")
    target.chmod(0o640)

    def fail(file) -> None:
        file.write(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(target, fail)
    assert target.read_bytes() == b"old"
    assert write_atomically(target, lambda file: file.write(b"new!")) == 4
    assert os.name == "nt" or stat.S_IMODE(target.stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["x"]


def test_demo(tmp_path: Path, png: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The demo prints a row per codec and writes the comparison."""
    assert main(["demo", str(png), "-o", str(tmp_path / "demo.png")]) == 0
    text = capsys.readouterr().out
    for name in ("SGC", "JPEG q", "WebP q", "AVIF q", "SSIMULACRA2"):
        assert name in text
    with Image.open(tmp_path / "demo.png") as image:
        assert image.width > 5 * 200


def test_the_demo_of_what_others_cannot_hold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Shows the rest, and says which; a picture too small for a score has none."""
    Image.fromarray(photo(7, 16500)).save(tmp_path / "long.png")
    assert main(["demo", str(tmp_path / "long.png"), "-q", "5", "-o", str(tmp_path / "demo.png"), "--threads", "1"]) == 0
    told = capsys.readouterr().out
    assert "WebP cannot hold it: " in told
    assert re.search(r"^JPEG q.* nan ", told, re.M)
    assert (tmp_path / "demo.png").exists()


def test_the_demo_shows_what_a_viewer_would(tmp_path: Path) -> None:
    """Transparent pictures lie on white; what colour is hidden under alpha says nothing."""
    source, sheet = tmp_path / "clear.png", tmp_path / "sheet.png"
    Image.new("RGBA", (64, 64), (255, 0, 0, 0)).save(source)
    assert main(["demo", str(source), "-o", str(sheet)]) == 0
    with Image.open(sheet) as image:
        assert image.crop((0, 24, *image.size)).convert("L").getextrema()[0] > 250


def test_the_demo_replaces_no_photograph(png: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = png.read_bytes()
    assert main(["demo", str(png), "-o", str(png)]) == 1
    assert "same file" in capsys.readouterr().err
    assert png.read_bytes() == before
    assert main(["demo", str(png), "-o", str(tmp_path / "sheet.jpg")]) == 1
    assert "PNG" in capsys.readouterr().err


def test_holes_of_animations_reach_gif(tmp_path: Path) -> None:
    """What an earlier frame shows there is gone."""
    frames = []
    for k in range(3):
        frame = np.zeros((32, 32, 4), np.uint8)
        frame[8 * k : 8 * k + 8, 4:12] = 200, 60, 10, 255
        frames.append(frame)
    (tmp_path / "a.sgc").write_bytes(sgc.encode_animation(frames, 90, durations=50))
    assert main(["decode", str(tmp_path / "a.sgc"), str(tmp_path / "a.gif")]) == 0
    assert main(["decode", str(tmp_path / "a.sgc"), str(tmp_path / "flat.gif"), "--flatten"]) == 0
    with Image.open(tmp_path / "flat.gif") as opened:
        assert opened.disposal_method != convert.CLEARED  # nothing to clear: only what changes is stored
    with Image.open(tmp_path / "a.gif") as opened:
        for k, frame in enumerate(frames):
            opened.seek(k)
            assert np.array_equal(np.asarray(opened.convert("RGBA"))[:, :, 3], frame[:, :, 3])


def test_errors_name_what_is_wrong(png: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing folder is not blamed on the source, an archive is no folder, and a quality is a number."""
    assert main(["encode", str(png), str(tmp_path / "nowhere" / "x.sgc")]) == 1
    error = capsys.readouterr().err
    assert "nowhere" in error and ".part" not in error
    assert main(["convert", str(png), "-o", str(tmp_path / "out.zip")]) == 1
    assert "not into archives" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["encode", str(png), "-q", "high"])
    assert "a number from 1 to 100" in capsys.readouterr().err


def test_messages_name_the_file_once(png: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever finds the fault, the file's name stands in its line, one time, and no temporary file's."""
    folder = tmp_path / "folder"
    folder.mkdir()
    data = sgc.encode(photo(64, 64))
    files = {
        "cut.sgc": data[:-9],
        "cut  early.sgc": data[:30],
        "text.sgc": b"no picture",
        "empty.sgc": b"",
        "flipped.sgc": data[:-9] + b"x" + data[-8:],
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    commands = [[command, str(tmp_path / name)] for command in ("info", "decode") for name in files]
    commands += [[command, str(tmp_path / "missing.sgc")] for command in ("info", "decode", "convert")]
    commands += [["search", str(folder), "--like", str(tmp_path / name)] for name in files]
    commands += [[command, str(folder)] for command in ("info", "encode", "decode")]
    (tmp_path / "junk.png").write_text("no picture")
    (tmp_path / "half.png").write_bytes(png.read_bytes()[:-5000])
    (folder / "x.png" / "deep").mkdir(parents=True)
    commands += [[command, str(tmp_path / name)] for command in ("encode", "convert") for name in ("junk.png", "half.png")]
    commands += [["search", str(folder), "--like", str(tmp_path / "half.png")], ["demo", str(tmp_path / "half.png")]]
    for command in commands:
        assert main(command) == 1
        told = capsys.readouterr().err
        assert told.count("\n") == 1, told
        assert told.count(" ".join(command[-1].split())) == 1, told
        assert "Errno" not in told, told
        assert ".part" not in told, told


def test_nothing_to_convert_is_said(png: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not only by the exit code; and results of a folder do not go into a file."""
    empty, small = tmp_path / "empty", tmp_path / "small"
    empty.mkdir()
    assert main(["convert", str(empty)]) == 1
    assert f"{empty}: no pictures" in capsys.readouterr().err
    assert main(["convert", str(empty), "--to", "png"]) == 1
    assert f"{empty}: no .sgc files" in capsys.readouterr().err
    assert main(["convert", str(png), "--to", "xyz"]) == 1
    assert "--to .xyz: no format that can be written" in capsys.readouterr().err
    assert main(["convert", str(png), "-o", str(small)]) == 0
    assert main(["convert", str(small)]) == 1
    assert "--to png" in capsys.readouterr().err
    assert main(["convert", str(small), "-o", str(png)]) == 1
    assert "into a folder" in capsys.readouterr().err


def test_one_file_into_a_folder(png: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As other tools that copy do it."""
    folder = tmp_path / "folder.of.results"
    folder.mkdir()
    assert main(["encode", str(png), str(folder)]) == 0
    assert main(["decode", str(folder / "x.sgc"), str(folder)]) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["x.png", "x.sgc"]
    assert main(["decode", str(png), str(folder / "y.png")]) == 1
    assert "not an SGC file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "why"),
    [
        ("--threads", "x", "a whole number"),
        ("--threads", "-1", "from 0 to 1024"),
        ("--alpha-quality", "101", "from 0 to 100"),
    ],
)
def test_numbers_out_of_range_are_usage(option: str, value: str, why: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, and what would be right."""
    with pytest.raises(SystemExit, match="2"):
        main(["encode", "x.png", option, value])
    assert why in capsys.readouterr().err


def test_info_names_the_mode_that_pillow_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Beside that in which the file is coded."""
    picture, grey = Image.fromarray(photo(20, 30)), photo(20, 30)[:, :, 0]
    files = {f"{mode}, ": Image.fromarray(grey.astype(dtype)) for mode, dtype in (("I;16", "u2"), ("I", "i4"), ("F", "f4"))}
    files |= {"RGB, ": picture, "RGB (CMYK through Pillow), ": picture.convert("CMYK")}
    for told, image in files.items():
        image.save(tmp_path / "x.sgc")
        assert main(["info", str(tmp_path / "x.sgc")]) == 0
        assert f"x.sgc: 30x20 {told}" in capsys.readouterr().out
    (tmp_path / "x.sgc").write_bytes(sgc.encode(photo(20, 30).astype(np.uint16)))
    assert main(["info", str(tmp_path / "x.sgc")]) == 0
    assert "x.sgc: 30x20 RGB;16 (RGB through Pillow), " in capsys.readouterr().out


def test_info_of_an_animation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Bits are those of a frame's pixels, and all bytes are told."""
    frames = [Image.fromarray(photo(64, 96, k)) for k in range(3)]
    frames[0].save(tmp_path / "moving.sgc", save_all=True, append_images=frames[1:], duration=100)
    assert main(["info", str(tmp_path / "moving.sgc")]) == 0
    first, *others = capsys.readouterr().out.splitlines()
    size = (tmp_path / "moving.sgc").stat().st_size
    assert f"{size} bytes, {8 * size / (3 * 64 * 96):.3f} bits per pixel" in first
    head, slices, after = (
        int(line.rsplit(" bytes", 1)[0].split()[-1]) for line in (others[1].split(";")[0], others[1], others[-2])
    )
    assert head + slices + after == size


def test_a_long_comment_of_letters_beyond_ascii(tmp_path: Path) -> None:
    """Its bytes count, not its letters: Pillow's JPEG writer never ends with more than it has room for."""
    texts = PngInfo()
    texts.add_itxt("Comment", "é" * 40000)
    Image.fromarray(photo(20, 30)).save(tmp_path / "x.png", pnginfo=texts)
    assert main(["encode", str(tmp_path / "x.png")]) == 0
    for source in ("x.png", "x.sgc"):
        with Image.open(tmp_path / source) as image, pytest.warns(UserWarning, match="80000 bytes of comment"):
            assert not metadata.keywords("JPEG", metadata.load(image), "RGB").get("comment")


def test_a_tiff_that_says_no_resolution_has_none(tmp_path: Path) -> None:
    """Pillow says one dot per inch."""
    Image.fromarray(photo(20, 30)).save(tmp_path / "x.tif")
    Image.fromarray(photo(20, 30)).save(tmp_path / "dots.tif", dpi=(300, 300))
    for name, expected in (("x", None), ("dots", (300, 300))):
        assert main(["encode", str(tmp_path / f"{name}.tif")]) == 0
        with Image.open(tmp_path / f"{name}.sgc") as image:
            assert image.info.get("dpi") == expected


def converted(source: Path, suffix: str, strip: bool = False, **save: Any) -> Path:
    target = source.with_name(f"{source.stem}-{suffix}").with_suffix(f".{suffix}")
    outcome = convert.convert(convert.Job(str(source), str(target)), convert.Settings(save, strip=strip))
    assert not outcome.error
    return target


def test_a_jpeg_that_says_no_resolution_has_none(tmp_path: Path) -> None:
    """Pillow says 72 of one that has EXIF; what EXIF or JFIF says is kept, if it be 72."""
    exif, dots = Image.Exif(), Image.Exif()
    exif[0x0110] = "camera"
    dots.update({0x011A: 72.0, 0x011B: 72.0, 0x0128: 2})
    odd = Image.Exif()
    odd.update({0x011A: 300.0, 0x011B: 300.0})  # of no unit
    cases = (
        ({"exif": exif}, None),
        ({"exif": odd}, None),
        ({"exif": dots}, (72, 72)),
        ({"exif": exif, "dpi": (72, 72)}, (72, 72)),
        ({}, None),
    )
    for k, (keywords, expected) in enumerate(cases):
        Image.fromarray(photo(20, 30)).save(tmp_path / f"{k}.jpg", **keywords)
        for suffix in ("sgc", "png"):
            with Image.open(converted(tmp_path / f"{k}.jpg", suffix)) as image:
                assert image.info.get("dpi") == (expected and pytest.approx(expected, rel=1e-3))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_resolutions_turn_with_a_tiff(orientation: int, tmp_path: Path) -> None:
    """Its pixels come turned; what was across is then upright."""
    Image.fromarray(photo(20, 30)).save(tmp_path / "x.tif", dpi=(200, 100), tiffinfo={ORIENTATION: orientation})
    with Image.open(converted(tmp_path / "x.tif", "sgc")) as image:
        upright = orientation >= 5
        assert image.size == ((20, 30) if upright else (30, 20))
        assert image.info["dpi"] == ((100, 200) if upright else (200, 100))


@pytest.mark.parametrize(
    ("mode", "source", "colours", "suffix", "kept"),
    [
        ("CMYK", "jpg", b"CMYK", "webp", False),
        ("CMYK", "jpg", b"CMYK", "avif", False),
        ("CMYK", "jpg", b"CMYK", "tif", True),
        ("L", "png", b"GRAY", "webp", False),
        ("L", "png", b"GRAY", "jpg", True),
        ("L", "png", b"RGB ", "webp", True),
        ("L", "jpg", b"RGB ", "png", True),
        ("RGB", "png", b"RGB ", "avif", True),
        ("RGB", "png", b"icc ", "webp", True),
    ],
)
@pytest.mark.filterwarnings("ignore:.*its ICC profile is not of the colours:UserWarning")
def test_profiles_go_where_their_colours_are(
    mode: str, source: str, colours: bytes, suffix: str, kept: bool, tmp_path: Path
) -> None:
    """One of ink, or of grey, says nothing of a file that stores red, green and blue."""
    profile = bytes(16) + colours + bytes(108)
    Image.fromarray(photo(20, 30)).convert(mode).save(tmp_path / f"x.{source}", icc_profile=profile)
    with Image.open(converted(tmp_path / f"x.{source}", suffix)) as image:
        assert image.info.get("icc_profile") == (profile if kept else None)


def test_what_an_apng_says_behind_its_last_frame(tmp_path: Path) -> None:
    """Pillow knows it there, and no longer where it goes back."""
    frames = [Image.fromarray(photo(20, 30, k)) for k in range(3)]
    exif = Image.Exif()
    exif[0x0110] = "camera"
    exif[ORIENTATION] = 6
    text = b"Comment\0\0\0\0\0behind"
    behind = [b"iTXt" + text, b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")]
    for default in (False, True):
        frames[0].save(tmp_path / "x.png", save_all=True, append_images=frames[1:], default_image=default)
        whole = (tmp_path / "x.png").read_bytes()
        chunks = b"".join(struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in behind)
        (tmp_path / "x.png").write_bytes(whole[:-12] + chunks + whole[-12:])
        with Image.open(converted(tmp_path / "x.png", "sgc")) as image:
            assert image.n_frames == 3 - default
            assert image.info["comment"] == b"behind"
            assert image.getexif()[0x0110] == "camera"
        (tmp_path / "x-sgc.sgc").unlink()
        with Image.open(converted(tmp_path / "x.png", "webp", strip=True)) as image:
            assert dict(image.getexif()) == {ORIENTATION: 6}
        (tmp_path / "x-webp.webp").unlink()


def test_a_quality_for_what_has_none(tmp_path: Path) -> None:
    """Writers of black and white PDFs, and of TIFFs as those that were compressed, would refuse it."""
    Image.fromarray(photo(20, 30)).convert("1").save(tmp_path / "fax.sgc", exif=b"none at all")
    Image.fromarray(photo(20, 30)).save(tmp_path / "x.tif", compression="tiff_lzw")
    Image.fromarray(photo(20, 30)).save(tmp_path / "photo.tif", compression="jpeg")
    assert b"CCITT" in converted(tmp_path / "fax.sgc", "pdf", quality=50).read_bytes()
    with Image.open(converted(tmp_path / "x.tif", "tiff", quality=50)) as image, Image.open(tmp_path / "x.tif") as before:
        assert image.tobytes() == before.tobytes()
    Image.new("RGB", (30, 20)).save(
        tmp_path / "scan.tif", save_all=True, append_images=[Image.new("RGB", (30, 20))], compression="tiff_lzw"
    )
    converted(tmp_path / "scan.tif", "tiff", quality=50)
    sizes = [converted(tmp_path / "photo.tif", suffix, quality=q).stat().st_size for suffix, q in (("tif", 5), ("tiff", 95))]
    assert sizes[0] < sizes[1]


def test_long_metadata_in_a_pdf(tmp_path: Path) -> None:
    """Its pages are JPEGs, which have no room for that."""
    Image.fromarray(photo(20, 30)).save(tmp_path / "x.sgc", xmp=b"x" * 70000, exif=bytes(70000), comment=b"c" * 65532)
    with pytest.warns(UserWarning, match="bytes of (exif|xmp|comment) do not fit into PDF") as told:
        assert converted(tmp_path / "x.sgc", "pdf").read_bytes().startswith(b"%PDF")
    assert len(told) == 3


@pytest.mark.skipif(not features.check("jpg_2000"), reason="this Pillow has no JPEG 2000")
def test_codestreams_of_jpeg_2000(tmp_path: Path) -> None:
    """A name that stands for one is given one, without JP2's boxes; colours stay, though it does not say what they are."""
    for mode in ("RGB", "YCbCr", "CMYK"):
        Image.fromarray(photo(20, 30)).convert(mode).save(tmp_path / f"{mode}.sgc", quality=95)
        for suffix in ("j2k", "jp2"):
            with Image.open(converted(tmp_path / f"{mode}.sgc", suffix)) as image:
                error = np.asarray(image.convert("RGB")).astype(float) - photo(20, 30)
                assert np.abs(error).mean() < 15
    Image.fromarray(photo(20, 30)).save(tmp_path / "x.png")
    for suffix, begin in (("j2k", b"\xff\x4f"), ("j2c", b"\xff\x4f"), ("jpc", b"\xff\x4f"), ("jp2", b"\0\0\0\x0cjP")):
        assert converted(tmp_path / "x.png", suffix).read_bytes().startswith(begin)


def test_help_in_any_encoding() -> None:
    """Its signs are escaped where the terminal has none for them."""
    command = [sys.executable, "-m", "pillow_semicodec", "convert", "--help"]
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}
    result = subprocess.run(command, env=environment, capture_output=True, timeout=60, check=True)
    assert b"--report" in result.stdout


@pytest.mark.parametrize(("quota", "most"), [("150000 100000", 2), ("max 100000", 2**20), ("50 100", 1), ("", 2**20)])
def test_cores_of_a_container(quota: str, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as its quota is worth."""
    monkeypatch.setattr(options, "QUOTA", tmp_path / "absent")
    before = options.cores()
    (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr(options, "QUOTA", tmp_path / "cpu.max")
    assert options.cores() == min(before, most)


def test_threads_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing else is said; what is no number of threads is told."""
    for said, threads in (("3", 3), ("", 0), ("0", 0)):
        monkeypatch.setenv(options.THREADS_VARIABLE, said)
        assert options.threads_by_default() == threads
    for said in ("many", "-1", "1025"):
        monkeypatch.setenv(options.THREADS_VARIABLE, said)
        with pytest.warns(UserWarning, match="SGC_THREADS must be"):
            assert options.threads_by_default() == 0


def test_what_is_not_on_the_disk_takes_no_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Network drives tell of a full one when a file is stored, not when it is written; some file systems store nothing."""
    target = tmp_path / "x"
    target.write_bytes(b"old")

    def store(number: int) -> Callable[[int], None]:
        def fail(_: int) -> None:
            raise OSError(number, os.strerror(number))

        return fail

    monkeypatch.setattr("pillow_semicodec.files.os.fsync", store(errno.ENOSPC))
    with pytest.raises(OSError, match="No space"):
        write_atomically(target, lambda file: file.write(b"new"))
    assert target.read_bytes() == b"old"
    monkeypatch.setattr("pillow_semicodec.files.os.fsync", store(errno.EINVAL))
    write_atomically(target, lambda file: file.write(b"new"))
    assert target.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("links", [True, False])
def test_what_has_come_to_exist_meanwhile(links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is not replaced unless that is asked for, whether the file system knows links or not."""

    def no_links(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    if not links:
        monkeypatch.setattr("pillow_semicodec.files.os.link", no_links)
    target = tmp_path / "x"
    assert write_atomically(target, lambda file: file.write(b"first"), replace=False) == 5
    target.unlink()

    def write(file: IO[bytes]) -> None:
        target.write_bytes(b"somebody's")
        file.write(b"mine")

    with pytest.raises(FileExistsError, match="--overwrite"):
        write_atomically(target, write, replace=False)
    assert target.read_bytes() == b"somebody's"
    assert os.listdir(tmp_path) == ["x"]
    write_atomically(target, write)
    assert target.read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        ("--alpha-quality 10", {"alpha_quality": 10}),
        ("--exact", {"exact": True}),
        ("--preview", {"preview": True}),
        ("--heads tiny-heads", {"semantics": ("tiny-heads",)}),
        ("--target-bpp 4", {"target_bpp": 4.0}),
        ("--target-psnr 24", {"target_psnr": 24.0}),
        ("--effort 3", {"effort": 3}),
    ],
)
def test_options_are_those_of_encode(flags: str, options: dict[str, Any], tmp_path: Path) -> None:
    """On the command line and through imageio."""
    picture = photo(128, 192, 2)
    if {"alpha_quality", "exact"} & set(options):
        picture = np.dstack([picture, np.minimum(picture[..., 1] // 4 * 4, 252)])
        picture[:40, :, 3] = 0
    Image.fromarray(picture).save(tmp_path / "a.png")
    assert main(["encode", str(tmp_path / "a.png"), *flags.split()]) == 0
    expected = sgc.encode(picture, **options)
    assert expected != sgc.encode(picture)
    assert (tmp_path / "a.sgc").read_bytes() == expected
    assert iio.imwrite("<bytes>", picture, extension=".sgc", **options) == expected


def test_rights_are_set_where_they_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On drives that give all files the same ones, nobody but the owner may set even those."""

    def refuse(self: Path, mode: int) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", str(self))

    write_atomically(tmp_path / "x", lambda file: file.write(b"old"))  # type: ignore[arg-type, return-value]
    with monkeypatch.context() as patch:
        patch.setattr(Path, "chmod", refuse)
        write_atomically(tmp_path / "x", lambda file: file.write(b"new"))  # type: ignore[arg-type, return-value]
    (tmp_path / "x").chmod(0o400)
    monkeypatch.setattr(Path, "chmod", refuse)
    with pytest.raises(PermissionError):
        write_atomically(tmp_path / "x", lambda file: file.write(b"newer"))  # type: ignore[arg-type, return-value]
    assert (tmp_path / "x").read_bytes() == b"new"
    assert len(list(tmp_path.iterdir())) == 1


def test_providers_and_threads_reach_the_work(
    tmp_path: Path, png: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of this process, and of the workers of a pool."""
    monkeypatch.setattr(options, "PROVIDERS", ())
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(photo(30, 40)).save(tmp_path / "in" / name)
    for workers in ("1", "2"):
        run = ["convert", str(tmp_path / "in"), "-o", str(tmp_path / workers), "--workers", workers]
        assert main([*run, "--provider", "NoExecutionProvider"]) == 1
        assert "no NoExecutionProvider here" in capsys.readouterr().err
    heard: list[tuple[int, int]] = []

    def run_pool(jobs: object, settings: object, workers: int, threads: int) -> Iterator[convert.Outcome]:
        heard.append((workers, threads))
        yield from ()

    monkeypatch.setattr(convert, "run_pool", run_pool)
    main([*run, "--threads", "3"])
    assert heard == [(2, 3)]


def test_without_semaphores_one_process_converts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in containers that have no /dev/shm."""

    class Without:
        def Semaphore(self, value: int) -> None:
            raise OSError(errno.ENOSYS, "Function not implemented")

    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(photo(30, 40)).save(tmp_path / "in" / name)
    monkeypatch.setattr(convert, "get_context", lambda method: Without())
    assert main(["convert", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--workers", "2"]) == 0
    assert len(list((tmp_path / "out").iterdir())) == 2


@pytest.mark.parametrize("command", ["encode", "convert", "decode"])
def test_strip(command: str, tmp_path: Path) -> None:
    """Nothing is left of place, time and author; how the picture is turned, its colours and its resolution stay."""
    exif = Image.Exif()
    exif[ORIENTATION], exif[0x013B] = 6, "the author"
    exif.get_ifd(0x8825)[2] = (52.0, 30.0, 0.0)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    kept = {"exif": exif, "icc_profile": profile, "dpi": (300, 300), "comment": b"of the author"}
    source, result = (
        (tmp_path / "a.sgc", tmp_path / "b.jpg") if command == "decode" else (tmp_path / "a.jpg", tmp_path / "a.sgc")
    )
    Image.fromarray(photo(60, 80)).save(source, xmp=b"<x>the author</x>", **kept)
    names = [str(source), str(result)] if command == "decode" else [str(source)]
    assert main([command, *names, "--strip"]) == 0
    data = result.read_bytes()
    with Image.open(result) as image:
        assert dict(image.getexif()) == {ORIENTATION: 6}
        assert image.info["icc_profile"] == profile
        assert [round(n) for n in image.info["dpi"]] == [300, 300]
        assert not {"xmp", "comment"} & set(image.info)
    assert b"author" not in data
    with Image.open(source) as image:
        assert image.getexif()[0x013B] == "the author"


@pytest.mark.parametrize("flatten", [[], ["--flatten"]])
@pytest.mark.parametrize("suffix", ["tif", "gif"])
def test_strip_between_other_formats(suffix: str, flatten: list[str], tmp_path: Path) -> None:
    """Pillow's writers take tags of TIFFs, and comments of films, from the picture itself."""
    (tmp_path / "in").mkdir()
    frames = [Image.fromarray(photo(30, 40, k)) for k in range(2)]
    kept = {"comment": b"the author"} if suffix == "gif" else {"tiffinfo": {700: b"<x>the author</x>"}}
    frames[0].save(tmp_path / "in" / f"a.{suffix}", save_all=True, append_images=frames[1:], **kept)
    assert b"the author" in (tmp_path / "in" / f"a.{suffix}").read_bytes()
    run = ["convert", str(tmp_path / "in" / f"a.{suffix}"), "-o", str(tmp_path / "out"), "--to", suffix, "--strip", *flatten]
    assert main(run) == 0
    assert b"the author" not in (tmp_path / "out" / f"a.{suffix}").read_bytes()
    with Image.open(tmp_path / "out" / f"a.{suffix}") as image:
        assert image.n_frames == 2  # type: ignore[attr-defined]
