"""Hidden units that have died learn anew: ``python -m training.revive OLD.pt NEW.pt --data FOLDER``.

What next to nothing lifts over its ReLU gets next to no gradient, either, and does not come back. Such units of the
analysis and of the networks around the hyper-latents read something else from now on, random, but with the spread that live
ones have, and nobody listens to them at first: what the model does stays as it is, and a run goes on from there.
Source: neurons recycled (Sokar et al., "The dormant neuron phenomenon in deep reinforcement learning", ICML 2023).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .commands import one_line
from .config import TrainConfig
from .data import CropSampler, random_rates, read_split, to_signal, usual_crop
from .eight_bit import EightBitBlock, convolve, fitting_steps, magnitude, to_levels
from .export import load_model
from .layers import DepthConvBlock, interpolated
from .model import ANALYSIS_COVERED, SemicodecModel
from .state import load_checkpoint, save_changed
from .transforms import BLOCK

CROPS = 32
RARE = 0.001  # share of the positions where a unit that is dead has something to say
FEW = 0.1  # share of units that have to live to be taken as an example
INNER_ACTIVE, HIDDEN_ACTIVE = 0.65, 0.2  # shares of the positions where new units do; of live ones 0.7 and 0.06
SPREAD = 1.8  # standard deviation of what a new unit reads where there is no example, in those of its inputs

Found = Iterator[tuple[str, int, int]]  # what reads, its units that were dead, and all


@torch.no_grad()
def revive(model: SemicodecModel, x: Tensor, seed: int = 1) -> list[tuple[str, int, int]]:
    """Args: x: crops [B, 3, H, W] in [-0.5, 0.5], sides multiples of 64. Returns (convolution, dead units, all units)."""
    torch.manual_seed(seed)
    analysis, found = model.analysis, list[tuple[str, int, int]]()
    h = analysis.embed(F.pixel_unshuffle(x, BLOCK))
    for name in ("blocks", "latent_blocks"):
        h = analysis.merge(h) if name == "latent_blocks" else h
        blocks = getattr(analysis, name)
        for k, block in enumerate(blocks):
            more = (blocks.log_stream_step,) if isinstance(block, EightBitBlock) else ()
            found += _revive_block(f"analysis.{name}.{k}", block, h, *more)
            h = block(h, *more)
    weights = model.rate_bank.weights(random_rates(len(x)))
    return found + list(_revive_hyper(model, h * torch.exp(interpolated(weights, model.rate_bank.log_gain)), weights))


def _revive_block(name: str, block: DepthConvBlock, x: Tensor, *more: Tensor) -> Found:
    """Args: more: what the block takes beside x."""
    (values, step), pointwise_out = _before_relu(block, 0, x, *more), block.pointwise_out
    dead = _dead(values, step)
    live = torch.nonzero(~dead).flatten()
    silent = block.depthwise.bias[dead]  # type: ignore[index]
    if isinstance(block, EightBitBlock):  # as ``pointwise_out`` reads it
        silent = to_levels(silent, block.log_steps[1], True) * block.log_steps[1].exp()
    pointwise_out.bias += pointwise_out.weight[:, dead, 0, 0] @ silent  # type: ignore[operator]
    _renew(block.pointwise_in, _read(block, 0, x, *more), values, dead, INNER_ACTIVE)
    if len(live):
        chosen = live[torch.randint(len(live), (int(dead.sum()),))]
        block.depthwise.weight[dead] = block.depthwise.weight[chosen]
        block.depthwise.bias[dead] = 0  # type: ignore[index]
    pointwise_out.weight[:, dead] = 0
    yield f"{name}.pointwise_in", int(dead.sum()), len(dead)
    weight, bias = block.project.weight.clone(), block.project.bias.clone()  # type: ignore[union-attr]
    for parameter in block.project.parameters():
        parameter.zero_()
    x = block(x, *more)  # half of the block, as it is rounded and cut
    block.project.weight.copy_(weight)
    block.project.bias.copy_(bias)  # type: ignore[union-attr]
    values, step = _before_relu(block, 1, x, *more)
    dead = _dead(values, step)
    count = int(dead.sum())
    # Of ``pointwise_in``, unlike here, most units were alive wherever ranges had run away.
    anew = isinstance(block, EightBitBlock) and count > (1 - FEW) * len(dead)
    if anew:  # ranges may have run away: the few that live become constants, which need none
        block.project.bias += block.project.weight[:, :, 0, 0] @ F.relu(values).mean((0, 2, 3))  # type: ignore[operator]
        dead[:] = True
        fitting = fitting_steps(magnitude(x, ANALYSIS_COVERED), signed=True).log()
        block.log_steps[4] = (fitting - more[0].flatten()).mean()  # type: ignore[operator]
    read = _read(block, 1, x, *more)
    _renew(block.expand, read, values, dead, HIDDEN_ACTIVE)
    block.project.weight[:, dead] = 0
    if anew:
        largest = magnitude(F.relu(block.expand(read)), ANALYSIS_COVERED)
        block.log_steps[2] = fitting_steps(largest.max(), signed=False).log()  # type: ignore[operator]
    yield f"{name}.expand", count, len(dead)


def _before_relu(block: DepthConvBlock, branch: int, x: Tensor, *more: Tensor) -> tuple[Tensor, float]:
    """(what a branch of the block, 0 or 1, gives to its ReLU, the step that it is rounded to then)."""
    reads = (block.pointwise_in, block.expand)[branch]
    if not isinstance(block, EightBitBlock):
        return reads(x), 0.0
    log_step = more[0] + block.log_steps[3 + branch]
    return convolve(reads, to_levels(x, log_step, True), log_step), float(block.log_steps[2 * branch].exp())


def _read(block: DepthConvBlock, branch: int, x: Tensor, *more: Tensor) -> Tensor:
    """What a branch of the block reads of x: cut and rounded, where it runs on bytes."""
    if not isinstance(block, EightBitBlock):
        return x
    log_step = more[0] + block.log_steps[3 + branch]
    return to_levels(x, log_step, True) * log_step.exp()


def _revive_hyper(model: SemicodecModel, y: Tensor, weights: Tensor) -> Found:
    """Args: y: in quantisation steps. weights: of the anchors of its rates."""
    analysis, synthesis = model.hyper_analysis, model.hyper_synthesis
    h = F.relu(analysis.reduce(y * torch.rsqrt(1 + y.abs())))
    for name, reads, listens in (("down1", analysis.down1, analysis.down2), ("down2", analysis.down2, analysis.out)):
        values = reads(h)
        dead = _dead(values)
        _renew(reads, h, values, dead, INNER_ACTIVE)
        listens.weight[:, dead] = 0
        yield f"hyper_analysis.{name}", int(dead.sum()), len(dead)
        h = F.relu(reads(h))
    z_hat = torch.floor(analysis.out(h) + 0.5)
    values = synthesis.embed(z_hat)
    dead = _dead(values)
    _renew(synthesis.embed, z_hat, values, dead, INNER_ACTIVE)
    synthesis.expand.weight[:, dead] = 0
    yield "hyper_synthesis.embed", int(dead.sum()), len(dead)
    features = F.pixel_shuffle(synthesis.expand(F.relu(synthesis.embed(z_hat))), 4)
    features = features + interpolated(weights, model.rate_bank.hyper_bias)
    yield from _revive_block("hyper_synthesis.block", synthesis.block, features)


def _dead(values: Tensor, step: float = 0.0) -> Tensor:
    """Units of values before a ReLU, which will be rounded to steps, [B, C, h, w], that say something next to nowhere."""
    return (values > step / 2).float().mean((0, 2, 3)) < RARE


def _renew(reads: nn.Conv2d, x: Tensor, values: Tensor, dead: Tensor, active: float) -> None:
    """Give dead units of a convolution of x weights at random.

    Args:
        values: what the convolution gives now. active: share of the positions at which they will have something to say.
    """
    deviations = x.std((0, 2, 3))
    if not dead.any() or not deviations.any():  # or there is nothing to read
        return
    deviations = deviations.clamp_min(deviations[deviations > 0].median() / 4)
    weight = torch.randn_like(reads.weight[dead]) * deviations[None, :, None, None] ** -0.5  # as learned ones have it
    fresh = F.conv2d(x, weight, None, reads.stride, reads.padding)
    live = values[:, ~dead]
    example = live.shape[1] >= FEW * len(dead)
    spread = live.std((0, 2, 3)).median() if example else SPREAD * deviations.median()
    factor = spread / fresh.std((0, 2, 3))
    some = (fresh * factor[:, None, None]).transpose(0, 1).flatten(1)[:, ::7]
    reads.weight[dead] = weight * factor[:, None, None, None]
    reads.bias[dead] = -torch.quantile(some, 1 - active, 1)  # type: ignore[index]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder of training pictures")
    args = parser.parse_args(arguments)
    state, model = load_checkpoint(args.source), load_model(args.source)
    config = TrainConfig(**state["configs"]["train"])
    pictures = read_split(args.data).training
    crop = usual_crop(pictures, config.crop)
    sampler = CropSampler(pictures, crop, CROPS, config.grey_share, config.synthetic_share, seed=1)
    for name, dead, count in revive(model, to_signal(sampler.next())):
        print(f"{name}: {dead} of {count} units")
    save_changed(args.target, state, model.state_dict())


if __name__ == "__main__":
    with one_line("revive"):
        main()
