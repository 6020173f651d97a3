"""A frozen codec as a feature extractor: views of pictures → the latents that files of them hold.

The codec is an installed bundle, run as the runtime runs it: heads learn from what they will read from files, but for
16-bit storage.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from pillow_semicodec import bundle
from pillow_semicodec.layout import Layout, RatePlan
from pillow_semicodec.slices import Decoder, Encoder, analyse

from .heads import SemanticHeads, Task, decoded_pixels_as_latents
from .labels import IGNORE, SEGMENTATION, Item, LabelledSet
from .semisup import Views, cell_labels, confusion, mean_iou
from .views import centre, paired_views, view

QUALITIES = (20, 50, 80)  # that heads learn and are tested at
CLASS_SIDE = 128  # pixels a side of views for classes, unless told otherwise
MAP_SIZE = (256, 192)  # width, height of views for maps

Picture = NDArray[np.uint8]


class Job(NamedTuple):
    """One picture of a set, its views and what to keep of them."""

    item: Item
    labelled_set: LabelledSet
    count: int  # views of each kind; 0 stands for the one test view at every quality
    seed: int
    pixels: bool  # keep decoded pixels, too
    model: str | None
    crop: tuple[int, ...]  # height and width of test pictures with masks
    side: int  # pixels of views for classes


def code(picture: Picture, quality: float, model: str | None, pixels: bool) -> tuple[NDArray[np.float16], Picture | None]:
    """(latents for heads [M, h, w], decoded pixels) of a picture's file at ``quality``."""
    codec_bundle = bundle.find_model(model)
    height, width = picture.shape[:2]
    plan = RatePlan(codec_bundle.rate_bank.rate_of_quality(quality))
    layout = Layout(height, width)
    y = analyse(picture, codec_bundle, layout, 1)
    encoder = Encoder(y, plan, codec_bundle, layout, 1)
    latents = encoder.semantic_latents(keep=True)[0].astype(np.float16)
    if not pixels:
        return latents, None
    return latents, Decoder(encoder.streams(), plan, codec_bundle, layout, 1).picture()


def _run(job: Job) -> tuple[list[NDArray[np.float16]], list[Picture | None], list[Picture | None]]:
    """Latents, decoded pixels and masks of all views: weak ones first, then strong ones."""
    random = np.random.default_rng(job.seed)
    image = job.item.read()
    views: list[tuple[Picture, float, Picture | None]] = []
    if job.labelled_set.kind == SEGMENTATION:
        mask = job.labelled_set.read_mask(job.item)
        if not job.count:
            height, width = job.crop
            views = [(np.asarray(image)[:height, :width], q, mask[:height, :width]) for q in QUALITIES]
        strong_views = []
        for _ in range(job.count):
            quality = float(random.choice(QUALITIES))
            weak, strong, cut = paired_views(image, mask, MAP_SIZE, random)
            views.append((weak, quality, cut))
            strong_views.append((strong, quality, cut))
        views += strong_views
    elif not job.count:
        views = [(centre(image, job.side), q, None) for q in QUALITIES]
    else:
        draw = functools.partial(random.choice, QUALITIES)
        views = [(view(image, job.side, random, "weak"), float(draw()), None) for _ in range(job.count)]
        for _ in range(job.count):
            views.append((view(image, job.side, random, "strong"), float(draw()), None))
    coded = [code(np.ascontiguousarray(p), q, job.model, job.pixels) for p, q, _ in views]
    return [c[0] for c in coded], [c[1] for c in coded], [v[2] for v in views]


def _quiet_worker() -> None:
    torch.set_num_threads(1)


class Extracted(NamedTuple):
    """Training views and test latents of one set; ``pixels`` repeats both for heads on decoded pixels."""

    views: Views
    test: Tensor  # [Q, N, C, h, w], one row for each of QUALITIES
    test_labels: Tensor  # [N] or [N, h, w]
    pixel_views: Views | None
    pixel_test: Tensor | None


def extract(
    labelled_set: LabelledSet,
    count: int,
    seed: int,
    *,
    side: int = CLASS_SIDE,
    pixels: bool = False,
    tests: bool = True,
    model: str | None = None,
    workers: int = 0,
) -> Extracted:
    """Code ``count`` weak and ``count`` strong views of every training picture, and a view of every test picture.

    Raises:
        LabelsError: a picture or mask cannot be read.
    """
    if labelled_set.kind == SEGMENTATION and labelled_set.test:  # test pictures of one size: the least common one
        sizes = [labelled_set.read_mask(item).shape for item in labelled_set.test]
        crop = tuple(min(size[axis] for size in sizes) // 32 * 32 for axis in (0, 1))
    else:
        crop = (0, 0)
    items = [(item, count) for item in labelled_set.train]
    items += [(item, 0) for item in labelled_set.test if tests]
    jobs = [Job(item, labelled_set, n, seed + k, pixels, model, crop, side) for k, (item, n) in enumerate(items)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers or os.cpu_count(), mp_context=context, initializer=_quiet_worker) as pool:
        results = list(tqdm(pool.map(_run, jobs, chunksize=4), total=len(jobs), desc=labelled_set.name, mininterval=5))
    train, test = results[: len(labelled_set.train)], results[len(labelled_set.train) :]
    classes = len(labelled_set.classes)

    def labels_of(rows: list[tuple[Item, list[Picture | None]]], kept: int) -> Tensor:
        if labelled_set.kind != SEGMENTATION:
            return torch.tensor([item.label for item, _ in rows])
        masks = np.stack([np.stack(masks[:kept]) for _, masks in rows])  # type: ignore[arg-type]
        flat = torch.from_numpy(masks.reshape(-1, *masks.shape[2:])).long()
        return cell_labels(flat, classes).view(len(rows), kept, flat.shape[1] // 16, -1)

    def stacked(rows: list[list[NDArray[np.float16]]]) -> Tensor:
        return torch.from_numpy(np.stack([np.stack(row) for row in rows]))

    def as_latents(rows: list[list[Picture | None]]) -> Tensor:
        pictures = torch.from_numpy(np.stack([np.stack(row) for row in rows])).permute(0, 1, 4, 2, 3)  # type: ignore[arg-type]
        return torch.stack([decoded_pixels_as_latents(row).half() for row in pictures])

    labels = labels_of([(i, r[2]) for i, r in zip(labelled_set.train, train, strict=True)], count)
    pairs = [(i, r[2]) for i, r in zip(labelled_set.test, test, strict=bool(test))]
    test_labels = labels_of(pairs, 1) if test else torch.empty(0)
    test_labels = test_labels[:, 0] if test_labels.ndim > 1 else test_labels

    def halves(both: Tensor) -> Views:
        return Views(both[:, :count], both[:, count:], labels)

    return Extracted(
        halves(stacked([r[0] for r in train])),
        stacked([r[0] for r in test]).transpose(0, 1) if test else torch.empty(0),
        test_labels,
        halves(as_latents([r[1] for r in train])) if pixels else None,
        as_latents([r[1] for r in test]).transpose(0, 1) if pixels and test else None,
    )


@torch.no_grad()
def score_files(heads: SemanticHeads, task: Task, labelled_set: LabelledSet, quality: float, model: str | None) -> Tensor:
    """Confusion matrix [K, K] of whole test pictures as files of ``quality``, read as ``analyze`` reads them."""
    heads = heads.eval()
    matrix = torch.zeros(len(task.classes), len(task.classes), dtype=torch.long)
    for item in labelled_set.test:
        latents = torch.from_numpy(code(np.asarray(item.read()), quality, model, False)[0])[None].float()
        h, w = latents.shape[2:]
        logits = heads(F.pad(latents, (0, w % 2, 0, h % 2), mode="replicate")).logits[task.name]
        if task.kind == SEGMENTATION:
            mask = torch.from_numpy(labelled_set.read_mask(item).astype(np.int64))[None]
            mask = F.pad(mask, (0, -mask.shape[2] % 16, 0, -mask.shape[1] % 16), value=IGNORE)
            matrix += confusion(logits[:, :, :h, :w], cell_labels(mask, len(task.classes)), len(task.classes))
        else:
            matrix += confusion(logits, torch.tensor([item.label]), len(task.classes))
    return matrix


def score(task: Task, matrix: Tensor) -> str:
    """Accuracy or mean IoU of a confusion matrix, in words."""
    if task.kind == SEGMENTATION:
        return f"mean IoU {mean_iou(matrix):.3f}"
    return f"accuracy {matrix.diag().sum().item() / max(1, matrix.sum().item()):.3f}"
