"""Rate–distortion loss."""

from __future__ import annotations

from typing import NamedTuple

import torch
from pytorch_msssim import ms_ssim
from torch import Tensor

from .config import TrainConfig
from .model import CodecOutput


class RateDistortion(NamedTuple):
    loss: Tensor  # scalar
    bpp: Tensor  # [B]
    mse: Tensor  # [B], on [0, 1]
    msssim: Tensor  # [B]


def rate_distortion_loss(output: CodecOutput, x: Tensor, rd_lambda: Tensor, config: TrainConfig) -> RateDistortion:
    """``bpp + lambda · 255² · D`` with D a mix of MSE and 1 - MS-SSIM (Wang et al., 2003).

    Args:
        x: the target [B, 3, H, W] in [-0.5, 0.5].
        rd_lambda: [B]. Samples are weighted by ``lambda**-lambda_balance``: the loss of a sample grows about like the
            square root of lambda, and a percent of rate should count alike at every rate.
    """
    bpp = (output.bits_y + output.bits_z) / (x.shape[2] * x.shape[3])
    mse = (output.x_hat - x).square().mean((1, 2, 3))
    distortion = (1 - config.msssim_share) * mse
    msssim = torch.ones_like(mse)
    if config.msssim_share:
        msssim = ms_ssim(output.x_hat + 0.5, x + 0.5, data_range=1.0, size_average=False)
        distortion = distortion + config.msssim_share * config.msssim_weight * (1 - msssim)
    loss = (bpp + rd_lambda * 255**2 * distortion) * (0.02 / rd_lambda) ** config.lambda_balance
    return RateDistortion(loss.mean(), bpp, mse, msssim)
