"""Write a head bundle: ``heads.onnx`` and ``heads.json``, checked against PyTorch."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pillow_semicodec.head_bundle import DESCRIPTION, GRAPH, HEADS_VERSION
from pillow_semicodec.inference import runtime

from .commands import ExportError
from .heads import SemanticHeads
from .labels import SEGMENTATION


class HeadsGraph(nn.Module):
    """latents float32 [1, M, h, w], h and w even → a probability for every class, maps of classes, the embedding."""

    def __init__(self, heads: SemanticHeads) -> None:
        super().__init__()
        self.heads = heads
        self.outputs = (*(task.name for task in heads.tasks), "embedding")

    def forward(self, latents: Tensor) -> tuple[Tensor, ...]:
        output = self.heads(latents)
        results = []
        for task in self.heads.tasks:
            logits = output.logits[task.name]
            if task.kind == SEGMENTATION:
                results.append(logits.argmax(1).to(torch.uint8))
            else:
                results.append((logits / task.temperature).softmax(1))
        return (*results, output.embedding)


def export_heads(heads: SemanticHeads, name: str, model_id: bytes, folder: Path) -> Path:
    """Write ``folder`` anew and return it; on a failed export what was there before stays, and a crash between its two parts
    leaves heads that are refused by their hash.

    Args:
        model_id: of the codec whose latents the heads read.

    Raises:
        ExportError: ONNX Runtime computes something else than PyTorch.
    """
    graph = HeadsGraph(heads.eval()).eval()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        made = Path(temporary) / "heads"
        made.mkdir()
        sample = torch.randn(1, heads.in_channels, 8, 12) * heads.spread + heads.mean
        free = {"latents": {2: "height", 3: "width"}}
        for task in heads.tasks:
            if task.kind == SEGMENTATION:
                free[task.name] = {1: "height", 2: "width"}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                graph, (sample,), made / GRAPH, input_names=["latents"], output_names=list(graph.outputs),
                dynamic_axes=free, opset_version=17, dynamo=False,
            )  # fmt: skip
        _check(graph, made / GRAPH, heads)
        content = {
            "heads_version": HEADS_VERSION,
            "name": name,
            "model_id": model_id.hex(),
            "embedding": heads.config.embedding,
            "tasks": [
                {"name": t.name, "kind": t.kind, "classes": t.classes, "foreground": t.foreground} for t in heads.tasks
            ],
            "calibration": {t.name: t.temperature for t in heads.tasks},
            "sha256": hashlib.sha256((made / GRAPH).read_bytes()).hexdigest(),
        }
        (made / DESCRIPTION).write_text(json.dumps(content, indent=1) + "\n", newline="\n")
        folder.mkdir(exist_ok=True)
        for part in (GRAPH, DESCRIPTION):  # a model's folder may hold more; it keeps the rest
            os.replace(made / part, folder / part)
    return folder


@torch.no_grad()
def _check(graph: HeadsGraph, path: Path, heads: SemanticHeads) -> None:
    session = runtime().InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    for height, width in ((2, 2), (8, 6)):
        latents = torch.randn(1, heads.in_channels, height, width) * heads.spread + heads.mean
        got = session.run(None, {"latents": latents.numpy()})
        for name, a, b in zip(graph.outputs, graph(latents), got, strict=True):
            wrong = np.abs(a.numpy().astype(np.float64) - b)
            # A tie between two classes may fall either way in single cells.
            bad = (wrong > 0).mean() > 0.1 if a.dtype == torch.uint8 else wrong.max() > 1e-3
            if a.shape != b.shape or bad:
                raise ExportError(f"heads: {name} differs from PyTorch by {wrong.max():g}")
