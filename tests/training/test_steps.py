"""Steps of 8-bit blocks, fitted by what pictures look like: towards fewer errors, and nothing else changes."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from test_eight_bit import models  # noqa: E402
from test_revive import crops  # noqa: E402

from training.steps import TRIED, decoded, errors, fit  # noqa: E402


def test_steps_that_are_too_coarse_become_finer() -> None:
    """Two that were made four times as coarse, beside what the blocks give without rounding; all other weights stay."""
    exact, model = models(3)
    with torch.no_grad():
        model.synthesis.blocks[0].log_steps[1:3] += 1.4
        pictures = [
            one._replace(target=(exact.synthesis(one.y_hat, one.condition) + 0.5).clamp(0, 1))
            for one in decoded(model, [((x + 0.5) * 255).clamp(0, 255).to(torch.uint8) for x in crops()[:2]])
        ]
    before, weights = errors(model, pictures), {name: value.clone() for name, value in model.state_dict().items()}
    fit(model, pictures)
    assert errors(model, pictures).mean() < before.mean() - 0.1
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, weights[name])}
    assert changed == {f"synthesis.blocks.{k}.log_steps" for k in range(2)}
    moved = model.synthesis.blocks[0].log_steps - weights["synthesis.blocks.0.log_steps"]
    assert (moved[1:3] < -TRIED / 4).all()
