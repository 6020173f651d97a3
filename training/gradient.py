"""Write the network that tells an encoder where errors come from: ``python -m training.gradient --checkpoint PT``.

The synthesis in float, forwards and backwards, spelt out in plain operators: which way every latent would have to go for the
picture to come nearer to the original. An encoder with time (``effort``) moves its roundings by it. Nothing is trained.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pillow_semicodec import bundle
from pillow_semicodec.companions import GRADIENT
from pillow_semicodec.inference import transforms_for

from .commands import ExportError, one_line
from .companions import export_companion
from .export import load_model
from .layers import DepthConvBlock
from .model import SemicodecModel
from .transforms import BLOCK, SynthesisTransform


def _back(conv: nn.Conv2d, gradient: Tensor) -> Tensor:
    """Through a convolution that keeps its size."""
    return F.conv_transpose2d(gradient, conv.weight, padding=conv.padding, groups=conv.groups)  # type: ignore[arg-type]


class SynthesisGradient(nn.Module):
    """y_hat [1, M, h, w], condition [1, C, 1, 1] or [1, C, 2h, 2w], error [1, 16h, 16w, 3] of the picture that they make, in
    levels → by what the sum of squared errors changes with y_hat, [1, M, h, w].

    Args:
        model: whose synthesis it is; the rounding of blocks on bytes is left out. The error is that of the real one.
    """

    def __init__(self, model: SemicodecModel) -> None:
        super().__init__()
        self.synthesis: SynthesisTransform = model.synthesis
        if self.synthesis.latent_width:
            raise ValueError("a synthesis with a branch at the latents' scale is not supported")

    def forward(self, y_hat: Tensor, condition: Tensor, error: Tensor) -> Tensor:
        net, kept = self.synthesis, []
        x = net.enter(y_hat, condition)
        for block in net.blocks:
            assert isinstance(block, DepthConvBlock)
            inner = block.pointwise_in(x)
            x = x + block.pointwise_out(block.depthwise(F.relu(inner)))
            hidden = block.expand(x)
            x = x + block.project(F.relu(hidden))
            kept.append((block, inner > 0, hidden > 0))
        cells = F.pixel_unshuffle(error.permute(0, 3, 1, 2), BLOCK)
        g = _back(net.project, cells)
        for block, inner_on, hidden_on in reversed(kept):
            g = g + _back(block.expand, _back(block.project, g) * hidden_on)
            g = g + _back(block.pointwise_in, _back(block.depthwise, _back(block.pointwise_out, g)) * inner_on)
        total = _back(net.split, F.pixel_unshuffle(g, 2))
        total = total + _back(net.bypass_split, F.pixel_unshuffle(_back(net.bypass_project, cells), 2))
        return 2 * 255 * total


def check(net: SynthesisGradient, example: tuple[Tensor, ...]) -> None:
    """Raise ExportError unless it is what PyTorch's own differentiation says."""
    y_hat, condition, error = example[0].clone().requires_grad_(True), *example[1:]
    synthesis = net.synthesis
    blocks = synthesis.blocks
    x = synthesis.enter(y_hat, condition)
    for block in blocks:
        x = DepthConvBlock.forward(block, x)  # type: ignore[arg-type]
    detail = synthesis.bypass_project(F.pixel_shuffle(synthesis.bypass_split(y_hat), 2))
    picture = F.pixel_shuffle(synthesis.project(x) + detail, BLOCK) * 255
    (expected,) = torch.autograd.grad(picture, y_hat, 2 * error.permute(0, 3, 1, 2))
    with torch.no_grad():
        found = net(*example)
    wrong = float((found - expected).abs().max() / expected.abs().max())
    if wrong > 1e-4:
        raise ExportError(f"gradient: differs from the derivative by {wrong:g}")


def export_gradient(model: SemicodecModel, model_id: bytes, folder: Path) -> None:
    """Write ``gradient.onnx`` and ``gradient.json`` into a model's folder.

    Raises:
        ExportError: a graph that does not compute the derivative.
    """
    net, config = SynthesisGradient(model.float()).eval(), model.config
    examples = []
    for size in ((6, 10), (1, 1)):
        y_hat = torch.randn(1, config.latent_channels, 3, 5) / 16
        condition = torch.randn(1, config.synthesis_width, *size) / 16
        examples.append((y_hat, condition, torch.randn(1, 48, 80, 3) * 9))
    check(net, examples[0])
    free = {
        "y_hat": {2: "h", 3: "w"},
        "condition": {2: "ch", 3: "cw"},
        "error": {1: "H", 2: "W"},
        "gradient": {2: "h", 3: "w"},
    }
    lambdas = {"lambda_min": config.lambda_min, "lambda_max": config.lambda_max}
    export_companion(
        net, GRADIENT, model_id, folder, examples, ["y_hat", "condition", "error"], ["gradient"], free,
        tolerance=0.1, notes=lambdas,
    )  # fmt: skip


@torch.no_grad()
def check_alike(trained: SemicodecModel, model: bundle.ModelBundle) -> None:
    """Raise ExportError unless the bundle was exported from this checkpoint."""
    y_hat = torch.randn(1, model.latent_channels, 4, 4, generator=torch.manual_seed(0)) * 0.1
    condition = torch.zeros(1, trained.config.synthesis_width, 1, 1)
    there = transforms_for(model, 1).synthesis_of_levels(y_hat.numpy(), condition.numpy())
    here = (trained.synthesis(y_hat, condition)[0].permute(1, 2, 0) * 255 + 127.5).clamp(0, 255).numpy()
    wrong = float(np.abs(there[0] - here).mean())
    if wrong > 1:
        raise ExportError(
            f"gradient: {model.name} was not exported from this checkpoint; pictures differ by {wrong:.1f} levels"
        )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="what the model was exported from")
    parser.add_argument("--model", help="name or id of the exported model; the default one otherwise")
    parser.add_argument("--out", type=Path, help="folder to write to; default: the model's own")
    args = parser.parse_args(arguments)
    with one_line("gradient"):
        model = bundle.find_model(args.model)
        folder, trained = args.out or model.directory, load_model(args.checkpoint)
        check_alike(trained, model)
        export_gradient(trained, model.model_id, folder)
        print(f"{folder}: gradients for {model.name} ({model.model_id.hex()})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
