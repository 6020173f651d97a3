"""A head of your own: ``python -m training.transfer FOLDER --name NAME --out HEADS``.

FOLDER holds one folder of pictures per class (or give a CSV of labels, see ``training.labels``). The codec stays frozen;
the trunk of the shipped heads, where a checkpoint of it is given, and a new head learn to read its latents. The result is
a head bundle that ``sgc info --semantics``, ``sgc search`` and ``analyze`` find through ``SGC_MODEL_PATH``.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

import torch
from torch import Tensor

from pillow_semicodec import bundle

from .config import HeadsConfig, SemiConfig
from .export_heads import export_heads
from .frozen import QUALITIES, extract
from .heads import SemanticHeads, Task
from .labels import SEGMENTATION, LabelsError, read_labels
from .semisup import TaskData, accuracy, confusion, fit_temperature, hold_out, mean_iou, predict, train_heads
from .train import load_checkpoint

VIEWS = 6
DEFAULT_CHECKPOINT = Path(__file__).parent / "checkpoints" / "heads.pt"


def load_trunk(heads: SemanticHeads, checkpoint: Path) -> bool:
    """Start the trunk from trained heads; False where they are of another shape."""
    weights: dict[str, Tensor] = load_checkpoint(checkpoint)["heads"]
    trunk = {name: value.float() for name, value in weights.items() if not name.startswith("outputs.")}
    own = heads.state_dict()
    if any(name not in own or own[name].shape != value.shape for name, value in trunk.items()):
        return False
    heads.load_state_dict({**own, **trunk})
    return True


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("labels", type=Path, help="folder of classes, or CSV of labels")
    parser.add_argument("--name", required=True, help="name of the new heads, and of their task")
    parser.add_argument("--out", type=Path, required=True, help="folder that the head bundle's folder is made in")
    parser.add_argument("--model", help="name or id of the codec's model; the default one otherwise")
    parser.add_argument("--init", type=Path, default=DEFAULT_CHECKPOINT, help="checkpoint whose trunk to start from")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--foreground", default="", help="segmentation: comma-separated classes that roi='auto' favours")
    parser.add_argument("--workers", type=int, default=0, help="processes that code pictures; 0 takes one per core")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    try:
        labelled_set = read_labels(args.labels, args.name)
        foreground = tuple(name for name in args.foreground.split(",") if name)
        unknown = sorted(set(foreground) - set(labelled_set.classes))
        if unknown:
            raise LabelsError(f"{args.labels}: foreground {', '.join(unknown)} is none of {', '.join(labelled_set.classes)}")
        model = bundle.find_model(args.model)
        data = extract(labelled_set, VIEWS, 1, model=args.model, workers=args.workers)
    except (LabelsError, OSError) as error:
        print(f"transfer: {error}", file=sys.stderr)
        return 1
    task = Task(args.name, labelled_set.kind, labelled_set.classes, foreground=foreground)
    heads = SemanticHeads(model.latent_channels, (task,), HeadsConfig())
    warm = args.init.is_file() and load_trunk(heads, args.init)
    if not warm:
        heads.standardise(data.views.weak.flatten(0, 1)[:256])
    print(
        f"{len(labelled_set.train)} pictures of {len(labelled_set.classes)} classes; "
        f"trunk {'of ' + str(args.init) if warm else 'new'}"
    )
    shown, kept = hold_out(data.views.labels)
    config = SemiConfig(steps=args.steps, lr=1e-3 if warm else 2e-3)
    everything = torch.arange(len(labelled_set.train))
    heads, _ = train_heads(heads, [TaskData(task, data.views, shown, everything)], config)
    if len(kept):
        views = data.views.weak[kept].flatten(0, 1)
        labels = data.views.labels[kept].repeat_interleave(data.views.weak.shape[1])
        temperature = fit_temperature(predict(heads, views, task.name), labels)
        heads.tasks = (dataclasses.replace(task, temperature=temperature),)
    if len(data.test):
        logits = [predict(heads, latents, task.name) for latents in data.test]
        for quality, row in zip(QUALITIES, logits, strict=True):
            if task.kind == SEGMENTATION:
                score = f"mean IoU {mean_iou(confusion(row, data.test_labels, len(task.classes))):.3f}"
            else:
                score = f"accuracy {accuracy(row, data.test_labels):.3f}"
            print(f"quality {quality}: {score} on {len(data.test_labels)} test pictures")
    folder = export_heads(heads, args.name, model.model_id, args.out / args.name)
    print(f"{folder}: heads for model {model.name}; use them with SGC_MODEL_PATH={args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
