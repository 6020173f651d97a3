"""Quality over bytes, from real files: every picture saved by every codec at every quality, and read back.

Curves are means over pictures at equal settings; BD-rates are computed from them by the package bjontegaard (Akima
interpolation of log-rate over the common range), for SSIMULACRA2 also from a score of 50 on, where pictures begin to look
good. Figures of the other codecs may be cached, for they do not change.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from importlib.metadata import version
from io import BytesIO
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL
from PIL import Image

from .. import options
from ..convert import as_rgb, end_with_parent
from ..files import write_text
from ..metrics import msssim, msssim_db, psnr, ssimulacra2
from .codecs import OURS, Codec, load, present

METRICS = ("psnr", "msssim_db", "ssimulacra2")
GOOD = 50.0  # SSIMULACRA2's medium quality
BD_METRICS = (*METRICS, "ssimulacra2_good")
TITLES = {"psnr": "PSNR (dB)", "msssim_db": "MS-SSIM (dB)", "ssimulacra2": "SSIMULACRA2", "ssimulacra2_good": "from 50 on"}
MEASURE = 3  # of ``measure``, as caches know it: to be raised where its figures change
Row = dict[str, float]  # bpp, psnr, msssim, ssimulacra2
Figures = dict[str, dict[int, Row]]  # by picture and quality


def read_rgb(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return as_rgb(image)


def photographs(folder: Path) -> list[Path]:
    """The pictures in a folder of photographs, by their names."""
    return sorted(path for path in folder.iterdir() if path.suffix in (".png", ".tif", ".jpg"))


def measure(path: Path, codec: Codec, quality: int) -> Row:
    """Save one picture with one codec at one quality, and compare what comes back."""
    picture = read_rgb(path)
    return compared(picture, codec.save(picture, quality))


def compared(picture: Image.Image, data: bytes) -> Row:
    """What a file of an RGB picture costs, and how near it comes."""
    a, b = np.asarray(picture), np.asarray(load(data).convert("RGB"))
    bpp = 8 * len(data) / (picture.width * picture.height)
    return {"bpp": bpp, "psnr": psnr(a, b), "msssim": msssim(a, b), "ssimulacra2": ssimulacra2(a, b)}


def coded(picture: Image.Image, format: str, **options: Any) -> tuple[int, float]:
    """(bytes, SSIMULACRA2) of an RGB picture that Pillow saves and reads back."""
    file = BytesIO()
    picture.save(file, format, **options)
    with Image.open(file) as decoded:
        return len(file.getvalue()), ssimulacra2(np.asarray(picture), np.asarray(decoded.convert("RGB")))


def _start_worker(providers: tuple[str, ...]) -> None:
    end_with_parent()
    options.THREADS, options.PROVIDERS = 1, providers
    present()


def measure_all(
    paths: list[Path], codecs: list[Codec], cache: Path | None, workers: int
) -> Iterator[tuple[str, str, int, Row | str]]:
    """(codec, picture, quality, row) as they come; instead of a row, what went wrong. ``cache`` holds the other codecs'."""
    known = _cached(cache) if cache and cache.exists() else {}
    jobs = [_Job(path, codec, quality) for path in paths for codec in codecs for quality in codec.qualities]
    keys = {path: _digest(path) for path in paths}
    measured_by = f"pillow {PIL.__version__} ssimulacra2 {version('ssimulacra2')} {MEASURE}"

    def key(job: _Job) -> str:
        return f"{job.codec.label()} {job.codec.version()} q{job.quality} {keys[job.path]} {measured_by}"

    try:
        new = []
        for job in jobs:
            if job.codec.name != OURS and (row := known.get(key(job))) is not None:
                yield job.codec.name, job.path.name, job.quality, row
            else:
                new.append(job)
        for job, found in _results(new, workers):
            if not isinstance(found, str) and job.codec.name != OURS:
                known[key(job)] = found
            yield job.codec.name, job.path.name, job.quality, found
    finally:  # what an interrupted run has measured is not lost
        if cache:
            cache.parent.mkdir(parents=True, exist_ok=True)
            write_text(cache, json.dumps(known))


class _Job(NamedTuple):
    path: Path
    codec: Codec
    quality: int


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError:
        return ""  # it will be told by whoever reads it


def _pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (options.PROVIDERS,))


def _results(jobs: list[_Job], workers: int) -> Iterator[tuple[_Job, Row | str]]:
    """What ``measure`` makes of every job. One that ends its process takes none of the others along: all that were waiting
    are done once more, one at a time.
    """
    again: list[_Job] = []
    pool = _pool(workers)
    try:
        waiting: list[tuple[_Job, Future[Row] | None]] = []
        for job in jobs:
            try:
                waiting.append((job, pool.submit(measure, *job)))
            except BrokenProcessPool:
                waiting.append((job, None))
        for job, future in waiting:
            found = _result(future)
            if found is None:
                again.append(job)
            else:
                yield job, found
        for job in again:
            pool.shutdown(wait=False, cancel_futures=True)
            pool = _pool(1)
            yield job, _result(pool.submit(measure, *job)) or "its process ended: a crash, or no memory left"
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _result(future: Future[Row] | None) -> Row | str | None:
    """A row, or what went wrong; None where the process that should have made it is gone."""
    try:
        return None if future is None else future.result()
    except BrokenProcessPool:
        return None
    except Exception as error:  # Pillow's readers raise whatever a broken file makes them
        return f"{type(error).__name__}: {error}"


def _cached(path: Path) -> dict[str, Row]:
    try:
        known: dict[str, Row] = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no cache of figures ({error}); remove it") from error
    return known


def mean_curve(pictures: Figures) -> list[Row]:
    """One point per quality, in order of rate: means over pictures; MS-SSIM in dB is that of the mean.

    A figure is the mean of the pictures that have it at all qualities: those too small for MS-SSIM, or exact at some, count
    in the others only.
    """
    qualities = list(next(iter(pictures.values())))
    curve = []
    for quality in qualities:
        point = {
            key: float(np.mean([rows[quality][key] for rows in pictures.values() if _has(rows, key)] or [np.nan]))
            for key in next(iter(pictures.values()))[quality]
        }
        curve.append({"quality": quality, **point, "msssim_db": msssim_db(point["msssim"])})
    return sorted(curve, key=lambda point: point["bpp"])


def _has(rows: dict[int, Row], key: str) -> bool:
    return all(np.isfinite(row[key]) for row in rows.values())


def bd_rate(anchor: list[Row], test: list[Row], metric: str, least: float = -np.inf) -> float:
    """Percent of bytes against ``anchor`` at equal quality, over the common range of quality; NaN where there is none.

    Args:
        least: quality that the range begins at.
    """
    import bjontegaard
    from scipy.interpolate import Akima1DInterpolator

    curves = []
    for curve in (anchor, test):
        rising: list[Row] = []
        for point in curve:  # interpolation needs strictly rising quality
            if np.isfinite(point[metric]) and (not rising or point[metric] > rising[-1][metric]):
                rising.append(point)
        if len(rising) < 4:
            return float("nan")
        bpp, quality = (np.array([p[key] for p in rising]) for key in ("bpp", metric))
        if least > quality[0]:
            if least >= quality[-1]:
                return float("nan")
            begin = float(np.exp(Akima1DInterpolator(quality, np.log(bpp))(least)))
            bpp, quality = np.append(begin, bpp[quality > least]), np.append(least, quality[quality > least])
            if len(bpp) < 4:
                return float("nan")
        curves += [bpp, quality]
    low, high = max(curves[1][0], curves[3][0]), min(curves[1][-1], curves[3][-1])
    if high <= low:
        return float("nan")
    return float(bjontegaard.bd_rate(*curves, method="akima", require_matching_points=False, min_overlap=0))


def bd_rates(figures: dict[str, Figures]) -> dict[str, dict[str, float]]:
    """{other codec: {metric: % of bytes of SGC against it}}, over the pictures that both have coded, and whose figures are
    finite at all settings of both.
    """
    ours, found = figures.get(OURS, {}), {}
    for name, others in figures.items():
        both = [picture for picture in ours if picture in others]
        if name != OURS and both:
            found[name] = {metric: _bd_rate_of(ours, others, both, metric) for metric in METRICS}
            found[name]["ssimulacra2_good"] = _bd_rate_of(ours, others, both, "ssimulacra2", GOOD)
    return found


def _bd_rate_of(ours: Figures, others: Figures, pictures: list[str], metric: str, least: float = -np.inf) -> float:
    key = "msssim" if metric == "msssim_db" else metric
    finite = [picture for picture in pictures if _has(ours[picture], key) and _has(others[picture], key)]
    if not finite:
        return float("nan")
    test, anchor = (mean_curve({picture: f[picture] for picture in finite}) for f in (ours, others))
    return bd_rate(anchor, test, metric, least)


def not_rising(pictures: Figures) -> list[str]:
    """Pictures on which bytes or PSNR do not rise with quality."""
    found = []
    for name, rows in pictures.items():
        points = [rows[q] for q in sorted(rows)]
        for key in ("bpp", "psnr"):
            values = [point[key] for point in points]
            if any(b <= a for a, b in pairwise(values)):
                found.append(f"{name}: {key} {[round(v, 3) for v in values]}")
    return found


def tables(curves: dict[str, list[Row]], rates: dict[str, dict[str, Any]]) -> str:
    """Curves and BD-rates for a terminal."""
    lines = []
    for name, curve in curves.items():
        lines.append(f"\n{name:10} {'quality':>8} {'bpp':>8} {'PSNR':>8} {'MS-SSIM':>9} {'SSIMULACRA2':>12}")
        lines += [
            f"{'':10} {p['quality']:8.0f} {p['bpp']:8.4f} {p['psnr']:8.3f} {p['msssim']:9.5f} {p['ssimulacra2']:12.2f}"
            for p in curve
        ]
    if rates:
        lines.append(f"\nBD-rate of {OURS}, % of bytes   " + " ".join(f"{TITLES[metric]:>13}" for metric in BD_METRICS))
        lines += [f"  against {name:22}" + " ".join(f"{row[m]:13.2f}" for m in BD_METRICS) for name, row in rates.items()]
    return "\n".join(lines)
