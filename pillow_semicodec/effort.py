"""Encoding with effort: roundings of the latents are moved where that saves bits or errors. Decoders see no difference.

Strategy: the gradient of the squared error behind the synthesis says what every latent, a step up or down, would change; its
table says what that costs in bits. In every round the steps that promise most are taken together, half as many of them after
a round that made things worse, whose steps are taken back. Slices are treated one by one, their neighbours as they were.

Source: the idea of refining latents behind a trained encoder, Campos et al., "Content adaptive optimization for neural image
compression" (2019), and Yang et al., "Improving inference for neural image compression" (2020).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import pixels
from .bundle import ModelBundle
from .companions import GRADIENT, find_companion
from .entropy.models import ScaleConditional
from .errors import BundleError
from .inference import Tensor
from .latent_path import CONTEXT_HALO, SYNTHESIS_HALO
from .layout import Layout, RatePlan
from .planes import Arrays, Box, Plane, weakly
from .slices import Encoder

ROUNDS = {1: 0, 2: 3, 3: 4, 4: 6, 5: 8, 6: 11, 7: 16, 8: 24, 9: 40}  # at most, by effort
FIRST_SHARE, LEAST_SHARE = 0.1, 0.005  # of the steps that promise something are taken together
DISTORTION = 0.65  # weight of squared errors beside bits; the model was trained with other errors for the rest
Mask = NDArray[np.bool_]
LARGEST = 40  # magnitude of residuals from which on steps are not considered


class _Base(Encoder):
    """The encoder without effort, and what a decoder would make of its latents."""

    def __init__(self, y: Plane, plan: RatePlan, bundle: ModelBundle, layout: Layout, threads: int) -> None:
        super().__init__(y, plan, bundle, layout, threads)
        self.y_hat = Plane(layout.latents, weakly(self._y_hat))

    def _y_hat(self, i: int, j: int, box: Box) -> Arrays:
        mean = self.mean(box)
        residual = self.residual1.read(box)[0].copy()
        at, coded = self._coded(2, box, mean, self.second_indexes(box))
        residual.reshape(-1)[at] = coded
        return (self.dequantised(box, mean, residual),)


class _State(NamedTuple):
    """Of one slice after a round."""

    cost: float  # bits and weighted errors
    shift: NDArray[np.int8]  # steps that residuals were moved by
    steps: Tensor  # the latents, in quantisation steps
    residual: NDArray[np.int32]
    indexes: NDArray[np.uint8]
    bits: Tensor  # that residuals cost
    error: Tensor  # of the picture around the slice, in levels, where it is seen


@functools.lru_cache(maxsize=16)
def _bits(conditional: ScaleConditional, band: int) -> NDArray[np.float32]:
    """Of residuals -LARGEST - 1 … LARGEST + 1 by table, [tables, values]; infinite where a table codes nothing but 0."""
    values = np.arange(-LARGEST - 1, LARGEST + 2, dtype=np.int32)
    tables = conditional.tables(band)
    rows = [tables.bits(k, values) if tables.sizes[k] else np.where(values, np.inf, 0) for k in range(len(tables))]
    return np.array(rows, np.float32)


def refine(
    y: Plane,
    colours: Any,
    plan: RatePlan,
    bundle: ModelBundle,
    layout: Layout,
    effort: int,
    threads: int,
    step: Callable[[], None] = lambda: None,
    shown: Callable[[Box], Mask] | None = None,
) -> Plane:
    """The latents in quantisation steps, [M, h, w], that ``Encoder`` should code instead of ``y``; 5 bytes a pixel more.

    Args:
        colours: what ``analyse`` was given.
        step: called ``ROUNDS[effort]`` times for every slice.
        shown: of which pixels of a box the networks' colours are seen, [rows, columns]; by default of all.

    Raises:
        BundleError: the model has no network of gradients, or a broken one.
    """
    base = _Base(y, plan, bundle, layout, threads)
    low, high = _trade_offs(bundle)
    rates = plan.rates or (plan.rate,)
    positions = [bundle.rate_bank.share_of(rate) for rate in rates]
    weights = np.array([DISTORTION * math.exp(low + (high - low) * p) / 3 for p in positions], np.float32)
    out = np.empty((bundle.latent_channels, *layout.latents.bounds.shape), np.float32)

    def work(i: int, j: int) -> None:
        box = layout.latents.box(i, j)
        part = _Slice(base, colours, box, weights, shown)
        out[:, box.top : box.bottom, box.left : box.right] = part.refined(ROUNDS[effort], step)

    base.run(work, (base.y_hat, 0, SYNTHESIS_HALO), *base.first_planes(ahead=1))
    return Plane(layout.latents, lambda i, j, box: (out[:, box.top : box.bottom, box.left : box.right],))


def _trade_offs(bundle: ModelBundle) -> tuple[float, float]:
    """Logarithms of what a squared error counts in bits at the first and last anchor."""
    companion = find_companion(bundle, GRADIENT)
    notes = companion.notes if companion else {}
    try:
        return math.log(notes["lambda_min"]), math.log(notes["lambda_max"])
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{bundle.directory}: {GRADIENT}.json states no trade-off ({error})") from error


class _Slice:
    """One slice and what surrounds it."""

    def __init__(
        self,
        base: _Base,
        colours: Any,
        box: Box,
        weights: NDArray[np.float32],
        shown: Callable[[Box], Mask] | None,
    ) -> None:
        bounds = base.layout.latents.bounds
        self.base, self.box = base, box
        self.bits = _bits(base.bundle.conditional, base.residual_band)
        self.near = box.grown(CONTEXT_HALO, CONTEXT_HALO, bounds)
        self.wide = box.grown(SYNTHESIS_HALO, SYNTHESIS_HALO, bounds)
        self.y_hat = base.y_hat.read(self.wide)[0].copy()
        self.residual1 = base.residual1.read(self.near)[0].copy()
        self.condition = base.rate("synthesis", self.wide)
        self.inverse = base.rate("inverse", box)[0]
        around = np.broadcast_to(weights[0], self.wide.shape)  # of squared errors in levels, [rows, columns]
        if (levels := base.plan.levels) is not None:
            around = weights[levels[self.wide.top : self.wide.bottom, self.wide.left : self.wide.right]]
        self.weight = around[box.within(self.wide)]
        at = base.layout.pixels_of(self.wide)
        rgb = pixels.to_rgb(np.asarray(colours[at.top : at.bottom, at.left : at.right]))
        padded = pixels.pad_to_multiple(rgb, pixels.LATENT_STRIDE, (0, 1)).astype(np.float32)
        self.levels = np.ascontiguousarray(padded)[None]
        self.counts = np.zeros((1, *padded.shape[:2], 1), np.float32)  # 1 where errors are seen
        self.counts[0, : at.bottom - at.top, : at.right - at.left, 0] = 1 if shown is None else shown(at)
        stride = pixels.LATENT_STRIDE
        self.worth = None if levels is None else around.repeat(stride, 0).repeat(stride, 1)[None, :, :, None]
        self.first, self.mean1 = base.step1(box), base.means.read(box)[1]
        self.indexes1, self.wanted, self.busy = base.scales.read(box)[1], base._steps(box), base.busy(box)
        self.fixed = np.zeros(self.first.shape, np.bool_)  # what their neighbours are predicted from
        predicted = list(base.bundle.predicted)
        self.fixed[predicted] = self.first[predicted]

    def refined(self, rounds: int, step: Callable[[], None]) -> Tensor:
        """Latents in steps, [M, rows, columns]; ``step`` is called for every round, also for those that are not needed."""
        best = self._state(np.zeros(self.mean1.shape, np.int8))
        promise: tuple[Tensor, NDArray[np.int8]] | None = None
        share = FIRST_SHARE
        for _ in range(rounds):
            step()
            if share < LEAST_SHARE:
                continue
            gain, better = promise = promise or self._promise(best)
            count = int(share * np.count_nonzero(gain))
            if not count:
                share = 0.0
                continue
            least = np.partition(gain, -count, None)[-count] if count < gain.size else 0
            state = self._state(best.shift + np.where(gain >= max(least, 1e-6), better, np.int8(0)))
            if state.cost < best.cost:
                best, promise = state, None
            else:
                share /= 2
        return best.steps

    def _residual(self, mean: Tensor, indexes: NDArray[np.uint8], shift: NDArray[np.int8]) -> NDArray[np.int32]:
        """The encoder's own, moved. Where another index has another dead zone, a shift may come to mean another step: a
        round that this makes worse is taken back.
        """
        bundle = self.base.bundle
        residual = bundle.conditional.quantised(self.wanted - mean, indexes, bundle.predicted, self.busy) + shift
        return bundle.conditional.zero_uncoded(residual, indexes)

    def _state(self, shift: NDArray[np.int8]) -> _State:
        base, box = self.base, self.box
        own = self.residual1[:, *box.within(self.near)]
        moved = self._residual(self.mean1, self.indexes1, shift)
        own[...] = np.where(self.first, moved, np.int32(0))
        mean = base.mean(box, self.residual1)
        indexes = np.where(self.first, self.indexes1, base.second_indexes(box, self.residual1))
        residual = self._residual(mean, indexes, shift)
        steps = mean + residual.astype(np.float32)
        self.y_hat[:, *box.within(self.wide)] = steps * self.inverse
        error = (base.transforms.synthesis_of_levels(self.y_hat[None], self.condition) - self.levels) * self.counts
        squares = np.square(error) if self.worth is None else np.square(error) * self.worth
        distortion = float(squares.sum(dtype=np.float64)) * (float(self.weight[0, 0]) if self.worth is None else 1.0)
        bits = np.where(self.fixed, np.float32(0), self.bits[indexes, _inside(residual)])
        cost = float(bits.sum(dtype=np.float64)) + distortion
        return _State(cost, shift, steps, residual, indexes, bits, error)

    def _promise(self, state: _State) -> tuple[Tensor, NDArray[np.int8]]:
        """What the better step, -1 or 1, of every latent should win; 0 where there is none. Of the latest state alone, for
        the gradient is that of its latents.
        """
        gradient = self.base.transforms.gradient(self.y_hat[None], self.condition, state.error)
        slope = gradient[0][:, *self.box.within(self.wide)] * (self.inverse * self.weight)
        curve = 255**2 * self.weight * self.inverse**2  # half of the second derivative, of an orthonormal transform
        inside = _inside(state.residual)
        up, down = (self.bits[state.indexes, inside + sign] - state.bits + curve + sign * slope for sign in (1, -1))
        gain = np.maximum(-np.minimum(up, down), 0)
        gain[(np.abs(state.residual) >= LARGEST) | self.fixed] = 0
        return gain, np.where(up < down, np.int8(1), np.int8(-1))


def _inside(residual: NDArray[np.int32]) -> NDArray[np.int32]:
    """Places in a row of ``_bits``, with one more on either side."""
    return np.clip(residual, -LARGEST, LARGEST) + (LARGEST + 1)
