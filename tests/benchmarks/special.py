"""Pictures that are not plain photographs: ``python tests/benchmarks/special.py FOLDER [--quality Q]``.

Saves and loads every picture of FOLDER and its sub-folders through Pillow, and says what came back: mode, size, alpha,
frames and durations, and bytes. Transparent pictures are compared with WebP at equal SSIMULACRA2, on black or white,
whichever is worse: the bytes of SGC over WebP's, interpolated between its qualities, or lossless where that takes fewer.
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence

import pillow_semicodec as sgc
from pillow_semicodec.metrics import ssimulacra2

WEBP_QUALITIES = (0, 5, 15, 30, 45, 60, 75, 85, 92, 97, 100)


def durations(image: Image.Image) -> list[int]:
    found = []
    for frame in ImageSequence.Iterator(image):
        frame.load()  # some formats know it only then
        found.append(round(frame.info.get("duration", 0)))
    return found


def on_grounds(image: Image.Image, width: int = 1024) -> list[np.ndarray]:
    """The picture on white and on black, as RGB; very large ones are cut."""
    rgba = image.convert("RGBA").crop((0, 0, min(image.width, width), min(image.height, width)))
    grounds = (Image.new("RGBA", rgba.size, colour) for colour in ("white", "black"))
    return [np.asarray(Image.alpha_composite(ground, rgba).convert("RGB")) for ground in grounds]


def looks(original: Image.Image, data: bytes) -> float:
    """SSIMULACRA2 on the ground where it is lower."""
    with Image.open(io.BytesIO(data)) as decoded:
        pairs = zip(on_grounds(original), on_grounds(decoded), strict=True)
        return min(ssimulacra2(a, b) for a, b in pairs)


def against_webp(image: Image.Image, data: bytes) -> float:
    """Bytes of SGC over those of WebP at equal looks."""
    ours, curve = looks(image, data), []
    for quality in WEBP_QUALITIES:
        file = io.BytesIO()
        image.save(file, "WEBP", quality=quality)
        curve.append((looks(image, file.getvalue()), np.log(len(file.getvalue()))))
    scores, sizes = np.maximum.accumulate([s for s, _ in curve]), [b for _, b in curve]
    file = io.BytesIO()
    image.save(file, "WEBP", lossless=True)
    return float(len(data) / min(np.exp(np.interp(ours, scores, sizes)), len(file.getvalue())))


def row(path: Path, quality: float) -> str:
    """One line of the table."""
    with Image.open(path) as image:
        frames = getattr(image, "n_frames", 1)
        moving = frames > 1 and image.format in ("GIF", "PNG", "WEBP")
        times = durations(image) if moving else []
        image.seek(0)
        file = io.BytesIO()
        image.save(file, "SGC", quality=quality, save_all=moving, icc_profile=None)  # nor does WebP write one
        data = file.getvalue()
        image.seek(0)
        notes = []
        with Image.open(io.BytesIO(data)) as decoded:
            notes.append(image.mode if decoded.mode == image.mode else f"{image.mode} as {decoded.mode}")
            if decoded.size != image.size:
                notes.append(f"SIZE {decoded.size}")
            if moving:
                same = getattr(decoded, "n_frames", 1) == frames and durations(decoded) == times
                notes.append(f"{frames} frames {'kept' if same else 'NOT KEPT'}")
                decoded.seek(0)
            if decoded.mode in ("LA", "RGBA"):
                exact = np.array_equal(
                    np.asarray(decoded.getchannel("A")), np.asarray(image.convert("RGBA").getchannel("A"))
                )
                notes.append("alpha exact" if exact else "ALPHA DIFFERS")
        ratio = ""
        if not moving and image.has_transparency_data:
            ratio = f"{against_webp(image, data):.2f} of WebP"
        return f"{path.name:48} {'x'.join(map(str, image.size)):>11} {len(data):>9} {', '.join(notes)} {ratio}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--quality", type=float, default=75)
    args = parser.parse_args()
    failed = 0
    for path in sorted(p for p in args.folder.rglob("*") if p.is_file()):
        try:
            print(row(path, args.quality), flush=True)
        except (OSError, ValueError) as error:
            known = path.suffix.lower() in (".csv", ".md", ".txt")
            failed += not known
            if not known:
                print(f"{path.name:48} FAILED: {error}", flush=True)
    return int(bool(failed))


if __name__ == "__main__":
    sgc.options.THREADS = 0
    sys.exit(main())
