"""Depth-conv blocks whose convolutions read 8 bits: a processor has four times as many of those products as of float32's.

What a convolution reads is rounded to 256 levels, its weights to 127, with gradients straight through; sums are exact and
the residual path between the branches stays float. Activations have 8 bits and no sign, weights 7 with a sign, so that two
products, at most 2 * 255 * 63, fit into the 16 bits in which processors without dot products of bytes add pairs.

Source: quantisation-aware training after Jacob et al. (2018), equalised channels after Nagel et al. (2019).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import DepthConvBlock

LEVELS = 255  # the largest activation
CENTRE = 128  # what stands for 0 where activations have a sign
WEIGHT_LEVELS = 63
BIAS_LEVELS = 2**30
MOST_EQUALISED = 16.0


class _Round(torch.autograd.Function):
    """To whole numbers of steps within bounds; gradients pass where the bounds do not cut."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, low: int, high: int) -> Tensor:
        levels = (x / step).round_()
        ctx.save_for_backward((levels >= low) & (levels <= high))
        return levels.clamp_(low, high).mul_(step)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        (inside,) = ctx.saved_tensors
        return gradient * inside, None, None, None


def weight_steps(weight: Tensor) -> Tensor:
    """One for every output channel, [C, 1, 1, 1]."""
    return weight.detach().abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-8) / WEIGHT_LEVELS


def round_to_bytes(x: Tensor, step: Tensor, signed: bool) -> Tensor:
    """x [B, C, H, W] to 256 levels of ``step`` [] or [C, 1, 1]; without a sign it is a ReLU too."""
    low = -CENTRE if signed else 0
    rounded: Tensor = _Round.apply(x, step.to(x.dtype), low, low + LEVELS)
    return rounded


def fitting_steps(largest: Tensor, signed: bool) -> Tensor:
    """Steps for values of magnitudes up to ``largest``."""
    return largest.clamp_min(1e-3) / (LEVELS - CENTRE if signed else LEVELS)


class EightBitBlock(DepthConvBlock):
    """Same parameters, same function, but for the rounding.

    Attributes:
        steps: of what the depthwise convolution, ``pointwise_out`` and ``project`` read, [3].
    """

    steps: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.register_buffer("steps", torch.zeros(3))

    def forward(self, x: Tensor, stream_step: Tensor) -> Tensor:  # type: ignore[override]
        inner_step, middle_step, hidden_step = self.steps
        read = _convolve(self.pointwise_in, round_to_bytes(x, stream_step, True), stream_step)
        inner = round_to_bytes(read, inner_step, False)
        middle = round_to_bytes(_convolve(self.depthwise, inner, inner_step), middle_step, True)
        x = x + _convolve(self.pointwise_out, middle, middle_step)
        read = _convolve(self.expand, round_to_bytes(x, stream_step, True), stream_step)
        hidden = round_to_bytes(read, hidden_step, False)
        return x + _convolve(self.project, hidden, hidden_step)


def _convolve(conv: nn.Conv2d, x: Tensor, step: Tensor) -> Tensor:
    """Args: step: of x, [] or [C, 1, 1]. Sums of bytes know no channels: the weights are rounded in units of the latter."""
    by_channel = step if step.ndim else torch.ones_like(step)
    weight, unit = conv.weight * by_channel, step.new_tensor(1.0) if step.ndim else step
    steps = weight_steps(weight)
    weight = _Round.apply(weight, steps, -WEIGHT_LEVELS, WEIGHT_LEVELS) / by_channel
    bias = _Round.apply(conv.bias, steps.flatten() * unit, -BIAS_LEVELS, BIAS_LEVELS)
    return F.conv2d(x, weight, bias, padding=conv.padding, groups=conv.groups)  # type: ignore[arg-type]


class EightBitBlocks(nn.Sequential):
    """Blocks one after another, to be calibrated before they are used.

    Attributes:
        stream_step: of what all blocks read from the residual path, [C, 1, 1].
    """

    stream_step: Tensor

    def __init__(self, channels: int, count: int) -> None:
        super().__init__(*(EightBitBlock(channels) for _ in range(count)))
        self.register_buffer("stream_step", torch.zeros(channels, 1, 1))

    @property
    def calibrated(self) -> bool:
        return len(self) == 0 or bool(self.stream_step.any())

    def forward(self, x: Tensor) -> Tensor:
        for block in self:
            x = block(x, self.stream_step)
        return x

    @torch.no_grad()
    def calibrate(self, x: Tensor, covered: float) -> None:
        """Fit all steps to what ``x`` [B, C, H, W] brings about, and spread the range of hidden channels evenly.

        Args:
            covered: share of a channel's values that its range covers; the others are cut, for finer steps.
        """

        def largest(values: Tensor) -> Tensor:
            return _magnitude(values, covered)

        seen = largest(x)
        for block in self:
            assert isinstance(block, EightBitBlock)
            _equalise(block.pointwise_in, block.depthwise, largest(F.relu(block.pointwise_in(x))))
            inner = F.relu(block.pointwise_in(x))
            _equalise(block.depthwise, block.pointwise_out, largest(block.depthwise(inner)))
            middle = block.depthwise(inner)
            x = x + block.pointwise_out(middle)
            seen = torch.maximum(seen, largest(x))
            _equalise(block.expand, block.project, largest(F.relu(block.expand(x))))
            hidden = F.relu(block.expand(x))
            x = x + block.project(hidden)
            seen = torch.maximum(seen, largest(x))
            ranges = ((inner, False), (middle, True), (hidden, False))
            steps = torch.stack([fitting_steps(largest(v).max(), signed) for v, signed in ranges])
            block.steps.copy_(torch.exp2(torch.ceil(torch.log2(steps))))  # exact in bfloat16
        self.stream_step.copy_(fitting_steps(seen, True)[:, None, None])


def _magnitude(x: Tensor, covered: float) -> Tensor:
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
