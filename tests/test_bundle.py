"""Bundles: verified, found by id and never by a path from a file, several side by side."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import reference_decoder
from conftest import TINY, latents_of, photo

import pillow_semicodec as sgc
from pillow_semicodec import bundle, companions, effort, head_bundle, slices
from pillow_semicodec.entropy.tables import TOTAL, Frequencies, TableSet, join, quantise
from pillow_semicodec.errors import BundleError, UnknownModelError


def copy_of(tmp_path: Path, folder: str = "copy", **changes: object) -> Path:
    target = tmp_path / folder
    shutil.copytree(TINY, target)
    manifest = json.loads((target / "manifest.json").read_text())
    (target / "manifest.json").write_text(json.dumps({**manifest, **changes}))
    return target


def test_every_changed_part_is_noticed(tmp_path: Path) -> None:
    """A part that does not match its hash is never used."""
    for part in json.loads((TINY / "manifest.json").read_text())["sha256"]:
        broken = copy_of(tmp_path, part)
        data = bytearray((broken / part).read_bytes())
        data[len(data) // 2] ^= 1
        (broken / part).write_bytes(data)
        with pytest.raises(BundleError, match=f"{part}: does not match"):
            bundle.ModelBundle(broken).part(part)


@pytest.mark.parametrize("name", ["reduced", "gradient"])
def test_a_changed_companion_is_noticed(name: str, tmp_path: Path) -> None:
    """Its graph is no part of the model, and verified all the same."""
    broken = tmp_path / "tiny"
    shutil.copytree(TINY, broken)
    graph = broken / f"{name}.onnx"
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.write_bytes(data)
    companion = companions.find_companion(bundle.ModelBundle(broken), name)
    assert companion
    with pytest.raises(BundleError, match=rf"{name}\.onnx: does not match its SHA-256"):
        companion.graph()


def test_the_built_in_model_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever older ones a build has left beside it; and it is the only one there."""
    folders = [path.name for path in (Path(bundle.__file__).parent / "models").iterdir() if path.is_dir()]
    assert folders == [bundle.BUILT_IN]
    older, other = copy_of(tmp_path, "0000000000000000"), tmp_path / bundle.BUILT_IN
    shutil.copytree(older, other)
    manifest = json.loads((other / "manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps({**manifest, "name": "newest"}))
    monkeypatch.setattr(bundle, "model_directories", lambda: iter([tmp_path]))
    monkeypatch.delenv(bundle.DEFAULT_VARIABLE)
    assert bundle.find_model().name == "newest"
    assert len(bundle.list_models()) == 2


@pytest.mark.parametrize("flag", ["-b", "-bb"])
def test_names_and_ids_are_not_confused(flag: str) -> None:
    """Python can be told to warn where text and bytes are compared."""
    code = "import pillow_semicodec as s; m = s.find_model(); assert s.find_model(m.model_id) is s.find_model(m.name) is m"
    run = subprocess.run([sys.executable, flag, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")


def test_missing_parts_and_broken_manifests(tmp_path: Path) -> None:
    """What is wrong with an installation is named."""
    broken = copy_of(tmp_path)
    (broken / "synthesis.onnx").unlink()
    with pytest.raises(BundleError, match=r"synthesis\.onnx"):
        bundle.ModelBundle(broken).part("synthesis.onnx")
    with pytest.raises(BundleError, match="no part"):
        bundle.ModelBundle(broken).part("../../secret")
    for text in ("", "[]", "{}", '{"bundle_version": 1}', '{"sha256": 3}'):
        (broken / "manifest.json").write_text(text)
        with pytest.raises(BundleError, match=r"manifest\.json"):
            bundle.ModelBundle(broken)
    with pytest.raises(BundleError, match="version 99"):
        bundle.ModelBundle(copy_of(tmp_path, "other", bundle_version=99))


def test_models_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is decoded by the model that wrote it, whatever the default is; other models are chosen by name or id."""
    copy_of(tmp_path, "second", name="second")
    monkeypatch.setenv(bundle.PATH_VARIABLE, f"{TINY}:{tmp_path}")
    tiny, second = bundle.find_model("tiny"), bundle.find_model("second")
    assert tiny.model_id != second.model_id
    assert bundle.find_model().name == "tiny"
    assert bundle.find_model(second.model_id.hex()) is second
    data = sgc.encode(photo(), 50, model="second")
    assert sgc.read_prologue(data).header.model_id == second.model_id
    assert np.array_equal(sgc.decode(data), sgc.decode(sgc.encode(photo(), 50)))


def test_the_bundle_that_is_found_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one that lay elsewhere before, or that was written over since."""
    first, second = (Path(shutil.copytree(TINY, tmp_path / name)) for name in ("first", "second"))
    for name in ("reduced.json", "reduced.onnx"):
        (first / name).unlink()
    monkeypatch.setenv(bundle.PATH_VARIABLE, str(first))
    data = sgc.encode(photo(), 50)
    shutil.rmtree(first)
    monkeypatch.setenv(bundle.PATH_VARIABLE, str(second))
    assert sgc.decode(data, scale=2).shape[0] == photo().shape[0] // 2
    assert sgc.decode(data).shape == photo().shape
    manifest = json.loads((second / "manifest.json").read_text())
    (second / "manifest.json").write_text(json.dumps({**manifest, "name": "another"}))
    os.utime(second / "manifest.json", ns=(1, 1))
    assert bundle.find_model("another").directory == second


def with_residual_tables(tmp_path: Path, tables: TableSet) -> Path:
    """The tiny bundle, with other tables of residuals."""
    target = copy_of(tmp_path, "tables", name="tables", bundle_version=2)
    arrays = dict(np.load(target / "tables.npz"))
    arrays |= {f"r_{field}": getattr(tables, field) for field in ("minimums", "sizes", "frequencies")}
    np.savez(target / "tables.npz", **arrays)
    manifest = json.loads((target / "manifest.json").read_text())
    manifest["sha256"]["tables.npz"] = hashlib.sha256((target / "tables.npz").read_bytes()).hexdigest()
    (target / "manifest.json").write_text(json.dumps(manifest))
    return target


def in_bands(count: int) -> list[tuple[int, Frequencies]]:
    """(first value, frequencies) of tables for ``count`` bands: those of the tiny bundle, flatter from band to band."""
    arrays = np.load(TINY / "tables.npz")
    tables = TableSet(*(arrays[f"r_{field}"] for field in ("minimums", "sizes", "frequencies")))
    found = []
    for band in range(count):
        for k, minimum in enumerate(tables.minimums):
            table = tables.table(k)
            found.append((int(minimum), quantise((table / TOTAL) ** (1 - 0.1 * band)) if band and len(table) else table))
    return found


def test_residuals_have_tables_for_every_band_of_rates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rate chooses the band, at both ends and between; in slices and regions, too. The second decoder agrees."""
    folder = with_residual_tables(tmp_path, join(in_bands(5)))
    monkeypatch.setenv(bundle.PATH_VARIABLE, f"{TINY}:{folder}")
    model, picture = bundle.find_model("tables"), photo(90, 140)
    assert model.conditional.bands == 5
    used = set()
    for quality in (1, 25, 50, 75, 90, 100):
        options = {"slice_side": 64, "roi": [(0, 0, 60, 90)]} if quality == 50 else {}
        data = sgc.encode(picture, quality, model="tables", **options)
        pixels, z, residual, indexes = reference_decoder.decode(data, reference_decoder.Model(folder))
        latents = latents_of(data)
        assert all(np.array_equal(a, b) for a, b in zip(latents, (z, residual, indexes), strict=True))
        assert np.abs(pixels.astype(int) - sgc.decode(data)).max() <= 1
        rate = sgc.read_prologue(data).index.rate
        band = model.rate_bank.band(rate, 5)
        used.add(band)
        assert np.allclose(
            effort._bits(model.conditional, band)[9, 40:43], model.conditional.tables(band).bits(9, np.arange(-1, 2))
        )
        assert len(data) <= 1.005 * slices.ideal_bits(latents, rate, model) / 8 + 250
        if not options:
            plain = sgc.encode(picture, quality, model="tiny")
            here, there = (sgc.read_prologue(one).index for one in (data, plain))
            assert (here == there and data[-here.stream_sizes[-1] :] == plain[-here.stream_sizes[-1] :]) == (band == 0)
    assert used > {0, 4}


def test_bands_of_other_shapes_are_refused(tmp_path: Path) -> None:
    """Not 64 tables for every band, or a scale that is coded in some bands alone."""
    tables = in_bands(2)
    with pytest.raises(BundleError, match=r"tables\.npz.*127"):
        bundle.ModelBundle(with_residual_tables(tmp_path / "a", join(tables[:-1]))).conditional  # noqa: B018
    tables[64] = tables[65]
    with pytest.raises(BundleError, match=r"tables\.npz.*some bands"):
        bundle.ModelBundle(with_residual_tables(tmp_path / "b", join(tables))).conditional  # noqa: B018


def test_unknown_model_says_what_to_do(sgc_bytes: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The message names the model, what is installed and how to add it."""
    wanted = sgc.read_prologue(sgc_bytes).header.model_id.hex()
    monkeypatch.setenv(bundle.PATH_VARIABLE, str(tmp_path))
    assert not [m for m in bundle.list_models() if m.model_id.hex() == wanted]
    with pytest.raises(UnknownModelError, match=f"{wanted}.*SGC_MODEL_PATH"):
        sgc.decode(sgc_bytes)


def test_broken_bundles_do_not_hide_good_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken directory on the path is passed over."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "manifest.json").write_text("{")
    copy_of(tmp_path, "b", name="good")
    monkeypatch.setenv(bundle.PATH_VARIABLE, str(tmp_path))
    assert bundle.find_model("good").name == "good"
    with pytest.raises(UnknownModelError, match=r"Broken: .*manifest\.json"):
        bundle.find_model("better")


def test_two_models_of_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second export beside the first: which of them is meant must be said."""
    first, second = (bundle.ModelBundle(copy_of(tmp_path, f, name="mine", parameters=k)) for k, f in enumerate("ab"))
    monkeypatch.setenv(bundle.PATH_VARIABLE, str(tmp_path))
    with pytest.raises(BundleError, match=f"{first.model_id.hex()}.*{second.model_id.hex()}"):
        sgc.encode(photo(40, 50), model="mine")
    for model in (first, second):
        assert bundle.find_model(model.model_id.hex()).model_id == model.model_id
    shutil.copytree(first.directory, tmp_path / "c")  # the same once more
    shutil.rmtree(second.directory)
    assert bundle.find_model("mine").model_id == first.model_id


def test_places_that_cannot_be_looked_at_hold_no_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """One entry of the path takes nothing from the others."""
    data = sgc.encode(photo(64, 64), semantics=True)
    monkeypatch.setenv(bundle.PATH_VARIABLE, os.pathsep.join([str(TINY), f"/{'x' * 300}"]))
    assert sgc.analyze(data, heads="*").labels
    assert bundle.list_models()
    with pytest.raises(UnknownModelError):
        bundle.find_model("nonesuch")


@pytest.mark.parametrize(
    "text",
    [
        '{"latent_channels": 1e999}',
        '{"latent_channels": 10000000000, "predicted": [-1], "bundle_version": 3}',
        '{"hyper_channels": 0}',
        '{"latent_channels": -1}',
        "[" * 10**5,
    ],
    ids=range(5),
)
def test_tampered_manifests(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever stands in one, it is passed over, and said to whoever asks for it."""
    broken = copy_of(tmp_path)
    whole = json.loads((broken / "manifest.json").read_text())
    (broken / "manifest.json").write_text(text if text[0] == "[" else json.dumps({**whole, **json.loads(text)}))
    monkeypatch.setenv(bundle.PATH_VARIABLE, os.pathsep.join(map(str, (TINY, broken))))
    with pytest.raises(BundleError):
        bundle.ModelBundle(broken)
    assert bundle.list_models()
    (broken / "heads.json").write_text("[" * 10**5)
    sgc.encode(photo(40, 50), semantics=True)


def test_entry_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package offers models through an entry point; it is located, not imported."""
    package = tmp_path / "some_models"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    copy_of(package, "m", name="from-entry-point")
    info = tmp_path / "some_models-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-models\nVersion: 1\n")
    points = "some = some_models\nbad = nonesuch\nworse = some_models.part\n"
    (info / "entry_points.txt").write_text(f"[{bundle.ENTRY_POINT_GROUP}]\n{points}")
    monkeypatch.syspath_prepend(tmp_path)
    assert bundle.find_model("from-entry-point").directory.parent == package
    assert "some_models" not in sys.modules


def test_rates() -> None:
    """Rates rise with quality; bands depend on integers alone and stay within range."""
    bank = bundle.ModelBundle(TINY).rate_bank
    rates = [bank.rate_of_quality(q) for q in np.linspace(1, 100, 199)]
    assert rates == sorted(set(rates))
    assert {bank.band(rate, 8) for rate in range(0, 65536, 17)} == set(range(8))
    middle = bank.interpolate(bank.log_gain, bundle.RATE_UNIT + bundle.RATE_UNIT // 2).ravel()
    assert np.allclose(middle, bank.log_gain[:2].mean(0), atol=1e-6)


def test_a_rate_bank_of_another_shape(tmp_path: Path) -> None:
    """Is told when it is read, not where it is used."""
    arrays = dict(np.load(TINY / "rates.npz"))
    for k, changes in enumerate(
        (
            {name: array[:1] for name, array in arrays.items() if name != "quality_positions"},
            {"log_gain": arrays["log_gain"][:, 1:]},
            {"hyper_condition": arrays["hyper_condition"][1:]},
        )
    ):
        broken = copy_of(tmp_path, f"{k}")
        np.savez(broken / "rates.npz", **{**arrays, **changes})
        manifest = json.loads((broken / "manifest.json").read_text())
        manifest["sha256"]["rates.npz"] = hashlib.sha256((broken / "rates.npz").read_bytes()).hexdigest()
        (broken / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(BundleError, match=r"rates\.npz"):
            bundle.ModelBundle(broken).rate_bank  # noqa: B018


def test_ends_of_lines_change_no_id(tmp_path: Path) -> None:
    """Git for Windows checks texts out with others."""
    shutil.copytree(TINY, tmp_path / "tiny")
    for name in (bundle.MANIFEST, head_bundle.DESCRIPTION):
        text = (TINY / name).read_bytes()
        assert b"\n" in text and b"\r" not in text
        (tmp_path / "tiny" / name).write_bytes(text.replace(b"\n", b"\r\n"))
    assert bundle.ModelBundle(tmp_path / "tiny").model_id == bundle.ModelBundle(TINY).model_id
    assert repr(bundle.ModelBundle(TINY)).startswith("ModelBundle('tiny', ")
    assert head_bundle.HeadBundle(tmp_path / "tiny").head_id == head_bundle.HeadBundle(TINY).head_id
