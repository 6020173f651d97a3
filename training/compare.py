"""What a run brought: ``python -m training.compare OLD.pt NEW.pt --data FOLDER``.

Bytes of NEW against OLD at equal error, on the pictures that no run learns from: of every picture by its own two curves (by
symbols' likelihoods and 8-bit pixels of the moving averages), then means of logarithms. So bits that only move from picture
to picture count for nothing, and one picture cannot outweigh the others. Likelihoods are those of the static prior and of
Gaussians, which polishing leaves behind for counted tables: compare polished with polished, others with others.
SSIMULACRA2 is what no run is trained for: it says what the mix of the errors is worth.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pillow_semicodec.metrics import ssimulacra2

from .commands import one_line
from .config import ModelConfig
from .data import Picture, read_split, to_signal
from .fused import as_written
from .growth import load_grown
from .model import SemicodecModel
from .perceptual import msssim, xyb_error
from .state import load_checkpoint

RATES = np.linspace(0, 1, 9)
SHOWN = (0, 2, 4, 6, 7)  # of RATES; files end at the last of them, but for qualities above 95
ERRORS = ("100 - SSIMULACRA2", "error in XYB", "1 - MS-SSIM", "MSE")
LEAST = 1e-9  # error: an exact picture has a logarithm, too
Figures = NDArray[np.float64]  # [rates, pictures, 5]: bits per pixel, and ERRORS


@as_written()  # pictures have many shapes
@torch.no_grad()
def figures(checkpoint: Path, pictures: list[Picture]) -> Figures:
    """Of the checkpoint's moving average, at RATES."""
    state = load_checkpoint(checkpoint)
    model = SemicodecModel(ModelConfig(**state["configs"]["model"]))
    load_grown(model, state["ema"])
    found = np.empty((len(RATES), len(pictures), 1 + len(ERRORS)))
    for k, picture in enumerate(pictures):
        x = to_signal(torch.from_numpy(picture.copy()).permute(2, 0, 1)[None])
        y = model.analysis(x).float()
        for i, rate in enumerate(RATES):
            output = model(x, torch.tensor([float(rate)]), hard_rate=True, y=y)
            levels = ((output.x_hat + 0.5).clamp(0, 1) * 255).round()
            decoded, pixels = levels / 255, levels[0].permute(1, 2, 0).to(torch.uint8).numpy()
            bpp = (output.bits_y + output.bits_z).item() / (x.shape[2] * x.shape[3])
            mse = (decoded - x - 0.5).square().mean().item()
            distance, similarity = xyb_error(x + 0.5, decoded).item(), msssim(x + 0.5, decoded).item()
            errors = 100 - ssimulacra2(picture, pixels), distance, 1 - similarity, mse
            found[i, k] = bpp, *(max(error, LEAST) for error in errors)
    return found


def bits_at(error: float, curve: NDArray[np.float64], near: float) -> float:
    """Bits of a curve [points, (bits, error)] at an error, all logarithms. Errors of a model that has learned little may
    rise with the bits: of several places the one closest to ``near`` counts.
    """
    bits, errors = curve.T
    lower, upper = np.minimum(errors[:-1], errors[1:]), np.maximum(errors[:-1], errors[1:])
    stretches = np.flatnonzero((lower <= error) & (error <= upper))
    if not len(stretches):
        stretches = np.array([0 if error > errors.max() else len(errors) - 2])
    falls = np.diff(errors)
    places = bits[:-1] + np.diff(bits) * (error - errors[:-1]) / np.where(falls == 0, -1e-9, falls)
    places = np.append(places[stretches], bits[errors == error])  # both ends of a level stretch
    return float(places[np.abs(places - near).argmin()])


def bytes_at_equal_error(old: Figures, new: Figures) -> NDArray[np.float64]:
    """Percent of the old bytes, [rates, errors]; beyond an old curve its outer stretch goes on."""
    differences = np.empty((*new.shape[:2], new.shape[2] - 1))
    for k in range(new.shape[1]):
        for e in range(new.shape[2] - 1):
            curve = np.log(old[:, k, [0, 1 + e]])
            for i, (bits, error) in enumerate(np.log(new[:, k, [0, 1 + e]])):
                differences[i, k, e] = bits - bits_at(error, curve, bits)
    percent: NDArray[np.float64] = 100 * np.expm1(differences.mean(1))
    return percent


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder of training pictures")
    args = parser.parse_args(arguments)
    validation = read_split(args.data).validation
    old, new = (figures(path, validation) for path in (args.old, args.new))
    table = bytes_at_equal_error(old, new)
    print("| bytes at equal | " + " | ".join(f"rate {RATES[i]:g}" for i in SHOWN) + " |")
    print("|---" * (1 + len(SHOWN)) + "|")
    for e, name in enumerate(ERRORS):
        print(f"| {name} | " + " | ".join(f"{table[i, e]:+.1f} %" for i in SHOWN) + " |")


if __name__ == "__main__":
    with one_line("compare"):
        main()
