"""The demo: one picture in SGC, and in JPEG, WebP and AVIF at the same bytes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .bench.codecs import OURS, Codec, load, present, share_threads
from .files import write_atomically

RIVALS = ("JPEG", "WebP", "AVIF")
PANEL = 384  # pixels a side of each crop shown


class Coded(NamedTuple):
    name: str
    data: bytes
    decoded: Image.Image
    encode_ms: float
    decode_ms: float


def compare(picture: Image.Image, quality: float, output: Path) -> str:
    """Save ``picture`` by every codec, write crops side by side to ``output``, and return a table."""
    (ours,) = present([OURS])
    share_threads()
    coded, told = [_code(OURS, ours, picture, quality)], ""
    for codec in present():
        if codec.name not in RIVALS:
            continue
        try:
            best = codec.nearest(picture, len(coded[0].data))
            coded.append(_code(f"{codec.name} q{best}", codec, picture, best))
        except (OSError, ValueError) as error:  # WebP ends at 16383 pixels a side, JPEG at 65500
            told += f"\n{codec.name} cannot hold it: {error}"
    write_atomically(output, lambda file: side_by_side(picture, coded).save(file, "PNG"))
    title = f"{picture.width}x{picture.height}, SGC quality {quality:g}"
    return f"{title}\n{_table(picture, coded)}{told}\nside by side: {output}"


def _code(name: str, codec: Codec, picture: Image.Image, quality: float) -> Coded:
    data, encode_ms = _timed(lambda: codec.save(picture, quality))
    decoded, decode_ms = _timed(lambda: load(data))
    return Coded(name, data, decoded.convert("RGB"), encode_ms, decode_ms)


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """(result, median of three times in ms); the first run, which loads the model, is not counted."""
    result, times = work(), []
    for _ in range(3):
        start = time.perf_counter()
        result = work()
        times.append(1000 * (time.perf_counter() - start))
    return result, statistics.median(times)


def _table(picture: Image.Image, coded: list[Coded]) -> str:
    from .metrics import msssim, psnr, ssimulacra2

    original = np.asarray(picture)
    rows = [f"{'':10}{'bytes':>9}{'bpp':>8}{'PSNR':>8}{'MS-SSIM':>9}{'SSIMULACRA2':>13}{'encode':>10}{'decode':>10}"]
    for name, data, decoded, encode_ms, decode_ms in coded:
        pixels = np.asarray(decoded)
        rows.append(
            f"{name:10}{len(data):9}{8 * len(data) / (picture.width * picture.height):8.3f}{psnr(original, pixels):8.2f}"
            f"{msssim(original, pixels):9.4f}{ssimulacra2(original, pixels):13.2f}{encode_ms:7.0f} ms{decode_ms:7.0f} ms"
        )
    return "\n".join(rows)


def side_by_side(picture: Image.Image, coded: list[Coded]) -> Image.Image:
    """The same crop of the original and of every codec's result, each with its bytes, the busiest place chosen."""
    width, height = crop_side(picture.size)
    left, top = busiest(picture, width, height)
    panels = [("original", picture), *((f"{c.name}: {len(c.data)} bytes", c.decoded) for c in coded)]
    sheet = Image.new("RGB", ((width + 8) * len(panels) - 8, height + 24), "white")
    draw = ImageDraw.Draw(sheet)
    for k, (title, image) in enumerate(panels):
        sheet.paste(image.crop((left, top, left + width, top + height)), (k * (width + 8), 24))
        draw.text((k * (width + 8) + 2, 4), title, fill="black", font=ImageFont.load_default(14))
    return sheet


def crop_side(size: tuple[int, int]) -> tuple[int, int]:
    """Width and height of a crop to show of a picture of this size."""
    return min(PANEL, size[0]), min(PANEL, size[1])


def busiest(picture: Image.Image, width: int, height: int) -> tuple[int, int]:
    """Corner of the window with the largest sum of vertical and horizontal differences, on a grid of 32 pixels."""
    grey = np.asarray(picture.convert("L"), np.float32)
    energy = np.abs(np.diff(grey, axis=0, prepend=grey[:1])) + np.abs(np.diff(grey, axis=1, prepend=grey[:, :1]))
    sums = np.pad(energy.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    corners = [
        (float(sums[y + height, x + width] - sums[y, x + width] - sums[y + height, x] + sums[y, x]), x, y)
        for y in range(0, grey.shape[0] - height + 1, 32)
        for x in range(0, grey.shape[1] - width + 1, 32)
    ]
    _, x, y = max(corners)
    return x, y
