"""Rate–distortion loss."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .config import TrainConfig
from .model import CodecOutput
from .perceptual import msssim, xyb_error

MSSSIM_WEIGHT = 0.0205  # brings 1 - MS-SSIM to the size of MSE on [0, 1]
TYPICAL = 4.2e-5  # times lambda**-0.5: the distortion of photographs (29.6, 36.5 and 43.3 dB at rates 0, 0.5 and 1)
LEAST = 1e-9  # distortion; rounding may bring that of a flat picture below 0
MOST_CONCAVE = 2.0  # an error counts this much more or less than a typical one at most
XYB_WEIGHT = 9e-5  # and the error in XYB: on photographs MSE / xyb_error is 0.8e-4 to 0.95e-4 at any rate


class RateDistortion(NamedTuple):
    loss: Tensor  # scalar
    bpp: Tensor  # [B]
    mse: Tensor  # [B], on [0, 1]
    msssim: Tensor  # [B]; 1 where it was not computed
    xyb: Tensor  # [B]; 0 where it was not computed


def shares_of(rate: Tensor, config: TrainConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Of the error in XYB, of 1 - MS-SSIM and of the mean square, [B] each, at rates [B] from 0, or below it, to 1."""
    low = 1 - rate.clamp_min(0)
    of_msssim = config.msssim_share - config.xyb_tilt * low
    of_xyb = config.xyb_share + (config.xyb_tilt + config.mse_tilt) * low
    return of_xyb, of_msssim, 1 - of_msssim - of_xyb


def rate_distortion_loss(
    output: CodecOutput, x: Tensor, rate: Tensor, rd_lambda: Tensor, config: TrainConfig, every: bool = False
) -> RateDistortion:
    """``bpp + lambda · 255² · D`` with D a mix of MSE, 1 - MS-SSIM (Wang et al., 2003) and ``perceptual.xyb_error``.

    Args:
        x: the target [B, 3, H, W] in [-0.5, 0.5].
        rate: [B], 0 for the lowest rate, 1 for the highest: shares of the errors go with it.
        rd_lambda: [B]. Samples are weighted by ``lambda**-lambda_balance``: the loss of a sample grows about like the
            square root of lambda, and a percent of rate should count alike at every rate. With a ``concavity`` an error
            counts less the larger it is beside others at its rate, as it does for SSIMULACRA2's score and for decibels:
            bits move from busy places to smooth ones, like in the adaptive quantisation of video encoders.
        every: compute also those errors that have no share.
    """
    bpp = (output.bits_y + output.bits_z) / (x.shape[2] * x.shape[3])
    x_hat = output.x_hat + (output.x_hat.clamp(-0.5, 0.5) - output.x_hat).detach()  # what a decoder shows
    mse = (x_hat - x).square().mean((1, 2, 3))
    xyb_share, msssim_share, mse_share = shares_of(rate, config)
    distortion = mse_share * mse
    similarity, xyb = torch.ones_like(mse), torch.zeros_like(mse)
    if config.msssim_share or every:
        similarity = msssim(x + 0.5, x_hat + 0.5)
        distortion = distortion + msssim_share * MSSSIM_WEIGHT * (1 - similarity)
    if config.xyb_share or config.xyb_tilt or config.mse_tilt or every:
        xyb = xyb_error(x + 0.5, x_hat + 0.5)
        distortion = distortion + xyb_share * XYB_WEIGHT * xyb
    if config.concavity:
        relative = distortion.detach().clamp_min(LEAST) * rd_lambda.sqrt() / TYPICAL
        distortion = distortion * (relative**-config.concavity).clamp(1 / MOST_CONCAVE, MOST_CONCAVE)
    loss = (bpp + rd_lambda * 255**2 * distortion) * (0.02 / rd_lambda) ** config.lambda_balance
    return RateDistortion(loss.mean(), bpp, mse, similarity, xyb)
