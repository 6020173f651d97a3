"""Picture quality: PSNR, MS-SSIM and SSIMULACRA2 of uint8 arrays [H, W, 3].

Needs the extra ``metrics`` (scipy, ssimulacra2).
"""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
Planes = NDArray[Any]  # float32 [C, H, W]

SSIMULACRA2_LEAST = 8  # pixels a side
_MSSSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_WINDOW = np.exp(-0.5 * ((np.arange(11) - 5) / 1.5) ** 2)


def psnr(a: Picture, b: Picture) -> float:
    """dB over all RGB samples; infinite for equal pictures."""
    mse = float(np.mean((a.astype(np.float64) - b) ** 2))
    return 10 * math.log10(255**2 / mse) if mse else math.inf


def msssim(a: Picture, b: Picture) -> float:
    """Multi-scale SSIM (Wang, Simoncelli and Bovik, 2003), mean over the RGB channels, with an 11-tap Gaussian window.

    NaN where a side is below 161 pixels: the coarsest of the five scales needs a whole window.
    """
    if min(a.shape[:2]) <= 160:
        return math.nan
    x, y = (p.astype(np.float32).transpose(2, 0, 1) for p in (a, b))
    result = np.ones(len(x))
    for scale, weight in enumerate(_MSSSIM_WEIGHTS):
        if scale:
            x, y = (_halve(p) for p in (x, y))
        luminance, contrast = _ssim(x, y)
        mean = (luminance * contrast if scale == len(_MSSSIM_WEIGHTS) - 1 else contrast).mean((1, 2))
        result *= np.maximum(mean, 0) ** weight
    return float(result.mean())


def _ssim(x: Planes, y: Planes) -> tuple[Planes, Planes]:
    """Luminance and contrast–structure terms where the whole window fits."""
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mx, my, xx, yy, xy = (_blur(p) for p in (x, y, x * x, y * y, x * y))
    luminance: Planes = (2 * mx * my + c1) / (mx * mx + my * my + c1)
    contrast: Planes = (2 * (xy - mx * my) + c2) / (xx - mx * mx + yy - my * my + c2)
    return luminance, contrast


def _blur(planes: Planes) -> Planes:
    from scipy.ndimage import correlate1d

    window = (_WINDOW / _WINDOW.sum()).astype(np.float32)
    blurred: Planes = correlate1d(correlate1d(planes, window, 1), window, 2)
    return blurred[:, 5:-5, 5:-5]


def _halve(planes: Planes) -> Planes:
    """2x2 means; an odd side is padded by a zero before its first sample, as common implementations do."""
    odd = [(0, 0)] + [(n % 2, n % 2) for n in planes.shape[1:]]
    p = np.pad(planes, odd)
    h, w = p.shape[1] // 2 * 2, p.shape[2] // 2 * 2
    p = p[:, :h, :w]
    halved: Planes = (p[:, ::2, ::2] + p[:, 1::2, ::2] + p[:, ::2, 1::2] + p[:, 1::2, 1::2]) / 4
    return halved


def msssim_db(value: float) -> float:
    """-10 log10(1 - MS-SSIM)."""
    return -10 * math.log10(max(1 - value, 1e-10))


def ssimulacra2(a: Picture, b: Picture) -> float:
    """SSIMULACRA2 (Sneyers, 2023): 100 is perfect, 90 visually lossless, 70 high quality, 50 medium quality. NaN below 8x8
    pixels, of which it looks at nothing.
    """
    if min(a.shape[:2]) < SSIMULACRA2_LEAST:
        return math.nan
    from ssimulacra2 import compute_ssimulacra2

    return float(compute_ssimulacra2(_as_file(a), _as_file(b)))


def _as_file(picture: Picture) -> io.BytesIO:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(file, "PPM")
    file.seek(0)
    return file
