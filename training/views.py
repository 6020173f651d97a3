"""Views of labelled and unlabelled pictures: weak ones (crops, mirrors) for the teacher, strong ones for the student."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter

AUGMENTATIONS = ("none", "weak", "strong")
SHRUNK = 0.75, 1.6  # pixels of a picture to one of a view of which maps are learned, along a side
Random = np.random.Generator


def check_augmentation(name: str) -> None:
    if name not in AUGMENTATIONS:
        raise ValueError(f"augmentation {name!r} is none of {', '.join(AUGMENTATIONS)}")


def window(image: Image.Image, random: Random, least: float) -> tuple[float, float, float, float]:
    """A random box of at least ``least`` of the area, of an aspect ratio between 3:4 and 4:3."""
    for _ in range(10):
        area = image.width * image.height * random.uniform(least, 1)
        ratio = np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3)))
        width, height = np.sqrt(area * ratio), np.sqrt(area / ratio)
        if width <= image.width and height <= image.height:
            left, top = random.uniform(0, image.width - width), random.uniform(0, image.height - height)
            return left, top, left + width, top + height
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return left, top, left + side, top + side


def centre(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """The middle square, for tests."""
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box, reducing_gap=2.0))


def view(image: Image.Image, size: int, random: Random, augmentation: str) -> NDArray[np.uint8]:
    """uint8 [size, size, 3]."""
    if augmentation == "none":
        return centre(image, size)
    box = window(image, random, 0.25 if augmentation == "strong" else 0.6)
    out = image.resize((size, size), Image.Resampling.BICUBIC, box, reducing_gap=2.0)
    if random.random() < 0.5:
        out = out.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return strong_colours(out, random) if augmentation == "strong" else np.asarray(out)


def paired_views(
    image: Image.Image, mask: NDArray[np.uint8] | None, size: tuple[int, int], random: Random
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8] | None]:
    """(weak, strong, mask): one window of (width, height) pixels for all, so that positions agree."""
    box = window_of(image, random, size)
    weak = image.resize(size, Image.Resampling.BICUBIC, box, reducing_gap=2.0)
    labels = Image.fromarray(mask).resize(size, Image.Resampling.NEAREST, box) if mask is not None else None
    if random.random() < 0.5:
        weak = weak.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        labels = labels.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if labels else None
    return np.asarray(weak), strong_colours(weak, random), np.asarray(labels) if labels else None


def window_of(image: Image.Image, random: Random, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """A random box that a view of (width, height) shows at about the picture's own scale, which maps are drawn at: by
    ``SHRUNK`` pixels to one, or by fewer where the picture has no more.
    """
    ratio = size[0] / size[1]
    most = min(image.width, image.height * ratio)
    width = min(most, size[0] * np.exp(random.uniform(*np.log(SHRUNK))))
    height = width / ratio
    left, top = random.uniform(0, image.width - width), random.uniform(0, image.height - height)
    return left, top, left + width, top + height


def strong_colours(image: Image.Image, random: Random) -> NDArray[np.uint8]:
    """Brightness, contrast, saturation, sometimes grey or blurred, and a grey rectangle (cut-out)."""
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhance(image).enhance(random.uniform(0.5, 1.5))
    if random.random() < 0.15:
        image = image.convert("L").convert("RGB")
    if random.random() < 0.2:
        image = image.filter(ImageFilter.GaussianBlur(random.uniform(0.5, 2)))
    out = np.array(image)
    height, width = (int(n * random.uniform(0.1, 0.4)) for n in out.shape[:2])
    top, left = (int(random.integers(n - s + 1)) for n, s in zip(out.shape, (height, width), strict=False))
    out[top : top + height, left : left + width] = 128
    return out
