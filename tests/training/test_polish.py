"""Polishing: bits out of counted tables, their slopes, and what stays as it is."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from small_run import small_pictures, small_run  # noqa: E402
from torch import Tensor  # noqa: E402

from pillow_semicodec.entropy.tables import TableSet  # noqa: E402
from training import polish  # noqa: E402
from training.config import ModelConfig  # noqa: E402
from training.export import band_of, hyper_probabilities, hyper_tables, load_model, normalised, residual_tables  # noqa: E402
from training.model import Coded, SemicodecModel  # noqa: E402
from training.polish import Rates, Tables  # noqa: E402


@settings(deadline=None)
@given(
    value=st.floats(-5.75, 5.75, width=32),
    dead=st.booleans(),
    row=st.integers(0, 3),
    band=st.integers(0, 2),
    seed=st.integers(0, 99),
)
def test_bits_come_out_of_the_table(value: float, dead: bool, row: int, band: int, seed: int) -> None:
    """Those of the symbol: the rounded value, or 0. Slopes are the table's between rows, along values those with noise."""
    draw = torch.Generator().manual_seed(seed)
    tables = counting(torch.rand(3, 4, 9, generator=draw).double())
    r, v = torch.tensor([float(4 * band + row)], requires_grad=True), torch.tensor([value], requires_grad=True)
    nearest = 0 if dead else max(-4, min(4, int(np.round(value))))
    bits = tables.of(r, v, torch.tensor([0.0 if dead else round(value)]))
    table = tables.bits[band]
    assert bits.item() == table[row, 4 + nearest].item()
    bits.sum().backward()
    up, down = min(row + 1, 3), max(row - 1, 0)
    expected = (table[up, 4 + nearest] - table[down, 4 + nearest]) / (up - down)
    assert r.grad.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)
    if abs(value) < 3:  # mean over noise of a step's width of the table's interpolated bits, on a fine grid
        noisy = np.linspace(value - 0.5, value + 0.5, 2001)
        steps = np.diff(table[row].numpy().astype(float))[np.floor(noisy).astype(int) + 4]
        assert v.grad.item() == pytest.approx(steps.mean(), abs=2e-3 * (1 + abs(steps).max()))


def counting(prior: Tensor, fixed: Tensor | None = None) -> Tables:
    """Tables that hold ``prior`` [bands, rows, values] until they have counted more than a little."""
    return Tables(tuple(prior.shape), lambda counts: normalised(counts + 64 * normalised(prior)), fixed)


def test_tables_learn_what_they_count() -> None:
    """Code lengths approach the entropy; a row that is fixed keeps its prior."""
    prior = torch.full((1, 2, 5), 0.2).double()
    tables = counting(prior, fixed=prior[0, :1])
    values = torch.from_numpy(np.random.default_rng(1).choice([-1.0, 0.0, 1.0], 40_000, p=[0.25, 0.5, 0.25]))
    for row in (0, 1):
        tables.count(torch.full((40_000,), float(row)), values, left=0.5)
    tables.renew()
    assert tables.of(torch.ones(40_000), values.float(), values.float()).mean().item() == pytest.approx(1.5, abs=0.02)
    assert tables.of(*torch.zeros(3, 1)).item() == pytest.approx(math.log2(5), abs=1e-4)


def test_rates_are_those_of_exported_tables() -> None:
    """Bits by counted tables are, but for rounded frequencies, what the coder's tables of the same counts charge."""
    torch.manual_seed(1)
    model = SemicodecModel(ModelConfig(latent_channels=6, hyper_channels=3, rate_anchors=4))
    rates, count = Rates(model), 5000
    index, rate = torch.randint(1, 20, (count, 6, 1, 1)).float(), torch.rand(count)
    spread = index / 8 * (0.3 + 2 * rate)[:, None, None, None]  # another one in every band
    residual = torch.randn(count, 6, 1, 1) * spread
    symbol = residual.round() * (residual.abs() > 0.6)
    coded = Coded(torch.randn(count, 3, 1, 1) * 2, residual, symbol, index, torch.full_like(residual, 0.5), torch.zeros(1))
    rates.count(coded, rate)
    rates.renew()
    residuals = residual_tables(rates.residuals.counts.numpy())
    hypers = hyper_tables(rates.hyper.counts.numpy(), model)
    rows = band_of(rate)[:, None] * 3 + torch.arange(3)
    scales = 64 * band_of(rate)[:, None] + index[:, :, 0, 0]
    expected = charged(residuals, scales, coded.symbol[:, :, 0, 0]) + charged(hypers, rows, coded.z[:, :, 0, 0])
    assert rates.of(coded, rate).sum().item() == pytest.approx(expected, rel=0.01)


def charged(tables: TableSet, rows: Tensor, values: Tensor) -> float:
    """Bits of values by the coder's tables."""
    found, rounded = rows.flatten().long().numpy(), values.round().flatten().numpy().astype(np.int32)
    return sum(float(tables.bits(int(k), rounded[found == k]).sum()) for k in np.unique(found))


def test_bands_of_hyper_latents() -> None:
    """What is counted beside a band counts there, too, but for the first one."""
    counts, prior = torch.rand(3, 2, 5, dtype=torch.float64) * 100, torch.full((3, 2, 5), 0.2, dtype=torch.float64)
    more = counts.clone()
    more[1, :, 0] += 50
    before, after = hyper_probabilities(counts, prior), hyper_probabilities(more, prior)
    assert torch.equal(after[0], before[0])
    assert (after[1:, :, 0] > before[1:, :, 0]).all()


def test_indexes_of_channels_that_begin_to_be_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Smooth latents, whose differences are small, get the small scales that these have; others keep theirs."""
    torch.manual_seed(2)
    config = ModelConfig(latent_channels=12, hyper_channels=4, scale_width=16, scale_context_width=8, predicted=(2,))
    model = SemicodecModel(config)
    before = model.scale_hyper_synthesis.index.bias.detach().clone()
    monkeypatch.setattr(polish, "COUNTED", 2)
    smooth = torch.linspace(0, 4, 20)[:, None] + torch.linspace(0, 3, 20)
    latents = [polish.Latents(torch.randn(12, 20, 20).half(), 320**2) for _ in range(polish.BATCH)]
    for one in latents:
        one.y[2] = 0.01 * smooth
    polish.fit_indexes(model, latents)
    moved = model.scale_hyper_synthesis.index.bias.detach() - before
    assert moved[2] < -0.5
    assert not moved[[k for k in range(12) if k != 2]].any()


def test_polishing_leaves_the_transforms_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They and the gains stay, entropy models learn; the checkpoint is one to go on from."""
    data = small_pictures(tmp_path / "data")
    old, new = small_run(data, tmp_path / "run"), tmp_path / "new.pt"
    monkeypatch.setattr(polish, "COUNTED", 2)
    arguments = ["--data", str(data), "--checkpoint", str(old), "--out", str(new), "--crops", "8", "--minutes", "0.02"]
    polish.main([*arguments, "--predict", "0", "3"])
    assert list(load_model(new).config.predicted) == [0, 3]
    before, after = (torch.load(path, weights_only=True)["ema"] for path in (old, new))
    stays = {name for name in after if torch.equal(after[name].float(), before[name].float())}
    assert {name for name in after if not name.startswith(polish.LEARNS)} <= stays
    assert not [start for start in polish.LEARNS if all(name in stays for name in after if name.startswith(start))]
    small_run(data, tmp_path / "on", "--resume", str(new), "--restart-clock", steps=1)
