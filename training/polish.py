"""Polish the entropy models: ``python -m training.polish --checkpoint OLD.pt --data FOLDER --out NEW.pt --minutes 12``.

Analysis, synthesis and gains of a trained codec stay as they are; hyper networks, contexts and scales learn on, from stored
latents of thousands of crops and at twenty times the pace. Rates come from tables that are counted on the way, as the range
coder will charge them, instead of from Gaussians and noise. Run it last, before ``training.export``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from .commands import one_line
from .config import TrainConfig
from .data import CropSampler, Picture, read_folder, split_validation, to_signal
from .entropy_models import SCALE_COUNT, gaussian_bits, scale_of_index
from .export import HYPER_RANGE, PRIOR_BANDS, PSEUDO_COUNTS, RESIDUAL_RANGE, load_model
from .model import Coded, SemicodecModel
from .semisup import EmaTeacher
from .state import load_checkpoint, save_checkpoint

CROP = 384  # pixels: borders count less than in training
BATCH = 12
LEARNS = ("hyper_analysis.", "hyper_synthesis.", "mean_context.", "scale_hyper_synthesis.", "scale_context.")
LEARNS += ("rate_bank.hyper_bias",)
FORGETS = 0.98  # share of the counts that is left after a step
COUNTED = 40  # batches before the first step
RENEWED = 10  # steps between two sets of tables
RARE = 2.0**-22  # probability that nothing falls below: escapes cost about as much
RATE_POWER = 0.45  # bytes grow like lambda to this: a percent of them counts alike at every rate
RATES = (0.0, 0.25, 0.5, 0.75, 1.0)


class _Looked(torch.autograd.Function):
    """Bits out of a table; slopes along its rows, and between the two integers a value lies between."""

    @staticmethod
    def forward(ctx: Any, bits: Tensor, row: Tensor, value: Tensor) -> Tensor:  # type: ignore[override]
        rows, columns = bits.shape
        reach = columns // 2
        low = value.floor().clamp(-reach, reach - 1)
        at = low.long() + reach
        r = row.round().long()
        up, down = (r + 1).clamp_max(rows - 1), (r - 1).clamp_min(0)
        flat = bits.flatten()
        own = (value.round().clamp(-reach, reach) + reach).long()
        row_slope = (flat[up * columns + own] - flat[down * columns + own]) / (up - down)
        value_slope = flat[r * columns + at + 1] - flat[r * columns + at]
        ctx.save_for_backward(row_slope, value_slope)
        return flat[r * columns + own]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, Tensor]:  # type: ignore[override]
        row_slope, value_slope = ctx.saved_tensors
        return None, gradients[0] * row_slope, gradients[0] * value_slope


class Tables:
    """Counts of what was coded, fading, and the bits they say.

    Args:
        prior: probabilities [rows, 2R + 1], which weigh like ``PSEUDO_COUNTS`` symbols. fixed: rows that never learn.
    """

    def __init__(self, prior: Tensor, fixed: int = 0) -> None:
        self.prior, self.fixed = prior, fixed
        self.counts = torch.zeros_like(prior)
        self.renew()

    def renew(self, smooth: int = 0) -> None:
        """Args: smooth: rows of one band, if those of the bands beside it count, too."""
        counts = self.counts.clone()
        if smooth:
            counts[smooth:] += self.counts[:-smooth]
            counts[:-smooth] += self.counts[smooth:]
        counts = counts + PSEUDO_COUNTS * self.prior
        self.bits = -torch.log2((counts / counts.sum(1, keepdim=True)).clamp_min(RARE)).float()
        self.bits[: self.fixed] = -torch.log2(self.prior[: self.fixed].clamp_min(RARE)).float()

    def count(self, row: Tensor, value: Tensor) -> None:
        columns = self.prior.shape[1]
        places = row.round().long() * columns + (value.round().clamp(-(columns // 2), columns // 2) + columns // 2).long()
        fresh = torch.bincount(places.flatten(), minlength=self.counts.numel()).view_as(self.counts)
        self.counts = self.counts * FORGETS + fresh

    def of(self, row: Tensor, value: Tensor) -> Tensor:
        found: Tensor = _Looked.apply(self.bits, row, value)  # type: ignore[no-untyped-call]
        return found


class Rates:
    """Bits of residuals, by scale, and of hyper-latents, by band of rates and channel."""

    def __init__(self, model: SemicodecModel) -> None:
        residuals = torch.arange(-RESIDUAL_RANGE, RESIDUAL_RANGE + 1).double()
        scales = scale_of_index(torch.arange(SCALE_COUNT).double())[:, None]
        # Index 0 codes nothing, so that what is not zero is lost there: it goes on costing what it cost in training.
        self.residuals = Tables(2.0 ** -gaussian_bits(residuals, scales), fixed=1)
        self.channels = model.config.hyper_channels
        prior = torch.zeros(PRIOR_BANDS * self.channels, 2 * HYPER_RANGE + 1).double()
        prior[:, HYPER_RANGE] = 1.0
        self.hyper = Tables(prior)

    def of(self, coded: Coded, rate: Tensor, count: bool) -> Tensor:
        """Bits of every sample [B]."""
        band = (rate * PRIOR_BANDS).clamp_max(PRIOR_BANDS - 1).floor()
        row = (band[:, None] * self.channels + torch.arange(self.channels))[:, :, None, None].expand_as(coded.z)
        if count:
            with torch.no_grad():
                self.hyper.count(row, coded.z)
                self.residuals.count(coded.index, coded.residual)
        bits_y, bits_z = self.residuals.of(coded.index, coded.residual), self.hyper.of(row, coded.z.float())
        return bits_y.sum((1, 2, 3)) + bits_z.sum((1, 2, 3))

    def renew(self) -> None:
        self.residuals.renew()
        self.hyper.renew(smooth=self.channels)


class Latents(NamedTuple):
    """Of a crop or picture, before gains, [M, h, w]."""

    y: Tensor  # float16
    pixels: int


@torch.no_grad()
def latents_of(model: SemicodecModel, crops: Tensor) -> list[Latents]:
    """crops uint8 [B, 3, H, W]"""
    return [Latents(y.half(), crops.shape[2] * crops.shape[3]) for y in model.analysis(to_signal(crops))]


def batches(latents: list[Latents], seed: int) -> Iterator[Tensor]:
    random = np.random.default_rng(seed)
    while True:
        for rows in np.split(random.permutation(len(latents)), range(BATCH, len(latents), BATCH)):
            yield torch.stack([latents[k].y for k in rows]).float().contiguous(memory_format=torch.channels_last)


def coded(model: SemicodecModel, y: Tensor, rate: Tensor) -> Coded:
    weights = model.rate_bank.weights(rate)
    return model.code(y * torch.exp(weights @ model.rate_bank.log_gain)[:, :, None, None], weights)


@torch.no_grad()
def bits_per_pixel(model: SemicodecModel, rates: Rates, held_out: list[Latents]) -> list[float]:
    """At ``RATES``, means over ``held_out``, by the tables as they are."""
    found = []
    for rate in RATES:
        q = torch.tensor([rate])
        bits = [rates.of(coded(model, one.y[None].float(), q), q, count=False).item() / one.pixels for one in held_out]
        found.append(float(np.mean(bits)))
    return found


def polish(
    model: SemicodecModel, latents: list[Latents], held_out: list[Latents], minutes: float, lr: float = 5e-4, seed: int = 1
) -> SemicodecModel:
    """Returns the moving average."""
    torch.manual_seed(seed)
    learning = []
    for name, p in model.named_parameters():
        p.requires_grad_(name.startswith(LEARNS))
        learning += [p] if p.requires_grad else []
    rates, stream = Rates(model), batches(latents, seed)
    with torch.no_grad():
        for _ in range(COUNTED):
            y = next(stream)
            rates.of(coded(model, y, rate := torch.rand(len(y))), rate, count=True)
    rates.renew()
    before = bits_per_pixel(model, rates, held_out)
    print("bits per pixel at " + ", ".join(f"{r:g}" for r in RATES) + ": " + ", ".join(f"{b:.4f}" for b in before))
    optimiser = torch.optim.AdamW(learning, lr, betas=(0.9, 0.98), weight_decay=0.0)
    teacher, start, last = EmaTeacher(model, 0.998), time.monotonic(), 0.0
    progress = tqdm(total=round(60 * minutes), desc="polishing", mininterval=10)
    for step, y in enumerate(stream):
        share = (time.monotonic() - start) / (60 * minutes)
        if share >= 1:
            break
        for group in optimiser.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / 100) * (1 - share)
        rate = torch.rand(len(y))
        bits = rates.of(coded(model, y, rate), rate, count=True)
        weight = (0.02 / model.rate_bank.rd_lambda(rate)) ** RATE_POWER
        loss = (bits * weight).mean() / CROP**2
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learning, 1.0)
        optimiser.step()
        model.clamp_integer_weights()
        teacher.update(model)
        if step % RENEWED == 0:
            rates.renew()
        last = 0.99 * last + 0.01 * loss.item() if step else loss.item()
        progress.n = round(share * minutes * 60)
        progress.set_postfix(step=step, loss=f"{last:.4f}", refresh=False)
    progress.close()
    polished: SemicodecModel = teacher.model  # type: ignore[assignment]
    after = bits_per_pixel(polished, rates, held_out)
    print(
        f"after {step} steps: "
        + ", ".join(f"{b:.4f} ({100 * (b / a - 1):+.2f} %)" for a, b in zip(before, after, strict=True))
    )
    return polished


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder of training pictures")
    parser.add_argument("--out", type=Path, required=True, help="the new checkpoint")
    parser.add_argument("--minutes", type=float, default=12, help="of training, after the latents are there")
    parser.add_argument("--crops", type=int, default=2400)
    parser.add_argument("--lr", type=float, default=5e-4)
    args = parser.parse_args(arguments)
    model = load_model(args.checkpoint).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    state = load_checkpoint(args.checkpoint)
    config = TrainConfig(**{k: v for k, v in state["configs"]["train"].items() if k in TrainConfig.__dataclass_fields__})
    training, validation = split_validation(read_folder(args.data))
    sampler = CropSampler(training, CROP, 4, config.grey_share, config.synthetic_share, seed=1)
    latents: list[Latents] = []
    with tqdm(total=args.crops, desc="latents", mininterval=10) as progress:
        while len(latents) < args.crops:
            latents += latents_of(model, sampler.next())
            progress.update(sampler.batch)
    held_out = [one for picture in validation for one in latents_of(model, _batch_of(picture))]
    weights = polish(model, latents, held_out, args.minutes, args.lr).state_dict()
    state.pop("optimiser", None)
    state["configs"] = json.dumps(state["configs"])
    save_checkpoint(args.out, {**state, "model": weights, "ema": weights})


def _batch_of(picture: Picture) -> Tensor:
    return torch.from_numpy(picture.copy()).permute(2, 0, 1)[None]


if __name__ == "__main__":
    with one_line("polish"):
        main()
