"""Comparing checkpoints: bytes at equal error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from conftest import photo  # noqa: E402
from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from PIL import Image  # noqa: E402

from training import compare, train  # noqa: E402


@given(share=st.floats(0.5, 2), moved=st.floats(-0.4, 0.4), seed=st.integers(0, 99))
def test_bytes_at_equal_error(share: float, moved: float, seed: int) -> None:
    """They are what a picture's own curve says, wherever on it the points lie, and beyond its ends; pictures count alike."""
    random = np.random.default_rng(seed)
    slopes, levels = random.uniform(0.5, 2, (3, 3)), random.uniform(-3, 3, (3, 3))  # [pictures, errors]
    positions = np.linspace(0, 4, len(compare.RATES))[:, None]

    def curves(bits: np.ndarray) -> np.ndarray:
        errors = np.exp(levels - slopes * bits[:, :, None])
        return np.concatenate([np.exp(bits)[:, :, None], errors], 2)

    old = curves(positions + np.zeros(3))
    new = curves(positions + moved + np.zeros(3))
    new[:, :, 0] *= share * np.array([0.5, 1, 2])
    assert compare.bytes_at_equal_error(old, new) == pytest.approx(np.full((9, 3), 100 * (share - 1)), abs=1e-6)


def test_the_command_compares_moving_averages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A checkpoint beside itself takes the same bytes."""
    (tmp_path / "data").mkdir()
    for seed in range(2):
        Image.fromarray(photo(192, 192, seed)).save(tmp_path / "data" / f"{seed}.png")
    data = ["--data", str(tmp_path / "data")]
    small = ("latent_channels=12", "hyper_channels=4", "analysis_width=24", "analysis_blocks=1", "synthesis_width=16")
    small += ("synthesis_blocks=1", "hyper_width=16", "context_width=16", "scale_width=16", "scale_context_width=8")
    arguments = [*data, "--out", str(tmp_path / "run"), "--steps", "1", "--set=train.crop=64", "--set=train.bf16=false"]
    arguments += [f"--set=model.{setting}" for setting in small]
    train.main([*arguments, "--set=train.msssim_share=0", "--set=train.synthetic_share=0", "--set=train.concavity=0.4"])
    run = str(tmp_path / "run" / "checkpoint.pt")
    capsys.readouterr()
    compare.main([run, run, *data])
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows] == [f"| {name}" for name in compare.ERRORS]
    assert all(cell.strip(" |") in ("+0.0 %", "-0.0 %") for row in rows for cell in row.split(" | ")[1:])
