"""Plots of a run as PNG: losses, rate–distortion, accepted pseudo-labels; confusion matrices and segmentation overlays.

``python -m training.plots RUN`` redraws a run's ``plots.png`` from its log; the trainer does so at every validation.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

RATES = (0.0, 0.25, 0.5, 0.75, 1.0)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _column(rows: list[dict[str, str]], name: str) -> tuple[list[float], list[float]]:
    """(minutes, values) of the rows that hold a value."""
    pairs = [(float(row["minutes"]), float(row[name])) for row in rows if row.get(name)]
    return [p[0] for p in pairs], [p[1] for p in pairs]


def plot_run(folder: Path) -> Path:
    """Draw ``folder/plots.png`` from ``folder/log.csv`` and return it."""
    pyplot = _pyplot()
    with (folder / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    figure, axes = pyplot.subplots(2, 2, figsize=(13, 9))
    (losses, curves), (heads, accepted) = axes
    for name in ("loss", "bpp", "gradient_norm"):
        losses.plot(*_column(rows, name), label=name)
    losses.set(title="training", xlabel="minutes", yscale="log")
    validated = [row for row in rows if row.get("val_bpp_0.5")]
    for k, row in enumerate(validated):
        points = [(float(row[f"val_bpp_{rate}"]), float(row[f"val_psnr_{rate}"])) for rate in RATES]
        shade = 0.85 * (1 - (k + 1) / len(validated))
        curves.plot(*zip(*points, strict=True), marker=".", color=str(shade), label=f"{float(row['minutes']):.0f} min")
    curves.set(title="validation", xlabel="bits per pixel", ylabel="PSNR, dB", xscale="log")
    for name in ("supervised", "consistency", "embedding"):
        heads.plot(*_column(rows, name), label=name)
    heads.set(title="heads", xlabel="minutes", ylabel="loss")
    accepted.plot(*_column(rows, "accepted"), label="accepted")
    accepted.set(title="pseudo-labels above the threshold", xlabel="minutes", ylabel="share", ylim=(0, 1))
    for axis in (losses, curves, heads, accepted):
        axis.grid(alpha=0.3)
        if axis.get_legend_handles_labels()[1]:
            axis.legend(fontsize=7)
    return _save(figure, folder / "plots.png")


def plot_confusion(matrix: NDArray[np.int64], classes: tuple[str, ...], path: Path, title: str) -> Path:
    """[K, K] counts, rows truth, as shares of each row."""
    pyplot = _pyplot()
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    figure, axis = pyplot.subplots(figsize=(1.5 + 0.55 * len(classes), 1.5 + 0.5 * len(classes)))
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axis.set(title=title, xlabel="said", ylabel="true")
    axis.set_xticks(range(len(classes)), classes, rotation=60, ha="right")
    axis.set_yticks(range(len(classes)), classes)
    for i, j in zip(*np.nonzero(shares >= 0.05), strict=True):
        axis.text(
            j, i, f"{100 * shares[i, j]:.0f}", ha="center", va="center", color="white" if shares[i, j] > 0.5 else "black"
        )
    return _save(figure, path)


def plot_overlays(
    pictures: list[NDArray[np.uint8]],
    truth: list[NDArray[np.integer[Any]]],
    said: list[NDArray[np.integer[Any]]],
    classes: tuple[str, ...],
    path: Path,
) -> Path:
    """Pictures [H, W, 3], then maps of cells [h, w] over them: what is true beside what the heads say."""
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(len(pictures), 3, figsize=(13, 3.4 * len(pictures)), squeeze=False)
    colours = pyplot.get_cmap("tab20", len(classes))
    for row, (picture, *maps) in zip(axes, zip(pictures, truth, said, strict=True), strict=True):
        height, width = picture.shape[:2]
        for axis, cells, title in zip(row, (None, *maps), ("picture", "true", "said"), strict=True):
            axis.imshow(picture, extent=(0, width, height, 0))
            if cells is not None:
                shown = np.ma.masked_greater_equal(cells, len(classes))
                extent = (0, 16 * cells.shape[1], 16 * cells.shape[0], 0)
                axis.imshow(
                    shown, cmap=colours, vmin=0, vmax=len(classes), alpha=0.55, extent=extent, interpolation="nearest"
                )
            axis.set(title=title, xticks=[], yticks=[], xlim=(0, width), ylim=(height, 0))
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=colours(k)) for k in range(len(classes))]
    figure.legend(handles, classes, loc="lower center", ncol=min(len(classes), 8), fontsize=8)
    figure.subplots_adjust(bottom=0.1 if len(pictures) > 1 else 0.18)
    return _save(figure, path)


def _save(figure: Any, path: Path) -> Path:
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.savefig(path, dpi=90)
    _pyplot().close(figure)
    return path


if __name__ == "__main__":
    print(plot_run(Path(sys.argv[1])))
