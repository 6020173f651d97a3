"""Write a bundle: ``python -m training.export --checkpoint RUN/checkpoint.pt --data FOLDER --name NAME --out FOLDER``.

Graphs come from the moving average of the weights. Probability tables are counted on training pictures, coded as the
runtime codes them. Quality numbers are calibrated against JPEG's, on the held-out pictures and some others. Export refuses
to write a bundle whose graphs disagree with PyTorch (table indexes exactly, tensors to a tolerance), or whose integer
networks could leave the range in which float32 is exact.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import logging
import multiprocessing
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from pillow_semicodec import latent_path
from pillow_semicodec.bundle import BUNDLE_VERSION, MANIFEST, RATE_UNIT, ModelBundle
from pillow_semicodec.entropy.tables import TOTAL, Frequencies, TableSet, join, quantise
from pillow_semicodec.inference import runtime
from pillow_semicodec.layout import Layout, RatePlan
from pillow_semicodec.metrics import msssim, ssimulacra2
from pillow_semicodec.slices import Decoder, Encoder, analyse

from .commands import ExportError, one_line
from .config import ModelConfig
from .data import Picture, rates_of, read_split, to_signal
from .entropy_models import SCALE_COUNT, gaussian_bits, scale_of_index
from .graphs import GRAPHS, ScaleContextGraph, ScaleGraph, example_inputs, export_graph
from .model import SemicodecModel
from .state import load_checkpoint
from .transforms import BLOCK_CHANNELS

EXACT_LIMIT = 2**24  # float32 holds every integer below it
RESIDUAL_RANGE = 1024  # residuals beyond it are escapes
HYPER_RANGE = 64
BANDS = 8  # of rates, with tables of their own
PSEUDO_COUNTS = 64.0  # weight of the Gaussian in a counted table
BAND_COUNTS = 200.0  # and of all rates together in a band's table
EXACT_GRAPHS = ("scale_hyper_synthesis", "scale_context")
TOLERANCE = {"pixels": 1.0, "samples": 2.0}  # grey levels; other tensors: relative to their spread
RELATIVE_TOLERANCE = 1e-3
# Sums in another order may bring an 8-bit activation to the other side of its rounding. A share of the pixels may differ by
# more than they should for it, but always a block of 8x8, which one activation reaches; and latents by this share of their
# spread, in the root of the mean square. The check's latents are noise, and the pictures they give all contrast (a spread of
# 95 levels): 1 to 9 in a thousand differ by more, none by more than 5 levels; of photographs, 2 to 70 in a million: the
# finer the steps that a run has learned, the more. Most of it is PyTorch's, which sums in float what bytes keep exact:
# between ONNX Runtime with all of its optimisations and with few, one in a million of photographs' pixels differs by more
# than a level. So it is with weights of 16 bits (``training.compact``); with those of 32 sums are rounded more often, and up
# to nine times as many differ.
BEYOND = {"pixels": 1.5e-2, "samples": 4e-3}
MOST = {"pixels": 6.0, "samples": 6.0}  # and none by more
EIGHT_BIT_TOLERANCE = 0.01


def load_model(checkpoint: Path, shape: ModelConfig | None = None) -> SemicodecModel:
    """The moving average of a checkpoint, ready for evaluation, by default in its own shape; ValueError for what is none."""
    state = load_checkpoint(checkpoint, ("ema",))
    model = SemicodecModel(shape or ModelConfig(**state["configs"]["model"]))
    model.load_state_dict({k: v.float() for k, v in state["ema"].items()})
    return model.eval()


# ---- parity ----------------------------------------------------------------------------------------------------


def check_integer_range(model: SemicodecModel) -> dict[str, int]:
    """Largest possible partial sum of every integer layer; ExportError where one could reach 2**24."""
    sums: dict[str, int] = {}
    for graph in (ScaleGraph(model), ScaleContextGraph(model)):
        sums.update({f"{type(graph).__name__}.{name}": largest for name, largest in graph.integer_layers()})
    for name, largest in sums.items():
        if largest >= EXACT_LIMIT:
            raise ExportError(f"{name}: a partial sum could reach {largest}, beyond 2**24")
    return sums


def check_receptive_fields(config: ModelConfig) -> None:
    """Raise ExportError where a network sees further than the windows of slices reach: there would be seams."""
    reach = {
        "analysis": (config.analysis_blocks / 2 + config.analysis_latent_blocks, latent_path.ANALYSIS_HALO),
        "synthesis": (config.synthesis_blocks / 2 + config.synthesis_latent_blocks, latent_path.SYNTHESIS_HALO),
        "mean_context": (config.context_blocks, latent_path.CONTEXT_HALO),
    }
    for name, (needed, halo) in reach.items():
        if needed > halo:
            raise ExportError(f"{name} sees {needed:g} positions of the latents around it; windows reach {halo} further")


@torch.no_grad()
def check_parity(name: str, graph: nn.Module, path: Path, model: SemicodecModel) -> None:
    """Compare ONNX Runtime with PyTorch at three sizes.

    Raises:
        ExportError: exact outputs differ at all, or float ones by more than their tolerance.
    """
    onnxruntime = runtime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it warns of inputs that may be left out
    session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    for seed, (height, width) in enumerate(((64, 64), (128, 320), (256, 192))):
        torch.manual_seed(seed)
        inputs = example_inputs(name, model, height, width)
        expected = graph(*inputs)
        expected = expected if isinstance(expected, tuple) else (expected,)
        got = session.run(None, {k: v.numpy() for k, v in zip(graph.inputs, inputs, strict=True)})  # type: ignore[call-overload]
        for output, a, b in zip(graph.outputs, expected, got, strict=True):  # type: ignore[call-overload]
            differences = np.abs(a.numpy().astype(np.float64) - b)
            beyond = max(BEYOND[output], BLOCK_CHANNELS / differences.size) if output in BEYOND else 0.0
            difference = float(np.quantile(differences, 1 - beyond, method="higher"))
            spread = max(float(a.double().std()), 1e-3)
            allowed = 0.0 if name in EXACT_GRAPHS else TOLERANCE.get(output, RELATIVE_TOLERANCE * spread)
            if name == "analysis" and model.config.eight_bit:
                difference, allowed = float(np.sqrt((differences**2).mean())), EIGHT_BIT_TOLERANCE * spread
            if a.shape == b.shape and differences.max() > MOST.get(output, np.inf):
                difference, allowed = differences.max(), MOST[output]
            if a.shape != b.shape or difference > allowed:
                raise ExportError(f"{name}: {output} differs by {difference:g} at {height}x{width}; {allowed:g} is allowed")


# ---- tables ----------------------------------------------------------------------------------------------------


def band_of(rate: Tensor) -> Tensor:
    """Of the tables, for rates from 0 to 1; beyond them, the outer ones."""
    return (rate * BANDS).floor().clamp(0, BANDS - 1).long()


@torch.no_grad()
def count_symbols(
    model: SemicodecModel, pictures: list[Picture], passes: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Histograms of residuals [bands, 64, 2R+1] and of z [bands, Z, 2H+1] over ``passes`` crops at random rates.

    Raises:
        ValueError: no picture has 64 pixels a side.
    """
    pictures = [p for p in pictures if min(p.shape[:2]) >= 64]
    if not pictures:
        raise ValueError("no picture has 64 pixels a side to count symbols on")
    residuals = np.zeros((BANDS, SCALE_COUNT, 2 * RESIDUAL_RANGE + 1))
    hypers = np.zeros((BANDS, model.config.hyper_channels, 2 * HYPER_RANGE + 1))
    random = np.random.default_rng(seed)
    bank = model.rate_bank
    for k in tqdm(range(passes), desc="counting symbols", mininterval=5):
        picture = pictures[random.integers(len(pictures))]
        size = [min(n // 64 * 64, 512) for n in picture.shape[:2]]
        top, left = (int(random.integers(n - s + 1)) for n, s in zip(picture.shape, size, strict=False))
        crop = picture[top : top + size[0], left : left + size[1]].copy()
        x = to_signal(torch.from_numpy(crop).permute(2, 0, 1)[None])
        rate = torch.from_numpy(rates_of((k % 64 + random.random((1,))) / 64))
        weights = bank.weights(rate)
        coded = model.code(model.analysis(x), weights)
        residual = coded.symbol.clamp(-RESIDUAL_RANGE, RESIDUAL_RANGE)
        index = coded.index.round().long()
        cells = index * (2 * RESIDUAL_RANGE + 1) + residual.long() + RESIDUAL_RANGE
        band = int(band_of(rate))
        residuals[band] += np.bincount(cells.flatten().numpy(), minlength=residuals[0].size).reshape(residuals[0].shape)
        z = torch.round(coded.z)[0].flatten(1).clamp(-HYPER_RANGE, HYPER_RANGE).long() + HYPER_RANGE
        for channel, values in enumerate(z.numpy()):
            hypers[band, channel] += np.bincount(values, minlength=2 * HYPER_RANGE + 1)
    return residuals, hypers


def residual_tables(counts: NDArray[np.float64]) -> TableSet:
    """A symmetric table for every band of rates and scale, of counts [bands, 64, 2R+1]. Table 0 codes nothing."""
    tables: list[tuple[int, Frequencies]] = []
    for of_band in residual_probabilities(torch.from_numpy(counts), residual_prior()).numpy():
        tables += [(0, np.zeros(0, np.uint32)), *(_table(row, RESIDUAL_RANGE) for row in of_band[1:])]
    return join(tables)


def residual_probabilities(counts: Tensor, prior: Tensor) -> Tensor:
    """Counts [bands, 64, 2R+1], Gaussians [64, 2R+1] → [bands, 64, 2R+1].

    All rates together have the Gaussian as a prior, and a band has all rates together: the same scale has longer tails at
    some rates than at others.
    """
    counts = (counts + counts.flip(2)) / 2
    together = normalised(counts.sum(0) + PSEUDO_COUNTS * prior)
    return normalised(with_neighbours(counts) + BAND_COUNTS * together)


def hyper_probabilities(counts: Tensor, prior: Tensor) -> Tensor:
    """Counts and trained Gaussians, both [bands, Z, 2H+1] → [bands, Z, 2H+1]. The first band has no neighbour: z takes its
    largest share of the bits there, 7 % at the lowest qualities, and lies away from what it is at higher rates.
    """
    around = with_neighbours(counts)
    around[0] = counts[0]
    return normalised(around + PSEUDO_COUNTS * prior)


def with_neighbours(counts: Tensor) -> Tensor:
    """Counts [bands, …] of every band and those beside it: bands overlap, for rates between are alike."""
    around = counts.clone()
    around[1:] += counts[:-1]
    around[:-1] += counts[1:]
    return around


def normalised(weights: Tensor) -> Tensor:
    return weights / weights.sum(-1, keepdim=True)


def residual_prior() -> Tensor:
    """Gaussians of all scales: probabilities [64, 2R+1]."""
    values = torch.arange(-RESIDUAL_RANGE, RESIDUAL_RANGE + 1).double()
    probabilities = 2.0 ** -gaussian_bits(values, scale_of_index(torch.arange(SCALE_COUNT).double())[:, None])
    return normalised(probabilities)


def hyper_tables(counts: NDArray[np.float64], model: SemicodecModel) -> TableSet:
    """A table for every band of rates and channel of z, of counts [bands, Z, 2H+1]."""
    probabilities = hyper_probabilities(torch.from_numpy(counts), hyper_prior(model))
    return join([_table(row, HYPER_RANGE) for row in probabilities.flatten(0, 1).numpy()])


def hyper_prior(model: SemicodecModel) -> Tensor:
    """The trained Gaussians in the middle of every band: probabilities [bands, Z, 2H+1]."""
    values = torch.arange(-HYPER_RANGE, HYPER_RANGE + 1).double()
    middles = (torch.arange(BANDS) + 0.5) / BANDS
    log_scale = model.rate_bank.weights(middles).double() @ model.prior.log_scale.detach().double()
    probabilities = 2.0 ** -gaussian_bits(values, torch.exp(log_scale).clamp_min(0.05)[:, :, None])
    return normalised(probabilities)


def _table(probabilities: NDArray[np.float64], reach: int) -> tuple[int, Frequencies]:
    """(first value, frequencies): the values worth a place of their own, and an escape for the rest."""
    kept = np.flatnonzero(probabilities * TOTAL > 0.5)
    low, high = (int(kept[0]), int(kept[-1])) if len(kept) else (reach, reach)
    inside = probabilities[low : high + 1]
    escape = max(1 - inside.sum(), 0.25 / TOTAL)
    return low - reach, quantise(np.append(inside, escape))


# ---- rates and quality -----------------------------------------------------------------------------------------


def rate_arrays(model: SemicodecModel, quality_positions: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
    bank = model.rate_bank
    return {
        "log_gain": bank.log_gain.detach().numpy(),
        "log_inverse_gain": bank.log_inverse_gain.detach().numpy(),
        "synthesis_condition": bank.synthesis_bias.detach().numpy(),
        "hyper_condition": bank.hyper_bias.detach().numpy(),
        "quality_positions": quality_positions,
    }


def default_quality_positions(anchors: int) -> NDArray[np.float64]:
    return np.array([[1, 0.0], [100, anchors - 1.0]])


OTHERS = 33  # pictures that qualities are calibrated on beside the held-out ones
LIKED = 0.85  # of the pictures look at least as good as JPEG at the same number
JPEG_QUALITIES = (1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 100)


def _looks(
    directory: Path, positions: NDArray[np.float64], picture: Picture
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """SSIMULACRA2 and MS-SSIM of one picture: ours [positions, 2], JPEG's [qualities, 2]."""
    bundle = ModelBundle(directory)
    height, width = picture.shape[:2]
    layout = Layout(height, width)
    y = analyse(picture, bundle, layout, 1)
    ours, theirs = [], []
    for position in positions:
        plan = RatePlan(round((position + 1) * RATE_UNIT))
        streams = Encoder(y, plan, bundle, layout, 1).streams()
        decoded = Decoder(streams, plan, bundle, layout, 1).picture()
        ours.append([metric(picture, decoded) for metric in (ssimulacra2, msssim)])
    for quality in JPEG_QUALITIES:
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=quality)
        theirs.append([metric(picture, np.asarray(Image.open(file))) for metric in (ssimulacra2, msssim)])
    return np.array(ours), np.array(theirs)


def calibrate_quality(bundle: ModelBundle, pictures: list[Picture], floor: dict[int, float]) -> NDArray[np.float64]:
    """Positions on the rate bank at which pictures look at least as good as JPEG at the same number.

    Args:
        floor: quality → least position, whatever JPEG does there.
    """
    positions = np.arange(-0.75, bundle.rate_bank.anchors + 0.26, 0.5)
    with ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("spawn")) as pool:
        curves = pool.map(_looks, [bundle.directory] * len(pictures), [positions] * len(pictures), pictures)
        pairs = list(tqdm(curves, desc="calibrating", total=len(pictures), mininterval=5))
    ours, theirs = (np.stack(curves) for curves in zip(*pairs, strict=True))
    return quality_table(ours, theirs, positions, floor, bundle.rate_bank.anchors - 1.0)


def quality_table(
    ours: NDArray[np.float64],
    theirs: NDArray[np.float64],
    positions: NDArray[np.float64],
    floor: dict[int, float],
    last: float,
) -> NDArray[np.float64]:
    """Rows (quality, position). "As good" means both metrics, for a share ``LIKED`` of the pictures: means over pictures
    would follow those in which JPEG does worst.

    Args:
        ours: metrics [pictures, positions, 2]. theirs: [pictures, qualities, 2], of ``JPEG_QUALITIES``.
        last: position of the last anchor, that of quality 100: what lies beyond takes bytes and brings nothing. Others keep
            one anchor away, for in a few pictures JPEG's best is out of reach.
    """
    rising = np.maximum.accumulate(ours, 1)
    needed = np.array(
        [
            [
                max(np.interp(look, curve, positions) for look, curve in zip(looks, curves.T, strict=True))
                for looks in theirs_of
            ]
            for curves, theirs_of in zip(rising, theirs, strict=True)
        ]
    )
    rows = []
    for quality, position in zip(JPEG_QUALITIES, np.quantile(needed, LIKED, 0), strict=True):
        highest = last - 1 if quality < 100 else last
        rows.append((float(quality), max(min(float(position), highest), floor.get(quality, -1.0))))
    table = np.array(rows)
    steps = np.diff(table[:, 0], prepend=table[0, 0] - 1) * 0.01  # strictly rising: bytes grow with every number
    for k in range(1, len(table)):
        table[k, 1] = max(table[k, 1], table[k - 1, 1] + steps[k])
    return table


def calibration_pictures(training: list[Picture], validation: list[Picture]) -> list[Picture]:
    """The held-out pictures, and ``OTHERS`` of the others, evenly spread and cut to multiples of 64: the held-out ones are
    too few to speak for all kinds of pictures, and a position on the rate bank is learned from neither.
    """
    others = [p for p in training if min(p.shape[:2]) >= 64]
    others = others[7 :: max(1, len(others) // OTHERS)][:OTHERS]
    cut = [p[: min(p.shape[0] // 64 * 64, 512), : min(p.shape[1] // 64 * 64, 768)] for p in others]
    return [np.ascontiguousarray(picture) for picture in (*validation, *cut)]


# ---- the bundle ------------------------------------------------------------------------------------------------


def write_graphs(model: SemicodecModel, folder: Path) -> None:
    check_integer_range(model)
    check_receptive_fields(model.config)
    for name in GRAPHS:
        path = folder / f"{name}.onnx"
        check_parity(name, export_graph(name, model, path), path, model)


def write_tables(model: SemicodecModel, residuals: NDArray[np.float64], hypers: NDArray[np.float64], folder: Path) -> None:
    sets = {"z": hyper_tables(hypers, model), "r": residual_tables(residuals)}
    arrays = {f"{k}_{f}": getattr(s, f) for k, s in sets.items() for f in ("minimums", "sizes", "frequencies")}
    np.savez_compressed(folder / "tables.npz", **arrays)


def write_rates(model: SemicodecModel, quality_positions: NDArray[np.float64], folder: Path) -> None:
    np.savez_compressed(folder / "rates.npz", **rate_arrays(model, quality_positions))  # type: ignore[arg-type]


def write_manifest(model: SemicodecModel, name: str, notes: dict[str, Any], folder: Path) -> None:
    parts = sorted(path for path in folder.iterdir() if path.name != MANIFEST)
    manifest = {
        "bundle_version": BUNDLE_VERSION,
        "name": name,
        "latent_channels": model.config.latent_channels,
        "hyper_channels": model.config.hyper_channels,
        "predicted": list(model.config.predicted),
        "parameters": sum(p.numel() for p in model.parameters()),
        **notes,
        "sha256": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in parts},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", newline="\n")


def export_bundle(
    model: SemicodecModel,
    name: str,
    out: Path,
    pictures: list[Picture],
    *,
    passes: int = 384,
    calibration: list[Picture] | None = None,
    floor: dict[int, float] | None = None,
    notes: dict[str, Any] | None = None,
) -> Path:
    """Write ``out/<model id>/`` and return it; on any failure nothing is left behind.

    Raises:
        ExportError: see ``check_integer_range`` and ``check_parity``.
    """
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as temporary:
        folder = Path(temporary) / "bundle"
        folder.mkdir()
        write_graphs(model, folder)  # and check them: the rest takes minutes
        write_tables(model, *count_symbols(model, pictures, passes, seed=1), folder)
        write_rates(model, default_quality_positions(model.config.rate_anchors), folder)
        if calibration:
            write_manifest(model, name, notes or {}, folder)
            positions = calibrate_quality(ModelBundle(folder), calibration, floor or {})
            write_rates(model, positions, folder)
        write_manifest(model, name, notes or {}, folder)
        target = out / ModelBundle(folder).model_id.hex()
        if target.is_dir():  # the same weights: their heads and companions stay
            for path in sorted(folder.iterdir(), key=lambda path: path.name == MANIFEST):
                os.replace(path, target / path.name)
        else:
            os.replace(folder, target)
    return target


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder of training pictures, for tables and calibration")
    parser.add_argument("--name", required=True, help="name of the model")
    parser.add_argument("--out", type=Path, required=True, help="folder that the bundle's folder is made in")
    parser.add_argument("--passes", type=int, default=384, help="crops to count symbols on")
    parser.add_argument("--no-calibration", action="store_true", help="spread quality evenly over the rates")
    args = parser.parse_args(arguments)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    model = load_model(args.checkpoint)
    training, _, validation = read_split(args.data)
    last = model.config.rate_anchors - 1.0
    target = export_bundle(
        model, args.name, args.out, training, passes=args.passes,
        calibration=None if args.no_calibration else calibration_pictures(training, validation),
        floor={95: last - 1, 100: last},
    )  # fmt: skip
    size = sum(path.stat().st_size for path in target.iterdir())
    share = max(check_integer_range(model).values()) / EXACT_LIMIT
    print(f"{target}: {size / 1e6:.2f} MB; the largest integer sum is {share:.2f} of 2**24")


if __name__ == "__main__":
    with one_line("export"):
        main()
