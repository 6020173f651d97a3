"""Integer layers: exact whatever the order, and the same numbers in training, in torch integers and in ONNX."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import numpy as np  # noqa: E402
from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from training.config import ModelConfig  # noqa: E402
from training.entropy_models import ScaleContext, ScaleHyperSynthesis, gaussian_bits  # noqa: E402
from training.graphs import IntegerConv, ScaleContextGraph, ScaleGraph  # noqa: E402
from training.layers import ACTIVATION_MAX, ACTIVATION_SCALE, DepthConvBlock, IntegerConv2d, requantise, round_ste  # noqa: E402
from training.model import SemicodecModel  # noqa: E402

SMALL = ModelConfig(
    latent_channels=8, hyper_channels=4, analysis_width=12, analysis_blocks=1, synthesis_width=8, synthesis_blocks=1,
    hyper_width=8, context_width=8, scale_width=8, scale_context_width=4, rate_anchors=3,
)  # fmt: skip


@given(st.integers(0, 10**6), st.sampled_from([1, 3]))
def test_training_and_runtime_layers_agree(seed: int, kernel: int) -> None:
    """The layer that is trained and the layer that is exported give the same activations, exactly."""
    torch.manual_seed(seed)
    layer = IntegerConv2d(6, 5, kernel)
    torch.nn.init.uniform_(layer.bias, -2, 2)
    activations = torch.randint(0, ACTIVATION_MAX + 1, (1, 6, 7, 9)).float()
    trained = requantise(layer(activations / ACTIVATION_SCALE)) * ACTIVATION_SCALE
    exported = IntegerConv(layer, ACTIVATION_SCALE)(activations)
    assert torch.equal(trained, exported)
    assert torch.equal(exported, exported.round())


def test_scale_networks_agree() -> None:
    """Whole scale networks: training form and exported form choose the same indexes."""
    torch.manual_seed(0)
    model = SemicodecModel(SMALL)
    for net in (model.scale_hyper_synthesis, model.scale_context):
        for parameter in net.parameters():
            torch.nn.init.uniform_(parameter, -0.4, 0.4)
    z_hat = torch.randint(-40, 41, (1, 4, 3, 2)).float()
    residual = torch.randint(-30, 31, (1, 8, 12, 8)).float()
    features, indexes1 = model.scale_hyper_synthesis(z_hat)
    got_features, got1 = ScaleGraph(model)(z_hat)
    assert torch.equal(features * ACTIVATION_SCALE, got_features)
    assert torch.equal(indexes1, got1.float())
    assert len(torch.unique(got1)) > 2
    indexes2 = model.scale_context(features, residual)
    assert torch.equal(indexes2, ScaleContextGraph(model)(got_features, residual).float())


def test_order_of_summation_does_not_matter() -> None:
    """Float32 sums of an integer layer are exact: shuffled channels give the same bits."""
    torch.manual_seed(1)
    layer = IntegerConv(IntegerConv2d(200, 16), ACTIVATION_SCALE)
    x = torch.randint(0, 256, (1, 200, 4, 4)).float()
    expected = layer(x)
    order = torch.randperm(200)
    layer.weight = layer.weight[:, order]
    assert torch.equal(layer(x[:, order]), expected)
    assert layer.largest_sum(255) < 2**24


def test_gradients_reach_every_weight() -> None:
    """Straight-through rounding leaves no weight of the scale networks without a gradient."""
    torch.manual_seed(2)
    hyper, context = ScaleHyperSynthesis(SMALL), ScaleContext(SMALL)
    features, indexes = hyper(torch.randn(2, 4, 2, 2).round() * 3)
    total = indexes.sum() + context(features, torch.randn(2, 8, 8, 8).round() * 3).sum()
    total.backward()
    assert all(p.grad is not None for net in (hyper, context) for p in net.parameters())
    assert round_ste(torch.tensor([0.5, 1.5, -0.5])).tolist() == [1, 2, 0]


def test_weights_are_clamped() -> None:
    """After clamping every weight is an integer of at most 127 steps."""
    layer = IntegerConv2d(3, 3)
    torch.nn.init.constant_(layer.weight, 9.0)
    layer.clamp_()
    assert layer.integer_weight().abs().max() == 127


def test_a_fresh_block_is_the_identity() -> None:
    """Residual branches start at zero."""
    x = torch.randn(1, 16, 5, 5)
    assert torch.equal(DepthConvBlock(16)(x), x)


def test_gaussian_bits() -> None:
    """Probabilities of all integers sum to one; a certain zero costs nothing."""
    values = torch.arange(-60, 61).double()
    for scale in (0.2, 1.0, 8.0):
        assert float((2 ** -gaussian_bits(values, torch.tensor(scale).double())).sum()) == pytest.approx(1, abs=1e-6)
    assert float(gaussian_bits(torch.zeros(1), torch.tensor(0.05))) < 1e-6
    assert np.isfinite(float(gaussian_bits(torch.tensor([1e6]), torch.tensor(0.1))))
