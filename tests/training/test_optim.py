"""The optimisers: what Muon does to a matrix, who gets it, and that their state survives a checkpoint."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import nn  # noqa: E402

from training.config import TrainConfig  # noqa: E402
from training.layers import DepthConvBlock  # noqa: E402
from training.optim import load_state, make_optimiser, orthogonalise, state_of  # noqa: E402


@given(rows=st.integers(2, 24), columns=st.integers(2, 24), scale=st.floats(1e-6, 1e6), seed=st.integers(0, 99))
def test_updates_are_nearly_orthogonal(rows: int, columns: int, scale: float, seed: int) -> None:
    """Singular values come near 1 whatever the size of the gradient, and no direction turns around."""
    matrix = torch.randn(2, rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    matrix = u @ torch.diag_embed(s.clamp_min(s.amax(-1, keepdim=True) / 20)) @ vh * scale
    out = orthogonalise(matrix.float()).double()
    values = torch.linalg.svdvals(out)
    assert values.min() > 0.4 and values.max() < 1.4
    assert (torch.einsum("nri,nrc,nic->ni", u, out, vh) > 0).all()


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
    """Muon's and AdamW's share make up the whole model."""
    for muon in (False, True):
        model = block()
        before = [p.clone() for p in model.parameters()]
        losses = steps(make_optimiser(model, TrainConfig(muon=muon, lr=0.01)), model, 60)
        assert losses[-1] < 0.5 * losses[0]
        assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("muon", [False, True])
def test_state_survives(muon: bool) -> None:
    """Going on from saved moments is the same as never having stopped."""
    config = TrainConfig(muon=muon, lr=0.01)
    model = block()
    optimiser = make_optimiser(model, config)
    steps(optimiser, model, 5)
    other = block()
    other.load_state_dict(model.state_dict())
    again = make_optimiser(other, config)
    load_state(again, other, {k: {n: v.clone() for n, v in s.items()} for k, s in state_of(optimiser, model).items()})
    assert steps(optimiser, model, 5) == steps(again, other, 5)
