"""Configuration: the shape of a model and one training run. The same command scales from CPU to GPU by these alone."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Shape of the networks; widths are channels, depths are depth-conv blocks."""

    latent_channels: int = 320  # y, at 1/16 scale
    hyper_channels: int = 96  # z, at 1/64 scale
    analysis_width: int = 192  # at 1/8 scale
    analysis_blocks: int = 4
    analysis_latent_blocks: int = 1  # at 1/16 scale, latent_channels wide
    synthesis_width: int = 128  # at 1/8 scale
    synthesis_blocks: int = 4
    synthesis_bypass: int = 64  # channels at 1/8 scale that go around the blocks: fine detail at high rates
    synthesis_latent_width: int = 0  # at 1/16 scale; 0 leaves that branch out
    synthesis_latent_blocks: int = 0
    hyper_width: int = 128
    context_width: int = 128
    context_blocks: int = 1
    scale_width: int = 96  # integer hyper-scale features at 1/16 scale
    scale_context_width: int = 64
    rate_anchors: int = 8  # of the gain bank
    lambda_min: float = 0.0015  # rate–distortion trade-off at the lowest and highest anchor, times 255² on MSE of [0, 1]
    lambda_max: float = 0.4


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """One run. Lengths are in optimiser steps unless the name says otherwise."""

    batch: int = 6
    crop: int = 256  # pixels
    lr: float = 1e-3
    lr_hold: float = 0.4  # share of the run at full rate, before it falls linearly to zero
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.0
    grad_clip: float = 1.0
    ema_decay: float = 0.999
    msssim_share: float = 0.65  # of the distortion; the rest is MSE
    msssim_weight: float = 0.0205  # brings 1 - MS-SSIM to the size of MSE on [0, 1]
    lambda_balance: float = 0.5  # samples are weighted by lambda**-this, so that all rates count alike
    grey_share: float = 0.04  # of the crops
    synthetic_share: float = 0.06
    bf16: bool = True
    compile: bool = False
    seed: int = 1
