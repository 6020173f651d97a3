"""Write the golden files; run once per format version: ``python tests/golden/make.py``.

Good files lie in ``v0/`` beside an ``.npz`` of what they hold; bad ones in ``bad/``, each named after its error.
"""

from __future__ import annotations

import os
import struct
import sys
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parent
sys.path.insert(0, str(GOLDEN.parent))
os.environ.update(SGC_MODEL_PATH=str(GOLDEN.parent / "data" / "tiny_bundle"), SGC_MODEL="tiny")

from conftest import latents_of, photo  # noqa: E402
from test_overlay import laid_over  # noqa: E402

import pillow_semicodec as sgc  # noqa: E402
from pillow_semicodec import container, indexed  # noqa: E402


def good() -> None:
    cases = {
        "rgb-q60": (photo(96, 160), 60, {}),
        "rgb-q5": (photo(75, 130, 1), 5, {}),
        "rgb-q100-noise": (np.random.default_rng(0).integers(0, 256, (33, 47, 3), dtype=np.uint8), 100, {}),
        "grey-q80": (photo(64, 81, 2)[:, :, 0], 80, {}),
        "one-pixel": (np.array([[[255, 0, 128]]], np.uint8), 50, {"indexed": False}),
        "metadata": (photo(16, 16), 40, {"exif": b"Exif\0\0some", "icc_profile": b"profile"}),
        "slices": (photo(150, 203, 3), 60, {"slice_side": 64}),
        "slices-regions": (photo(130, 100, 4)[:, :, 1], 40, {"slice_side": 64, "roi": [(10, 20, 60, 90)]}),
        "regions-semantics": (photo(101, 75, 5), 60, {"roi": [(10, 10, 50, 60)], "semantics": True}),
    }
    i, j = np.mgrid[:150, :203]
    disc = np.clip(128 - 40 * (np.hypot(i - 80, j - 90) - 60), 0, 255).astype(np.uint8)[:, :, None]
    cases["alpha"] = np.concatenate([photo(150, 203, 6), disc], 2), 60, {"indexed": False}
    cases["alpha-slices"] = np.concatenate([photo(150, 203, 7), disc], 2), 60, {"slice_side": 64, "indexed": False}
    cut_out = (disc > 128) * np.uint8(255)
    cases["cut-out"] = np.concatenate([photo(150, 203, 18), cut_out], 2), 60, {"indexed": False}
    noise = np.random.default_rng(1).integers(0, 256, (41, 30, 1), dtype=np.uint8)
    cases["grey-alpha"] = np.concatenate([photo(41, 30, 8)[:, :, :1], noise], 2), 30, {"exact": True}
    frames = [photo(40, 50, 10) for _ in range(3)]
    frames[2][10:20, 5:30] = 7
    (GOLDEN / "v0" / "animation.sgc").write_bytes(
        sgc.encode_animation(frames, 50, durations=[10, 20, 30], loop=2, threads=1)
    )
    np.savez_compressed(
        GOLDEN / "v0" / "animation.npz",
        frames=list(sgc.decode_frames((GOLDEN / "v0" / "animation.sgc").read_bytes())),
        pixels=sgc.decode((GOLDEN / "v0" / "animation.sgc").read_bytes()),
        **latents_of((GOLDEN / "v0" / "animation.sgc").read_bytes())._asdict(),
    )
    far = [photo(120, 200, 17) for _ in range(2)]
    far[1][3:9, 5:14], far[1][100:110, 180:190] = 200, 30
    (GOLDEN / "v0" / "animation-parts.sgc").write_bytes(sgc.encode_animation(far, 50, threads=1))
    np.savez_compressed(
        GOLDEN / "v0" / "animation-parts.npz",
        frames=list(sgc.decode_frames((GOLDEN / "v0" / "animation-parts.sgc").read_bytes())),
        pixels=sgc.decode((GOLDEN / "v0" / "animation-parts.sgc").read_bytes()),
        **latents_of((GOLDEN / "v0" / "animation-parts.sgc").read_bytes())._asdict(),
    )
    i, j = np.mgrid[:50, :70]
    cases["16-bits"] = (i * 300 + j * 500).astype(np.uint16), 80, {}
    cases["16-bits-rgb"] = photo(30, 40, 12).astype(np.uint16) * 257, 60, {}
    cases["neutral-alpha"] = np.dstack([photo(50, 70, 15)[:, :, [1, 1, 1]], i * 5]).astype(np.uint8), 70, {"indexed": False}
    cases["float"] = (np.sin(i / 9) * j).astype(np.float32), 80, {}
    cases["preview"] = photo(90, 140, 11), 50, {"preview": True}
    cases["metadata-more"] = photo(20, 20, 9), 40, {"xmp": b"<x/>", "comment": "said", "dpi": (300, 72), "shown_as": "HSV"}
    cases["metadata-packed"] = photo(20, 20, 16), 40, {"xmp": b"<x/>" * 50, "comment": "said", "icc_profile": bytes(200)}
    bilevel = sgc.encode(disc[:, :, 0] > 128, slice_side=64)
    (GOLDEN / "v0" / "black-and-white.sgc").write_bytes(bilevel)
    np.savez_compressed(GOLDEN / "v0" / "black-and-white.npz", pixels=disc[:, :, 0] > 128)
    steps = np.arange(1200).reshape(30, 40)
    blocks = (((i // 6 * 7 + j // 9) % 5 * 60)[:, :, None] + [0, 9, 3]).astype(np.uint8)
    drawn = {
        "indexed": (blocks, 100, {}),
        "indexed-two": (np.where(blocks[:, :, 0] > 60, 7, 250).astype(np.uint8), 30, {}),
        "indexed-few": (np.random.default_rng(2).integers(0, 256, (6, 3), np.uint8)[(i // 9 + j // 8) % 6], 95, {}),
        "indexed-one": (blocks[:5, :8] * 0 + 77, 50, {}),
        "indexed-many": (np.dstack([steps >> 4, steps & 15, steps % 7]).astype(np.uint8), 97, {"comment": "1200 colours"}),
        "indexed-alpha-slices": (np.dstack([blocks, np.tile(noise[:, :, 0], (2, 3))[:50, :70]]), 60, {"slice_side": 64}),
    }
    for name, (picture, quality, extra) in drawn.items():
        data = sgc.encode(picture, quality, indexed=True, threads=1, **extra)
        (GOLDEN / "v0" / f"{name}.sgc").write_bytes(data)
        np.savez_compressed(GOLDEN / "v0" / f"{name}.npz", pixels=sgc.decode(data, threads=1))
    mixed = np.concatenate([np.tile(blocks[:, :1] // 90 * 90, (1, 64, 1)), photo(50, 64, 14)])
    files = {name: sgc.encode(picture, quality, threads=1, **extra) for name, (picture, quality, extra) in cases.items()}
    files["overlay"] = laid_over(mixed, 90, 64)
    files["overlay-grey-alpha"] = laid_over(np.dstack([mixed[:, :, 1], mixed[:, :, 2] // 9 * 20]), 40)
    for name, data in files.items():
        latents = latents_of(data)
        (GOLDEN / "v0" / f"{name}.sgc").write_bytes(data)
        np.savez_compressed(GOLDEN / "v0" / f"{name}.npz", pixels=sgc.decode(data, threads=1), **latents._asdict())


def bad() -> None:
    data = sgc.encode(photo(40, 56), 50, threads=1)
    header, rest = data[:16], data[20:]
    stream = BytesIO(data)
    prologue = container.read_prologue(stream.read)
    (payload,) = container.read_slices(stream.read, prologue.index)
    assert container.write_header(prologue.header) == data[:20]

    def sealed(changed: bytes) -> bytes:
        return changed + struct.pack(">I", zlib.crc32(changed)) + rest

    def with_stream(payload: bytes) -> bytes:
        return container.write_container(prologue.header, prologue.index.rate, (payload,), {})

    files = {
        "empty__FormatError": b"",
        "foreign__FormatError": b"\x89PNG\r\n\x1a\n" + data[8:],
        "header-cut__TruncatedError": data[:18],
        "slice-cut__TruncatedError": data[:-9],
        "header-bit__ChecksumError": data[:7] + bytes([data[7] ^ 1]) + data[8:],
        "slice-bit__ChecksumError": data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
        "version__UnsupportedError": sealed(header[:4] + b"\x63" + header[5:]),
        "mode__UnsupportedError": sealed(header[:5] + b"\x3f" + header[6:]),
        "critical-chunk__UnsupportedError": data[:20] + container.write_chunk(container.Chunk(b"Z", b"")) + rest,
        "model__UnknownModelError": sealed(header[:8] + b"nonesuch"),
        "no-width__FormatError": sealed(header[:6] + b"\0" + header[7:]),
        "huge__LimitExceededError": sealed(header[:6] + 2 * container.write_varint(2**20 - 1) + header[8:]),
        "stream-too-long__FormatError": with_stream(payload + bytes(range(1, 41))),
        "stream-of-ones__FormatError": with_stream(b"\xff" * len(payload)),
        "stream-odd__FormatError": with_stream(payload + b"\x01"),
    }
    drawn = sgc.encode(np.arange(60, dtype=np.uint8).reshape(6, 10), 100, indexed=True)
    stream = BytesIO(drawn)
    prologue = container.read_prologue(stream.read)
    streams = container.read_slices(stream.read, prologue.index)
    few = container.PALETTE, indexed.write_palette(np.zeros((3, 1), np.uint8))
    files["number-beyond__FormatError"] = container.write_container(prologue.header, 0, streams, dict([few]))
    cut = container.PALETTE, prologue.metadata[container.PALETTE][:9]
    files["palette-cut__FormatError"] = container.write_container(prologue.header, 0, streams, dict([cut]))
    files["palette-none__FormatError"] = container.write_container(prologue.header, 0, streams, {})
    longer = (streams[0] + b"more",)
    files["numbers-too-long__FormatError"] = container.write_container(prologue.header, 0, longer, prologue.metadata)
    for name, content in files.items():
        (GOLDEN / "bad" / f"{name}.sgc").write_bytes(content)


if __name__ == "__main__":
    good()
    bad()
