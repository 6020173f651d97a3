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
from pillow_semicodec.head_bundle import list_heads

from .commands import one_line
from .config import HeadsConfig, SemiConfig
from .export_heads import export_heads
from .frozen import QUALITIES, extract, score, score_files
from .heads import SemanticHeads, Task
from .labels import CLASSIFICATION, SEGMENTATION, LabelledSet, LabelsError, read_labels
from .semisup import TaskData, Views, fit_temperature, hold_out, predict, pretrain, train_heads
from .state import load_checkpoint

SIDES = {128: 4, 224: 3, 384: 2}  # scales that heads of one's own learn, and views of each
DEFAULT_CHECKPOINT = Path(__file__).parent / "checkpoints" / "heads.pt"


def load_trunk(heads: SemanticHeads, checkpoint: Path, model_id: bytes) -> None:
    """Start the trunk from trained heads.

    Raises:
        ValueError: no checkpoint of heads, heads of another shape, or heads that read another model's latents.
    """
    state = load_checkpoint(checkpoint, ("heads", "model_id"))
    if state["model_id"] != model_id.hex():
        raise ValueError(f"{checkpoint}: its heads read model {state['model_id']}, not {model_id.hex()}")
    weights: dict[str, Tensor] = state["heads"]
    trunk = {name: value.float() for name, value in weights.items() if not name.startswith("outputs.")}
    own = heads.state_dict()
    if any(name not in own or own[name].shape != value.shape for name, value in trunk.items()):
        raise ValueError(f"{checkpoint}: its heads have another shape")
    heads.load_state_dict({**own, **trunk})


def known_classes(names: str, sets: list[LabelledSet]) -> tuple[str, ...]:
    """Comma-separated names of classes; raises LabelsError where one is unknown."""
    wanted = tuple(name for name in names.split(",") if name)
    known = {name for labelled_set in sets for name in labelled_set.classes}
    for name in wanted:
        if name not in known:
            raise LabelsError(f"foreground {name} is none of the classes {', '.join(sorted(known))}")
    return wanted


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("labels", type=Path, help="folder of classes, or CSV of labels")
    parser.add_argument("--name", required=True, help="name of the new heads, and of their task")
    parser.add_argument("--out", type=Path, required=True, help="folder that the head bundle's folder is made in")
    parser.add_argument("--model", help="name or id of the codec's model; the default one otherwise")
    parser.add_argument("--init", type=Path, help="checkpoint of heads whose trunk to start from; by default that of the "
                        "shipped heads, where they read this model")  # fmt: skip
    parser.add_argument("--steps", type=int, default=120, help="of every scale")
    parser.add_argument("--foreground", default="", help="segmentation: comma-separated classes that roi='auto' favours")
    parser.add_argument("--workers", type=int, default=0, help="processes that code pictures; 0 takes one per core")
    return parser.parse_args(arguments)


def learn(
    heads: SemanticHeads,
    sets: list[LabelledSet],
    sides: dict[int, int],
    config: SemiConfig,
    model: str | None,
    workers: int,
    warm: bool = False,
) -> SemanticHeads:
    """Heads for all of ``sets`` on a frozen codec: pretraining where the configuration asks for it, then every task at
    every scale in turn, semi-supervised; then the temperatures, on pictures held out for that. All views lie in memory:
    2.5 MB a picture at the scales of ``SIDES``.

    Args:
        sides: pixels a side of views for classes → views of each kind and picture; the scales that heads will know.
        warm: the trunk is trained already, and brings the scaling of its input with it.
    """
    for labelled_set in sets:
        labelled_set.check_tests()
    material, calibration = [], []
    for task, labelled_set in zip(heads.tasks, sets, strict=True):
        scales = sides if task.kind == CLASSIFICATION else {0: max(sides.values())}
        for side, count in scales.items():
            data = extract(labelled_set, count, 1 + side, side=side, tests=False, model=model, workers=workers)
            kept, held = hold_out(data.views.labels)
            rest = dataclasses.replace(labelled_set, train=tuple(labelled_set.train[int(k)] for k in kept))
            chosen = set(rest.fraction(config.label_fraction, config.seed)[0])
            shown = torch.nonzero(torch.tensor([item in chosen for item in rest.train]))[:, 0]
            views = Views(*(part[kept] for part in data.views))  # what is held out is not looked at without labels, either
            material.append(TaskData(task, views, shown, torch.arange(len(kept))))
            calibration.append((task, data.views.weak[held], data.views.labels[held]))
    if not warm:
        some = [m.views.weak[torch.randperm(len(m.views.weak))[:64], 0] for m in material]
        heads.standardise(torch.cat([x.movedim(1, 0).flatten(1) for x in some], 1)[None, :, :, None])
    if config.pretrain_steps:
        whole = [m.views for m in material if m.task.kind == CLASSIFICATION]
        if whole:  # embeddings of whole pictures do not help maps
            losses = pretrain(heads, whole, config)
            print(f"without labels: loss {losses[0]:.2f} → {losses[-1]:.2f}")
    heads, _ = train_heads(heads, material, config)
    heads.tasks = tuple(_calibrated(heads, task, [c[1:] for c in calibration if c[0] == task]) for task in heads.tasks)
    return heads


def _calibrated(heads: SemanticHeads, task: Task, held: list[tuple[Tensor, Tensor]]) -> Task:
    if task.kind == SEGMENTATION or not len(held[0][0]):
        return task
    logits = torch.cat([predict(heads, views.flatten(0, 1), task.name) for views, _ in held])
    labels = torch.cat([labels.repeat_interleave(views.shape[1]) for views, labels in held])
    return dataclasses.replace(task, temperature=fit_temperature(logits, labels))


def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    with one_line("transfer"):
        labelled_set = read_labels(args.labels, args.name)
        foreground = known_classes(args.foreground, [labelled_set])
        model = bundle.find_model(args.model)
        target = (args.out / args.name).resolve()
        for other in list_heads():
            if other.model_id == model.model_id and other.name == args.name and other.directory.resolve() != target:
                raise LabelsError(f"heads {args.name} are installed already in {other.directory}; take another name")
        task = Task(args.name, labelled_set.kind, labelled_set.classes, foreground=foreground)
        trunk = args.init
        if trunk is None and DEFAULT_CHECKPOINT.is_file():
            known = load_checkpoint(DEFAULT_CHECKPOINT, ("heads",)).get("model_id")
            trunk = DEFAULT_CHECKPOINT if known == model.model_id.hex() else None
        shape = load_checkpoint(trunk, ("heads",)).get("heads_config", {}) if trunk else {}
        heads = SemanticHeads(model.latent_channels, (task,), HeadsConfig(**shape))
        if trunk is not None:
            load_trunk(heads, trunk, model.model_id)
        print(
            f"{len(labelled_set.train)} pictures of {len(labelled_set.classes)} classes; "
            f"trunk {f'of {trunk}' if trunk else 'from scratch'}"
        )
        config = SemiConfig(steps=args.steps, lr=1e-3, pretrain_steps=0 if trunk else 2 * args.steps)
        heads = learn(heads, [labelled_set], SIDES, config, args.model, args.workers, warm=trunk is not None)
        folder = export_heads(heads, args.name, model.model_id, args.out / args.name)
        print(f"{folder}: heads for model {model.name}; use them with SGC_MODEL_PATH={args.out}")
        for quality in QUALITIES if labelled_set.test else ():
            matrix = score_files(heads, task, labelled_set, quality, args.model)
            print(f"quality {quality}: {score(task, matrix)} on {len(labelled_set.test)} test pictures")
    return 0


if __name__ == "__main__":
    sys.exit(main())
