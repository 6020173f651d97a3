"""A differentiable multi-scale error in XYB, after SSIMULACRA2 (Sneyers, 2022, libjxl tools/ssimulacra2.cc).

Colours are those of the eye (cube roots of cone responses, opponent axes); at six scales it compares structure (SSIM
without its luminance denominator) and edges (new ones: ringing; lost ones: blur), by a mean and by a 4-norm that
minds the worst places. The weights of the terms are SSIMULACRA2's own.
"""

from __future__ import annotations

import functools

import ssimulacra2.ssimulacra2 as reference
import torch
from torch import Tensor
from torch.nn import functional as F

SCALES = 6
SIGMA = 1.5  # of the windows, pixels
RADIUS = 5
NEGLIGIBLE = 0.01  # of the weights: scales and channels below it are left out
STABILITY = 1e-8  # keeps the gradients of roots finite


def to_xyb(x: Tensor) -> Tensor:
    """sRGB [B, 3, H, W] in [0, 1] → XYB [B, 3, H, W], moved and stretched to about [0, 1]."""
    x = x.clamp_min(0)
    linear = torch.where(x <= 0.04045, x / 12.92, ((x.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4)
    bias = torch.tensor(reference.kOpsinAbsorbanceBias, dtype=x.dtype, device=x.device)
    matrix = torch.tensor(reference.kOpsinAbsorbanceMatrix, dtype=x.dtype, device=x.device).view(3, 3)
    cones = (torch.einsum("ij,bjhw->bihw", matrix, linear) + bias[:, None, None]).clamp_min(1e-4) ** (1 / 3)
    cones = cones - (bias ** (1 / 3))[:, None, None]
    long, medium, short = cones.unbind(1)
    luma = (long + medium) / 2
    return torch.stack([(long - medium) * 7 + 0.42, luma + 0.01, short - luma + 0.55], 1)


@functools.cache
def _weights() -> Tensor:
    """[3 channels, 6 scales, 2 norms, 3 terms: structure, ringing, blur]."""
    return torch.tensor(reference.weights, dtype=torch.float32).view(3, SCALES, 2, 3)


@functools.cache
def _window(size: int) -> Tensor:
    """[size, size]: a Gaussian window around every position, as a matrix; outside counts as the border.

    Two products with a banded matrix blur a picture five times faster than depth-wise convolutions do on a CPU.
    """
    at = torch.arange(-RADIUS, RADIUS + 1)
    kernel = torch.exp(-(at**2) / (2 * SIGMA**2))
    kernel /= kernel.sum()
    columns = (torch.arange(size)[:, None] + at).clamp(0, size - 1)
    return torch.zeros(size, size).scatter_add_(1, columns, kernel.expand(size, -1).contiguous())


def _blur(maps: Tensor) -> Tensor:
    rows, columns = (_window(n).to(maps.device) for n in maps.shape[2:])
    return rows @ (maps @ columns.T)


MSSSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales, Wang et al. 2003


def msssim(a: Tensor, b: Tensor) -> Tensor:
    """MS-SSIM of RGB [B, 3, H, W] in [0, 1], sides of 161 at least; [B]. Differentiable in ``b`` alone.

    The same as ``pytorch_msssim.ms_ssim``, in half the time on a CPU.
    """
    if min(a.shape[2:]) <= 160:
        raise ValueError(
            f"MS-SSIM needs sides of 161 pixels at least, not {list(a.shape[2:])}: use larger crops, or no share of it"
        )
    c1, c2 = 0.01**2, 0.03**2
    result = torch.ones(len(a), a.shape[1], device=a.device)
    for scale, weight in enumerate(MSSSIM_WEIGHTS):
        if scale:
            a, b = (F.avg_pool2d(x, 2, padding=[n % 2 for n in x.shape[2:]]) for x in (a, b))
        inner = (..., slice(RADIUS, a.shape[2] - RADIUS), slice(RADIUS, a.shape[3] - RADIUS))
        with torch.no_grad():
            mean_a, aa = _blur(torch.cat([a, a * a], 1))[inner].split(a.shape[1], 1)
        mean_b, bb, ab = _blur(torch.cat([b, b * b, a * b], 1))[inner].split(a.shape[1], 1)
        mean_ab, mean_aa, mean_bb = mean_a * mean_b, mean_a.square(), mean_b.square()
        value = (2 * (ab - mean_ab) + c2) / (aa - mean_aa + bb - mean_bb + c2)
        if scale == len(MSSSIM_WEIGHTS) - 1:
            value = value * (2 * mean_ab + c1) / (mean_aa + mean_bb + c1)
        result = result * value.mean((2, 3)).clamp_min(1e-6) ** weight
    return result.mean(1)


def _norms(values: Tensor) -> Tensor:
    """Non-negative [B, 3, H, W] → mean and 4-norm, [B, 3, 2]."""
    fourth = (values.square().square().mean((2, 3)) + STABILITY**2) ** 0.25
    return torch.stack([values.mean((2, 3)), fourth], 2)


def xyb_error(a: Tensor, b: Tensor) -> Tensor:
    """Weighted error of ``b`` against the original ``a``, both sRGB [B, 3, H, W] in [0, 1]; [B], 0 where they agree.

    SSIMULACRA2's score is a fixed decreasing function of this sum, from 256 pixels a side on. Sides need 32 at least.
    """
    a, b = to_xyb(a), to_xyb(b)
    total = torch.zeros(len(a), device=a.device)
    for scale in range(SCALES):
        if scale:
            # SSIMULACRA2 shrinks linear light; shrinking XYB costs one conversion instead of six.
            a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
        weights = _weights()[:, scale]
        channels = [c for c in range(3) if weights[c].max() > NEGLIGIBLE]
        if channels:
            terms = _terms(a[:, channels], b[:, channels])
            total = total + (terms * weights[channels].to(a.device)).sum((1, 2, 3))
    return total


def _terms(a: Tensor, b: Tensor) -> Tensor:
    """[B, C, H, W] twice → [B, C, 2 norms, 3 terms]."""
    with torch.no_grad():
        mean_a, aa = _blur(torch.cat([a, a * a], 1)).split(a.shape[1], 1)
    mean_b, bb, ab = _blur(torch.cat([b, b * b, a * b], 1)).split(a.shape[1], 1)
    similarity = 2 * (ab - mean_a * mean_b) + reference.kC2
    contrast = aa - mean_a.square() + bb - mean_b.square() + reference.kC2
    structure = (1 - (1 - (mean_a - mean_b).square()) * similarity / contrast).clamp_min(0)
    edges = (1 + (b - mean_b).abs()) / (1 + (a - mean_a).abs()) - 1
    return torch.stack([_norms(structure), _norms(edges.clamp_min(0)), _norms((-edges).clamp_min(0))], 3)
