"""Gains, fitted by what files take: towards where bytes are fewest, and nothing else changes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from small_run import small_pictures, small_run  # noqa: E402

from training import gains  # noqa: E402
from training.export import load_model  # noqa: E402
from training.state import load_checkpoint, save_checkpoint  # noqa: E402

SHARES = [f"--set=train.{name}" for name in ("msssim_share=0.4", "xyb_share=0.1", "xyb_tilt=0.2")]


def test_steps_that_are_too_coarse_become_finer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the first channels, whose gains were halved: both arrays move, one against the other; all other weights stay."""
    monkeypatch.setattr(gains, "COUNTED_CROPS", 12)
    data = small_pictures(tmp_path / "pictures")
    state = load_checkpoint(small_run(data, tmp_path / "run", "--set=train.crop=192", *SHARES))
    for weights in (state["ema"], state["model"]):
        weights["rate_bank.log_gain"][:, :5] -= 0.7
        weights["rate_bank.log_inverse_gain"][:, :5] += 0.7
    spoilt, fitted = tmp_path / "spoilt.pt", tmp_path / "fitted.pt"
    save_checkpoint(spoilt, {**state, "configs": json.dumps(state["configs"])})
    arguments = ["--checkpoint", str(spoilt), "--data", str(data), "--out", str(fitted), "--crops", "4"]
    gains.main(arguments)
    before, after = load_model(spoilt).state_dict(), load_model(fitted).state_dict()
    moved = (after["rate_bank.log_gain"] - before["rate_bank.log_gain"])[:, 0]
    assert (moved[:-1] > 0).all()  # what lies beyond the last anchor nobody measures
    assert torch.allclose(after["rate_bank.log_inverse_gain"][:, 0], before["rate_bank.log_inverse_gain"][:, 0] - moved)
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {"rate_bank.log_gain", "rate_bank.log_inverse_gain"}
    assert "channels 0 to 4: +" in capsys.readouterr().out
    assert "optimiser" not in load_checkpoint(fitted)
