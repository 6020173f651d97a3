"""Joint training: rate and distortion of unlabelled pictures, and the heads' losses, through one analysis.

``Objective`` is one module with one forward pass, so that DistributedDataParallel can wrap it. The teacher is the moving
average of codec and heads that export uses.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from .config import SemiConfig, TrainConfig
from .data import Picture, random_rates, to_signal
from .heads import SemanticHeads, Task
from .labels import SEGMENTATION, Item, LabelledSet
from .losses import RateDistortion, rate_distortion_loss
from .model import SemicodecModel
from .semisup import HeadsOutput, SemiSupervisedLoss, Step, cell_labels
from .views import check_augmentation, paired_views, strong_colours, view

SIDE = 192  # pixels of a view
LABELLED, UNLABELLED = 4, 4  # views in a step


class JointBatch(NamedTuple):
    task: int  # which of the heads
    x_labelled: Tensor  # uint8 [B, 3, SIDE, SIDE]
    labels: Tensor  # [B], or [B, SIDE/16, SIDE/16]
    x_weak: Tensor  # uint8, unlabelled
    x_strong: Tensor


class JointSampler:
    """Views of labelled pictures, one task after the other, and of unlabelled ones."""

    def __init__(self, sets: list[LabelledSet], unlabelled: list[Picture], config: SemiConfig, seed: int) -> None:
        check_augmentation(config.augmentation)
        self.sets, self.config = sets, config
        self.random = np.random.default_rng(seed)
        self.labelled: list[tuple[Item, ...]] = []
        self.others: list[list[Image.Image]] = []
        for labelled_set in sets:
            shown, rest = labelled_set.fraction(config.label_fraction, config.seed)
            self.labelled.append(shown)
            self.others.append([item.read() for item in (*shown, *rest)])
            if labelled_set.kind == SEGMENTATION:  # a broken mask must not end the run in the middle
                for item in shown:
                    labelled_set.read_mask(item)
        self.shown = [[(image, item) for image, item in zip(images, items, strict=False)]
                      for images, items in zip(self.others, self.labelled, strict=True)]  # fmt: skip
        self.unlabelled = unlabelled
        self.turn = 0

    def next(self) -> JointBatch:
        turn, self.turn = self.turn, (self.turn + 1) % len(self.sets)
        labelled_set, shown, random = self.sets[turn], self.shown[turn], self.random
        views, labels, weak, strong = [], [], [], []
        strong_views = self.config.augmentation == "strong"
        for k in random.integers(len(shown), size=LABELLED):
            image, item = shown[k]
            if labelled_set.kind == SEGMENTATION:
                plain, coloured, mask = paired_views(image, labelled_set.read_mask(item), (SIDE, SIDE), random)
                assert mask is not None
                views.append(coloured if strong_views and random.random() < 0.5 else plain)
                labels.append(cell_labels(torch.from_numpy(mask.copy())[None].long(), len(labelled_set.classes))[0])
            else:
                views.append(view(image, SIDE, random, self.config.augmentation))
                labels.append(torch.tensor(item.label))
        for _ in range(UNLABELLED):
            image = self._unlabelled(turn)
            if labelled_set.kind == SEGMENTATION:
                a, b, _ = paired_views(image, None, (SIDE, SIDE), random)
            else:
                a, b = (view(image, SIDE, random, "weak") for _ in range(2))
                b = strong_colours(Image.fromarray(b), random)
            weak.append(a)
            strong.append(b if strong_views else a)
        return JointBatch(turn, _stack(views), torch.stack(labels), _stack(weak), _stack(strong))

    def _unlabelled(self, turn: int) -> Image.Image:
        pool = self.others[turn]
        if self.unlabelled and self.random.random() < 0.25:
            picture = self.unlabelled[self.random.integers(len(self.unlabelled))]
            return Image.fromarray(picture)
        return pool[self.random.integers(len(pool))]


def _stack(views: list[Picture]) -> Tensor:
    return torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2)


class Losses(NamedTuple):
    total: Tensor
    codec: RateDistortion
    semi: Step | None


class Objective(nn.Module):
    """Everything that has gradients, in one forward pass."""

    def __init__(
        self,
        model: SemicodecModel,
        heads: SemanticHeads | None,
        sets: list[LabelledSet],
        config: TrainConfig,
        semi: SemiConfig,
    ) -> None:
        super().__init__()
        self.model, self.heads, self.config, self.semi = model, heads, config, semi
        self.losses = [SemiSupervisedLoss(task_of(s), semi, class_prior(s, semi)) for s in sets]

    def alignments(self) -> list[Tensor | None]:
        """What the distribution alignments have seen so far, for a checkpoint."""
        return [loss.alignment and loss.alignment.running for loss in self.losses]

    def load_alignments(self, saved: list[Tensor | None]) -> None:
        for loss, running in zip(self.losses, saved, strict=True):
            if loss.alignment is not None and running is not None:
                loss.alignment.running = running

    def forward(self, x: Tensor, target: Tensor, rate: Tensor, joint: JointBatch | None, teacher: Teacher | None) -> Losses:
        """x, target [B, 3, H, W] in [-0.5, 0.5]; they differ when the codec learns to denoise."""
        rd_lambda = self.model.rate_bank.rd_lambda(rate)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.config.bf16):
            output = self.model(x, rate)
        codec = rate_distortion_loss(output, target, rate, rd_lambda, self.config)
        if joint is None or self.heads is None or teacher is None:
            return Losses(codec.loss, codec, None)
        signals = to_signal(torch.cat([joint.x_labelled, joint.x_strong]).to(x.device))
        rates = random_rates(len(signals), x.device)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.config.bf16):
            latents = self.model.semantic_latents(signals, rates)
        both = self.heads(latents.float())
        count = len(joint.x_labelled)
        student, strong = (
            HeadsOutput({k: v[part] for k, v in both.logits.items()}, both.embedding[part])
            for part in (slice(count), slice(count, None))
        )
        weak = teacher.label(joint.x_weak.to(x.device), self.config.bf16)
        step = self.losses[joint.task](student, joint.labels.to(x.device), strong, weak, teacher.progress)
        return Losses(codec.loss + self.semi.joint_weight * step.loss, codec, step)


class Teacher:
    """The moving averages of codec and heads, and how far the run is."""

    def __init__(self, model: SemicodecModel, heads: SemanticHeads) -> None:
        self.model, self.heads, self.progress = model, heads, 0.0

    @torch.no_grad()
    def label(self, x_weak: Tensor, bf16: bool) -> HeadsOutput:
        rates = random_rates(len(x_weak), x_weak.device)
        with torch.autocast(x_weak.device.type, torch.bfloat16, enabled=bf16):
            latents = self.model.semantic_latents(to_signal(x_weak), rates)
        output: HeadsOutput = self.heads(latents.float())
        return output


def task_of(labelled_set: LabelledSet, foreground: tuple[str, ...] = ()) -> Task:
    return Task(labelled_set.name, labelled_set.kind, labelled_set.classes, foreground=foreground)


def class_prior(labelled_set: LabelledSet, config: SemiConfig) -> Tensor | None:
    """Pictures of every class among those whose labels are shown; None for masks."""
    if labelled_set.kind == SEGMENTATION:
        return None
    labels = torch.tensor([item.label for item in labelled_set.fraction(config.label_fraction, config.seed)[0]])
    return torch.bincount(labels, minlength=len(labelled_set.classes)).float()
