"""The networks in the form the runtime runs: pixels in and out, integer layers with integer-valued weights."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .eight_bit_graph import no_fraction, write_analysis, write_synthesis
from .entropy_models import RESIDUAL_CLIP, RESIDUAL_STEP, SCALE_COUNT, Z_CLIP, Z_STEP, ScaleContext, ScaleHyperSynthesis
from .layers import ACTIVATION_MAX, ACTIVATION_SCALE, INDEX_SCALE, WEIGHT_BITS, IntegerConv2d
from .model import SemicodecModel
from .transforms import BLOCK, BLOCK_CHANNELS, INTERLEAVED


class AnalysisGraph(nn.Module):
    """pixels uint8 [1, H, W, 3] → y float32 [1, M, H/16, W/16]; H and W multiples of 16.

    ``fraction`` float32 is added to the pixels of pictures of more than 8 bits: cells of 8x8 pixels in raster order,
    [HW/64, 192], each in the order (row, column, colour). ONNX Runtime takes none for 0.
    """

    inputs, outputs = ("pixels", "fraction"), ("y",)

    def __init__(self, model: SemicodecModel) -> None:
        super().__init__()
        self.analysis = model.analysis
        weight = model.analysis.embed.weight[:, :, 0, 0].detach()
        bias = model.analysis.embed.bias.detach() - 0.5 * weight.sum(1)  # type: ignore[union-attr]
        self.register_buffer("weight", weight[:, INTERLEAVED, None, None] / 255)
        self.register_buffer("bias", bias)

    def forward(self, pixels: Tensor, fraction: Tensor) -> Tensor:
        rows, columns = pixels.shape[1] // BLOCK, pixels.shape[2] // BLOCK
        cells = pixels.reshape(1, rows, BLOCK, columns, 3 * BLOCK).permute(0, 1, 3, 2, 4)  # bytes in runs: fast to move
        x = cells.reshape(-1, BLOCK_CHANNELS).float() + fraction
        x = x.reshape(1, rows, columns, BLOCK_CHANNELS).permute(0, 3, 1, 2)
        return self.analysis.after_embedding(F.conv2d(x, self.weight, self.bias))


class SynthesisGraph(nn.Module):
    """y_hat float32 [1, M, h, w], condition float32 [1, C, 1, 1] → pixels uint8 [1, 16h, 16w, 3], and what they are before
    they are rounded, plus a half: samples float32 [4hw, 192], in cells like the analysis' ``fraction``.

    With regions the condition is [1, C, 2h, 2w], one for every position at 1/8 scale.
    """

    inputs, outputs = ("y_hat", "condition"), ("pixels", "samples")

    def __init__(self, model: SemicodecModel) -> None:
        super().__init__()
        self.synthesis = model.synthesis
        self.register_buffer("order", torch.from_numpy(INTERLEAVED))

    def forward(self, y_hat: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        x = self.synthesis(y_hat, condition) * 255 + 128  # half a level more than 127.5: the cast truncates
        pixels = x.clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
        cells = F.pixel_unshuffle(x, BLOCK).permute(0, 2, 3, 1)
        return pixels, cells[..., self.order].reshape(-1, BLOCK_CHANNELS)


class HyperAnalysisGraph(nn.Module):
    """y in quantisation steps float32 [1, M, h, w] → z float32 [1, Z, h/4, w/4]; h and w multiples of 4."""

    inputs, outputs = ("y",), ("z",)

    def __init__(self, model: SemicodecModel) -> None:
        super().__init__()
        self.hyper_analysis = model.hyper_analysis

    def forward(self, y: Tensor) -> Tensor:
        return self.hyper_analysis(y)


class MeanGraph(nn.Module):
    """z_hat, condition [1, C, 1, 1] or [1, C, h, w] → features and the means of step 1."""

    inputs, outputs = ("z_hat", "condition"), ("features", "mean")

    def __init__(self, model: SemicodecModel) -> None:
        super().__init__()
        self.hyper_synthesis = model.hyper_synthesis

    def forward(self, z_hat: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        return self.hyper_synthesis(z_hat, condition)


class MeanContextGraph(nn.Module):
    """features, y_hat_step1 → correction of the means for step 2."""

    inputs, outputs = ("features", "y_hat_step1"), ("correction",)

    def __init__(self, model: SemicodecModel) -> None:
        super().__init__()
        self.mean_context = model.mean_context

    def forward(self, features: Tensor, y_hat_step1: Tensor) -> Tensor:
        return self.mean_context(features, y_hat_step1)


class IntegerConv(nn.Module):
    """An IntegerConv2d with its integers spelt out: activations, weights and sums are integers held in float32.

    Args:
        out_scale: steps per unit at the output, a power of two.
    """

    def __init__(self, layer: IntegerConv2d, out_scale: int) -> None:
        super().__init__()
        shift = WEIGHT_BITS + int(math.log2(ACTIVATION_SCALE)) - int(math.log2(out_scale))
        self.factor = 2.0**-shift
        self.groups, self.padding = layer.groups, layer.kernel_size // 2
        self.register_buffer("weight", layer.integer_weight().detach())
        # Half a step more turns the floor of the requantisation into rounding half up; it is an integer too.
        self.register_buffer("bias", layer.integer_bias().detach() + 2.0 ** (shift - 1))

    def largest_sum(self, largest_input: int) -> int:
        """Bound on the magnitude of every partial sum, over all orders of summation."""
        weight, bias = self.weight.double().abs(), self.bias.double().abs()
        return int((weight.sum((1, 2, 3)) * largest_input + bias).max())

    def sum(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, padding=self.padding, groups=self.groups)

    def forward(self, x: Tensor) -> Tensor:
        return torch.clamp(torch.floor(self.sum(x) * self.factor), 0, ACTIVATION_MAX)


class ScaleGraph(nn.Module):
    """z_hat [1, Z, h/4, w/4] → features [1, C, h, w] (integers in float32) and indexes of step 1 uint8 [1, M, h, w]."""

    inputs, outputs = ("z_hat",), ("features", "indexes")

    def __init__(self, model: SemicodecModel) -> None:
        super().__init__()
        net: ScaleHyperSynthesis = model.scale_hyper_synthesis
        hidden = (net.mix, net.spread, net.expand, net.smooth, net.features)
        self.mix, self.spread, self.expand, self.smooth, self.last = (IntegerConv(c, ACTIVATION_SCALE) for c in hidden)
        self.index = IntegerConv(net.index, INDEX_SCALE)

    def integer_layers(self) -> list[tuple[str, int]]:
        layers = {name: child for name, child in self.named_children() if isinstance(child, IntegerConv)}
        return [(name, layer.largest_sum(ACTIVATION_MAX)) for name, layer in layers.items()]

    def forward(self, z_hat: Tensor) -> tuple[Tensor, Tensor]:
        h = self.spread(self.mix(z_hat.clamp(-Z_CLIP, Z_CLIP) * Z_STEP))
        features = self.last(self.smooth(F.pixel_shuffle(self.expand(h), 4)))
        return features, self.index(features).clamp_max(SCALE_COUNT - 1).to(torch.uint8)


class ScaleContextGraph(nn.Module):
    """features, residual_step1 → indexes of step 2 uint8 [1, M, h, w]."""

    inputs, outputs = ("features", "residual_step1"), ("indexes",)

    def __init__(self, model: SemicodecModel) -> None:
        super().__init__()
        net: ScaleContext = model.scale_context
        self.squeeze = IntegerConv(net.squeeze, ACTIVATION_SCALE)
        self.spread = IntegerConv(net.spread, ACTIVATION_SCALE)
        self.own = IntegerConv(net.own, INDEX_SCALE)
        self.index = IntegerConv(net.index, INDEX_SCALE)
        self.own.bias -= 1 / self.own.factor / 2  # the half step is in ``index`` already

    def integer_layers(self) -> list[tuple[str, int]]:
        sums = [(name, getattr(self, name).largest_sum(ACTIVATION_MAX)) for name in ("squeeze", "spread")]
        both = self.own.largest_sum(ACTIVATION_MAX) + self.index.largest_sum(ACTIVATION_MAX)
        return [*sums, ("own + index", both)]

    def forward(self, features: Tensor, residual_step1: Tensor) -> Tensor:
        magnitude = residual_step1.abs().clamp_max(RESIDUAL_CLIP) * RESIDUAL_STEP
        h = self.spread(self.squeeze(magnitude))
        total = self.index.sum(torch.cat([features, h], 1)) + self.own.sum(magnitude)
        return torch.clamp(torch.floor(total * self.index.factor), 0, SCALE_COUNT - 1).to(torch.uint8)


GRAPHS = {
    "analysis": AnalysisGraph,
    "hyper_analysis": HyperAnalysisGraph,
    "hyper_synthesis": MeanGraph,
    "mean_context": MeanContextGraph,
    "scale_hyper_synthesis": ScaleGraph,
    "scale_context": ScaleContextGraph,
    "synthesis": SynthesisGraph,
}


def example_inputs(name: str, model: SemicodecModel, height: int, width: int) -> tuple[Tensor, ...]:
    """Inputs of graph ``name`` for a picture of height x width, multiples of 64."""
    c = model.config
    latent, hyper = (height // 16, width // 16), (height // 64, width // 64)
    y = torch.randn(1, c.latent_channels, *latent) * 4
    z_hat = torch.round(torch.randn(1, c.hyper_channels, *hyper) * 3)
    return {
        "analysis": (
            torch.randint(0, 256, (1, height, width, 3), dtype=torch.uint8),
            torch.rand(height * width // BLOCK**2, BLOCK_CHANNELS) - 0.5,
        ),
        "hyper_analysis": (y,),
        "hyper_synthesis": (z_hat, torch.randn(1, c.context_width, 1, 1)),
        "mean_context": (torch.randn(1, c.context_width, *latent), y),
        "scale_hyper_synthesis": (z_hat,),
        "scale_context": (torch.randint(0, 256, (1, c.scale_width, *latent)).float(), torch.round(y)),
        "synthesis": (y / 16, torch.randn(1, c.synthesis_width, 1, 1) / 16),
    }[name]


def export_graph(name: str, model: SemicodecModel, path: Path) -> nn.Module:
    """Write graph ``name`` as ONNX with free height and width; returns the torch module that was exported."""
    graph = GRAPHS[name](model).eval()
    if model.config.eight_bit and name in ("analysis", "synthesis"):
        (write_analysis if name == "analysis" else write_synthesis)(getattr(model, name), path)
        return graph
    arguments = example_inputs(name, model, 128, 192)
    axes = {"pixels": (1, 2), "fraction": (0, 1), "samples": (0,)}
    values = (*graph.inputs, *graph.outputs)
    free = {value: {axis: f"{value}_{axis}" for axis in axes.get(value, (2, 3))} for value in values}
    with warnings.catch_warnings():
        # The TorchScript exporter is deprecated but writes plain operators without a further package; parity with
        # PyTorch is checked on every graph it writes.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            graph, arguments, path, input_names=list(graph.inputs), output_names=list(graph.outputs),
            dynamic_axes=free, opset_version=17, dynamo=False,
        )  # fmt: skip
    if "fraction" in graph.inputs:
        written = onnx.load(path)
        written.graph.initializer.append(no_fraction())
        onnx.save(written, path)
    return graph
