"""The 8-bit synthesis: calibrated, it does what the float one did; exported, what it did in training."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import numpy as np  # noqa: E402
import onnx  # noqa: E402
import onnxruntime  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from onnx import numpy_helper  # noqa: E402

from training.commands import ExportError  # noqa: E402
from training.config import ModelConfig  # noqa: E402
from training.eight_bit import (  # noqa: E402
    FINER,
    LEVELS,
    EightBitBlock,
    EightBitBlocks,
    fitting_steps,
    nearest,
    remainders,
    to_levels,
    weight_steps,
)
from training.export import check_parity, check_receptive_fields  # noqa: E402
from training.graphs import export_graph  # noqa: E402
from training.growth import load_grown  # noqa: E402
from training.model import SemicodecModel  # noqa: E402

SHAPE = {
    "latent_channels": 24, "hyper_channels": 4, "analysis_width": 16, "analysis_blocks": 1, "synthesis_width": 16,
    "synthesis_blocks": 2, "synthesis_bypass": 8, "hyper_width": 8, "context_width": 8, "scale_width": 8,
    "scale_context_width": 4, "rate_anchors": 3,
}  # fmt: skip


@torch.no_grad()
def models(seed: int, fine: int = 0) -> tuple[SemicodecModel, SemicodecModel]:
    """The same weights in float and, calibrated, in 8 bits, ``fine`` channels of the synthesis read more finely."""
    torch.manual_seed(seed)
    exact = SemicodecModel(ModelConfig(**SHAPE)).eval()
    crops = torch.rand(8, 3, 64, 64) - 0.5
    crops = torch.nn.functional.avg_pool2d(crops, 5, 1, 2) * 3  # pictures are smooth
    exact.initialise(crops)
    for block in (*exact.synthesis.blocks, *exact.analysis.blocks, *exact.analysis.latent_blocks):
        for layer in (block.pointwise_out, block.project):
            torch.nn.init.normal_(layer.weight, 0, 0.1)
    torch.nn.init.normal_(exact.synthesis.bypass_project.weight, 0, 0.01)
    torch.nn.init.normal_(exact.rate_bank.synthesis_bias, 0, 0.1)
    rounded = SemicodecModel(ModelConfig(**SHAPE, eight_bit=True, fine_channels=fine)).eval()
    load_grown(rounded, exact.state_dict())
    rounded.calibrate(crops)
    return exact, rounded


@settings(max_examples=10)
@given(st.integers(0, 10**6))
def test_calibrated_blocks_do_what_float_ones_did(seed: int) -> None:
    """Equalising changes nothing, rounding little."""
    exact, rounded = models(seed)
    y = torch.randn(1, 24, 6, 5) * 0.2
    with torch.no_grad():
        x, condition = exact.synthesis.enter(y, torch.zeros(1)), rounded.synthesis.enter(y, torch.zeros(1))
        assert torch.equal(x, condition)
        expected, got = exact.synthesis.blocks(x), rounded.synthesis.blocks(x)
        float_again = torch.nn.Sequential(*(type(b)(16) for b in exact.synthesis.blocks))
        float_again.load_state_dict(rounded.synthesis.blocks.state_dict(), strict=False)
        assert torch.allclose(float_again(x), expected, atol=1e-4)
    assert (got - expected).std() < 0.2 * (expected - x).std()
    assert rounded.synthesis.blocks.calibrated


@given(st.integers(0, 10**6), st.floats(0.01, 100))
def test_weights_kept_in_16_bits_become_the_same_levels_however_they_are_scaled(seed: int, scale: float) -> None:
    """The graph folds steps into weights in another order than training does; many such weights lie on ties."""
    weight = torch.randn(32, 32, 1, 1, generator=torch.Generator().manual_seed(seed)).half().float()
    scaled = weight * scale
    assert torch.equal(nearest(weight / weight_steps(weight)), nearest(scaled / weight_steps(scaled)))


@given(st.floats(1e-2, 100), st.booleans())
def test_rounding(largest: float, signed: bool) -> None:
    """256 levels, 0 among them; what lies within the range moves by half a step; gradients stop at its ends."""
    log_step = fitting_steps(torch.tensor(largest), signed).log()
    x = torch.linspace(-2 * largest, 2 * largest, 4001)[None, :, None, None].requires_grad_()
    levels = to_levels(x, log_step, signed)
    rounded = levels * log_step.exp()
    assert len(torch.unique(levels)) <= LEVELS + 1
    assert 0 in levels
    inside = (x <= largest) & (x >= (-largest if signed else 0))
    assert ((rounded - x).abs()[inside] <= log_step.exp() * 0.501).all()
    rounded.sum().backward()
    assert torch.allclose(x.grad[inside], torch.ones(()))
    assert x.grad[:, 0] == 0


@given(st.floats(1e-2, 100))
def test_remainders(largest: float) -> None:
    """What is read more finely is a quarter as far from what it was; a little beyond the range, too."""
    log_step = fitting_steps(torch.tensor(largest), True).log()
    x = torch.linspace(-1.2 * largest, 1.2 * largest, 4001)[None, :, None, None]
    levels = to_levels(x, log_step, True)
    read = (levels + remainders(x, levels, log_step) / FINER) * log_step.exp()
    assert ((read - x).abs() <= log_step.exp() * 0.501 / FINER).all()
    x.requires_grad_()
    (to_levels(x, log_step, True, x.shape[1]) * log_step.exp()).sum().backward()
    assert torch.allclose(x.grad, torch.ones_like(x))


@pytest.mark.parametrize("fine", [-1, 17])
def test_fine_channels_there_are_not(fine: int) -> None:
    """More than there are, or of blocks in float."""
    with pytest.raises(ValueError, match="fine_channels"):
        ModelConfig(**SHAPE, eight_bit=True, fine_channels=fine)
    with pytest.raises(ValueError, match="fine_channels"):
        ModelConfig(**SHAPE, fine_channels=4)


@pytest.mark.parametrize(("signed", "fine"), [(False, 0), (True, 0), (True, 1), (True, 2)])
@pytest.mark.parametrize("factor", [0.1, 10.0])
def test_steps_are_learned(signed: bool, fine: int, factor: float) -> None:
    """From far too fine or far too coarse steps, descent finds those that lose least, about as little as the best do."""
    torch.manual_seed(0)
    x = torch.randn(1, 2, 64, 64) * torch.tensor([1.0, 30.0])[:, None, None]
    x = x if signed else x.relu()

    def error(log_step: torch.Tensor) -> torch.Tensor:
        levels = to_levels(x, log_step, signed, fine)
        rest = remainders(x[:, :fine], levels[:, :fine], log_step[:fine]) / FINER
        read = torch.cat([levels[:, :fine] + rest, levels[:, fine:]], 1)
        return (read * log_step.detach().exp() - x).square().mean((0, 2, 3))

    log_step = (fitting_steps(x.abs().amax((0, 2, 3)), signed).log()[:, None, None] + np.log(factor)).requires_grad_()
    optimiser = torch.optim.Adam([log_step], 0.05, (0.8, 0.9))
    for _ in range(200):
        optimiser.zero_grad()
        error(log_step).sum().backward()
        optimiser.step()
    with torch.no_grad():
        tried = torch.stack([error(log_step + d) for d in np.linspace(-2, 2, 81)])
        assert (error(log_step) < 1.2 * tried.amin(0)).all()


@pytest.mark.parametrize(("name", "fine"), [("analysis", 0), ("synthesis", 0), ("synthesis", 5)])
def test_exported_graphs(name: str, fine: int, tmp_path: Path) -> None:
    """ONNX Runtime computes what PyTorch does; and no pair of products can exceed 16 bits."""
    _, model = models(1, fine)
    path = tmp_path / "graph.onnx"
    sample = export_graph(name, model, path)
    check_parity(name, sample, path, model)
    if fine:  # the graph does what these channels' remainders say, which parity's allowance would leave out
        _, coarse = models(1)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        y = torch.randn(1, 24, 6, 5) * 0.2
        got = session.run(["samples"], {"y_hat": y.numpy(), "condition": np.zeros((1, 16, 1, 1), np.float32)})[0]
        with torch.no_grad():
            as_fine, as_coarse = (samples(m.synthesis(y, torch.zeros(1))) for m in (model, coarse))
        assert np.square(got - as_fine).mean() < 0.25 * np.square(got - as_coarse).mean()
    weights = [numpy_helper.to_array(c) for c in onnx.load(path).graph.initializer]
    integers = [w for w in weights if w.dtype == np.int8 and w.ndim > 1]
    blocks = [m for m in getattr(model, name).modules() if isinstance(m, EightBitBlock)]
    assert len(integers) == 5 * len(blocks)
    assert 2 * LEVELS * max(int(np.abs(w).max()) for w in integers) < 2**15
    kept = export_graph(name, model, path)
    with torch.no_grad():
        blocks[0].project.weight += 0.5
    with pytest.raises(ExportError, match=name):
        check_parity(name, kept, path, model)


def samples(x_hat: torch.Tensor) -> np.ndarray:
    """Pixels [1, 3, H, W] as the graph has what they are rounded from: cells of 8x8, each (row, column, colour)."""
    cells = torch.nn.functional.pixel_unshuffle(255 * x_hat + 128, 8)[0].reshape(3, 64, -1)
    return cells.permute(2, 1, 0).reshape(-1, 192).numpy()


def test_conditions_of_positions(tmp_path: Path) -> None:
    """One condition for all positions, and the same one at each of them, give the same pixels."""
    _, model = models(1)
    export_graph("synthesis", model, tmp_path / "synthesis.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "synthesis.onnx", providers=["CPUExecutionProvider"])
    y, condition = np.random.default_rng(0).normal(size=(1, 24, 3, 5)).astype(np.float32) * 0.2, np.ones((1, 16), np.float32)
    uniform, _ = session.run(None, {"y_hat": y, "condition": condition[:, :, None, None]})
    everywhere = np.broadcast_to(condition[:, :, None, None], (1, 16, 6, 10)).copy()
    assert np.array_equal(session.run(None, {"y_hat": y, "condition": everywhere})[0], uniform)
    assert uniform.shape == (1, 48, 80, 3)


def test_gradients_reach_every_weight() -> None:
    """Rounding leaves no weight of the blocks without a gradient, nor without its part in the loss."""
    _, model = models(2)
    blocks = model.synthesis.blocks
    assert isinstance(blocks, EightBitBlocks)
    blocks(torch.randn(2, 16, 8, 8) * 0.3).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in blocks.parameters())


@torch.no_grad()
def test_what_grows_is_silent() -> None:
    """A wider model begins as the one that it goes on from, and new rates go on along the line of the old ones."""
    small, _ = models(3)
    wider = {"analysis_width": 20, "synthesis_width": 24, "synthesis_bypass": 12, "hyper_width": 12, "context_width": 12}
    wide = SemicodecModel(ModelConfig(**{**SHAPE, **wider, "hyper_channels": 6})).eval()
    load_grown(wide, small.state_dict())
    x, rate = torch.rand(2, 3, 64, 64) - 0.5, torch.tensor([0.2, 0.9])
    before, after = (model(x, rate, hard_rate=True) for model in (small, wide))
    assert torch.allclose(before.x_hat, after.x_hat, atol=1e-4)
    assert torch.allclose(before.bits_y, after.bits_y, rtol=1e-4)
    _, rounded = models(3)
    wide = SemicodecModel(ModelConfig(**{**SHAPE, "synthesis_width": 24, "eight_bit": True}))
    load_grown(wide, rounded.state_dict())
    assert rounded.calibrated
    assert not wide.calibrated, "new channels have no step yet, and would be read as zeros"
    wide.calibrate(x)
    assert wide.calibrated
    more = SemicodecModel(ModelConfig(**{**SHAPE, "rate_anchors": 5}))
    load_grown(more, small.state_dict())
    gain = more.rate_bank.log_gain
    assert torch.equal(gain[:3], small.rate_bank.log_gain)
    assert torch.allclose(gain.diff(dim=0)[2:], gain.diff(dim=0)[1], atol=1e-5)


@pytest.mark.parametrize("shape", [{"analysis_blocks": 8}, {"synthesis_blocks": 8}, {"context_blocks": 2}])
def test_networks_that_see_too_far(shape: dict[str, int]) -> None:
    """Are refused by the exporter: slices would leave seams."""
    with pytest.raises(ExportError, match="windows reach"):
        check_receptive_fields(ModelConfig(**shape))
