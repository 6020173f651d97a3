"""Mutate files and decode them: ``python tests/fuzz/mutate.py [COUNT] [SEED]``. Only the typed errors may come out.

Half of the files are changed as they are, half are sealed again with good checksums, so that the damage reaches the
entropy decoder and the networks.
"""

from __future__ import annotations

import dataclasses
import io
import os
import struct
import sys
import zlib
from collections import Counter
from pathlib import Path

import numpy as np

TESTS = Path(__file__).parent.parent
os.environ.update(SGC_MODEL_PATH=str(TESTS / "data" / "tiny_bundle"), SGC_MODEL="tiny")

import imageio.v3 as iio  # noqa: E402
from PIL import Image, ImageFile  # noqa: E402

import imageio_plugin  # noqa: E402
import pillow_semicodec as sgc  # noqa: E402
from pillow_semicodec import container  # noqa: E402

imageio_plugin.register()
LIMITS = sgc.Limits(max_pixels=2**18, max_side=4096)
MODES = [*((mode, False) for mode in container.MODES.values()), *((mode, True) for mode in container.INDEXED_MODES.values())]


def frames(data: bytes) -> None:
    """Through Pillow, from the last frame to the first, and parts of them."""
    with Image.open(io.BytesIO(data)) as image:
        image.crop((0, 0, 1, 1))
        for k in (image.n_frames - 1, 0):
            image.seek(k)
            image.load()


def thumbnail(data: bytes) -> None:
    with Image.open(io.BytesIO(data)) as image:
        image.thumbnail((9, 9))


def lenient(data: bytes) -> None:
    """What has arrived."""
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        frames(data)
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = False


# What each way in may raise, and nothing else; UnidentifiedImageError is an OSError.
WAYS_IN = {
    "codec": (lambda data: sgc.decode(data, limits=LIMITS, threads=1), (sgc.SemicodecError,)),
    "analyze": (lambda data: sgc.analyze(data, limits=LIMITS, threads=1), (sgc.SemicodecError,)),
    "frames": (lambda data: list(sgc.decode_frames(data, limits=LIMITS, threads=1)), (sgc.SemicodecError,)),
    "Pillow": (lambda data: Image.open(io.BytesIO(data)).load(), (OSError,)),
    "verify": (lambda data: Image.open(io.BytesIO(data)).verify(), (OSError,)),
    "Pillow's frames": (frames, (OSError,)),
    "thumbnail": (thumbnail, (OSError,)),
    "what has arrived": (lenient, (OSError,)),
    "imageio": (lambda data: iio.imread(data, plugin="sgc"), (OSError,)),
}


def mutate(data: bytes, random: np.random.Generator) -> bytes:
    """A few bytes changed, inserted, removed, repeated, or the end cut off."""
    out = bytearray(data)
    for _ in range(int(random.integers(1, 5))):
        at, kind = int(random.integers(len(out) + 1)), random.integers(5)
        if kind == 0 and at < len(out):
            out[at] ^= 1 << int(random.integers(8))
        elif kind == 1:
            out[at:at] = random.bytes(int(random.integers(1, 9)))
        elif kind == 2:
            del out[at : at + int(random.integers(1, 9))]
        elif kind == 3:
            out[at:at] = out[max(at - 20, 0) : at]
        elif random.random() < 0.3:
            del out[at:]
    return bytes(out)


def sealed(data: bytes, random: np.random.Generator, frame: bool = False) -> bytes:
    """A file whose header, rate, metadata or stream is changed, or that of one of its frames, with every checksum right."""
    stream = io.BytesIO(data)
    prologue = container.read_prologue(stream.read, frame=frame)
    payloads = list(container.read_slices(stream.read, prologue.index))
    behind, said = stream.read(), dict(prologue.metadata)  # frames, or other parts of one
    if prologue.animation and random.random() < 0.7:
        (first, *others), at, frames = prologue.animation.frames, 0, []
        for k, one in enumerate(others):
            part = behind[at : at + one.size]
            at += one.size
            frames.append(sealed(part, random, True) if part and random.random() < 0.5 else part)
            others[k] = dataclasses.replace(one, size=len(frames[-1]))
        changed = container.Animation(prologue.animation.loop, (first, *others))
        said[container.ANIMATION], behind = container.write_animation(changed), b"".join(frames)
        return container.write_container(prologue.header, prologue.index.rate, payloads, said, prologue.index.side) + behind
    header = prologue.header
    if random.random() < 0.5:
        side = int(random.integers(256) << random.choice([0, 0, 0, 8, 20]))
        mode, indexed = MODES[int(random.integers(len(MODES)))]
        changes = {"width": side}, {"height": side}, {"model_id": random.bytes(8)}, {"mode": mode, "indexed": indexed}
        header = dataclasses.replace(header, **changes[int(random.integers(4))])
    if random.random() < 0.7:
        k = int(random.integers(len(payloads)))
        beyond = len(payloads[k]) % 4  # whole words, behind a byte or not
        payloads[k] = mutate(payloads[k], random)
        payloads[k] = payloads[k][: max(len(payloads[k]) - beyond, 0) // 4 * 4 + beyond]
    rate = int(random.integers(65536)) if random.random() < 0.3 else prologue.index.rate
    side = prologue.index.side if random.random() < 0.9 else 2 ** int(random.integers(6, 9))
    index = container.write_index(container.SliceIndex(rate, tuple(map(len, payloads)), side), header)
    said = {kind: mutate(value, random) if random.random() < 0.5 else value for kind, value in said.items()}
    before = [container.Chunk(kind, value) for kind, value in container.packed(said).items()]
    chunks = b"".join(map(container.write_chunk, [*before, container.Chunk(b"I", index)]))
    head = bytearray(container.write_header(header)[:-4])
    if random.random() < 0.03:
        head[5] = int(random.integers(256))
    begins, *streams = (part + struct.pack(">I", zlib.crc32(part)) for part in (bytes(head), *payloads))
    return begins + chunks + b"".join(streams) + behind


def fuzz(count: int, seed: int) -> Counter[str]:
    """Decode ``count`` mutated files, a quarter of them in the other ways too; any other exception is raised on. Every
    second one has its checksums right, and its outcomes are counted as "sealed".
    """
    random = np.random.default_rng(seed)
    originals = [path.read_bytes() for path in sorted((TESTS / "golden" / "v0").glob("*.sgc"))]
    sgc.options.LIMITS, sgc.options.THREADS = LIMITS, 1
    outcomes: Counter[str] = Counter()
    for k in range(count):
        original = originals[int(random.integers(len(originals)))]
        data = sealed(original, random) if k % 2 else mutate(original, random)
        for way in ["codec"] if k // 2 % 4 else WAYS_IN:
            (decode, errors), name = WAYS_IN[way], "sealed, " * (k % 2) + way
            try:
                decode(data)
                outcomes[f"{name}: decoded"] += 1
            except errors as error:
                outcomes[f"{name}: {type(error).__name__}"] += 1
    return outcomes


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:]]
    total, start = (numbers + [10_000, 0][len(numbers) :])[:2]
    for name, times in fuzz(total, start).most_common():
        print(f"{times:7} {name}")
