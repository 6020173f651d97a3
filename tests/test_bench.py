"""The benchmark: figures from real files, a page that holds all it shows, and what is missing said."""

from __future__ import annotations

import csv
import json
import os
import re
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import photo
from PIL import AvifImagePlugin, Image, ImageCms

pytest.importorskip("bjontegaard")
pytest.importorskip("ssimulacra2")

from pillow_semicodec import options
from pillow_semicodec.bench import codecs, costs, curves, report
from pillow_semicodec.cli import main


def test_bd_rate_of_known_curves() -> None:
    """Half the bytes at equal quality is -50 %; what does not overlap has none."""
    anchor = [{"bpp": b, "psnr": 30 + 6 * np.log2(b)} for b in (0.25, 0.5, 1, 2)]
    test = [{"bpp": p["bpp"] / 2, "psnr": p["psnr"]} for p in anchor]
    assert curves.bd_rate(anchor, test, "psnr") == pytest.approx(-50, abs=0.1)
    assert curves.bd_rate(test, anchor, "psnr") == pytest.approx(100, abs=0.2)
    assert np.isnan(curves.bd_rate(anchor, [{"bpp": 1, "psnr": 60 + k} for k in range(5)], "psnr"))


def test_bd_rate_of_a_part() -> None:
    """Where bytes are halved at low quality only, nothing is won from there on."""
    anchor = [{"bpp": 2.0**k, "ssimulacra2": 10.0 * k} for k in range(10)]
    test = [{**p, "bpp": p["bpp"] / (2 if p["ssimulacra2"] < 35 else 1)} for p in anchor]
    assert curves.bd_rate(anchor, test, "ssimulacra2") < -15
    assert curves.bd_rate(anchor, test, "ssimulacra2", 60) == pytest.approx(0, abs=0.1)
    assert np.isnan(curves.bd_rate(anchor, test, "ssimulacra2", 90))


def figures(scale: float, qualities: int = 8, **changed: float) -> dict[int, curves.Row]:
    """Of one picture: bytes are twice as many from point to point; ``changed`` figures stand at all of them."""
    return {
        k: {"bpp": scale * 2**k, "psnr": 30.0 + 2 * k, "msssim": 1 - 0.1 / 2**k, "ssimulacra2": 30.0 + 8 * k, **changed}
        for k in range(qualities)
    }


def test_pictures_without_a_figure_count_for_nothing_in_its_rate() -> None:
    """Too small for MS-SSIM, or exact at one quality: neither their bytes nor their other figures come in."""
    large, other = figures(0.05), figures(0.1)
    small = {"ours": figures(0.3, msssim=np.nan), "theirs": figures(0.31, msssim=np.nan)}
    exact = figures(0.2)
    exact[7]["psnr"] = np.inf
    ours = {"a": large, "b": small["ours"], "c": exact}
    theirs = {"a": other, "b": small["theirs"], "c": exact}
    found = curves.bd_rates({codecs.OURS: ours, "X": theirs})["X"]
    assert found["msssim_db"] == pytest.approx(
        curves.bd_rates({codecs.OURS: {"a": large, "c": exact}, "X": {"a": other, "c": exact}})["X"]["msssim_db"]
    )
    assert found["psnr"] == pytest.approx(
        curves.bd_rates({codecs.OURS: {"a": large, "b": small["ours"]}, "X": {"a": other, "b": small["theirs"]}})["X"][
            "psnr"
        ]
    )
    assert np.isfinite([point["psnr"] for point in curves.mean_curve(ours)]).all()
    assert curves.bd_rates({codecs.OURS: {"c": exact}, "X": {"c": exact}})["X"]["msssim_db"] == pytest.approx(0, abs=1e-6)


def _ends(quality: int) -> dict[str, Any]:
    if quality == 2:
        os._exit(1)
    return {"quality": quality}


def test_a_codec_that_ends_its_process_takes_no_other_along(tmp_path: Path) -> None:
    for k in range(2):
        Image.fromarray(photo(32, 32, k)).save(tmp_path / f"{k}.png")
    bad = codecs.Codec("bad", "JPEG", {}, (1, 2, 3), _ends)
    good = codecs.Codec("good", "JPEG", {}, (30, 60))
    found = list(curves.measure_all(sorted(tmp_path.glob("*.png")), [bad, good], None, 1))
    assert len(found) == 2 * (3 + 2)
    told = [(name, quality) for name, _, quality, row in found if isinstance(row, str)]
    assert told == [("bad", 2)] * 2


def test_metadata_of_the_source_cost_nobody_anything(tmp_path: Path) -> None:
    """Some formats of Pillow would write them by themselves."""
    image = Image.fromarray(photo(64, 64))
    exif = Image.Exif()
    exif[0x010E] = "x" * 5000
    image.save(tmp_path / "bare.png")
    image.save(
        tmp_path / "laden.png", exif=exif, icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    )
    for codec in codecs.present():
        bare, laden = (
            codec.save(curves.read_rgb(tmp_path / f"{name}.png"), codec.qualities[3]) for name in ("bare", "laden")
        )
        assert len(bare) == len(laden), codec.name


def test_every_codec_saves_and_loads() -> None:
    """At every point of its curve, in more bytes for more quality."""
    picture = Image.fromarray(photo(96, 80))
    for codec in codecs.present():
        sizes = [len(codec.save(picture, quality)) for quality in (codec.qualities[0], codec.qualities[-1])]
        assert sizes[0] < sizes[1], codec.name
        assert codecs.load(codec.save(picture, codec.qualities[0])).size == picture.size
    with pytest.raises(ValueError, match="there are SGC, JPEG"):
        codecs.present(["nothing"])


def test_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The page needs nothing beside it; JSON and CSV hold every point; a cache spares the other codecs."""
    folder = tmp_path / "pictures <&>"
    folder.mkdir()
    for k in range(2):
        Image.fromarray(photo(176, 192, k)).save(folder / f"{k}.png")
    cache = tmp_path / "cache.json"
    arguments = ["bench", str(folder), "-o", str(tmp_path / "out"), "--codecs", "sgc,jpeg", "--cache", str(cache)]
    assert main([*arguments, "--workers", "1", "--crops", "1", "--timed", "1", "--growth", "0.1", "--files", "1"]) == 0
    assert "against JPEG" in capsys.readouterr().out
    page = (tmp_path / "out" / "report.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert page.count("<img") == 1 + 3 + 1  # curves, crops of the original and two codecs, growth
    assert "pictures &lt;&amp;&gt;" in page
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["bd_rate"]["JPEG"].keys() == set(curves.BD_METRICS)
    if Path("/proc/self/status").exists():  # which says how much memory a process took
        assert results["costs"]["SGC"]["decode_mb"] > 50
    assert [row["codec"] for row in results["growth"]["pixels"]] == ["SGC", "JPEG"]
    with (tmp_path / "out" / "results.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2 * (14 + 10)
    assert len(json.loads(cache.read_text())) == 2 * 10


def test_broken_pictures_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They fail, with their names; the others are measured. Two of one name are refused."""
    Image.fromarray(photo(32, 32)).save(tmp_path / "good.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG broken")
    arguments = ["bench", str(tmp_path), "-o", str(tmp_path / "out"), "--codecs", "jpeg", "--workers", "1", "--timed", "0"]
    assert main(arguments) == 1
    told = capsys.readouterr()
    assert "broken.png" in told.err
    assert (tmp_path / "out" / "report.html").exists()
    (tmp_path / "more").mkdir()
    Image.fromarray(photo(32, 32)).save(tmp_path / "more" / "good.png")
    assert main(arguments) == 1
    assert "more than one good.png" in capsys.readouterr().err


def test_results_need_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Which is said before anything is measured."""
    Image.fromarray(photo(32, 32)).save(tmp_path / "good.png")
    (tmp_path / "out").write_bytes(b"a file")
    assert main(["bench", str(tmp_path / "good.png"), "-o", str(tmp_path / "out"), "--codecs", "jpeg"]) == 1
    assert "folder" in capsys.readouterr().err
    assert (tmp_path / "out").read_bytes() == b"a file"
    if os.name == "posix" and os.getuid():  # nothing is forbidden to root
        (tmp_path / "shut").mkdir(mode=0o500)
        assert main(["bench", str(tmp_path / "good.png"), "-o", str(tmp_path / "shut"), "--codecs", "jpeg"]) == 1
        assert "shut: nothing can be written there" in capsys.readouterr().err
    assert main(["bench", str(tmp_path / "good.png"), "-o", str(tmp_path / "out" / "in"), "--codecs", "jpeg"]) == 1


def test_enlarged() -> None:
    """Pictures of any size, blown up by tiles."""
    picture = Image.fromarray(photo(40, 60))
    assert costs.enlarged(picture, 0.0006).size == (30, 20)
    large = costs.enlarged(picture, 0.0096)
    assert large.size == (120, 80)
    assert np.array_equal(np.asarray(large.crop((60, 40, 120, 80))), np.asarray(picture))


def test_others_have_as_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """As SGC has: those that were asked for, or all that this process may use."""
    other = types.ModuleType("pillow_heif.options")
    monkeypatch.setitem(sys.modules, "pillow_heif.options", other)
    monkeypatch.setattr(AvifImagePlugin, "DEFAULT_MAX_THREADS", 77)
    for threads, expected in ((3, 3), (0, options.cores())):
        monkeypatch.setattr(options, "THREADS", threads)
        codecs.share_threads()
        assert AvifImagePlugin.DEFAULT_MAX_THREADS == other.DECODE_THREADS == expected  # type: ignore[attr-defined]


def test_memory_that_nobody_knows_is_left_out() -> None:
    """As outside of Linux."""
    cost = {"bytes": 1.0, "encode_ms": 2.0, "decode_ms": 3.0, "encode_mb": np.nan, "decode_mb": np.nan}
    assert "nan" not in "".join(report._costs({"costs": {"SGC": cost, "JPEG": cost}, "growth": {}}))
