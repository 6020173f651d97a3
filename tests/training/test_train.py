"""The trainer, the exporter and the evaluation, on a few small pictures."""

from __future__ import annotations

import csv
import dataclasses
import shutil
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pytorch_msssim")
bjontegaard = pytest.importorskip("bjontegaard")

import numpy as np  # noqa: E402
from conftest import photo  # noqa: E402
from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from PIL import Image  # noqa: E402
from small_run import SETTINGS, small_pictures, small_run  # noqa: E402

import pillow_semicodec as sgc  # noqa: E402
from pillow_semicodec import bundle, metrics  # noqa: E402
from training import ablate, average, eight_bit, export, fused, train  # noqa: E402
from training.commands import ExportError  # noqa: E402
from training.compact import compact  # noqa: E402
from training.data import (  # noqa: E402
    FREQUENT_RATE,
    LOWEST_RATE,
    SHARE_ABOVE,
    CropSampler,
    batches,
    names_of,
    rates_of,
    read_pictures,
    read_split,
    usual_crop,
)
from training.hardness import read_hardness  # noqa: E402
from training.state import load_checkpoint  # noqa: E402
from training.synthetic import synthetic_pictures  # noqa: E402


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_pictures(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run(data, tmp_path_factory.mktemp("run"), steps=6).parent


def test_a_run_resumes(run: Path, data: Path, tmp_path: Path) -> None:
    """The same command goes on where the checkpoint stands, with the checkpoint's shape; logs go on too."""
    shutil.copytree(run, tmp_path / "run")
    train.main(
        [
            "--data",
            str(data),
            "--out",
            str(tmp_path / "run"),
            "--steps",
            "9",
            "--threads",
            "1",
        ]
    )
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert state["step"] == 9
    assert '"latent_channels": 12' in state["configs"]
    assert '"crop": 64' in state["configs"]
    with (tmp_path / "run" / "log.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["6", "9"]
    assert not list((tmp_path / "run").glob("*.tmp"))


def test_a_model_grows(run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A checkpoint without the bypass starts a model with it; without --restart-clock that is refused by name."""
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    for key in ("model", "ema"):
        state[key] = {name: value for name, value in state[key].items() if "bypass" not in name}
    torch.save(state, tmp_path / "old.pt")
    arguments = ["--data", str(data), "--out", str(tmp_path / "run"), "--steps", "2", "--threads", "1", *SETTINGS]
    with pytest.raises(ValueError, match=r"old\.pt has another shape"):
        train.main([*arguments, "--resume", str(tmp_path / "old.pt")])
    train.main([*arguments, "--resume", str(tmp_path / "old.pt"), "--restart-clock"])
    assert "bypass_split.weight" in capsys.readouterr().out


@given(share=st.floats(0, 1), seed=st.integers(0, 99))
def test_averages_lie_between(share: float, seed: int) -> None:
    """On the straight line, and at its ends exactly; whole numbers are those of the new weights."""
    draw = torch.Generator().manual_seed(seed)
    old, new = ({"w": torch.randn(3, 2, generator=draw).half(), "n": torch.tensor([k])} for k in (1, 2))
    found = average.mixed(old, new, share)
    assert found["n"].item() == 2
    assert found["w"].dtype == torch.half
    expected = old["w"].double() * (1 - share) + new["w"].double() * share
    assert torch.allclose(found["w"].double(), expected, atol=2e-3)
    assert torch.equal(average.mixed(old, new, 0.0)["w"], old["w"])
    assert torch.equal(average.mixed(old, new, 1.0)["w"], new["w"])
    with pytest.raises(ValueError, match="different names or shapes"):
        average.mixed(old, {"w": torch.zeros(1)}, share)


def test_an_average_starts_a_run(run: Path, data: Path, tmp_path: Path) -> None:
    """Of a run with itself it holds the run's averages."""
    checkpoint = str(run / "checkpoint.pt")
    average.main([checkpoint, checkpoint, "--share", "0.3", "--out", str(tmp_path / "mixed.pt")])
    before, after = (load_checkpoint(path)["ema"] for path in (run / "checkpoint.pt", tmp_path / "mixed.pt"))
    assert all(torch.allclose(before[name].float(), after[name].float(), atol=1e-6) for name in before)
    on = ["--data", str(data), "--out", str(tmp_path / "on"), "--steps", "1", "--threads", "1", "--restart-clock"]
    train.main([*on, "--resume", str(tmp_path / "mixed.pt")])
    with pytest.raises(ValueError, match="--share"):
        average.main([checkpoint, checkpoint, "--share", "2", "--out", str(tmp_path / "no.pt")])


@given(st.floats(0.9, 0.9999), st.integers(0, 10**6), st.integers(0, 10**6))
def test_averages_reach_back_a_part_of_a_run(decay: float, seen: int, left: int) -> None:
    """Never farther than the decay says, nor than a ninth of what was or will be; at the end they are the weights."""
    config = dataclasses.replace(train.configure([])["train"], ema_decay=decay)
    kept = train.kept_share(config, seen, left)
    assert 0 <= kept <= decay
    assert kept <= (seen + 1) / (seen + 10) + 1e-9
    assert train.kept_share(config, seen, 0) == 0
    assert train.kept_share(config, 10**9, 10**9) == pytest.approx(decay)


def test_averages_go_on_where_they_stood(run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new clock is no new average; without moments the rate rises to what it is to be, on the old clock, too."""
    seen: list[float] = []
    monkeypatch.setattr(train, "kept_share", lambda config, steps, left: seen.append(steps) or 0.9)
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    del state["optimiser"]
    torch.save({**state, "step": 1000, "averaged": 1000, "model": state["ema"]}, tmp_path / "old.pt")
    begin = ["--data", str(data), "--threads", "1", "--resume", str(tmp_path / "old.pt")]
    begin += ["--set", "train.lr=0.01", "--set", "train.lr_hold=0.999"]
    train.main([*begin, "--out", str(tmp_path / "new"), "--steps", "3", "--restart-clock"])
    train.main([*begin, "--out", str(tmp_path / "same"), "--steps", "1003"])
    for name in ("new", "same"):
        after = torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)["model"]
        assert max((after[k].float() - v.float()).abs().max() for k, v in state["ema"].items()) < 2e-3  # and not 0.03
    train.main([*begin[:4], "--out", str(tmp_path / "new"), "--steps", "4"])  # another sitting
    assert seen == [1000, 1001, 1002, 1000, 1001, 1002, 1003]
    compact(tmp_path / "new" / "checkpoint.pt", tmp_path / "small.pt")
    assert load_checkpoint(tmp_path / "small.pt")["averaged"] == 1004


def test_a_compact_checkpoint_starts_a_run(run: Path, data: Path, tmp_path: Path) -> None:
    """Half the bytes of one set of weights, and enough to go on from."""
    compact(run / "checkpoint.pt", tmp_path / "small.pt")
    assert (tmp_path / "small.pt").stat().st_size < 0.3 * (run / "checkpoint.pt").stat().st_size
    arguments = ["--data", str(data), "--out", str(tmp_path / "run"), "--steps", "2", "--threads", "1"]
    train.main([*arguments, "--resume", str(tmp_path / "small.pt"), "--restart-clock"])
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["step"] == 2


def test_ablation(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Variants start from one checkpoint and are compared with the first; a change that is none costs nothing."""
    arguments = ["--start", str(run / "checkpoint.pt"), "--data", str(data), "--out", str(tmp_path), "--steps", "2"]
    ablate.main([*arguments, "plain:--threads 1", "same:--threads 1", "slower:--threads 1 --set train.lr=1e-6"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert lines[2] == "| same | +0.00 | +0.00 | +0.00 |"
    assert lines[3].startswith("| slower | ")
    with pytest.raises(ValueError, match="another start"):
        ablate.main([*arguments, "plain:--threads 1", "same:--threads 1 --set train.lr=1e-6"])
    whole = train.main
    monkeypatch.setattr(train, "main", lambda given: whole([*given, "--steps", "1"]))  # as when it is stopped
    with pytest.raises(ValueError, match="was stopped"):
        ablate.main([*arguments, "cut:--threads 1"])


def test_settings_are_checked() -> None:
    """Unknown names are told the known ones."""
    with pytest.raises(ValueError, match="analysis_blocks"):
        train.configure(["model.nonesuch=1"])
    with pytest.raises(ValueError, match="unknown setting"):
        train.configure(["other.lr=1"])
    assert train.configure(["train.lr=0.5"])["train"].lr == 0.5
    for wrong in ("train.bf16=False", "train.batch=2.5", "train.batch=true", "train.lr=fast"):
        with pytest.raises(ValueError, match="takes a value"):
            train.configure([wrong])
    assert train.configure(["semi.augmentation=weak"])["semi"].augmentation == "weak"
    # A checkpoint of an older version may hold settings that are no more.
    assert train.configure([], {"train": {"lr": 0.1, "gone": 3}})["train"].lr == 0.1


def test_learning_rate() -> None:
    """Warm-up, hold, then linear to zero."""
    config = train.configure([])["train"]
    rates = [train.learning_rate(config, 500, p) for p in (0, 0.2, 0.4, 0.7, 1.0)]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-3, 0.5e-3, 0], abs=1e-9)
    assert train.learning_rate(config, 0, 0) < 1e-5


def test_data_errors_name_the_file(tmp_path: Path) -> None:
    """An empty folder and a broken picture are told apart, by name."""
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        read_pictures(tmp_path, names_of(tmp_path))
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(OSError, match=r"broken\.png"):
        read_pictures(tmp_path, names_of(tmp_path))
    with pytest.raises(ValueError, match="256 pixels"):
        CropSampler([photo(100, 100)], 256, 1, 0, 0, 0)


def test_crops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Crops have the shape asked for, repeat with the seed, and some are grey."""
    monkeypatch.setattr("training.data.SYNTHETIC_COUNT", 3)
    samplers = [CropSampler([photo(150, 150), photo(80, 300)], 64, 8, 0.5, 0.3, 7) for _ in range(2)]
    first, second = (s.next() for s in samplers)
    assert first.shape == (8, 3, 64, 64)
    assert first.dtype == torch.uint8
    assert torch.equal(first, second)
    grey = [bool((c[0] == c[1]).all() and (c[1] == c[2]).all()) for c in torch.cat([first, samplers[0].next()])]
    assert any(grey)
    assert not all(grey)


def test_long_runs_are_drawn_and_pictures_of_them_end_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As many curves as there were validations; what is wrong with the plot is told, and that is all."""
    log = train.Log(tmp_path, train.FIELDS)
    with monkeypatch.context() as quick:
        quick.setattr(train, "plot_run", lambda folder: None)
        for step in range(41):  # whose shades of grey once fell below black
            log.write(dict.fromkeys(train.FIELDS, 1.0 + step) | {"step": step})
    assert train.plot_run(tmp_path).stat().st_size > 10_000
    monkeypatch.setattr(train, "plot_run", lambda folder: 1 / 0)
    log.write(dict.fromkeys(train.FIELDS, 1.0) | {"step": 41})
    log.close()
    assert "no plots: division by zero" in capsys.readouterr().out


def test_a_crop_that_nearly_all_have_room_for() -> None:
    """Few smaller ones are left out, many make it smaller."""
    large, small = np.zeros((400, 500, 3), np.uint8), np.zeros((200, 300, 3), np.uint8)
    assert usual_crop([large] * 19 + [small], 320) == 320
    assert usual_crop([large] * 8 + [small] * 2, 320) == 192
    assert usual_crop([large[:, :90]], 320) == 64


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning", "ignore:.*fork:DeprecationWarning")
def test_crops_drawn_by_other_processes() -> None:
    """Every process draws crops of its own, the same ones with the same seed."""
    sampler = CropSampler([photo(150, 150)], 64, 3, 0.5, 0, 7)
    first, again, other = ([next(it) for _ in range(4)] for it in (batches(sampler, 2, seed) for seed in (1, 1, 2)))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert len({tuple(batch.flatten().tolist()) for batch in [*first, *other]}) == 8
    here = CropSampler([photo(150, 150)], 64, 3, 0.5, 0, 7)
    assert torch.equal(next(batches(here, 0, 1)), CropSampler([photo(150, 150)], 64, 3, 0.5, 0, 7).next())


def test_crops_of_every_scale() -> None:
    """Some are reduced, as far as their picture goes; none is of another size."""
    wave = 127.5 * (1 + np.cos(np.arange(400) * 2 * np.pi / 8))  # of 8 pixels, or less in a reduced crop
    stripes = np.broadcast_to(wave[None, :, None], (90, 400, 3)).astype(np.uint8)
    crops = CropSampler([stripes], 64, 60, 0, 0, 7).next().float()
    assert crops.shape == (60, 3, 64, 64)
    spectra = (torch.stack([torch.fft.rfft(c[0].mean(k)).abs() for k in (0, 1)]).amax(0) for c in crops)
    strongest = [int(spectrum[2:].argmax()) + 2 for spectrum in spectra]
    assert {8} < set(strongest) <= set(range(8, 13))  # 90 / 64 is a factor of 1.4 at most


@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=2, max_size=9))
def test_rates_are_those_of_files(quantiles: list[float]) -> None:
    """From a little below the first anchor to the last one, rising; few where no quality but 96 to 100 lies."""
    rates = rates_of(np.sort(np.array(quantiles)))
    assert (np.diff(rates) >= 0).all()
    assert LOWEST_RATE <= rates[0] <= rates[-1] <= 1
    assert np.mean(rates_of(np.linspace(0, 1, 1000, endpoint=False)) > FREQUENT_RATE) == pytest.approx(
        SHARE_ABOVE, abs=0.002
    )


def test_vivid_crops_keep_their_light() -> None:
    """Colours move away from grey, what is grey stays, and light keeps its contrast."""
    dull = np.random.default_rng(0).integers(110, 140, (100, 100, 3), dtype=np.uint8)
    plain, vivid = (CropSampler([dull], 64, 16, 0, 0, 7, vivid_share=share).next().float() for share in (0.0, 1.0))
    chroma, vivid_chroma = ((c.amax(1) - c.amin(1)).mean() for c in (plain, vivid))
    assert 1.25 * chroma < vivid_chroma < 2.6 * chroma
    luma, vivid_luma = (torch.tensordot(c, torch.tensor([0.299, 0.587, 0.114]), dims=([1], [0])) for c in (plain, vivid))
    assert abs(luma.std() - vivid_luma.std()) < 0.6
    grey = np.repeat(dull[:, :, :1], 3, axis=2)
    crops = CropSampler([grey], 64, 4, 0, 0, 7, vivid_share=1.0).next()
    assert torch.equal(crops[:, 0], crops[:, 1])
    assert torch.equal(crops[:, 0], crops[:, 2])


def numbered(folder: Path, count: int, small: int = -1) -> Path:
    """A folder of grey pictures 192 pixels high, of levels by number; that of ``small`` is lower."""
    with (folder / "index.csv").open("w") as index:
        print("file,set", file=index)
        for k in range(count):
            Image.fromarray(np.full((191 if k == small else 192, 200), k, np.uint8)).save(folder / f"{k:03}.png")
            print(f"{k:03}.png,{'even' if k % 2 == 0 else 'odd'}", file=index)
    return folder


def test_validation_is_held_out(tmp_path: Path) -> None:
    """No validation picture is trained on, whatever part of the folder is; their sides suit the networks."""
    folder = numbered(tmp_path, 130)
    training, names, validation = read_split(folder)
    assert [int(p[0, 0, 0]) for p in validation] == [0, 60, 120]
    assert [f"{p[0, 0, 0]:03}.png" for p in training] == names and len(names) == 127
    assert all(n % 64 == 0 for p in validation for n in p.shape[:2])
    for part in (read_split(folder, ("even",)), read_split(folder, limit=70)):
        assert {int(p[0, 0, 0]) for p in part.validation} <= {0, 60, 120}
        assert not {0, 60, 120} & {int(p[0, 0, 0]) for p in part.training}
    odd = read_split(folder, ("odd",))  # nothing of which is held out by all
    assert [int(p[0, 0, 0]) for p in odd.validation] == [1, 121] and len(odd.training) == 63


def test_what_is_too_small_to_validate_is_left_out(tmp_path: Path) -> None:
    """MS-SSIM would end the run at its first validation."""
    folder = numbered(tmp_path, 70, small=60)
    training, _, validation = read_split(folder)
    assert (len(training), len(validation)) == (68, 1)
    with pytest.raises(ValueError, match="too few"):
        read_split(folder, limit=1)


def test_sets_that_are_not_there(tmp_path: Path) -> None:
    """A typing error chooses neither nothing nor everything."""
    with pytest.raises(ValueError, match=r"no index.csv"):
        names_of(tmp_path, ("kodka",))
    (tmp_path / "index.csv").write_text("file,set\na.png,kodak\n")
    assert names_of(tmp_path, ("kodak",)) == ["a.png"]
    with pytest.raises(ValueError, match=r"no set kodka; it has kodak"):
        names_of(tmp_path, ("kodka",))
    (tmp_path / "index.csv").write_text("name\na.png\n")
    with pytest.raises(ValueError, match="no column file"):
        names_of(tmp_path)


@pytest.mark.parametrize("broken", [b"no picture", b"\x89PNG\r\n\x1a\n broken"])
def test_broken_training_pictures_are_named(broken: bytes, tmp_path: Path) -> None:
    Image.fromarray(photo(200, 200)).save(tmp_path / "good.png")
    whole = (tmp_path / "good.png").read_bytes()
    (tmp_path / "bad.png").write_bytes(broken)
    with pytest.raises(OSError, match=r"bad\.png"):
        read_pictures(tmp_path, names_of(tmp_path))
    damaged = bytearray(whole)
    damaged[len(whole) // 2 :] = bytes(len(whole) - len(whole) // 2)
    (tmp_path / "bad.png").write_bytes(damaged)
    with pytest.raises(OSError, match=r"bad\.png"):
        read_pictures(tmp_path, names_of(tmp_path))


def test_synthetic_pictures() -> None:
    """Of the size asked for, with content, the same for the same seed."""
    for photographs in ([], [photo(120, 120)]):
        first, second = (synthetic_pictures(60, 200, 3, photographs) for _ in range(2))
        assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
        assert all(p.shape == (200, 200, 3) for p in first)
        assert sum(p.std() > 1 for p in first) > 56  # a ground may be empty
        scans = [np.asarray(p, float).mean(2) for k, p in enumerate(first) if k % 15 == 10]
        assert len(scans) == 4
        for scan in scans:  # light falls on them unevenly, and no two neighbours are quite alike
            assert np.ptp([np.percentile(part, 90) for part in (scan[:60, :60], scan[:60, -60:], scan[-60:, :60])]) > 1


def test_hard_pictures_come_more_often(tmp_path: Path) -> None:
    """In proportion to the square of how much is lost, within bounds; in rounds, in which none is left out by chance."""
    table = tmp_path / "hardness.csv"
    table.write_text("file,ratio\na,0.1\nb,1\nc,1\nd,1.5\ne,9\n")
    weights = read_hardness(table)
    assert weights == {"a": 0.25, "b": 1, "c": 1, "d": 2.25, "e": 4}
    pictures = [np.full((64, 64, 3), k, np.uint8) for k in range(5)]
    sampler = CropSampler(pictures, 64, 4000, 0, 0, 1, list(weights.values()))
    drawn = np.bincount(sampler.next()[:, 0, 0, 0].numpy(), minlength=5) / 4000
    assert np.allclose(drawn, np.array(list(weights.values())) / 8.5, atol=0.03)
    even = CropSampler(pictures, 64, 10, 0, 0, 1)
    for _ in range(3):
        assert np.bincount(even.next()[:, 0, 0, 0].numpy()).tolist() == [2] * 5  # in a round all alike come once
    for wrong in ("file,ratio\na,x\n", "name\na\n", "file,ratio\na,-1\n", "file,ratio\n"):
        table.write_text(wrong)
        with pytest.raises(ValueError, match=r"hardness\.csv"):
            read_hardness(table)


def test_functions_are_compiled_where_a_run_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once each, when they are first called; not for shapes that occur once."""
    monkeypatch.setattr(fused.torch, "compile", lambda function, dynamic: lambda x: ("compiled", function(x)))
    monkeypatch.setitem(fused._state, "on", False)
    twice = fused.fused(lambda x: 2 * x)
    assert twice(1) == 2
    fused.compile_from_now_on(True)
    assert twice(1) == ("compiled", 2)
    with fused.as_written():
        assert twice(1) == 2
    assert twice(3) == ("compiled", 6)
    fused.compile_from_now_on(False)  # the next run of this process
    assert twice(3) == 6


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # by PyTorch, as it traces one
def test_runs_of_blocks_compile_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one graph, with what is fused inside, to the same values and gradients."""
    torch.manual_seed(1)
    blocks = eight_bit.EightBitBlocks(8, 2)
    for p in blocks.parameters():
        torch.nn.init.normal_(p, std=0.3)
    x = torch.randn(2, 8, 6, 6)
    blocks.calibrate(x, 0.99)
    monkeypatch.setitem(fused._state, "on", False)
    found = []
    compiled_whole = torch.compile(eight_bit._through.__wrapped__, backend="aot_eager", fullgraph=True)
    for run_through in (eight_bit._through, compiled_whole):
        blocks.zero_grad()
        out = run_through(blocks, x)
        out.square().sum().backward()
        found.append([out.detach(), *(p.grad for p in blocks.parameters())])
        monkeypatch.setitem(fused._state, "on", True)
    for plain, compiled in zip(*found, strict=True):
        assert torch.allclose(plain, compiled, rtol=1e-4, atol=1e-4 * float(plain.abs().max()))


def test_symbols_are_counted_in_the_bands_of_their_rates(run: Path, data: Path) -> None:
    """Both kinds in the same bands, of which crops at random rates reach several."""
    residuals, hypers = export.count_symbols(
        export.load_model(run / "checkpoint.pt"), read_pictures(data, names_of(data)), passes=24, seed=1
    )
    reached = residuals.sum((1, 2)) > 0
    assert np.array_equal(reached, hypers.sum((1, 2)) > 0)
    assert reached.sum() > 1


@pytest.fixture(scope="module")
def exported(run: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models")
    model = export.load_model(run / "checkpoint.pt")
    return export.export_bundle(model, "small", out, read_pictures(data, names_of(data)), passes=4)


def test_an_exported_bundle_works(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bundle of a fresh run encodes and decodes, and lies in a folder named by its id."""
    monkeypatch.setenv(bundle.PATH_VARIABLE, str(exported.parent))
    monkeypatch.setenv(bundle.DEFAULT_VARIABLE, "small")
    model = sgc.find_model("small")
    assert exported.name == model.model_id.hex()
    picture = photo(90, 70)
    assert sgc.decode(sgc.encode(picture, 70)).shape == picture.shape
    assert [p.name for p in exported.parent.iterdir()] == [exported.name]


def test_exporting_again_keeps_what_others_added(run: Path, data: Path, tmp_path: Path) -> None:
    """Heads and companions are those of the weights, which are the same."""
    model = export.load_model(run / "checkpoint.pt")
    first = export.export_bundle(model, "small", tmp_path, read_pictures(data, names_of(data)), passes=2)
    (first / "heads.json").write_text("{}")
    again = export.export_bundle(model, "small", tmp_path, read_pictures(data, names_of(data)), passes=2)
    assert again == first
    assert (first / "heads.json").read_text() == "{}"
    assert [path.name for path in tmp_path.iterdir()] == [first.name]


def test_a_trained_model_goes_on_in_eight_bits(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Calibrated on the way in, trained, exported and calibrated no more; a fresh model is refused."""
    grow = ["--set", "model.eight_bit=true", "--set", "model.synthesis_blocks=2", "--threads", "1", "--data", str(data)]
    start = ["--resume", str(run / "checkpoint.pt"), "--restart-clock", "--out", str(tmp_path / "run"), "--steps", "2"]
    train.main([*grow, *start])
    assert "log_stream_step" in capsys.readouterr().out
    train.main(["--data", str(data), "--out", str(tmp_path / "run"), "--steps", "3", "--threads", "1"])
    assert "grown" not in capsys.readouterr().out
    model = export.load_model(tmp_path / "run" / "checkpoint.pt")
    assert model.calibrated
    exported = export.export_bundle(model, "small", tmp_path / "out", read_pictures(data, names_of(data)), passes=1)
    assert (exported / "synthesis.onnx").exists()
    with pytest.raises(ValueError, match="train it in float first"):
        train.main([*SETTINGS, *grow, "--out", str(tmp_path / "fresh"), "--steps", "1"])


def test_export_refuses_sums_beyond_exactness(run: Path, data: Path, tmp_path: Path) -> None:
    """A partial sum that could reach 2**24 ends the export, and nothing is written."""
    model = export.load_model(run / "checkpoint.pt")
    with torch.no_grad():
        model.scale_context.index.bias[0] = 2**12
    with pytest.raises(ExportError, match=r"2\*\*24"):
        export.export_bundle(model, "small", tmp_path / "out", read_pictures(data, names_of(data)), passes=1)
    assert not list((tmp_path / "out").iterdir())


def test_export_refuses_graphs_that_differ(run: Path, tmp_path: Path) -> None:
    """One changed weight is noticed: exactly in the integer graphs, beyond a tolerance in the others."""
    model = export.load_model(run / "checkpoint.pt")
    for name in ("scale_context", "scale_hyper_synthesis", "synthesis"):
        graph = export.export_graph(name, model, tmp_path / "graph.onnx")
        export.check_parity(name, graph, tmp_path / "graph.onnx", model)
        with torch.no_grad():
            last = graph.index if name.startswith("scale") else graph.synthesis.project
            last.bias += 2**9 if name.startswith("scale") else 0.1
        with pytest.raises(ExportError, match=name):
            export.check_parity(name, graph, tmp_path / "graph.onnx", model)


def test_counted_tables() -> None:
    """Tables follow the counts of their band and those beside it, symmetrically, others those of all bands."""
    counts = np.zeros((export.BANDS, 64, 2 * export.RESIDUAL_RANGE + 1))
    values = export.RESIDUAL_RANGE + np.arange(-3, 4)
    counts[2, 20, values] = [10, 100, 900, 5000, 1100, 80, 10]
    counts[7, 20, values] = [0, 0, 2000, 3200, 2000, 0, 0]
    tables = export.residual_tables(counts)
    assert len(tables) == 64 * export.BANDS
    for band, share in ((0, 8200 / 14400), (1, 5000 / 7200), (3, 5000 / 7200), (6, 3200 / 7200), (7, 3200 / 7200)):
        assert tables.sizes[64 * band] == 0
        table, minimum = tables.table(64 * band + 20), tables.minimums[64 * band + 20]
        middle = -minimum
        assert table[middle] / table.sum() == pytest.approx(share, rel=0.05)
        assert abs(int(table[middle + 1]) - int(table[middle - 1])) <= 1


def test_msssim_agrees_with_the_reference() -> None:
    """Our MS-SSIM is pytorch-msssim's, odd sides included."""
    from pytorch_msssim import ms_ssim

    for height, width in ((192, 176), (201, 187)):
        a = photo(height, width)
        b = np.clip(a + np.random.default_rng(0).normal(0, 12, a.shape), 0, 255).astype(np.uint8)
        tensors = [torch.from_numpy(p).permute(2, 0, 1)[None].float() for p in (a, b)]
        assert metrics.msssim(a, b) == pytest.approx(float(ms_ssim(*tensors, data_range=255)), abs=1e-4)
    assert metrics.msssim(a, a) == pytest.approx(1)
    assert np.isnan(metrics.msssim(a[:160], a[:160]))
    assert metrics.psnr(a, a) == np.inf
    assert metrics.ssimulacra2(a, a) == pytest.approx(100, abs=0.5)


@given(count=st.integers(1, 9), processes=st.integers(1, 4), seed=st.integers(0, 2**31))
def test_rates_of_a_step_are_spread_evenly(count: int, processes: int, seed: int) -> None:
    """Those of all processes together: one in each of as many equal parts of [0, 1)."""
    quantiles = np.concatenate(
        [train.spread(count, rank, processes, torch.Generator().manual_seed(seed)) for rank in range(processes)]
    )
    assert (quantiles >= 0).all() and (quantiles < 1).all()
    between = np.diff(np.sort(quantiles), append=1 + quantiles.min())
    assert np.allclose(between, 1 / (count * processes), atol=1e-6)
