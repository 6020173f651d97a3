"""The optimiser: whom it moves how fast, and that its state survives a checkpoint."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from training.config import ModelConfig, TrainConfig  # noqa: E402
from training.eight_bit import EightBitBlocks  # noqa: E402
from training.layers import DepthConvBlock, IntegerConv2d  # noqa: E402
from training.model import SemicodecModel  # noqa: E402
from training.optim import ENDS_SPEED, STEPS, STEPS_SPEED, load_state, make_optimiser, state_of  # noqa: E402


def test_steps_of_8_bit_blocks_are_faster() -> None:
    module = nn.ModuleDict({"blocks": EightBitBlocks(4, 1), "integer": IntegerConv2d(4, 4)})
    optimiser = make_optimiser(module, TrainConfig())
    fast = {id(p) for group in optimiser.param_groups if group["speed"] == STEPS_SPEED for p in group["params"]}
    assert fast == {id(p) for name, p in module.named_parameters() if name.endswith(STEPS)} and len(fast) == 2
    assert sum(len(group["params"]) for group in optimiser.param_groups) == len(list(module.parameters()))


def test_layers_that_meet_pixels_are_slower() -> None:
    """The first and the last ones of both transforms, and no others."""
    model = SemicodecModel(ModelConfig())
    optimiser = make_optimiser(model, TrainConfig())
    slow = {id(p) for group in optimiser.param_groups if group["speed"] == ENDS_SPEED for p in group["params"]}
    layers = {name.rpartition(".")[0] for name, p in model.named_parameters() if id(p) in slow}
    ends = {"synthesis.split", "synthesis.project", "synthesis.bypass_split", "synthesis.bypass_project"}
    assert layers == {"analysis.embed", "analysis.merge", *ends}
    assert sum(len(group["params"]) for group in optimiser.param_groups) == len(list(model.parameters()))


def steps(optimiser: torch.optim.Optimizer, model: nn.Module, count: int) -> list[float]:
    x = torch.randn(4, 8, 6, 6, generator=torch.Generator().manual_seed(1))
    losses = []
    for _ in range(count):
        loss = (model(x) - x.roll(1, 1)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


def block() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(8, 8, 1), DepthConvBlock(8)).to(memory_format=torch.channels_last)


def test_every_parameter_moves() -> None:
    model = block()
    before = [p.clone() for p in model.parameters()]
    losses = steps(make_optimiser(model, TrainConfig(lr=0.01)), model, 60)
    assert losses[-1] < 0.5 * losses[0]
    assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_state_survives() -> None:
    """Going on from saved moments is the same as never having stopped; what another optimiser kept is left out."""
    config = TrainConfig(lr=0.01)
    model = block()
    optimiser = make_optimiser(model, config)
    steps(optimiser, model, 25)
    saved = {k: {n: v.clone() for n, v in s.items()} for k, s in state_of(optimiser, model).items()}
    first, second, *_ = saved
    other = block()
    other.load_state_dict(model.state_dict())
    for moments in saved.values():
        moments["of_another"] = torch.ones(3)
    again = make_optimiser(other, config)
    load_state(again, other, saved)
    assert steps(optimiser, model, 20) == steps(again, other, 20)
    saved[first] = {"momentum": torch.ones(3)}
    saved[second]["exp_avg"] = torch.ones(3)
    third = make_optimiser(other, config)
    load_state(third, other, saved)
    assert set(state_of(third, other)) == set(saved) - {first, second}
    steps(third, other, 2)
