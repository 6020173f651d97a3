"""Laws of the container: what is written is read, and every damage is noticed."""

from __future__ import annotations

import contextlib
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from conftest import photo
from hypothesis import given
from hypothesis import strategies as st
from strategies import headers, metadata

import pillow_semicodec as sgc
from pillow_semicodec import container, preset
from pillow_semicodec.container import with_chunks
from pillow_semicodec.entropy import repetition
from pillow_semicodec.errors import (
    ChecksumError,
    FormatError,
    LimitExceededError,
    SemicodecError,
    TruncatedError,
    UnsupportedError,
)
from pillow_semicodec.limits import Limits

HEADER = container.Header(640, 480, "RGB", b"12345678")
FILE = container.write_container(HEADER, 4096, (b"payload!",), {b"e": b"exif", b"c": b"icc"})

# One table drives reader and writer: value ↔ bytes.
VARINTS = [(0, "00"), (1, "01"), (127, "7f"), (128, "8001"), (300, "ac02"), (2**14, "808001"), (2**32, "8080808010")]


def read(data: bytes, limits: Limits = Limits()) -> tuple[container.Prologue, tuple[bytes, ...]]:  # noqa: B008
    stream = BytesIO(data)
    prologue = container.read_prologue(stream.read, limits)
    return prologue, container.read_slices(stream.read, prologue.index)


@pytest.mark.parametrize(("value", "raw"), VARINTS)
def test_varint(value: int, raw: str) -> None:
    """Numbers have the stated bytes, both ways."""
    assert container.write_varint(value).hex() == raw
    assert container.read_varint(BytesIO(bytes.fromhex(raw)).read) == (value, bytes.fromhex(raw))


@pytest.mark.parametrize("raw", ["8000", "808080808001", "ffffffffffff"])
def test_varint_rejects_other_forms(raw: str) -> None:
    """Only the shortest form of at most five bytes is a number."""
    with pytest.raises(FormatError):
        container.read_varint(BytesIO(bytes.fromhex(raw)).read)


@given(headers, st.integers(0, 65535), st.binary(max_size=500), metadata)
def test_round_trip(header: container.Header, rate: int, payload: bytes, extra: dict[bytes, bytes]) -> None:
    """Everything written is read back."""
    prologue, slices = read(container.write_container(header, rate, (payload,), extra))
    rate *= header.latents  # there is none in other modes
    assert (prologue.header, prologue.index.rate, slices, prologue.metadata) == (header, rate, (payload,), extra)


@given(st.integers(1, 2000), st.integers(1, 2000), st.integers(6, 11), st.integers(0, 65535), st.booleans())
def test_slices_round_trip(width: int, height: int, code: int, rate: int, alpha: bool) -> None:
    """Every stream of a picture in slices is read back: three layers of each, or one where there is one slice, and alpha."""
    several = max(width, height) > 2**code
    side = 2**code if several else 0
    count = container.stream_count(container.slice_count(width, height, side), planes=int(alpha))
    assert count == ((3 + alpha) * -(-width // side) * -(-height // side) if several else 1 + alpha)
    header = container.Header(width, height, "LA" if alpha else "L", b"12345678")
    streams = tuple(bytes([k % 256]) * (k % 3) for k in range(count))
    prologue, slices = read(container.write_container(header, rate, streams, {}, side))
    assert (slices, prologue.index.side) == (streams, side)


def sealed(fields: bytes) -> bytes:
    return fields + struct.pack(">I", zlib.crc32(fields))


def test_header_layout() -> None:
    """Signature, version, mode, size, and the model id where there is a model."""
    assert container.write_header(HEADER) == sealed(b"\x8aSGC\x00\x02\x80\x05\xe0\x0312345678")
    assert container.write_header(container.Header(3, 200, "1")) == sealed(b"\x8aSGC\x00\x05\x03\xc8\x01")


@pytest.mark.parametrize("length", range(len(FILE)))
def test_every_prefix_is_truncated(length: int) -> None:
    """A file cut anywhere is noticed, as truncated wherever the signature is whole."""
    with pytest.raises(TruncatedError if length >= 4 else FormatError):
        read(FILE[:length])


@given(st.integers(0, len(FILE) - 1), st.integers(1, 255))
def test_every_changed_byte_is_noticed(position: int, difference: int) -> None:
    """No byte of a file can change unnoticed."""
    damaged = bytearray(FILE)
    damaged[position] ^= difference
    with pytest.raises(SemicodecError):
        read(bytes(damaged))


def test_bytes_behind_the_last_slice_are_ignored() -> None:
    """Padding behind a file does no harm."""
    assert read(FILE + b"anything")[1] == (b"payload!",)


BEGINNING = len(container.write_header(HEADER))


@pytest.mark.parametrize(
    ("begins", "error"),
    [
        (b"\x89SGC\x00\x02\x10\x10", FormatError),
        (b"\x8aSGC\x09\x02\x10\x10", UnsupportedError),
        (b"\x8aSGC\x00\x4d\x10\x10", UnsupportedError),
        (b"\x8aSGC\x00\x02\x00\x10", FormatError),
        (b"\x8aSGC\x00\x02\x10\x00", FormatError),
        (b"\x8aSGC\x00\x02\x90\x00\x10", FormatError),  # 16, but not in its shortest form
        (b"\x8aSGC\x00\x02\x81\x80\x40\x10", LimitExceededError),
        (b"\x8aSGC\x00\x02\x80\x80\x10\x80\x80\x10", LimitExceededError),
    ],
)
def test_hostile_headers(begins: bytes, error: type[Exception]) -> None:
    """Foreign signatures, versions, modes and sizes have their own errors, although the checksum matches."""
    with pytest.raises(error):
        read(sealed(begins + b"12345678") + FILE[BEGINNING:])


def test_version_is_told_before_the_checksum() -> None:
    """The header of another version may look different; its version is the message."""
    with pytest.raises(UnsupportedError, match="format version 7"):
        read(FILE[:4] + b"\x07" + FILE[5:])


def chunk(kind: bytes, payload: bytes = b"") -> bytes:
    return container.write_chunk(container.Chunk(kind, payload))


INDEX = container.write_index(container.SliceIndex(0, (3,)), HEADER)


@pytest.mark.parametrize(
    ("chunks", "error"),
    [
        ([chunk(b"Q"), chunk(b"I", INDEX), sealed(b"abc")], UnsupportedError),
        ([chunk(b"e"), chunk(b"e"), chunk(b"I", INDEX), sealed(b"abc")], FormatError),
        ([chunk(b"I", INDEX), sealed(b"abcd")], ChecksumError),
        ([chunk(b"I", INDEX), chunk(b"I", INDEX)], ChecksumError),
        ([b"I\x80\x80\x80\x80\x01"], LimitExceededError),
        ([b"Q\x80\x80\x80\x80\x01"], UnsupportedError),
        ([chunk(b"I", INDEX[:2])], FormatError),
        ([chunk(b"I", INDEX[:3])], FormatError),
        ([chunk(b"I", INDEX + b"\0")], FormatError),
        ([chunk(b"I", INDEX[:2] + b"\x04" + INDEX[3:])], UnsupportedError),
        ([chunk(b"I", INDEX[:2] + b"\x08" + bytes(17))], FormatError),  # 256 pixels: 3 x 2 slices, a size missing
        ([chunk(b"I", INDEX[:2] + b"\x08" + bytes(16) + b"\x80\x01")], FormatError),  # as many bytes as sizes are due
        ([chunk(b"I", INDEX[:2] + b"\x0a" + INDEX[3:])], FormatError),  # one slice has no side
        ([b"1\0" + struct.pack(">I", zlib.crc32(b"1\0"))], FormatError),
        ([chunk(b"x", bytes([k])) for k in range(3)], FormatError),
        ([chunk(b"e", b"12345")], LimitExceededError),
        ([chunk(bytes([k])) for k in b"abcd"], LimitExceededError),
    ],
)
def test_hostile_chunks(chunks: list[bytes], error: type[Exception]) -> None:
    """Well-sealed chunks that make no file have their own errors."""
    with pytest.raises(error):
        read(container.write_header(HEADER) + b"".join(chunks), Limits(max_metadata_bytes=4, max_chunks=4))


def test_a_stated_size_allocates_nothing() -> None:
    """A chunk that states 32 MB costs what the file holds."""
    hostile = container.write_header(HEADER) + b"e" + b"\x80\x80\x80\x10" + b"x"
    asked: list[int] = []
    stream = BytesIO(hostile)

    def reader(size: int) -> bytes:
        asked.append(size)
        return stream.read(size)

    with pytest.raises(TruncatedError):
        container.read_prologue(reader)
    assert max(asked) <= 2**20


def test_the_wrong_checksum_names_its_chunk() -> None:
    """Messages say where the damage is."""
    damaged = FILE.replace(b"payload!", b"payloadX")
    with pytest.raises(ChecksumError, match="a slice"):
        read(damaged)


def test_slices_of_latents_too_large_for_a_reader() -> None:
    """A small file must not ask networks for more than they have memory for."""
    for height, fits in ((1024, True), (2048, False)):
        data = container.write_container(container.Header(4096, height, "RGB", b"12345678"), 0, (b"",), {})
        with contextlib.nullcontext() if fits else pytest.raises(LimitExceededError):
            container.read_prologue(BytesIO(data).read)


@pytest.mark.parametrize(
    ("picture", "options", "kind"),
    [(photo()[..., 0] > 100, {}, b"R"), (photo(), {"indexed": False}, b"P"), (photo()[..., 0].astype(np.uint16), {}, b"O")],
)
def test_where_chunks_must_not_be(picture: np.ndarray, options: dict[str, bool], kind: bytes) -> None:
    """Regions, a palette or an overlay in a mode that has none."""
    with pytest.raises(sgc.FormatError, match=r"regions|palette|overlay"):
        sgc.read_prologue(with_chunks(sgc.encode(picture, **options), {kind: b""}))


texts = st.dictionaries(
    st.sampled_from([*container.PACKABLE, container.RESOLUTION]),
    st.builds(lambda piece, times: piece * times, st.binary(max_size=40), st.integers(0, 60)),
)


@given(texts)
def test_texts_are_packed_where_that_takes_less(said: dict[bytes, bytes]) -> None:
    """And come back as they were, whatever was packed; a file is never larger for it."""
    data = container.write_container(HEADER, 4096, (b"payload!",), said)
    assert read(data)[0].metadata == said
    plain = sum(container.chunk_size(len(payload)) for payload in said.values())
    packed = container.packed(said)
    assert sum(container.chunk_size(len(payload)) for payload in packed.values()) <= plain
    assert packed == said or packed.keys() - said.keys() == {container.PACKED}
    assert len(container.packed({container.XMP: b" " * 5000})[container.PACKED]) < 50


def test_what_packs_least_is_left_out() -> None:
    """Where all together are longer than the longest, as one chunk may not be."""
    noise = np.random.default_rng(0).bytes(1200)
    packed = container.packed({container.EXIF: noise[:500] + bytes(500), container.XMP: noise[500:] + b" " * 250})
    assert packed.keys() == {container.PACKED, container.XMP}


def test_slices_are_bounded_by_their_pixels() -> None:
    """A source that unfolds may hold gigabytes that say nothing. Noise is far from it."""
    header = container.Header(16, 16, "RGB", HEADER.model_id)
    data = container.write_container(header, 4096, (bytes(2**14),), {})
    with pytest.raises(sgc.LimitExceededError, match="16384 bytes exceeds the limit of 12288"):
        read(data)
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 4), np.uint8)
    for picture in (noise, noise[:, :, 0], noise[:, :, 0] > 127, noise.astype(np.uint16)[:, :, :3] * 257):
        for more in ({}, {"indexed": True}) if picture.dtype == np.uint8 else ({},):
            sizes = sgc.read_prologue(sgc.encode(picture, 100, **more)).index.stream_sizes
            assert max(sizes) < (container.LEAST_ROOM + container.ROOM * 256) / 3


def test_small_texts_are_near_the_dictionary() -> None:
    """What is large stands behind them, whatever came first."""
    noise = np.random.default_rng(0).bytes(40000)
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="">\n <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    alone, both = (container.packed(said) for said in ({container.EXIF: noise}, {container.EXIF: noise, container.XMP: xmp}))
    assert sum(map(len, both.values())) < sum(map(len, alone.values())) + 50


def test_packed_texts_that_are_none() -> None:
    """An ancillary chunk never keeps a picture from being read, and never unfolds to more than it may."""
    whole = container.packed({container.XMP: b"x" * 5000, container.EXIF: b"e" * 500})[container.PACKED]
    huge = zlib.compress(b"x" + container.write_varint(2**30) + bytes(container.MOST_PACKED))
    twice = zlib.compress(b"x\x01ax\x01b")
    others = [zlib.compress(text) for text in (b"P\x01a", b"x\x05a", b"x", b"\xff", b"x" + container.write_varint(2**27))]
    for payload in (whole[:-1], whole + b"!", b"", b"none", huge, twice, *others):
        prologue, _ = read(container.write_container(HEADER, 4096, (b"payload!",), {container.PACKED: payload}))
        assert prologue.metadata == {container.PACKED: payload}
    with pytest.raises(FormatError, match="two chunks of type e"):
        read(FILE[:BEGINNING] + chunk(b"z", whole) + FILE[BEGINNING:])
    apart = [container.packed({kind: b"x" * 500})[container.PACKED] for kind in (container.XMP, container.EXIF)]
    with pytest.raises(FormatError, match="two chunks of type z"):
        read(FILE[:BEGINNING] + b"".join(chunk(b"z", one) for one in apart) + FILE[-40:])
    file = container.write_container(HEADER, 4096, (b"payload!",), {container.PACKED: whole})
    with pytest.raises(LimitExceededError, match="5000 bytes of metadata"):
        container.read_prologue(BytesIO(file).read, Limits(max_metadata_bytes=4999))


def test_packing_knows_what_pictures_share() -> None:
    """sRGB's curve, 2 KB in the profile of most tagged pictures, costs next to nothing; older streams are read, too."""
    said = {container.ICC_PROFILE: bytes(range(64)) + preset.dictionary()[-2 * preset.STEPS :] * 3}
    assert len(container.packed(said)[container.PACKED]) < 200
    alone = zlib.compress(container.ICC_PROFILE + container.write_varint(500) + b"c" * 500)
    assert container.read_packed(alone) == {container.ICC_PROFILE: b"c" * 500}
    foreign = zlib.compressobj(zdict=b"another dictionary")
    with pytest.raises(FormatError, match="damaged"):
        container.read_packed(foreign.compress(b"another dictionary") + foreign.flush())
    with pytest.raises(FormatError, match="damaged"):  # maps know no dictionary, an empty one neither
        container.read_map(b"\x78\xbb\0\0\0\1" + zlib.compress(b"\0\1")[2:], 2, 2)


def test_much_text_is_not_packed() -> None:
    """What readers would not unfold."""
    said = {container.XMP: bytes(container.MOST_PACKED)}
    assert container.packed(said) == said
    noise = np.random.default_rng(0).bytes(1800)
    said = {container.XMP: noise[:900] + b" " * 90, container.EXIF: noise[900:] + b" " * 90}
    assert max(map(len, container.packed(said).values())) <= 990  # no chunk becomes larger than those that were given
    said = {container.XMP: b" " * 5000, container.SEMANTICS: np.random.default_rng(1).bytes(6000)}
    assert sum(map(len, container.packed(said).values())) < 6100  # nor does one keep the others from being packed


def peak(work: Callable[[], object]) -> int:
    """Bytes that were allocated at a time until ``work`` found the damage."""
    tracemalloc.start()
    try:
        with pytest.raises(FormatError):
            work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_bombs_are_not_unfolded() -> None:
    """A kilobyte that stands for millions is refused before it takes their place."""
    bomb, packed = zlib.compress(bytes(2**26), 9), repetition.pack(bytes(3 * 2**24))
    assert peak(lambda: container.read_map(bomb, 64, 2)) < 2**20
    assert peak(lambda: container.read_packed(bomb)) < 3 * container.MOST_PACKED
    assert peak(lambda: repetition.unpack(packed, 64)) < repetition.DICTIONARY * 3 // 2
