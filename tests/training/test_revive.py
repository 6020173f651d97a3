"""Units that have died: found, given something to read, and heard by nobody at first."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import numpy as np  # noqa: E402
from small_run import small_pictures, small_run  # noqa: E402
from test_eight_bit import models  # noqa: E402

from training.export import load_model  # noqa: E402
from training.model import SemicodecModel  # noqa: E402
from training.revive import main, revive  # noqa: E402
from training.state import load_checkpoint, save_changed  # noqa: E402


def crops() -> torch.Tensor:
    random = torch.Generator().manual_seed(5)
    return torch.nn.functional.avg_pool2d(torch.rand(8, 3, 64, 64, generator=random) - 0.5, 5, 1, 2) * 3


@torch.no_grad()
def outputs(model: SemicodecModel, x: torch.Tensor) -> list[torch.Tensor]:
    output = model(x, torch.linspace(0, 1, len(x)), hard_rate=True)
    return [output.x_hat, output.bits_y, output.bits_z]


@pytest.mark.parametrize("eight_bit", [False, True])
@torch.no_grad()
def test_dead_units_are_renewed(eight_bit: bool) -> None:
    """What they read is new; all others, and what the model does, stay as they were; a second time fewer are dead."""
    model, x = models(3)[eight_bit], crops()
    block, down = model.analysis.blocks[0], model.hyper_analysis.down1
    for layer, count in ((block.pointwise_in, 5), (block.expand, 20), (down, 3)):
        layer.bias[:count] = -1000
    before, untouched = outputs(model, x), block.expand.weight[20:].clone()
    found = {name: dead for name, dead, _ in revive(model, x)}
    assert found["analysis.blocks.0.pointwise_in"] >= 5 and found["analysis.blocks.0.expand"] >= 20
    assert found["hyper_analysis.down1"] >= 3
    for was, now in zip(before, outputs(model, x), strict=True):
        assert (now - was).norm() <= (0.1 if eight_bit else 1e-3) * was.norm()  # bytes are rounded in other steps
    assert (block.expand.bias > -1000).all() and (down.bias > -1000).all()
    assert not np.isin(block.expand.weight[:20].numpy(), untouched.numpy()).any()
    again = {name: dead for name, dead, _ in revive(model, x)}
    assert sum(again.values()) < sum(found.values()) / 4


@torch.no_grad()
def test_what_lives_stays_as_it_is() -> None:
    """Layers without a dead unit keep their weights."""
    model, x = models(4)[0], crops()
    revive(model, x)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    alive = [name for name, dead, _ in revive(model, x) if not dead]
    assert len(alive) > 4
    for name in alive:
        assert torch.equal(model.state_dict()[f"{name}.weight"], state[f"{name}.weight"]), name


@torch.no_grad()
def test_ranges_that_have_run_away() -> None:
    """Where next to all hidden units have died, what they read is cut no more; the one that lives knows nothing else,
    and is not heard any louder.
    """
    model, x = models(6)[1], crops()
    block = model.analysis.blocks[0]
    block.expand.bias[1:] = -1000
    fitting = block.log_steps[4].item()
    block.log_steps[4] -= 4  # a range of a fiftieth: signs
    before = outputs(model, x)
    revive(model, x)
    assert abs(block.log_steps[4].item() - fitting) < 0.5
    for was, now in zip(before, outputs(model, x), strict=True):
        assert (now - was).norm() <= 0.1 * was.norm()
    dead = {name: dead for name, dead, _ in revive(model, x)}
    assert not dead["analysis.blocks.0.expand"]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Counts what it found; a run goes on from what it writes."""
    data = small_pictures(tmp_path / "pictures")
    state = load_checkpoint(small_run(data, tmp_path / "run"))
    state["ema"]["analysis.blocks.0.expand.bias"][:7] = -1000
    dead, renewed = tmp_path / "dead.pt", tmp_path / "renewed.pt"
    save_changed(dead, state, state["ema"])
    capsys.readouterr()
    main([str(dead), str(renewed), "--data", str(data)])
    told = {name: int(rest.split()[0]) for name, rest in (x.split(": ") for x in capsys.readouterr().out.splitlines())}
    assert told["analysis.blocks.0.expand"] >= 7
    assert (load_model(renewed).analysis.blocks[0].expand.bias > -1000).all()
    small_run(data, tmp_path / "on", "--resume", str(renewed), "--restart-clock", steps=1)
