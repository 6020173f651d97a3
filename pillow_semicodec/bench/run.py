"""``sgc bench``: curves, crops, costs, and a page of them."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import PIL
from PIL import Image

from .. import options
from ..bundle import find_model
from ..inference import runtime
from . import costs, curves, report
from .codecs import OURS, Codec


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        quality: of SGC in crops and costs. cache: file of the other codecs' figures. crops: pictures to show.
        timed: pictures to time; 0 leaves times and memory out. growth: megapixels up to which costs are followed; 0 leaves
            that out. files: most files of that.
    """

    quality: int = 50
    model: str | None = None
    workers: int = 1
    cache: Path | None = None
    crops: int = 3
    timed: int = 3
    growth: float = 0
    files: int = 100


def run(paths: list[Path], codecs: list[Codec], plan: Plan, progress: Callable[..., Iterator[Any]]) -> dict[str, Any]:
    """Everything that was measured, and the page's crops under "crops".

    Args:
        progress: wraps an iterator, as ``tqdm`` does.
    """
    bundle = find_model(plan.model)
    pictures: dict[str, curves.Figures] = {codec.name: {path.name: {} for path in paths} for codec in codecs}
    failures: list[str] = []
    if plan.model:
        codecs = [dataclasses.replace(c, settings={"model": plan.model}) if c.name == OURS else c for c in codecs]
    rows = curves.measure_all(paths, codecs, plan.cache, plan.workers)
    total = len(paths) * sum(len(codec.qualities) for codec in codecs)
    for name, path, quality, row in progress(rows, total=total, desc="measuring"):
        if isinstance(row, str):
            failures.append(f"{name} at {quality}, {path}: {row}")
        else:
            pictures[name][path][quality] = row
    # Means are over the same pictures at all settings of all codecs: one that failed anywhere is left out of all curves. A
    # codec that failed on all of them has none.
    whole = {
        codec.name: {path: rows for path, rows in pictures[codec.name].items() if len(rows) == len(codec.qualities)}
        for codec in codecs
    }
    whole = {name: figures for name, figures in whole.items() if figures}
    good = [path for path in paths if whole and all(path.name in figures for figures in whole.values())]
    if good:
        whole = {name: {path.name: figures[path.name] for path in good} for name, figures in whole.items()}
    means = {name: curves.mean_curve(figures) for name, figures in whole.items()}
    codecs = [codec for codec in codecs if codec.name in whole]
    ours = [codec for codec in codecs if codec.name == OURS]
    images = [curves.read_rgb(path) for path in good[: max(plan.crops, plan.timed, 1)]]
    crops: list[str] = []
    found: dict[str, Any] = {}
    growth: dict[str, Any] = {}

    def attempt(work: Callable[[], None]) -> None:
        try:
            work()
        except (OSError, ValueError, RuntimeError, MemoryError) as error:  # the curves are worth more than the rest
            failures.append(f"{type(error).__name__}: {error}")

    def show() -> None:
        for path, image in progress(list(zip(good, images, strict=False))[: plan.crops], desc="crops"):
            crops.append(report.crops_of(path.name, image, codecs, plan.quality))

    def time() -> None:
        found.update(costs.times(images[: plan.timed], codecs, plan.quality))
        for name, peaks in costs.memory(images[0], codecs, plan.quality).items():
            found[name].update(peaks)

    def over_pixels() -> None:
        growth["pixels"] = costs.by_pixels(images[0], codecs, plan.quality, plan.growth, failures)

    def over_threads() -> None:
        growth["threads"] = costs.by_threads(images[0], ours[0], plan.quality, options.cores())

    def over_files() -> None:
        growth["files"] = costs.by_files(images[0], ours[0], plan.quality, plan.files, plan.workers, failures)

    follow = ours and plan.growth
    steps = ((ours, show), (plan.timed, time), (follow, over_pixels), (follow, over_threads), (follow, over_files))
    for wanted, work in steps:
        if wanted and images:
            attempt(work)
    about = {
        "folder": paths[0].parent.name,
        "pictures": len(good),
        "megapixels": sum(_megapixels(path) for path in good),
        "model": f"{bundle.name} ({bundle.model_id.hex()})",
        "packages": ", ".join(
            (
                f"Pillow {PIL.__version__}",
                f"ONNX Runtime {runtime().__version__}",
                *filter(None, (codec.version() for codec in codecs)),
            )
        ),
        "machine": f"{options.cores()} cores, {platform.machine()}, {platform.system()}, Python {platform.python_version()}",
        "settings": {codec.name: codec.label() for codec in codecs},
    }
    results = {"about": about, "bd_rate": curves.bd_rates(whole), "curves": means, "costs": found, "growth": growth}
    falling = curves.not_rising(whole.get(OURS, {}))
    return {**results, "failures": failures, "not_rising": falling, "pictures": pictures, "crops": crops}


def _megapixels(path: Path) -> float:
    with Image.open(path) as image:
        return image.width * image.height / 1e6
