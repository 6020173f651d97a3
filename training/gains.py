"""Fit the gains to what files take: ``python -m training.gains --checkpoint OLD.pt --data FOLDER --out NEW.pt``.

Training moves gains by noise in place of rounding and by straight-through gradients. Both take a latent that is coded as 0
for one whose error finer steps would make smaller, though the decoder shows its mean whatever the step. So channels end up
too fine or too coarse for one another, by how many of their latents are such. Here groups of channels are tried a little
finer and coarser at every anchor, with rounding, dead zones and counted tables as in files, and moved to where crops of
training pictures take the fewest bytes at equal error, errors by the shares of the checkpoint's configuration. Then
``training.polish``: what reads the latents has to follow.
"""

from __future__ import annotations

import argparse
import functools
import itertools
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from .commands import one_line
from .compare import ERRORS, LEAST, bytes_at_equal_error
from .config import TrainConfig
from .data import LOWEST_RATE, CropSampler, read_split, to_signal, usual_crop
from .export import load_model
from .fused import as_written
from .layers import interpolated
from .losses import shares_of
from .model import SemicodecModel
from .perceptual import msssim, xyb_error
from .polish import COUNTED, Latents, Rates, batches, latents_of
from .state import load_checkpoint, save_changed

EDGES = (0, 5, 20, 40, 130)  # first channels of the groups: channels are in the order of what they carry
TRIED = 0.12  # of the logarithm of a gain, up and down; no step is longer
LEAST_BEND = 2.0  # percent of the bytes, for a logarithm of 1 squared: that of a group that hardly matters would be noise
CROPS, CROP = 16, 320
COUNTED_CROPS = 240

Crops = list[tuple[Tensor, Tensor]]  # x [1, 3, H, W] in [-0.5, 0.5] and its latents before gains


def places_of(model: SemicodecModel) -> list[float]:
    """Files' lowest rate and every anchor."""
    return [LOWEST_RATE, *np.linspace(0, 1, model.config.rate_anchors)]


@as_written()
@torch.no_grad()
def figures(model: SemicodecModel, crops: Crops, rates: Rates) -> NDArray[np.float64]:
    """Bits per pixel and three errors of every crop, at all places, [1 + anchors, crops, 4]."""
    places = places_of(model)
    found = np.empty((len(places), len(crops), 4))
    for (k, (x, y)), (i, place) in itertools.product(enumerate(crops), enumerate(places)):
        rate = torch.tensor([float(place)])
        weights = model.rate_bank.weights(rate)
        coded = model.code(y, weights)
        x_hat = model.synthesis(coded.y_hat, interpolated(weights, model.rate_bank.synthesis_bias))
        target, decoded = x + 0.5, ((x_hat + 0.5).clamp(0, 1) * 255).round() / 255
        errors = xyb_error(target, decoded), 1 - msssim(target, decoded), (decoded - target).square().mean()
        bits = rates.of(coded, rate).item() / (x.shape[2] * x.shape[3])
        found[i, k] = bits, *(max(error.item(), LEAST) for error in errors)
    return found


@torch.no_grad()
def counted(model: SemicodecModel, latents: list[Latents]) -> Rates:
    """Rates by tables that are counted on latents, as the gains are now."""
    rates = Rates(model)
    for _, (y, rate) in zip(range(COUNTED), batches(latents, seed=1), strict=False):
        rates.count(model.code(y, model.rate_bank.weights(rate)), rate)
    rates.renew()
    return rates


@torch.no_grad()
def fit(model: SemicodecModel, crops: Crops, rates: Rates, config: TrainConfig) -> None:
    """Move both gains of the model, one step of Newton's method for every group of channels and anchor; errors have the
    shares that training gives them.
    """
    shares = np.stack([one.numpy() for one in shares_of(torch.tensor(places_of(model)), config)], 1)
    bank, channels = model.rate_bank, model.config.latent_channels
    groups = [slice(a, min(b, channels)) for a, b in itertools.pairwise((*EDGES, channels)) if a < min(b, channels)]

    def move(group: slice, by: NDArray[np.float64]) -> None:
        """Args: by: for every anchor, what is added to logarithms of gains."""
        bank.log_gain[:, group] += torch.from_numpy(by)[:, None].float()
        bank.log_inverse_gain[:, group] -= torch.from_numpy(by)[:, None].float()

    def brought(group: slice, by: NDArray[np.float64]) -> NDArray[np.float64]:
        """Percent of the bytes at equal error, all errors by their shares, [1 + anchors]; and all is as before."""
        move(group, by)
        percent: NDArray[np.float64] = (bytes_at_equal_error(before, figures(model, crops, rates)) * shares).sum(1)
        move(group, -by)
        return percent

    before, tried, steps = figures(model, crops, rates), np.full(model.config.rate_anchors, TRIED), []
    for group in tqdm(groups, mininterval=5):
        finer, coarser = brought(group, tried), brought(group, -tried)
        slope, bend = (finer - coarser) / (2 * TRIED), (finer + coarser) / TRIED**2
        # An anchor and what lies around it: below the first one the lowest rate of files, which both outer anchors make.
        slope, bend = (np.convolve(np.append(one, one[-1]), (0.25, 0.5, 0.25), "valid") for one in (slope, bend))
        steps.append(-slope / (np.maximum(bend, np.abs(slope) / TRIED) + LEAST_BEND))
    for group, step in zip(groups, steps, strict=True):
        move(group, step)
        print(f"channels {group.start} to {group.stop - 1}:", *(f"{number:+.3f}" for number in step))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder of training pictures")
    parser.add_argument("--out", type=Path, required=True, help="the new checkpoint")
    parser.add_argument("--crops", type=int, default=CROPS)
    parser.add_argument("--rounds", type=int, default=2, help="steps, each with tables counted anew; default 2")
    args = parser.parse_args(arguments)
    state, model = load_checkpoint(args.checkpoint), load_model(args.checkpoint)
    config, split = TrainConfig(**state["configs"]["train"]), read_split(args.data)
    crop = usual_crop(split.training, CROP)
    some = functools.partial(CropSampler, split.training, crop, 4, config.grey_share, vivid_share=config.vivid_share)
    every, photographs = some(config.synthetic_share, seed=3), some(0.0, seed=4)
    with torch.no_grad():
        latents = [one for _ in range(-(-COUNTED_CROPS // 4)) for one in latents_of(model, every.next())]

        def with_latents(pictures: Iterable[Tensor]) -> Crops:
            return [(x := to_signal(one[None]), model.analysis(x).float()) for one in pictures]

        drawn = with_latents(one for _ in range(-(-args.crops // 4)) for one in photographs.next())
        held_out = with_latents(torch.from_numpy(p.copy()).permute(2, 0, 1) for p in split.validation)
        rates = counted(model, latents)
        before = figures(model, held_out, rates)
        for _ in range(args.rounds):
            fit(model, drawn, rates, config)
            rates = counted(model, latents)
        brought = bytes_at_equal_error(before, figures(model, held_out, rates))
    print("held-out pictures, bytes at equal error, at the lowest rate and by anchor:")
    for name, row in zip(ERRORS[1:], brought.T, strict=True):
        print(f"{name}:", *(f"{number:+.2f} %" for number in row))
    save_changed(args.out, state, model.state_dict())


if __name__ == "__main__":
    with one_line("gains"):
        main()
