"""Building blocks: the depth-conv block of the transforms and the integer layers of the scale networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# One activation step of an integer network stands for 1/ACTIVATION_SCALE, one step of its output for 1/INDEX_SCALE.
ACTIVATION_SCALE = 32
INDEX_SCALE = 8
WEIGHT_BITS = 8  # an integer weight w stands for w / 2**WEIGHT_BITS
WEIGHT_MAX = 127  # with activations of at most 255 even bfloat16 or TF32 inputs are exact
ACTIVATION_MAX = 255


def round_ste(x: Tensor) -> Tensor:
    """Round half up; the gradient passes straight through."""
    return x + (torch.floor(x + 0.5) - x).detach()


def interpolated(weights: Tensor, bank: Tensor) -> Tensor:
    """weights [B, A] of the anchors of a bank [A, C] → [B, C, 1, 1], in float32 under autocast, too.

    In bfloat16 a product of gain and inverse gain is wrong by 0.5 to 1.3 %, up to 4 %, differently in every channel and at
    every rate: noise that the decoder does not have, and that the transforms would learn to bear.
    """
    with torch.autocast(weights.device.type, enabled=False):
        return (weights @ bank)[:, :, None, None]


class DepthConvBlock(nn.Module):
    """``x += pw(dw3x3(relu(pw x)))``, then ``x += pw(relu(pw x → 2C))``: the DC block of DCVC-DC (Li et al., 2023).

    Both residual branches start at zero, so that a fresh block is the identity.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pointwise_in = nn.Conv2d(channels, channels, 1)
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.pointwise_out = nn.Conv2d(channels, channels, 1)
        self.expand = nn.Conv2d(channels, 2 * channels, 1)
        self.project = nn.Conv2d(2 * channels, channels, 1)
        for branch_end in (self.pointwise_out, self.project):
            nn.init.zeros_(branch_end.weight)
            nn.init.zeros_(branch_end.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.pointwise_out(self.depthwise(F.relu(self.pointwise_in(x))))
        return x + self.project(F.relu(self.expand(x)))


class Float32Conv2d(nn.Conv2d):
    """A convolution that stays in float32 under autocast.

    The linear path through the codec carries values of several hundred quantisation steps; bfloat16's eight bits
    of mantissa would add noise of the size of a step at high quality.
    """

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())


class IntegerConv2d(nn.Module):
    """A convolution whose weights, bias and inputs (steps of 1/ACTIVATION_SCALE) are integers times powers of two.

    Rounding is part of the forward pass from the first step on, with straight-through gradients. As every factor is
    a power of two and every partial sum an integer below 2**24 (checked at export), float32 computes this layer
    exactly, in any order of summation.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.groups, self.kernel_size = groups, kernel_size
        fan_in = in_channels // groups * kernel_size**2
        bound = min(fan_in**-0.5, WEIGHT_MAX / 2**WEIGHT_BITS)
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        nn.init.uniform_(self.weight, -bound, bound)

    @torch.no_grad()
    def clamp_(self) -> None:
        """Bring the weights back into the representable range; called after every optimiser step."""
        limit = WEIGHT_MAX / 2**WEIGHT_BITS
        self.weight.clamp_(-limit, limit)

    def integer_weight(self) -> Tensor:
        return round_ste(self.weight * 2**WEIGHT_BITS)

    def integer_bias(self) -> Tensor:
        return round_ste(self.bias * (2**WEIGHT_BITS * ACTIVATION_SCALE))

    def forward(self, x: Tensor) -> Tensor:
        """x in units of 1, on the grid 1/ACTIVATION_SCALE; returns the exact sum, not yet requantised."""
        weight = self.integer_weight() / 2**WEIGHT_BITS
        bias = self.integer_bias() / (2**WEIGHT_BITS * ACTIVATION_SCALE)
        return F.conv2d(x, weight, bias, padding=self.kernel_size // 2, groups=self.groups)


def requantise(u: Tensor) -> Tensor:
    """ReLU onto the activation grid: 0, 1/32, … 255/32."""
    return torch.clamp(round_ste(u * ACTIVATION_SCALE), 0, ACTIVATION_MAX) / ACTIVATION_SCALE
