"""Measure the heads: ``python -m training.semantics --labels CSV … --json OUT`` writes what RESULTS.md's tables hold.

Every task with 5, 10 and 100 % of its labels, with and without unlabelled pictures, on latents and on decoded pixels, at
three qualities, with several seeds: the same head, the same number of labelled batches, the same views, only what is named
differs. "With unlabelled pictures": the student also follows the teacher, and for classes the trunk first learned from the
task's pictures without any label.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from pillow_semicodec.bundle import find_model
from pillow_semicodec.files import write_text

from .commands import one_line
from .config import HeadsConfig, SemiConfig
from .frozen import QUALITIES, Extracted, extract
from .heads import SemanticHeads, Task
from .joint import task_of
from .labels import CLASSIFICATION, SEGMENTATION, LabelledSet, read_all
from .semisup import TaskData, Views, accuracy, confusion, mean_iou, predict, pretrain, train_heads

FRACTIONS = (0.05, 0.1, 1.0)
INPUTS = ("latents", "pixels")
VIEWS = 4


OPTION_FRACTION = 0.1  # of the labels, where options are compared


class Run(NamedTuple):
    task: str
    fraction: float
    unlabelled: bool
    input: str
    seed: int
    option: str = ""


class Material(NamedTuple):
    """What all runs share."""

    sets: dict[str, LabelledSet]
    data: dict[str, Extracted]
    settings: dict[str, Any]
    options: dict[str, dict[str, Any]]  # name → settings that go over the others
    trunks: dict[tuple[str, str], dict[str, torch.Tensor]]  # by task and input; learned without labels


def views_of(data: Extracted, kind: str) -> Views:
    views = data.views if kind == "latents" else data.pixel_views
    assert views is not None
    return views


def fresh_heads(views: Views, tasks: tuple[Task, ...], settings: dict[str, Any]) -> SemanticHeads:
    heads = SemanticHeads(views.weak.shape[2], tasks, HeadsConfig(**settings.get("heads", {})))
    rows = torch.randperm(len(views.weak), generator=torch.Generator().manual_seed(0))[:256]
    heads.standardise(views.weak[rows].flatten(0, 1))
    return heads


def pretrained_trunk(material: Material, task: str, kind: str) -> dict[str, torch.Tensor]:
    """Weights of a trunk that learned from the pictures of a task without their labels."""
    torch.manual_seed(0)
    views = views_of(material.data[task], kind)
    heads = fresh_heads(views, (), material.settings)
    pretrain(heads, [views], SemiConfig(**material.settings.get("semi", {})))
    return heads.state_dict()


def one_run(material: Material, run: Run) -> list[float]:
    """Accuracy or mean IoU at every one of QUALITIES."""
    labelled_set, data = material.sets[run.task], material.data[run.task]
    views, test = views_of(data, run.input), data.test if run.input == "latents" else data.pixel_test
    assert test is not None
    chosen = set(labelled_set.fraction(run.fraction, run.seed)[0])
    rows = torch.tensor([k for k, item in enumerate(labelled_set.train) if item in chosen])
    torch.manual_seed(run.seed)
    task = task_of(labelled_set)
    option = material.options.get(run.option, {})
    settings = {group: {**material.settings.get(group, {}), **option.get(group, {})} for group in ("heads", "semi")}
    heads = fresh_heads(views, (task,), settings)
    trunk = material.trunks.get((run.task, run.input))
    if run.unlabelled and trunk:
        heads.load_state_dict(trunk, strict=False)  # an option may add a part that is not in it
    config = SemiConfig(**{**settings["semi"], "seed": run.seed})
    unlabelled = torch.arange(len(labelled_set.train)) if run.unlabelled else None
    heads, _ = train_heads(heads, [TaskData(task, views, rows, unlabelled)], config)
    scores = []
    for latents in test:
        logits = predict(heads, latents, task.name)
        if task.kind == SEGMENTATION:
            scores.append(mean_iou(confusion(logits, data.test_labels, len(task.classes))))
        else:
            scores.append(accuracy(logits, data.test_labels))
    return scores


_material: Material


def _start(material: Material) -> None:
    global _material
    torch.set_num_threads(1)
    _material = material


def _pretrain(key: tuple[str, str]) -> dict[str, torch.Tensor]:
    return pretrained_trunk(_material, *key)


def _work(run: Run) -> tuple[Run, list[float], float]:
    start = time.monotonic()
    return run, one_run(_material, run), time.monotonic() - start


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: one line for every task, fraction, input and use of unlabelled pictures; mean ± spread over seeds."""
    lines = ["| task | labels | input | unlabelled | " + " | ".join(f"q{q}" for q in QUALITIES) + " |"]
    lines.append("|---" * (4 + len(QUALITIES)) + "|")
    names = ("task", "fraction", "input", "unlabelled", "option")
    for key in dict.fromkeys(tuple(r[n] for n in names) for r in results):
        scores = np.array([r["scores"] for r in results if tuple(r[n] for n in names) == key])
        cells = [f"{100 * m:.1f} ± {100 * s:.1f}" for m, s in zip(scores.mean(0), scores.std(0), strict=True)]
        task, fraction, kind, unlabelled, option = key
        use = ("with" if unlabelled else "without") + (f", {option}" if option else "")
        lines.append(f"| {task} | {fraction:.0%} | {kind} | {use} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _made_of(args: argparse.Namespace, sets: dict[str, LabelledSet]) -> dict[str, Any]:
    """What scores depend on beside the fields of a ``Run``."""
    pictures = {name: [len(s.train), len(s.test)] for name, s in sets.items()}
    model = find_model(args.model).model_id.hex()
    made_of = {"model": model, "settings": args.settings, "options": args.options, "pictures": pictures}
    result: dict[str, Any] = json.loads(json.dumps(made_of))
    return result


def _results_so_far(path: Path, made_of: dict[str, Any]) -> list[dict[str, Any]]:
    """Raises ValueError where they are those of another model, other settings or other pictures."""
    results: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    if any(row.get("of") != made_of for row in results):
        raise ValueError(f"{path} holds scores of another model, other settings or other pictures: take another name")
    return results


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--labels", type=Path, nargs="+", required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--fractions", default=",".join(map(str, FRACTIONS)))
    parser.add_argument("--inputs", default=",".join(INPUTS))
    parser.add_argument("--model")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--settings", type=json.loads, default={}, help='JSON, like {"semi": {"steps": 300}}')
    parser.add_argument(
        "--options", type=json.loads, default={}, help='JSON, like {"attention": {"heads": {"attention": true}}}'
    )
    args = parser.parse_args(arguments)
    if not args.json.absolute().parent.is_dir():
        raise ValueError(f"no folder for {args.json}")
    inputs = args.inputs.split(",")
    sets = {s.name: s for s in read_all(args.labels)}
    made_of = _made_of(args, sets)
    results = _results_so_far(args.json, made_of)
    for labelled_set in sets.values():
        labelled_set.check_tests()
    data = {
        name: extract(s, VIEWS, 1, pixels="pixels" in inputs, model=args.model, workers=args.workers)
        for name, s in sets.items()
    }
    material = Material(sets, data, args.settings, args.options, {})
    context = get_context("fork" if sys.platform == "linux" else "spawn")  # forked workers share the views without a copy
    classes = [(name, kind) for name, s in sets.items() if s.kind == CLASSIFICATION for kind in inputs]
    with ProcessPoolExecutor(args.workers, context, _start, (material,)) as pool:
        material.trunks.update(zip(classes, pool.map(_pretrain, classes), strict=True))
    runs = [
        Run(name, float(fraction), unlabelled, kind, seed)
        for name in sets
        for fraction in args.fractions.split(",")
        for kind in inputs
        for unlabelled in (False, True)
        for seed in range(1, args.seeds + 1)
    ]
    first = next(iter(sets))
    runs += [
        Run(first, OPTION_FRACTION, True, "latents", seed, option)
        for option in args.options
        for seed in range(1, args.seeds + 1)
    ]
    done = [{k: v for k, v in r.items() if k in Run._fields} for r in results]  # by a run that was killed: go on
    runs = [run for run in runs if run._asdict() not in done]
    with ProcessPoolExecutor(args.workers, context, _start, (material,)) as pool:
        for run, scores, seconds in pool.map(_work, runs):
            results.append({**run._asdict(), "scores": scores, "of": made_of})
            print(f"{run} {[round(s, 3) for s in scores]} {seconds:.0f} s", flush=True)
            write_text(args.json, json.dumps(results, indent=1))
    print(table(results))


if __name__ == "__main__":
    with one_line("semantics"):
        main()
