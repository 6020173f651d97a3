"""Latents through semantic heads: what a picture shows."""

from __future__ import annotations

import dataclasses

import numpy as np

from . import pixels
from .errors import BundleError
from .head_bundle import SEGMENTATION, HeadBundle
from .inference import Tensor, heads_for
from .semantics import Label, SegmentationMap, Semantics

HEADS_STRIDE = 2  # heads work on even numbers of latents


def run_heads(latents: Tensor, chosen: list[HeadBundle], threads: int) -> Semantics:
    """Latents [1, M, h, w] through heads, one after the other; the embedding is that of the first that has one."""
    height, width = latents.shape[2:]
    padded = np.ascontiguousarray(pixels.pad_to_multiple(latents, HEADS_STRIDE, (2, 3)))
    result = Semantics()
    for heads in chosen:
        outputs = heads_for(heads, threads).run(padded)
        labels, maps = [], []
        for task in heads.tasks:
            if task.name not in outputs:
                raise BundleError(f"{heads.directory}: the graph has no output {task.name}")
            values = outputs[task.name][0]
            largest = values.max(initial=0) if task.kind == SEGMENTATION else len(values) - 1
            if largest >= len(task.classes) or (task.kind != SEGMENTATION and len(values) != len(task.classes)):
                raise BundleError(f"{heads.directory}: output {task.name} does not fit its {len(task.classes)} classes")
            if task.kind == SEGMENTATION:
                cells = np.ascontiguousarray(values[:height, :width], np.uint8)
                maps.append(SegmentationMap(task.name, task.classes, width, height, cells.tobytes()))
            else:
                labels += [Label(task.name, task.classes[k], float(values[k])) for k in np.argsort(-values, kind="stable")]
        embedding = tuple(outputs["embedding"][0].tolist()) if heads.embedding and "embedding" in outputs else ()
        result = dataclasses.replace(
            result,
            heads=(*result.heads, heads.name),
            labels=result.labels + tuple(labels),
            maps=result.maps + tuple(maps),
            embedding=result.embedding or embedding,
            space=result.space or (heads.head_id.hex() if embedding else ""),
        )
    return result
