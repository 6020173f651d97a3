"""Configuration: the shape of a model and one training run. The same command scales from CPU to GPU by these alone."""

from __future__ import annotations

import dataclasses
from typing import Any


def _check(config: Any, *, least: dict[str, float], shares: tuple[str, ...] = ()) -> None:
    """Raise ValueError, naming the field, for a number below its least, or a share outside 0 to 1."""
    for name, bound in least.items():
        if getattr(config, name) < bound:
            raise ValueError(f"{name} is {getattr(config, name)}, and should be {bound} or more")
    for name in shares:
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"{name} is {getattr(config, name)}, and should be from 0 to 1")


MOST_ANCHORS = 16  # that a file's 16 bits can tell apart


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
    eight_bit: bool = False  # the convolutions of the blocks above read 8 bits: to be set once a float model is trained
    fine_channels: int = 0  # the first ones of the synthesis' residual path, read with two bits more (eight_bit)
    synthesis_bypass: int = 64  # channels at 1/8 scale that go around the blocks: fine detail at high rates
    synthesis_latent_width: int = 0  # at 1/16 scale; 0 leaves that branch out
    synthesis_latent_blocks: int = 0
    hyper_width: int = 128
    context_width: int = 128
    context_blocks: int = 1
    scale_width: int = 96  # integer hyper-scale features at 1/16 scale
    scale_context_width: int = 64
    predicted: tuple[int, ...] = ()  # latents whose residuals of step 1 are predicted from their neighbours
    rate_anchors: int = 8  # of the gain bank
    lambda_min: float = 0.0015  # rate–distortion trade-off at the lowest and highest anchor, times 255² on MSE of [0, 1]
    lambda_max: float = 0.4

    def __post_init__(self) -> None:
        if not 2 <= self.rate_anchors <= MOST_ANCHORS:
            raise ValueError(f"rate_anchors is {self.rate_anchors}; 2 to {MOST_ANCHORS} are possible")
        if not 0 <= self.fine_channels <= (self.synthesis_width if self.eight_bit else 0):
            raise ValueError(f"fine_channels is {self.fine_channels}: of eight_bit blocks, at most synthesis_width")
        if self.latent_channels > (most := 4 * min(self.analysis_width, 3 * 8**2)):  # what a run begins with makes no more
            raise ValueError(f"latent_channels is {self.latent_channels}; four cells of this analysis_width give {most}")
        if len(set(self.predicted)) < len(self.predicted) or not set(self.predicted) <= set(range(self.latent_channels)):
            raise ValueError(f"predicted channels {list(self.predicted)} should be different ones of {self.latent_channels}")


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
    msssim_share: float = 0.65  # of the distortion
    xyb_share: float = 0.0  # of the distortion; what the shares leave is MSE
    xyb_tilt: float = 0.0  # moves from MS-SSIM's share to XYB's at the lowest rate, nothing at the highest, linearly
    mse_tilt: float = 0.0  # moves from MSE's share to XYB's, likewise
    concavity: float = 0.0  # errors are weighted by (error / typical one)**-this, by 0.5 to 2: smooth places get more bits
    lambda_balance: float = 0.5  # samples are weighted by lambda**-this, so that all rates count alike
    grey_share: float = 0.04  # of the crops
    synthetic_share: float = 0.06
    vivid_share: float = 0.0  # of the coloured crops get more saturated colours, which are rare in photographs
    noise_share: float = 0.0  # of the crops get Gaussian noise that the decoded picture should not have (denoising)
    noise_sigma: float = 0.04  # its largest deviation, on [0, 1]
    bf16: bool = True
    compile: bool = False  # elementwise operations, and runs of 8-bit blocks (fused.py)
    seed: int = 1

    def __post_init__(self) -> None:
        shares = ("lr_hold", "ema_decay", "msssim_share", "xyb_share", "xyb_tilt", "mse_tilt", "concavity")
        shares += ("grey_share", "synthetic_share", "vivid_share", "noise_share")
        _check(self, least={"batch": 1, "crop": 64, "lr": 0, "grad_clip": 0, "weight_decay": 0}, shares=shares)
        if self.lr_hold == 1:
            raise ValueError("lr_hold is 1, and should be less: the learning rate falls to zero after it")
        if self.ema_decay == 1:
            raise ValueError("ema_decay is 1, and should be less: the average would never leave where it began")
        if self.crop % 64:
            raise ValueError(f"crop {self.crop} is no multiple of 64, the pixels of a hyper position")
        if self.xyb_tilt > self.msssim_share:
            raise ValueError(f"xyb_tilt {self.xyb_tilt} takes more than msssim_share {self.msssim_share} has")
        left = 1 - self.msssim_share - self.xyb_share
        if left < self.mse_tilt - 1e-9:
            told = f"msssim_share {self.msssim_share} and xyb_share {self.xyb_share} leave {left:.3g} to MSE"
            raise ValueError(f"{told}: less than {f'mse_tilt {self.mse_tilt}' if self.mse_tilt else 'nothing'}")


@dataclasses.dataclass(frozen=True)
class HeadsConfig:
    """Shape of the semantic heads; their cost is per position of the latents, 1/256 of it per pixel."""

    width: int = 64  # channels at 1/16 scale
    blocks: int = 1  # depth-conv blocks at 1/16 scale
    coarse_width: int = 128  # channels at 1/32 scale
    coarse_blocks: int = 3
    embedding: int = 64  # components of the embedding for search
    attention: bool = False  # a global-context attention block at 1/32 scale
    dropout: float = 0.2  # of the pooled features, before the classifiers


@dataclasses.dataclass(frozen=True)
class SemiConfig:
    """Semi-supervised training of heads on latents, alone (frozen codec) or jointly with the codec."""

    label_fraction: float = 1.0  # of the training labels are shown; the other pictures count as unlabelled
    supervised_weight: float = 1.0  # cross-entropy of classes
    segmentation_weight: float = 1.0  # cross-entropy plus Dice of masks
    unsup_weight: float = 1.0  # student against the teacher's pseudo-labels of classes
    map_unsup_weight: float = 0.1  # and against its probabilities of maps
    embedding_weight: float = 0.5  # student's against teacher's embeddings of two views
    threshold: float = 0.8  # least confidence of a pseudo-label
    align: bool = True  # pseudo-labels are brought to the labels' distribution of classes
    temperature: float = 0.15  # of the similarities of embeddings
    ramp_up: float = 0.2  # share of the run over which the weights of unlabelled pictures rise from 0
    teacher_decay: float = 0.99
    labelled_batch: int = 32
    unlabelled_batch: int = 48
    augmentation: str = "strong"  # of the views: "none", "weak" (crops and mirrors) or "strong" (colours and cut-outs too)
    lr: float = 2e-3
    weight_decay: float = 0.02
    steps: int = 300  # of training heads on a frozen codec
    pretrain_steps: int = 1500  # before them, on unlabelled pictures alone
    pretrain_batch: int = 128
    every: int = 3  # joint training: the heads take part in every so-manieth step of the codec
    joint_weight: float = 0.02  # joint training: of the heads' losses beside rate and distortion
    seed: int = 1

    def __post_init__(self) -> None:
        counts = ("labelled_batch", "unlabelled_batch", "steps", "pretrain_batch", "every")
        weights = ("supervised_weight", "segmentation_weight", "unsup_weight", "map_unsup_weight", "embedding_weight", "lr")
        least = dict.fromkeys(counts, 1) | dict.fromkeys((*weights, "pretrain_steps", "joint_weight", "weight_decay"), 0)
        _check(self, least=least, shares=("label_fraction", "threshold", "ramp_up", "teacher_decay"))
        if self.temperature <= 0:
            raise ValueError(f"temperature is {self.temperature}, and should be more than 0")
