"""Slices: pixels ↔ entropy-coded streams, by the networks of a model. Arrays only.

The signal path is that of FORMAT.md section 5, each step of it a plane (planes.py): the networks see the picture as a
whole, slices cut only what is coded and computed at a time. Integers alone choose probability tables; means and pixels
are float and may differ by a rounding between machines, which moves a pixel by one level at most and never breaks a
stream.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import container, pixels
from .bundle import ModelBundle
from .container import Prologue
from .entropy.coder import MAGNITUDE_LIMIT, StreamDecoder, StreamEncoder
from .errors import FormatError
from .inference import Tensor, Transforms, transforms_for
from .planes import Arrays, Box, Grid, Plane, run_squares


class Latents(NamedTuple):
    """What the entropy coder codes, the same bit for bit in encoder and decoder on every machine.

    z_hat int32 [Z, h/4, w/4]; residual int32 and indexes uint8 [M, h, w], both steps merged.
    """

    z_hat: NDArray[np.int32]
    residual: NDArray[np.int32]
    indexes: NDArray[np.uint8]


Streams = tuple[bytes, ...]  # one of all layers, or the layers one after another, each slice by slice
LAYERS = 3  # z, residuals of step 1, residuals of step 2


@dataclasses.dataclass(frozen=True)
class RatePlan:
    """The rate of a picture and, where it has regions, that of every latent position.

    Attributes:
        rate: 0 … 65535. rates, levels: ``rates[levels[i, j]]`` is the rate of position (i, j), uint8 [h, w].
    """

    rate: int
    rates: tuple[int, ...] = ()
    levels: NDArray[np.uint8] | None = None

    @staticmethod
    def of_file(prologue: Prologue) -> RatePlan:
        """Raises FormatError where the regions do not fit the picture."""
        rate, payload = prologue.index.rate, prologue.metadata.get(container.REGIONS)
        if payload is None:
            return RatePlan(rate)
        h, w = pixels.latent_shape(prologue.header.height, prologue.header.width)
        regions = container.read_regions(payload, h * w)
        return RatePlan(rate, regions.rates, np.frombuffer(regions.levels, np.uint8).reshape(h, w))

    def chunk(self) -> bytes | None:
        """The payload of the regions' chunk, if there are any."""
        if self.levels is None:
            return None
        return container.write_regions(container.Regions(self.rates, self.levels.tobytes()))


# ---- what encoder and decoder share ----------------------------------------------------------------------------

# Receptive fields: how much more than what it computes a network must see, in latent positions (z: hyper positions).
ANALYSIS_HALO, SYNTHESIS_HALO, CONTEXT_HALO = 4, 3, 1
HYPER_ANALYSIS_HALO = pixels.HYPER_STRIDE  # above and on the left only: its strides begin there
HYPER_SYNTHESIS_HALO = 2

WINDOWS = 4  # slices in work at a time, at most: each takes some 200 bytes a pixel


class Layout:
    """Size of a picture, in pixels, latent and hyper positions, and how it is cut into slices.

    Args:
        side: pixels of a slice's side, a multiple of 64; 0 for one slice, the whole picture.
    """

    def __init__(self, height: int, width: int, side: int = 0) -> None:
        self.height, self.width, self.side = height, width, side
        rows, columns = pixels.latent_shape(height, width)
        unit = side // pixels.LATENT_STRIDE or max(rows, columns)
        unit = -(-unit // pixels.HYPER_STRIDE) * pixels.HYPER_STRIDE
        self.latents = Grid(rows, columns, unit)
        self.hyper = Grid(*pixels.hyper_shape(height, width), unit // pixels.HYPER_STRIDE)

    @property
    def slices(self) -> int:
        rows, columns = self.latents.shape
        return rows * columns

    @property
    def streams(self) -> int:
        return 1 if self.slices == 1 else LAYERS * self.slices

    def pixels_of(self, box: Box) -> Box:
        """The pixels of latent positions, cut at the picture's border."""
        return box.scaled(pixels.LATENT_STRIDE).grown(0, 0, Box(0, 0, self.height, self.width))

    def workers(self, threads: int) -> tuple[int, int]:
        """(slices to compute at a time, threads for each)."""
        threads = threads or os.cpu_count() or 1
        workers = min(threads, WINDOWS, self.slices)
        return workers, max(1, threads // workers)


class _Networks:
    """The networks between pixels and latents, for any box of one picture at one plan of rates."""

    def __init__(self, bundle: ModelBundle, layout: Layout, plan: RatePlan, threads: int) -> None:
        self.bundle, self.layout, self.plan = bundle, layout, plan
        self.workers, each = layout.workers(threads)
        self.transforms: Transforms = transforms_for(bundle, each if self.workers > 1 or threads else threads)
        bank = bundle.rate_bank
        self.band = bank.band(plan.rate, bundle.prior.bands)
        rates = plan.rates or (plan.rate,)
        gain, inverse_gain, synthesis, hyper = (
            np.concatenate([bank.interpolate(values, rate) for rate in rates])
            for values in (bank.log_gain, bank.log_inverse_gain, bank.synthesis_condition, bank.hyper_condition)
        )
        self._rows = {"gain": np.exp(gain), "inverse": np.exp(inverse_gain), "synthesis": synthesis, "hyper": hyper}

    def rate(self, what: str, box: Box) -> Tensor:
        """Gains or conditions: [1, C, 1, 1], or with regions [1, C, rows, columns] of ``box`` at the network's own scale."""
        rows, levels = self._rows[what], self.plan.levels
        if levels is not None:  # [K, C, 1, 1] → [1, C, rows, columns]
            if what == "hyper":
                levels = pixels.pad_to_multiple(levels, pixels.HYPER_STRIDE, (0, 1))  # type: ignore[assignment]
            levels = levels[box.top : box.bottom, box.left : box.right]
            if what == "synthesis":
                levels = levels.repeat(2, 0).repeat(2, 1)
            rows = np.moveaxis(rows[:, :, 0, 0][levels], 2, 0)[None]
        return np.ascontiguousarray(rows, np.float32)

    def step1(self, box: Box) -> NDArray[np.bool_]:
        return pixels.step_mask(self.bundle.latent_channels, *box.shape)  # slices begin at even positions

    def positions(self, step: int, box: Box) -> NDArray[np.intp]:
        """Flat positions of a step's latents; several times faster than a mask."""
        return pixels.step_positions(self.bundle.latent_channels, *box.shape)[step - 1]

    def hyper(self, z: Plane, box: Box) -> tuple[Tensor, Tensor, Tensor, NDArray[np.uint8]]:
        """z_hat → (mean features, mean of step 1, scale features, indexes of step 1), each [C, rows, columns] of ``box``."""
        window = box.divided(pixels.HYPER_STRIDE).grown(HYPER_SYNTHESIS_HALO, HYPER_SYNTHESIS_HALO, self.layout.hyper.bounds)
        (z_hat,) = z.read(window)
        values, outer = z_hat[None].astype(np.float32), window.scaled(pixels.HYPER_STRIDE)
        features, mean = self.transforms.hyper_synthesis(values, self.rate("hyper", outer))
        scale_features, indexes = self.transforms.scale_hyper_synthesis(values)
        rows, columns = box.within(outer)
        return tuple(np.ascontiguousarray(a[0, :, rows, columns]) for a in (features, mean, scale_features, indexes))  # type: ignore[return-value]

    def second_mean(self, first: Plane, box: Box) -> tuple[Tensor, Tensor, NDArray[np.int32]]:
        """(mean of step 2, that of step 1, residuals of step 1), each [M, rows, columns] of ``box``."""
        window = box.grown(CONTEXT_HALO, CONTEXT_HALO, self.layout.latents.bounds)
        features, mean1, _, residual1 = first.read(window)
        parity = (window.top + window.left) % 2
        mask = pixels.step_mask(self.bundle.latent_channels, *(n + parity for n in window.shape))[
            :, parity:, : window.shape[1]
        ]
        y_hat1 = np.where(mask, mean1 + residual1.astype(np.float32), np.float32(0))
        correction = self.transforms.mean_context(np.ascontiguousarray(features)[None], y_hat1[None])[0]
        at = box.within(window)
        return mean1[:, *at] + correction[:, *at], mean1[:, *at], residual1[:, *at]

    def second_indexes(self, first: Plane, box: Box) -> NDArray[np.uint8]:
        window = box.grown(CONTEXT_HALO, CONTEXT_HALO, self.layout.latents.bounds)
        _, _, scale_features, residual1 = first.read(window)
        inputs = (np.ascontiguousarray(scale_features)[None], residual1[None].astype(np.float32))
        indexes = self.transforms.scale_context(*inputs)[0]
        return np.ascontiguousarray(indexes[:, *box.within(window)])

    def semantic(self, first: Plane, box: Box) -> Tensor:
        """Dequantised latents of step 1, those of step 2 at their means: the input of semantic heads, [M, rows, columns]."""
        mean2, mean1, residual1 = self.second_mean(first, box)
        y_hat: Tensor = np.where(self.step1(box), mean1 + residual1.astype(np.float32), mean2) * self.rate("inverse", box)[0]
        return y_hat

    def run(self, planes: tuple[tuple[Plane, int, int], ...], work: Any, box: Box | None = None) -> None:
        """``work`` on all slices of ``box``. ``planes`` are (plane, squares that it runs ahead, how many of its positions
        before the next square are still read).
        """

        def left_behind(k: int, axis: int) -> None:
            for plane, ahead, halo in planes:
                plane.forget((k + 1 + ahead) * plane.grid.side - halo, axis)

        run_squares(self.layout.latents, box or self.layout.latents.bounds, work, left_behind, self.workers)


# ---- encoding --------------------------------------------------------------------------------------------------


def analyse(picture: Any, bundle: ModelBundle, layout: Layout, threads: int = 0) -> Plane:
    """The plane of y [M, h, w], which does not depend on the rate.

    Args:
        picture: uint8 [H, W, 3] or [H, W]: an array, or anything that gives one when boxes are cut out of it.
    """
    workers, each = layout.workers(threads)
    transforms = transforms_for(bundle, each if workers > 1 or threads else threads)

    def make(i: int, j: int, box: Box) -> Arrays:
        window = box.grown(ANALYSIS_HALO, ANALYSIS_HALO, layout.latents.bounds)
        at = layout.pixels_of(window)
        rgb = pixels.to_rgb(np.asarray(picture[at.top : at.bottom, at.left : at.right]))
        padded = pixels.pad_to_multiple(rgb, pixels.LATENT_STRIDE, (0, 1))
        y = transforms.analysis(np.ascontiguousarray(padded)[None])[0]
        return (np.ascontiguousarray(y[:, *box.within(window)]),)

    return Plane(layout.latents, make)


class _Encoder:
    """y → z_hat → step 1 → step 2; every slice's streams are kept as its planes are made."""

    def __init__(self, y: Plane, plan: RatePlan, bundle: ModelBundle, layout: Layout, threads: int) -> None:
        self.y, self.bundle, self.layout = y, bundle, layout
        self.networks = _Networks(bundle, layout, plan, threads)
        self.z = Plane(layout.hyper, self._z)
        self.first = Plane(layout.latents, self._first)
        self._coders = [StreamEncoder() for _ in range(layout.streams)]

    def _coder(self, layer: int, i: int, j: int) -> StreamEncoder:
        count = self.layout.slices
        return self._coders[layer * count + self.layout.latents.number(i, j) if count > 1 else 0]

    def _steps(self, box: Box) -> Tensor:
        """Latents in quantisation steps, [M, rows, columns]."""
        steps: Tensor = self.y.read(box)[0] * self.networks.rate("gain", box)[0]
        return steps

    def _z(self, i: int, j: int, box: Box) -> Arrays:
        bounds = self.layout.latents.bounds
        own = box.scaled(pixels.HYPER_STRIDE).grown(0, 0, bounds)
        window = own.grown(HYPER_ANALYSIS_HALO, 0, bounds)
        padded = pixels.pad_to_multiple(self._steps(window), pixels.HYPER_STRIDE, (1, 2))
        z = self.networks.transforms.hyper_analysis(np.ascontiguousarray(padded, np.float32)[None])[0]
        z_hat = _round(np.ascontiguousarray(z[:, *box.within(window.divided(pixels.HYPER_STRIDE))]))
        self.bundle.prior.encode(self._coder(0, i, j), z_hat, self.networks.band)
        return (z_hat,)

    def _residual(self, box: Box, mean: Tensor, indexes: NDArray[np.uint8]) -> NDArray[np.int32]:
        """What is left of the latents to code; 0 where the index says so."""
        return self.bundle.conditional.zero_uncoded(_round(self._steps(box) - mean), indexes)

    def _first(self, i: int, j: int, box: Box) -> Arrays:
        features, mean, scale_features, indexes = self.networks.hyper(self.z, box)
        mask = self.networks.step1(box)
        residual = np.where(mask, self._residual(box, mean, indexes), np.int32(0))
        at = self.networks.positions(1, box)
        self.bundle.conditional.encode(self._coder(1, i, j), residual.take(at), indexes.take(at))
        return features, mean, scale_features, residual

    def _second(self, i: int, j: int) -> None:
        box = self.layout.latents.box(i, j)
        indexes = self.networks.second_indexes(self.first, box)
        residual = self._residual(box, self.networks.second_mean(self.first, box)[0], indexes)
        at = self.networks.positions(2, box)
        self.bundle.conditional.encode(self._coder(2, i, j), residual.take(at), indexes.take(at))

    def streams(self, keep: bool) -> Streams:
        """Args: keep: do not forget y."""
        planes = ((self.first, 0, CONTEXT_HALO), (self.z, 1, HYPER_SYNTHESIS_HALO))
        y = () if keep else ((self.y, 0, 0),)
        self.networks.run((*planes, *y), self._second)
        return tuple(coder.finish() for coder in self._coders)


def encode_latents(
    y: Plane, plan: RatePlan, bundle: ModelBundle, layout: Layout, threads: int = 0, keep: bool = True
) -> Streams:
    """Code the plane of ``analyse``; only this part depends on the rate.

    Args:
        keep: leave ``y`` as it is, to be coded again; it takes 5 bytes a pixel. Otherwise it is forgotten behind.
    """
    return _Encoder(y, plan, bundle, layout, threads).streams(keep)


def semantic_latents(y: Plane, plan: RatePlan, bundle: ModelBundle, layout: Layout, threads: int = 0) -> Tensor:
    """What ``decode_semantic_latents`` will find in the file of y, [1, M, h, w], without writing it."""
    encoder = _Encoder(y, plan, bundle, layout, threads)
    return _semantic(encoder.networks, encoder.first, encoder.z)


def _semantic(networks: _Networks, first: Plane, z: Plane) -> Tensor:
    out = np.empty((1, networks.bundle.latent_channels, *networks.layout.latents.bounds.shape), np.float32)

    def work(i: int, j: int) -> None:
        box = networks.layout.latents.box(i, j)
        out[0, :, box.top : box.bottom, box.left : box.right] = networks.semantic(first, box)

    networks.run(((first, 0, CONTEXT_HALO), (z, 1, HYPER_SYNTHESIS_HALO)), work)
    return out


# ---- decoding --------------------------------------------------------------------------------------------------


class _Decoder:
    """Mirror of ``_Encoder``: z_hat → step 1 → step 2 and ŷ → pixels."""

    def __init__(self, streams: Streams, plan: RatePlan, bundle: ModelBundle, layout: Layout, threads: int) -> None:
        if len(streams) != layout.streams:
            raise FormatError(f"{len(streams)} streams where {layout.streams} are due")
        self.bundle, self.layout, self._streams = bundle, layout, streams
        self.networks = _Networks(bundle, layout, plan, threads)
        self.z = Plane(layout.hyper, self._z)
        self.first = Plane(layout.latents, self._first)
        self.y_hat = Plane(layout.latents, self._second)
        self._whole = StreamDecoder(streams[0]) if layout.slices == 1 else None

    def _coder(self, layer: int, i: int, j: int) -> StreamDecoder:
        return self._whole or StreamDecoder(self._streams[layer * self.layout.slices + self.layout.latents.number(i, j)])

    def _finish(self, coder: StreamDecoder, last: bool = False) -> None:
        if last or coder is not self._whole:
            coder.finish()

    def _z(self, i: int, j: int, box: Box) -> Arrays:
        coder = self._coder(0, i, j)
        z_hat = self.bundle.prior.decode(coder, self.networks.band, box.shape)
        self._finish(coder)
        return (z_hat,)

    def _first(self, i: int, j: int, box: Box) -> Arrays:
        features, mean, scale_features, indexes = self.networks.hyper(self.z, box)
        at, coder = self.networks.positions(1, box), self._coder(1, i, j)
        residual = np.zeros(indexes.shape, np.int32)
        residual.put(at, self.bundle.conditional.decode(coder, indexes.take(at)))
        self._finish(coder)
        return features, mean, scale_features, residual

    def second(self, i: int, j: int, box: Box) -> tuple[NDArray[np.int32], Tensor]:
        """(residuals, means) of both steps."""
        indexes = self.networks.second_indexes(self.first, box)
        mean2, mean1, residual1 = self.networks.second_mean(self.first, box)
        at, coder = self.networks.positions(2, box), self._coder(2, i, j)
        residual = residual1.copy()
        residual.put(at, self.bundle.conditional.decode(coder, indexes.take(at)))
        self._finish(coder, last=True)
        return residual, np.where(self.networks.step1(box), mean1, mean2)

    def _second(self, i: int, j: int, box: Box) -> Arrays:
        residual, mean = self.second(i, j, box)
        return ((mean + residual.astype(np.float32)) * self.networks.rate("inverse", box)[0],)

    def pixels(self, box: Box) -> pixels.Pixels:
        """uint8 [rows, columns, 3] of latent positions, cut at the picture's border."""
        window = box.grown(SYNTHESIS_HALO, SYNTHESIS_HALO, self.layout.latents.bounds)
        (y_hat,) = self.y_hat.read(window)
        condition = self.networks.rate("synthesis", window)
        rgb = self.networks.transforms.synthesis(np.ascontiguousarray(y_hat)[None], condition)[0]
        rows, columns = self.layout.pixels_of(box).within(window.scaled(pixels.LATENT_STRIDE))
        picture: pixels.Pixels = rgb[rows, columns]
        return picture

    def run(self, work: Any, box: Box | None = None) -> None:
        planes = ((self.y_hat, 0, SYNTHESIS_HALO), (self.first, 1, CONTEXT_HALO), (self.z, 2, HYPER_SYNTHESIS_HALO))
        self.networks.run(planes, work, box)


def decode_streams(
    streams: Streams,
    plan: RatePlan,
    bundle: ModelBundle,
    layout: Layout,
    threads: int = 0,
    *,
    box: Box | None = None,
    out: Any = None,
) -> pixels.Pixels:
    """Mirror of ``analyse`` and ``encode_latents``: pixels uint8 [H, W, 3].

    Args:
        box: decode these pixels only, from the slices that they depend on.
        out: what takes the pixels, slice by slice, instead of a new array: ``out[top:bottom, left:right] = pixels``.
    """
    decoder = _Decoder(streams, plan, bundle, layout, threads)
    box = box or Box(0, 0, layout.height, layout.width)
    picture = np.empty((*box.shape, 3), np.uint8) if out is None else out
    latents = box.divided(pixels.LATENT_STRIDE)

    def work(i: int, j: int) -> None:
        own = layout.latents.box(i, j).grown(0, 0, latents)
        at = layout.pixels_of(own)
        part = at.grown(0, 0, box)
        rows, columns = part.within(box)
        picture[rows, columns] = decoder.pixels(own)[part.within(at)]

    decoder.run(work, latents)
    return picture


def decode_latents(streams: Streams, plan: RatePlan, bundle: ModelBundle, layout: Layout, threads: int = 0) -> Latents:
    """What the streams hold, bit for bit."""
    decoder = _Decoder(streams, plan, bundle, layout, threads)
    shape = (bundle.latent_channels, *layout.latents.bounds.shape)
    latents = Latents(
        np.empty((bundle.hyper_channels, *layout.hyper.bounds.shape), np.int32),
        np.empty(shape, np.int32),
        np.empty(shape, np.uint8),
    )

    def work(i: int, j: int) -> None:
        box = layout.latents.box(i, j)
        at = (slice(None), slice(box.top, box.bottom), slice(box.left, box.right))
        latents.residual[at] = decoder.second(i, j, box)[0]
        first, second = decoder.networks.hyper(decoder.z, box)[3], decoder.networks.second_indexes(decoder.first, box)
        latents.indexes[at] = np.where(decoder.networks.step1(box), first, second)

    decoder.networks.run((), work)
    latents.z_hat[:] = decoder.z.read(layout.hyper.bounds)[0]
    return latents


def decode_semantic_latents(
    streams: Streams, plan: RatePlan, bundle: ModelBundle, layout: Layout, threads: int = 0
) -> Tensor:
    """Latents for the semantic heads, float32 [1, M, h, w]: the first half of the bits, and no synthesis."""
    decoder = _Decoder(streams, plan, bundle, layout, threads)
    return _semantic(decoder.networks, decoder.first, decoder.z)


def ideal_bits(latents: Latents, rate: int, bundle: ModelBundle) -> float:
    """-log2 of the latents' probability under the model's tables: what a perfect entropy coder would need."""
    band = bundle.rate_bank.band(rate, bundle.prior.bands)
    return bundle.prior.bits(latents.z_hat, band) + bundle.conditional.bits(latents.residual, latents.indexes)


def _round(values: Tensor) -> NDArray[np.int32]:
    limit = MAGNITUDE_LIMIT - 1
    return np.rint(np.clip(values, -limit, limit)).astype(np.int32)
