"""Bulk conversion: where pictures come from, what is skipped, what goes wrong, and runs that are killed."""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import json
import multiprocessing
import os
import signal
import struct
import subprocess
import sys
import tarfile
import time
import types
import zipfile
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from conftest import photo
from PIL import Image

import pillow_semicodec as sgc
from pillow_semicodec import convert, files, other_formats
from pillow_semicodec.cli import main
from pillow_semicodec.convert import Job, Settings, run_pool
from pillow_semicodec.files import ignores_case, sweep, write_atomically
from pillow_semicodec.metadata import ORIENTATION

KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # Windows' ends a process at once, too


def pictures(folder: Path, count: int) -> list[Path]:
    paths = [folder / f"{k:03}.png" for k in range(count)]
    folder.mkdir(parents=True, exist_ok=True)
    for k, path in enumerate(paths):
        Image.fromarray(photo(24 + k % 7, 40, k)).save(path)
    return paths


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "tgz", "glob", "memory"])
def test_sources(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Archives, globs and URLs give the same files as the folder."""
    paths = pictures(tmp_path / "in" / "deep", 3)
    if kind == "zip":
        source = str(tmp_path / "all.zip")
        with zipfile.ZipFile(source, "w") as archive:
            for path in paths:
                archive.write(path, f"deep/{path.name}")
    elif kind in ("tar.gz", "tgz"):
        source = str(tmp_path / f"all.{kind}")
        with tarfile.open(source, "w:gz") as archive:
            for path in paths:
                archive.add(path, f"deep/{path.name}")
    elif kind == "glob":
        source = str(tmp_path / "in" / "**" / "*.png")
    else:
        fsspec = pytest.importorskip("fsspec")
        source = "memory://bucket/pictures"
        for path in paths:
            fsspec.filesystem("memory").pipe_file(f"/bucket/pictures/deep/{path.name}", path.read_bytes())
    if kind != "glob":
        pytest.importorskip("fsspec")
    assert main(["convert", source, "-o", str(tmp_path / "out"), "--workers", "1"]) == 0
    assert "3 converted" in capsys.readouterr().out
    assert names(tmp_path / "out") == ["000.sgc", "001.sgc", "002.sgc"]
    assert (tmp_path / "out" / "deep" / "000.sgc").exists()
    assert np.asarray(Image.open(sorted((tmp_path / "out").rglob("*.sgc"))[1])).shape == (25, 40, 3)


def test_globs_that_find_folders(tmp_path: Path) -> None:
    """What is in them is taken, once, however deep they lie."""
    for folder in ("trip/holiday 1/deep", "trip/holiday 2", "work"):
        pictures(tmp_path / "in" / folder, 1)
    for pattern, count in (("in/**", 3), ("in/*", 3), ("in/**/holiday*", 2), ("in/**/*", 3), ("in/trip/**/*.png", 2)):
        jobs, _ = convert.plan([str(tmp_path / pattern)], "out", ".sgc", frozenset({".png"}), False, [])
        assert (pattern, len(jobs)) == (pattern, count)


def test_members_of_archives_that_unfold_without_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more is read than a bound, the same for all."""
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("a.png", pictures(tmp_path, 1)[0].read_bytes())
    monkeypatch.setattr(convert, "MOST_BYTES", 100)
    assert main(["convert", str(tmp_path / "all.zip"), "-o", str(tmp_path / "out"), "--workers", "1"]) == 1
    assert "more than 100 bytes" in capsys.readouterr().err


@pytest.mark.parametrize(("loop", "rounds"), [(None, 1), (0, 0), (1, 2), (3, 4)])
def test_gifs_are_shown_as_often_as_before(loop: int | None, rounds: int, tmp_path: Path) -> None:
    """There and back: a GIF says how often it is repeated, an SGC file how often it is shown."""
    first, second = (Image.fromarray(photo(20, 30, seed)) for seed in (1, 2))
    says = {} if loop is None else {"loop": loop}
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second], duration=50, **says)
    assert main(["encode", str(tmp_path / "a.gif"), str(tmp_path / "a.sgc")]) == 0
    assert main(["decode", str(tmp_path / "a.sgc"), str(tmp_path / "b.gif")]) == 0
    with Image.open(tmp_path / "a.sgc") as sgc, Image.open(tmp_path / "b.gif") as gif:
        assert (sgc.info["loop"], gif.info.get("loop")) == (rounds, loop)


def test_loops_beyond_what_a_format_holds(tmp_path: Path) -> None:
    """Become the most that it does; AVIF, which says nothing of them, goes on for ever."""
    first, second = (Image.fromarray(photo(20, 30, seed)) for seed in (1, 2))
    first.save(tmp_path / "a.sgc", save_all=True, append_images=[second], loop=2**20)
    for name in ("a.gif", "a.webp"):
        assert main(["decode", str(tmp_path / "a.sgc"), str(tmp_path / name)]) == 0
        with Image.open(tmp_path / name) as image:
            assert image.info["loop"] == 2**16 - 1
    first.save(tmp_path / "b.avif", save_all=True, append_images=[second])
    assert main(["encode", str(tmp_path / "b.avif"), str(tmp_path / "b.sgc")]) == 0
    with Image.open(tmp_path / "b.sgc") as image:
        assert (image.n_frames, image.info["loop"]) == (2, 0)


def test_broken_archives_and_places_outside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are told; the others are converted, and nothing is written outside the folder."""
    pytest.importorskip("fsspec")
    (path,) = pictures(tmp_path / "in", 1)
    (tmp_path / "broken.zip").write_bytes(b"PK no archive")
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.write(path, "../../evil.png")
        archive.write(path, "good.png")
    sources = [str(tmp_path / name) for name in ("broken.zip", "evil.zip", "in")]
    assert main(["convert", *sources, "-o", str(tmp_path / "a" / "out"), "--workers", "1"]) == 1
    told = capsys.readouterr()
    assert "broken.zip" in told.err
    assert "outside" in told.err
    assert names(tmp_path / "a") == ["000.sgc", "good.sgc"]
    assert not list(tmp_path.glob("evil.sgc"))


def tar_of(path: Path, compression: str, members: list[tarfile.TarInfo], data: bytes) -> None:
    """Files hold ``data``."""
    with tarfile.open(path, f"w:{compression}", format=tarfile.PAX_FORMAT) as archive:  # type: ignore[call-overload]
        for member in members:
            member.size = len(data) if member.isfile() else 0
            archive.addfile(member, io.BytesIO(data))


def test_members_that_no_disk_can_hold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Are told, and do not end the run."""
    pytest.importorskip("fsspec")
    (path,) = pictures(tmp_path, 1)
    odd = tarfile.TarInfo("odd.png")
    odd.pax_headers = {"path": "a\0b.png"}
    deep = tarfile.TarInfo("a/" * 600 + "x.png")
    tar_of(tmp_path / "evil.tar", "", [odd, tarfile.TarInfo("good.png"), deep], path.read_bytes())
    assert main(["convert", str(tmp_path / "evil.tar"), "-o", str(tmp_path / "out"), "--workers", "1"]) == 1
    assert "null" in capsys.readouterr().err
    assert "good.sgc" in names(tmp_path / "out")


def test_a_tar_is_listed_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever folders it has; links in it, for which it would be unpacked anew, are told."""
    pytest.importorskip("fsspec")
    (path,) = pictures(tmp_path, 1)
    link = tarfile.TarInfo("b/link.png")
    link.type, link.linkname = tarfile.SYMTYPE, "../a/x.png"
    folder = tarfile.TarInfo("a")
    folder.type = tarfile.DIRTYPE
    files = [tarfile.TarInfo(name) for name in ("a/x.png", "b/c/y.png", "ab/z.png", "a/text.txt")]
    tar_of(tmp_path / "all.tar.gz", "gz", [folder, *files, link], path.read_bytes())
    assert main(["convert", str(tmp_path / "all.tar.gz"), "-o", str(tmp_path / "out"), "--workers", "1"]) == 1
    assert "b/link.png::" in (told := capsys.readouterr().err)
    assert "a link in a compressed archive" in told
    assert sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.sgc")) == [
        "a/x.sgc", "ab/z.sgc", "b/c/y.sgc"
    ]  # fmt: skip
    tar_of(tmp_path / "plain.tar", "", [tarfile.TarInfo("a/x.png"), link], path.read_bytes())
    assert main(["convert", str(tmp_path / "plain.tar"), "-o", str(tmp_path / "plain"), "--workers", "1"]) == 0
    assert names(tmp_path / "plain") == ["link.sgc", "x.sgc"]
    part = f"tar://a::{tmp_path / 'all.tar.gz'}"
    assert main(["convert", part, "-o", str(tmp_path / "part"), "--workers", "1"]) == 0
    assert names(tmp_path / "part") == ["x.sgc"]


def test_pictures_are_no_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PostScript is looked at only where a file is called so."""
    program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n"
    asked = []
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *a, **k: asked.append(1) or Image.new("RGB", (10, 10)).im)
    for name in ("a.png", "b.eps"):
        (tmp_path / name).write_bytes(program)
        main(["encode", str(tmp_path / name)])
    assert asked == [1]
    pytest.importorskip("fsspec")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.write(tmp_path / "b.eps", "c.eps")
    assert main(["convert", str(tmp_path / "all.zip"), "-o", str(tmp_path / "out"), "--workers", "1"]) == 0
    assert asked == [1, 1]


def test_frames_beyond_what_is_stored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Are refused before any is coded."""
    monkeypatch.setattr(convert, "MAX_FRAMES", 2)
    frames = [Image.new("L", (8, 8), value) for value in (0, 90, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    monkeypatch.setattr("pillow_semicodec.codec.encode", lambda *a, **k: pytest.fail("coded"))
    assert main(["encode", str(tmp_path / "a.gif")]) == 1
    assert names(tmp_path) == ["a.gif"]


def test_members_whose_names_lead_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Are told, without what drives a terminal, and not read; the others are."""
    pytest.importorskip("fsspec")
    (path,) = pictures(tmp_path, 1)
    with zipfile.ZipFile(tmp_path / "private.zip", "w") as archive:
        archive.write(path, "x.png")
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.write(path, f"x.png::file://{tmp_path}/private.zip::y.png")
        archive.write(path, "\x1b]0;title\x07.png")
    arguments = ["convert", str(tmp_path / "evil.zip"), "-o", str(tmp_path / "out"), "--workers", "1"]
    for more in (["--dry-run"], []):
        assert main([*arguments, *more]) == 1
        told = capsys.readouterr()
        assert "is not read" in told.err
        assert "\x1b" not in told.out + told.err
    assert len(names(tmp_path / "out")) == 1


def test_named_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """One file by two names is one job; a colon in a name makes no URL."""
    (path,) = pictures(tmp_path / "in", 1)
    path.rename(path.with_name("a::b.png"))
    monkeypatch.chdir(tmp_path)
    arguments = ["convert", "in", str(tmp_path / "in"), "in/*.png", "-o", "out", "--workers", "1"]
    assert main(arguments) == 0
    assert "1 converted" in capsys.readouterr().out
    assert names(tmp_path / "out") == ["a::b.sgc"]


def test_a_url_that_ends_in_no_extension(tmp_path: Path) -> None:
    """Is one file, if it is named itself."""
    fsspec = pytest.importorskip("fsspec")
    (path,) = pictures(tmp_path, 1)
    fsspec.filesystem("memory").pipe_file("/shelf/photo", path.read_bytes())
    assert main(["convert", "memory://shelf/photo", "-o", str(tmp_path / "out"), "--workers", "1"]) == 0
    assert names(tmp_path / "out") == ["photo.sgc"]


def test_queries_are_no_globs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signed addresses of single pictures keep their query; results are named without it."""
    pytest.importorskip("fsspec")
    from fsspec.implementations.memory import MemoryFileSystem
    from fsspec.registry import _registry

    class Web(MemoryFileSystem):  # as fsspec's own, which needs aiohttp
        protocol = ("http", "https")

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return path

    monkeypatch.setitem(_registry, "https", Web)
    failures: list[convert.Outcome] = []
    url = "https://localhost/a/b.jpg?signature=c.d/e"
    jobs, _ = convert.plan([url], "out", ".sgc", frozenset({".jpg"}), False, failures)
    assert (failures, [job.source for job in jobs], [Path(job.target).name for job in jobs]) == ([], [url], ["b.sgc"])


def test_smaller_versions_in_a_tiff_are_no_frames(tmp_path: Path) -> None:
    """The picture is converted; pages of other sizes that do not say so are refused."""
    picture, small = Image.fromarray(photo(40, 60)), Image.fromarray(photo(20, 30))
    small.encoderinfo = {"tiffinfo": {254: 1}}  # type: ignore[attr-defined]
    picture.save(tmp_path / "a.tif", save_all=True, append_images=[small])
    picture.save(tmp_path / "b.tif", save_all=True, append_images=[Image.fromarray(photo(20, 30))])
    assert main(["convert", str(tmp_path / "a.tif")]) == 0
    with Image.open(tmp_path / "a.sgc") as opened:
        assert (opened.size, getattr(opened, "n_frames", 1)) == ((60, 40), 1)
    assert main(["convert", str(tmp_path / "b.tif")]) == 1


def test_results_may_lie_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A URL as the output; what is there already is skipped."""
    fsspec = pytest.importorskip("fsspec")
    pictures(tmp_path / "in", 2)
    for _ in range(2):
        assert main(["convert", str(tmp_path / "in"), "-o", "memory://results/x", "--workers", "1"]) == 0
    assert "2 skipped" in capsys.readouterr().out
    assert [Path(p).name for p in fsspec.filesystem("memory").find("/results")] == ["000.sgc", "001.sgc"]


def test_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It says what would be done."""
    pictures(tmp_path / "in", 2)
    report = tmp_path / "r.json"
    assert main(["convert", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--dry-run", "--report", str(report)]) == 0
    assert "001.png → " in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Bytes and quality of every file, failures with their reason."""
    pytest.importorskip("ssimulacra2")
    pictures(tmp_path / "in", 2)
    (tmp_path / "in" / "broken.png").write_bytes(b"no picture")
    arguments = ["convert", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--measure", "--workers", "1"]
    assert main([*arguments, "--report", str(tmp_path / "report.json")]) == 1
    told = capsys.readouterr()
    assert "PSNR" in told.out
    assert "broken.png" in told.err
    rows = {Path(row["source"]).name: row for row in json.loads((tmp_path / "report.json").read_text())["files"]}
    assert rows["000.png"]["after"] == (tmp_path / "out" / "000.sgc").stat().st_size
    assert rows["000.png"]["quality"]["psnr"] > 15
    assert "not a picture" in rows["broken.png"]["error"]


def test_a_report_keeps_what_it_said_before(tmp_path: Path) -> None:
    """Of pictures that an earlier run has converted; a dry run leaves it alone."""
    pictures(tmp_path / "in", 2)
    report = tmp_path / "r.json"
    arguments = ["convert", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--workers", "1", "--report", str(report)]
    assert main([*arguments, "--measure"]) == 0
    before = json.loads(report.read_text())["files"]
    (tmp_path / "out" / "001.sgc").unlink()
    (tmp_path / "in" / "broken.png").write_bytes(b"no picture")
    assert main([*arguments, "--dry-run"]) == 0
    assert json.loads(report.read_text())["files"] == before
    for _ in range(2):
        assert main(arguments) == 1
        rows = {Path(row["source"]).name: row for row in json.loads(report.read_text())["files"]}
        assert sorted(rows) == ["000.png", "001.png", "broken.png"]
        assert rows["000.png"] == before[0]
        assert rows["001.png"]["after"] == before[1]["after"]
    report.write_text("{}")  # JSON of another kind
    assert main(arguments) == 1
    assert [Path(row["source"]).name for row in json.loads(report.read_text())["files"]] == ["broken.png"]


def test_reports_replace_no_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the report cannot lie is said before any work."""
    first, second = pictures(tmp_path / "in", 2)
    before = first.read_bytes()
    nameless = tmp_path / "nameless"
    nameless.write_bytes(before)
    for report in (first, nameless, tmp_path / "nowhere" / "r.json", tmp_path / "in"):
        arguments = ["convert", str(second), "-o", str(tmp_path / "out"), "--report", str(report)]
        assert main(arguments) == 1
        assert str(report) in capsys.readouterr().err
    assert first.read_bytes() == nameless.read_bytes() == before
    assert not (tmp_path / "out").exists()
    for _ in range(2):  # among the results, whose folder is not there yet; and in place of an older one
        report = tmp_path / "out" / "told" / "r.json"
        assert main(["convert", str(second), "-o", str(tmp_path / "out"), "--report", str(report)]) == 0
        assert "files" in json.loads(report.read_text())


def test_measures_of_an_apng_with_a_default_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Are those of its frames."""
    pytest.importorskip("ssimulacra2")
    first, *rest = (Image.fromarray(photo(40, 48, seed)) for seed in (9, 1, 2))
    first.save(tmp_path / "x.png", save_all=True, append_images=rest, default_image=True, duration=50)
    report = tmp_path / "r.json"
    arguments = ["convert", str(tmp_path / "x.png"), "-o", str(tmp_path / "out"), "--measure", "--report", str(report)]
    assert main(arguments) == 0
    assert json.loads(report.read_text())["files"][0]["quality"]["psnr"] > 22


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege")
def test_loops_of_links_and_odd_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Links to a parent are not followed, lost ones are told; names need not be UTF-8."""
    folder = tmp_path / "in"
    paths = pictures(folder, 1)
    (folder / "loop").symlink_to(folder)
    (folder / "loop.png").symlink_to(folder / "loop.png")
    odd = os.fsencode(folder) + b"/caf\xe9.png"
    try:
        os.link(paths[0], odd)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    assert main(["convert", str(folder), "-o", str(tmp_path / "out"), "--workers", "1"]) == 1
    assert "leads nowhere" in capsys.readouterr().err
    assert sorted(os.listdir(os.fsencode(tmp_path / "out"))) == [b"000.sgc", b"caf\xe9.sgc"]
    pattern = str(folder / "**" / "*.png")
    assert main(["convert", pattern, "-o", str(tmp_path / "again"), "--workers", "1"]) == 0
    assert len(os.listdir(tmp_path / "again")) == 2


def test_junctions_are_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows' folders that are others, or their parents."""
    pictures(tmp_path / "in", 1)
    pictures(tmp_path / "in" / "junction", 1)
    pictures(tmp_path / "in" / "folder", 1)
    look = os.lstat

    def lstat(path: Any, **options: Any) -> Any:
        tag = files.JUNCTION if str(path).endswith("junction") else 0
        return types.SimpleNamespace(st_reparse_tag=tag, st_mode=look(path, **options).st_mode)

    monkeypatch.setattr(files.os, "lstat", lstat)
    found = [str(path) for _, path in files.walk([tmp_path / "in"], frozenset({".png"}))]
    assert found == ["000.png", os.path.join("folder", "000.png")]


@pytest.mark.parametrize(("age", "stays"), [(10, True), (100, False)])
def test_where_nothing_is_locked_what_is_fresh_is_not_swept(
    age: float, stays: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody may be about to rename it."""
    monkeypatch.setattr(files, "fcntl", None)
    part = tmp_path / f"{files.PREFIX}x{files.SUFFIX}"
    part.touch()
    os.utime(part, (time.time() - age,) * 2)
    sweep([tmp_path])
    assert part.exists() == stays


@pytest.mark.skipif(getattr(os, "geteuid", lambda: 0)() == 0, reason="nothing is forbidden to root")
def test_forbidden_folders_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What cannot be listed is a failure; the rest is converted."""
    pictures(tmp_path / "in", 1)
    pictures(tmp_path / "in" / "closed", 1)
    (tmp_path / "in" / "closed").chmod(0)
    try:
        assert main(["convert", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--workers", "1"]) == 1
    finally:
        (tmp_path / "in" / "closed").chmod(0o700)
    assert "closed" in capsys.readouterr().err
    assert names(tmp_path / "out") == ["000.sgc"]


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the cause, nothing half written stays, the source is untouched."""
    (path,) = pictures(tmp_path / "in", 1)
    before = path.read_bytes()

    def full(*arguments: object, **keywords: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pillow_semicodec.codec.container.write_container", full)
    outcome = convert.convert(Job(str(path), str(tmp_path / "out" / "x.sgc")), Settings())
    assert "No space left" in outcome.error
    assert names(tmp_path / "out") == []
    assert path.read_bytes() == before


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".sgc"])
def test_files_that_cannot_grow(suffix: str, tmp_path: Path) -> None:
    """Whatever the format: a write that stops in the middle is an error, and leaves nothing."""
    import resource

    source = tmp_path / "x.png"
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(source)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        outcome = convert.convert(Job(str(source), str(tmp_path / "out" / f"y{suffix}")), Settings())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert outcome.error
    assert names(tmp_path / "out") == []


def test_results_at_a_url_are_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the local disk by its URL, and elsewhere: a write that fails leaves nothing, and nothing is damaged."""
    fsspec = pytest.importorskip("fsspec")
    from fsspec.implementations.memory import MemoryFileSystem

    (source,) = pictures(tmp_path / "in", 1)
    out = tmp_path / "out"
    real = io.BytesIO.write
    memory = fsspec.filesystem("memory")

    class Cut(MemoryFileSystem):
        protocol = ("cut",)
        cachable = False

        def _open(self, *args: Any, **options: Any) -> Any:
            file = super()._open(*args, **options)
            file.write = lambda data: (real(file, bytes(data)[:100]), (_ for _ in ()).throw(OSError("the line is cut")))
            return file

    fsspec.register_implementation("cut", Cut, clobber=True)
    assert main(["convert", str(source), "-o", f"file://{out}", "--workers", "1"]) == 0
    assert main(["convert", str(source), "-o", "memory://there", "--workers", "1"]) == 0
    good = (out / "000.sgc").read_bytes()
    assert memory.cat_file("/there/000.sgc") == good
    assert not [p for p in out.iterdir() if p.name != "000.sgc"]
    left = out / ".sgc-0123456789abcdef.part"  # of a run that was killed
    left.touch()
    os.utime(left, (0, 0))
    assert main(["convert", f"file://{source.parent}", "-o", f"file://{out}"]) == 0
    assert names(out) == ["000.sgc"]
    assert main(["convert", str(source), "-o", "cut://there", "--workers", "1", "--overwrite", "-q", "5"]) == 1
    assert memory.cat_file("/there/000.sgc") == good
    assert main(["convert", str(source), "-o", "cut://new", "--workers", "1"]) == 1
    assert not memory.exists("/new/000.sgc")


@pytest.mark.parametrize("server", ["replaces", "refuses", "says nothing"])
def test_servers_whose_file_systems_know_no_transactions(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results are written beside their places and renamed; sources there are found again on the same server."""
    pytest.importorskip("fsspec")
    from fsspec.implementations.memory import MemoryFileSystem
    from fsspec.registry import _registry

    class Server(MemoryFileSystem):
        protocol = ("sftp", "ssh")
        cachable = False
        store: dict[str, Any] = {}  # noqa: RUF012
        pseudo_dirs = [""]  # noqa: RUF012
        full = False

        def __init__(self, host: str) -> None:
            super().__init__()
            assert host == "me@here"

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return "/" + (path.partition("://")[2].partition("/")[2] if "://" in path else path).strip("/")

        @staticmethod
        def _get_kwargs_from_urls(path: str) -> dict[str, str]:
            return {"host": path.partition("://")[2].partition("/")[0]}

        def start_transaction(self) -> None:
            raise OSError("there is no /tmp")

        def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
            file = super()._open(path, mode, **options)
            if self.full and mode == "wb":
                file.write = lambda data: (_ for _ in ()).throw(OSError("the disk is full"))
            return file

        def mv(self, old: str, new: str, **options: Any) -> None:
            if self.exists(new) and server != "replaces":
                if server == "refuses":
                    raise OSError("it is there")
                return
            self.store[new] = self.store.pop(old)

    monkeypatch.setitem(_registry, "sftp", Server)
    (source,) = pictures(tmp_path, 1)
    command = ["convert", str(source), "-o", "sftp://me@here/there", "--workers", "1"]
    assert main(command) == 0
    first = Server("me@here").cat_file("/there/000.sgc")
    assert main(command) == 0
    assert "1 skipped" in capsys.readouterr().out
    monkeypatch.setattr(Server, "full", True)
    assert main([*command, "--overwrite", "-q", "5"]) == 1
    assert "the disk is full" in capsys.readouterr().err
    assert {path: file.getvalue() for path, file in Server.store.items()} == {"/there/000.sgc": first}
    monkeypatch.setattr(Server, "full", False)
    assert main([*command, "--overwrite", "-q", "5"]) == 0
    assert list(Server.store) == ["/there/000.sgc"]
    assert len(Server("me@here").cat_file("/there/000.sgc")) < len(first)
    for name in ("there", "there/000.sgc", "there/*.sgc"):
        assert main(["convert", f"sftp://me@here/{name}", "--to", "png", "-o", str(tmp_path / name), "--workers", "1"]) == 0
        assert names(tmp_path / name) == ["000.png"]


def test_measures_of_what_is_seen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Colours under alpha 0 count for nothing, and exact pictures do not make a mean infinite."""
    pytest.importorskip("ssimulacra2")
    rgba = np.dstack([photo(64, 80), np.zeros((64, 80), np.uint8)])
    rgba[:, 40:, 3] = 255
    rgba[:, :40, :3] = np.random.default_rng(0).integers(0, 256, (64, 40, 3))
    Image.fromarray(rgba).save(tmp_path / "a.png")
    Image.fromarray(photo(64, 80)[:, :, 0] > 100).save(tmp_path / "b.png")
    assert main(["convert", str(tmp_path), "-q", "90", "--measure", "--workers", "1"]) == 0
    told = capsys.readouterr().out
    assert "(1 exact ones apart)" in told
    assert float(told.split("mean PSNR ")[1].split()[0]) > 22


def test_wrong_outputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An empty name, as of a variable that is not set, is not the root folder; targets are SGC's."""
    (source,) = pictures(tmp_path, 1)
    assert main(["convert", str(source), "-o", "", "--dry-run"]) == 1
    assert "empty" in capsys.readouterr().err
    Image.fromarray(photo(20, 30)).save(tmp_path / "x.sgc")
    assert main(["convert", str(tmp_path / "x.sgc"), "--to", "jpg", "--target-size", "600"]) == 1
    assert "--target-size" in capsys.readouterr().err
    assert main(["convert", str(tmp_path / "x.sgc"), "--to", "png", "--effort", "5", "--semantics"]) == 1
    assert "--effort, --semantics: for .sgc" in capsys.readouterr().err


def test_pictures_of_one_name_and_two_formats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The second has no place, which is told with the way out; with ``--keep-extension`` both have, and come back."""
    (tmp_path / "in").mkdir()
    for suffix, grey in ((".jpg", 40), (".png", 200)):
        Image.new("L", (20, 20), grey).save(tmp_path / "in" / f"a{suffix}")
    run = ["convert", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--workers", "1"]
    assert main(run) == 1
    assert "--keep-extension" in capsys.readouterr().err
    for folder in ("b", "c"):
        pictures(tmp_path / folder, 1)
    twice = [str(tmp_path / folder / "000.png") for folder in ("b", "c")]
    assert main(["convert", *twice, "-o", str(tmp_path / "one"), "--workers", "1"]) == 1
    assert "--keep-extension" not in capsys.readouterr().err  # which would not help
    assert main([*run, "--keep-extension"]) == 0
    assert main(["convert", str(tmp_path / "out"), "-o", str(tmp_path / "back"), "--to", "png", "--workers", "1"]) == 0
    assert sorted(path.name for path in (tmp_path / "back").iterdir()) == ["a.jpg.png", "a.png", "a.png.png"]
    for name, grey in (("a.jpg.png", 40), ("a.png.png", 200)):
        with Image.open(tmp_path / "back" / name) as image:
            assert abs(image.getpixel((10, 10)) - grey) <= 2  # type: ignore[operator]


def test_results_never_replace_sources(tmp_path: Path) -> None:
    """A picture beside another whose result would have its name stays, even with overwrite."""
    for name in ("x.png", "x.webp"):
        Image.fromarray(photo(20, 20)).save(tmp_path / name)
    failures: list[convert.Outcome] = []
    both = [str(tmp_path / name) for name in ("x.png", "x.webp")]
    jobs, _ = convert.plan(both, None, ".webp", frozenset({".png", ".webp"}), True, failures)
    assert not jobs
    assert all("would replace a source" in failure.error for failure in failures) and len(failures) == 2


@pytest.mark.parametrize("ignored", [True, False])
def test_names_that_differ_in_capital_letters_only(
    ignored: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where they are one file, the second has no place; elsewhere both have."""
    (tmp_path / "in").mkdir()
    for name in ("a.jpg", "A.png"):
        Image.new("L", (20, 20)).save(tmp_path / "in" / name)
    monkeypatch.setattr(convert, "ignores_case", lambda path: ignored)
    failed = main(["convert", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--dry-run"])
    told = capsys.readouterr()
    assert failed == ignored
    assert ("--keep-extension" in told.err) == ignored
    assert told.out.count(" → ") == 2 - ignored


def test_whether_capital_letters_matter(tmp_path: Path) -> None:
    """Said as it is, of folders that are yet to be made, too."""
    (tmp_path / "Folder").mkdir()
    (tmp_path / "Folder" / "2024").mkdir()
    (tmp_path / "2025").mkdir()
    (tmp_path / "2025" / "ß.png").touch()  # which capital letters lead away from
    same = (tmp_path / "fOLDER").exists()
    for place in ("Folder/x", "Folder/new/1/x", "Folder/2024/x", "2025/x", "x"):
        assert ignores_case(str(tmp_path / place)) == same


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege")
def test_results_never_replace_sources_by_another_name(tmp_path: Path) -> None:
    """A link to their folder is their folder."""
    (tmp_path / "in").mkdir()
    for name, colour in (("a.jpg", "red"), ("a.png", "blue")):
        Image.new("RGB", (20, 20), colour).save(tmp_path / "in" / name)
    before = (tmp_path / "in" / "a.png").read_bytes()
    (tmp_path / "link").symlink_to(tmp_path / "in")
    sources = [str(tmp_path / "in" / name) for name in ("a.jpg", "a.png")]
    assert main(["convert", *sources, "-o", str(tmp_path / "link"), "--to", "png", "--overwrite"]) == 1
    assert (tmp_path / "in" / "a.png").read_bytes() == before


@pytest.mark.parametrize("mode", ["CMYK", "RGBX", "YCbCr", "LAB", "HSV", "RGBa", "La"])
@pytest.mark.parametrize("suffix", [".ico", ".gif", ".webp", ".png", ".jp2"])
def test_modes_that_a_format_lacks_become_those_that_it_has(mode: str, suffix: str, tmp_path: Path) -> None:
    """Whatever it says of them, and however late; nothing of a first try is left in the file."""
    picture = Image.new("RGB", (32, 32), (200, 40, 90)).convert(mode.upper() if mode in ("RGBa", "La") else mode)
    picture.convert(mode).save(tmp_path / "x.sgc", quality=95)
    assert main(["decode", str(tmp_path / "x.sgc"), str(tmp_path / f"x{suffix}")]) == 0
    with Image.open(tmp_path / f"x{suffix}") as opened:
        opened.load()
        assert opened.size == (32, 32)
    assert main(["decode", str(tmp_path / "x.sgc"), str(tmp_path / "flat.png"), "--flatten"]) == 0


@pytest.mark.parametrize("suffix", [".bmp", ".ppm", ".dib"])
def test_alpha_is_not_dropped_silently(suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """These formats would show the colours under it."""
    picture = np.zeros((32, 32, 4), np.uint8)
    picture[8:20, 8:20] = 220, 30, 30, 255
    Image.fromarray(picture).save(tmp_path / "logo.sgc")
    target = tmp_path / f"logo{suffix}"
    assert main(["decode", str(tmp_path / "logo.sgc"), str(target)]) == 1
    assert "--flatten" in capsys.readouterr().err
    assert not target.exists()
    assert main(["decode", str(tmp_path / "logo.sgc"), str(target), "--flatten"]) == 0
    with Image.open(target) as opened:
        assert opened.convert("RGB").getpixel((1, 1)) == (255, 255, 255)
    picture[:, :, 3] = 255  # which hides nothing
    Image.fromarray(picture).save(tmp_path / "opaque.sgc")
    assert main(["decode", str(tmp_path / "opaque.sgc"), str(tmp_path / f"opaque{suffix}")]) == 0


def test_large_numbers_are_not_cut_silently(tmp_path: Path) -> None:
    """PPM ends at 65535, where Pillow cuts them."""
    numbers = np.linspace(0, 151200, 32 * 32).reshape(32, 32).astype(np.int32)
    for name, picture, code in (("large", numbers, 1), ("small", numbers // 4, 0)):
        Image.fromarray(picture).save(tmp_path / f"{name}.sgc")
        assert main(["decode", str(tmp_path / f"{name}.sgc"), str(tmp_path / f"{name}.ppm")]) == code
        assert main(["decode", str(tmp_path / f"{name}.sgc"), str(tmp_path / f"{name}.tif")]) == 0
    assert main(["decode", str(tmp_path / "large.sgc")]) == 1  # as .png


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("to", ["sgc", "png", "webp"])
def test_the_default_image_of_an_apng_is_no_frame(frames: int, to: str, tmp_path: Path) -> None:
    """It is for viewers that know no frames; in animations it would flash."""
    first, *rest = (Image.new("RGB", (32, 32), colour) for colour in ("white", "red", "green", "blue")[: frames + 1])
    durations = [100, 200, 300][:frames]
    first.save(tmp_path / "x.png", save_all=True, append_images=rest, default_image=True, duration=durations)
    assert main(["convert", str(tmp_path / "x.png"), "-o", str(tmp_path / "out"), "--to", to]) == 0
    for place in (0, frames):  # behind the pixels of others Pillow cannot go back
        with Image.open(tmp_path / "x.png") as opened:
            opened.seek(place)
            opened.save(tmp_path / f"{place}.sgc", save_all=True)
            assert opened.tell() == place
    for path in (tmp_path / "out" / f"x.{to}", *(tmp_path / f"{place}.sgc" for place in (0, frames))):
        with Image.open(path) as opened:
            assert getattr(opened, "n_frames", 1) == frames
            assert "default_image" not in opened.info
            for place in range(frames):
                opened.seek(place)
                colour = np.asarray(opened.convert("RGB"))[5, 5].astype(int)
                assert np.abs(colour - np.asarray(rest[place])[5, 5]).max() < 9
                if frames > 1:
                    assert opened.info["duration"] == durations[place]


def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    """After SIGKILL of the main process alone no worker stays behind."""
    pictures(tmp_path / "in", 60)
    command = [sys.executable, "-m", "pillow_semicodec", "convert", str(tmp_path / "in"), "-o", str(tmp_path / "out")]
    run = subprocess.Popen([*command, "--workers", "2"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "out").glob("*.sgc")) and time.monotonic() < deadline:
        time.sleep(0.01)
    run.kill()
    run.wait()
    assert run.stdout is not None
    run.stdout.read()  # ends when the last process that holds the pipe is gone
    run.stdout.close()
    assert len(list((tmp_path / "out").glob("*.sgc"))) < 60


def _deadly(job: Job, settings: Settings) -> convert.Outcome:
    def write(file: IO[bytes]) -> None:
        if job.source.endswith("002.png"):
            os.kill(os.getpid(), KILL)
        time.sleep(0.05)  # the others are in the middle of it, too

    write_atomically(Path(job.target), write)
    return convert.Outcome(job, 1, 1)


def _harmless(job: Job, settings: Settings) -> convert.Outcome:
    return convert.Outcome(job, 1, 1)


def test_a_picture_that_kills_its_worker(tmp_path: Path) -> None:
    """It alone is given up; every other is converted, none twice; what the worker had begun to write goes with it."""
    jobs = [Job(f"{k:03}.png", str(tmp_path / f"{k:03}.sgc")) for k in range(12)]
    outcomes = list(run_pool(jobs, Settings(), 2, 1, _deadly))
    assert sorted(o.job.source for o in outcomes) == [j.source for j in jobs]
    assert [o.job.source for o in outcomes if o.error] == ["002.png"]
    assert names(tmp_path) == [Path(j.target).name for j in jobs if j.source != "002.png"]


def test_a_worker_that_dies_between_two_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job that the dead pool refuses is not lost."""
    jobs, submit, calls = [Job(f"{k}", str(tmp_path / f"{k}")) for k in range(6)], convert.ProcessPoolExecutor.submit, []

    def refuse(pool: Any, *arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 3:
            raise BrokenProcessPool
        return submit(pool, *arguments)

    monkeypatch.setattr(convert.ProcessPoolExecutor, "submit", refuse)
    outcomes = list(run_pool(jobs, Settings(), 1, 1, _harmless))
    assert sorted(o.job.source for o in outcomes) == [j.source for j in jobs]
    assert not any(o.error for o in outcomes)


def test_what_somebody_writes_is_not_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second run beside the first must not take its files away."""

    def write(file: IO[bytes]) -> None:
        sweep([tmp_path])
        file.write(b"whole")

    def replace(*arguments: Any) -> None:
        sweep([tmp_path])
        rename(*arguments)

    rename = os.replace
    monkeypatch.setattr("pillow_semicodec.files.os.replace", replace)
    write_atomically(tmp_path / "x.sgc", write)
    assert (tmp_path / "x.sgc").read_bytes() == b"whole"


@pytest.mark.skipif(sys.platform == "win32", reason="kills a group of processes")
def test_a_killed_run_is_taken_up(tmp_path: Path) -> None:
    """After SIGKILL in the middle the same command finishes: every output whole, none missing, nothing left over."""
    pictures(tmp_path / "in", 40)
    command = [sys.executable, "-m", "pillow_semicodec", "convert", str(tmp_path / "in"), "-o", str(tmp_path / "out")]
    first = subprocess.Popen([*command, "--workers", "1"], stdout=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "out").glob("*.sgc"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(first.pid, KILL)
    first.wait()
    done = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*.sgc")}
    (tmp_path / "out" / ".sgc-0123456789abcdef.part").write_bytes(b"of a run that is no more")
    assert 0 < len(done) < 40
    finished = subprocess.run([*command, "--workers", "2"], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert names(tmp_path / "out") == [f"{k:03}.sgc" for k in range(40)]
    for path in (tmp_path / "out").iterdir():
        with Image.open(path) as image:
            image.verify()
        assert done.get(path.name, path.stat().st_mtime_ns) == path.stat().st_mtime_ns


def test_the_same_on_a_cluster(tmp_path: Path) -> None:
    """Dask's local cluster, with a worker killed in the middle: every picture is converted once."""
    distributed = pytest.importorskip("distributed")
    paths = pictures(tmp_path / "in", 20)
    jobs = [Job(str(p), str(tmp_path / "out" / f"{p.stem}.sgc")) for p in paths]
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, memory_limit=0) as cluster:
        outcomes = []
        for outcome in convert.run_dask(jobs, Settings(), cluster.scheduler_address, 2, 1):
            outcomes.append(outcome)
            if len(outcomes) == 2:
                os.kill(next(iter(cluster.workers.values())).process.pid, KILL)
    assert sorted(o.job.source for o in outcomes) == [str(p) for p in paths]
    assert not any(o.error for o in outcomes)
    assert names(tmp_path / "out") == [f"{p.stem}.sgc" for p in paths]
    assert sgc.decode((tmp_path / "out" / "000.sgc").read_bytes()).shape == (24, 40, 3)


def test_pictures_of_one_run_leave_each_other_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An animation before a still, by one worker; metadata that there are go along."""
    frames = [Image.fromarray(photo(30, 40, k)) for k in range(2)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "b.jpg", dpi=(72, 72), comment=b"said")
    frames[0].convert("1").save(tmp_path / "c.png")
    frames[0].save(tmp_path / "d.mpo", save_all=True, append_images=[frames[1].resize((20, 15))])
    sources = [str(path) for path in sorted(tmp_path.iterdir())]
    assert main(["convert", *sources, "--workers", "1", "--flatten", "-o", str(tmp_path / "out")]) == 0, capsys.readouterr()
    found = {}
    for path in sorted((tmp_path / "out").iterdir()):
        with Image.open(path) as image:
            found[path.stem] = (image.mode, image.n_frames, image.info.get("dpi"), image.info.get("comment"))
    assert found.pop("b") == ("RGB", 1, (72.0, 72.0), b"said")
    assert found == {"a": ("RGB", 2, None, None), "c": ("1", 1, None, None), "d": ("RGB", 1, None, None)}


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_an_archive_is_read_once(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many members it has; a compressed tar's in the order in which they lie there; and anew when it is another."""
    pytest.importorskip("fsspec")
    source, opened = tmp_path / f"all.{kind}", list[str]()

    def archive(colours: dict[str, int]) -> None:
        source.unlink(missing_ok=True)
        with zipfile.ZipFile(source, "w") if kind == "zip" else tarfile.open(source, "w:gz") as file:
            for name, colour in colours.items():
                Image.new("L", (9, 9), colour).save(tmp_path / name)
                (file.write if isinstance(file, zipfile.ZipFile) else file.add)(tmp_path / name, name)

    there = convert._opened_there
    monkeypatch.setattr(convert, "_opened_there", lambda url, run: opened.append(url) or there(url, run))
    for colours in ({"b.png": 10, "c.png": 20, "a.png": 30}, {"a.png": 99, "b.png": 98, "c.png": 97}):
        archive(colours)
        made = convert._archive.cache_info().misses
        opened.clear()
        options = ["-o", str(tmp_path / "out"), "--workers", "1", "--overwrite", "--measure"]
        assert main(["convert", str(source), *options]) == 0
        assert convert._archive.cache_info().misses == made + 1
        order = list(colours) if kind == "tar.gz" else sorted(colours)
        assert [url.partition("://")[2].partition("::")[0] for url in opened] == order
        for name, colour in colours.items():
            with Image.open(tmp_path / "out" / name.replace("png", "sgc")) as image:
                assert abs(image.getpixel((4, 4)) - colour) < 3


def test_what_another_run_has_written(tmp_path: Path) -> None:
    """Since this one was planned, is not replaced; but where that is asked for."""
    (source,) = pictures(tmp_path, 1)
    target = tmp_path / "x.sgc"
    target.write_bytes(b"another's")
    for name in (str(target), f"file://{target}"):
        outcome = convert.convert(Job(str(source), name), Settings())
        assert "--overwrite" in outcome.error
        assert target.read_bytes() == b"another's"
    assert not convert.convert(Job(str(source), str(target)), Settings(overwrite=True)).error
    assert target.read_bytes() != b"another's"


@pytest.mark.parametrize("pattern", ["in", "in/*.png"])
@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOENT])
def test_paths_that_cannot_be_looked_at(
    pattern: str, number: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link into a folder that one may not enter is told, and a picture of which the system says that it is not there, as
    Windows does of names that are too long for it; what is found beside it is converted.
    """
    told = os.strerror(number)
    pictures(tmp_path / "in", 3)
    look = os.stat

    def forbidden(path: Any, **options: Any) -> os.stat_result:
        if str(path).endswith("001.png"):
            raise OSError(number, told, str(path))  # of the subclass for the number
        return look(path, **options)

    monkeypatch.setattr(os, "stat", forbidden)
    assert main(["convert", str(tmp_path / pattern), "-o", str(tmp_path / "out"), "--workers", "1"]) == 1
    assert capsys.readouterr().err.count(f"001.png: {told}") == 1
    monkeypatch.undo()
    assert names(tmp_path / "out") == ["000.sgc", "002.sgc"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
@pytest.mark.parametrize("name", ["pipe", "/dev/stdout"])
def test_a_report_into_a_pipe(name: str, tmp_path: Path) -> None:
    """Is written, not waited for."""
    pictures(tmp_path / "in", 1)
    os.mkfifo(tmp_path / "pipe")
    command = [sys.executable, "-m", "pillow_semicodec", "convert", str(tmp_path / "in"), "--workers", "1", "--report"]
    run = subprocess.Popen([*command, str(tmp_path / name)], stdout=subprocess.PIPE, text=True)  # an absolute name stays
    try:
        if name == "pipe":
            reader = subprocess.run(["cat", tmp_path / name], capture_output=True, text=True, timeout=60, check=True)
        told = run.communicate(timeout=60)[0]
    finally:
        run.kill()
        run.wait()
    report = reader.stdout if name == "pipe" else told[: told.rindex("}") + 1]
    assert len(json.loads(report[report.index("{") :])["files"]) == 1


def _endless(job: Job, settings: Settings) -> convert.Outcome:
    if not job.source.endswith("000.png"):
        write_atomically(Path(job.target), lambda file: time.sleep(600))
    return convert.Outcome(job, 1, 1)


def test_a_run_that_is_left_ends(tmp_path: Path) -> None:
    """Ctrl-C does not wait for what is being converted, and nothing half written stays."""
    jobs = [Job(f"{k:03}.png", str(tmp_path / f"{k:03}.sgc")) for k in range(9)]
    run = run_pool(jobs, Settings(), 2, 1, _endless)
    assert next(run).job == jobs[0]
    deadline = time.monotonic() + 60
    while not names(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.01)
    workers = multiprocessing.active_children()
    assert workers
    run.close()
    assert not {process.pid for process in workers} & {process.pid for process in multiprocessing.active_children()}
    assert not names(tmp_path)


def photoshop_file(size: int = 12) -> bytes:
    """A PSD of one picture and no layers, red."""
    head = struct.pack(">4sH6xHIIHH", b"8BPS", 1, 3, size, size, 8, 3)
    return head + bytes(12) + bytes(2) + b"\xf0" * size**2 + bytes(2 * size**2)


def test_pictures_without_layers(tmp_path: Path) -> None:
    """Of a PSD what all layers make together is taken, also where there are none and Pillow knows of no frame."""
    (tmp_path / "x.psd").write_bytes(photoshop_file())
    for to in ("sgc", "png"):
        assert main(["encode" if to == "sgc" else "decode", str(tmp_path / ("x.psd" if to == "sgc" else "x.sgc"))]) == 0
    with Image.open(tmp_path / "x.psd") as image:
        image.save(tmp_path / "y.sgc", save_all=True)
        with Image.open(tmp_path / "x.psd") as other:
            image.save(tmp_path / "z.sgc", save_all=True, append_images=iter([other]))
        assert image.getpixel((5, 5)) == (240, 0, 0)
    for name, frames in (("x", 1), ("y", 1), ("z", 2)):
        with Image.open(tmp_path / f"{name}.sgc") as image:
            assert image.n_frames == frames
            assert np.abs(np.subtract(image.convert("RGB").getpixel((5, 5)), (240, 0, 0))).max() < 9


def test_names_in_warnings_drive_no_terminal(tmp_path: Path) -> None:
    """As in all else that is told of them."""
    path = tmp_path / "\x1b]0;title\x07.sgc"
    Image.new("RGB", (9, 9)).save(path, comment=b"x" * 70000)
    with pytest.warns(UserWarning, match="do not fit") as told:
        assert main(["decode", str(path), str(tmp_path / "x.jpg")]) == 0
    assert all(character.isprintable() for warning in told for character in str(warning.message))


def test_formats_of_other_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Are read where they are installed, as HEIC; one that is broken keeps nothing from being converted."""
    (tmp_path / "in").mkdir()
    Image.fromarray(photo(20, 30)).save(tmp_path / "in" / "x.other", "PNG")
    Image.fromarray(photo(20, 30)).save(tmp_path / "in" / "y.png")
    monkeypatch.setattr(Image, "EXTENSION", Image.registered_extensions().copy())
    monkeypatch.setattr(other_formats, "PACKAGES", ("sgc_broken", "pillow_heif", "sgc_other", "sgc_missing"))
    monkeypatch.setattr(other_formats, "register", functools.cache(other_formats.register.__wrapped__))
    monkeypatch.setitem(sys.modules, "pillow_heif", types.ModuleType("pillow_heif"))
    sys.modules["pillow_heif"].register_heif_opener = lambda: (_ for _ in ()).throw(ImportError("a library is missing"))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "sgc_broken.py").write_text("raise OSError('a library is missing')")
    (tmp_path / "sgc_other.py").write_text("from PIL import Image\nImage.register_extension('PNG', '.other')")
    assert main(["convert", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--workers", "1"]) == 0
    assert names(tmp_path / "out") == ["x.sgc", "y.sgc"]


def test_measures_of_turned_tiffs(tmp_path: Path) -> None:
    """Their pixels come turned, those of what they are compared with do not; EXIF that is none keeps nothing from it."""
    pytest.importorskip("ssimulacra2")
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.fromarray(photo(20, 30)).save(tmp_path / "turned.sgc", exif=exif, quality=95)
    Image.fromarray(photo(20, 30)).save(tmp_path / "broken.sgc", exif=b"no EXIF at all")
    for name in ("turned", "broken"):
        job = Job(str(tmp_path / f"{name}.sgc"), str(tmp_path / f"{name}.tif"))
        with pytest.warns(UserWarning, match="does not fit") if name == "broken" else contextlib.nullcontext():
            outcome = convert.convert(job, Settings(measure=True))
        assert not outcome.error
        assert outcome.quality["psnr"] == float("inf")


@pytest.mark.parametrize(("package", "suffix"), [("pillow_heif", "heic"), ("pillow_jxl", "jxl")])
def test_turned_pictures_and_other_packages(package: str, suffix: str, tmp_path: Path) -> None:
    """There and back they are seen as before: HEIC and JPEG XL say in a place of their own how they are turned."""
    pytest.importorskip(package)
    pytest.importorskip("ssimulacra2")
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.fromarray(photo(20, 30)).save(tmp_path / "x.sgc", exif=exif, quality=95)
    Image.fromarray(photo(20, 30)).save(tmp_path / "x.jpg", exif=exif, quality=95)
    steps = (("x.sgc", f"y.{suffix}"), (f"y.{suffix}", "z.sgc"), ("x.jpg", f"z.{suffix}"))
    for source, target in steps:
        settings = Settings(strip=source == "x.jpg", measure=True)
        outcome = convert.convert(Job(str(tmp_path / source), str(tmp_path / target)), settings)
        assert not outcome.error
        assert outcome.quality["psnr"] > 20
        with Image.open(tmp_path / target) as image:
            assert image.getexif().get(ORIENTATION, 1) == 1
            error = np.asarray(image).astype(float) - np.rot90(photo(20, 30), -1)
            assert np.abs(error).mean() < 12


@pytest.mark.parametrize(("package", "suffix"), [("pillow_heif", "heic"), ("pillow_jxl", "jxl"), ("PIL", "tif")])
@pytest.mark.filterwarnings("ignore:Image.Image.getdata is deprecated:DeprecationWarning")
@pytest.mark.parametrize("mode", ["1", "L", "LA", "CMYK", "LAB", "HSV", "YCbCr", "RGBX", "RGBA", "I;16"])
def test_modes_and_other_packages(package: str, suffix: str, mode: str, tmp_path: Path) -> None:
    """What they lack they have in another mode, and it is measured."""
    pytest.importorskip(package)
    pytest.importorskip("ssimulacra2")
    if mode == "I;16":
        picture = Image.fromarray(photo(20, 30)[:, :, 0].astype(np.uint16) * 257)
    else:
        picture = Image.new("LAB", (30, 20)) if mode == "LAB" else Image.fromarray(photo(20, 30)).convert(mode)
    picture.save(tmp_path / "x.sgc")
    outcome = convert.convert(Job(str(tmp_path / "x.sgc"), str(tmp_path / f"x.{suffix}")), Settings(measure=True))
    assert not outcome.error
    assert outcome.quality["psnr"] > 15


@pytest.mark.parametrize("kind", ["folder", "zip", "glob"])
def test_notes_of_macos_are_no_pictures(kind: str, tmp_path: Path) -> None:
    """Which it keeps beside every file, on drives of other systems and in archives; one that is named is taken as it is."""
    pictures(tmp_path / "in", 1)
    (tmp_path / "in" / "._000.png").write_bytes(b"\0\5\x16\7 notes")
    source = tmp_path / "in"
    if kind == "zip":
        source = tmp_path / "x.zip"
        with zipfile.ZipFile(source, "w") as archive:
            for path in (tmp_path / "in").iterdir():
                archive.write(path, f"__MACOSX/{path.name}" if path.name.startswith(".") else path.name)
    assert main(["convert", str(source / "*" if kind == "glob" else source), "-o", str(tmp_path / "out")]) == 0
    assert names(tmp_path / "out") == ["000.sgc"]
    assert main(["convert", str(tmp_path / "in" / "._000.png"), "-o", str(tmp_path / "out")]) == 1


def test_a_folder_that_cannot_be_looked_into_keeps_no_other_from_being_swept(tmp_path: Path) -> None:
    """A name too long for the file system, of a member of an archive, is told of that file alone."""
    (tmp_path / ".sgc-1.part").touch()
    os.utime(tmp_path / ".sgc-1.part", (0, 0))
    sweep([tmp_path / ("x" * 300), tmp_path])
    assert not list(tmp_path.iterdir())
