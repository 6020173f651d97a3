"""The float transforms: analysis, synthesis, hyper-analysis and the mean's hyper-synthesis and context.

High-resolution work is done at 1/8 scale, between PixelUnshuffle(8) and PixelShuffle(8). Initialised as a transform
codec: analysis is an 8x8 DCT of an opponent-colour rotation followed by a KLT of 2x2 groups, synthesis its transpose,
and every residual branch starts at zero, so that step 0 is already a working linear codec.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from .config import ModelConfig
from .eight_bit import EightBitBlocks
from .layers import DepthConvBlock, Float32Conv2d

BLOCK = 8  # PixelUnshuffle factor
BLOCK_CHANNELS = 3 * BLOCK**2
# PixelUnshuffle(8) has its channels in the order (colour, row, column); pixels in memory are in (row, column, colour).
INTERLEAVED = np.arange(BLOCK_CHANNELS).reshape(3, BLOCK, BLOCK).transpose(1, 2, 0).ravel()


def _blocks(config: ModelConfig, width: int, count: int, fine: int = 0) -> nn.Sequential:
    if config.eight_bit:
        return EightBitBlocks(width, count, fine)
    return nn.Sequential(*(DepthConvBlock(width) for _ in range(count)))


class AnalysisTransform(nn.Module):
    """x [B, 3, H, W] in [-0.5, 0.5] → y [B, M, H/16, W/16], in units of an orthonormal transform of x."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.analysis_width
        self.embed = Float32Conv2d(BLOCK_CHANNELS, width, 1)
        self.blocks = _blocks(config, width, config.analysis_blocks)
        self.merge = Float32Conv2d(width, config.latent_channels, 2, stride=2)
        self.latent_blocks = _blocks(config, config.latent_channels, config.analysis_latent_blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.after_embedding(self.embed(F.pixel_unshuffle(x, BLOCK)))

    def after_embedding(self, x: Tensor) -> Tensor:
        """[B, C, H/8, W/8] → [B, M, H/16, W/16]."""
        return self.latent_blocks(self.merge(self.blocks(x)))


class SynthesisTransform(nn.Module):
    """y_hat [B, M, H/16, W/16], rate condition [B, C, 1, 1] → x_hat [B, 3, H, W], centred on 0."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.synthesis_width
        self.latent_width = config.synthesis_latent_width
        if self.latent_width:
            self.latent_embed = nn.Conv2d(config.latent_channels, self.latent_width, 1)
            self.latent_blocks = nn.Sequential(
                *(DepthConvBlock(self.latent_width) for _ in range(config.synthesis_latent_blocks))
            )
            self.latent_project = nn.Conv2d(self.latent_width, 4 * width, 1)
            nn.init.zeros_(self.latent_project.weight)
            nn.init.zeros_(self.latent_project.bias)  # type: ignore[arg-type]
        self.split = Float32Conv2d(config.latent_channels, 4 * width, 1)
        self.blocks = _blocks(config, width, config.synthesis_blocks, config.fine_channels)
        self.project = Float32Conv2d(width, BLOCK_CHANNELS, 1)
        # The blocks' width is less than the 192 samples of a block: without a way around them, what it leaves out
        # bounds the quality at high rates. It starts silent.
        self.bypass_split = Float32Conv2d(config.latent_channels, 4 * config.synthesis_bypass, 1)
        self.bypass_project = Float32Conv2d(config.synthesis_bypass, BLOCK_CHANNELS, 1)
        nn.init.zeros_(self.bypass_project.weight)
        nn.init.zeros_(self.bypass_project.bias)  # type: ignore[arg-type]

    def enter(self, y_hat: Tensor, condition: Tensor) -> Tensor:
        """What the blocks get, [B, C, H/8, W/8]."""
        h = self.split(y_hat)  # [B, 4C, H/16, W/16]
        if self.latent_width:
            h = h + self.latent_project(self.latent_blocks(self.latent_embed(y_hat)))
        return F.pixel_shuffle(h, 2) + condition

    def forward(self, y_hat: Tensor, condition: Tensor) -> Tensor:
        h = self.enter(y_hat, condition)
        detail = self.bypass_project(F.pixel_shuffle(self.bypass_split(y_hat), 2))
        return F.pixel_shuffle(self.project(self.blocks(h)) + detail, BLOCK)


class HyperAnalysisTransform(nn.Module):
    """y in quantisation steps [B, M, h, w] → z [B, Z, h/4, w/4]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.hyper_width
        self.reduce = nn.Conv2d(config.latent_channels, width, 1)
        self.down1 = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.down2 = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.out = Float32Conv2d(width, config.hyper_channels, 1)

    def forward(self, y: Tensor) -> Tensor:
        h = y * torch.rsqrt(1 + y.abs())  # compressed like a square root: steps range over three decades with the rate
        h = F.relu(self.reduce(h))
        return self.out(F.relu(self.down2(F.relu(self.down1(h)))))


class HyperSynthesisTransform(nn.Module):
    """z_hat [B, Z, h/4, w/4], rate condition → features [B, C, h, w] and the mean of step 1 [B, M, h, w]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.context_width
        self.embed = nn.Conv2d(config.hyper_channels, config.hyper_width, 3, padding=1)
        self.expand = nn.Conv2d(config.hyper_width, 16 * width, 1)
        self.block = DepthConvBlock(width)
        self.mean = Float32Conv2d(width, config.latent_channels, 1)
        nn.init.zeros_(self.mean.weight)
        nn.init.zeros_(self.mean.bias)  # type: ignore[arg-type]

    def forward(self, z_hat: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        h = self.expand(F.relu(self.embed(z_hat)))
        features = self.block(F.pixel_shuffle(h, 4) + condition)
        return features, self.mean(features)


class MeanContext(nn.Module):
    """Features and the half of y_hat decoded in step 1 (zero elsewhere) → correction of the mean for step 2."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.context_width
        self.embed = Float32Conv2d(config.latent_channels, width, 1)
        self.blocks = nn.Sequential(*(DepthConvBlock(width) for _ in range(config.context_blocks)))
        self.mean = Float32Conv2d(width, config.latent_channels, 1)
        nn.init.zeros_(self.mean.weight)
        nn.init.zeros_(self.mean.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor, y_hat_step1: Tensor) -> Tensor:
        return self.mean(self.blocks(features + self.embed(y_hat_step1)))


# ---- initialisation as a transform codec ----------------------------------------------------------------------


def dct_matrix(n: int) -> NDArray[np.float64]:
    """Orthonormal DCT-II, one basis function a row."""
    k, i = np.mgrid[:n, :n]
    basis: NDArray[np.float64] = np.cos(math.pi * k * (2 * i + 1) / (2 * n)) * math.sqrt(2 / n)
    basis[0] /= math.sqrt(2)
    return basis


def block_transform() -> NDArray[np.float64]:
    """Orthonormal [192, 192]: opponent colours times 8x8 DCT, in PixelUnshuffle(8)'s order (colour, row, column)."""
    colours = np.array([[1, 1, 1], [1, 0, -1], [-1, 2, -1]]) / np.sqrt([[3], [2], [6]])
    dct = dct_matrix(BLOCK)
    return np.kron(colours, np.kron(dct, dct))


@torch.no_grad()
def initialise_as_transform_codec(analysis: AnalysisTransform, synthesis: SynthesisTransform, crops: Tensor) -> None:
    """Set the linear path to a KLT learned from ``crops`` [N, 3, H, W] in [-0.5, 0.5]."""
    basis = torch.from_numpy(block_transform()).float()
    blocks = F.pixel_unshuffle(crops, BLOCK)  # [N, 192, H/8, W/8]
    cells = blocks.permute(0, 2, 3, 1).reshape(-1, BLOCK_CHANNELS) @ basis.T
    width = analysis.embed.out_channels
    if width < BLOCK_CHANNELS:
        basis = _principal_axes(cells, width) @ basis
        cells = blocks.permute(0, 2, 3, 1).reshape(-1, BLOCK_CHANNELS) @ basis.T
    used = len(basis)
    coefficients = F.conv2d(blocks, basis[:, :, None, None])
    groups = F.pixel_unshuffle(coefficients, 2).permute(0, 2, 3, 1).reshape(-1, 4 * used)  # (channel, row, column)
    klt = _principal_axes(groups, analysis.merge.out_channels).reshape(-1, used, 2, 2)
    kept = _principal_axes(cells, min(synthesis.project.in_channels, used))  # [C', used]

    for layer in (analysis.embed, analysis.merge, synthesis.split, synthesis.project):
        layer.weight.zero_()
        layer.bias.zero_()  # type: ignore[union-attr]
    analysis.embed.weight[:used, :, 0, 0] = basis
    analysis.merge.weight[:, :used] = klt
    split = torch.einsum("kc,mcij->kijm", kept, klt)  # [C', 2, 2, M]
    synthesis.split.weight[: 4 * len(kept), :, 0, 0] = split.reshape(-1, len(klt))
    synthesis.project.weight[:, : len(kept), 0, 0] = (kept @ basis).T


def _principal_axes(samples: Tensor, count: int) -> Tensor:
    moment = samples.double().T @ samples.double() / len(samples)
    return torch.linalg.eigh(moment).eigenvectors.T.flip(0)[:count].float()
