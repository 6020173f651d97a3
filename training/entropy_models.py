"""Rate: Gaussian likelihoods over a grid of scales, and the integer networks that choose from the grid.

Only integers choose a probability table: z_hat, and the magnitudes of residuals already decoded, through networks
that float32 computes exactly (layers.IntegerConv2d). So a stream decodes on every machine, whatever its float
arithmetic does to the means.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pillow_semicodec.entropy.models import SCALES

from .config import ModelConfig
from .fused import fused
from .layers import ACTIVATION_MAX, ACTIVATION_SCALE, INDEX_SCALE, IntegerConv2d, interpolated, requantise, round_ste

SCALE_MIN, SCALE_MAX, SCALE_COUNT = 0.11, 256.0, SCALES
SCALE_STEP = math.log(SCALE_MAX / SCALE_MIN) / (SCALE_COUNT - 1)
Z_STEP = 8  # activation steps per unit of z_hat: 4 becomes 1.0
RESIDUAL_STEP = 16  # activation steps per unit of |r_hat|: 2 becomes 1.0
Z_CLIP, RESIDUAL_CLIP = ACTIVATION_MAX // Z_STEP, ACTIVATION_MAX // RESIDUAL_STEP  # 31, 15


def scale_of_index(index: Tensor) -> Tensor:
    return SCALE_MIN * torch.exp(SCALE_STEP * index)


@fused
def gaussian_bits(values: Tensor, scale: Tensor) -> Tensor:
    """-log2 P(value - ½ < X < value + ½), X ~ N(0, scale²), element by element; at most 30 bits."""
    magnitude = values.abs()
    factor = 2**-0.5 / scale
    likelihood = 0.5 * (torch.erfc((magnitude - 0.5) * factor) - torch.erfc((magnitude + 0.5) * factor))
    return -torch.log2(likelihood.clamp_min(2**-30))


class StaticPrior(nn.Module):
    """Prior of z: one scale per channel and rate anchor. Export replaces it by tables counted on pictures."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(config.rate_anchors, config.hyper_channels))

    def bits(self, z: Tensor, rate_weights: Tensor) -> Tensor:
        """z [B, Z, h, w], rate_weights [B, anchors] → bits of every element."""
        scale = torch.exp(interpolated(rate_weights, self.log_scale))
        return gaussian_bits(z, scale.clamp_min(0.05))


class ScaleHyperSynthesis(nn.Module):
    """Integer network: z_hat → features F [B, C, h, w] and the table indexes of step 1 [B, M, h, w]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.scale_width
        self.mix = IntegerConv2d(config.hyper_channels, 128)
        self.spread = IntegerConv2d(128, 128, 3, groups=128)
        self.expand = IntegerConv2d(128, 16 * width)
        self.smooth = IntegerConv2d(width, width, 3, groups=width)
        self.features = IntegerConv2d(width, width)
        self.index = IntegerConv2d(width, config.latent_channels)
        nn.init.constant_(self.index.bias, 2.25)  # index 18: a scale of 1

    def forward(self, z_hat: Tensor) -> tuple[Tensor, Tensor]:
        h = z_hat.clamp(-Z_CLIP, Z_CLIP) * (Z_STEP / ACTIVATION_SCALE)
        h = requantise(self.mix(h))
        h = requantise(self.spread(h))
        h = F.pixel_shuffle(requantise(self.expand(h)), 4)
        h = requantise(self.smooth(h))
        h = requantise(self.features(h))
        return h, to_index(self.index(h))


class ScaleContext(nn.Module):
    """Integer network: F and |r_hat| of step 1 → the table indexes of step 2 [B, M, h, w]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, latents = config.scale_context_width, config.latent_channels
        self.squeeze = IntegerConv2d(latents, width)
        self.spread = IntegerConv2d(width, width, 3, groups=width)
        self.own = IntegerConv2d(latents, latents, 3, groups=latents)
        self.index = IntegerConv2d(config.scale_width + width, latents)
        nn.init.zeros_(self.own.weight)
        nn.init.constant_(self.index.bias, 2.25)

    def forward(self, features: Tensor, residual_step1: Tensor) -> Tensor:
        magnitude = residual_step1.abs().clamp_max(RESIDUAL_CLIP) * (RESIDUAL_STEP / ACTIVATION_SCALE)
        h = requantise(self.spread(requantise(self.squeeze(magnitude))))
        return to_index(self.index(torch.cat([features, h], 1)) + self.own(magnitude))


def to_index(u: Tensor) -> Tensor:
    """Onto the grid of table indexes 0 … 63; straight-through gradient."""
    return torch.clamp(round_ste(u * INDEX_SCALE), 0, SCALE_COUNT - 1)
