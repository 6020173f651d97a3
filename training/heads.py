"""Semantic heads: classes of a picture, a segmentation map at 1/16 scale and an embedding, read from latents.

The input is the dequantised latents of step 1, with the means of step 2 in the other half: what half of the entropy
decoding gives, and nothing of the synthesis. The same heads read decoded pixels (768 channels after PixelUnshuffle(16))
where the two are compared.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import HeadsConfig
from .labels import CLASSIFICATION, SEGMENTATION
from .layers import DepthConvBlock


@dataclasses.dataclass(frozen=True)
class Task:
    """What one head says: ``kind`` is classification or segmentation."""

    name: str
    kind: str
    classes: tuple[str, ...]
    temperature: float = 1.0  # logits are divided by it: calibrated probabilities (Guo et al., 2017)
    foreground: tuple[str, ...] = ()  # classes that a region of interest is made of


class HeadsOutput(NamedTuple):
    logits: dict[str, Tensor]  # classification [B, K], segmentation [B, K, h, w]
    embedding: Tensor  # [B, D], of norm 1


class GlobalContext(nn.Module):
    """Attention whose cost is linear in the positions: one softmax over all of them gathers a context that every
    position gets (the global context block of Cao et al., 2019). Starts as the identity.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.key = nn.Conv2d(channels, 1, 1)
        self.squeeze = nn.Linear(channels, channels // 2)
        self.expand = nn.Linear(channels // 2, channels)
        nn.init.zeros_(self.expand.weight)
        nn.init.zeros_(self.expand.bias)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.key(x).flatten(2).softmax(2)  # [B, 1, h·w]
        context = (x.flatten(2) * weights).sum(2)  # [B, C]
        return x + self.expand(F.relu(self.squeeze(context)))[:, :, None, None]


class SemanticHeads(nn.Module):
    """A trunk at 1/16 and 1/32 scale, and a head for every task."""

    def __init__(self, in_channels: int, tasks: tuple[Task, ...], config: HeadsConfig) -> None:
        super().__init__()
        self.in_channels, self.tasks, self.config = in_channels, tasks, config
        width, coarse = config.width, config.coarse_width
        self.register_buffer("mean", torch.zeros(in_channels, 1, 1))
        self.register_buffer("spread", torch.ones(in_channels, 1, 1))
        self.embed = nn.Conv2d(in_channels, width, 1)
        self.blocks = nn.Sequential(*(DepthConvBlock(width) for _ in range(config.blocks)))
        self.down = nn.Conv2d(width, coarse, 2, stride=2)
        self.coarse_blocks = nn.Sequential(*(DepthConvBlock(coarse) for _ in range(config.coarse_blocks)))
        self.attention = GlobalContext(coarse) if config.attention else nn.Identity()
        self.up = nn.Conv2d(coarse, 4 * width, 1)
        self.embedding = nn.Linear(coarse, config.embedding)
        self.dropout = nn.Dropout(config.dropout)
        self.outputs = nn.ModuleDict()
        for task in tasks:
            count = len(task.classes)
            head = nn.Linear(coarse, count) if task.kind == CLASSIFICATION else nn.Conv2d(width, count, 1)
            self.outputs[f"task_{task.name}"] = head

    @torch.no_grad()
    def standardise(self, latents: Tensor) -> None:
        """Fit the fixed scaling of the input to ``latents`` [N, C, h, w]."""
        self.mean.copy_(latents.float().mean((0, 2, 3))[:, None, None])
        self.spread.copy_(latents.float().std((0, 2, 3)).clamp_min(1e-3)[:, None, None])

    def features(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """[B, C, h, w], h and w even → features at 1/16 scale, and at 1/32."""
        x = (latents - self.mean) / self.spread
        x = x * torch.rsqrt(1 + x.abs())  # the tails of latents are long
        x = self.blocks(F.relu(self.embed(x)))
        return x, self.attention(self.coarse_blocks(F.relu(self.down(x))))

    def forward(self, latents: Tensor) -> HeadsOutput:
        fine, coarse = self.features(latents)
        pooled = coarse.mean((2, 3))
        dropped = self.dropout(pooled)
        logits = {}
        for task in self.tasks:
            if task.kind == SEGMENTATION:
                logits[task.name] = self.outputs[f"task_{task.name}"](F.relu(fine + F.pixel_shuffle(self.up(coarse), 2)))
            else:
                logits[task.name] = self.outputs[f"task_{task.name}"](dropped)
        return HeadsOutput(logits, F.normalize(self.embedding(pooled), dim=1))


def decoded_pixels_as_latents(pixels: Tensor) -> Tensor:
    """uint8 [B, 3, H, W] → [B, 768, H/16, W/16] for heads that read decoded pixels."""
    return F.pixel_unshuffle(pixels.float() / 255 - 0.5, 16)
