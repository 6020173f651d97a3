"""Measure from real files: ``python -m training.evaluate [FOLDER] [--model NAME] [--plot curves.png] [--json out.json]``.

Every picture is saved by every codec through Pillow and read back: bytes are file sizes, quality is PSNR, MS-SSIM and
SSIMULACRA2 of the decoded pixels. Curves are averaged over pictures at equal settings; BD-rates are computed by the
package bjontegaard (Akima interpolation of log-rate over the common range), from the averaged curves. Results of the
classical codecs are cached, for they do not change.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import bjontegaard
import numpy as np
import PIL
from PIL import Image
from tqdm import tqdm

import pillow_semicodec
from pillow_semicodec import bundle
from pillow_semicodec.metrics import msssim, msssim_db, psnr, ssimulacra2

from .commands import one_line

OURS = "SGC"
CODECS: dict[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {
    OURS: ("SGC", {}, (5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95)),
    "JPEG": ("JPEG", {"optimize": True, "progressive": True}, (5, 10, 20, 30, 45, 60, 75, 85, 90, 95)),
    "WebP": ("WEBP", {"method": 4}, (1, 5, 15, 30, 50, 65, 75, 85, 90, 95, 98)),
    "AVIF": ("AVIF", {"speed": 6}, (10, 20, 30, 40, 50, 60, 70, 80, 87, 93)),
}
METRICS = ("psnr", "msssim_db", "ssimulacra2")
Row = dict[str, float]  # bpp, psnr, msssim, ssimulacra2


def measure(path: Path, codec: str, quality: int, model: str | None) -> Row:
    """Save one picture with one codec at one quality, and compare what comes back."""
    with Image.open(path) as image:
        picture = image.convert("RGB")
    name, settings, _ = CODECS[codec]
    file = io.BytesIO()
    extra = {"model": model} if codec == OURS else {}
    picture.save(file, name, quality=quality, **settings, **extra)
    a, b = np.asarray(picture), np.asarray(Image.open(file).convert("RGB"))
    bpp = 8 * len(file.getvalue()) / (picture.width * picture.height)
    return {"bpp": bpp, "psnr": psnr(a, b), "msssim": msssim(a, b), "ssimulacra2": ssimulacra2(a, b)}


def _quiet_worker() -> None:
    import torch

    torch.set_num_threads(1)
    pillow_semicodec.options.THREADS = 1


def measure_all(paths: list[Path], codecs: list[str], model: str | None, cache: Path, workers: int) -> dict[str, Any]:
    """{codec: {picture: {quality: row}}}; classical codecs come from ``cache`` where it has them."""
    known: dict[str, Row] = json.loads(cache.read_text()) if cache.exists() else {}
    result: dict[str, Any] = {codec: {path.name: {} for path in paths} for codec in codecs}
    with ProcessPoolExecutor(workers, initializer=_quiet_worker) as pool:
        jobs = []
        for codec in codecs:
            _, settings, qualities = CODECS[codec]
            for path in paths:
                digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
                for quality in qualities:
                    key = f"{codec} {sorted(settings.items())} q{quality} {digest} pillow {PIL.__version__}"
                    row = None if codec == OURS else known.get(key)
                    future = None if row else pool.submit(measure, path, codec, quality, model)
                    jobs.append((codec, path.name, quality, key, row, future))
        try:
            for codec, name, quality, key, row, future in tqdm(jobs, desc="measuring", mininterval=5):
                measured = future.result() if future else row
                if codec != OURS:
                    known[key] = measured
                result[codec][name][quality] = measured
        finally:  # what an interrupted run has measured is not lost
            cache.parent.mkdir(parents=True, exist_ok=True)
            cache.write_text(json.dumps(known))
    return result


def mean_curve(pictures: dict[str, dict[int, Row]]) -> list[Row]:
    """One point per quality, in order of rate: means over pictures; MS-SSIM in dB is that of the mean."""
    qualities = list(next(iter(pictures.values())))
    curve = []
    for quality in qualities:
        rows = [rows[quality] for rows in pictures.values()]
        point = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
        curve.append({"quality": quality, **point, "msssim_db": msssim_db(point["msssim"])})
    return sorted(curve, key=lambda point: point["bpp"])


def bd_rate(anchor: list[Row], test: list[Row], metric: str) -> float:
    """Percent of bytes against ``anchor`` at equal quality, over the common range of quality; NaN where there is none."""
    curves = []
    for curve in (anchor, test):
        rising: list[Row] = []
        for point in curve:  # interpolation needs strictly rising quality
            if not rising or point[metric] > rising[-1][metric]:
                rising.append(point)
        curves += [[p["bpp"] for p in rising], [p[metric] for p in rising]]
    low, high = max(curves[1][0], curves[3][0]), min(curves[1][-1], curves[3][-1])
    if high <= low:
        return float("nan")
    return float(bjontegaard.bd_rate(*curves, method="akima", require_matching_points=False, min_overlap=0))


def monotone_failures(pictures: dict[str, dict[int, Row]]) -> Iterator[str]:
    """Pictures on which bytes or PSNR do not rise with quality."""
    for name, rows in pictures.items():
        points = [rows[q] for q in sorted(rows)]
        for key in ("bpp", "psnr"):
            values = [point[key] for point in points]
            if any(b <= a for a, b in pairwise(values)):
                yield f"{name}: {key} {[round(v, 3) for v in values]}"


def report(result: dict[str, Any]) -> dict[str, Any]:
    curves = {codec: mean_curve(pictures) for codec, pictures in result.items()}
    for codec, curve in curves.items():
        print(f"\n{codec:8} {'quality':>8} {'bpp':>8} {'PSNR':>8} {'MS-SSIM':>9} {'SSIMULACRA2':>12}")
        for p in curve:
            print(f"{'':8} {p['quality']:8} {p['bpp']:8.4f} {p['psnr']:8.3f} {p['msssim']:9.5f} {p['ssimulacra2']:12.2f}")
    table = {
        anchor: {metric: bd_rate(curves[anchor], curves[OURS], metric) for metric in METRICS}
        for anchor in curves
        if anchor != OURS and OURS in curves
    }
    print(f"\nBD-rate of {OURS}, % of bytes   " + " ".join(f"{metric:>12}" for metric in METRICS))
    for anchor, row in table.items():
        print(f"  against {anchor:22}" + " ".join(f"{row[metric]:12.2f}" for metric in METRICS))
    failures = list(monotone_failures(result[OURS])) if OURS in result else []
    print("\nbytes and PSNR rise with quality on every picture" if not failures else "\nnot rising:\n" + "\n".join(failures))
    return {"curves": curves, "bd_rate": table, "not_rising": failures}


def plot(curves: dict[str, list[Row]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(18, 5.5))
    labels = {"psnr": "PSNR (dB)", "msssim_db": "MS-SSIM (dB)", "ssimulacra2": "SSIMULACRA2"}
    for axis, metric in zip(axes, METRICS, strict=True):
        for codec, curve in curves.items():
            style = {"linewidth": 2.5, "color": "black"} if codec == OURS else {"linewidth": 1.2}
            axis.plot([p["bpp"] for p in curve], [p[metric] for p in curve], marker="o", label=codec, **style)
        axis.set(xlabel="bits per pixel", ylabel=labels[metric], xscale="log")
        axis.grid(alpha=0.3)
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("../shared/data/kodak"), help="pictures to measure on")
    parser.add_argument("--model", help="name or id of an installed model; the default one otherwise")
    parser.add_argument("--codecs", default=",".join(CODECS), help="comma-separated")
    parser.add_argument("--limit", type=int, default=0, help="only so many pictures")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cache", type=Path, default=Path(".cache/anchors.json"))
    parser.add_argument("--plot", type=Path, help="draw the curves into this PNG")
    parser.add_argument("--json", type=Path, help="write every figure into this file")
    args = parser.parse_args(arguments)
    paths = sorted(path for path in args.folder.glob("*") if path.suffix.lower() in (".png", ".jpg", ".avif", ".webp"))
    if not paths:
        parser.error(f"no pictures in {args.folder}")
    codecs = args.codecs.split(",")
    if OURS in codecs:
        model = bundle.find_model(args.model)
        print(f"model {model.name} ({model.model_id.hex()}), {len(paths[: args.limit or None])} pictures of {args.folder}")
    result = measure_all(paths[: args.limit or None], codecs, args.model, args.cache, args.workers)
    figures = report(result)
    if args.plot:
        plot(figures["curves"], args.plot)
    if args.json:
        args.json.write_text(json.dumps({**figures, "pictures": result}, indent=1))


if __name__ == "__main__":
    with one_line("evaluate"):
        main()
