"""Train the heads of a finished model: ``python -m training.finish_heads --labels CSV … --checkpoint PT --plots FOLDER``.

On the frozen codec: the trunk learns from all pictures without labels, then all tasks in turn, semi-supervised. Writes a
head bundle into the model's folder, a checkpoint that ``training.transfer`` starts from, a confusion matrix for every task
and overlays for every segmentation task, all measured on whole files of the test pictures.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

import numpy as np
import torch

from pillow_semicodec import bundle

from .commands import one_line
from .export_heads import export_heads
from .frozen import QUALITIES, code, score, score_files
from .heads import SemanticHeads, Task
from .joint import task_of
from .labels import SEGMENTATION, LabelledSet, read_all
from .plots import plot_confusion, plot_overlays
from .semisup import cell_labels
from .state import save_checkpoint
from .train import configure
from .transfer import known_classes, learn, load_trunk

SIDES = {128: 4, 224: 3}  # scales that the heads learn, and views of each
OVERLAYS = 4  # pictures


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--labels", type=Path, nargs="+", required=True)
    parser.add_argument("--names", help="comma-separated names of the tasks; those of the files otherwise")
    parser.add_argument("--foreground", default="", help="comma-separated classes that roi='auto' favours")
    parser.add_argument("--model", help="name or id of the codec's model; the default one otherwise")
    parser.add_argument("--out", type=Path, help="folder of the head bundle; default: the model's own")
    parser.add_argument("--checkpoint", type=Path, required=True, help="where to keep the heads' weights")
    parser.add_argument("--plots", type=Path, required=True, help="folder for the plots")
    parser.add_argument("--set", action="append", default=[], metavar="heads.NAME=VALUE | semi.NAME=VALUE")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--init", type=Path, help="checkpoint of heads for this model whose trunk to start from")
    args = parser.parse_args(arguments)
    with one_line("finish_heads"):
        configs = configure(["semi.steps=400", *args.set])
        sets = read_all(args.labels, args.names.split(",") if args.names else None)
        foreground = known_classes(args.foreground, sets)
        model = bundle.find_model(args.model)
        for folder in (args.plots, args.checkpoint.parent):
            folder.mkdir(parents=True, exist_ok=True)
        tasks = tuple(task_of(s, tuple(c for c in s.classes if c in foreground)) for s in sets)
        heads = SemanticHeads(model.latent_channels, tasks, configs["heads"])
        if args.init:
            load_trunk(heads, args.init, model.model_id)
        heads = learn(heads, sets, SIDES, configs["semi"], args.model, args.workers, warm=args.init is not None)
        weights = {name: value.half() for name, value in heads.state_dict().items()}
        kept = {"heads": weights, "tasks": [dataclasses.asdict(t) for t in heads.tasks], "configs": "{}"}
        kept |= {"heads_config": dataclasses.asdict(configs["heads"]), "model_id": model.model_id.hex()}
        save_checkpoint(args.checkpoint, kept)
        folder = export_heads(heads, model.name, model.model_id, args.out or model.directory)
        print(f"{folder}: heads for {model.name} ({model.model_id.hex()})")
        for labelled_set, task in zip(sets, heads.tasks, strict=True):
            _report(heads, labelled_set, task, args.model, args.plots)
    return 0


def _report(heads: SemanticHeads, labelled_set: LabelledSet, task: Task, model: str | None, folder: Path) -> None:
    for quality in QUALITIES if labelled_set.test else ():
        matrix = score_files(heads, task, labelled_set, quality, model)
        print(f"{task.name}, quality {quality}: {score(task, matrix)}, temperature {task.temperature:.2f}", flush=True)
        if quality == 50:
            plot_confusion(matrix.numpy(), task.classes, folder / f"{task.name}-confusion.png", f"{task.name}, quality 50")
    if task.kind == SEGMENTATION and labelled_set.test:
        chosen = labelled_set.test[:: max(1, len(labelled_set.test) // OVERLAYS)][:OVERLAYS]
        pictures = [np.asarray(item.read()) for item in chosen]
        truth, said = [], []
        for item, picture in zip(chosen, pictures, strict=True):
            height, width = (n // 32 * 32 for n in picture.shape[:2])
            latents = torch.from_numpy(code(np.ascontiguousarray(picture[:height, :width]), 50, model, False)[0])[
                None
            ].float()
            with torch.no_grad():
                said.append(heads.eval()(latents).logits[task.name][0].argmax(0).numpy())
            mask = torch.from_numpy(labelled_set.read_mask(item)[:height, :width].astype(np.int64))[None]
            truth.append(cell_labels(mask, len(task.classes))[0].numpy())
        plot_overlays(pictures, truth, said, task.classes, folder / f"{task.name}-overlays.png")


if __name__ == "__main__":
    sys.exit(main())
