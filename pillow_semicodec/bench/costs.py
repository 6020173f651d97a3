"""Time and memory: of one picture, and as pixels, threads and files grow. Figures are to be compared within a run only.

Peak memory is the high-water mark of a fresh process that does one thing (Linux; elsewhere it is left out).
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from .. import options
from ..convert import Job, Settings, run_pool
from .codecs import OURS, Codec, load, share_threads

REPEATS = 5
Cost = dict[str, float]  # encode_ms, decode_ms, encode_mb, decode_mb, bytes, megapixels

_CHILD = """
import dataclasses, json, sys, time
from pathlib import Path
from PIL import Image
import pillow_semicodec
from pillow_semicodec.bench import codecs
Image.MAX_IMAGE_PIXELS = None
Image.init()  # Pillow's plugins, before any clock: it imports all of them where it does not know a format by its extension
work, name, settings, quality, threads, providers, source, target = sys.argv[1:]
limits = pillow_semicodec.Limits(max_pixels=2**31)
pillow_semicodec.register(threads=int(threads), limits=limits, providers=json.loads(providers))
codec = dataclasses.replace(codecs.present([name])[0], settings=json.loads(settings))
codecs.share_threads()
def peak():
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return float(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024
    except (OSError, StopIteration):
        return float("nan")
if work == "encode":
    picture = Image.open(source)
    picture.load()
    start = time.perf_counter()
    data = codec.save(picture, int(quality))
    seconds = time.perf_counter() - start
    Path(target).write_bytes(data)
else:
    data = Path(source).read_bytes()
    start = time.perf_counter()
    codecs.load(data)
    seconds = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "mb": peak(), "bytes": len(data)}))
"""


def in_child(work: str, codec: Codec, quality: int, source: Path, target: Path = Path()) -> dict[str, float]:
    """Encode ``source`` into ``target``, or decode it, in a fresh process: seconds (with loading the model), MB, bytes.

    Raises:
        RuntimeError: it failed; the message ends with the last line that it wrote.
    """
    settings, providers = json.dumps(codec.settings), json.dumps(options.PROVIDERS)
    how = [work, codec.name, settings, str(quality), str(options.THREADS), providers]
    command = [sys.executable, "-c", _CHILD, *how, str(source), str(target)]
    result = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if result.returncode:
        told = result.stderr.strip().splitlines() or ["killed: out of memory?"]
        raise RuntimeError(f"{work} with {codec.name}, {source.name}: {told[-1]}")
    figures: dict[str, float] = json.loads(result.stdout)
    return figures


def median_ms(work: Callable[[], Any]) -> float:
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def times(pictures: list[Image.Image], codecs: list[Codec], quality: int) -> dict[str, Cost]:
    """Milliseconds a picture in a warm process; the other codecs at the quality whose bytes are nearest to SGC's."""
    share_threads()
    sums: dict[str, Cost] = {codec.name: dict.fromkeys(("encode_ms", "decode_ms", "bytes"), 0.0) for codec in codecs}
    for picture in pictures:
        for codec, chosen in _alike(picture, codecs, quality):
            data = codec.save(picture, chosen)
            load(data)
            cost = sums[codec.name]
            cost["bytes"] += len(data) / len(pictures)
            cost["encode_ms"] += median_ms(lambda: codec.save(picture, chosen)) / len(pictures)  # noqa: B023
            cost["decode_ms"] += median_ms(lambda: load(data)) / len(pictures)  # noqa: B023
    return sums


def _alike(picture: Image.Image, codecs: list[Codec], quality: int) -> list[tuple[Codec, int]]:
    """All codecs with the qualities at which the picture takes about as many bytes as with ours."""
    ours = next((codec for codec in codecs if codec.name == OURS), None)
    wanted = len(ours.save(picture, quality)) if ours else picture.width * picture.height // 16
    return [(codec, quality if codec is ours else codec.nearest(picture, wanted)) for codec in codecs]


def memory(picture: Image.Image, codecs: list[Codec], quality: int) -> dict[str, Cost]:
    """Peak MB of a process that encodes, and of one that decodes."""
    found: dict[str, Cost] = {}
    with tempfile.TemporaryDirectory() as folder:
        source, file = Path(folder, "source.ppm"), Path(folder, "coded")
        picture.save(source)
        for codec, chosen in _alike(picture, codecs, quality):
            encoded = in_child("encode", codec, chosen, source, file)
            found[codec.name] = {"encode_mb": encoded["mb"], "decode_mb": in_child("decode", codec, chosen, file)["mb"]}
    return found


def enlarged(picture: Image.Image, megapixels: float) -> Image.Image:
    """The picture at another size, in tiles of itself where it would be blown up."""
    scale = (megapixels * 1e6 / (picture.width * picture.height)) ** 0.5
    size = round(picture.width * scale), round(picture.height * scale)
    if scale <= 1:
        return picture.resize(size, Image.Resampling.LANCZOS)
    tiled = Image.new("RGB", size)
    for top in range(0, size[1], picture.height):
        for left in range(0, size[0], picture.width):
            tiled.paste(picture, (left, top))
    return tiled


def by_pixels(
    picture: Image.Image, codecs: list[Codec], quality: int, most: float, failures: list[str]
) -> list[Cost | dict[str, Any]]:
    """Seconds and peak memory from 0.1 to ``most`` megapixels, in fresh processes, at about the same bytes; a codec that
    fails goes no further.
    """
    rows: list[Cost | dict[str, Any]] = []
    going = _alike(picture, codecs, quality)
    sizes = [size for size in (0.1, 0.4, 1, 3, 12, 24, 50, 100, 400, 1000) if size <= most]
    with tempfile.TemporaryDirectory() as folder:
        source, file = Path(folder, "source.ppm"), Path(folder, "coded")
        for size in sizes:
            enlarged(picture, size).save(source)
            for codec, chosen in list(going):
                try:
                    encoded = in_child("encode", codec, chosen, source, file)
                    decoded = in_child("decode", codec, chosen, file)
                except RuntimeError as error:
                    failures.append(f"{size} megapixels: {error}")
                    going.remove((codec, chosen))
                    continue
                rows.append({"codec": codec.name, "megapixels": size, **_both(encoded, decoded)})
    return rows


def _both(encoded: dict[str, float], decoded: dict[str, float]) -> dict[str, float]:
    of_encode = {"encode_s": encoded["seconds"], "encode_mb": encoded["mb"], "bytes": encoded["bytes"]}
    return {**of_encode, "decode_s": decoded["seconds"], "decode_mb": decoded["mb"]}


def by_threads(picture: Image.Image, ours: Codec, quality: int, most: int) -> list[Cost]:
    """Milliseconds of one to ``most`` threads."""
    rows, before = [], options.THREADS
    data = ours.save(picture, quality)
    try:
        for threads in range(1, most + 1):
            options.THREADS = threads
            load(data)
            encode, decode = median_ms(lambda: ours.save(picture, quality)), median_ms(lambda: load(data))
            rows.append({"threads": threads, "encode_ms": encode, "decode_ms": decode})
    finally:
        options.THREADS = before
    return rows


def by_files(picture: Image.Image, ours: Codec, quality: int, most: int, workers: int, failures: list[str]) -> list[Cost]:
    """Seconds of one to ``most`` files through the pool of ``sgc convert``, its start included."""
    rows: list[Cost] = []
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "source.png")
        picture.save(source)
        for count in (n for n in (1, 10, 100, 1000) if n <= most):
            jobs = [Job(str(source), str(Path(folder, f"{count}-{k}.sgc"))) for k in range(count)]
            start = time.perf_counter()
            settings = Settings({**ours.settings, "quality": quality})
            failed = [outcome for outcome in run_pool(jobs, settings, min(workers, count), 1) if outcome.error]
            rows.append({"files": count, "seconds": time.perf_counter() - start, "failed": len(failed)})
            failures += [f"one of {count} files: {outcome.error}" for outcome in failed[:3]]
    return rows
