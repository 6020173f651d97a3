"""The codec as one differentiable module: transforms, gain bank, two-step residual coding."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pillow_semicodec.entropy.models import DEAD_ZONES, FIRST_WITHOUT, QUIET

from .config import ModelConfig
from .eight_bit import EightBitBlocks
from .entropy_models import ScaleContext, ScaleHyperSynthesis, StaticPrior, gaussian_bits, scale_of_index
from .layers import IntegerConv2d, interpolated, round_ste
from .transforms import (
    BLOCK,
    AnalysisTransform,
    HyperAnalysisTransform,
    HyperSynthesisTransform,
    MeanContext,
    SynthesisTransform,
    initialise_as_transform_codec,
)

# Shares of the values that 8-bit ranges cover. What the analysis cuts is lost; the synthesis gains more by finer steps.
ANALYSIS_COVERED, SYNTHESIS_COVERED = 0.999, 0.99


class CodecOutput(NamedTuple):
    x_hat: Tensor  # [B, 3, H, W] centred on 0
    bits_y: Tensor  # [B]
    bits_z: Tensor  # [B]
    y_hat: Tensor  # [B, M, H/16, W/16]


class Coded(NamedTuple):
    """Latents on their way through the entropy coder; all but y_hat in quantisation steps.

    Attributes:
        z: hyper-latents, not yet rounded, [B, Z, H/64, W/64]. residual: of y beside its means, not yet rounded; of
            predicted channels, in step 1, beside what their neighbours say, too; symbol: what is coded of it, a whole
            number; index: of the scales' tables, from 0 to 63; and dead: half of the widths of dead zones, all
            [B, M, H/16, W/16]. y_hat: of the same shape, dequantised; the decoder's, but where an index of 0 lets a
            symbol go that is not zero.
    """

    z: Tensor
    residual: Tensor
    symbol: Tensor
    index: Tensor
    dead: Tensor
    y_hat: Tensor


class _Step1(NamedTuple):
    """What step 1 of the coding leaves to step 2; symbols are those of its own positions, 0 elsewhere."""

    z: Tensor
    mask: Tensor
    scale_features: Tensor
    index1: Tensor
    busy: Tensor
    symbol: Tensor
    mean1: Tensor
    mean2: Tensor


class RateBank(nn.Module):
    """What depends on the rate: per-channel log gains and features' biases at anchors, interpolated linearly.

    The gain multiplies y before quantisation, the inverse gain brings y_hat back; both start at the step size that
    is optimal for a Gaussian source at high rate: steps of 0.02/sqrt(lambda) for a picture in [0, 1].
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        lambdas = torch.logspace(0, 1, config.rate_anchors, config.lambda_max / config.lambda_min) * config.lambda_min
        log_gain = (lambdas.sqrt() / 0.02).log()[:, None].repeat(1, config.latent_channels)
        self.log_gain = nn.Parameter(log_gain.clone())
        self.log_inverse_gain = nn.Parameter(-log_gain)
        self.synthesis_bias = nn.Parameter(torch.zeros(config.rate_anchors, config.synthesis_width))
        self.hyper_bias = nn.Parameter(torch.zeros(config.rate_anchors, config.context_width))

    def weights(self, rate: Tensor) -> Tensor:
        """rate [B] → weights of the anchors [B, anchors]: interpolation in [0, 1], beyond it the line of the outer two."""
        position = rate[:, None] * (self.config.rate_anchors - 1)
        low = position.floor().clamp(0, self.config.rate_anchors - 2)
        distance = position - low
        anchors = torch.arange(self.config.rate_anchors, device=rate.device)
        return (anchors == low) * (1 - distance) + (anchors == low + 1) * distance

    def rate(self, weights: Tensor) -> Tensor:
        """Inverse of ``weights``."""
        anchors = torch.arange(self.config.rate_anchors, device=weights.device, dtype=weights.dtype)
        return (weights * anchors).sum(1) / (self.config.rate_anchors - 1)

    def rd_lambda(self, rate: Tensor) -> Tensor:
        return self.config.lambda_min * (self.config.lambda_max / self.config.lambda_min) ** rate


def neighbours_say(residual: Tensor) -> Tensor:
    """``pillow_semicodec.prediction``: what is expected of residuals [B, K, h, w] of step 1, which are zero elsewhere.

    Gradients pass: what moves a latent moves what is expected of those below it, and of both only the difference costs bits.
    """
    guess = torch.zeros_like(residual)
    guess[:, :, 0, 2:] = residual[:, :, 0, :-2]
    if min(residual.shape[2:]) > 1:
        above = F.pad(residual[:, :, :-1], (1, 1, 0, 0), "reflect")
        guess[:, :, 1:] = round_ste((above[..., :-2] + above[..., 2:]) / 2)
    return guess


def is_busy(index1: Tensor, mask: Tensor, rate: Tensor) -> Tensor:
    """``pillow_semicodec.entropy.models.is_busy`` of samples, [B]; index1 [B, M, h, w] counts where ``mask`` is."""
    high = ((index1.detach() >= FIRST_WITHOUT) & mask).sum((1, 2, 3))
    return high > QUIET * rate * mask.sum()


def dead_zone_of(index: Tensor, dead_zone: Tensor, busy: Tensor) -> Tensor:
    """Half of the widths [B, M, h, w]; of a broken batch, whose indexes are no numbers, any.

    Args:
        index: of the tables, same shape. dead_zone: half of the narrower widths by channel and table, [M, 64]. busy: [B].
    """
    channel = torch.arange(index.shape[1], device=index.device)[:, None, None]
    half = dead_zone[channel, index.detach().nan_to_num().long()]
    return torch.where(busy[:, None, None, None], 2 * half - 0.5, half)


def quantised(residual: Tensor, dead: Tensor) -> Tensor:
    """Residuals [B, M, h, w] as an encoder codes them, with straight-through gradients: rounded, but 0 within dead zones,
    of half of whose widths ``dead`` is.
    """
    symbol = torch.where(residual.abs() < dead, 0, torch.floor(residual.detach() + 0.5))
    return symbol + (residual - residual.detach())  # exact: the difference is 0, and its gradient 1


def step_mask(y: Tensor) -> Tensor:
    """True where a latent is coded in step 1: a checkerboard over rows, columns and channels, [1, M, h, w]."""
    c, i, j = (torch.arange(n, device=y.device) for n in y.shape[1:])
    return ((c[:, None, None] + i[:, None] + j) % 2 == 0)[None]


def _calibrated(blocks: nn.Sequential, x: Tensor, covered: float) -> Tensor:
    """What blocks make of x, once they are calibrated to it."""
    if isinstance(blocks, EightBitBlocks) and not blocks.calibrated:
        blocks.calibrate(x, covered)
    result: Tensor = blocks(x)
    return result


class SemicodecModel(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.rate_bank = RateBank(config)
        self.analysis = AnalysisTransform(config)
        self.synthesis = SynthesisTransform(config)
        self.hyper_analysis = HyperAnalysisTransform(config)
        self.hyper_synthesis = HyperSynthesisTransform(config)
        self.mean_context = MeanContext(config)
        self.scale_hyper_synthesis = ScaleHyperSynthesis(config)
        self.scale_context = ScaleContext(config)
        self.prior = StaticPrior(config)
        dead_zone = torch.from_numpy(DEAD_ZONES).repeat(config.latent_channels, 1)
        dead_zone[list(config.predicted)] = 0.5  # rounding's: it is a difference that is coded of them
        self.register_buffer("dead_zone", dead_zone, persistent=False)
        self.register_buffer("predicted", torch.tensor(config.predicted, dtype=torch.long), persistent=False)

    def initialise(self, crops: Tensor) -> None:
        """Start as a linear transform codec fitted to ``crops`` [N, 3, H, W] in [-0.5, 0.5]."""
        initialise_as_transform_codec(self.analysis, self.synthesis, crops)

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> None:
        """Fit the steps of 8-bit blocks that have none yet to crops x [B, 3, H, W], at rates from 0 to 1."""
        weights = self.rate_bank.weights(torch.linspace(0, 1, len(x), device=x.device))
        h = self.analysis.embed(F.pixel_unshuffle(x, BLOCK))
        h = self.analysis.merge(_calibrated(self.analysis.blocks, h, ANALYSIS_COVERED))
        y = _calibrated(self.analysis.latent_blocks, h, ANALYSIS_COVERED)
        _calibrated(
            self.synthesis.blocks,
            self.synthesis.enter(y, interpolated(weights, self.rate_bank.synthesis_bias)),
            SYNTHESIS_COVERED,
        )

    @property
    def calibrated(self) -> bool:
        return all(module.calibrated for module in self.modules() if isinstance(module, EightBitBlocks))

    def forward(self, x: Tensor, rate: Tensor, hard_rate: bool = False, y: Tensor | None = None) -> CodecOutput:
        """x [B, 3, H, W] in [-0.5, 0.5], H and W multiples of 64; rate [B] in [0, 1], or a little below.

        Reconstructions come from quantising with straight-through gradients, rates from additive noise (Minnen & Singh,
        2020) or, with ``hard_rate``, from the symbols themselves, as the range coder sees them: noise charges about 0.1 bit
        for a latent that is certainly zero, and knows no dead zone: wide ones would cost error, and win no bits that noise
        could see, so that they are left to ``hard_rate``. ``y`` is what the analysis makes of ``x``, where that is known.
        """
        bank, weights = self.rate_bank, self.rate_bank.weights(rate)
        coded = self.code(self.analysis(x).float() if y is None else y, weights, wide=hard_rate)

        def rounded(values: Tensor) -> Tensor:
            return round_ste(values) if hard_rate else values + torch.rand_like(values) - 0.5

        bits_z = self.prior.bits(rounded(coded.z), weights)
        residual = coded.symbol if hard_rate else rounded(coded.residual)
        bits_y = gaussian_bits(residual, scale_of_index(coded.index))
        x_hat = self.synthesis(coded.y_hat, interpolated(weights, bank.synthesis_bias))
        return CodecOutput(x_hat.float(), bits_y.sum((1, 2, 3)), bits_z.sum((1, 2, 3)), coded.y_hat)

    def _step1(self, y: Tensor, weights: Tensor, wide: bool) -> _Step1:
        """y in quantisation steps; wide as for ``code``."""
        z = self.hyper_analysis(y)
        z_hat = round_ste(z)
        features, mean1 = self.hyper_synthesis(z_hat, interpolated(weights, self.rate_bank.hyper_bias))
        mask = step_mask(y)
        with torch.autocast(y.device.type, enabled=False):
            scale_features, index1 = self.scale_hyper_synthesis(z_hat)
        busy = is_busy(index1, mask, self.rate_bank.rate(weights)) & wide
        symbol = torch.where(mask, quantised(y - mean1, dead_zone_of(index1, self.dead_zone, busy)), 0)
        mean2 = mean1 + self.mean_context(features, torch.where(mask, mean1 + symbol, 0))
        return _Step1(z, mask, scale_features, index1, busy, symbol, mean1, mean2)

    def code(self, y: Tensor, weights: Tensor, wide: bool = True) -> Coded:
        """In two steps.

        Args:
            y: as the analysis gives it, [B, M, h, w]. weights: of the anchors of its rates, [B, anchors]. wide: let dead
                zones be wider where much is going on, as encoders do.
        """
        y = y * torch.exp(interpolated(weights, self.rate_bank.log_gain))
        first = self._step1(y, weights, wide)
        mask, mean = first.mask, torch.where(first.mask, first.mean1, first.mean2)
        with torch.autocast(y.device.type, enabled=False):
            index2 = self.scale_context(first.scale_features, first.symbol.detach())
        index = torch.where(mask, first.index1, index2)
        residual, guess = y - mean, torch.zeros_like(y)
        dead = dead_zone_of(index, self.dead_zone, first.busy)
        symbol = torch.where(mask, first.symbol, quantised(y - first.mean2, dead))
        if self.config.predicted:
            channels = self.predicted
            guess = guess.index_copy(1, channels, neighbours_say(first.symbol.index_select(1, channels))) * mask
            least = torch.zeros(y.shape[1], 1, 1, device=y.device).index_fill(0, channels, 1)
            # What differs from a guess is not zero for certain. Gradients pass; a maximum halves them where both are alike.
            index = index + (torch.maximum(index, least * mask) - index).detach()
        inverse_gain = torch.exp(interpolated(weights, self.rate_bank.log_inverse_gain))
        return Coded(first.z, residual - guess, symbol - guess, index, dead, (mean + symbol) * inverse_gain)

    def semantic_latents(self, x: Tensor, rate: Tensor) -> Tensor:
        """x, rate as in ``forward`` → dequantised latents after step 1 of the coding, step 2 at its means: what the
        semantic heads read, [B, M, H/16, W/16].
        """
        bank, weights = self.rate_bank, self.rate_bank.weights(rate)
        y = self.analysis(x).float() * torch.exp(interpolated(weights, bank.log_gain))
        first = self._step1(y, weights, wide=True)
        latents = torch.where(first.mask, first.mean1 + first.symbol, first.mean2)
        return latents * torch.exp(interpolated(weights, bank.log_inverse_gain))

    def clamp_integer_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, IntegerConv2d):
                module.clamp_()
