"""Analysis and synthesis with 8-bit blocks as ONNX graphs: channels last, quantised operands for every runtime to fuse.

What a convolution reads stands as QuantizeLinear and DequantizeLinear around it, in standard operators, so that any provider
may run it on bytes or, knowing nothing of bytes, in float. The residual path is kept in units of its steps, which are folded
into the weights around it, so that one scale serves all its channels. Pixels are moved as bytes, in runs of 24: one row of 8
pixels each.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from .eight_bit import (
    BIAS_LEVELS,
    CENTRE,
    FINER,
    WEIGHT_LEVELS,
    EightBitBlock,
    EightBitBlocks,
    nearest,
    weight_steps,
    with_remainders,
)
from .transforms import BLOCK, INTERLEAVED, AnalysisTransform, SynthesisTransform

OPSET = 17
GREY = 255.0
HALF = 128.0  # half a level more than 127.5: the cast truncates

Array = NDArray[np.float32]


class _Graph:
    """Nodes and constants, named as they come."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, value: NDArray[np.generic] | np.generic) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def integers(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def add(self, kind: str, *inputs: str, **attributes: object) -> str:
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name, **attributes))
        return name

    def to_bytes(self, x: str, step: float, signed: bool, fine: int = 0) -> str:
        """Args: fine: of so many channels of x [P, C], the first ones, the remainders follow: [P, C + fine]."""
        scale, zero = self.constant(np.float32(step)), self.constant(np.uint8(CENTRE if signed else 0))
        levels = self.add("QuantizeLinear", x, scale, zero)
        if fine:
            first = self.add("Slice", x, self.integers(0), self.integers(fine), self.integers(1))
            rest = self.add("Sub", first, self.to_bytes(first, step, signed))
            remainders = self.add("QuantizeLinear", rest, self.constant(np.float32(step / FINER)), zero)
            levels = self.add("Concat", levels, remainders, axis=1)
        return self.add("DequantizeLinear", levels, scale, zero)

    def weight(self, weight: torch.Tensor, bias: torch.Tensor, step: float, transposed: bool = False) -> tuple[str, str]:
        """(weights of 7 bits, bias of 32), for an input in steps of ``step``. Transposed: [in, out], for Gemm."""
        steps = weight_steps(weight)
        levels = nearest(weight / steps).clamp(-WEIGHT_LEVELS, WEIGHT_LEVELS).to(torch.int8).numpy()
        scales = steps.flatten().numpy()
        integers = levels[:, :, 0, 0].T.copy() if transposed else levels
        axis, zeros = int(transposed), np.zeros(len(scales), np.int8)
        inputs = (self.constant(integers), self.constant(scales), self.constant(zeros))
        whole = np.rint(bias.double().numpy() / (scales.astype(np.float64) * step)).clip(-BIAS_LEVELS, BIAS_LEVELS)
        offsets = (
            self.constant(whole.astype(np.int32)),
            self.constant(np.float32(step) * scales),
            self.constant(np.zeros(len(scales), np.int32)),
        )
        return self.add("DequantizeLinear", *inputs, axis=axis), self.add("DequantizeLinear", *offsets, axis=0)


@torch.no_grad()
def write_analysis(analysis: AnalysisTransform, path: Path) -> None:
    """Inputs and outputs are those of ``graphs.AnalysisGraph``."""
    blocks, latent_blocks = analysis.blocks, analysis.latent_blocks
    if not isinstance(blocks, EightBitBlocks) or not isinstance(latent_blocks, EightBitBlocks):
        raise ValueError("the blocks are not of 8 bits")
    g = _Graph()
    step, latent_step = blocks.log_stream_step.exp().flatten(), latent_blocks.log_stream_step.exp().flatten()
    if not len(latent_blocks):
        latent_step = torch.ones(analysis.merge.out_channels)
    picture_size = g.add("Slice", g.add("Shape", "pixels"), g.integers(1), g.integers(3))
    size = g.add("Div", picture_size, g.integers(BLOCK, BLOCK))  # at 1/8 scale
    latent_size = g.add("Div", size, g.integers(2, 2))

    # ---- pixels into the residual path ----
    height, width = (g.add("Slice", size, g.integers(k), g.integers(k + 1)) for k in range(2))
    cells = g.add("Reshape", "pixels", g.add("Concat", height, g.integers(BLOCK), width, g.integers(3 * BLOCK), axis=0))
    runs = g.add("Reshape", g.add("Transpose", cells, perm=[0, 2, 1, 3]), g.integers(-1, 3 * BLOCK**2))
    weight = analysis.embed.weight[:, :, 0, 0]
    bias = (analysis.embed.bias - 0.5 * weight.sum(1)) / step  # type: ignore[operator]
    weight = weight[:, INTERLEAVED] / (GREY * step[:, None])
    levels = g.add("Add", g.add("Cast", runs, to=TensorProto.FLOAT), "fraction")
    x = g.add("Gemm", levels, g.constant(_numpy(weight.T)), g.constant(_numpy(bias)))
    x = _blocks(g, x, blocks, size)

    # ---- four positions into one, and the blocks at the latents' scale ----
    height, width = (g.add("Slice", latent_size, g.integers(k), g.integers(k + 1)) for k in range(2))
    pairs = g.add("Concat", height, g.integers(2), width, g.integers(2 * len(step)), axis=0)
    fours = g.add("Transpose", g.add("Reshape", x, pairs), perm=[0, 2, 1, 3])
    merge = (analysis.merge.weight * step[:, None, None]).permute(2, 3, 1, 0).reshape(4 * len(step), -1)  # (row, column, C)
    operands = (g.constant(_numpy(merge / latent_step)), g.constant(_numpy(analysis.merge.bias / latent_step)))  # type: ignore[operator]
    y = g.add("Gemm", g.add("Reshape", fours, g.integers(-1, 4 * len(step))), *operands)
    y = g.add("Mul", _blocks(g, y, latent_blocks, latent_size), g.constant(_numpy(latent_step)))
    image = g.add("Reshape", y, g.add("Concat", g.integers(1), latent_size, g.integers(len(latent_step)), axis=0))
    g.nodes.append(helper.make_node("Transpose", [image], ["y"], "y", perm=[0, 3, 1, 2]))
    inputs = [_value("pixels", TensorProto.UINT8, 1, "height", "width", 3)]
    inputs.append(_value("fraction", TensorProto.FLOAT, "runs", "n"))
    g.constants.append(no_fraction())
    _save(g, "analysis", inputs, [_value("y", TensorProto.FLOAT, 1, len(latent_step), "h", "w")], path)


@torch.no_grad()
def write_synthesis(synthesis: SynthesisTransform, path: Path) -> None:
    """Inputs and outputs are those of ``graphs.SynthesisGraph``.

    Raises:
        ValueError: parts that this graph has no form for.
    """
    blocks = synthesis.blocks
    if synthesis.latent_width or not isinstance(blocks, EightBitBlocks):
        raise ValueError("an 8-bit synthesis has 8-bit blocks, and none at the latents' scale")
    g = _Graph()
    step = blocks.log_stream_step.exp().flatten()
    latent_size = g.add("Slice", g.add("Shape", "y_hat"), g.integers(2), g.integers(4))  # h, w
    size = g.add("Mul", latent_size, g.integers(2, 2))
    y = g.add("Reshape", g.add("Transpose", "y_hat", perm=[0, 2, 3, 1]), g.integers(-1, synthesis.split.in_channels))

    # ---- into the residual path, in units of its steps ----
    condition = g.add("Mul", g.add("Transpose", "condition", perm=[0, 2, 3, 1]), g.constant((1 / step).numpy()))
    entered = g.add("Add", _spread(g, y, synthesis.split, 1 / step, latent_size, size), condition)
    x = g.add("Reshape", entered, g.integers(-1, len(step)))
    x = _blocks(g, x, blocks, size)

    # ---- out of it, with the bypass, to pixels ----
    channels = synthesis.bypass_split.out_channels // 4
    detail = g.add(
        "Reshape",
        _spread(g, y, synthesis.bypass_split, torch.ones(channels), latent_size, size),
        g.integers(-1, channels),
    )
    bias = (synthesis.project.bias + synthesis.bypass_project.bias) * GREY + HALF  # type: ignore[operator]
    project = (synthesis.project.weight[:, :, 0, 0] * step * GREY)[INTERLEAVED].T
    around = (synthesis.bypass_project.weight[:, :, 0, 0] * GREY)[INTERLEAVED].T
    summed = g.add("Gemm", x, g.constant(_numpy(project)), g.constant(_numpy(bias[INTERLEAVED])))
    g.nodes.append(helper.make_node("Gemm", [detail, g.constant(_numpy(around)), summed], ["samples"], "samples"))
    grey = g.add("Clip", "samples", g.constant(np.float32(0)), g.constant(np.float32(GREY)))
    levels = g.add("Cast", grey, to=TensorProto.UINT8)
    cells = g.add("Reshape", levels, g.add("Concat", size, g.integers(BLOCK, 3 * BLOCK), axis=0))
    rows = g.add("Transpose", cells, perm=[0, 2, 1, 3])  # [2h, 8, 2w, 24]
    shape = g.add("Concat", g.integers(1), g.add("Mul", size, g.integers(BLOCK, BLOCK)), g.integers(3), axis=0)
    g.nodes.append(helper.make_node("Reshape", [rows, shape], ["pixels"], "pixels"))
    inputs = [
        _value("y_hat", TensorProto.FLOAT, 1, synthesis.split.in_channels, "h", "w"),
        _value("condition", TensorProto.FLOAT, 1, len(step), "condition_h", "condition_w"),
    ]
    outputs = [_value("pixels", TensorProto.UINT8, 1, "height", "width", 3)]
    outputs.append(_value("samples", TensorProto.FLOAT, "runs", 3 * BLOCK**2))
    _save(g, "synthesis", inputs, outputs, path)


def no_fraction() -> onnx.TensorProto:
    """What the input of this name is where none is given."""
    return numpy_helper.from_array(np.zeros((1, 1), np.float32), "fraction")


def _numpy(values: torch.Tensor) -> Array:
    array: Array = np.ascontiguousarray(values.detach().float().numpy())
    return array


def _spread(g: _Graph, y: str, conv: nn.Conv2d, scale: torch.Tensor, latent_size: str, size: str) -> str:
    """PixelShuffle(2) of a pointwise convolution of y [hw, M] → [1, 2h, 2w, C], its channels times ``scale`` [C]."""
    channels = len(scale)

    def ordered(values: torch.Tensor) -> torch.Tensor:  # (channel, row, column) → (row, column, channel)
        scaled = values.reshape(channels, 4, -1) * scale[:, None, None]
        return scaled.transpose(0, 1).reshape(4 * channels, -1)

    weight, bias = ordered(conv.weight[:, :, 0, 0]), ordered(conv.bias[:, None])  # type: ignore[index]
    rows = g.add("Gemm", y, g.constant(_numpy(weight.T)), g.constant(_numpy(bias[:, 0])))
    cells = g.add("Reshape", rows, g.add("Concat", latent_size, g.integers(2, 2 * channels), axis=0))
    shape = g.add("Concat", g.integers(1), size, g.integers(channels), axis=0)
    return g.add("Reshape", g.add("Transpose", cells, perm=[0, 2, 1, 3]), shape)


def _blocks(g: _Graph, x: str, blocks: EightBitBlocks, size: str) -> str:
    """x [P, C] in steps of the residual path, of a picture of ``size`` → the same."""
    for block in blocks:
        assert isinstance(block, EightBitBlock)
        x = _block(g, x, block, blocks.log_stream_step.exp(), size)
    return x


def _block(g: _Graph, x: str, block: EightBitBlock, stream_step: torch.Tensor, size: str) -> str:
    inner_step, middle_step, hidden_step, in_ratio, expand_ratio = (float(s) for s in block.log_steps.exp())
    unit = stream_step.flatten()

    def read(x: str, ratio: float, conv: nn.Conv2d, step: float, fine: int = 0) -> str:
        image_shape = g.add("Concat", g.integers(1), size, g.integers(conv.in_channels + fine), axis=0)
        image = g.add("Reshape", g.to_bytes(x, ratio, True, fine), image_shape)
        weight, bias = g.weight(with_remainders(conv.weight * stream_step, fine), conv.bias, ratio)  # type: ignore[arg-type]
        result = g.add("Conv", g.add("Transpose", image, perm=[0, 3, 1, 2]), weight, bias)
        return g.to_bytes(g.add("Relu", result), step, False)

    def write(x: str, values: str, conv: nn.Conv2d, step: float) -> str:
        rows = g.add("Reshape", g.add("Transpose", values, perm=[0, 2, 3, 1]), g.integers(-1, conv.in_channels))
        weight, bias = g.weight(conv.weight, conv.bias, step, transposed=True)  # type: ignore[arg-type]
        return g.add("Add", x, g.add("Gemm", rows, weight, bias))

    inner = read(x, in_ratio, block.pointwise_in, inner_step, block.fine)
    weight, bias = g.weight(block.depthwise.weight, block.depthwise.bias, inner_step)  # type: ignore[arg-type]
    middle = g.add("Conv", inner, weight, bias, group=block.depthwise.groups, pads=[1, 1, 1, 1])
    x = write(x, g.to_bytes(middle, middle_step, True), _in_units(block.pointwise_out, unit), middle_step)
    return write(x, read(x, expand_ratio, block.expand, hidden_step), _in_units(block.project, unit), hidden_step)


def _in_units(conv: nn.Conv2d, unit: torch.Tensor) -> nn.Conv2d:
    """The convolution with its output in steps of the residual path; every output channel has weights of its own step."""
    scaled = nn.Conv2d(conv.in_channels, conv.out_channels, 1)
    scaled.weight.copy_(conv.weight / unit[:, None, None, None])
    scaled.bias.copy_(conv.bias / unit)  # type: ignore[union-attr, operator]
    return scaled


def _value(name: str, kind: int, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(shape))


def _save(g: _Graph, name: str, inputs: list[Any], outputs: list[Any], path: Path) -> None:
    graph = helper.make_graph(g.nodes, name, inputs, outputs, g.constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
