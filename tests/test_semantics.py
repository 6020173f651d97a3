"""What a picture shows: read from latents, from a chunk, from Pillow, from the command line."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import pickle
import re
import shutil
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from conftest import TINY, photo
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import pillow_semicodec as sgc
from pillow_semicodec import bundle, codec, container, semantics, slices
from pillow_semicodec.cli import main
from pillow_semicodec.container import with_chunks
from pillow_semicodec.semantics import Label, SegmentationMap, Semantics, read_semantics, write_semantics

names = st.text(min_size=1, max_size=12)


@st.composite
def any_semantics(draw: st.DrawFn) -> tuple[Semantics, int, int]:
    """Semantics of a picture, and the picture's width and height."""
    width, height = draw(st.integers(1, 100)), draw(st.integers(1, 100))
    columns, rows = -(-width // 16), -(-height // 16)
    maps = []
    for task in draw(st.lists(names, max_size=2)):
        classes = tuple(draw(st.lists(names, min_size=1, max_size=5)))
        cells = draw(st.lists(st.integers(0, len(classes) - 1), min_size=columns * rows, max_size=columns * rows))
        maps.append(SegmentationMap(task, classes, columns, rows, bytes(cells)))
    thousandths = st.integers(0, 1000).map(lambda n: n / 1000)
    labels = draw(st.lists(st.builds(Label, names, names, thousandths), max_size=5))
    embedding = draw(st.lists(st.floats(-1, 1, width=32), max_size=8))
    norm = float(np.linalg.norm(embedding)) or 1.0
    unit = tuple(v / norm for v in embedding)
    return Semantics(tuple(draw(st.lists(names, max_size=2))), tuple(labels), tuple(maps), unit), width, height


@given(any_semantics())
def test_the_chunk_round_trips(case: tuple[Semantics, int, int]) -> None:
    """Labels and maps come back exactly, the embedding to 8 bits."""
    said, width, height = case
    read = read_semantics(write_semantics(said), width, height)
    assert (read.heads, read.labels, read.maps) == (said.heads, said.labels, said.maps)
    assert len(read.embedding) == len(said.embedding)
    assert np.allclose(read.embedding, said.embedding, atol=0.02)


@given(any_semantics(), st.data())
def test_a_damaged_chunk_is_a_format_error(case: tuple[Semantics, int, int], data: st.DataObject) -> None:
    """Any bytes give semantics, a FormatError or, under another version, an UnsupportedError; every prefix is noticed."""
    said, width, height = case
    payload = write_semantics(said)
    cut = data.draw(st.integers(0, len(payload) - 1))
    with pytest.raises(sgc.FormatError):
        read_semantics(payload[:cut], width, height)
    damaged = bytearray(payload)
    damaged[data.draw(st.integers(0, len(payload) - 1))] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(sgc.FormatError, sgc.UnsupportedError):
        read_semantics(bytes(damaged), width, height)


@given(st.binary(max_size=80))
def test_any_bytes_as_a_chunk(payload: bytes) -> None:
    """Garbage is refused by its own error, whatever it is."""
    with contextlib.suppress(sgc.FormatError):
        read_semantics(b"\x01" + payload, 32, 32)


def test_hostile_chunks() -> None:
    """Deep nesting, a map of another size and a bomb are refused without being unfolded."""
    deep = b"[" * 60000
    with pytest.raises(sgc.FormatError):
        read_semantics(b"\x01" + container.write_varint(len(deep)) + deep, 16, 16)
    said = Semantics(maps=(SegmentationMap("m", ("a",), 1000, 1000, bytes(10**6)),))
    with pytest.raises(sgc.FormatError, match="does not fit"):
        read_semantics(write_semantics(said), 64, 64)
    bomb = write_semantics(said).replace(b",1000,1000,", b",4,4,")
    header = bomb[2 : 2 + bomb[1]]
    assert len(header) <= 127
    shorter = header[:-4]  # the replacement made the header six bytes shorter than it states
    resealed = b"\x01" + bytes([len(shorter) - 2]) + bomb[2:]
    with pytest.raises(sgc.FormatError):
        read_semantics(resealed, 64, 64)


@given(any_semantics(), st.integers(-(10**40), 10**40), st.data())
def test_any_number_in_the_header(case: tuple[Semantics, int, int], number: int, data: st.DataObject) -> None:
    """A header that states any number anywhere is a FormatError at worst."""
    said, width, height = case
    payload = write_semantics(said)
    size, raw = container.read_varint(BytesIO(payload[1:]).read)
    start = 1 + len(raw)
    header = payload[start : start + size].decode()
    places = [m.span() for m in re.finditer(r"-?[0-9.]+", header)]
    low, high = data.draw(st.sampled_from(places)) if places else (0, 0)
    changed = (header[:low] + str(number) + header[high:]).encode()
    seen = None
    with contextlib.suppress(sgc.FormatError):
        seen = read_semantics(
            b"\x01" + container.write_varint(len(changed)) + changed + payload[start + size :], width, height
        )
    assert seen is None or all(0 <= label.probability <= 1 for label in seen.labels)


def test_reading_from_a_file_and_its_bytes(tmp_path: Path) -> None:
    """Labels sum to 1 and are sorted, the map fits the picture, the embedding has norm 1; path and bytes agree."""
    data = sgc.encode(photo(75, 130), 60)
    (tmp_path / "x.sgc").write_bytes(data)
    seen = sgc.analyze(data)
    assert seen == sgc.analyze(tmp_path / "x.sgc") == sgc.analyze(str(tmp_path / "x.sgc"))
    assert [x.task for x in seen.labels] == ["shapes"] * 3
    assert sum(x.probability for x in seen.labels) == pytest.approx(1, abs=1e-5)
    assert seen.best() == seen.labels[0] == max(seen.labels, key=lambda x: x.probability)
    assert seen.maps[0].array().shape == (5, 9)
    assert sum(seen.maps[0].shares().values()) == pytest.approx(1)
    assert np.linalg.norm(seen.embedding) == pytest.approx(1, abs=1e-5)
    assert seen.similarity(seen) == pytest.approx(1, abs=1e-5)
    assert pickle.loads(pickle.dumps(seen)) == copy.deepcopy(seen) == seen


@given(st.integers(1, 70), st.integers(1, 150), st.integers(0, 9), st.sampled_from([0, 64]))
def test_a_file_says_what_the_encoder_saw(height: int, width: int, seed: int, side: int) -> None:
    """Latents read back from the first half of the stream are those that the encoder had."""
    model = sgc.find_model()
    picture = photo(height, width, seed)
    plan = slices.RatePlan(20000)
    layout = slices.Layout(height, width, side)
    y = slices.analyse(picture, model, layout, 1)
    streams = slices.Encoder(y, plan, model, layout, 1).streams()
    before = slices.Encoder(y, plan, model, layout, 1).semantic_latents()
    after = slices.Decoder(streams, plan, model, layout, 1).semantic_latents()
    assert np.allclose(before, after, atol=1e-4)


def test_a_stored_chunk_needs_no_model(tmp_path: Path) -> None:
    """With ``semantics=True`` the file says the same without model, NumPy or runtime; pixels are the same bytes."""
    plain, told = (sgc.encode(photo(), 60, semantics=flag) for flag in (False, np.True_))
    assert np.array_equal(sgc.decode(plain), sgc.decode(told))
    assert 0 < len(told) - len(plain) < 600
    seen, stored = sgc.analyze(plain), sgc.analyze(told)
    assert [x.name for x in stored.labels] == [x.name for x in seen.labels]
    assert stored.maps == seen.maps
    assert stored.similarity(seen) > 0.999
    (tmp_path / "told.sgc").write_bytes(told)
    code = f"""
import sys, pillow_semicodec
from PIL import Image
print(Image.open({str(tmp_path / "told.sgc")!r}).info["semantics"].best().name)
print([m for m in ("onnxruntime", "constriction", "numpy") if m in sys.modules])
pillow_semicodec.analyze({str(tmp_path / "told.sgc")!r})
print([m for m in ("onnxruntime", "constriction", "numpy") if m in sys.modules])"""
    lines = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines == [seen.labels[0].name, "[]", "[]"]


def test_pillow_keeps_semantics_in_info(tmp_path: Path) -> None:
    """``save(semantics=True)`` stores, ``info`` holds; saving again without the option does not carry it on."""
    Image.fromarray(photo()).save(tmp_path / "a.sgc", semantics=True)
    with Image.open(tmp_path / "a.sgc") as image:
        assert image.info["semantics"] == sgc.analyze(tmp_path / "a.sgc")
        image.save(tmp_path / "b.sgc")
    with Image.open(tmp_path / "b.sgc") as image:
        assert "semantics" not in image.info


def test_imageio_has_the_same_options(tmp_path: Path) -> None:
    """``imwrite`` takes ``semantics`` and ``roi``; ``immeta`` returns what was stored."""
    iio.imwrite(tmp_path / "a.sgc", photo(), quality=60, semantics=True, roi=[(0, 0, 64, 64)])
    assert (tmp_path / "a.sgc").read_bytes() == sgc.encode(photo(), 60, semantics=True, roi=[(0, 0, 64, 64)])
    assert iio.immeta(tmp_path / "a.sgc")["semantics"] == sgc.analyze(tmp_path / "a.sgc")


def test_a_broken_chunk_does_not_hide_the_picture() -> None:
    """Pillow shows the picture without semantics; ``analyze`` says what is wrong, and named heads look for themselves."""
    data = sgc.encode(photo(), 60)
    broken = with_chunks(data, {container.SEMANTICS: b"\x01\x05junk!"})
    with Image.open(BytesIO(broken)) as image:
        image.load()
        assert "semantics" not in image.info
    with pytest.raises(sgc.FormatError, match="semantics"):
        sgc.analyze(broken)
    assert sgc.analyze(broken, heads="tiny-heads") == sgc.analyze(data)


def test_heads_are_found_beside_the_model_and_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads of one's own add to the model's; unknown names and foreign models are told what there is."""
    data = sgc.encode(photo(), 60)
    own = tmp_path / "own"
    own.mkdir()
    for part in ("heads.json", "heads.onnx"):
        shutil.copy(TINY / part, own / part)
    content = json.loads((own / "heads.json").read_text())
    (own / "heads.json").write_text(json.dumps({**content, "name": "own"}))
    monkeypatch.setenv(bundle.PATH_VARIABLE, f"{TINY}:{tmp_path}")
    assert sgc.analyze(data).heads == ("tiny-heads", "own")
    assert sgc.analyze(data, heads="own").heads == ("own",)
    with pytest.raises(sgc.BundleError, match=r"nonesuch.*tiny-heads"):
        sgc.analyze(data, heads=("own", "nonesuch"))
    (own / "heads.json").write_text(json.dumps({**content, "model_id": "00" * 8}))
    assert sgc.analyze(data).heads == ("tiny-heads",)
    (own / "heads.json").write_text("{")
    assert sgc.analyze(data).heads == ("tiny-heads",)


def test_damaged_heads_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph that does not match its hash is an error of the installation."""
    shutil.copytree(TINY, tmp_path / "tiny")
    data = bytearray((tmp_path / "tiny" / "heads.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "tiny" / "heads.onnx").write_bytes(data)
    monkeypatch.setenv(bundle.PATH_VARIABLE, str(tmp_path))
    with pytest.raises(sgc.BundleError, match="SHA-256"):
        sgc.list_heads()[-1].graph()


def test_no_heads_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model without heads says so, for analyze and for the options that need them."""
    shutil.copytree(TINY, tmp_path / "tiny", ignore=shutil.ignore_patterns("heads.*"))
    monkeypatch.setenv(bundle.PATH_VARIABLE, str(tmp_path))
    data = sgc.encode(photo(), 50)
    with pytest.raises(sgc.BundleError, match="no heads"):
        sgc.analyze(data)
    for options in ({"semantics": True}, {"roi": "auto"}):
        with pytest.raises(sgc.BundleError, match="no heads"):
            sgc.encode(photo(), 50, **options)


def test_analyze_refuses_what_is_no_file(tmp_path: Path) -> None:
    """Foreign bytes, a cut file and a missing one raise their own errors."""
    with pytest.raises(sgc.FormatError):
        sgc.analyze(b"no file at all")
    with pytest.raises(sgc.TruncatedError):
        sgc.analyze(sgc.encode(photo(), 50)[:-9])
    with pytest.raises(FileNotFoundError):
        sgc.analyze(tmp_path / "nothing.sgc")
    with pytest.raises(ValueError, match="threads"):
        sgc.analyze(b"", threads=-1)


def test_describe_checks_its_arguments() -> None:
    """Pixels give what their file gives; wrong ones are told apart."""
    assert [x.name for x in sgc.describe(photo(), quality=60).labels] == [
        x.name for x in sgc.analyze(sgc.encode(photo(), 60)).labels
    ]
    deep = sgc.describe(photo().astype(np.uint16) * 257, quality=60)
    assert deep.similarity(sgc.describe(photo(), quality=60)) > 0.99
    with pytest.raises(TypeError, match="uint8"):
        sgc.describe(photo().astype(float))
    with pytest.raises(ValueError, match="shape"):
        sgc.describe(np.zeros((4, 4, 5), np.uint8))
    with pytest.raises(ValueError, match="quality"):
        sgc.describe(photo(), quality=-5)


def test_grey_pictures_too() -> None:
    """Grey pictures are described as grey RGB ones."""
    grey = photo()[:, :, 0]
    assert sgc.analyze(sgc.encode(grey, 60)) == sgc.analyze(sgc.encode(np.repeat(grey[:, :, None], 3, 2), 60))


def test_embeddings_of_other_heads_are_not_compared() -> None:
    """Cosines between spaces of different heads mean nothing."""
    a = Semantics(("one",), embedding=(1.0, 0.0), space="01")
    long = Semantics(("one",), embedding=(3**-0.5,) * 3, space="01")
    assert long.similarity(long) == 1  # and not 1.0000000000000002, of which there is no angle
    with pytest.raises(ValueError, match="cannot be compared"):
        a.similarity(Semantics(("one",), embedding=(1.0, 0.0), space="02"))
    with pytest.raises(ValueError, match="no head"):
        a.similarity(Semantics())


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``info --semantics`` prints labels and areas; ``search`` ranks by likeness and by label."""
    for seed in range(4):
        Image.fromarray(photo(80, 112, seed * 3)).save(tmp_path / f"{seed}.sgc", semantics=seed % 2 == 0)
    Image.fromarray(photo(80, 112, 6)).save(tmp_path / "like.png")
    assert main(["info", "--semantics", str(tmp_path / "0.sgc")]) == 0
    text = capsys.readouterr().out
    assert "shapes: " in text
    assert "ground, of the area: " in text
    assert "  semantics: " in text
    assert main(["search", str(tmp_path), "--like", str(tmp_path / "like.png"), "-n", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    scores = [float(line.split()[0]) for line in lines]
    assert len(lines) == 3
    assert scores == sorted(scores, reverse=True)
    assert lines[0].endswith("2.sgc")
    assert main(["search", str(tmp_path), "--label", "car"]) == 0
    hits = capsys.readouterr().out.splitlines()
    assert hits
    assert all(float(line.split()[0]) > 0 for line in hits)
    assert main(["search", str(tmp_path), "--label", "nonesuch"]) == 1
    assert "house" in capsys.readouterr().err
    (tmp_path / "broken.sgc").write_bytes(b"\x8aSGC")
    assert main(["search", str(tmp_path), "--label", "car"]) == 1
    captured = capsys.readouterr()
    assert "broken.sgc" in captured.err
    assert captured.out.splitlines() == hits


def test_search_says_what_it_could_not_look_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing, links that lead nowhere, and no label."""
    assert main(["search", str(tmp_path), "--label", "car"]) == 1
    assert "no .sgc files" in capsys.readouterr().err
    Image.fromarray(photo(80, 112)).save(tmp_path / "a.sgc", semantics=True)
    assert main(["search", str(tmp_path), "--label", ""]) == 1
    assert "shows the label" in capsys.readouterr().err
    if sys.platform == "win32":  # links need a privilege
        return
    (tmp_path / "lost.sgc").symlink_to(tmp_path / "nowhere")
    assert main(["search", str(tmp_path), "--like", str(tmp_path / "a.sgc")]) == 1
    captured = capsys.readouterr()
    assert "lost.sgc" in captured.err
    assert captured.out.rstrip().endswith("a.sgc")


def test_semantics_do_not_run_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """An encode without the options touches no heads."""
    monkeypatch.setattr(codec, "find_heads", lambda *a: pytest.fail("looked for heads"))
    sgc.encode(photo(), 50)
    assert semantics.CELL == 16


def test_names_from_files_do_not_drive_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Control characters in stored names are shown as escapes, and forge no lines."""
    file = with_chunk(sgc.Semantics(("h",), (sgc.Label("t\x1b]0;owned\x07", "a\nsgc: all good", 1.0),)))
    (tmp_path / "x.sgc").write_bytes(file)
    assert main(["info", "--semantics", str(tmp_path / "x.sgc")]) == 0
    told = capsys.readouterr().out
    assert "\x1b" not in told and "\x07" not in told
    assert "\\x1b]0;owned\\x07: a\\nsgc: all good" in told


def with_chunk(seen: sgc.Semantics | bytes) -> bytes:
    """A file that stores these semantics."""
    payload = seen if isinstance(seen, bytes) else write_semantics(seen)
    return with_chunks(sgc.encode(photo(), 60), {container.SEMANTICS: payload})


def test_very_many_labels_are_cut_to_what_a_file_holds() -> None:
    """The most probable stay; what does not fit at all is refused when written, not when read."""
    many = sgc.Semantics(("h",), tuple(sgc.Label("t", f"{k:040}", (k + 1) / 4000) for k in range(4000)))
    kept = sgc.read_semantics(write_semantics(many), 10, 10).labels
    assert 500 < len(kept) < 4000
    assert kept[-1].probability == 1.0
    with pytest.raises(ValueError, match="more than a file can hold"):
        write_semantics(sgc.Semantics(embedding=(0.01,) * 5000))


def test_a_later_version_of_the_chunk_is_looked_past(tmp_path: Path) -> None:
    """It is ancillary: the picture opens, and installed heads say what it shows."""
    file = with_chunk(b"\x02later")
    assert sgc.analyze(file) == sgc.analyze(sgc.encode(photo(), 60))
    with Image.open(BytesIO(file)) as image:
        assert "semantics" not in image.info


def test_heads_can_be_chosen_when_saving() -> None:
    """``semantics`` takes names, too; unknown ones are named."""
    assert sgc.analyze(sgc.encode(photo(), 60, semantics="tiny-heads")) == sgc.analyze(
        sgc.encode(photo(), 60, semantics=True)
    )
    with pytest.raises(sgc.BundleError, match="nonesuch"):
        sgc.encode(photo(), 60, semantics=("nonesuch",))


def test_semantics_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line a file, with everything: labels, rows of the maps, embedding."""
    sgc_file = tmp_path / "x.sgc"
    sgc_file.write_bytes(sgc.encode(photo(96, 160), 60))
    assert main(["info", "--semantics", "--json", str(sgc_file), str(sgc_file)]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    seen = sgc.analyze(sgc_file)
    assert len(lines) == 2
    assert lines[0]["maps"][0]["cells"] == seen.maps[0].array().tolist()
    assert lines[0]["labels"][0] == {
        "task": "shapes",
        "name": seen.labels[0].name,
        "probability": seen.labels[0].probability,
    }
    assert lines[0]["embedding"] == list(seen.embedding)


def test_search_reads_foreign_embeddings_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file whose stored embedding came from other heads is compared by the installed ones."""
    seen = dataclasses.replace(sgc.analyze(sgc.encode(photo(), 60)), space="00" * 8)
    (tmp_path / "old.sgc").write_bytes(with_chunk(seen))
    Image.fromarray(photo()).save(tmp_path / "query.png")
    assert main(["search", str(tmp_path), "--like", str(tmp_path / "query.png")]) == 0
    assert float(capsys.readouterr().out.split()[0]) > 0.9


def test_search_like_a_file_of_heads_that_are_gone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What stores the same heads' embedding is compared with it as it is, everything else by the installed heads."""
    seen = sgc.analyze(sgc.encode(photo(), 60))
    gone = dataclasses.replace(seen, space="00" * 8)
    (tmp_path / "gone.sgc").write_bytes(with_chunk(gone))
    turned = dataclasses.replace(gone, embedding=tuple(-v for v in gone.embedding))
    (tmp_path / "gone too.sgc").write_bytes(with_chunk(turned))
    (tmp_path / "other.sgc").write_bytes(with_chunk(dataclasses.replace(turned, space="11" * 8)))
    (tmp_path / "new.sgc").write_bytes(sgc.encode(photo(), 60))
    assert main(["search", str(tmp_path), "--like", str(tmp_path / "gone.sgc")]) == 0
    found = (line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    scores = {Path(path).name: float(score) for score, path in found}
    assert scores.pop("gone too.sgc") < -0.9
    assert set(scores) == {"gone.sgc", "new.sgc", "other.sgc"}
    assert min(scores.values()) > 0.9


def test_heads_that_do_not_fit_their_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """A description with fewer classes than the graph has outputs is the installation's fault."""
    heads = sgc.find_heads(sgc.find_model().model_id)[0]
    assert sgc.find_heads(sgc.find_model().model_id.hex()) == sgc.find_heads(sgc.find_model().model_id)
    assert repr(heads) == f"HeadBundle({heads.name!r}, of model {heads.model_id.hex()})"
    tasks = tuple(dataclasses.replace(t, classes=t.classes[:1]) for t in heads.tasks)
    monkeypatch.setattr(heads, "tasks", tasks)
    with pytest.raises(sgc.BundleError, match="does not fit its 1 classes"):
        sgc.analyze(sgc.encode(photo(), 60))
