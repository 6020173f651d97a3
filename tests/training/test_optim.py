"""The optimisers: what SOAP does to a matrix, who gets it, and that their state survives a checkpoint."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import nn  # noqa: E402

from training.config import HeadsConfig, TrainConfig  # noqa: E402
from training.heads import SemanticHeads  # noqa: E402
from training.layers import DepthConvBlock, IntegerConv2d  # noqa: E402
from training.optim import SOAP_EVERY, SOAP_WARM_UP, load_state, make_optimiser, state_of  # noqa: E402


@settings(max_examples=20, deadline=None)
@given(size=st.integers(2, 8), count=st.integers(SOAP_WARM_UP, 3 * SOAP_EVERY), seed=st.integers(0, 99))
def test_soap_is_adam_along_the_gradients_own_axes(size: int, count: int, seed: int) -> None:
    """Gradients that are diagonal in turned axes move a matrix as AdamW moves a diagonal, from the first step that has a
    basis on; which axis has the largest variance changes on the way.
    """
    draw = torch.Generator().manual_seed(seed)
    left, right = (torch.linalg.qr(torch.randn(size, size, generator=draw, dtype=torch.float64)).Q for _ in range(2))
    signs = torch.randint(0, 2, (count, size), generator=draw).double() * 2 - 1
    diagonals = signs * torch.linspace(1, 9, size).double()  # axes of equal variance would be no axes
    diagonals[SOAP_WARM_UP + 5 :] = diagonals[SOAP_WARM_UP + 5 :].flip(1) * 3
    layer = nn.Conv2d(size, size, 1, bias=False, dtype=torch.float64)
    start, vector = layer.weight.detach().clone(), nn.Parameter(torch.zeros(size, dtype=torch.float64))
    soap = make_optimiser(layer, TrainConfig(soap=True, lr=0.01))
    adam = torch.optim.AdamW([vector], 0.01, TrainConfig().betas, weight_decay=0.0)
    for group in (*soap.param_groups, *adam.param_groups):
        group["eps"] = 1e-3  # what is zero but for rounding must not be blown up
    for step, diagonal in enumerate(diagonals, 1):
        layer.weight.grad = (left @ torch.diag(diagonal) @ right.mT)[:, :, None, None]
        soap.step()
        vector.grad = diagonal.clone()
        if step >= SOAP_WARM_UP:
            adam.step()
    moved = (layer.weight.detach() - start)[:, :, 0, 0]
    assert torch.allclose(left.mT @ moved @ right, torch.diag(vector.detach()), atol=1e-3)  # of about 0.1


def test_who_gets_soap() -> None:
    """Convolutions of the codec; not integer layers, gains, biases, or heads."""
    heads = SemanticHeads(6, (), HeadsConfig(width=8))
    module = nn.ModuleDict({"block": block(), "integer": IntegerConv2d(4, 4), "heads": heads})
    optimiser = make_optimiser(module, TrainConfig(soap=True))
    got = {id(p) for group in optimiser.param_groups if group["soap"] for p in group["params"]}
    assert got == {id(layer.weight) for layer in module["block"].modules() if isinstance(layer, nn.Conv2d)}


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
    """Going on from saved moments is the same as never having stopped, past a turn of the basis; those of the other
    optimiser are not taken.
    """
    config = TrainConfig(soap=soap, lr=0.01)
    model = block()
    optimiser = make_optimiser(model, config)
    steps(optimiser, model, SOAP_EVERY + 5)
    saved = {k: {n: v.clone() for n, v in s.items()} for k, s in state_of(optimiser, model).items()}
    other = block()
    other.load_state_dict(model.state_dict())
    again = make_optimiser(other, config)
    load_state(again, other, saved)
    assert steps(optimiser, model, SOAP_EVERY) == steps(again, other, SOAP_EVERY)
    third = make_optimiser(other, TrainConfig(soap=not soap))
    load_state(third, other, saved)
    taken = {p.ndim == 4 for p in other.parameters() if p in third.state}
    assert taken == {False}
    steps(third, other, 2)
