"""Synthetic pictures: text, screens, code, tables, charts, line art, flat colours, gradients, dots, noise, photographed
pages, rendered skies and titles over pictures, where codecs that learn from photographs are weak.

Grounds are often exactly white, black or one colour: that is what screens show, and what a viewer notices when it is not.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Picture = NDArray[np.uint8]
Colour = tuple[int, ...]

LETTERS = "etaoin shrdlu cmfwyp vbgkjqxz ETAOIN SHRDLU 0123456789 .,;:()[]{}=+-*/<>_#@"
FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSansMono", "DejaVuSerif", "DejaVuSans-Oblique", "STIXGeneral", "cmr10")
FONTS += ("cmtt10",)
HEIGHTS = (9, 10, 11, 12, 13, 14, 16, 18, 20, 24, 28, 44)  # of letters, pixels
LARGEST_GAP = 60  # of empty lines


class _Artist:
    def __init__(self, size: int, random: np.random.Generator, photographs: Sequence[Picture]) -> None:
        self.size, self.random = size, random
        self.photographs = [p for p in photographs if min(p.shape[:2]) >= size // 2]
        self.folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"

    # ---- what pictures are made of ----

    def whole(self, low: int, high: int) -> int:
        return int(self.random.integers(low, high))

    def chance(self, share: float) -> bool:
        return bool(self.random.random() < share)

    def colour(self, low: int = 0, high: int = 256) -> Colour:
        if self.chance(0.5):  # greys are the most frequent colour of screens
            return (self.whole(low, high),) * 3
        return tuple(int(v) for v in self.random.integers(low, high, 3))

    def pair(self) -> tuple[Colour, Colour]:
        """Ground and ink, well apart; often pure white or black."""
        light = (255,) * 3 if self.chance(0.4) else self.colour(190, 256)
        dark = (0,) * 3 if self.chance(0.3) else self.colour(0, 90)
        return (light, dark) if self.chance(0.6) else (dark, light)

    def font(self, height: int | None = None) -> ImageFont.FreeTypeFont:
        height = int(self.random.choice(HEIGHTS)) if height is None else height
        return ImageFont.truetype(str(self.folder / f"{self.random.choice(FONTS)}.ttf"), height)

    def words(self, count: int) -> str:
        return "".join(self.random.choice(list(LETTERS), max(count, 1)))

    def paragraph(self, draw: ImageDraw.ImageDraw, left: float, top: float, right: float, lines: int, ink: Colour) -> float:
        """Lines of one font; returns the row below them."""
        font = self.font()
        width, pitch = font.getlength("n"), font.size * float(self.random.uniform(1.15, 1.7))
        for _ in range(lines):
            x = left
            while x < right - 3 * width:  # word by word, some in another colour
                word = self.words(self.whole(1, 12)) + " "
                if x + font.getlength(word) > right:
                    break
                draw.text((x, top), word, font=font, fill=ink if self.chance(0.93) else self.colour())
                x += font.getlength(word)
                if self.chance(0.04):
                    break
            top += pitch
        return top

    def blank(self, colour: Colour | None = None) -> tuple[Image.Image, ImageDraw.ImageDraw]:
        image = Image.new("RGB", (self.size, self.size), self.pair()[0] if colour is None else colour)
        return image, ImageDraw.Draw(image)

    # ---- kinds of pictures ----

    def text(self, pair: tuple[Colour, Colour] | None = None) -> Image.Image:
        ground, ink = pair or self.pair()
        image, draw = self.blank(ground)
        top, left = float(self.whole(2, 30)), self.whole(2, self.size // 4)
        right = self.size - self.whole(0, self.size // 4)
        while top < self.size:
            top = self.paragraph(draw, left, top, right, self.whole(1, 9), ink)
            top += self.whole(0, LARGEST_GAP)
        return image

    def code(self) -> Image.Image:
        """Indented lines of one monospaced font in a handful of colours."""
        ground, ink = self.pair()
        image, draw = self.blank(ground)
        inks = [ink, ink, *(self.colour(120, 256) if sum(ground) < 384 else self.colour(0, 150) for _ in range(4))]
        height = int(self.random.choice((10, 11, 12, 13, 14, 16, 20, 26)))
        name = "DejaVuSansMono-Bold" if self.chance(0.2) else "DejaVuSansMono"
        font = ImageFont.truetype(str(self.folder / f"{name}.ttf"), height)
        advance = font.getlength("n")
        for top in np.arange(4, self.size, height * 1.3):
            column = 4 * self.whole(0, 4)
            for _ in range(self.whole(0, 7)):
                word = self.words(self.whole(2, 10)).replace(" ", "")
                at = (6 + column * advance, float(top))
                draw.text(at, word, font=font, fill=inks[self.whole(0, len(inks))])
                column += len(word) + 1
        return image

    def table(self) -> Image.Image:
        ground, ink = self.pair()
        image, draw = self.blank(ground)
        font, pitch = self.font(), self.whole(18, 48)
        columns = np.cumsum(self.random.integers(40, 160, 12))
        rule = ink if self.chance(0.5) else self.colour(100, 200)
        for row, top in enumerate(range(self.whole(0, 40), self.size, pitch)):
            if row % 2 and self.chance(0.5):
                band = self.colour(200) if sum(ground) > 384 else self.colour(0, 70)
                draw.rectangle((0, top, self.size, top + pitch), fill=band)
            draw.line((0, top, self.size, top), fill=rule)
            for left in columns:
                if self.chance(0.8):
                    draw.text((int(left) + 4, top + (pitch - font.size) / 2), self.words(6), font=font, fill=ink)
        for left in columns:
            draw.line((int(left), 0, int(left), self.size), fill=rule)
        return image

    def screen(self) -> Image.Image:
        image = self.text() if self.chance(0.3) else self.blank()[0]
        draw = ImageDraw.Draw(image)
        for _ in range(self.whole(4, 20)):
            left, top = self.whole(0, self.size), self.whole(0, self.size)
            width, height = self.whole(10, self.size // 2), self.whole(10, self.size // 2)
            ground, ink = self.pair()
            box = (left, top, left + width, top + height)
            if self.photographs and self.chance(0.25):
                photograph = Image.fromarray(self.photograph())
                image.paste(photograph.resize((width, height), Image.Resampling.LANCZOS), (left, top))
                continue
            draw.rounded_rectangle(box, self.whole(0, 12), fill=ground, outline=ink if self.chance(0.5) else None)
            self.paragraph(draw, left + 6, top + 4, left + width, self.whole(1, 4), ink)
        return image

    def photograph(self) -> Picture:
        picture = self.photographs[self.whole(0, len(self.photographs))]
        side = self.size // 2
        top, left = self.whole(0, picture.shape[0] - side + 1), self.whole(0, picture.shape[1] - side + 1)
        return np.ascontiguousarray(picture[top : top + side, left : left + side])

    def chart(self) -> Image.Image:
        image, draw = self.blank((255,) * 3 if self.chance(0.6) else None)
        for position in range(0, self.size, self.whole(20, 70)):
            draw.line((0, position, self.size, position), fill=self.colour(150, 220))
        for _ in range(self.whole(1, 5)):
            x = np.arange(0, self.size, self.whole(3, 30))
            y = self.size / 2 + np.cumsum(self.random.normal(0, 12, len(x)))
            points = [(float(a), float(b)) for a, b in zip(x, y, strict=True)]
            draw.line(points, fill=self.colour(), width=self.whole(1, 5))
        for left in range(0, self.size, 40):
            if self.chance(0.4):
                draw.rectangle((left, self.whole(0, self.size), left + 25, self.size), fill=self.colour())
        for _ in range(self.whole(2, 10)):
            at = (self.whole(0, self.size), self.whole(0, self.size))
            draw.text(at, self.words(self.whole(2, 14)), font=self.font(), fill=self.colour(0, 120))
        return image

    def line_art(self) -> Image.Image:
        big = Image.new("RGB", (2 * self.size, 2 * self.size), self.pair()[0])
        draw = ImageDraw.Draw(big)
        for _ in range(self.whole(5, 50)):
            x0, y0, x1, y1 = (int(v) for v in self.random.integers(0, 2 * self.size, 4))
            box = (min(x0, x1), min(y0, y1), max(x0, x1) + 1, max(y0, y1) + 1)
            kind, width = self.whole(0, 4), self.whole(1, 9)
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

    def cut_out(self) -> Image.Image:
        """A photograph behind a soft-edged mask, on the blurred colours around it or on one flat colour."""
        if not self.photographs:
            return self.line_art()
        photograph = Image.fromarray(self.photograph()).resize((self.size, self.size), Image.Resampling.BICUBIC)
        mask = Image.new("L", (self.size, self.size))
        for _ in range(self.whole(1, 4)):
            x0, y0 = self.whole(0, self.size), self.whole(0, self.size)
            ImageDraw.Draw(mask).ellipse((x0 - 150, y0 - 120, x0 + self.whole(10, 250), y0 + self.whole(10, 250)), fill=255)
        mask = mask.filter(ImageFilter.GaussianBlur(float(self.random.uniform(0, 5))))
        small = photograph.resize((max(self.size // 64, 2),) * 2, Image.Resampling.BOX)
        ground = small.resize(photograph.size, Image.Resampling.BILINEAR) if self.chance(0.5) else self.blank()[0]
        return Image.composite(photograph, ground, mask)

    def dots(self) -> Image.Image:
        """Dithered, bilevel or enlarged small pictures: hard pixels."""
        factor = self.whole(1, 6)
        source = Image.fromarray(self.photograph()) if self.photographs and self.chance(0.7) else self.gradient()
        small = source.resize((-(-self.size // factor),) * 2, Image.Resampling.BILINEAR)
        if self.chance(0.4):
            dither = Image.Dither.FLOYDSTEINBERG if self.chance(0.6) else Image.Dither.NONE
            small = small.convert("L").convert("1", dither=dither)
        else:
            small = small.quantize(int(self.random.choice((4, 8, 16, 64, 256))))
        large = small.convert("RGB").resize((small.width * factor,) * 2, Image.Resampling.NEAREST)
        return large.crop((0, 0, self.size, self.size))

    def clouds(self, octaves: Sequence[int]) -> NDArray[np.float64]:
        """Smooth noise [size, size] in [0, 1]: grids of so many cells a side, the finer the fainter."""
        total = np.zeros((self.size, self.size))
        for cells in octaves:
            grid = Image.fromarray(self.random.uniform(0, 1 / cells, (cells, cells)).astype(np.float32))
            total += np.asarray(grid.resize(total.shape, Image.Resampling.BICUBIC))
        low, high = total.min(), total.max()
        return np.asarray((total - low) / (high - low))

    def scan(self) -> Image.Image:
        """A page of text photographed: askew, blurred, unevenly lit, with the noise of a sensor and often a JPEG already."""
        paper, ink = (self.whole(215, 256),) * 3, (self.whole(0, 70),) * 3
        page, reach = self.text((paper, ink)), self.size / 12
        corners = np.array([(0, 0), (0, self.size), (self.size, self.size), (self.size, 0)], np.float64)
        corners += self.random.uniform(-reach, reach, corners.shape)
        page = page.transform(
            page.size, Image.Transform.QUAD, corners.ravel().tolist(), Image.Resampling.BICUBIC, fillcolor=paper
        )
        page = page.filter(ImageFilter.GaussianBlur(float(self.random.uniform(0.2, 1.2))))
        dark = float(self.random.uniform(0.3, 0.95))
        light = dark + (1 - dark) * self.clouds((2, 3, 4))
        side = int(self.size / self.random.uniform(1, 1.8))  # grains of a pixel or a little more
        grain = Image.fromarray(self.random.normal(0, self.random.uniform(0, 7), (side, side)).astype(np.float32))
        cast = np.ones(3) if self.chance(0.6) else self.random.uniform(0.8, 1, 3)
        pixels = (
            np.asarray(page) * light[..., None] * cast
            + np.asarray(grain.resize(page.size, Image.Resampling.BILINEAR))[..., None]
        )
        image = Image.fromarray(np.clip(pixels + 0.5, 0, 255).astype(np.uint8))
        return jpeg(image, self.whole(60, 96)) if self.chance(0.6) else image

    def sky(self) -> Image.Image:
        """Clouds of a few colours, more often dark, with specks of a pixel or two, shapes with clean edges and a label."""
        brightest = int(self.random.choice((60, 120, 255)))
        pixels = np.tile(np.array(self.colour(0, brightest), np.float64), (self.size, self.size, 1))
        for _ in range(self.whole(1, 4)):
            cover = self.clouds((2, 4, 8, 16, 32)[: self.whole(2, 6)])[..., None]
            pixels += cover * (np.array(self.colour(0, brightest)) - pixels)
        image = Image.fromarray(np.clip(pixels + 0.5, 0, 255).astype(np.uint8))
        scale = 2  # drawn large and shrunk: edges between pixels
        shapes = Image.new("RGBA", (scale * self.size,) * 2)
        draw = ImageDraw.Draw(shapes)
        for _ in range(self.whole(0, 300)):
            x, y = (scale * self.whole(0, self.size) for _ in range(2))
            draw.rectangle((x, y, x + self.whole(0, 4), y + self.whole(0, 3)), fill=(*self.colour(100), self.whole(80, 256)))
        for _ in range(self.whole(0, 6)):
            x, y, radius = *(scale * self.whole(0, self.size) for _ in range(2)), self.whole(4, self.size // 2)
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=self.colour(), outline=self.colour())
        shapes = shapes.resize(image.size, Image.Resampling.BOX)
        image.paste(shapes.convert("RGB"), mask=shapes.getchannel("A"))
        self.paragraph(
            ImageDraw.Draw(image), self.whole(0, self.size), self.whole(0, self.size), self.size, 2, self.colour(150)
        )
        return image

    def title(self) -> Image.Image:
        """Letters, rules and panels that let the ground through, over clouds, gradients and photographs."""
        if self.photographs and self.chance(0.4):
            image = Image.fromarray(self.photograph()).resize((self.size,) * 2, Image.Resampling.BICUBIC)
            image = image.filter(ImageFilter.GaussianBlur(float(self.random.choice((0, 0, 2, 8)))))
        else:
            image = self.gradient() if self.chance(0.5) else self.sky()
        dark = float(np.asarray(image).mean()) < 128
        if self.chance(0.5):  # letters need contrast
            veil = Image.new("RGB", image.size, (0,) * 3 if dark else (255,) * 3)
            image = Image.blend(image, veil, float(self.random.uniform(0.2, 0.7)))
        inks = ((200, 256), (0, 70)) if dark else ((0, 70), (200, 256))
        for _ in range(self.whole(2, 8)):
            left, top = self.whole(-40, self.size), self.whole(-20, self.size)
            width, height = self.whole(80, self.size), self.whole(20, self.size // 3)
            ink, plate = (self.colour(*bounds) for bounds in inks)
            layer = image.copy()
            draw = ImageDraw.Draw(layer)
            draw.rounded_rectangle((left, top, left + width, top + height), self.whole(0, 16), fill=plate)
            if self.chance(0.6):
                image = Image.blend(image, layer, float(self.random.uniform(0.1, 0.95)))
            draw = ImageDraw.Draw(image)
            below = self.paragraph(draw, left + 8, top + 6, left + width - 8, self.whole(1, 4), ink)
            if self.chance(0.5):  # a control: a rule with a knob
                end, thick = left + width - 8, self.whole(2, 10)
                draw.rounded_rectangle((left + 8, below + 6, max(end, left + 8), below + 6 + thick), thick // 2, fill=ink)
                middle = self.whole(left + 8, left + width)
                knob = (middle - thick, below + 6 - thick // 2, middle + thick, below + 6 - thick // 2 + 2 * thick)
                draw.ellipse(knob, fill=self.colour())
        return image


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    """What is left of ``image`` in a JPEG."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream)


def synthetic_pictures(count: int, size: int, seed: int, photographs: Sequence[Picture] = ()) -> list[Picture]:
    """``count`` pictures [size, size, 3], the kinds in turn; the same for the same arguments.

    Args:
        photographs: uint8 [H, W, 3], to be shown on screens and behind titles, cut out and dithered.
    """
    artist = _Artist(size, np.random.default_rng(seed), photographs)
    kinds = (artist.text, artist.screen, artist.code, artist.line_art, artist.table, artist.screen)
    kinds += (artist.chart, artist.gradient, artist.cut_out, artist.dots, artist.scan, artist.sky, artist.sky)
    kinds += (artist.title, artist.title)
    return [np.asarray(kinds[i % len(kinds)]().convert("RGB")) for i in range(count)]
