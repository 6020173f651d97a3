"""Small versions of pictures straight from their latents: ``python -m training.reduced --data FOLDER``.

A network of two blocks at 1/16 scale learns, for a finished model, what the means of squares of 2, 4, 8 and 16 pixels of the
original were: better than reducing the decoded picture can do at low rates, and without the synthesis. Writes
``reduced.onnx`` and ``reduced.json`` into the model's folder. The codec is run as the runtime runs it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from pillow_semicodec import bundle
from pillow_semicodec.companions import REDUCED, SCALES, output_of
from pillow_semicodec.layout import Layout, RatePlan
from pillow_semicodec.slices import Decoder, Encoder, analyse

from .commands import one_line
from .companions import export_companion, start_from
from .data import CropSampler, read_split, rounds, usual_crop
from .layers import DepthConvBlock
from .semisup import EmaTeacher

CROP = 256  # pixels, at most
WIDTH, BLOCKS = 128, 2
QUALITIES = (2, 100)  # drawn evenly from between


class ReducedSynthesis(nn.Module):
    """y_hat [B, M, h, w], rate condition [B, C, 1, 1] or [B, C, 2h, 2w] → levels from 0 to 255 [B, 16h/s, 16w/s, 3] for
    every scale s, not cut at the ends.
    """

    def __init__(self, latent_channels: int, condition_channels: int, width: int = WIDTH) -> None:
        super().__init__()
        self.embed = nn.Conv2d(latent_channels, width, 1)
        self.condition = nn.Conv2d(condition_channels, width, 1, bias=False)
        self.blocks = nn.Sequential(*(DepthConvBlock(width) for _ in range(BLOCKS)))
        self.outputs = nn.ModuleList(nn.Conv2d(latent_channels + width, 3 * (16 // s) ** 2, 1) for s in SCALES)
        for output in self.outputs:
            nn.init.zeros_(output.weight)  # type: ignore[arg-type]
            nn.init.zeros_(output.bias)  # type: ignore[arg-type]

    def forward(self, y_hat: Tensor, condition: Tensor) -> tuple[Tensor, ...]:
        h = self.blocks(self.embed(y_hat) + self.condition(condition[:, :, ::2, ::2]))
        both = torch.cat([y_hat, h], 1)
        return tuple(
            (F.pixel_shuffle(output(both), 16 // scale) * 255 + 127.5).permute(0, 2, 3, 1)
            for scale, output in zip(SCALES, self.outputs, strict=True)
        )


class Coded(NamedTuple):
    latents: NDArray[np.float16]  # [M, h, w]
    condition: NDArray[np.float32]  # [C, 1, 1]
    picture: NDArray[np.uint8]  # [H, W, 3]


def code(picture: NDArray[np.uint8], quality: float, model: str | None) -> Coded:
    """A picture, and what a decoder knows of it before the synthesis."""
    codec_bundle = bundle.find_model(model)
    plan = RatePlan(codec_bundle.rate_bank.rate_of_quality(quality))
    layout = Layout(*picture.shape[:2])
    streams = Encoder(analyse(picture, codec_bundle, layout, 1), plan, codec_bundle, layout, 1).streams()
    decoder = Decoder(streams, plan, codec_bundle, layout, 1)
    bounds = layout.latents.bounds
    return Coded(decoder.y_hat.read(bounds)[0].astype(np.float16), decoder.rate("synthesis", bounds)[0], picture)


def _code(job: tuple[NDArray[np.uint8], float, str | None]) -> Coded:
    torch.set_num_threads(1)
    return code(*job)


def targets(pictures: Tensor) -> list[Tensor]:
    """uint8 [B, H, W, 3] → means of squares, float [B, H/s, W/s, 3] for every scale s."""
    x = pictures.permute(0, 3, 1, 2).float()
    return [F.avg_pool2d(x, scale).permute(0, 2, 3, 1) for scale in SCALES]


def batches(coded: list[Coded], size: int, seed: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    for rows in rounds(len(coded), size, np.random.default_rng(seed)):
        chosen = [coded[k] for k in rows]
        yield (
            torch.from_numpy(np.stack([c.latents for c in chosen])).float(),
            torch.from_numpy(np.stack([c.condition for c in chosen])),
            torch.from_numpy(np.stack([c.picture for c in chosen])),
        )


@torch.no_grad()
def psnr(net: ReducedSynthesis, coded: list[Coded]) -> dict[int, float]:
    """Of every scale, in dB, over all of ``coded``."""
    errors = []
    for y_hat, condition, picture in (next(batches([c], 1, 0)) for c in coded):
        pairs = zip(net(y_hat, condition), targets(picture), strict=True)
        errors.append([float(((a.clamp(0, 255).round() - b) ** 2).mean()) for a, b in pairs])
    return dict(zip(SCALES, (10 * np.log10(255**2 / np.mean(errors, 0))).tolist(), strict=True))


def train(
    coded: list[Coded], minutes: float, start: Path | None = None, lr: float = 2e-3, batch: int = 24, seed: int = 1
) -> ReducedSynthesis:
    """Fit the network by the clock; returns the moving average of its weights.

    Args:
        start: ``reduced.onnx`` of a model that this one was trained from: its weights to begin with.
    """
    torch.manual_seed(seed)
    net = ReducedSynthesis(coded[0].latents.shape[0], coded[0].condition.shape[0])
    if start is not None:
        start_from(net, start)
    optimiser = torch.optim.AdamW(net.parameters(), lr, betas=(0.9, 0.98))
    teacher, started = EmaTeacher(net, 0.998), time.monotonic()
    progress = tqdm(total=round(minutes * 60), desc="training", mininterval=5)
    for step, (y_hat, condition, picture) in enumerate(batches(coded, batch, seed)):
        share = (time.monotonic() - started) / (60 * minutes) if minutes else 1.0
        if share >= 1:
            break
        for group in optimiser.param_groups:
            group["lr"] = lr * min(1.0, (1 - share) / 0.7)
        pairs = zip(net(y_hat, condition), targets(picture), strict=True)
        # Absolute differences, smooth near 0: high and low rates count more alike than with squares.
        loss = torch.stack([(((a - b) ** 2 + 1).sqrt() - 1).mean() for a, b in pairs]).sum()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimiser.step()
        teacher.update(net)
        if step % 50 == 0:
            progress.n = round(share * minutes * 60)
            progress.set_postfix(step=step, loss=f"{loss.item():.3f}")
    progress.close()
    result = teacher.model
    assert isinstance(result, ReducedSynthesis)
    return result


def export(net: ReducedSynthesis, model_id: bytes, folder: Path) -> None:
    """Write ``reduced.onnx`` and ``reduced.json`` into a folder.

    Raises:
        ExportError: ONNX Runtime computes something else than PyTorch.
    """
    names = [output_of(scale) for scale in SCALES]
    free = {"y_hat": {2: "h", 3: "w"}, "condition": {2: "ch", 3: "cw"}} | {n: {1: f"{n}_h", 2: f"{n}_w"} for n in names}
    m, c = net.embed.in_channels, net.condition.in_channels
    examples = [(torch.randn(1, m, 3, 5), torch.randn(1, c, *size)) for size in ((6, 10), (1, 1))]
    export_companion(net, REDUCED, model_id, folder, examples, ["y_hat", "condition"], names, free, tolerance=0.05)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of training pictures")
    parser.add_argument("--model", help="name or id of the codec's model; the default one otherwise")
    parser.add_argument("--out", type=Path, help="folder to write to; default: the model's own")
    parser.add_argument("--crops", type=int, default=3000, help="pieces of pictures to learn from; 0.4 MB each")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--start", type=Path, help="reduced.onnx of an earlier model to begin with; new weights otherwise")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args(arguments)
    with one_line("reduced"):
        model = bundle.find_model(args.model)
        training, _, held_out = read_split(args.data)
        sampler = CropSampler(training, usual_crop(training, CROP), 1, 0.04, 0.06, seed=1)
        random = np.random.default_rng(1)
        jobs = [
            (np.ascontiguousarray(sampler.next()[0].permute(1, 2, 0).numpy()), float(random.uniform(*QUALITIES)), args.model)
            for _ in range(args.crops)
        ]
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(args.workers, mp_context=context) as pool:
            coded = list(tqdm(pool.map(_code, jobs, chunksize=8), total=len(jobs), desc="coding", mininterval=5))
        net = train(coded, args.minutes, args.start)
        folder = args.out or model.directory
        folder.mkdir(parents=True, exist_ok=True)
        export(net, model.model_id, folder)
        for quality in (20, 50, 75, 95):
            scores = psnr(net, [code(np.ascontiguousarray(p), quality, args.model) for p in held_out])
            print(f"quality {quality}:", ", ".join(f"1/{s} {v:.2f} dB" for s, v in scores.items()))
        print(f"{folder}: small versions for {model.name} ({model.model_id.hex()})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
