"""Measure the heads: ``python -m training.semantics --labels CSV … --json OUT`` writes what RESULTS.md's tables hold.

Every task with 5, 10 and 100 % of its labels, with and without unlabelled pictures, on latents and on decoded pixels, at
three qualities, with several seeds: the same head, the same number of steps, the same views, only what is named differs.
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from .config import HeadsConfig, SemiConfig
from .frozen import QUALITIES, Extracted, extract
from .heads import SemanticHeads
from .joint import task_of
from .labels import SEGMENTATION, LabelledSet, read_labels
from .semisup import accuracy, confusion, mean_iou, predict, train_heads

FRACTIONS = (0.05, 0.1, 1.0)
INPUTS = ("latents", "pixels")
VIEWS = 4


class Run(NamedTuple):
    task: str
    fraction: float
    unlabelled: bool
    input: str
    seed: int


def one_run(labelled_set: LabelledSet, data: Extracted, run: Run, settings: dict[str, Any]) -> list[float]:
    """Accuracy or mean IoU at every one of QUALITIES."""
    views, test = (data.views, data.test) if run.input == "latents" else (data.pixel_views, data.pixel_test)
    assert views is not None and test is not None
    shown, _ = labelled_set.fraction(run.fraction, run.seed)
    chosen = set(shown)
    rows = torch.tensor([k for k, item in enumerate(labelled_set.train) if item in chosen])
    torch.manual_seed(run.seed)
    task = task_of(labelled_set)
    heads_config = HeadsConfig(**settings.get("heads", {}))
    heads = SemanticHeads(views.weak.shape[2], (task,), heads_config)
    heads.standardise(views.weak[:256].flatten(0, 1))
    small = {"labelled_batch": 12, "unlabelled_batch": 12} if task.kind == SEGMENTATION else {}
    config = SemiConfig(seed=run.seed, **{**small, **settings.get("semi", {})})
    unlabelled = torch.arange(len(labelled_set.train)) if run.unlabelled else None
    heads, _ = train_heads(heads, views, rows, unlabelled, task, config)
    scores = []
    for latents in test:
        logits = predict(heads, latents, task.name)
        if task.kind == SEGMENTATION:
            scores.append(mean_iou(confusion(logits, data.test_labels, len(task.classes))))
        else:
            scores.append(accuracy(logits, data.test_labels))
    return scores


_shared: dict[str, Any] = {}


def _start(labelled_set: LabelledSet, data: Extracted) -> None:
    torch.set_num_threads(1)
    _shared.update(set=labelled_set, data=data)


def _work(job: tuple[Run, dict[str, Any]]) -> tuple[Run, list[float], float]:
    start = time.monotonic()
    return job[0], one_run(_shared["set"], _shared["data"], *job), time.monotonic() - start


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: one line for every task, fraction, input and use of unlabelled pictures; mean ± spread over seeds."""
    lines = ["| task | labels | input | unlabelled | " + " | ".join(f"q{q}" for q in QUALITIES) + " |"]
    lines.append("|---" * (4 + len(QUALITIES)) + "|")
    keys = dict.fromkeys((r["task"], r["fraction"], r["input"], r["unlabelled"]) for r in results)
    for key in keys:
        scores = np.array([r["scores"] for r in results if (r["task"], r["fraction"], r["input"], r["unlabelled"]) == key])
        cells = [f"{100 * m:.1f} ± {100 * s:.1f}" for m, s in zip(scores.mean(0), scores.std(0), strict=True)]
        task, fraction, kind, unlabelled = key
        lines.append(f"| {task} | {fraction:.0%} | {kind} | {'with' if unlabelled else 'without'} | {' | '.join(cells)} |")
    return "\n".join(lines)


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
    args = parser.parse_args(arguments)
    inputs = args.inputs.split(",")
    results: list[dict[str, Any]] = []
    for path in args.labels:
        labelled_set = read_labels(path)
        data = extract(labelled_set, VIEWS, 1, pixels="pixels" in inputs, model=args.model, workers=args.workers)
        runs = [
            Run(labelled_set.name, float(fraction), unlabelled, kind, seed)
            for fraction in args.fractions.split(",")
            for kind in inputs
            for unlabelled in (False, True)
            for seed in range(1, args.seeds + 1)
        ]
        # Forked workers share the views without a copy.
        with ProcessPoolExecutor(args.workers, get_context("fork"), _start, (labelled_set, data)) as pool:
            for run, scores, seconds in pool.map(_work, [(run, args.settings) for run in runs]):
                results.append({**run._asdict(), "scores": scores})
                print(f"{run} {[round(s, 3) for s in scores]} {seconds:.0f} s", flush=True)
        args.json.write_text(json.dumps(results, indent=1))
    print(table(results))


if __name__ == "__main__":
    main()
