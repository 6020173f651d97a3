"""The way between z and the latents, which encoder and decoder go alike: every tensor of it a plane (planes.py).

The networks see the picture as a whole; slices cut only what is coded and computed at a time. Integers alone choose
probability tables; means are float and may differ by a rounding between machines, which never breaks a stream.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import options, pixels
from .bundle import ModelBundle
from .inference import Tensor, Transforms, transforms_for
from .layout import Layout, RatePlan
from .planes import Arrays, Box, Plane, begun, run_squares, weakly

# Receptive fields: how much more than what it computes a network must see, in latent positions (z: hyper positions).
ANALYSIS_HALO, SYNTHESIS_HALO, CONTEXT_HALO, REDUCED_HALO = 4, 3, 1, 2
HYPER_ANALYSIS_HALO = pixels.HYPER_STRIDE  # above and on the left only: its strides begin there
HYPER_SYNTHESIS_HALO = 2


Passed = tuple[Plane, int, int]  # squares it runs ahead; how many of its positions before the next square are still read


class LatentPath:
    """z_hat → means and scales of step 1 → residuals of step 1 → means and scales of step 2, at one plan of rates.

    Attributes:
        z: z_hat. means: features and mean of step 1. scales: features and indexes of step 1. residual1: residuals of
            step 1, zero elsewhere. Encoder and decoder make z_hat and residuals in their own ways.
    """

    def __init__(self, plan: RatePlan, bundle: ModelBundle, layout: Layout, threads: int) -> None:
        self.plan, self.bundle, self.layout = plan, bundle, layout
        self.workers, self.transforms = slice_workers(bundle, layout, threads)
        bank = bundle.rate_bank
        self.prior_band = bank.band(plan.rate, bundle.prior.bands)
        self.residual_band = bank.band(plan.rate, bundle.conditional.bands)
        rates = plan.rates or (plan.rate,)
        gain, inverse_gain, synthesis, hyper = (
            np.concatenate([bank.interpolate(values, rate) for rate in rates])
            for values in (bank.log_gain, bank.log_inverse_gain, bank.synthesis_condition, bank.hyper_condition)
        )
        self._rows = {"gain": np.exp(gain), "inverse": np.exp(inverse_gain), "synthesis": synthesis, "hyper": hyper}
        self.z = Plane(layout.hyper, weakly(self._z))
        self.means = Plane(layout.latents, weakly(self._means))
        self.scales = Plane(layout.latents, weakly(self._scales))
        self.residual1 = Plane(layout.latents, weakly(self._residual1))
        # Slices fill the cores; a picture in one piece leaves one beside the entropy coder.
        spare = self.workers == 1 and (threads or options.cores()) > 1
        self._spare = ThreadPoolExecutor(1) if spare else None

    def _z(self, i: int, j: int, box: Box) -> Arrays:
        raise NotImplementedError

    def _residual1(self, i: int, j: int, box: Box) -> Arrays:
        raise NotImplementedError

    def _means(self, i: int, j: int, box: Box) -> Arrays:
        z_hat, window = self._hyper_window(box)
        return _cut(self.transforms.hyper_synthesis(z_hat, self.rate("hyper", window)), box, window)

    def _scales(self, i: int, j: int, box: Box) -> Arrays:
        z_hat, window = self._hyper_window(box)
        features, indexes = _cut(self.transforms.scale_hyper_synthesis(z_hat), box, window)
        for channel in self.bundle.predicted:  # their differences are not zero for certain
            np.maximum(indexes[channel], 1, out=indexes[channel])
        return features, indexes

    def _hyper_window(self, box: Box) -> tuple[Tensor, Box]:
        """(z_hat [1, Z, rows, columns] of the window that ``box`` depends on, that window in latent positions)."""
        window = box.divided(pixels.HYPER_STRIDE).grown(HYPER_SYNTHESIS_HALO, HYPER_SYNTHESIS_HALO, self.layout.hyper.bounds)
        return self.z.read(window)[0][None].astype(np.float32), window.scaled(pixels.HYPER_STRIDE)

    def mean(self, box: Box, residual1: NDArray[np.int32] | None = None) -> Tensor:
        """Means of both steps, [M, rows, columns].

        Args:
            residual1: to be taken instead of the plane of that name, of ``box`` and what lies around it.
        """
        window = box.grown(CONTEXT_HALO, CONTEXT_HALO, self.layout.latents.bounds)
        features, mean1 = self.means.read(window)
        if residual1 is None:
            (residual1,) = self.residual1.read(window)
        parity = (window.top + window.left) % 2
        mask = pixels.step_mask(self.bundle.latent_channels, *(n + parity for n in window.shape))[
            :, parity:, : window.shape[1]
        ]
        y_hat1 = np.where(mask, mean1 + residual1.astype(np.float32), np.float32(0))
        correction = self.transforms.mean_context(np.ascontiguousarray(features)[None], y_hat1[None])
        at = box.within(window)
        merged: Tensor = mean1[:, *at] + np.where(self.step1(box), np.float32(0), correction[0][:, *at])
        return merged

    def second_indexes(self, box: Box, residual1: NDArray[np.int32] | None = None) -> NDArray[np.uint8]:
        """Table indexes of step 2, [M, rows, columns]. Args: see ``mean``."""
        window = box.grown(CONTEXT_HALO, CONTEXT_HALO, self.layout.latents.bounds)
        features = self.scales.read(window)[0]
        if residual1 is None:
            (residual1,) = self.residual1.read(window)
        inputs = (np.ascontiguousarray(features)[None], residual1[None].astype(np.float32))
        return _cut((self.transforms.scale_context(*inputs),), box, window)[0]

    def semantic_latents(self, keep: bool = False) -> Tensor:
        """The input of semantic heads, float32 [1, M, h, w]: dequantised latents of step 1, those of step 2 at their means;
        half of the bits, and no synthesis.

        Args:
            keep: leave all planes as they are.
        """
        out = np.empty((1, self.bundle.latent_channels, *self.layout.latents.bounds.shape), np.float32)

        def work(i: int, j: int) -> None:
            box = self.layout.latents.box(i, j)
            steps = self.mean(box) + self.residual1.read(box)[0].astype(np.float32)
            out[0, :, box.top : box.bottom, box.left : box.right] = steps * self.rate("inverse", box)[0]

        self.run(work, *(() if keep else self.first_planes()))
        return out

    def dequantised(self, box: Box, mean: Tensor, residual: NDArray[np.int32]) -> Tensor:
        """Latents as the synthesis reads them, [M, rows, columns]."""
        latents: Tensor = (mean + residual.astype(np.float32)) * self.rate("inverse", box)[0]
        return latents

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

    def beside(self, work: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
        """Begin ``work`` on a spare thread, if there is one, while this one does entropy coding; call for its result."""
        if self._spare is None:
            return partial(work, *arguments)
        return begun(self._spare, work, *arguments).result

    def first_planes(self, ahead: int = 0) -> tuple[Passed, ...]:
        """The planes up to step 1, for ``run``, where they run ``ahead`` squares ahead."""
        first = tuple((plane, ahead, CONTEXT_HALO) for plane in (self.means, self.scales, self.residual1))
        return (*first, (self.z, ahead + 1, HYPER_SYNTHESIS_HALO))

    def run(self, work: Callable[[int, int], None], *planes: Passed, box: Box | None = None) -> None:
        """``work`` on all slices of ``box``; ``planes`` are forgotten as they are left behind."""

        def left_behind(k: int, axis: int) -> None:
            for plane, ahead, halo in planes:
                plane.forget((k + 1 + ahead) * plane.grid.side - halo, axis)

        run_squares(self.layout.latents, box or self.layout.latents.bounds, work, left_behind, self.workers)


def slice_workers(bundle: ModelBundle, layout: Layout, threads: int) -> tuple[int, Transforms]:
    """(slices to compute at a time, networks with the threads that each of them has)."""
    workers, each = layout.workers(threads)
    return workers, transforms_for(bundle, each if workers > 1 or threads else 0)


def _cut(arrays: Sequence[NDArray[Any]], box: Box, window: Box) -> Arrays:
    """``box`` of arrays [1, C, rows, columns] that cover ``window``, without the first axis."""
    rows, columns = box.within(window)
    return tuple(np.ascontiguousarray(a[0, :, rows, columns]) for a in arrays)
