"""The optimisers: SOAP's steps are the same along any axes, who gets it, and that their state survives a checkpoint."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import nn  # noqa: E402

from training.config import TrainConfig  # noqa: E402
from training.layers import DepthConvBlock  # noqa: E402
from training.optim import load_state, make_optimiser, state_of  # noqa: E402


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(2, 12), columns=st.integers(2, 12), seed=st.integers(0, 99))
def test_soap_does_not_depend_on_the_axes(rows: int, columns: int, seed: int) -> None:
    """Turning inputs and outputs turns every step: no axis is special, as it is to AdamW."""
    draw = torch.Generator().manual_seed(seed)
    target, start = (torch.randn(rows, columns, generator=draw, dtype=torch.float64) for _ in range(2))
    inputs = torch.randn(60, columns, 2 * columns, generator=draw, dtype=torch.float64)
    left, right = (torch.linalg.qr(torch.randn(n, n, generator=draw, dtype=torch.float64)).Q for n in (rows, columns))
    ends = []
    for u, v in ((torch.eye(rows).double(), torch.eye(columns).double()), (left, right)):
        layer = nn.Conv2d(columns, rows, 1, bias=False, dtype=torch.float64)
        layer.weight = nn.Parameter((u @ start @ v.mT)[:, :, None, None].clone())
        optimiser = make_optimiser(layer, TrainConfig(soap=True, lr=0.01))
        for x in inputs:
            optimiser.zero_grad()
            difference = layer.weight[:, :, 0, 0] - u @ target @ v.mT
            (difference @ v @ x).square().mean().backward()
            optimiser.step()
        ends.append(u.mT @ layer.weight.detach()[:, :, 0, 0] @ v)
    moved = (ends[0] - start).norm()
    assert moved > 0.05
    assert (ends[0] - ends[1]).norm() < 0.02 * moved


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


def test_both_optimisers_learn_and_every_parameter_moves() -> None:
    """SOAP's and AdamW's share make up the whole model."""
    for soap in (False, True):
        model = block()
        before = [p.clone() for p in model.parameters()]
        losses = steps(make_optimiser(model, TrainConfig(soap=soap, lr=0.01)), model, 60)
        assert losses[-1] < 0.5 * losses[0]
        assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("soap", [False, True])
def test_state_survives(soap: bool) -> None:
    """Going on from saved moments is the same as never having stopped."""
    config = TrainConfig(soap=soap, lr=0.01)
    model = block()
    optimiser = make_optimiser(model, config)
    steps(optimiser, model, 25)
    other = block()
    other.load_state_dict(model.state_dict())
    again = make_optimiser(other, config)
    load_state(again, other, {k: {n: v.clone() for n, v in s.items()} for k, s in state_of(optimiser, model).items()})
    assert steps(optimiser, model, 5) == steps(again, other, 5)
