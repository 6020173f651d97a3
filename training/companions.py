"""Write networks that lie beside a model: a graph with weights of 16 bits, checked against PyTorch, and its description."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from pillow_semicodec.companions import COMPANION_VERSION
from pillow_semicodec.inference import runtime

from .commands import ExportError

LEAST_HALVED = 1024  # numbers of a weight from which on it is stored in 16 bits
HALVED = "_16"  # ends the names of such weights


def halve_weights(path: Path) -> None:
    """Store the weights of a graph in 16 bits; they are brought back to 32 when the graph is loaded."""
    model = onnx.load(path)
    graph, casts = model.graph, []
    for index, weight in enumerate(graph.initializer):
        if weight.data_type == TensorProto.FLOAT and np.prod(weight.dims) >= LEAST_HALVED:
            small = numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float16), weight.name + HALVED)
            casts.append(helper.make_node("Cast", [small.name], [weight.name], to=TensorProto.FLOAT))
            graph.initializer[index].CopyFrom(small)
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.save(model, path)


def start_from(net: nn.Module, path: Path) -> None:
    """Give a network the weights of a graph that `export_companion` wrote of one like it.

    Raises:
        OSError: the file cannot be read.
        ValueError: no ONNX graph, or one of a network of another shape.
    """
    try:
        graph = onnx.load(path).graph
    except DecodeError as error:
        raise ValueError(f"{path}: not an ONNX graph ({error})") from error
    stored = {w.name.removesuffix(HALVED): numpy_helper.to_array(w).astype(np.float32) for w in graph.initializer}
    try:
        net.load_state_dict({name: torch.from_numpy(weight) for name, weight in stored.items()})
    except RuntimeError as error:
        raise ValueError(f"{path}: not the weights of this network: {error}") from error


def export_companion(
    net: nn.Module,
    name: str,
    model_id: bytes,
    folder: Path,
    examples: list[tuple[Tensor, ...]],
    inputs: list[str],
    outputs: list[str],
    free: dict[str, dict[int, str]],
    tolerance: float,
    notes: dict[str, Any] | None = None,
) -> None:
    """Write ``NAME.onnx`` and ``NAME.json`` into a folder.

    Args:
        examples: inputs to compare with PyTorch on; the first ones trace the graph.
        tolerance: largest difference, relative to the largest value where that is above 1.

    Raises:
        ExportError: ONNX Runtime computes something else than PyTorch.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        made = Path(temporary) / f"{name}.onnx"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                net.eval(), examples[0], made, input_names=inputs, output_names=outputs, dynamic_axes=free,
                opset_version=17, dynamo=False,
            )  # fmt: skip
        halve_weights(made)
        session = runtime().InferenceSession(made.read_bytes(), providers=["CPUExecutionProvider"])
        for example in examples:
            got = session.run(outputs, dict(zip(inputs, (value.numpy() for value in example), strict=True)))
            with torch.no_grad():
                wanted = net(*example)
                wanted = wanted if isinstance(wanted, tuple) else (wanted,)
            for output, a, b in zip(outputs, wanted, got, strict=True):
                wrong = float(np.abs(a.numpy() - b).max()) / max(1.0, float(a.abs().max()))
                if a.shape != b.shape or wrong > tolerance:
                    raise ExportError(f"{name}: {output} differs from PyTorch by {wrong:g}")
        sha256 = hashlib.sha256(made.read_bytes()).hexdigest()
        content = {"companion_version": COMPANION_VERSION, "model_id": model_id.hex(), "sha256": sha256, **(notes or {})}
        (Path(temporary) / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
        for suffix in (".onnx", ".json"):
            os.replace(Path(temporary) / (name + suffix), folder / (name + suffix))
