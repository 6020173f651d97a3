"""Encode and decode: the composition of container, entropy coding and inference. Arrays only: no PIL, no paths.

The signal path is that of FORMAT.md section 5. Integers alone choose probability tables; means and pixels are float
and may differ by a rounding between machines, which moves a pixel by one level at most and never breaks a stream.
"""

from __future__ import annotations

import dataclasses
from io import BytesIO
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import container, pixels
from .bundle import ModelBundle, find_model
from .container import Header, Prologue
from .entropy.coder import MAGNITUDE_LIMIT, StreamDecoder, StreamEncoder
from .errors import FormatError
from .inference import Tensor, Transforms, transforms_for
from .limits import DEFAULT_LIMITS, Limits

DEFAULT_QUALITY = 75


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


# ---- what encoder and decoder share ----------------------------------------------------------------------------


class _SliceCoder:
    """The networks between the latents, for one slice at one rate."""

    def __init__(self, bundle: ModelBundle, transforms: Transforms, rate: int, height: int, width: int) -> None:
        self.bundle, self.transforms = bundle, transforms
        bank = bundle.rate_bank
        self.gain = np.exp(bank.interpolate(bank.log_gain, rate))
        self.inverse_gain = np.exp(bank.interpolate(bank.log_inverse_gain, rate))
        self.synthesis_condition = bank.interpolate(bank.synthesis_condition, rate)
        self.hyper_condition = bank.interpolate(bank.hyper_condition, rate)
        self.band = bank.band(rate, bundle.prior.bands)
        self.shape = pixels.latent_shape(height, width)
        self.hyper_shape = pixels.hyper_shape(height, width)
        self.step1 = pixels.step_mask(bundle.latent_channels, *self.shape)

    def crop(self, tensor: NDArray[np.generic]) -> NDArray[np.generic]:
        """Networks behind z work on whole hyper positions; cut to the picture's latents."""
        return np.ascontiguousarray(tensor[:, :, : self.shape[0], : self.shape[1]])

    def first(self, z_hat: NDArray[np.int32]) -> tuple[Tensor, Tensor, Tensor, NDArray[np.uint8]]:
        """z_hat → (mean features, mean of step 1, scale features, indexes of step 1)."""
        z = z_hat[None].astype(np.float32)
        features, mean = self.transforms.hyper_synthesis(z, self.hyper_condition)
        scale_features, indexes = self.transforms.scale_hyper_synthesis(z)
        return self.crop(features), self.crop(mean), self.crop(scale_features), self.crop(indexes)[0]  # type: ignore[return-value]

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


# ---- slices ----------------------------------------------------------------------------------------------------


def encode_slice(rgb: pixels.Pixels, rate: int, bundle: ModelBundle, threads: int = 0) -> Encoded:
    """Code uint8 [H, W, 3] at a 16-bit rate."""
    transforms = transforms_for(bundle, threads)
    padded = pixels.pad_to_multiple(rgb, pixels.LATENT_STRIDE, (0, 1))
    y = transforms.analysis(np.ascontiguousarray(padded)[None])
    return encode_latents(y, rate, bundle, rgb.shape[0], rgb.shape[1], threads)


def encode_latents(y: Tensor, rate: int, bundle: ModelBundle, height: int, width: int, threads: int = 0) -> Encoded:
    """Code y [1, M, h, w] of the analysis; only this part depends on the rate."""
    coder = _SliceCoder(bundle, transforms_for(bundle, threads), rate, height, width)
    steps = y * coder.gain
    z = coder.transforms.hyper_analysis(pixels.pad_to_multiple(steps, pixels.HYPER_STRIDE, (2, 3)))  # type: ignore[arg-type]
    z_hat = _round(z)[0]
    features, mean1, scale_features, indexes1 = coder.first(z_hat)
    conditional, step1 = bundle.conditional, coder.step1

    residual1 = np.where(step1, conditional.zero_uncoded(_round(steps - mean1)[0], indexes1), np.int32(0))
    indexes2 = coder.second_indexes(scale_features, residual1)
    mean2 = coder.second_mean(features, mean1, residual1)
    residual2 = conditional.zero_uncoded(_round(steps - mean2)[0], indexes2)

    encoder = StreamEncoder()
    bundle.prior.encode(encoder, z_hat, coder.band)
    conditional.encode(encoder, residual1[step1], indexes1[step1])
    conditional.encode(encoder, residual2[~step1], indexes2[~step1])
    latents = Latents(z_hat, np.where(step1, residual1, residual2), np.where(step1, indexes1, indexes2))
    return Encoded(encoder.finish(), latents)


def ideal_bits(latents: Latents, rate: int, bundle: ModelBundle) -> float:
    """-log2 of the latents' probability under the model's tables: what a perfect entropy coder would need."""
    band = bundle.rate_bank.band(rate, bundle.prior.bands)
    return bundle.prior.bits(latents.z_hat, band) + bundle.conditional.bits(latents.residual, latents.indexes)


def decode_slice(
    stream: bytes, rate: int, bundle: ModelBundle, height: int, width: int, threads: int = 0
) -> tuple[pixels.Pixels, Latents]:
    """Mirror of ``encode_slice``: pixels uint8 [H, W, 3], and the latents they were made from."""
    coder = _SliceCoder(bundle, transforms_for(bundle, threads), rate, height, width)
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


# ---- files -----------------------------------------------------------------------------------------------------


def encode(
    picture: pixels.Pixels,
    quality: float = DEFAULT_QUALITY,
    *,
    model: str | None = None,
    threads: int = 0,
    icc_profile: bytes | None = None,
    exif: bytes | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> bytes:
    """Compress a picture.

    Args:
        picture: uint8 [H, W] (grey) or [H, W, 3] (RGB).
        quality: 1 to 100, as with JPEG.
        model: name or id of an installed model; the default one otherwise.
        threads: CPU threads; 0 takes one per core.
        icc_profile, exif: kept byte for byte.

    Raises:
        TypeError, ValueError: arguments of the wrong kind, shape or range; metadata beyond the limit.
        LimitExceededError, UnknownModelError, BundleError.
    """
    if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8:
        raise TypeError(f"a picture must be a uint8 array, not {getattr(picture, 'dtype', type(picture).__name__)}")
    if picture.ndim != 2 and (picture.ndim != 3 or picture.shape[2] != 3):
        raise ValueError(f"a picture must have shape [H, W] or [H, W, 3], not {list(picture.shape)}")
    if not picture.size:
        raise ValueError("cannot write an empty picture")
    check_quality(quality)
    check_threads(threads)
    height, width = picture.shape[:2]
    container.check_size(width, height, limits)
    metadata = {}
    for kind, value in ((container.ICC_PROFILE, icc_profile), (container.EXIF, exif)):
        if value:
            if len(value) > limits.max_metadata_bytes:
                raise ValueError(f"{len(value)} bytes of metadata exceed the limit of {limits.max_metadata_bytes}")
            metadata[kind] = bytes(value)
    bundle = find_model(model)
    rate = bundle.rate_bank.rate_of_quality(quality)
    coded = encode_slice(pixels.to_rgb(picture), rate, bundle, threads)
    header = Header(width, height, "L" if picture.ndim == 2 else "RGB", bundle.model_id)
    return container.write_container(header, rate, (coded.stream,), metadata)


def check_quality(quality: float) -> None:
    """Raise TypeError or ValueError unless ``quality`` is a number from 1 to 100."""
    if isinstance(quality, bool) or not isinstance(quality, (int, float, np.integer, np.floating)):
        raise TypeError(f"quality must be a number from 1 to 100, not {type(quality).__name__}")
    if not 1 <= quality <= 100:
        raise ValueError(f"quality must be from 1 to 100, not {quality}")


def check_threads(threads: int) -> None:
    """Raise TypeError or ValueError unless ``threads`` is a whole number, 0 or more."""
    if isinstance(threads, bool) or not isinstance(threads, int):
        raise TypeError(f"threads must be a whole number, not {type(threads).__name__}")
    if threads < 0:
        raise ValueError(f"threads must be 0 (one per core) or more, not {threads}")


def read_prologue(data: bytes, limits: Limits = DEFAULT_LIMITS) -> Prologue:
    """Size, mode, model and metadata of a file, without its pixels and without running a network."""
    return container.read_prologue(BytesIO(data).read, limits)


def decode(data: bytes, *, threads: int = 0, limits: Limits = DEFAULT_LIMITS) -> pixels.Pixels:
    """Decompress a file to uint8 [H, W] or [H, W, 3].

    Raises:
        SemicodecError: one of its subclasses, for any bytes that are not a file this build can read.
        TypeError, ValueError: ``threads`` is no whole number of 0 or more.
    """
    stream = BytesIO(data)
    prologue = container.read_prologue(stream.read, limits)
    return decode_picture(prologue, container.read_slices(stream.read, prologue.index, limits), threads=threads)


def decode_picture(prologue: Prologue, slices: tuple[bytes, ...], *, threads: int = 0) -> pixels.Pixels:
    """Decompress a file that ``container`` has taken apart."""
    check_threads(threads)
    header = prologue.header
    bundle = find_model(header.model_id)
    if not slices:
        raise FormatError("a picture without slices")
    rgb, _ = decode_slice(slices[0], prologue.index.rate, bundle, header.height, header.width, threads)
    return pixels.to_luma(rgb) if header.mode == "L" else rgb
