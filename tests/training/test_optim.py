"""The optimiser: what its slow average does, who has one, and that its state survives a checkpoint."""

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import nn  # noqa: E402

from training.config import HeadsConfig, TrainConfig  # noqa: E402
from training.eight_bit import EightBitBlocks  # noqa: E402
from training.heads import SemanticHeads  # noqa: E402
from training.layers import DepthConvBlock, IntegerConv2d  # noqa: E402
from training.optim import SLOW_FADE, STEPS, load_state, make_optimiser, set_rates, state_of  # noqa: E402


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 99),
    count=st.integers(1, 30),
    weight=st.floats(0.1, 8),
    decay=st.floats(0, 0.999),
    lr=st.floats(1e-4, 1e-1),
)
def test_the_slow_average_is_added_to_adam(seed: int, count: int, weight: float, decay: float, lr: float) -> None:
    """The steps are AdamW's, and the average's over the same roots, as the paper writes them."""
    config = TrainConfig(lr=lr, slow_weight=weight, slow_decay=decay)
    draw = torch.Generator().manual_seed(seed)
    layer = nn.Conv2d(3, 2, 1, bias=False, dtype=torch.float64)
    plain = copy.deepcopy(layer)
    mixed, adam = make_optimiser(layer, config), make_optimiser(plain, TrainConfig(lr=lr))
    expected, average = torch.zeros_like(layer.weight), torch.zeros_like(layer.weight)
    squares, (_, beta2) = torch.zeros_like(layer.weight), config.betas
    for step in range(1, count + 1):
        gradient = torch.randn(layer.weight.shape, generator=draw, dtype=torch.float64)
        layer.weight.grad, plain.weight.grad = gradient.clone(), gradient.clone()
        mixed.step()
        adam.step()
        average = decay * average + (1 - decay) * gradient
        squares = beta2 * squares + (1 - beta2) * gradient**2
        expected -= lr * weight * average / ((squares / (1 - beta2**step)).sqrt() + 1e-8)
    assert torch.allclose(layer.weight - plain.weight, expected, rtol=1e-6, atol=1e-9)


def test_who_has_a_long_memory() -> None:
    """The codec, but for the steps of its 8-bit blocks; not the heads."""
    heads = SemanticHeads(6, (), HeadsConfig(width=8))
    module = nn.ModuleDict({"blocks": EightBitBlocks(4, 1), "integer": IntegerConv2d(4, 4), "heads": heads})
    optimiser = make_optimiser(module, TrainConfig(slow_weight=5.0))
    got = {id(p) for group in optimiser.param_groups if group["slow_weight"] for p in group["params"]}
    steps = {id(p) for name, p in module["blocks"].named_parameters() if name.endswith(STEPS)}
    assert len(steps) == 2
    assert got == {id(p) for part in ("blocks", "integer") for p in module[part].parameters()} - steps
    assert sum(len(group["params"]) for group in optimiser.param_groups) == len(list(module.parameters()))


def test_the_slow_average_fades_at_the_end() -> None:
    """It has its whole weight most of the time, and again in a run that goes on after one that ended."""
    config = TrainConfig(slow_weight=5.0)
    optimiser = make_optimiser(block(), config)
    weights = []
    for progress in (0.0, 1 - SLOW_FADE, 1 - SLOW_FADE / 2, 1.0, 0.5):
        set_rates(optimiser, config, 0.25, progress)
        weights += [group["slow_weight"] for group in optimiser.param_groups]
        assert all(group["lr"] == 0.25 * group["speed"] for group in optimiser.param_groups)
    assert weights == pytest.approx([5, 5, 2.5, 0, 5], abs=1e-6)


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


@pytest.mark.parametrize("slow_weight", [0.0, 3.0])
def test_every_parameter_moves(slow_weight: float) -> None:
    model = block()
    before = [p.clone() for p in model.parameters()]
    losses = steps(make_optimiser(model, TrainConfig(slow_weight=slow_weight, slow_decay=0.9, lr=0.01)), model, 60)
    assert losses[-1] < 0.5 * losses[0]
    assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("slow_weight", [0.0, 3.0])
def test_state_survives(slow_weight: float) -> None:
    """Going on from saved moments is the same as never having stopped; a run that begins to remember takes AdamW's moments
    over, and one that no longer does goes on as well.
    """
    config = TrainConfig(slow_weight=slow_weight, slow_decay=0.9, lr=0.01)
    model = block()
    optimiser = make_optimiser(model, config)
    steps(optimiser, model, 25)
    saved = {k: {n: v.clone() for n, v in s.items()} for k, s in state_of(optimiser, model).items()}
    other = block()
    other.load_state_dict(model.state_dict())
    again = make_optimiser(other, config)
    load_state(again, other, saved)
    assert steps(optimiser, model, 20) == steps(again, other, 20)
    third = make_optimiser(other, TrainConfig(slow_weight=3.0 - slow_weight, lr=0.01))
    load_state(third, other, saved)
    assert all("exp_avg" in third.state[p] for p in other.parameters())
    steps(third, other, 2)
