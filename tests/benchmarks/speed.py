"""Times as ratios against Pillow's AVIF in one run, on pictures and a mosaic of 12 megapixels; costs of networks, memory.

``python tests/benchmarks/speed.py [FOLDER] [--quality Q] [--threads N]``; FOLDER defaults to the Kodak pictures. AVIF is
saved at speed 6 with the quality whose bytes are nearest. Every figure is the median over repeats; ratios are of sums
over pictures.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from PIL import Image

import pillow_semicodec as sgc
from pillow_semicodec import inference, latent_path
from pillow_semicodec.bench.codecs import load, present
from pillow_semicodec.bench.costs import median_ms, memory, times
from pillow_semicodec.bench.curves import photographs
from pillow_semicodec.bundle import ModelBundle, find_model

sys.path.insert(0, str(Path(__file__).parents[2]))  # the trainer is not installed
from training import eight_bit_graph
from training.graphs import GRAPHS

ENCODER_ONLY = ("analysis", "hyper_analysis")


def macs(bundle: ModelBundle, name: str, height: int = 512, width: int = 768) -> tuple[float, float]:
    """Multiply–accumulates of a graph per pixel, in thousands: (in float, on bytes)."""
    model = onnx.load_from_string(bundle.part(f"{name}.onnx"))
    nodes = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    weights = {t.name: int(np.prod(t.dims)) for t in model.graph.initializer}
    whole = {n.output[0]: n.input[0] for n in model.graph.node if n.op_type in ("DequantizeLinear", "Transpose")}
    del model.graph.output[:]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(node.output[0]) for node in nodes)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds, scales = {}, {"z_hat": 64, "pixels": 1}
    for value in session.get_inputs():
        scale = height * width if value.name == "condition" else scales.get(value.name, 16)
        rows, columns = max(1, height // scale), max(1, width // scale)
        shape = (1, rows, columns, 3) if value.name == "pixels" else (1, value.shape[1], rows, columns)
        feeds[value.name] = np.zeros(shape, np.uint8 if value.name == "pixels" else np.float32)
    in_float = on_bytes = 0
    for node, output in zip(nodes, session.run(None, feeds), strict=True):
        weight = node.input[1]
        count = weights[whole.get(weight, weight)] * (output.shape[0] if node.op_type == "Gemm" else output[0, 0].size)
        on_bytes, in_float = (on_bytes + count, in_float) if weight in whole else (on_bytes, in_float + count)
    return in_float / (1000 * height * width), on_bytes / (1000 * height * width)


def peaks(threads: int) -> tuple[float, float]:
    """What this machine reaches on one large matrix product: billions of multiply–accumulates a second, (float, bytes)."""
    rows, inner = 4096, 2048
    found = []
    for on_bytes in (False, True):
        graph = eight_bit_graph._Graph()
        weight = torch.randn(inner, inner, 1, 1)
        if on_bytes:
            operands = graph.weight(weight, torch.zeros(inner), 0.1, transposed=True)
            scale, zero = graph.constant(np.float32(0.1)), graph.constant(np.uint8(128))
            name = graph.add("Gemm", graph.add("DequantizeLinear", "x", scale, zero), *operands)
            name = graph.add("QuantizeLinear", name, scale, zero)  # bytes in, bytes out: nothing but the product
        else:
            name = graph.add("Gemm", "x", graph.constant(weight[:, :, 0, 0].numpy()))
        graph.nodes.append(onnx.helper.make_node("Identity", [name], ["y"]))
        kind = onnx.TensorProto.UINT8 if on_bytes else onnx.TensorProto.FLOAT
        values = [eight_bit_graph._value(n, kind, rows, inner) for n in "xy"]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "x.onnx")
            eight_bit_graph._save(graph, "peak", values[:1], values[1:], path)
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = threads
            session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
        x = np.random.default_rng(0).normal(128, 30, (rows, inner)).astype(np.uint8 if on_bytes else np.float32)
        session.run(None, {"x": x})
        found.append(rows * inner**2 / 1e6 / median_ms(lambda: session.run(None, {"x": x})))  # noqa: B023
    return found[0], found[1]


def part_times(image: Image.Image, quality: int) -> dict[str, float]:
    """ms of every network in one encode and one decode, and of everything else, with nothing beside anything."""
    taken: dict[str, list[float]] = {}
    original, beside = inference.Transforms._run, latent_path.LatentPath.beside

    def in_turn(self: latent_path.LatentPath, work: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
        return partial(work, *arguments)

    def timed(self: inference.Transforms, name: str, *inputs: Any, **more: Any) -> Any:
        start = time.perf_counter()
        result = original(self, name, *inputs, **more)
        taken.setdefault(name, []).append(1000 * (time.perf_counter() - start))
        return result

    inference.Transforms._run, latent_path.LatentPath.beside = timed, in_turn  # type: ignore[method-assign]
    try:
        (ours,) = present(["SGC"])
        data = ours.save(image, quality)
        encode = median_ms(lambda: ours.save(image, quality))
        in_encoder = {name: statistics.median(values) for name, values in taken.items()}
        taken.clear()
        decode = median_ms(lambda: load(data))
    finally:
        inference.Transforms._run, latent_path.LatentPath.beside = original, beside  # type: ignore[method-assign]
    in_decoder = {name: statistics.median(values) for name, values in taken.items()}
    rest = {
        "rest of encode": encode - sum(in_encoder.values()),
        "rest of decode": decode - sum(in_decoder.values()),
    }
    return {**in_encoder, **in_decoder, **rest}


def mosaic(pictures: list[Image.Image], width: int, height: int) -> Image.Image:
    """Pictures side by side, in turn, cut at the border."""
    whole, (w, h) = Image.new("RGB", (width, height)), pictures[0].size
    places = ((left, top) for top in range(0, height, h) for left in range(0, width, w))
    for k, place in enumerate(places):
        picture = pictures[k % len(pictures)]
        whole.paste(picture if picture.size == (w, h) else picture.rotate(90, expand=True).resize((w, h)), place)
    return whole


def beside_avif(title: str, pictures: list[Image.Image], quality: int) -> None:
    """Print milliseconds and ratios against AVIF at about the same bytes."""
    ours, avif = times(pictures, present(["SGC", "AVIF"]), quality).values()
    print(f"  {title}")
    for name, cost in (("", ours), ("AVIF ", avif)):
        for what in ("encode", "decode"):
            print(f"    {name + what:14}{cost[f'{what}_ms']:9.1f} ms a picture")
    for what in ("encode", "decode"):
        print(f"    {what} {ours[f'{what}_ms'] / avif[f'{what}_ms']:.2f} x AVIF")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("../shared/data/kodak"))
    parser.add_argument("--quality", type=int, default=50)
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    sgc.options.THREADS = args.threads
    paths = photographs(args.folder)
    bundle = find_model()
    pictures = [Image.open(path).convert("RGB") for path in paths]
    print(f"model {bundle.name} ({bundle.model_id.hex()}), quality {args.quality:g}, {os.cpu_count()} cores")
    beside_avif(f"{len(pictures)} pictures", pictures, args.quality)
    large = mosaic(pictures, 4000, 3000)
    beside_avif("12 megapixels, a mosaic of them", [large], args.quality)
    del large
    float_peak, byte_peak = peaks(args.threads)
    print(f"  peak: {float_peak:.0f} billion multiply-accumulates a second in float, {byte_peak:.0f} on bytes")
    print(f"\n  {'part':26}{'kMAC/px':>9}{'on bytes':>9}{'ms':>9}{'floor':>9}   ({paths[0].name})")
    image = pictures[0]
    costs = {name: macs(bundle, name) for name in GRAPHS}
    megapixels = image.width * image.height / 1e6
    for name, ms in part_times(image, args.quality).items():
        floats, integers = costs.get(name, (0.0, 0.0))
        floor = megapixels * 1000 * (floats / float_peak + integers / byte_peak)
        print(f"  {name:26}{floats:9.2f}{integers:9.2f}{ms:9.1f}{floor:9.1f}")
    decoder = sum(sum(cost) for name, cost in costs.items() if name not in ENCODER_ONLY)
    everything = sum(sum(cost) for cost in costs.values())
    print(f"  decoder {decoder:.2f} kMAC/px, encoder {everything - sum(costs['synthesis']):.2f} kMAC/px")
    for name, peak in memory(image, present(["SGC", "AVIF"]), args.quality).items():
        print(f"  peak memory of {name}: encode {peak['encode_mb']:.0f} MB, decode {peak['decode_mb']:.0f} MB")


if __name__ == "__main__":
    main()
