"""The model: a working codec at step 0, monotone in rate, and rate modes that agree where they should."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pytorch_msssim")

from conftest import photo  # noqa: E402
from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from pillow_semicodec import pixels  # noqa: E402
from pillow_semicodec.bundle import RATE_UNIT, ModelBundle, RateBank  # noqa: E402
from pillow_semicodec.entropy.models import is_busy  # noqa: E402
from pillow_semicodec.prediction import differences  # noqa: E402
from training import losses  # noqa: E402
from training import model as model_module  # noqa: E402
from training.config import ModelConfig, TrainConfig  # noqa: E402
from training.data import to_signal  # noqa: E402
from training.layers import interpolated  # noqa: E402
from training.losses import TYPICAL, rate_distortion_loss, shares_of  # noqa: E402
from training.model import CodecOutput, SemicodecModel, dead_zone_of, quantised, step_mask  # noqa: E402
from training.transforms import block_transform, dct_matrix  # noqa: E402

SHAPE = ModelConfig(analysis_blocks=1, synthesis_blocks=1, latent_channels=96, synthesis_width=64, scale_width=16)


def crops(count: int = 4, side: int = 192) -> torch.Tensor:
    pictures = torch.stack([torch.from_numpy(photo(side, side, seed)) for seed in range(count)])
    return to_signal(pictures.permute(0, 3, 1, 2))


@pytest.fixture(scope="module")
def model() -> SemicodecModel:
    torch.manual_seed(0)
    model = SemicodecModel(SHAPE)
    model.initialise(crops())
    return model


def test_transforms_are_orthonormal() -> None:
    """DCT and block transform keep energies."""
    for matrix in (dct_matrix(8), block_transform()):
        assert abs(matrix @ matrix.T - torch.eye(len(matrix)).numpy()).max() < 1e-12


def test_step_zero_is_a_linear_codec(model: SemicodecModel) -> None:
    """Untrained, analysis and synthesis are nearly inverse, and more rate is less error on every sample."""
    x = crops(2)
    with torch.no_grad():
        direct = model.synthesis(model.analysis(x), torch.zeros(1))
        assert float((direct - x).square().mean()) < 0.25 * float(x.var())
        errors = [float((model(x, torch.full((2,), r)).x_hat - x).square().mean()) for r in (0.0, 0.5, 1.0)]
    assert errors == sorted(errors, reverse=True)


def test_rates_are_interpolated(model: SemicodecModel) -> None:
    """Weights of the anchors sum to one; lambda spans its range in equal ratios."""
    weights = model.rate_bank.weights(torch.tensor([0.0, 0.3, 1.0]))
    assert torch.allclose(weights.sum(1), torch.ones(3))
    assert weights[0, 0] == 1
    assert weights[2, -1] == 1
    bank = np.random.default_rng(0).normal(size=(model.config.rate_anchors, 5)).astype(np.float32)
    runtime = RateBank(bank, bank, bank, bank, np.zeros((2, 2)))
    for rate in (-0.1, 0.0, 0.3, 1.0):  # below the first anchor, too
        unit = round((rate * (model.config.rate_anchors - 1) + 1) * RATE_UNIT)
        row = interpolated(model.rate_bank.weights(torch.tensor([rate])), torch.from_numpy(bank))
        assert np.allclose(row.numpy(), runtime.interpolate(bank, unit), atol=2e-3)
    lambdas = model.rate_bank.rd_lambda(torch.tensor([0.0, 0.5, 1.0]))
    assert float(lambdas[1] ** 2) == pytest.approx(float(lambdas[0] * lambdas[2]), rel=1e-4)


@pytest.mark.parametrize("hard_rate", [False, True])
def test_gradients_reach_every_parameter(model: SemicodecModel, hard_rate: bool) -> None:
    """With noise and with rounded values no part of the model is left out."""
    x, rate = crops(2), torch.tensor([0.2, 0.8])
    model.zero_grad()
    output = model(x, rate, hard_rate)
    rate_distortion_loss(output, x, rate, model.rate_bank.rd_lambda(rate), TrainConfig()).loss.backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]


def test_the_steps_are_a_checkerboard() -> None:
    """Half of the latents each, neighbours in every direction in the other step."""
    mask = step_mask(torch.zeros(1, 6, 4, 8))[0]
    assert mask.float().mean() == 0.5
    for axis in range(3):
        assert not (mask & mask.roll(1, axis)).any()


def test_losses_weigh_what_they_say(model: SemicodecModel) -> None:
    """Without the MS-SSIM share the distortion is MSE; a perfect picture has none."""
    x = crops(2)
    output = model(x, torch.tensor([0.5, 0.5]))._replace(x_hat=x)
    rd = rate_distortion_loss(output, x, torch.full((2,), 0.5), torch.full((2,), 0.02), TrainConfig())
    assert float(rd.loss.detach()) == pytest.approx(float(rd.bpp.mean().detach()), rel=1e-4)
    assert rd.mse.max() == 0
    assert rd.msssim.min() > 0.9999


def test_shares_go_with_the_rate() -> None:
    """They are all there is at any rate; MS-SSIM's and MSE's grow with it, and below 0 they are those of 0."""
    config = TrainConfig(msssim_share=0.3, xyb_share=0.1, xyb_tilt=0.2, mse_tilt=0.1)
    shares = torch.stack(shares_of(torch.tensor([-0.09, 0.0, 0.5, 1.0]), config))
    assert torch.allclose(shares.sum(0), torch.ones(4))
    assert torch.allclose(shares[:, [0, 1, 3]].T, torch.tensor([[0.4, 0.1, 0.5], [0.4, 0.1, 0.5], [0.1, 0.3, 0.6]]))


def test_the_tilt_moves_a_share_at_low_rates(model: SemicodecModel) -> None:
    """At the highest rate the shares are what they are without it; at the lowest MS-SSIM has given some of its to XYB."""
    x = crops(1)
    output = model(x, torch.tensor([0.5]))
    one = torch.ones(1)

    def loss(rate: float, config: TrainConfig) -> float:
        return float(rate_distortion_loss(output, x, one * rate, one, config).loss.detach())

    plain, tilted = TrainConfig(msssim_share=0.4, xyb_share=0.1), TrainConfig(msssim_share=0.4, xyb_share=0.1, xyb_tilt=0.2)
    assert loss(1, tilted) == pytest.approx(loss(1, plain), rel=1e-6)
    assert loss(0, tilted) == pytest.approx(loss(0, TrainConfig(msssim_share=0.2, xyb_share=0.3)), rel=1e-6)
    assert loss(-0.09, tilted) == loss(0, tilted)  # no share becomes negative
    with pytest.raises(ValueError, match="xyb_tilt"):
        TrainConfig(msssim_share=0.1, xyb_tilt=0.2)
    both = TrainConfig(msssim_share=0.3, xyb_share=0.1, xyb_tilt=0.2, mse_tilt=0.15)
    assert loss(1, both) == pytest.approx(loss(1, TrainConfig(msssim_share=0.3, xyb_share=0.1)), rel=1e-6)
    assert loss(0, both) == pytest.approx(loss(0, TrainConfig(msssim_share=0.1, xyb_share=0.45)), rel=1e-6)
    with pytest.raises(ValueError, match=r"leave 0\.1 to MSE: less than mse_tilt 0\.2"):
        TrainConfig(msssim_share=0.5, xyb_share=0.4, mse_tilt=0.2)


def test_concave_errors_count_less_the_larger_they_are() -> None:
    """A typical error counts as before, four times as large a one 4**-concavity as much of its own, and twice or half at
    most; slopes are those of the error's power.
    """
    typical, rate, nothing = TYPICAL / 0.02**0.5, torch.full((1,), 0.5), torch.zeros(1)

    def distortion(error: float, concavity: float) -> tuple[float, float]:
        """Of pixels that are all wrong by the root of ``error``; and its slope."""
        x, x_hat = torch.full((1, 3, 64, 64), 0.1), torch.full((1, 3, 64, 64), 0.1 + error**0.5).requires_grad_()
        config = TrainConfig(msssim_share=0, xyb_share=0, concavity=concavity)
        rd = rate_distortion_loss(CodecOutput(x_hat, nothing, nothing, x), x, rate, torch.full((1,), 0.02), config)
        rd.loss.backward()
        assert x_hat.grad is not None
        return float(rd.loss.detach()), float(x_hat.grad.sum())

    for error, weight in ((1, 1.0), (4, 4**-0.4), (0.25, 4**0.4), (100, 0.5), (0.01, 2.0)):
        plain, concave = distortion(error * typical, 0), distortion(error * typical, 0.4)
        assert concave == pytest.approx([weight * value for value in plain], rel=1e-3)


def test_concave_errors_stay_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounding may leave a flat picture an MS-SSIM above 1, and so an error below 0."""
    monkeypatch.setattr(losses, "msssim", lambda a, b: torch.full((1,), 1.001) + 0 * b.mean())
    x, nothing, rate = torch.zeros(1, 3, 64, 64, requires_grad=True), torch.zeros(1), torch.full((1,), 0.5)
    config = TrainConfig(msssim_share=0.5, xyb_share=0, concavity=0.4)
    rate_distortion_loss(CodecOutput(x, nothing, nothing, x), x.detach(), rate, rate, config).loss.backward()
    assert torch.isfinite(x.grad).all()


def test_gains_keep_their_precision_under_autocast() -> None:
    """A gain of 100 is the same in training as in a file; in bfloat16 it would be one of 98 to 102."""
    weights, bank = torch.tensor([[0.3, 0.7]]), torch.tensor([[4.61, -4.61], [4.2, -4.2]])
    with torch.autocast("cpu", torch.bfloat16):
        gains = torch.exp(interpolated(weights, bank))
    assert torch.equal(gains, torch.exp(interpolated(weights, bank)))
    assert float(gains.prod()) == pytest.approx(1, abs=1e-5)


def test_errors_are_those_of_what_a_decoder_shows() -> None:
    """White beyond white is white, and no error; what lies beyond and should not is pulled back."""
    x = torch.full((1, 3, 64, 64), 0.5)
    far = (x + 0.2).requires_grad_()
    nothing = torch.zeros(1)
    config, rate = TrainConfig(msssim_share=0, xyb_share=0), torch.ones(1)
    assert float(rate_distortion_loss(CodecOutput(far, nothing, nothing, far), x, rate, rate, config).mse.detach()) == 0
    rd = rate_distortion_loss(CodecOutput(far, nothing, nothing, far), x - 0.1, rate, rate, config)
    rd.loss.backward()
    assert far.grad is not None
    assert float(far.grad.min()) > 0


def test_predictions_are_the_coders() -> None:
    """What is coded of predicted channels in training is what the encoder codes, and the rest stays as it was."""
    torch.manual_seed(3)
    plain = SemicodecModel(SHAPE)
    model = SemicodecModel(dataclasses.replace(SHAPE, predicted=(0, 3)))
    model.load_state_dict(plain.state_dict())
    plain.dead_zone.copy_(model.dead_zone)  # predicted channels have none
    y, weights = 9 * torch.randn(2, SHAPE.latent_channels, 8, 12), model.rate_bank.weights(torch.tensor([0.2, 0.9]))
    before, after = plain.code(y, weights), model.code(y, weights)
    assert torch.equal(before.y_hat, after.y_hat)
    slopes = [torch.autograd.grad(c.index[:, 4:].square().sum(), m.scale_hyper_synthesis.index.bias)[0]
              for m, c in ((plain, plain.code(y, weights)), (model, model.code(y, weights)))]  # fmt: skip
    assert torch.equal(*slopes)
    step1 = pixels.step_mask(*y.shape[1:])
    for sample in range(2):
        whole = before.symbol[sample].detach().numpy().astype(np.int32)
        coded = differences(whole * step1, (0, 3), step1) + whole * ~step1
        assert np.array_equal(after.symbol[sample].detach().numpy(), coded)
    moved = y.clone().requires_grad_()
    coded = model.code(moved, weights).residual[:, 3] * torch.from_numpy(step1[3].copy())
    coded[:, 1:].sum().backward()  # what moves all by the same moves no difference
    assert moved.grad[:, 3].sum(dtype=torch.float64).abs() < 1e-3 * moved.grad[:, 3].abs().sum()
    lifted = after.index != before.index
    assert (before.index[lifted] == 0).all()
    assert not lifted[:, [1, 2, *range(4, SHAPE.latent_channels)]].any()


@given(st.integers(0, 999))
def test_dead_zones_are_the_coders(chosen_model: ModelBundle, seed: int) -> None:
    """What is quantised in training is what the encoder codes, and its gradients pass straight through."""
    random = np.random.default_rng(seed)
    indexes = random.integers(1, 64, (SHAPE.latent_channels, 7, 9)).astype(np.uint8)
    values = (random.laplace(size=indexes.shape) * 2).astype(np.float32)
    residual = torch.from_numpy(values.copy()).requires_grad_()
    busy = bool(seed % 2)
    zone = SemicodecModel(dataclasses.replace(SHAPE, predicted=(1,))).dead_zone
    symbols = quantised(residual[None], dead_zone_of(torch.from_numpy(indexes)[None], zone, torch.tensor([busy])))[0]
    symbols.sum().backward()
    assert torch.equal(residual.grad, torch.ones_like(residual))
    halves = values % 1 == 0.5  # round to even in the encoder, up in training
    assert ((symbols.detach().numpy() == chosen_model.conditional.quantised(values, indexes, (1,), busy)) | halves).all()


@given(st.integers(0, 999), st.floats(-0.125, 1), st.floats(0, 0.4))
def test_what_is_busy_is_so_for_the_coder(seed: int, rate: float, share: float) -> None:
    """By the tables of step 1 alone."""
    random = np.random.default_rng(seed)
    indexes = np.where(random.random((2, SHAPE.latent_channels, 7, 9)) < share, 30, 3)
    mask = step_mask(torch.from_numpy(indexes))
    found = model_module.is_busy(torch.from_numpy(indexes).float(), mask, torch.full((2,), rate, dtype=torch.float64))
    assert found.tolist() == [is_busy(sample[mask[0].numpy()], rate) for sample in indexes]


def test_wider_dead_zones_are_left_to_rates_that_see_them(model: SemicodecModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise charges what they make zero as before."""
    monkeypatch.setattr(model_module, "is_busy", lambda index1, mask, rate: torch.ones_like(rate, dtype=torch.bool))
    busy = copy.deepcopy(model)
    busy.scale_hyper_synthesis.index.bias.data.fill_(0.4)
    x, rate = crops(1), torch.tensor([0.6])
    with torch.no_grad():
        y = busy.analysis(x).float()
        weights = busy.rate_bank.weights(rate)
        narrow, wide = (busy.code(y, weights, wide=wide) for wide in (False, True))
        assert narrow.symbol.abs().sum() > wide.symbol.abs().sum()
        assert torch.equal(busy(x, rate).y_hat, narrow.y_hat)
        assert torch.equal(busy(x, rate, hard_rate=True).y_hat, wide.y_hat)


def test_rates_of_weights() -> None:
    """Below the first anchor, too."""
    bank, rates = SemicodecModel(SHAPE).rate_bank, torch.tensor([-0.125, 0.0, 0.3, 1.0])
    assert torch.allclose(bank.rate(bank.weights(rates)), rates, atol=1e-6)
    numbers = RateBank(*(np.zeros((9, 2), np.float32),) * 4, np.zeros((2, 2)))
    assert [numbers.share_of(rate) for rate in (0, RATE_UNIT, 9 * RATE_UNIT)] == [-0.125, 0, 1]


def test_small_scales_are_coded_with_dead_zones(chosen_model: ModelBundle, model: SemicodecModel) -> None:
    """Of both steps the symbols are the encoder's, and what is decoded is made of them, for semantic heads, too."""
    small = copy.deepcopy(model)
    small.scale_hyper_synthesis.index.bias.data.fill_(0.4)
    x, rate = crops(1), torch.tensor([0.6])
    weights = small.rate_bank.weights(rate)
    gain, inverse = (torch.exp(interpolated(weights, bank)) for bank in
                     (small.rate_bank.log_gain, small.rate_bank.log_inverse_gain))  # fmt: skip
    with torch.no_grad():
        y = small.analysis(x).float()
        coded, heads = small.code(y, weights), small.semantic_latents(x, rate)
        residual, first = coded.residual[0].numpy(), step_mask(y)
        indexes = coded.index[0].numpy().astype(np.uint8)
        busy = is_busy(indexes[first[0].numpy()], 0.6)
        expected = chosen_model.conditional.quantised(residual, indexes, [], busy)
        unlike = (coded.symbol[0].numpy() != expected) & (coded.index[0].numpy() > 0)  # index 0 codes nothing
        assert not unlike[residual % 1 != 0.5].any()
        assert ((coded.symbol == 0) & (coded.residual.abs() > 0.5)).any()
        assert torch.allclose(coded.y_hat / inverse - (y * gain - coded.residual), coded.symbol, atol=1e-4)
        assert torch.equal(heads[first], coded.y_hat[first])


def test_a_broken_batch_breaks_no_more_than_itself(model: SemicodecModel) -> None:
    """Latents that are no numbers give losses that are none, which the trainer leaves out, and no error."""
    output = model(torch.full((1, 3, 192, 192), torch.nan), torch.tensor([0.5]))
    assert not torch.isfinite(output.bits_y).any()
