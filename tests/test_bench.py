"""The benchmark: figures from real files, a page that holds all it shows, and what is missing said."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import photo
from PIL import Image

pytest.importorskip("bjontegaard")
pytest.importorskip("ssimulacra2")

from pillow_semicodec.bench import codecs, costs, curves
from pillow_semicodec.cli import main


def test_bd_rate_of_known_curves() -> None:
    """Half the bytes at equal quality is -50 %; what does not overlap has none."""
    anchor = [{"bpp": b, "psnr": 30 + 6 * np.log2(b)} for b in (0.25, 0.5, 1, 2)]
    test = [{"bpp": p["bpp"] / 2, "psnr": p["psnr"]} for p in anchor]
    assert curves.bd_rate(anchor, test, "psnr") == pytest.approx(-50, abs=0.1)
    assert curves.bd_rate(test, anchor, "psnr") == pytest.approx(100, abs=0.2)
    assert np.isnan(curves.bd_rate(anchor, [{"bpp": 1, "psnr": 60 + k} for k in range(5)], "psnr"))


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
    assert results["bd_rate"]["JPEG"].keys() == set(curves.METRICS)
    assert results["costs"]["SGC"]["decode_mb"] > 50
    assert [row["codec"] for row in results["growth"]["pixels"]] == ["SGC", "JPEG"]
    with (tmp_path / "out" / "results.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2 * (11 + 10)
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


def test_enlarged() -> None:
    """Pictures of any size, blown up by tiles."""
    picture = Image.fromarray(photo(40, 60))
    assert costs.enlarged(picture, 0.0006).size == (30, 20)
    large = costs.enlarged(picture, 0.0096)
    assert large.size == (120, 80)
    assert np.array_equal(np.asarray(large.crop((60, 40, 120, 80))), np.asarray(picture))
