"""Polishing: bits out of counted tables, their slopes, and what stays as it is."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from conftest import photo  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from PIL import Image  # noqa: E402

from training import polish, train  # noqa: E402
from training.polish import Tables  # noqa: E402


@settings(deadline=None)
@given(value=st.floats(-6, 6, width=32), row=st.integers(0, 3), seed=st.integers(0, 99))
def test_bits_come_out_of_the_table(value: float, row: int, seed: int) -> None:
    """Those of the rounded value; slopes are differences between neighbours, and zero beyond the ends of both axes."""
    draw = torch.Generator().manual_seed(seed)
    tables = Tables(torch.rand(4, 9, generator=draw).double())
    r, v = torch.tensor([float(row)], requires_grad=True), torch.tensor([value], requires_grad=True)
    bits = tables.of(r, v)
    clipped = max(-4, min(4, int(np.round(value))))
    assert bits.item() == tables.bits[row, 4 + clipped].item()
    bits.sum().backward()
    low = max(-4, min(3, math.floor(value)))
    assert v.grad.item() == pytest.approx((tables.bits[row, 5 + low] - tables.bits[row, 4 + low]).item(), rel=1e-5, abs=1e-6)
    up, down = min(row + 1, 3), max(row - 1, 0)
    expected = (tables.bits[up, 4 + clipped] - tables.bits[down, 4 + clipped]) / (up - down)
    assert r.grad.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)


def test_tables_learn_what_they_count() -> None:
    """Code lengths approach the entropy; a row that is fixed keeps its prior."""
    prior = torch.full((2, 5), 0.2).double()
    tables = Tables(prior, fixed=1)
    values = torch.from_numpy(np.random.default_rng(1).choice([-1.0, 0.0, 1.0], 40_000, p=[0.25, 0.5, 0.25]))
    for row in (0, 1):
        tables.count(torch.full((40_000,), float(row)), values)
    tables.renew()
    assert tables.of(torch.ones(40_000), values.float()).mean().item() == pytest.approx(1.5, abs=0.02)
    assert tables.of(torch.zeros(1), torch.zeros(1)).item() == pytest.approx(math.log2(5), abs=1e-4)


def test_polishing_leaves_the_pictures_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Transforms and gains stay, entropy models learn; the checkpoint is one to go on from."""
    (tmp_path / "data").mkdir()
    for seed in range(3):
        Image.fromarray(photo(192, 192, seed)).save(tmp_path / "data" / f"{seed}.png")
    data = ["--data", str(tmp_path / "data")]
    small = ("latent_channels=12", "hyper_channels=4", "analysis_width=24", "analysis_blocks=1", "synthesis_width=16")
    small += ("synthesis_blocks=1", "hyper_width=16", "context_width=16", "scale_width=16", "scale_context_width=8")
    arguments = [*data, "--out", str(tmp_path / "run"), "--steps", "2", "--set=train.crop=64", "--set=train.bf16=false"]
    arguments += [f"--set=model.{setting}" for setting in small]
    train.main([*arguments, "--set=train.msssim_share=0", "--set=train.synthetic_share=0"])
    monkeypatch.setattr(polish, "CROP", 128)
    monkeypatch.setattr(polish, "COUNTED", 2)
    old, new = tmp_path / "run" / "checkpoint.pt", tmp_path / "new.pt"
    polish.main([*data, "--checkpoint", str(old), "--out", str(new), "--crops", "8", "--minutes", "0.02"])
    before, after = (torch.load(path, weights_only=True)["ema"] for path in (old, new))
    stays = {name for name in after if torch.equal(after[name].float(), before[name].float())}
    assert {name for name in after if name.startswith(("analysis.", "synthesis.", "rate_bank.log"))} <= stays
    assert {"hyper_synthesis", "mean_context", "scale_context"} <= {name.partition(".")[0] for name in after.keys() - stays}
    train.main([*data, "--out", str(tmp_path / "on"), "--steps", "1", "--resume", str(new), "--restart-clock"])
