"""Train the heads of a finished model: ``python -m training.finish_heads --labels CSV … --model ID --out FOLDER``.

On the frozen codec: the trunk learns from all pictures without labels, then all tasks in turn, semi-supervised. Writes a
head bundle into the model's folder, a checkpoint that ``training.transfer`` starts from, a confusion matrix for every
classification task and overlays for every segmentation task.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import torch

from pillow_semicodec import bundle

from .config import SemiConfig
from .export_heads import export_heads
from .frozen import QUALITIES, Extracted, extract
from .heads import SemanticHeads, Task
from .joint import task_of
from .labels import SEGMENTATION, LabelledSet, read_labels
from .plots import plot_confusion, plot_overlays
from .semantics import fresh_heads
from .semisup import TaskData, accuracy, confusion, fit_temperature, hold_out, mean_iou, predict, pretrain, train_heads
from .train import save_checkpoint

VIEWS = 5
OVERLAYS = 4  # pictures


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--labels", type=Path, nargs="+", required=True)
    parser.add_argument("--names", help="comma-separated names of the tasks; those of the files otherwise")
    parser.add_argument("--foreground", default="", help="comma-separated classes that roi='auto' favours")
    parser.add_argument("--model", help="name or id of the codec's model; the default one otherwise")
    parser.add_argument("--out", type=Path, help="folder of the head bundle; default: the model's own")
    parser.add_argument("--checkpoint", type=Path, required=True, help="where to keep the heads' weights")
    parser.add_argument("--plots", type=Path, required=True, help="folder for the plots")
    parser.add_argument("--steps", type=int, default=600, help="of every task")
    parser.add_argument("--pretrain-steps", type=int, default=1500)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args(arguments)

    names = args.names.split(",") if args.names else [path.stem for path in args.labels]
    sets = [read_labels(path, name) for path, name in zip(args.labels, names, strict=True)]
    foreground = tuple(name for name in args.foreground.split(",") if name)
    model = bundle.find_model(args.model)
    data = [extract(s, VIEWS, 2, model=args.model, workers=args.workers) for s in sets]
    tasks = tuple(task_of(s, tuple(c for c in s.classes if c in foreground)) for s in sets)

    heads = fresh_heads(data[0].views, tasks, {})
    config = SemiConfig(steps=args.steps, pretrain_steps=args.pretrain_steps)
    losses = pretrain(heads, [d.views for d in data], config)
    print(f"without labels: loss {losses[0]:.2f} → {losses[-1]:.2f}")
    material, kept = [], []
    for task, d in zip(tasks, data, strict=True):
        shown, held = hold_out(d.views.labels)
        material.append(TaskData(task, d.views, shown, torch.arange(len(d.views.labels))))
        kept.append(held)
    heads, _ = train_heads(heads, material, config)
    heads.tasks = tuple(_calibrated(heads, t, d, held) for t, d, held in zip(tasks, data, kept, strict=True))
    args.plots.mkdir(parents=True, exist_ok=True)
    for s, task, d in zip(sets, heads.tasks, data, strict=True):
        _report(heads, s, task, d, args.plots)
    folder = export_heads(heads, model.name, model.model_id, args.out or model.directory)
    weights = {name: value.half() for name, value in heads.state_dict().items()}
    save_checkpoint(args.checkpoint, {"heads": weights, "tasks": [dataclasses.asdict(t) for t in tasks], "configs": "{}"})
    print(f"{folder}: heads for {model.name} ({model.model_id.hex()})")


def _calibrated(heads: SemanticHeads, task: Task, data: Extracted, held: torch.Tensor) -> Task:
    if task.kind == SEGMENTATION or not len(held):
        return task
    views = data.views.weak[held]
    logits = predict(heads, views.flatten(0, 1), task.name)
    labels = data.views.labels[held].repeat_interleave(views.shape[1])
    return dataclasses.replace(task, temperature=fit_temperature(logits, labels))


def _report(heads: SemanticHeads, labelled_set: LabelledSet, task: Task, data: Extracted, folder: Path) -> None:
    logits = [predict(heads, latents, task.name) for latents in data.test]
    middle = QUALITIES.index(50)
    matrix = confusion(logits[middle], data.test_labels, len(task.classes))
    for quality, row in zip(QUALITIES, logits, strict=True):
        if task.kind == SEGMENTATION:
            score = f"mean IoU {mean_iou(confusion(row, data.test_labels, len(task.classes))):.3f}"
        else:
            score = f"accuracy {accuracy(row, data.test_labels):.3f}, temperature {task.temperature:.2f}"
        print(f"{task.name}, quality {quality}: {score}")
    plot_confusion(matrix.numpy(), task.classes, folder / f"{task.name}-confusion.png", f"{task.name}, quality 50")
    if task.kind == SEGMENTATION:
        chosen = range(0, len(labelled_set.test), max(1, len(labelled_set.test) // OVERLAYS))[:OVERLAYS]
        pictures = [np.asarray(labelled_set.test[k].read()) for k in chosen]
        truth = [data.test_labels[k].numpy() for k in chosen]
        said = [logits[middle][k].argmax(0).numpy() for k in chosen]
        plot_overlays(pictures, truth, said, task.classes, folder / f"{task.name}-overlays.png")


if __name__ == "__main__":
    main()
