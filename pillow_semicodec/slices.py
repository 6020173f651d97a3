"""Slices: pixels ↔ entropy-coded streams, by the networks of a model. Arrays only.

The signal path is that of FORMAT.md section 5. Pixels are float before they are rounded, and may differ between machines by
a level, few of them by more; what is entropy-coded never does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import container, pixels
from .alpha import decode_alpha
from .bundle import ModelBundle
from .container import LAYERS, CutStream
from .entropy.coder import MAGNITUDE_LIMIT, StreamDecoder, StreamEncoder
from .entropy.models import is_busy
from .errors import FormatError
from .inference import Tensor
from .latent_path import (
    ANALYSIS_HALO,
    CONTEXT_HALO,
    HYPER_ANALYSIS_HALO,
    HYPER_SYNTHESIS_HALO,
    REDUCED_HALO,
    SYNTHESIS_HALO,
    LatentPath,
    slice_workers,
)
from .layout import Latents, Layout, RatePlan, Streams
from .planes import Arrays, Box, Plane, weakly
from .prediction import differences, restore

# ---- encoding --------------------------------------------------------------------------------------------------


def analyse(picture: Any, bundle: ModelBundle, layout: Layout, threads: int = 0) -> Plane:
    """The plane of y [M, h, w], which does not depend on the rate.

    Args:
        picture: uint8 [H, W, 3] or [H, W], or levels in float32: an array, or anything that gives one when boxes are cut out
            of it.
    """
    _, transforms = slice_workers(bundle, layout, threads)

    def make(i: int, j: int, box: Box) -> Arrays:
        window = box.grown(ANALYSIS_HALO, ANALYSIS_HALO, layout.latents.bounds)
        at = layout.pixels_of(window)
        rgb = pixels.to_rgb(np.asarray(picture[at.top : at.bottom, at.left : at.right]))
        padded = pixels.pad_to_multiple(rgb, pixels.LATENT_STRIDE, (0, 1))
        y = transforms.analysis(np.ascontiguousarray(padded)[None])[0]
        return (np.ascontiguousarray(y[:, *box.within(window)]),)

    return Plane(layout.latents, make)


class Encoder(LatentPath):
    """y → z_hat → step 1 → step 2 → streams; only this part of the encoder depends on the rate.

    Args:
        y: what ``analyse`` gave.
        refined: latents in quantisation steps to code instead (``effort``); z_hat follows ``y`` all the same.
    """

    def __init__(
        self,
        y: Plane,
        plan: RatePlan,
        bundle: ModelBundle,
        layout: Layout,
        threads: int = 0,
        refined: Plane | None = None,
    ) -> None:
        super().__init__(plan, bundle, layout, threads)
        self.y, self._refined = y, refined
        self._busy: dict[Box, bool] = {}

    def _steps(self, box: Box) -> Tensor:
        """Latents in quantisation steps, [M, rows, columns]."""
        steps: Tensor = self.y.read(box)[0] * self.rate("gain", box)[0]
        return steps

    def _z(self, i: int, j: int, box: Box) -> Arrays:
        own = box.scaled(pixels.HYPER_STRIDE).grown(0, 0, self.layout.latents.bounds)
        window = own.grown(HYPER_ANALYSIS_HALO, 0, self.layout.latents.bounds)
        padded = pixels.pad_to_multiple(self._steps(window), pixels.HYPER_STRIDE, (1, 2))
        z = self.transforms.hyper_analysis(np.ascontiguousarray(padded, np.float32)[None])[0]
        z = z[:, *box.within(window.divided(pixels.HYPER_STRIDE))]
        return (np.rint(np.clip(z, -MAGNITUDE_LIMIT, MAGNITUDE_LIMIT)).astype(np.int32),)

    def busy(self, box: Box) -> bool:
        """Whether dead zones of a slice are the wider ones; both steps ask."""
        if box not in self._busy:
            indexes = self.scales.read(box)[1].take(self.positions(1, box))
            rate, levels = float(self.plan.rate), self.plan.levels
            if levels is not None:
                rate = float(np.take(self.plan.rates, levels[box.top : box.bottom, box.left : box.right]).mean())
            self._busy[box] = is_busy(indexes, self.bundle.rate_bank.share_of(rate))
        return self._busy[box]

    def _coded(self, step: int, box: Box, mean: Tensor, indexes: NDArray[np.uint8]) -> tuple[NDArray[Any], NDArray[Any]]:
        """(flat positions of a step's latents, what is left of these to code)."""
        conditional, at = self.bundle.conditional, self.positions(step, box)
        wanted = self._refined.read(box)[0] if self._refined else self._steps(box)
        values, indexes = (wanted - mean).take(at), indexes.take(at)
        if self._refined:  # chosen with more care than dead zones have
            return at, conditional.rounded(values, indexes)
        area = box.shape[0] * box.shape[1]
        plain = [slice(*np.searchsorted(at, (c * area, (c + 1) * area))) for c in self.bundle.predicted]
        return at, conditional.quantised(values, indexes, plain, self.busy(box))

    def _residual1(self, i: int, j: int, box: Box) -> Arrays:
        mean, indexes = self.means.read(box)[1], self.scales.read(box)[1]
        residual = np.zeros(indexes.shape, np.int32)
        at, coded = self._coded(1, box, mean, indexes)
        residual.reshape(-1)[at] = coded
        return (residual,)

    def streams(self, keep: bool = True, step: Callable[[], None] = lambda: None) -> Streams:
        """Args:
        keep: leave ``y`` as it is, to be coded again; it takes 5 bytes a pixel.
        step: called after every slice.
        """
        count = self.layout.slices
        coders = [StreamEncoder() for _ in range(self.layout.streams)]

        def work(i: int, j: int) -> None:
            box, k = self.layout.latents.box(i, j), self.layout.latents.number(i, j)
            of_z, of_step1, of_step2 = (coders[layer * count + k] if count > 1 else coders[0] for layer in range(LAYERS))
            self.bundle.prior.encode(of_z, self.z.read(self.layout.hyper.box(i, j))[0], self.prior_band)
            residual = differences(self.residual1.read(box)[0], self.bundle.predicted, self.step1(box))
            indexes, at = self.scales.read(box)[1], self.positions(1, box)
            self.bundle.conditional.encode(of_step1, residual.take(at), indexes.take(at), self.residual_band)
            indexes = self.second_indexes(box)
            at, coded = self._coded(2, box, self.mean(box), indexes)
            self.bundle.conditional.encode(of_step2, coded, indexes.take(at), self.residual_band)
            step()

        self.run(work, *self.first_planes(), *(() if keep else ((self.y, 0, 0),)))
        return tuple(coder.finish() for coder in coders)


# ---- decoding --------------------------------------------------------------------------------------------------


class Decoder(LatentPath):
    """Mirror of ``Encoder``: streams → z_hat → step 1 → step 2 and ŷ → pixels.

    Args:
        deep: pixels are levels in float32, before they are rounded to 8 bits.
        scale: decode a picture 2, 4, 8 or 16 times smaller, which is what ``picture`` then calls pixels.

    What is missing of cut streams (``container.CutStream``) is taken for 0, the model's mean; missing alpha for opaque.

    Raises:
        FormatError: the streams are not of this layout; methods raise it for streams that no encoder makes.
    """

    def __init__(
        self,
        streams: Streams,
        plan: RatePlan,
        bundle: ModelBundle,
        layout: Layout,
        threads: int = 0,
        deep: bool = False,
        scale: int = 1,
    ) -> None:
        super().__init__(plan, bundle, layout, threads)
        self.deep, self.scale = deep, scale
        self._stride = pixels.LATENT_STRIDE // scale
        self._bounds = Box(0, 0, layout.height, layout.width).divided(scale)
        due = container.stream_count(layout.slices, planes=int(layout.alpha))
        if len(streams) != due:
            raise FormatError(f"{len(streams)} streams where {due} are due")
        self._streams = _certain(streams, layout)
        self.y_hat = Plane(layout.latents, weakly(self._y_hat))
        self._whole = self._decoder(0) if layout.slices == 1 else None

    def _decoder(self, k: int) -> StreamDecoder:
        stream = self._streams[k]
        return StreamDecoder(stream, isinstance(stream, CutStream))

    def _coder(self, layer: int, i: int, j: int) -> StreamDecoder:
        return self._whole or self._decoder(layer * self.layout.slices + self.layout.latents.number(i, j))

    def _finish(self, coder: StreamDecoder, last: bool = False) -> None:
        if last or coder is not self._whole:
            coder.finish()

    def _z(self, i: int, j: int, box: Box) -> Arrays:
        coder = self._coder(0, i, j)
        z_hat = self.bundle.prior.decode(coder, self.prior_band, box.shape)
        self._finish(coder)
        return (z_hat,)

    def _residual1(self, i: int, j: int, box: Box) -> Arrays:
        indexes = self.scales.read(box)[1]
        means = self.beside(self.means.read, box)  # needed next
        at, coder = self.positions(1, box), self._coder(1, i, j)
        residual = np.zeros(indexes.shape, np.int32)
        residual.reshape(-1)[at] = self.bundle.conditional.decode(coder, indexes.take(at), self.residual_band)
        self._finish(coder)
        self._restore(residual, coder, box)
        means()
        return (residual,)

    def _restore(self, residual: NDArray[np.int32], coder: StreamDecoder, box: Box) -> None:
        """Of a cut stream the largest differences are missing, for they come last, and all below them would be wrong."""
        complete = not coder.ended
        try:
            if complete:
                restore(residual, self.bundle.predicted, self.step1(box))
        except FormatError:
            if not coder.cut:
                raise
            complete = False
        if not complete:
            residual[list(self.bundle.predicted)] = 0

    def residuals(self, i: int, j: int, box: Box, indexes: NDArray[np.uint8]) -> NDArray[np.int32]:
        """Of both steps, [M, rows, columns]. ``indexes`` are those of step 2."""
        at, coder = self.positions(2, box), self._coder(2, i, j)
        residual: NDArray[np.int32] = self.residual1.read(box)[0].copy()
        residual.reshape(-1)[at] = self.bundle.conditional.decode(coder, indexes.take(at), self.residual_band)
        self._finish(coder, last=True)
        return residual

    def _y_hat(self, i: int, j: int, box: Box) -> Arrays:
        indexes = self.second_indexes(box)
        mean = self.beside(self.mean, box)
        residual = self.residuals(i, j, box, indexes)
        return (self.dequantised(box, mean(), residual),)

    def _computed(self, box: Box) -> pixels.Pixels:
        """[rows, columns, 3] of latent positions, cut at the picture's border."""
        window = box.grown(self._halo, self._halo, self.layout.latents.bounds)
        (y_hat,) = self.y_hat.read(window)
        rgb = self._colours(np.ascontiguousarray(y_hat)[None], self.rate("synthesis", window))[0]
        rows, columns = self._pixels_of(box).within(window.scaled(self._stride))
        picture: pixels.Pixels = rgb[rows, columns]
        return picture

    @property
    def _halo(self) -> int:
        return SYNTHESIS_HALO if self.scale == 1 else REDUCED_HALO

    def _colours(self, y_hat: Tensor, condition: Tensor) -> NDArray[Any]:
        if self.scale > 1:
            levels = self.transforms.reduced(y_hat, condition, self.scale)
            return levels if self.deep else np.rint(levels).astype(np.uint8)
        return (self.transforms.synthesis_of_levels if self.deep else self.transforms.synthesis)(y_hat, condition)

    def _pixels_of(self, box: Box) -> Box:
        """``Layout.pixels_of`` at the scale of the decoder."""
        return box.scaled(self._stride).grown(0, 0, self._bounds)

    def latents(self) -> Latents:
        """What the streams hold, bit for bit."""
        shape = (self.bundle.latent_channels, *self.layout.latents.bounds.shape)
        z_hat = np.empty((self.bundle.hyper_channels, *self.layout.hyper.bounds.shape), np.int32)
        residual, merged = np.empty(shape, np.int32), np.empty(shape, np.uint8)

        def work(i: int, j: int) -> None:
            box = self.layout.latents.box(i, j)
            at = (slice(None), slice(box.top, box.bottom), slice(box.left, box.right))
            second = self.second_indexes(box)
            residual[at] = self.residuals(i, j, box, second)
            merged[at] = np.where(self.step1(box), self.scales.read(box)[1], second)

        self.run(work)
        z_hat[:] = self.z.read(self.layout.hyper.bounds)[0]
        return Latents(z_hat, residual, merged)

    def _alpha(self, i: int, j: int) -> pixels.Pixels:
        at = self.layout.pixels_of(self.layout.latents.box(i, j))
        alpha = decode_alpha(self._streams[self.layout.streams + self.layout.latents.number(i, j)], at.shape)
        return alpha if self.scale == 1 else pixels.reduced(alpha, self.scale, False)

    def picture(self, box: Box | None = None, out: Any = None, step: Callable[[], None] = lambda: None) -> pixels.Pixels:
        """Mirror of ``analyse`` and ``Encoder.streams``: pixels [H, W, 3], or [H, W, 4] with alpha.

        Args:
            box: decode these pixels only, from the slices that they depend on.
            out: what takes the pixels, slice by slice, instead of a new array: ``out[top:bottom, left:right] = pixels``.
            step: called after every slice.
        """
        layout = self.layout
        box = box or self._bounds
        dtype = np.float32 if self.deep else np.uint8
        picture = np.empty((*box.shape, 4 if layout.alpha else 3), dtype) if out is None else out
        latents = box.divided(self._stride)

        def work(i: int, j: int) -> None:
            own = layout.latents.box(i, j).grown(0, 0, latents)
            at = self._pixels_of(own)
            part = at.grown(0, 0, box)
            rows, columns = part.within(box)
            colours = self._computed(own)[part.within(at)]
            if layout.alpha:
                alpha = self._alpha(i, j)[part.within(self._pixels_of(layout.latents.box(i, j)))]
                colours = np.concatenate([colours, alpha[:, :, None]], 2)
            picture[rows, columns] = colours
            step()

        self.run(work, (self.y_hat, 0, self._halo), *self.first_planes(ahead=1), box=latents)
        return picture


def _certain(streams: Streams, layout: Layout) -> Streams:
    """Without those that what is missing of others makes unreadable: probability tables follow from the layers before, and
    reach into neighbouring slices.
    """
    if layout.slices == 1 or not isinstance(streams, tuple) or not any(isinstance(s, CutStream) for s in streams):
        return streams
    kept, count = list(streams), layout.slices
    rows, columns = layout.latents.shape
    lost = np.zeros((rows, columns), np.bool_)
    for layer, halo in enumerate((0, HYPER_SYNTHESIS_HALO * pixels.HYPER_STRIDE, CONTEXT_HALO)):
        reach = -(-halo // layout.latents.side)  # in slices
        around = np.pad(lost, reach)
        near = np.zeros_like(lost)
        for i in range(2 * reach + 1):
            for j in range(2 * reach + 1):
                near |= around[i : i + rows, j : j + columns]
        for k in range(count):
            if near.flat[k]:
                kept[layer * count + k] = CutStream()
        own = [isinstance(stream, CutStream) for stream in kept[layer * count : (layer + 1) * count]]
        lost = near | np.reshape(own, (rows, columns))
    return tuple(kept)


def ideal_bits(latents: Latents, rate: int, bundle: ModelBundle) -> float:
    """-log2 of the latents' probability under the model's tables: what a perfect entropy coder would need. For one slice."""
    step1 = pixels.step_mask(*latents.residual.shape)
    first = np.where(step1, latents.residual, np.int32(0))
    coded = np.where(step1, differences(first, bundle.predicted, step1), latents.residual)
    bank, prior, conditional = bundle.rate_bank, bundle.prior, bundle.conditional
    of_z = prior.bits(latents.z_hat, bank.band(rate, prior.bands))
    return of_z + conditional.bits(coded, latents.indexes, bank.band(rate, conditional.bands))
