"""Slices: pixels ↔ one entropy-coded stream, by the networks of a model. Arrays only.

The signal path is that of FORMAT.md section 5. Integers alone choose probability tables; means and pixels are float
and may differ by a rounding between machines, which moves a pixel by one level at most and never breaks a stream.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import container, pixels
from .bundle import ModelBundle
from .container import Prologue
from .entropy.coder import MAGNITUDE_LIMIT, StreamDecoder, StreamEncoder
from .inference import Tensor, Transforms, transforms_for


class Latents(NamedTuple):
    """What the entropy coder codes, the same bit for bit in encoder and decoder on every machine.

    z_hat int32 [Z, h/4, w/4]; residual int32 and indexes uint8 [M, h, w], both steps merged.
    """

    z_hat: NDArray[np.int32]
    residual: NDArray[np.int32]
    indexes: NDArray[np.uint8]


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A coded slice with what it was coded from."""

    stream: bytes
    latents: Latents


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


class _SliceCoder:
    """The networks between the latents, for one slice at one plan of rates."""

    def __init__(self, bundle: ModelBundle, transforms: Transforms, plan: RatePlan, height: int, width: int) -> None:
        self.bundle, self.transforms = bundle, transforms
        self.shape = pixels.latent_shape(height, width)
        self.hyper_shape = pixels.hyper_shape(height, width)
        self.step1 = pixels.step_mask(bundle.latent_channels, *self.shape)
        bank, levels = bundle.rate_bank, plan.levels
        self.band = bank.band(plan.rate, bundle.prior.bands)
        rates = plan.rates or (plan.rate,)
        rows = [np.concatenate([bank.interpolate(values, rate) for rate in rates]) for values in (
            bank.log_gain, bank.log_inverse_gain, bank.synthesis_condition, bank.hyper_condition)]  # fmt: skip
        rows[:2] = [np.exp(row) for row in rows[:2]]
        if levels is not None:  # [K, C, 1, 1] → [1, C, h, w], at each network's own scale
            hyper = pixels.pad_to_multiple(levels, pixels.HYPER_STRIDE, (0, 1))
            maps = (levels, levels, levels.repeat(2, 0).repeat(2, 1), hyper)
            rows = [np.moveaxis(row[:, :, 0, 0][at], 2, 0)[None] for row, at in zip(rows, maps, strict=True)]
        self.gain, self.inverse_gain, self.synthesis_condition, self.hyper_condition = (
            np.ascontiguousarray(row, np.float32) for row in rows
        )

    def crop(self, tensor: NDArray[np.generic]) -> NDArray[np.generic]:
        """Networks behind z work on whole hyper positions; cut to the picture's latents."""
        return np.ascontiguousarray(tensor[:, :, : self.shape[0], : self.shape[1]])

    def first(self, z_hat: NDArray[np.int32]) -> tuple[Tensor, Tensor, Tensor, NDArray[np.uint8]]:
        """z_hat → (mean features, mean of step 1, scale features, indexes of step 1)."""
        z = z_hat[None].astype(np.float32)
        features, mean = self.transforms.hyper_synthesis(z, self.hyper_condition)
        scale_features, indexes = self.transforms.scale_hyper_synthesis(z)
        return self.crop(features), self.crop(mean), self.crop(scale_features), self.crop(indexes)[0]  # type: ignore[return-value]

    def hyper_latents(self, steps: Tensor) -> NDArray[np.int32]:
        """Latents in quantisation steps → z_hat."""
        padded = pixels.pad_to_multiple(steps, pixels.HYPER_STRIDE, (2, 3))
        z_hat: NDArray[np.int32] = _round(self.transforms.hyper_analysis(padded))[0]  # type: ignore[arg-type]
        return z_hat

    def residual(self, steps: Tensor, mean: Tensor, indexes: NDArray[np.uint8]) -> NDArray[np.int32]:
        """What is left of ``steps`` to code; 0 where the index says so."""
        return self.bundle.conditional.zero_uncoded(_round(steps - mean)[0], indexes)

    def second_indexes(self, scale_features: Tensor, residual1: NDArray[np.int32]) -> NDArray[np.uint8]:
        indexes: NDArray[np.uint8] = self.transforms.scale_context(scale_features, residual1[None].astype(np.float32))[0]
        return indexes

    def second_mean(self, features: Tensor, mean1: Tensor, residual1: NDArray[np.int32]) -> Tensor:
        y_hat1 = np.where(self.step1, mean1 + residual1.astype(np.float32), np.float32(0))
        return mean1 + self.transforms.mean_context(features, y_hat1)

    def reconstruct(self, mean: Tensor, residual: NDArray[np.int32]) -> NDArray[np.uint8]:
        """Means and residuals → pixels uint8 [16h, 16w, 3]."""
        y_hat = (mean + residual.astype(np.float32)) * self.inverse_gain
        picture: NDArray[np.uint8] = self.transforms.synthesis(y_hat, self.synthesis_condition)[0]
        return picture

    def semantic(self, features: Tensor, mean1: Tensor, residual1: NDArray[np.int32]) -> Tensor:
        """Dequantised latents of step 1, those of step 2 at their means: the input of semantic heads, [1, M, h, w]."""
        mean2 = self.second_mean(features, mean1, residual1)
        y_hat = np.where(self.step1, mean1 + residual1.astype(np.float32), mean2) * self.inverse_gain
        return y_hat.astype(np.float32, copy=False)


# ---- slices ----------------------------------------------------------------------------------------------------


def analyse(rgb: pixels.Pixels, bundle: ModelBundle, threads: int = 0) -> Tensor:
    """uint8 [H, W, 3] → y [1, M, h, w], which does not depend on the rate."""
    padded = pixels.pad_to_multiple(rgb, pixels.LATENT_STRIDE, (0, 1))
    return transforms_for(bundle, threads).analysis(np.ascontiguousarray(padded)[None])


def encode_slice(rgb: pixels.Pixels, rate: int, bundle: ModelBundle, threads: int = 0) -> Encoded:
    """Code uint8 [H, W, 3] at a 16-bit rate."""
    return encode_latents(analyse(rgb, bundle, threads), RatePlan(rate), bundle, rgb.shape[0], rgb.shape[1], threads)


def encode_latents(y: Tensor, plan: RatePlan, bundle: ModelBundle, height: int, width: int, threads: int = 0) -> Encoded:
    """Code y [1, M, h, w] of the analysis; only this part depends on the rate."""
    coder = _SliceCoder(bundle, transforms_for(bundle, threads), plan, height, width)
    steps = y * coder.gain
    z_hat = coder.hyper_latents(steps)
    features, mean1, scale_features, indexes1 = coder.first(z_hat)
    conditional, step1 = bundle.conditional, coder.step1

    residual1 = np.where(step1, coder.residual(steps, mean1, indexes1), np.int32(0))
    indexes2 = coder.second_indexes(scale_features, residual1)
    mean2 = coder.second_mean(features, mean1, residual1)
    residual2 = coder.residual(steps, mean2, indexes2)

    encoder = StreamEncoder()
    bundle.prior.encode(encoder, z_hat, coder.band)
    conditional.encode(encoder, residual1[step1], indexes1[step1])
    conditional.encode(encoder, residual2[~step1], indexes2[~step1])
    latents = Latents(z_hat, np.where(step1, residual1, residual2), np.where(step1, indexes1, indexes2))
    return Encoded(encoder.finish(), latents)


def semantic_latents(y: Tensor, plan: RatePlan, bundle: ModelBundle, height: int, width: int, threads: int = 0) -> Tensor:
    """What ``decode_semantic_latents`` will find in the file of y [1, M, h, w], without writing it."""
    coder = _SliceCoder(bundle, transforms_for(bundle, threads), plan, height, width)
    steps = y * coder.gain
    features, mean1, _, indexes1 = coder.first(coder.hyper_latents(steps))
    residual1 = np.where(coder.step1, coder.residual(steps, mean1, indexes1), np.int32(0))
    return coder.semantic(features, mean1, residual1)


def decode_semantic_latents(
    stream: bytes, plan: RatePlan, bundle: ModelBundle, height: int, width: int, threads: int = 0
) -> Tensor:
    """Latents for the semantic heads, float32 [1, M, h, w]: the first half of the stream, and no synthesis."""
    coder = _SliceCoder(bundle, transforms_for(bundle, threads), plan, height, width)
    decoder = StreamDecoder(stream)
    z_hat = bundle.prior.decode(decoder, coder.band, coder.hyper_shape)
    features, mean1, _, indexes1 = coder.first(z_hat)
    residual1 = np.zeros(coder.step1.shape, np.int32)
    residual1[coder.step1] = bundle.conditional.decode(decoder, indexes1[coder.step1])
    return coder.semantic(features, mean1, residual1)


def ideal_bits(latents: Latents, rate: int, bundle: ModelBundle) -> float:
    """-log2 of the latents' probability under the model's tables: what a perfect entropy coder would need."""
    band = bundle.rate_bank.band(rate, bundle.prior.bands)
    return bundle.prior.bits(latents.z_hat, band) + bundle.conditional.bits(latents.residual, latents.indexes)


def decode_slice(
    stream: bytes, plan: RatePlan | int, bundle: ModelBundle, height: int, width: int, threads: int = 0
) -> tuple[pixels.Pixels, Latents]:
    """Mirror of ``encode_latents``: pixels uint8 [H, W, 3], and the latents they were made from."""
    plan = RatePlan(plan) if isinstance(plan, int) else plan
    coder = _SliceCoder(bundle, transforms_for(bundle, threads), plan, height, width)
    conditional, step1 = bundle.conditional, coder.step1
    decoder = StreamDecoder(stream)
    z_hat = bundle.prior.decode(decoder, coder.band, coder.hyper_shape)
    features, mean1, scale_features, indexes1 = coder.first(z_hat)

    residual = np.zeros(step1.shape, np.int32)
    residual[step1] = conditional.decode(decoder, indexes1[step1])
    indexes2 = coder.second_indexes(scale_features, residual)
    mean2 = coder.second_mean(features, mean1, residual)
    residual[~step1] = conditional.decode(decoder, indexes2[~step1])
    decoder.finish()

    picture = coder.reconstruct(np.where(step1, mean1, mean2), residual)
    return picture[:height, :width], Latents(z_hat, residual, np.where(step1, indexes1, indexes2))


def _round(values: Tensor) -> NDArray[np.int32]:
    limit = MAGNITUDE_LIMIT - 1
    return np.rint(np.clip(values, -limit, limit)).astype(np.int32)
