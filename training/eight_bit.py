"""Depth-conv blocks whose convolutions read 8 bits: a processor has four times as many of those products as of float32's.

What a convolution reads is rounded to 256 levels of a learned step, its weights to 127, with gradients straight through;
sums are exact and the residual path between the branches stays float. Activations have 8 bits and no sign, weights 7 with a
sign, so that two products, at most 2 * 255 * 63, fit into the 16 bits in which processors without dot products of bytes add
pairs.

Source: quantisation-aware training after Jacob et al. (2018), learned steps after Esser et al. (2020), equalised channels
after Nagel et al. (2019).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .fused import fused
from .layers import DepthConvBlock

LEVELS = 255  # the largest activation
CENTRE = 128  # what stands for 0 where activations have a sign
WEIGHT_LEVELS = 63
FINER = 4  # times as many levels of what is read more finely
BIAS_LEVELS = 2**30
TIE = 2.0**-14  # of a level; see ``nearest``
MOST_EQUALISED = 16.0


@fused
def _levels(x: Tensor, log_step: Tensor, low: int, high: int) -> Tensor:
    return (x.float() * (-log_step).exp()).round().clamp(low, high).to(x.dtype)


@fused
def _levels_gradients(
    gradient: Tensor, x: Tensor, log_step: Tensor, low: int, high: int, fine: int
) -> tuple[Tensor, Tensor]:
    finer = (-log_step).exp()
    exact = x.float() * finer
    read = exact.round().clamp(low, high)
    if fine:
        read = torch.cat([read[:, :fine] + _rest(exact[:, :fine], read[:, :fine]) / FINER, read[:, fine:]], 1)
    inside = (exact - read).abs() <= 0.5
    of_levels = gradient.float()
    slope = of_levels * (read - torch.where(inside, exact, 0.0))
    of_step = slope.sum((0, 2, 3) if log_step.ndim else None).reshape(log_step.shape)
    of_x = torch.where(inside, of_levels * finer, 0.0).to(x.dtype)
    return of_x, of_step / (x.numel() / log_step.numel() * LEVELS) ** 0.5


class _Levels(torch.autograd.Function):
    """Whole numbers of steps within bounds. Gradients are those of what is read, times the step, which the caller
    holds fixed.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, log_step: Tensor, low: int, high: int, fine: int) -> Tensor:
        ctx.save_for_backward(x, log_step)
        ctx.how = low, high, fine
        return _levels(x, log_step, low, high)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None]:  # type: ignore[override]
        return *_levels_gradients(gradient, *ctx.saved_tensors, *ctx.how), None, None, None


def weight_steps(weight: Tensor) -> Tensor:
    """One for every output channel, [C, 1, 1, 1]."""
    return weight.detach().abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-8) / WEIGHT_LEVELS


def nearest(units: Tensor) -> Tensor:
    """Whole numbers for weights in units of their steps. What lies between two of them goes up, here as in the exported
    graph: of weights that were kept in 16 bits one in 1600 does, where float32's last digit would otherwise decide.
    """
    return torch.round(units + TIE)


def to_levels(x: Tensor, log_step: Tensor, signed: bool, fine: int = 0) -> Tensor:
    """x [B, C, H, W] as whole numbers of steps of exp(log_step), [] or [C, 1, 1]: 256 of them. Without a sign: a ReLU too.

    The gradient passes straight through to x where it lies within the range, and goes to the step as in LSQ (Esser et al.,
    2020): what the range gains at its ends against what finer steps would save between them. Of the first ``fine`` channels
    ``remainders`` are read, too: their range is wider, and less is lost.
    """
    low = -CENTRE if signed else 0
    levels: Tensor = _Levels.apply(x, log_step, low, low + LEVELS, fine)
    return levels


def fitting_steps(largest: Tensor, signed: bool) -> Tensor:
    """Steps for values of magnitudes up to ``largest``."""
    return largest.clamp_min(1e-3) / (LEVELS - CENTRE if signed else LEVELS)


def remainders(x: Tensor, levels: Tensor, log_step: Tensor) -> Tensor:
    """What rounding x to levels left, in parts of which ``FINER`` are a step. Without gradients: levels have them."""
    return _rest(x.detach().float() * (-log_step.detach()).exp(), levels.detach().float()).to(levels.dtype)


def _rest(exact: Tensor, levels: Tensor) -> Tensor:
    return ((exact - levels) * FINER).round().clamp(-CENTRE, LEVELS - CENTRE)


class EightBitBlock(DepthConvBlock):
    """Same parameters, same function, but for the rounding.

    Args:
        fine: channels of x, the first ones, of which ``pointwise_in`` reads the remainders, too. Light and its slow changes
            have a wide range there, so that in smooth places a whole step of theirs is an edge.

    Attributes:
        log_steps: of what the depthwise convolution, ``pointwise_out`` and ``project`` read; and how much finer or coarser
            than the path's the steps are with which ``pointwise_in`` and ``expand`` read it, [5]; learned.
    """

    def __init__(self, channels: int, fine: int = 0) -> None:
        super().__init__(channels)
        self.fine = fine
        self.log_steps = nn.Parameter(torch.zeros(5))

    def forward(self, x: Tensor, log_stream_step: Tensor) -> Tensor:  # type: ignore[override]
        inner_step, middle_step, hidden_step = self.log_steps[:3]
        in_step, expand_step = (log_stream_step + ratio for ratio in self.log_steps[3:])
        levels = to_levels(x, in_step, True, self.fine)
        if self.fine:
            first = x[:, : self.fine], levels[:, : self.fine], in_step[: self.fine]
            levels = torch.cat([levels, remainders(*first)], 1)
        inner = convolve(self.pointwise_in, levels, in_step)
        middle = convolve(self.depthwise, to_levels(inner, inner_step, False), inner_step)
        x = x + convolve(self.pointwise_out, to_levels(middle, middle_step, True), middle_step)
        hidden = convolve(self.expand, to_levels(x, expand_step, True), expand_step)
        return x + convolve(self.project, to_levels(hidden, hidden_step, False), hidden_step)


def convolve(conv: nn.Conv2d, levels: Tensor, log_step: Tensor) -> Tensor:
    """Sums of bytes know no channels: the weights take up the steps, and are rounded in units of them.

    Args:
        levels: [B, C, h, w], or [B, C + fine, h, w] with remainders behind them. log_step: [] or [C, 1, 1].
    """
    weight = with_remainders(conv.weight * log_step.detach().exp(), levels.shape[1] - conv.in_channels)
    steps = weight_steps(weight)
    weight = _rounded(weight, steps)
    bias = _rounded(conv.bias, steps.flatten())  # type: ignore[arg-type]
    return F.conv2d(levels, weight, bias, padding=conv.padding, groups=conv.groups)  # type: ignore[arg-type]


def with_remainders(weight: Tensor, fine: int) -> Tensor:
    """Weights [O, I, 1, 1] for levels and the remainders of the first ``fine`` of them, [O, I + fine, 1, 1]."""
    return torch.cat([weight, weight[:, :fine] / FINER], 1) if fine else weight


def _rounded(values: Tensor, steps: Tensor) -> Tensor:
    return values + (nearest(values / steps) * steps - values).detach()


class EightBitBlocks(nn.Sequential):
    """Blocks one after another, to be calibrated before they are used.

    Attributes:
        log_stream_step: of the residual path, [C, 1, 1]; learned. Of a channel that is new, in a model that grew, 0.
    """

    def __init__(self, channels: int, count: int, fine: int = 0) -> None:
        """Args: fine: see ``EightBitBlock``, for the first half of the blocks: what later ones read hardly shows it."""
        super().__init__(*(EightBitBlock(channels, fine if k < count / 2 else 0) for k in range(count)))
        self.log_stream_step = nn.Parameter(torch.zeros(channels, 1, 1), requires_grad=count > 0)

    @property
    def calibrated(self) -> bool:
        steps = (p for name, p in self.named_parameters() if name.endswith("log_steps"))
        return len(self) == 0 or (bool(self.log_stream_step.all()) and all(bool(p.any()) for p in steps))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = _through(self, x)
        return result

    @torch.no_grad()
    def calibrate(self, x: Tensor, covered: float) -> None:
        """Fit all steps to what ``x`` [B, C, H, W] brings about, and spread the range of hidden channels evenly.

        Args:
            covered: share of a channel's values that its range covers; the others are cut, for finer steps.
        """

        def largest(values: Tensor) -> Tensor:
            return magnitude(values, covered)

        read = []
        for block in self:
            assert isinstance(block, EightBitBlock)
            read.append(largest(x))
            _equalise(block.pointwise_in, block.depthwise, largest(F.relu(block.pointwise_in(x))))
            inner = F.relu(block.pointwise_in(x))
            _equalise(block.depthwise, block.pointwise_out, largest(block.depthwise(inner)))
            middle = block.depthwise(inner)
            x = x + block.pointwise_out(middle)
            read.append(largest(x))
            _equalise(block.expand, block.project, largest(F.relu(block.expand(x))))
            hidden = F.relu(block.expand(x))
            x = x + block.project(hidden)
            ranges = ((inner, False), (middle, True), (hidden, False))
            steps = torch.stack([fitting_steps(largest(v).max(), signed) for v, signed in ranges])
            block.log_steps[:3] = steps.log()
        logarithms = torch.stack([fitting_steps(values, True).log() for values in read])
        self.log_stream_step.copy_(logarithms.mean(0)[:, None, None])
        for block, ratios in zip(self, (logarithms - logarithms.mean(0)).mean(1).view(-1, 2), strict=True):
            block.log_steps[3:] = ratios


@fused
def _through(blocks: EightBitBlocks, x: Tensor) -> Tensor:
    for block in blocks:
        x = block(x, blocks.log_stream_step)
    return x


def magnitude(x: Tensor, covered: float) -> Tensor:
    """What a share ``covered`` of the values of every channel stays below, [C]."""
    magnitudes = x.abs().transpose(0, 1).flatten(1)
    return magnitudes.topk(int(magnitudes.shape[1] * (1 - covered)) + 1).values[:, -1]


def _equalise(before: nn.Conv2d, after: nn.Conv2d, largest: Tensor) -> None:
    """Scale channels between two convolutions (a ReLU may lie there) towards one range; the function stays."""
    factor = (largest.max().clamp_min(1e-6) / largest.clamp_min(1e-6)).sqrt().clamp_max(MOST_EQUALISED)
    before.weight *= factor[:, None, None, None]
    before.bias *= factor  # type: ignore[operator]
    depthwise = after.groups > 1
    after.weight /= factor[:, None, None, None] if depthwise else factor[None, :, None, None]
