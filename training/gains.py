"""Fit the gains to what files take: ``python -m training.gains --checkpoint OLD.pt --data FOLDER --out NEW.pt``.

Training moves gains by noise in place of rounding and by straight-through gradients. Both take a latent that is coded as 0
for one whose error finer steps would make smaller, though the decoder shows its mean whatever the step. So channels end up
too fine or too coarse for one another, by how many of their latents are such. Here groups of channels are tried a little
finer and coarser at every anchor, with rounding, dead zones and counted tables as in files, and moved to where crops of
training pictures take the fewest bytes at equal error. Then ``training.polish``: what reads the latents has to follow.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from .commands import one_line
from .compare import LEAST, bytes_at_equal_error
from .config import TrainConfig
from .data import CropSampler, read_split, to_signal, usual_crop
from .export import load_model
from .fused import as_written
from .model import SemicodecModel
from .perceptual import msssim, xyb_error
from .polish import COUNTED, Rates, batches, latents_of
from .state import load_checkpoint, save_checkpoint

EDGES = (0, 2, 5, 10, 20, 40, 80, 130, 200)  # first channels of the groups: those of little weight move together
TRIED = 0.06  # of the logarithm of a gain, up and down
MOST = 0.12  # in one round
SHARES = (0.5, 0.25, 0.25)  # of the errors in XYB, MS-SSIM and MSE in what counts
CROPS, CROP = 24, 320
COUNTED_CROPS = 240

Crops = list[tuple[Tensor, Tensor]]  # x [1, 3, H, W] in [-0.5, 0.5] and its latents before gains


@as_written()
@torch.no_grad()
def figures(model: SemicodecModel, crops: Crops, rates: Rates) -> NDArray[np.float64]:
    """Bits per pixel and the three errors of every crop at every anchor, [anchors, crops, 4]."""
    anchors = model.config.rate_anchors
    found = np.empty((anchors, len(crops), 4))
    for (k, (x, y)), i in itertools.product(enumerate(crops), range(anchors)):
        rate = torch.tensor([i / (anchors - 1)])
        weights = model.rate_bank.weights(rate)
        coded = model.code(y, weights)
        x_hat = model.synthesis(coded.y_hat, (weights @ model.rate_bank.synthesis_bias)[:, :, None, None])
        target, decoded = x + 0.5, ((x_hat + 0.5).clamp(0, 1) * 255).round() / 255
        errors = xyb_error(target, decoded), 1 - msssim(target, decoded), (decoded - target).square().mean()
        bits = rates.of(coded, rate).item() / (x.shape[2] * x.shape[3])
        found[i, k] = bits, *(max(error.item(), LEAST) for error in errors)
    return found


def fit(model: SemicodecModel, crops: Crops, rates: Rates, rounds: int) -> None:
    """Move both gains of the model."""
    bank = model.rate_bank
    ends = [*EDGES[1:], model.config.latent_channels]
    groups = [slice(first, end) for first, end in zip(EDGES, ends, strict=True) if first < end]

    def move(group: slice, by: NDArray[np.float64]) -> None:
        """Args: by: for every anchor, what is added to logarithms of gains."""
        with torch.no_grad():
            bank.log_gain[:, group] += torch.from_numpy(by)[:, None].float()
            bank.log_inverse_gain[:, group] -= torch.from_numpy(by)[:, None].float()

    tried = np.full(model.config.rate_anchors, TRIED)
    for number in range(rounds):
        before = figures(model, crops, rates)
        steps = []
        for group in tqdm(groups, desc=f"round {number + 1}", mininterval=5):
            brought = []  # percent of the bytes [anchors], finer and coarser
            for sign in (1, -1):
                move(group, sign * tried)
                brought.append(bytes_at_equal_error(before, figures(model, crops, rates)) @ SHARES)
                move(group, -sign * tried)
            slope, bend = (brought[0] - brought[1]) / (2 * TRIED), (brought[0] + brought[1]) / TRIED**2
            slope, bend = (np.convolve(np.pad(one, 1, "edge"), (0.25, 0.5, 0.25), "valid") for one in (slope, bend))
            steps.append(-slope / np.maximum(bend, np.abs(slope) / MOST + 1e-9))  # Newton's, as far as it may go
        for group, step in zip(groups, steps, strict=True):
            move(group, step)
            print(f"channels {group.start} to {group.stop - 1}:", *(f"{number:+.3f}" for number in step))
        after = bytes_at_equal_error(before, figures(model, crops, rates))
        print("bytes at equal error by anchor:", *(f"{number:+.2f} %" for number in after @ SHARES))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder of training pictures")
    parser.add_argument("--out", type=Path, required=True, help="the new checkpoint")
    parser.add_argument("--rounds", type=int, default=3, help="of trials and steps")
    parser.add_argument("--crops", type=int, default=CROPS)
    args = parser.parse_args(arguments)
    state, model = load_checkpoint(args.checkpoint), load_model(args.checkpoint)
    config = TrainConfig(**state["configs"]["train"])
    pictures = read_split(args.data).training
    crop = usual_crop(pictures, CROP)
    sampler = CropSampler(pictures, crop, 4, config.grey_share, config.synthetic_share, seed=3)
    with torch.no_grad():
        latents = [one for _ in range(-(-COUNTED_CROPS // 4)) for one in latents_of(model, sampler.next())]
        rates = Rates(model)
        for _, (y, rate) in zip(range(COUNTED), batches(latents, seed=1), strict=False):
            rates.count(model.code(y, model.rate_bank.weights(rate)), rate)
        rates.renew()
        signals = [to_signal(one[None]) for _ in range(-(-args.crops // 4)) for one in sampler.next()]
        fit(model, [(x, model.analysis(x).float()) for x in signals], rates, args.rounds)
    weights = model.state_dict()
    for key in ("optimiser", "heads_student", "alignments"):
        state.pop(key, None)
    save_checkpoint(args.out, {**state, "configs": json.dumps(state["configs"]), "ema": weights, "model": weights})


if __name__ == "__main__":
    with one_line("gains"):
        main()
