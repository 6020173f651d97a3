"""Comparing checkpoints: bytes at equal error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from hypothesis.extra.numpy import arrays  # noqa: E402
from small_run import small_pictures, small_run  # noqa: E402

from training import compare  # noqa: E402


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


@given(errors=arrays(float, (9, 2, 3), elements=st.integers(1, 6)))
def test_curves_beside_themselves(errors: np.ndarray) -> None:
    """They take the same bytes, also where errors rise with the bits or stay level."""
    bits = np.exp(np.linspace(0, 4, 9))[:, None, None] * np.ones((1, 2, 1))
    curves = np.concatenate([bits, errors], 2)
    assert compare.bytes_at_equal_error(curves, curves) == pytest.approx(np.zeros((9, 3)), abs=1e-9)


def test_the_command_compares_moving_averages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A checkpoint beside itself takes the same bytes."""
    data = small_pictures(tmp_path / "data")
    run = small_run(data, tmp_path / "run", "--set=train.concavity=0.4")
    capsys.readouterr()
    compare.main([str(run), str(run), "--data", str(data)])
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows] == [f"| {name}" for name in compare.ERRORS]
    assert all(cell.strip(" |") in ("+0.0 %", "-0.0 %") for row in rows for cell in row.split(" | ")[1:])
