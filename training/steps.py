"""Fit the synthesis' 8-bit steps: ``python -m training.steps --checkpoint OLD.pt --data FOLDER --out NEW.pt``.

Straight-through gradients, which learn them, tell of ranges that are cut and of nothing that a finer step would change.
Here every step is tried a little finer and coarser, with rounding as in files, and moved to where crops of training pictures
come nearest to the originals. What is coded stays as it is, so this may come before or after ``training.polish``.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from .commands import one_line
from .compare import LEAST
from .config import TrainConfig
from .data import CropSampler, read_split, to_signal, usual_crop
from .eight_bit import EightBitBlock
from .export import load_model
from .fused import as_written
from .layers import interpolated
from .model import SemicodecModel
from .perceptual import xyb_error
from .state import load_checkpoint, save_changed

RATES = (0.2, 0.6, 0.9)
TRIED = 0.25  # of the logarithm of a step, up and down; none moves further
LEAST_BEND = 1.0  # percent of an error, for a logarithm of 1 squared: that of a step that hardly matters would be noise
CROPS, CROP = 8, 320


class Decoded(NamedTuple):
    """A picture at a rate."""

    target: Tensor  # [1, 3, H, W] in [0, 1]
    y_hat: Tensor
    condition: Tensor


@torch.no_grad()
def decoded(model: SemicodecModel, pictures: Iterable[Tensor]) -> list[Decoded]:
    """Args: pictures: uint8 [3, H, W]. At ``RATES``, rounded as in files."""
    found = []
    for picture, place in itertools.product(pictures, RATES):
        x, weights = to_signal(picture[None]), model.rate_bank.weights(torch.tensor([place]))
        y_hat = model.code(model.analysis(x).float(), weights).y_hat
        found.append(Decoded(x + 0.5, y_hat, interpolated(weights, model.rate_bank.synthesis_bias)))
    return found


@as_written()
@torch.no_grad()
def errors(model: SemicodecModel, pictures: list[Decoded]) -> NDArray[np.float64]:
    """Logarithms of the mean square and of the error in XYB, means over pictures, [rates, 2]."""
    found = []
    for target, y_hat, condition in pictures:
        shown = ((model.synthesis(y_hat, condition) + 0.5).clamp(0, 1) * 255).round() / 255
        both = (shown - target).square().mean().item(), xyb_error(target, shown).item()
        found.append([max(error, LEAST) for error in both])
    return np.log(found).reshape(-1, len(RATES), 2).mean(0)


@torch.no_grad()
def fit(model: SemicodecModel, pictures: list[Decoded]) -> None:
    """One step of Newton's method, or as much of it as makes errors smaller, for all steps of the synthesis' blocks."""
    blocks = [block for block in model.synthesis.blocks if isinstance(block, EightBitBlock)]
    places = [(block.log_steps, k) for block in blocks for k in range(len(block.log_steps))]
    start, moves = np.array([parameter[k].item() for parameter, k in places]), np.zeros(len(places))

    def percent(moved: NDArray[np.float64]) -> float:
        """Of errors, with all steps where they were but for ``moved``; a constant is missing."""
        for (parameter, k), value in zip(places, start + moved, strict=True):
            parameter[k] = value
        return 100 * float(errors(model, pictures).mean())

    before = percent(moves)
    for n, one in enumerate(tqdm(np.eye(len(places)), mininterval=5)):
        coarser, finer = (percent(by * one) - before for by in (TRIED, -TRIED))
        slope, bend = (coarser - finer) / (2 * TRIED), (coarser + finer) / TRIED**2
        moves[n] = -slope / (max(bend, abs(slope) / TRIED) + LEAST_BEND)
    while percent(moves) > before and np.abs(moves).max() > 1e-3:  # together they may go too far
        moves /= 2
    for k, row in enumerate(moves.reshape(len(blocks), -1)):
        print(f"block {k}:", *(f"{by:+.3f}" for by in row))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder of training pictures")
    parser.add_argument("--out", type=Path, required=True, help="the new checkpoint")
    parser.add_argument("--crops", type=int, default=CROPS)
    args = parser.parse_args(arguments)
    state, model = load_checkpoint(args.checkpoint), load_model(args.checkpoint)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    config, split = TrainConfig(**state["configs"]["train"]), read_split(args.data)
    sampler = CropSampler(split.training, usual_crop(split.training, CROP), args.crops, config.grey_share, 0.0, seed=5)
    drawn = decoded(model, sampler.next())
    held_out = decoded(model, (torch.from_numpy(p.copy()).permute(2, 0, 1) for p in split.validation))
    before = errors(model, held_out)
    fit(model, drawn)
    brought = 100 * np.expm1(errors(model, held_out) - before)
    print("held-out pictures, errors at rates", *RATES)
    for name, row in zip(("MSE", "error in XYB"), brought.T, strict=True):
        print(f"{name}:", *(f"{number:+.2f} %" for number in row))
    save_changed(args.out, state, model.state_dict())


if __name__ == "__main__":
    with one_line("steps"):
        main()
