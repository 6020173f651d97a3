"""Times as ratios against Pillow's AVIF in one run, cost of every network, peak memory.

``python tests/benchmarks/speed.py [FOLDER] [--quality Q] [--threads N]``; FOLDER defaults to the Kodak pictures. AVIF is
saved at speed 6 with the quality whose bytes are nearest. Every figure is the median over repeats; ratios are of sums
over pictures.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from PIL import Image

import pillow_semicodec as sgc
from pillow_semicodec import inference
from pillow_semicodec.bundle import GRAPHS, ModelBundle, find_model
from pillow_semicodec.demo import nearest_quality

REPEATS = 5
ENCODER_ONLY = ("analysis", "hyper_analysis")


def median_ms(work: Callable[[], Any]) -> float:
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def saved(image: Image.Image, kind: str, **settings: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def loaded(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def kilo_macs(bundle: ModelBundle, name: str, height: int = 512, width: int = 768) -> float:
    """Multiply–accumulates of a graph's convolutions per pixel, in thousands."""
    model = onnx.load_from_string(bundle.part(f"{name}.onnx"))
    divisor = {"pixels": 1, "z_hat": 64}
    for value in model.graph.input:
        scale = divisor.get(value.name, 16)
        dims = value.type.tensor_type.shape.dim
        spatial = (dims[1], dims[2]) if value.name == "pixels" else (dims[2], dims[3])
        for dim, size in zip(spatial, (height, width), strict=True):
            if not dim.HasField("dim_value"):
                dim.dim_value = 1 if value.name == "condition" else size // scale
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in [*inferred.value_info, *inferred.output]}
    weights = {t.name: int(np.prod(t.dims)) for t in inferred.initializer}
    return sum(
        weights[node.input[1]] * int(np.prod(shapes[node.output[0]][2:])) for node in inferred.node if node.op_type == "Conv"
    ) / (1000 * height * width)


def part_times(image: Image.Image, quality: float) -> dict[str, float]:
    """ms of every network in one encode and one decode, and of everything else."""
    times: dict[str, list[float]] = {}
    original = inference.Transforms._run

    def timed(self: inference.Transforms, name: str, *inputs: Any) -> Any:
        start = time.perf_counter()
        result = original(self, name, *inputs)
        times.setdefault(name, []).append(1000 * (time.perf_counter() - start))
        return result

    inference.Transforms._run = timed  # type: ignore[method-assign]
    try:
        data = saved(image, "SGC", quality=quality)
        encode = median_ms(lambda: saved(image, "SGC", quality=quality))
        in_encoder = {name: statistics.median(values) for name, values in times.items()}
        times.clear()
        decode = median_ms(lambda: loaded(data))
    finally:
        inference.Transforms._run = original  # type: ignore[method-assign]
    in_decoder = {name: statistics.median(values) for name, values in times.items()}
    rest = {
        "rest of encode": encode - sum(in_encoder.values()),
        "rest of decode": decode - sum(in_decoder.values()),
    }
    return {**in_encoder, **in_decoder, **rest}


def peak_memory(work: str, path: Path) -> float:
    """MB of a fresh process that does ``work`` with ``path`` (Linux: the high-water mark since the process began)."""
    code = f"""
import io, sys, pillow_semicodec
from PIL import Image
{work}
print([line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")][0])"""
    result = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    return float(result.stdout) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("../shared/data/kodak"))
    parser.add_argument("--quality", type=float, default=50)
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    sgc.options.THREADS = args.threads
    paths = sorted(args.folder.glob("*.png"))
    bundle = find_model()
    sums = dict.fromkeys(("encode", "decode", "AVIF encode", "AVIF decode"), 0.0)
    loaded(saved(Image.open(paths[0]).convert("RGB"), "SGC"))  # load the model
    for path in paths:
        image = Image.open(path).convert("RGB")
        data = saved(image, "SGC", quality=args.quality)
        quality = nearest_quality(image, "AVIF", {"speed": 6}, len(data))
        avif = saved(image, "AVIF", speed=6, quality=quality)
        for name, work in {
            "encode": lambda: saved(image, "SGC", quality=args.quality),  # noqa: B023
            "decode": lambda: loaded(data),  # noqa: B023
            "AVIF encode": lambda: saved(image, "AVIF", speed=6, quality=quality),  # noqa: B023
            "AVIF decode": lambda: loaded(avif),  # noqa: B023
        }.items():
            sums[name] += median_ms(work)
    n = len(paths)
    print(f"model {bundle.name} ({bundle.model_id.hex()}), {n} pictures, quality {args.quality:g}, {os.cpu_count()} cores")
    for name, total in sums.items():
        print(f"  {name:14}{total / n:9.1f} ms a picture")
    for what in ("encode", "decode"):
        print(f"  {what} {sums[what] / sums[f'AVIF {what}']:.2f} x AVIF")
    print(f"\n  {'part':26}{'kMAC/px':>9}{'ms':>9}   ({paths[0].name})")
    costs = {name: kilo_macs(bundle, name) for name in GRAPHS}
    for name, ms in part_times(Image.open(paths[0]).convert("RGB"), args.quality).items():
        print(f"  {name:26}{costs.get(name, float('nan')):9.2f}{ms:9.1f}")
    decoder = sum(cost for name, cost in costs.items() if name not in ENCODER_ONLY)
    print(f"  decoder {decoder:.2f} kMAC/px, encoder {sum(costs.values()) - costs['synthesis']:.2f} kMAC/px")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "x.sgc"
        Image.open(paths[0]).convert("RGB").save(file)
        base = peak_memory("Image.open(sys.argv[1]).load()", paths[0])
        encode = peak_memory('Image.open(sys.argv[1]).convert("RGB").save(io.BytesIO(), "SGC")', paths[0])
        decode = peak_memory("Image.open(sys.argv[1]).load()", file)
    print(f"  peak memory: encode {encode:.0f} MB, decode {decode:.0f} MB; {base:.0f} MB to load the picture alone")


if __name__ == "__main__":
    main()
