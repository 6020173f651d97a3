"""A differentiable multi-scale error in XYB, after SSIMULACRA2 (Sneyers, 2022, libjxl tools/ssimulacra2.cc).

Colours are those of the eye (cube roots of cone responses, opponent axes); at six scales it compares structure (SSIM
without its luminance denominator) and edges (new ones: ringing; lost ones: blur), by a mean and by a 4-norm that
minds the worst places. The weights of the terms are SSIMULACRA2's own.
"""

from __future__ import annotations

import functools
from typing import Any

import ssimulacra2.ssimulacra2 as reference
import torch
from torch import Tensor
from torch.nn import functional as F

from .fused import fused

SCALES = 6
SIGMA = 1.5  # of the windows, pixels
RADIUS = 5
NEGLIGIBLE = 0.01  # of the weights: scales and channels below it are left out
PART = 64  # rows or columns that are blurred by one product on a CPU
STABILITY = 1e-8  # keeps the gradients of roots finite


@functools.cache
def _cones(device: torch.device) -> tuple[Tensor, Tensor]:
    """The matrix [3, 3] that leads from linear light to cone responses, and what is added to them."""
    matrix = torch.tensor(reference.kOpsinAbsorbanceMatrix, dtype=torch.float32).view(3, 3)
    return matrix.to(device), torch.tensor(reference.kOpsinAbsorbanceBias, dtype=torch.float32, device=device)


@fused
def _linear(x: Tensor) -> Tensor:
    """sRGB in [0, 1] → linear light, of any shape."""
    x = x.clamp_min(0)
    return torch.where(x <= 0.04045, x / 12.92, ((x.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4)


@fused
def _to_xyb(linear: Tensor, matrix: Tensor, bias: Tensor) -> Tensor:
    """Linear light [B, 3, H, W] → XYB [B, 3, H, W], moved and stretched to about [0, 1]. Args: matrix, bias: ``_cones``."""
    mixed = (matrix[:, :, None, None] * linear[:, None]).sum(2)
    cones = torch.exp(torch.log((mixed + bias[:, None, None]).clamp_min(1e-4)) / 3)  # faster than a power
    cones = cones - (bias ** (1 / 3))[:, None, None]
    long, medium, short = cones.unbind(1)
    luma = (long + medium) / 2
    return torch.stack([(long - medium) * 7 + 0.42, luma + 0.01, short - luma + 0.55], 1)


@functools.cache
def _weights(scale: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The channels that count at a scale, [C], and their weights, [C, 2 norms, 3 terms: structure, ringing, blur]."""
    weights = torch.tensor(reference.weights, dtype=torch.float32).view(3, SCALES, 2, 3)[:, scale]
    channels = (weights.amax((1, 2)) > NEGLIGIBLE).nonzero().flatten()
    return channels.to(device), weights[channels].to(device)


@functools.cache
def _window(size: int, device: torch.device) -> Tensor:
    """[size, size]: a Gaussian window around every position, as a matrix; outside counts as the border."""
    at = torch.arange(-RADIUS, RADIUS + 1)
    kernel = torch.exp(-(at**2) / (2 * SIGMA**2))
    kernel /= kernel.sum()
    columns = (torch.arange(size)[:, None] + at).clamp(0, size - 1)
    return torch.zeros(size, size).scatter_add_(1, columns, kernel.expand(size, -1).contiguous()).to(device)


def _banded(maps: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """``rows @ maps @ columns.T`` of matrices that are zero beyond RADIUS of their diagonals, part by part."""
    for matrix, across in ((columns, True), (rows, False)):
        size, result = len(matrix), torch.empty_like(maps)
        part = size if maps.is_cuda else PART  # one large product takes a GPU less time than several small ones
        for start in range(0, size, part):
            own = slice(start, min(start + part, size))
            near = slice(max(start - RADIUS, 0), min(start + part + RADIUS, size))
            if across:
                result[..., own] = maps[..., near] @ matrix[own, near].T
            else:
                result[..., own, :] = matrix[own, near] @ maps[..., near, :]
        maps = result
    return maps


class _Blur(torch.autograd.Function):
    """Products with a banded matrix blur a picture several times faster than depth-wise convolutions do on a CPU."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        return _banded(maps, *(_window(n, maps.device) for n in maps.shape[2:]))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return _banded(gradient, *(_window(n, gradient.device).T for n in gradient.shape[2:]))


def _blur(maps: Tensor) -> Tensor:
    result: Tensor = _Blur.apply(maps)
    return result


C1, C2 = 0.01**2, 0.03**2  # of SSIM, for values in [0, 1]
MSSSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales, Wang et al. 2003


def msssim(a: Tensor, b: Tensor) -> Tensor:
    """MS-SSIM of RGB [B, 3, H, W] in [0, 1], sides of 161 at least; [B]. Differentiable in ``b`` alone.

    The same as ``pytorch_msssim.ms_ssim``, in half the time on a CPU.
    """
    if min(a.shape[2:]) <= 160:
        raise ValueError(
            f"MS-SSIM needs sides of 161 pixels at least, not {list(a.shape[2:])}: use larger crops, or no share of it"
        )
    result = torch.ones(len(a), a.shape[1], device=a.device)
    for scale, weight in enumerate(MSSSIM_WEIGHTS):
        if scale:
            a, b = (F.avg_pool2d(x, 2, padding=[n % 2 for n in x.shape[2:]]) for x in (a, b))
        last = scale == len(MSSSIM_WEIGHTS) - 1
        result = result * _similarity(*_moments(a, b), last).clamp_min(1e-6) ** weight
    return result.mean(1)


def _moments(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Blurred a and a², and blurred b, b² and ab, each with its channels one behind the other."""
    with torch.no_grad():
        of_a = _blur(torch.cat([a, a * a], 1))
    return of_a, _blur(torch.cat([b, b * b, a * b], 1))


@fused
def _similarity(of_a: Tensor, of_b: Tensor, last: bool) -> Tensor:
    """[B, 3]: contrast and structure, at the last scale luminance too, away from the border."""
    inner = (..., slice(RADIUS, of_a.shape[2] - RADIUS), slice(RADIUS, of_a.shape[3] - RADIUS))
    (mean_a, aa), (mean_b, bb, ab) = of_a[inner].chunk(2, 1), of_b[inner].chunk(3, 1)
    mean_ab, mean_aa, mean_bb = mean_a * mean_b, mean_a.square(), mean_b.square()
    value = (2 * (ab - mean_ab) + C2) / (aa - mean_aa + bb - mean_bb + C2)
    if last:
        value = value * (2 * mean_ab + C1) / (mean_aa + mean_bb + C1)
    return value.mean((2, 3))


def _norms(values: Tensor) -> Tensor:
    """Non-negative [B, 3, H, W] → mean and 4-norm, [B, 3, 2]."""
    fourth = (values.square().square().mean((2, 3)) + STABILITY**2) ** 0.25
    return torch.stack([values.mean((2, 3)), fourth], 2)


def xyb_error(a: Tensor, b: Tensor) -> Tensor:
    """Weighted error of ``b`` against the original ``a``, both sRGB [B, 3, H, W] in [0, 1]; [B], 0 where they agree.

    SSIMULACRA2's score is a fixed decreasing function of this sum, from 256 pixels a side on.
    """
    a, b = _linear(a.contiguous()), _linear(b.contiguous())
    total, cones = torch.zeros(len(a), device=a.device), _cones(a.device)
    for scale in range(SCALES):
        if scale:  # linear light: of XYB, dark parts of an area would count too much
            a, b = F.avg_pool2d(a, 2, ceil_mode=True), F.avg_pool2d(b, 2, ceil_mode=True)
        channels, weights = _weights(scale, a.device)
        if len(channels):
            pair = _to_xyb(a, *cones).index_select(1, channels), _to_xyb(b, *cones).index_select(1, channels)
            total = total + (_terms(*pair, *_moments(*pair)) * weights).sum((1, 2, 3))
    return total


@fused
def _terms(a: Tensor, b: Tensor, of_a: Tensor, of_b: Tensor) -> Tensor:
    """[B, C, H, W] twice, and their moments → [B, C, 2 norms, 3 terms]."""
    (mean_a, aa), (mean_b, bb, ab) = of_a.chunk(2, 1), of_b.chunk(3, 1)
    similarity = 2 * (ab - mean_a * mean_b) + reference.kC2
    contrast = aa - mean_a.square() + bb - mean_b.square() + reference.kC2
    structure = (1 - (1 - (mean_a - mean_b).square()) * similarity / contrast).clamp_min(0)
    edges = (1 + (b - mean_b).abs()) / (1 + (a - mean_a).abs()) - 1
    return torch.stack([_norms(structure), _norms(edges.clamp_min(0)), _norms((-edges).clamp_min(0))], 3)
