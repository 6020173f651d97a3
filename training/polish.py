"""Polish the entropy models: ``python -m training.polish --checkpoint OLD.pt --data FOLDER --out NEW.pt --minutes 12``.

Analysis, synthesis and gains of a trained codec stay as they are; hyper networks, contexts and scales learn on, from stored
latents of thousands of crops, many more of them in a minute than in training. Rates come from tables that are counted on the
way, as the range coder will charge them, instead of from Gaussians and noise. Run it last, before ``training.export``; the
Gaussians of z, which only training needs, stay behind.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from .commands import one_line
from .data import CropSampler, rates_of, read_split, rounds, to_signal, usual_crop
from .entropy_models import SCALE_COUNT, gaussian_bits, scale_of_index
from .export import BANDS, band_of, hyper_prior, hyper_probabilities, load_model, residual_prior, residual_probabilities
from .layers import INDEX_SCALE
from .model import Coded, SemicodecModel, step_mask
from .plots import RATES as VALIDATION_RATES
from .semisup import EmaTeacher
from .state import load_checkpoint, save_changed
from .train import configure

SHIFTS = range(-40, 11)  # of indexes, that are tried where a channel begins to be predicted
CROP = 320  # pixels, at most
BATCH = 12
LEARNS = ("hyper_analysis.", "hyper_synthesis.", "mean_context.", "scale_hyper_synthesis.", "scale_context.")
LEARNS += ("rate_bank.hyper_bias",)
FORGETS = 0.98  # share of the counts that is left after a step
COUNTED = 40  # batches before the first step
RENEWED = 10  # steps between two sets of tables
RARE = 2.0**-22  # probability that nothing falls below: escapes cost about as much
RATE_POWER = 0.45  # bytes alone grow like lambda to this: a percent of them counts alike at every rate


class _Looked(torch.autograd.Function):
    """Bits of symbols out of tables [bands, rows, symbols], of rows counted through all bands. Slopes: along a band's rows;
    along the values behind the symbols, of what the bits are with noise of a step's width.
    """

    @staticmethod
    def forward(ctx: Any, bits: Tensor, row: Tensor, value: Tensor, symbol: Tensor) -> Tensor:  # type: ignore[override]
        rows, columns = bits.shape[1:]
        reach = columns // 2
        r = row.round().long()
        up, down = r + (r % rows < rows - 1), r - (r % rows > 0).long()
        nearest = (value + 0.5).floor()
        right = value + 0.5 - nearest  # share of the noisy values beyond the nearest integer
        at = (nearest.clamp(-reach + 1, reach - 1) + reach).long()
        own = (symbol.clamp(-reach, reach) + reach).long()
        flat = bits.flatten()
        row_slope = (flat[up * columns + own] - flat[down * columns + own]) / (up - down)
        middle = flat[r * columns + at]
        value_slope = right * (flat[r * columns + at + 1] - middle) + (1 - right) * (middle - flat[r * columns + at - 1])
        ctx.save_for_backward(row_slope, value_slope)
        return flat[r * columns + own]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, Tensor, None]:  # type: ignore[override]
        row_slope, value_slope = ctx.saved_tensors
        return None, gradients[0] * row_slope, gradients[0] * value_slope, None


class Tables:
    """Counts of what was coded, and the bits they say.

    Args:
        shape: bands, rows, and values from -R to R.
        probabilities: of counts of that shape.
        fixed: probabilities [K, 2R + 1] of the first rows of every band, which never learn.
    """

    def __init__(
        self, shape: tuple[int, int, int], probabilities: Callable[[Tensor], Tensor], fixed: Tensor | None = None
    ) -> None:
        self.probabilities, self.fixed = probabilities, fixed
        self.counts = torch.zeros(shape, dtype=torch.float64)
        self.renew()

    def renew(self) -> None:
        """Bits from what has been counted by now."""
        probabilities = self.probabilities(self.counts)
        if self.fixed is not None:
            probabilities[:, : len(self.fixed)] = self.fixed
        self.bits = -torch.log2(probabilities.clamp_min(RARE)).float()

    def count(self, row: Tensor, symbol: Tensor, left: float) -> None:
        """Args: left: share of the older counts that is left."""
        columns = self.counts.shape[2]
        reach = columns // 2
        places = row.round().long() * columns + (symbol.clamp(-reach, reach) + reach).long()
        fresh = torch.bincount(places.flatten(), minlength=self.counts.numel()).view_as(self.counts)
        self.counts = self.counts * left + fresh

    def of(self, row: Tensor, value: Tensor, symbol: Tensor) -> Tensor:
        found: Tensor = _Looked.apply(self.bits, row, value, symbol)  # type: ignore[no-untyped-call]
        return found


class Rates:
    """Bits of residuals, by band of rates and scale, and of hyper-latents, by band and channel, from tables as exported."""

    def __init__(self, model: SemicodecModel) -> None:
        # Index 0 codes nothing, so that what is not zero is lost there: it keeps the price of its Gaussian.
        gaussians, trained = residual_prior(), hyper_prior(model)
        shape = (BANDS, *gaussians.shape)
        self.residuals = Tables(shape, functools.partial(residual_probabilities, prior=gaussians), fixed=gaussians[:1])
        self.channels = model.config.hyper_channels
        self.hyper = Tables(tuple(trained.shape), functools.partial(hyper_probabilities, prior=trained))  # type: ignore[arg-type]

    def _rows(self, coded: Coded, rate: Tensor) -> tuple[Tensor, Tensor]:
        """Of the tables of residuals and hyper-latents."""
        band = band_of(rate)[:, None, None, None]
        channels = band * self.channels + torch.arange(self.channels)[:, None, None]
        return coded.index + band * SCALE_COUNT, channels.expand_as(coded.z)

    def of(self, coded: Coded, rate: Tensor) -> Tensor:
        """Bits of every sample [B]. Slopes are those of residuals nearer to 0 by what dead zones add to a half."""
        of_y, of_z = self._rows(coded, rate)
        spared = coded.dead - 0.5
        near = coded.residual - coded.residual.detach().clamp(-spared, spared)
        bits_y = self.residuals.of(of_y, near, coded.symbol).sum((1, 2, 3))
        return bits_y + self.hyper.of(of_z, coded.z, coded.z.round()).sum((1, 2, 3))

    @torch.no_grad()
    def count(self, coded: Coded, rate: Tensor, left: float = 1.0) -> None:
        of_y, of_z = self._rows(coded, rate)
        self.residuals.count(of_y, coded.symbol, left)
        self.hyper.count(of_z, coded.z.round(), left)

    def renew(self) -> None:
        self.residuals.renew()
        self.hyper.renew()


class Latents(NamedTuple):
    """Of a crop or picture, before gains, [M, h, w]."""

    y: Tensor  # float16
    pixels: int


@torch.no_grad()
def latents_of(model: SemicodecModel, crops: Tensor) -> list[Latents]:
    """crops uint8 [B, 3, H, W]"""
    return [Latents(y.half(), crops.shape[2] * crops.shape[3]) for y in model.analysis(to_signal(crops))]


def batches(latents: list[Latents], seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """y [BATCH, M, h, w] and rates [BATCH], for ever, in an order of their own in every round."""
    random = np.random.default_rng(seed)
    for rows in rounds(len(latents), BATCH, random):
        y = torch.stack([latents[k].y for k in rows]).float().contiguous(memory_format=torch.channels_last)
        yield y, torch.from_numpy(rates_of(random.random(len(rows))))


class Figures(NamedTuple):
    bpp: float
    error: float  # of the latents, mean square


@torch.no_grad()
def measure(
    model: SemicodecModel, latents: list[Latents], held_out: list[Latents], seed: int
) -> tuple[Rates, list[Figures]]:
    """(tables counted anew, means over ``held_out`` at the rates of validation)"""
    rates, found = Rates(model), []
    for _, (y, rate) in zip(range(COUNTED), batches(latents, seed), strict=False):
        rates.count(model.code(y, model.rate_bank.weights(rate)), rate)
    rates.renew()
    for rate in VALIDATION_RATES:
        q, rows = torch.tensor([rate]), []
        for one in held_out:
            y = one.y[None].float()
            coded = model.code(y, model.rate_bank.weights(q))
            rows.append((rates.of(coded, q).item() / one.pixels, (coded.y_hat - y).square().mean().item()))
        found.append(Figures(*np.mean(rows, 0)))
    return rates, found


@torch.no_grad()
def fit_indexes(model: SemicodecModel, latents: list[Latents], seed: int = 1) -> None:
    """Bring the scales of predicted channels in step 1, which were learned from whole residuals, to those of differences."""
    channels = list(model.config.predicted)
    bits = torch.zeros(len(SHIFTS), len(channels), dtype=torch.float64)
    for _, (y, rate) in zip(range(COUNTED), batches(latents, seed), strict=False):
        coded = model.code(y, model.rate_bank.weights(rate))
        values, index, first = (x[:, channels] for x in (coded.symbol, coded.index, step_mask(y).expand_as(y)))
        for k, shift in enumerate(SHIFTS):
            of_shift = gaussian_bits(values, scale_of_index((index + shift).clamp(1, SCALE_COUNT - 1)))
            bits[k] += (of_shift * first).sum((0, 2, 3))
    for channel, best in zip(channels, bits.argmin(0).tolist(), strict=True):
        print(f"channel {channel}: indexes {SHIFTS[best]:+d}")
        model.scale_hyper_synthesis.index.bias[channel] += SHIFTS[best] / INDEX_SCALE


def polish(
    model: SemicodecModel, latents: list[Latents], held_out: list[Latents], minutes: float, lr: float = 5e-4, seed: int = 1
) -> SemicodecModel:
    """Returns the moving average."""
    for name, p in model.named_parameters():
        p.requires_grad_(name.startswith(LEARNS))
    learning = [p for p in model.parameters() if p.requires_grad]
    rates, before = measure(model, latents, held_out, seed)
    optimiser = torch.optim.AdamW(learning, lr, betas=(0.9, 0.98), weight_decay=0.0)
    teacher, start = EmaTeacher(model, 0.998), time.monotonic()
    progress = tqdm(total=round(60 * minutes), desc="polishing", mininterval=5)
    for step, (y, rate) in enumerate(batches(latents, seed)):
        share = (time.monotonic() - start) / (60 * minutes) if minutes else 1.0
        if share >= 1:
            break
        for group in optimiser.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / 100) * (1 - share)
        coded = model.code(y, model.rate_bank.weights(rate))
        rates.count(coded, rate, FORGETS)
        weight = (0.02 / model.rate_bank.rd_lambda(rate)) ** RATE_POWER
        loss = (rates.of(coded, rate) * weight).mean() / latents[0].pixels
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learning, 1.0)
        optimiser.step()
        model.clamp_integer_weights()
        teacher.update(model)
        if step % RENEWED == 0:
            rates.renew()
        if step % 50 == 0:
            progress.n = round(share * minutes * 60)
            progress.set_postfix(step=step, loss=f"{loss.item():.4f}")
    progress.close()
    polished: SemicodecModel = teacher.model  # type: ignore[assignment]
    _, after = measure(polished, latents, held_out, seed)
    for rate, old, new in zip(VALIDATION_RATES, before, after, strict=True):
        bits, error = (100 * (b / a - 1) for a, b in zip(old, new, strict=True))
        print(
            f"rate {rate:g}: {old.bpp:.4f} bits per pixel, after {step} steps {bits:+.2f} %; error of latents {error:+.2f} %"
        )
    return polished


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder of training pictures")
    parser.add_argument("--out", type=Path, required=True, help="the new checkpoint")
    parser.add_argument("--minutes", type=float, default=12, help="of training, after the latents are there; 0: none")
    parser.add_argument("--crops", type=int, default=2400)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--predict", type=int, nargs="+", metavar="CHANNEL", help="predict these from now on (ModelConfig)")
    args = parser.parse_args(arguments)
    state = load_checkpoint(args.checkpoint)
    configs = configure([], state["configs"])
    config, shape = configs["train"], configs["model"]
    if args.predict is not None:
        if dropped := set(shape.predicted) - set(args.predict):
            raise ValueError(f"channels {sorted(dropped)} are predicted in {args.checkpoint}: give them, too")
        shape = dataclasses.replace(shape, predicted=tuple(args.predict))
    model = load_model(args.checkpoint, shape).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    training, _, validation = read_split(args.data)
    shares = {"grey_share": config.grey_share, "synthetic_share": config.synthetic_share, "vivid_share": config.vivid_share}
    sampler = CropSampler(training, usual_crop(training, CROP), 4, seed=1, **shares)
    latents: list[Latents] = []
    with tqdm(total=args.crops, desc="latents", mininterval=10) as progress:
        while len(latents) < args.crops:
            latents += latents_of(model, sampler.next())
            progress.update(sampler.batch)
    pictures = (torch.from_numpy(picture.copy()).permute(2, 0, 1)[None] for picture in validation)
    held_out = [one for picture in pictures for one in latents_of(model, picture)]
    if set(shape.predicted) - set(configs["model"].predicted):
        fit_indexes(model, latents)
    polished = polish(model, latents, held_out, args.minutes, args.lr)
    state["configs"]["model"] = dataclasses.asdict(shape)
    save_changed(args.out, state, polished.state_dict())


if __name__ == "__main__":
    with one_line("polish"):
        main()
