"""One self-contained page of what was measured, and the same as JSON and CSV."""

from __future__ import annotations

import base64
import csv
import html
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from PIL import Image

from ..demo import busiest, crop_side
from ..files import write_text
from .codecs import OURS, Codec, load
from .curves import BD_METRICS, METRICS, TITLES, Row

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1180px; margin: 2em auto; padding: 0 1em; color: #1c2024; }
h1, h2 { font-weight: 600; } h2 { margin-top: 2em; border-bottom: 1px solid #d8dde2; }
table { border-collapse: collapse; } td, th { padding: .25em .8em; text-align: right; border-bottom: 1px solid #e7eaed; }
td:first-child, th:first-child { text-align: left; } img { max-width: 100%; }
.ours { font-weight: 600; background: #eef6ee; }
.crops { display: flex; flex-wrap: wrap; gap: 10px; } figure { margin: 0; } figcaption { font-size: 13px; color: #55606a; }
.note { color: #55606a; max-width: 70em; } details { margin: 1em 0; }
"""


def write(folder: Path, results: dict[str, Any], crops: list[str]) -> None:
    """``report.html``, ``results.json`` and ``results.csv`` into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "results.json", json.dumps(_finite(results), indent=1, allow_nan=False))
    write_text(folder / "results.csv", _csv(results))
    write_text(folder / "report.html", page(results, crops))


def _finite(value: Any) -> Any:
    """JSON has no number for what is infinite or undefined."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _percent(value: float) -> str:
    return f"{value:+.1f} %" if math.isfinite(value) else "–"


def _csv(results: dict[str, Any]) -> str:
    file = io.StringIO()
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(["codec", "picture", "quality", "bpp", "psnr", "msssim", "ssimulacra2"])
    for codec, pictures in results["pictures"].items():
        for name, points in pictures.items():
            for quality, row in points.items():
                rows.writerow([codec, name, quality, row["bpp"], row["psnr"], row["msssim"], row["ssimulacra2"]])
    return file.getvalue()


def page(results: dict[str, Any], crops: list[str]) -> str:
    """The HTML page; everything it shows is inside it."""
    about = results["about"]
    parts = [
        f"<h1>SGC on {html.escape(about['folder'])}</h1>",
        f"<p class=note>{about['pictures']} pictures, {about['megapixels']:.1f} megapixels. "
        f"Model {html.escape(about['model'])}, {html.escape(about['packages'])}; {html.escape(about['machine'])}. "
        "Bytes are those of whole files; pictures are saved without their metadata; curves are means over pictures at equal "
        "settings; BD-rates are over the common range of quality, by Akima interpolation.</p>",
        "<h2>Bytes at equal quality</h2>",
    ]
    if results["bd_rate"]:
        parts.append("<p class=note>Bytes of SGC against the others: negative means fewer.</p>")
        rows = [[f"against {name}", *(_percent(row[m]) for m in BD_METRICS)] for name, row in results["bd_rate"].items()]
        parts.append(table(["", *(TITLES[m].split(" (")[0] for m in BD_METRICS)], rows))
    parts.append(picture(lambda path: plot_curves(results["curves"], path), "quality over bits per pixel"))
    if crops:
        parts.append("<h2>Side by side at equal bytes</h2>")
        parts += crops
    parts += _costs(results)
    parts.append("<h2>Every point</h2><details><summary>curves as numbers</summary>")
    for name, curve in results["curves"].items():
        rows = [
            [f"{name} {p['quality']:.0f}", f"{p['bpp']:.4f}", *(f"{p[m]:.3f}" for m in METRICS)]  # one point
            for p in curve
        ]
        parts.append(table(["setting", "bits per pixel", *(TITLES[m] for m in METRICS)], rows))
    parts.append("</details>")
    for title in ("failures", "not_rising"):
        if results[title]:
            lines = "".join(f"<li>{html.escape(line)}</li>" for line in results[title])
            parts.append(f"<h2>{title.replace('_', ' ').capitalize()}</h2><ul>{lines}</ul>")
    head = f"<meta charset=utf-8><title>SGC benchmark</title><style>{STYLE}</style>"
    return f"<!doctype html><html lang=en><head>{head}</head><body>{''.join(parts)}</body></html>"


def table(head: list[str], rows: list[list[str]]) -> str:
    def cells(values: list[str], kind: str) -> str:
        return "".join(f"<{kind}>{html.escape(value)}</{kind}>" for value in values)

    ours = ' class="ours"'
    lines = [f"<tr{ours if row[0].split()[0] == OURS else ''}>{cells(row, 'td')}</tr>" for row in rows]
    return f"<table><tr>{cells(head, 'th')}</tr>{''.join(lines)}</table>"


def _costs(results: dict[str, Any]) -> list[str]:
    parts = []
    if costs := results["costs"]:
        parts.append("<h2>Time and memory of a picture</h2>")
        parts.append(
            "<p class=note>Medians in a warm process, means over pictures; the others at the quality whose bytes are "
            "nearest to SGC's. Memory is the peak of a fresh process, Python and the picture included.</p>"
        )
        rival = costs.get("AVIF")
        rows = []
        for name, cost in costs.items():
            ratios = [f"{cost[k] / rival[k]:.2f}" if rival else "" for k in ("encode_ms", "decode_ms")]
            peaks = (cost.get(k, math.nan) for k in ("encode_mb", "decode_mb"))
            megabytes = [f"{peak:.0f}" if math.isfinite(peak) else "" for peak in peaks]
            row = [
                name,
                f"{cost['bytes']:.0f}",
                f"{cost['encode_ms']:.1f}",
                ratios[0],
                f"{cost['decode_ms']:.1f}",
                ratios[1],
            ]
            rows.append(row + megabytes)
        head = ["codec", "bytes", "encode ms", "÷ AVIF", "decode ms", "÷ AVIF", "encode MB", "decode MB"]
        parts.append(table(head, rows))
    if growth := results["growth"]:
        parts.append(
            "<h2>Cost as work grows</h2><p class=note>Fresh processes, the loading of the model included; the others at the "
            "quality whose bytes are nearest to SGC's on the first picture.</p>"
        )
        parts.append(picture(lambda path: plot_growth(growth, path), "time and memory over megapixels, threads and files"))
    return parts


# ---- pictures --------------------------------------------------------------------------------------------------


def picture(draw: Callable[[IO[bytes]], None], title: str) -> str:
    file = io.BytesIO()
    draw(file)
    return _inline(file.getvalue(), title)


def _inline(png: bytes, title: str) -> str:
    return f'<img alt="{html.escape(title)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def crops_of(name: str, original: Image.Image, codecs: list[Codec], quality: int) -> str:
    """The busiest place of a picture as every codec shows it, each at about the bytes of SGC."""
    ours = next(codec for codec in codecs if codec.name == OURS)
    wanted = len(ours.save(original, quality))
    width, height = crop_side(original.size)
    left, top = busiest(original, width, height)
    shown = [("original", original)]
    for codec in codecs:
        chosen = quality if codec is ours else codec.nearest(original, wanted)
        data = codec.save(original, chosen)
        shown.append((f"{codec.name} {chosen}: {len(data)} bytes", load(data).convert("RGB")))
    figures = []
    for title, image in shown:
        file = io.BytesIO()
        image.crop((left, top, left + width, top + height)).save(file, "PNG")
        figures.append(f"<figure>{_inline(file.getvalue(), title)}<figcaption>{html.escape(title)}</figcaption></figure>")
    return f"<h3>{html.escape(name)}</h3><div class=crops>{''.join(figures)}</div>"


def plot_curves(curves: dict[str, list[Row]], file: Any) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(18, 5.5))
    for axis, metric in zip(figure.subplots(1, 3), METRICS, strict=True):
        for name, curve in curves.items():
            style = {"linewidth": 2.5, "color": "black"} if name == OURS else {"linewidth": 1.2}
            axis.plot([p["bpp"] for p in curve], [p[metric] for p in curve], marker="o", label=name, **style)
        axis.set(xlabel="bits per pixel", ylabel=TITLES[metric], xscale="log")
        axis.grid(alpha=0.3)
        axis.legend()
    figure.tight_layout()
    figure.savefig(file, format="png", dpi=80)


def plot_growth(growth: dict[str, list[dict[str, Any]]], file: Any) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(18, 10))
    axes = figure.subplots(2, 3).flat
    pixels = growth.get("pixels", [])
    names = list(dict.fromkeys(row["codec"] for row in pixels))
    panels = (("encode_s", "seconds to encode"), ("decode_s", "seconds to decode"), ("encode_mb", "MB to encode"))
    for axis, (key, title) in zip(axes, (*panels, ("decode_mb", "MB to decode")), strict=False):
        for name in names:
            rows = [row for row in pixels if row["codec"] == name]
            style = {"linewidth": 2.5, "color": "black"} if name == OURS else {"linewidth": 1.2}
            axis.plot([r["megapixels"] for r in rows], [r[key] for r in rows], marker="o", label=name, **style)
        axis.set(xlabel="megapixels", ylabel=title, xscale="log", yscale="log")
        if names:
            axis.legend()
    threads, files = list(figure.axes)[4:]
    for key in ("encode_ms", "decode_ms"):
        rows = growth.get("threads", [])
        threads.plot([r["threads"] for r in rows], [r[key] for r in rows], marker="o", label=key.split("_", maxsplit=1)[0])
    threads.set(xlabel="threads", ylabel="ms a picture", ylim=(0, None))
    threads.legend()
    rows = growth.get("files", [])
    files.plot([r["files"] for r in rows], [r["seconds"] for r in rows], marker="o", color="black")
    files.set(xlabel="files", ylabel="seconds to convert", xscale="log", yscale="log")
    for axis in figure.axes:
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(file, format="png", dpi=80)
