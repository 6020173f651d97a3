"""Quality over bytes, from real files: every picture saved by every codec at every quality, and read back.

Curves are means over pictures at equal settings; BD-rates are computed from them by the package bjontegaard (Akima
interpolation of log-rate over the common range). Figures of the other codecs may be cached, for they do not change.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from io import BytesIO
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import IO, Any

import numpy as np
import PIL
from PIL import Image

from .. import options
from ..convert import end_with_parent, in_eight_bits
from ..files import write_atomically
from ..metrics import msssim, msssim_db, psnr, ssimulacra2
from .codecs import OURS, Codec, load, present

METRICS = ("psnr", "msssim_db", "ssimulacra2")
TITLES = {"psnr": "PSNR (dB)", "msssim_db": "MS-SSIM (dB)", "ssimulacra2": "SSIMULACRA2"}
Row = dict[str, float]  # bpp, psnr, msssim, ssimulacra2
Figures = dict[str, dict[int, Row]]  # by picture and quality


def read_rgb(path: Path) -> Image.Image:
    """RGB, transparency put on white."""
    with Image.open(path) as image:
        if image.has_transparency_data:
            return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA")).convert("RGB")
        return in_eight_bits(image).convert("RGB")


def measure(path: Path, codec: Codec, quality: int) -> Row:
    """Save one picture with one codec at one quality, and compare what comes back."""
    picture = read_rgb(path)
    data = codec.save(picture, quality)
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
    with ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (options.PROVIDERS,)) as pool:
        jobs: list[tuple[str, str, int, str, Future[Row] | None]] = []
        for path in paths:
            try:
                digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
            except OSError:
                digest = ""  # it will be told by whoever reads it
            for codec in codecs:
                for quality in codec.qualities:
                    key = f"{codec.label()} q{quality} {digest} pillow {PIL.__version__}"
                    known_already = codec.name != OURS and key in known
                    future = None if known_already else pool.submit(measure, path, codec, quality)
                    jobs.append((codec.name, path.name, quality, key, future))
        try:
            for name, picture, quality, key, future in jobs:
                try:
                    row = known[key] if future is None else future.result()
                except Exception as error:  # Pillow's readers raise whatever a broken file makes them
                    yield name, picture, quality, f"{type(error).__name__}: {error}"
                    continue
                if name != OURS:
                    known[key] = row
                yield name, picture, quality, row
        finally:  # what an interrupted run has measured is not lost
            pool.shutdown(wait=False, cancel_futures=True)
            if cache:
                cache.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(cache, lambda file: _dump(known, file))


def _dump(known: dict[str, Row], file: IO[bytes]) -> None:
    file.write(json.dumps(known).encode())


def _cached(path: Path) -> dict[str, Row]:
    try:
        known: dict[str, Row] = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no cache of figures ({error}); remove it") from error
    return known


def mean_curve(pictures: Figures) -> list[Row]:
    """One point per quality, in order of rate: means over pictures; MS-SSIM in dB is that of the mean.

    Pictures too small for MS-SSIM count in the other figures.
    """
    qualities = list(next(iter(pictures.values())))
    curve = []
    for quality in qualities:
        rows = [rows[quality] for rows in pictures.values()]
        point = {key: _mean([row[key] for row in rows]) for key in rows[0]}
        curve.append({"quality": quality, **point, "msssim_db": msssim_db(point["msssim"])})
    return sorted(curve, key=lambda point: point["bpp"])


def _mean(values: list[float]) -> float:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")


def bd_rate(anchor: list[Row], test: list[Row], metric: str) -> float:
    """Percent of bytes against ``anchor`` at equal quality, over the common range of quality; NaN where there is none."""
    import bjontegaard

    curves = []
    for curve in (anchor, test):
        rising: list[Row] = []
        for point in curve:  # interpolation needs strictly rising quality
            if np.isfinite(point[metric]) and (not rising or point[metric] > rising[-1][metric]):
                rising.append(point)
        if len(rising) < 4:
            return float("nan")
        curves += [[p["bpp"] for p in rising], [p[metric] for p in rising]]
    low, high = max(curves[1][0], curves[3][0]), min(curves[1][-1], curves[3][-1])
    if high <= low:
        return float("nan")
    return float(bjontegaard.bd_rate(*curves, method="akima", require_matching_points=False, min_overlap=0))


def bd_rates(figures: dict[str, Figures]) -> dict[str, dict[str, float]]:
    """{other codec: {metric: % of bytes of SGC against it}}, over the pictures that both have coded."""
    ours, found = figures.get(OURS, {}), {}
    for name, others in figures.items():
        both = [picture for picture in ours if picture in others]
        if name != OURS and both:
            test, anchor = (mean_curve({picture: f[picture] for picture in both}) for f in (ours, others))
            found[name] = {metric: bd_rate(anchor, test, metric) for metric in METRICS}
    return found


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
        lines.append(f"\nBD-rate of {OURS}, % of bytes   " + " ".join(f"{TITLES[metric]:>13}" for metric in METRICS))
        lines += [f"  against {name:22}" + " ".join(f"{row[m]:13.2f}" for m in METRICS) for name, row in rates.items()]
    return "\n".join(lines)
