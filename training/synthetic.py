"""Synthetic pictures: rendered text, screens, charts, line art and gradients, where learned codecs are weak."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

LETTERS = "etaoin shrdlu cmfwyp vbgkjqxz ETAOIN SHRDLU 0123456789 .,;:()[]{}=+-*/<>_#@"


class _Artist:
    def __init__(self, size: int, random: np.random.Generator) -> None:
        self.size, self.random = size, random

    def colour(self, low: int = 0, high: int = 256) -> tuple[int, ...]:
        if self.random.random() < 0.5:  # greys are the most frequent colour of screens
            return (int(self.random.integers(low, high)),) * 3
        return tuple(int(v) for v in self.random.integers(low, high, 3))

    def pair(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Background and ink, well apart."""
        light, dark = self.colour(190, 256), self.colour(0, 90)
        return (light, dark) if self.random.random() < 0.7 else (dark, light)

    def words(self, count: int) -> str:
        return "".join(self.random.choice(list(LETTERS), count))

    def text(self) -> Image.Image:
        ground, ink = self.pair()
        image = Image.new("RGB", (self.size, self.size), ground)
        draw, top = ImageDraw.Draw(image), 6
        while top < self.size:
            height = int(self.random.choice([9, 10, 11, 12, 13, 14, 16, 20, 28, 44]))
            font = ImageFont.load_default(height)
            for _ in range(int(self.random.integers(1, 8))):
                fill = ink if self.random.random() < 0.8 else self.colour()
                draw.text((8, top), self.words(self.size // 5), font=font, fill=fill)
                top += int(height * 1.35)
            top += height
        return image

    def screen(self) -> Image.Image:
        image = self.text() if self.random.random() < 0.4 else Image.new("RGB", (self.size, self.size), self.colour(180))
        draw = ImageDraw.Draw(image)
        for _ in range(int(self.random.integers(5, 25))):
            left, top = (int(v) for v in self.random.integers(0, self.size, 2))
            width, height = (int(v) for v in self.random.integers(10, self.size // 2, 2))
            ground, ink = self.pair()
            box = (left, top, left + width, top + height)
            draw.rounded_rectangle(box, int(self.random.integers(0, 9)), fill=ground, outline=ink)
            font = ImageFont.load_default(int(self.random.integers(10, 20)))
            draw.text((left + 6, top + 4), self.words(width // 9), font=font, fill=ink)
        return image

    def chart(self) -> Image.Image:
        image = Image.new("RGB", (self.size, self.size), self.colour(220))
        draw = ImageDraw.Draw(image)
        for position in range(0, self.size, int(self.random.integers(20, 70))):
            draw.line((0, position, self.size, position), fill=self.colour(150, 220))
        for _ in range(int(self.random.integers(1, 5))):
            x = np.arange(0, self.size, int(self.random.integers(3, 30)))
            y = self.size / 2 + np.cumsum(self.random.normal(0, 12, len(x)))
            points = [(float(a), float(b)) for a, b in zip(x, y, strict=True)]
            draw.line(points, fill=self.colour(), width=int(self.random.integers(1, 5)))
        for left in range(0, self.size, 40):
            if self.random.random() < 0.4:
                draw.rectangle((left, int(self.random.integers(self.size)), left + 25, self.size), fill=self.colour())
        return image

    def line_art(self) -> Image.Image:
        big = Image.new("RGB", (2 * self.size, 2 * self.size), self.colour(200))
        draw = ImageDraw.Draw(big)
        for _ in range(int(self.random.integers(10, 60))):
            x0, y0, x1, y1 = (int(v) for v in self.random.integers(0, 2 * self.size, 4))
            box = (min(x0, x1), min(y0, y1), max(x0, x1) + 1, max(y0, y1) + 1)
            kind, width = self.random.integers(4), int(self.random.integers(1, 9))
            if kind == 0:
                draw.line((x0, y0, x1, y1), fill=self.colour(), width=width)
            elif kind == 1:
                draw.ellipse(box, outline=self.colour(), width=width)
            elif kind == 2:
                draw.ellipse(box, fill=self.colour())
            else:
                draw.polygon([(x0, y0), (x1, y0), (x1, y1)], fill=self.colour(), outline=self.colour())
        return big.resize((self.size, self.size), Image.Resampling.LANCZOS)

    def gradient(self) -> Image.Image:
        corners = self.random.uniform(0, 255, (2, 2, 3))
        t = np.linspace(0, 1, self.size)
        rows = corners[0] * (1 - t)[:, None, None] + corners[1] * t[:, None, None]  # [H, 2, 3]
        ramp = rows[:, None, 0] * (1 - t)[None, :, None] + rows[:, None, 1] * t[None, :, None]
        noise = self.random.normal(0, self.random.choice([0, 0, 2, 6]), (self.size, self.size, 1))
        return Image.fromarray(np.clip(ramp + noise + 0.5, 0, 255).astype(np.uint8))


def synthetic_pictures(count: int, size: int, seed: int) -> list[NDArray[np.uint8]]:
    """``count`` pictures [size, size, 3], the kinds in turn; the same for the same seed."""
    artist = _Artist(size, np.random.default_rng(seed))
    kinds = (artist.text, artist.screen, artist.chart, artist.line_art, artist.gradient, artist.screen)
    return [np.asarray(kinds[i % len(kinds)]()) for i in range(count)]
