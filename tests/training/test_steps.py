"""Steps of 8-bit blocks, fitted by what pictures look like: towards fewer errors, and nothing else changes."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from test_eight_bit import models  # noqa: E402
from test_revive import crops  # noqa: E402

from training.steps import decoded, errors, fit  # noqa: E402


def test_steps_that_are_too_wide_become_finer() -> None:
    """Two that were made three times as wide; errors fall, and all other weights stay."""
    model = models(3)[1]
    with torch.no_grad():
        model.synthesis.blocks[0].log_steps[3:] += 1.1
    pictures = decoded(model, [((x + 0.5) * 255).clamp(0, 255).to(torch.uint8) for x in crops()[:2]])
    before, weights = errors(model, pictures), {name: value.clone() for name, value in model.state_dict().items()}
    fit(model, pictures)
    assert errors(model, pictures).mean() < before.mean()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, weights[name])}
    assert changed == {f"synthesis.blocks.{k}.log_steps" for k in range(2)}
    moved = model.synthesis.blocks[0].log_steps - weights["synthesis.blocks.0.log_steps"]
    assert moved[3] < 0 or moved[4] < 0
