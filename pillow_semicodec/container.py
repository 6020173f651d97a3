"""Container: bytes ↔ header, chunks and streams, as FORMAT.md says.

Strategy: this module knows bytes and checksums only: no NumPy, no model, no entropy coding. Every writer has a reader
beside it, and both state the layout once. Readers pull bytes through a ``read(n)`` callable, so that a picture's size
and metadata are known without reading its slices, and allocate no more than has arrived.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import itertools
import math
import struct
import threading
import zlib
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import IO, overload

from .errors import ChecksumError, FormatError, LimitExceededError, SemicodecError, TruncatedError, UnsupportedError
from .lazy import lazily
from .limits import DEFAULT_LIMITS, Limits, check_limits
from .preset import dictionary

MAGIC = b"\x8aSGC"
LEAST_ROOM, ROOM = 4096, 32  # bytes of the longest stream, and of every pixel in it: three times what noise takes
FORMAT_VERSION = 0  # 0 until release 1.0; then files decode for ever
_CRC = struct.Struct(">I")
NO_MODEL = bytes(8)  # what stands for the id where no model is needed
MODES = {1: "L", 2: "RGB", 3: "LA", 4: "RGBA", 5: "1", 6: "I;16", 7: "RGB;16"}  # codes 12 to 63 are reserved
INDEXED_MODES = {8: "L", 9: "RGB", 10: "LA", 11: "RGBA"}  # with a palette
_MODE_CODES = {(mode, False): code for code, mode in MODES.items()} | {(m, True): code for code, m in INDEXED_MODES.items()}

# Chunk types: an ASCII letter. Upper case is critical: a reader that does not know it must not show the picture.
INDEX, REGIONS, NUMBERS, PALETTE, OVERLAY, NEUTRAL, PARTS = b"I", b"R", b"N", b"P", b"O", b"G", b"K"
EXIF, ICC_PROFILE, SEMANTICS, XMP, COMMENT, RESOLUTION, SHOWN_AS, PREVIEW = b"e", b"c", b"m", b"x", b"t", b"d", b"v", b"p"
PACKED = b"z"
PACKABLE = (EXIF, ICC_PROFILE, XMP, COMMENT, SEMANTICS)
KEYWORDS = {"icc_profile": ICC_PROFILE, "exif": EXIF, "xmp": XMP, "comment": COMMENT}  # what users give them as
MOST_PACKED = 2**22  # bytes, of all of them: a small file must not unfold to much when it is opened
ANIMATION, UNSEEN_KEPT = b"a", b"h"

_NUMBERS = struct.Struct(">Bdd")  # kind, and what level 0 and level 255 stand for
UNSIGNED, SIGNED, FLOAT = 1, 2, 3  # kinds: 16 bits, 32 bits, single precision
DEEP_MODES = {UNSIGNED: "I;16", SIGNED: "I", FLOAT: "F"}  # of Pillow, for grey numbers of these kinds
LARGEST_FLOAT = (2 - 2.0**-23) * 2.0**127  # of single precision
_RESOLUTION = struct.Struct(">II")  # across and down, in thousandths of a dot per inch
# Modes of Pillow, and what they are coded as.
VIEWS = dict.fromkeys(("YCbCr", "LAB", "HSV", "CMYK", "RGBX"), "RGB") | {"RGBa": "RGBA", "La": "LA"}

_RATE = struct.Struct(">H")
WHOLE_PICTURE = 255  # instead of log2 of the slices' side in pixels
SIDE_CODES = range(6, 17)  # 64 to 65536 pixels
LAYERS = 3  # of a picture in slices: hyper-latents, residuals of step 1, residuals of step 2
MAX_REGIONS = 16
MOST_OVERLAID = 2**25  # pixels of a picture with an overlay, which is read as a whole
MAX_PARTS = 255  # of a frame, beside the first one
MAX_FRAMES = 2**16
PREVIEW_SCALES = tuple(2**k for k in range(1, 16))
REACH = 128  # pixels beyond a box that it depends on: two hyper positions (FORMAT.md section 5)


@dataclasses.dataclass(frozen=True)
class Header:
    """What is known of a picture before any chunk is read."""

    width: int
    height: int
    mode: str  # as Pillow names it: "L", "RGB", "LA", "RGBA", "1" or "I;16"; "RGB;16" is not known to Pillow
    model_id: bytes = NO_MODEL  # 8 bytes
    indexed: bool = False  # a palette and numbers of its colours, and no latents

    @property
    def alpha(self) -> bool:
        return self.mode.endswith("A")

    @property
    def bilevel(self) -> bool:
        """Black and white: one plane, coded like alpha, and no latents."""
        return self.mode == "1"

    @property
    def latents(self) -> bool:
        """Whether networks take part."""
        return not (self.bilevel or self.indexed)

    @property
    def planes(self) -> int:
        """Streams of every slice beside those of latents: of numbers or black and white, and of alpha."""
        return self.alpha + (not self.latents)

    @property
    def deep(self) -> bool:
        """More than 8 bits: there is a chunk of numbers."""
        return self.mode.endswith(";16")

    @property
    def grey(self) -> bool:
        return self.mode[0] in "LI"

    @property
    def bands(self) -> int:
        return {"1": 1, "I;16": 1, "RGB;16": 3}.get(self.mode) or len(self.mode)


@dataclasses.dataclass(frozen=True)
class Chunk:
    type: bytes  # one ASCII letter
    payload: bytes


Read = Callable[[int], bytes]  # up to n bytes, fewer only at the end, like a binary file's read


@dataclasses.dataclass(frozen=True)
class SliceIndex:
    """How the picture is coded: the rate of its gains, the side of its slices, and the payload bytes of every stream."""

    rate: int  # 0 … 65535
    stream_sizes: tuple[int, ...]  # one, or layer by layer those of every slice in raster order; then those of alpha
    side: int = 0  # pixels, a power of two; 0: one slice, the whole picture


# ---- bytes and numbers ------------------------------------------------------------------------------------------


def read_up_to(read: Read, size: int) -> bytes:
    """``size`` bytes, or those there are, in pieces of at most 1 MiB: a hostile size allocates only what the file holds."""
    pieces, missing = [], size
    while missing and (piece := read(min(missing, 2**20))):
        pieces.append(piece)
        missing -= len(piece)
    return b"".join(pieces)


def read_exactly(read: Read, size: int, what: str) -> bytes:
    """``size`` bytes, or TruncatedError."""
    data = read_up_to(read, size)
    if len(data) < size:
        raise TruncatedError(f"the file ends inside {what}: {size - len(data)} of {size} bytes are missing")
    return data


def seek(file: IO[bytes], place: int) -> None:
    """TruncatedError where a file ends before; most let one go there, and give nothing."""
    try:
        file.seek(place)
    except (ValueError, OSError) as error:
        if file.closed or getattr(error, "errno", errno.EINVAL) != errno.EINVAL:
            raise
        raise TruncatedError(f"the file ends before byte {place}") from error


def write_varint(value: int) -> bytes:
    """Unsigned LEB128."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(read: Read) -> tuple[int, bytes]:
    """(value, the bytes read); at most five bytes, in the shortest form."""
    value, raw = 0, b""
    while len(raw) < 5:
        if not (byte := read(1)):  # an index may hold a million numbers: no detours
            raise TruncatedError("the file ends inside a number")
        raw += byte
        value |= (raw[-1] & 0x7F) << 7 * (len(raw) - 1)
        if raw[-1] < 0x80:
            if len(raw) > 1 and not raw[-1]:
                raise FormatError("a number is not in its shortest form")
            return value, raw
    raise FormatError("a number is longer than five bytes")


# ---- header ----------------------------------------------------------------------------------------------------


def write_header(header: Header) -> bytes:
    code = _MODE_CODES[header.mode, header.indexed]
    fields = MAGIC + bytes([FORMAT_VERSION, code]) + write_varint(header.width) + write_varint(header.height)
    return _sealed(fields + header.model_id * header.latents)


def _sealed(fields: bytes) -> bytes:
    return fields + _CRC.pack(zlib.crc32(fields))


def read_header(read: Read, limits: Limits = DEFAULT_LIMITS) -> Header:
    """Read what a file begins with.

    Raises:
        FormatError: foreign signature, or a size of zero. TruncatedError, ChecksumError: as their names say.
        UnsupportedError: another format version, or a mode that this version does not know.
        LimitExceededError: a side or an area beyond ``limits``.
    """
    signature = read(len(MAGIC))
    if signature != MAGIC:
        raise FormatError(f"not an SGC file: {'the signature is missing' if signature else 'it is empty'}")
    version, code = read_exactly(read, 2, "its header")
    if version != FORMAT_VERSION:
        raise UnsupportedError(
            f"format version {version}; this build reads version {FORMAT_VERSION}: install a matching pillow-semicodec"
        )
    (width, of_width), (height, of_height) = read_varint(read), read_varint(read)
    indexed = code in INDEXED_MODES
    header = Header(width, height, (INDEXED_MODES if indexed else MODES).get(code, ""), NO_MODEL, indexed)
    model_id = read_exactly(read, len(NO_MODEL), "its header") if header.latents else b""
    fields = MAGIC + bytes([version, code]) + of_width + of_height + model_id
    checksum = read_exactly(read, _CRC.size, "its header")
    if not width or not height:  # which the fixed header of format revisions up to 12 looks like, too
        raise FormatError(f"the header states an empty picture, {width}x{height}, or is of an earlier format revision")
    if checksum != _CRC.pack(zlib.crc32(fields)):
        raise ChecksumError("the header's checksum does not match: the file is damaged")
    if not header.mode:
        raise UnsupportedError(f"pixel mode {code} is not known to this build")
    check_size(width, height, limits)
    return dataclasses.replace(header, model_id=model_id or NO_MODEL)


def check_size(width: int, height: int, limits: Limits) -> None:
    """Raise LimitExceededError where ``limits`` do not allow a picture of this size."""
    if max(width, height) > limits.max_side:
        raise LimitExceededError(f"a side of {max(width, height)} pixels exceeds the limit of {limits.max_side}")
    if width * height > limits.max_pixels:
        raise LimitExceededError(f"{width}x{height} pixels exceed the limit of {limits.max_pixels} pixels")


# ---- chunks ----------------------------------------------------------------------------------------------------


def write_chunk(chunk: Chunk) -> bytes:
    return _sealed(chunk.type + write_varint(len(chunk.payload)) + chunk.payload)


def chunk_size(payload: int) -> int:
    """Bytes of a chunk with so many of payload."""
    return 1 + len(write_varint(payload)) + payload + _CRC.size


def read_chunk(read: Read, limits: Limits = DEFAULT_LIMITS) -> Chunk:
    """Read one chunk; its checksum covers type, length and payload. What must not be there is refused unread."""
    kind = read_exactly(read, 1, "its chunks")
    if not kind.isalpha():
        raise FormatError(f"a chunk type should be an ASCII letter, but is {kind!r}")
    size, raw = read_varint(read)
    if kind == INDEX:
        if size > limits.max_index_bytes:
            raise LimitExceededError(f"chunk {kind.decode()} states {size} bytes")
    elif kind.isupper() and kind not in (REGIONS, NUMBERS, PALETTE, OVERLAY, NEUTRAL, PARTS):
        raise UnsupportedError(f"chunk {kind.decode()} is critical and not known to this build")
    elif size > limits.max_metadata_bytes:
        raise LimitExceededError(f"chunk {kind.decode()} states {size} bytes of metadata")
    return Chunk(kind, _read_sealed(read, size, f"chunk {kind.decode()}", kind + raw))


def _read_sealed(read: Read, size: int, what: str, before: bytes = b"") -> bytes:
    """So many bytes, whose checksum, which covers those before them, too, follows."""
    payload = read_exactly(read, size, what)
    if read_exactly(read, _CRC.size, "a checksum") != _CRC.pack(zlib.crc32(payload, zlib.crc32(before))):
        raise ChecksumError(f"the checksum of {what} does not match: the file is damaged")
    return payload


def stream_size(payload: int) -> int:
    """Bytes in the file of a stream of so many."""
    return payload + _CRC.size


def read_stream(read: Read, size: int) -> bytes:
    """One of the streams behind the index, of so many bytes."""
    return _read_sealed(read, size, "a slice")


# ---- slice index -----------------------------------------------------------------------------------------------


def check_slices(width: int, height: int, side: int, latents: bool, limits: Limits = DEFAULT_LIMITS) -> None:
    """Raise LimitExceededError for a picture whose slices, ``side`` pixels wide and high, or one, are too large."""
    pixels, most = slice_pixels(width, height, side), limits.slice_pixels(latents)
    if pixels > most:
        raise LimitExceededError(f"slices of {pixels} pixels exceed the limit of {most}")


def check_index(streams: int, limits: Limits = DEFAULT_LIMITS) -> None:
    """Raise LimitExceededError for more streams than an index that readers accept can hold, at a byte each."""
    if streams > limits.max_index_bytes:
        raise LimitExceededError(f"the index of {streams} streams exceeds the limit of {limits.max_index_bytes} bytes")


def slice_pixels(width: int, height: int, side: int) -> int:
    """Pixels of the largest slice; a side counts 16 at least, to which the networks' input is padded."""
    return math.prod(max(16, min(n, side or n)) for n in (width, height))


def slice_count(width: int, height: int, side: int) -> int:
    """Slices of ``side`` pixels, or one, of a picture."""
    return -(-width // side) * -(-height // side) if side else 1


def stream_count(slices: int, latents: bool = True, planes: int = 0) -> int:
    """Streams of a picture of so many slices, of its latents and of planes that are coded by themselves."""
    return latents * (1 if slices == 1 else LAYERS * slices) + planes * slices


def pixels_touched(prologue: Prologue, left: int, top: int, right: int, bottom: int) -> int:
    """Pixels of the slices that a box depends on."""
    side = prologue.index.side or max(prologue.header.width, prologue.header.height)

    def covered(first: int, last: int, end: int) -> int:
        return min(end, -(-(last + REACH) // side) * side) - max(0, first - REACH) // side * side

    return covered(left, right, prologue.header.width) * covered(top, bottom, prologue.header.height)


def write_index(index: SliceIndex, header: Header) -> bytes:
    code = index.side.bit_length() - 1 if index.side else WHOLE_PICTURE
    sizes = b"".join(write_varint(size) for size in index.stream_sizes)
    return _RATE.pack(index.rate) * header.latents + bytes([code]) + sizes


def read_index(payload: bytes, header: Header) -> SliceIndex:
    """Parse the payload of the index chunk of a picture."""
    rest = BytesIO(payload)
    head = rest.read(_RATE.size * header.latents + 1)
    if len(head) <= _RATE.size * header.latents:
        raise FormatError("the slice index is too short")
    rate, code = _RATE.unpack_from(head)[0] if header.latents else 0, head[-1]
    if code != WHOLE_PICTURE and code not in SIDE_CODES:
        raise UnsupportedError(f"slices of side code {code} are not known to this build")
    side = 0 if code == WHOLE_PICTURE else 1 << code
    slices = slice_count(header.width, header.height, side)
    count = stream_count(slices, header.latents, header.planes)
    if count > len(payload) - len(head) or (side and slices == 1):
        raise FormatError(
            f"a slice index of {len(payload)} bytes for {header.width}x{header.height} pixels of mode {header.mode} in "
            f"{slices} slices of side code {code}"
        )
    sizes = tuple(read_varint(rest.read)[0] for _ in range(count))
    if rest.read(1):
        raise FormatError("the slice index is longer than its sizes")
    return SliceIndex(rate, sizes, side)


# ---- metadata --------------------------------------------------------------------------------------------------


def write_resolution(dpi: tuple[float, float]) -> bytes:
    """Dots per inch, across and down.

    Raises:
        ValueError: not two numbers from 0.001 to four million.
    """
    try:
        if isinstance(dpi, str):  # whose characters may be digits
            raise TypeError
        across, down = (round(1000 * float(n)) for n in dpi)
        if min(across, down) < 1:
            raise ValueError
        return _RESOLUTION.pack(across, down)
    except (TypeError, ValueError, OverflowError, struct.error) as error:
        raise ValueError(f"dpi must be two positive numbers of dots per inch, not {dpi!r}") from error


def read_resolution(payload: bytes) -> tuple[float, float]:
    across, down = _RESOLUTION.unpack(payload)
    return across / 1000, down / 1000


@dataclasses.dataclass(frozen=True)
class Frame:
    """One frame of an animation: a box that changes, from (left, top) on.

    Attributes:
        duration: milliseconds. size: bytes of its own file; 0 for the first frame, and where nothing changes.
    """

    duration: int
    left: int
    top: int
    size: int


@dataclasses.dataclass(frozen=True)
class Animation:
    loop: int  # how often it is shown; 0: again and again
    frames: tuple[Frame, ...]


def write_animation(animation: Animation) -> bytes:
    out = [write_varint(animation.loop), write_varint(len(animation.frames))]
    for k, frame in enumerate(animation.frames):
        out.append(write_varint(frame.duration))
        if k:
            out.append(write_varint(frame.size))
            out += [write_varint(frame.left), write_varint(frame.top)] if frame.size else []
    return b"".join(out)


def read_animation(payload: bytes) -> Animation:
    """Raises FormatError for anything else."""
    read = BytesIO(payload).read
    loop, count = read_varint(read)[0], read_varint(read)[0]
    if not 2 <= count <= min(len(payload), MAX_FRAMES):
        raise FormatError(f"an animation of {count} frames in {len(payload)} bytes")
    frames = []
    for k in range(count):
        duration, size = read_varint(read)[0], read_varint(read)[0] if k else 0
        left, top = (read_varint(read)[0], read_varint(read)[0]) if size else (0, 0)
        frames.append(Frame(duration, left, top, size))
    return Animation(loop, tuple(frames))


def write_parts(parts: Sequence[Frame]) -> bytes:
    """What a frame of an animation changes beside its first box. Durations are not written."""
    return b"".join(write_varint(number) for part in parts for number in (part.left, part.top, part.size))


def read_parts(payload: bytes) -> tuple[Frame, ...]:
    """Raises FormatError for anything else."""
    stream, parts = BytesIO(payload), list[Frame]()
    while stream.tell() < len(payload) and len(parts) <= MAX_PARTS:
        parts.append(Frame(0, *(read_varint(stream.read)[0] for _ in range(3))))
    if not 1 <= len(parts) <= MAX_PARTS or not all(part.size for part in parts):
        raise FormatError(f"parts of a frame that are none, or more than {MAX_PARTS}, in {len(payload)} bytes")
    return tuple(parts)


def read_map(packed: bytes, size: int, levels: int) -> bytes:
    """Unfold a zlib stream (RFC 1950) of ``size`` bytes below ``levels``; no more than that is ever allocated.

    Raises:
        FormatError: it holds anything else.
    """
    cells = _unfolded(packed, size, "a map")
    if len(cells) != size or max(cells, default=0) >= levels:
        raise FormatError(f"a map does not hold {size} positions of {levels} levels")
    return cells


def _unfolded(packed: bytes, most: int, what: str, at_hand: bytes = b"") -> bytes:
    unfold = zlib.decompressobj(zdict=at_hand) if at_hand else zlib.decompressobj()
    try:
        plain = unfold.decompress(packed, most + 1)
    except zlib.error as error:
        raise FormatError(f"{what} is damaged: {error}") from error
    if len(plain) > most or not unfold.eof or unfold.unused_data:
        raise FormatError(f"{what} has more than {most} bytes, is cut off or followed by something else")
    return plain


# ---- numbers and regions ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Numbers:
    """What the levels of a picture of more than 8 bits stand for."""

    kind: int  # UNSIGNED, SIGNED or FLOAT; the latter two for grey pictures only
    low: float  # what level 0 stands for
    high: float  # and level 255, more than ``low``


def write_numbers(numbers: Numbers) -> bytes:
    return _NUMBERS.pack(numbers.kind, numbers.low, numbers.high)


def read_numbers(payload: bytes, header: Header) -> Numbers:
    """Raises FormatError."""
    if len(payload) != _NUMBERS.size:
        raise FormatError(f"{len(payload)} bytes of numbers where {_NUMBERS.size} are due")
    numbers = Numbers(*_NUMBERS.unpack(payload))
    if numbers.kind not in ((UNSIGNED, SIGNED, FLOAT) if header.grey else (UNSIGNED,)):
        raise FormatError(f"numbers of kind {numbers.kind} in mode {header.mode}")
    largest = {UNSIGNED: 2.0**17, SIGNED: 2.0**33, FLOAT: LARGEST_FLOAT}[numbers.kind]  # what lies beyond is cut
    if not (abs(numbers.low) <= largest and abs(numbers.high) <= largest and numbers.low < numbers.high):
        raise FormatError(f"numbers from {numbers.low} to {numbers.high}")
    return numbers


@dataclasses.dataclass(frozen=True)
class Regions:
    """Rates of their own for parts of a picture: ``rates[levels[k]]`` is that of latent position k in raster order."""

    rates: tuple[int, ...]  # 0 … 65535 each
    levels: bytes


def write_regions(regions: Regions) -> bytes:
    rates = b"".join(rate.to_bytes(2, "big") for rate in regions.rates)
    return bytes([len(regions.rates)]) + rates + zlib.compress(regions.levels, 9)


def read_regions(payload: bytes, positions: int) -> Regions:
    """Parse the chunk of a picture of so many latent positions."""
    count = payload[0] if payload else 0
    if not 1 <= count <= MAX_REGIONS or len(payload) < 1 + 2 * count:
        raise FormatError(f"{count} regions in {len(payload)} bytes")
    rates = tuple(int.from_bytes(payload[1 + 2 * k : 3 + 2 * k], "big") for k in range(count))
    return Regions(rates, read_map(payload[1 + 2 * count :], positions, count))


# ---- files -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Prologue:
    """Everything before the slices."""

    header: Header
    index: SliceIndex
    metadata: dict[bytes, bytes]  # type → payload of the chunks before the index; unknown ancillary types are kept

    @lazily
    def animation(self) -> Animation | None:
        """What follows the picture, if it is the first frame of an animation."""
        try:
            return read_animation(self.metadata[ANIMATION]) if ANIMATION in self.metadata else None
        except FormatError:  # an ancillary chunk never keeps a picture from being read
            return None

    @property
    def preview(self) -> tuple[int, bytes] | None:
        """(how many times smaller it is, an SGC file) of a small version of the picture that is stored in its file."""
        data = self.metadata.get(PREVIEW)
        if data is None or not self.header.latents:
            return None
        try:
            small = read_header(BytesIO(data).read)
        except SemicodecError:  # an ancillary chunk never keeps a picture from being read
            return None
        for scale in PREVIEW_SCALES if small.latents else ():
            if (small.width, small.height) == (-(-self.header.width // scale), -(-self.header.height // scale)):
                return scale, data
        return None

    @property
    def numbers(self) -> Numbers | None:
        """Of a picture of more than 8 bits."""
        return read_numbers(self.metadata[NUMBERS], self.header) if self.header.deep else None

    @property
    def mode(self) -> str:
        """The header's; of grey numbers of more than 8 bits that of their kind: I;16, I or F."""
        numbers = self.numbers
        return DEEP_MODES[numbers.kind] if numbers and self.header.grey else self.header.mode

    @property
    def shown_as(self) -> str:
        """Pillow's mode of the picture: the one that it had, where that can be made of the file's again. There is none for
        16 bits in colour.
        """
        view = self.metadata.get(SHOWN_AS, b"").decode("ascii", "replace")
        return view if VIEWS.get(view) == self.header.mode else self.mode.replace("RGB;16", "RGB")

    @property
    def dpi(self) -> tuple[float, float] | None:
        """Dots per inch, across and down, where the file says them."""
        payload = self.metadata.get(RESOLUTION, b"")
        return read_resolution(payload) if len(payload) == _RESOLUTION.size else None


def packed(metadata: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """As it is written: with texts, profile and semantics in one chunk, where that takes fewer bytes."""
    texts = {kind: payload for kind, payload in metadata.items() if kind in PACKABLE}
    texts = dict(sorted(texts.items(), key=lambda text: len(text[1])))  # deflate reaches back 32 kB to the dictionary
    while texts:
        plain = b"".join(kind + write_varint(len(payload)) + payload for kind, payload in texts.items())
        sizes = [len(payload) for payload in texts.values()]
        if len(plain) <= MOST_PACKED:
            folder = zlib.compressobj(9, zdict=dictionary())
            folded = min(zlib.compress(plain, 9), folder.compress(plain) + folder.flush(), key=len)
            if len(folded) <= max(sizes) and chunk_size(len(folded)) < sum(map(chunk_size, sizes)):
                return {kind: payload for kind, payload in metadata.items() if kind not in texts} | {PACKED: folded}
        # One chunk may not have more than readers take of the largest that was given: others are tried without one of them.
        if len(plain) > MOST_PACKED:
            del texts[max(texts, key=lambda kind: len(texts[kind]))]
        else:
            del texts[min(texts, key=lambda kind: len(texts[kind]) - len(zlib.compress(texts[kind], 9)))]
    return metadata


def read_packed(payload: bytes, limits: Limits = DEFAULT_LIMITS) -> dict[bytes, bytes]:
    """What one such chunk holds; no more than ``MOST_PACKED`` bytes are ever allocated.

    Raises:
        FormatError: it holds anything else.
        LimitExceededError: one of them is larger than it may be as a chunk.
    """
    texts: dict[bytes, bytes] = {}
    stream = BytesIO(_unfolded(payload, MOST_PACKED, "what is packed", dictionary()))
    while kind := stream.read(1):
        size = read_varint(stream.read)[0]
        if kind not in PACKABLE or kind in texts:
            raise FormatError(f"packed metadata of type {kind!r}")
        texts[kind] = read_exactly(stream.read, size, "packed metadata")
        if size > limits.max_metadata_bytes:
            raise LimitExceededError(f"{size} bytes of metadata exceed the limit of {limits.max_metadata_bytes}")
    return texts


def write_container(
    header: Header, rate: int, streams: Sequence[bytes], metadata: dict[bytes, bytes], side: int = 0
) -> bytes:
    chunks = [Chunk(kind, payload) for kind, payload in packed(metadata).items()]
    chunks.append(Chunk(INDEX, write_index(SliceIndex(rate, tuple(len(s) for s in streams), side), header)))
    return write_header(header) + b"".join([*map(write_chunk, chunks), *map(_sealed, streams)])


def with_chunks(data: bytes, chunks: dict[bytes, bytes], limits: Limits = DEFAULT_LIMITS) -> bytes:
    """The file with these chunks, too, or instead of its own ones of the same type."""
    stream = BytesIO(data)
    prologue = read_prologue(stream.read, limits)
    streams, index = read_slices(stream.read, prologue.index), prologue.index
    return write_container(prologue.header, index.rate, streams, prologue.metadata | chunks, index.side)


def read_prologue(read: Read, limits: Limits = DEFAULT_LIMITS, *, frame: bool = False) -> Prologue:
    """Read header, metadata and slice index; leaves the reader at the first slice.

    Args:
        frame: it is that of a frame behind the first one, which may have parts.

    Raises:
        FormatError, UnsupportedError, LimitExceededError: see ``read_header``; also an unknown critical chunk, the same
            metadata twice, too many chunks.
    """
    check_limits(limits)
    header = read_header(read, limits)
    metadata: dict[bytes, bytes] = {}
    met = set[bytes]()
    count = 0
    while count < limits.max_chunks:
        count += 1
        chunk = read_chunk(read, limits)
        if chunk.type == INDEX:
            index = read_index(chunk.payload, header)
            check_slices(header.width, header.height, index.side, header.latents, limits)
            most = LEAST_ROOM + ROOM * slice_pixels(header.width, header.height, index.side)
            if max(index.stream_sizes) > most:
                raise LimitExceededError(f"a slice of {max(index.stream_sizes)} bytes exceeds the limit of {most}")
            if header.deep is not (NUMBERS in metadata):
                raise FormatError(f"mode {header.mode} {'without' if header.deep else 'with'} a chunk of numbers")
            if header.indexed is not (PALETTE in metadata):
                raise FormatError(f"a palette {'is missing' if header.indexed else 'where none is due'}")
            if REGIONS in metadata and not header.latents:
                raise FormatError("regions in a picture without latents")
            if OVERLAY in metadata and (not header.latents or header.deep or header.width * header.height > MOST_OVERLAID):
                raise FormatError(f"an overlay in {header.width}x{header.height} pixels of mode {header.mode}")
            if NEUTRAL in metadata and (not header.latents or header.grey or metadata[NEUTRAL]):
                raise FormatError(f"a chunk that says neutral, of {len(metadata[NEUTRAL])} bytes, in mode {header.mode}")
            if header.deep:
                read_numbers(metadata[NUMBERS], header)
            if PARTS in metadata and not frame:
                raise FormatError("parts of a frame where there is none")
            return Prologue(header, index, metadata)
        found = {chunk.type: chunk.payload}
        if chunk.type == PACKED:
            with contextlib.suppress(FormatError):  # an ancillary chunk never keeps a picture from being read
                found = read_packed(chunk.payload, limits)
        if twice := ({chunk.type} | found.keys()) & met:
            raise FormatError(f"two chunks of type {min(twice).decode()}")
        met |= {chunk.type} | found.keys()
        metadata |= found
    raise LimitExceededError(f"more than {limits.max_chunks} chunks before the slice index")


def read_slices(read: Read, index: SliceIndex) -> tuple[bytes, ...]:
    """Read the streams that follow the index; bytes behind the last one do not belong to the picture."""
    return tuple(read_stream(read, size) for size in index.stream_sizes)


class CutStream(bytes):
    """What has arrived, unharmed, of a stream: its beginning, or nothing."""


def read_arrived(read: Read, index: SliceIndex) -> tuple[bytes, ...]:
    """Like ``read_slices``, of a file that may be cut off or damaged: streams that are not whole are ``CutStream``."""
    slices: list[bytes] = []
    for size in index.stream_sizes:  # which says where every slice lies, whatever stands there
        arrived = read_up_to(read, stream_size(size))
        try:
            slices.append(read_stream(BytesIO(arrived).read, size))
        except TruncatedError:  # the beginning of this one, if nothing was lost before it
            placed = not slices or not isinstance(slices[-1], CutStream)
            slices.append(CutStream(arrived[:size] if placed else b""))
        except ChecksumError:
            slices.append(CutStream())
    return tuple(slices)


class SliceReader(Sequence[bytes]):
    """The streams of ``read_slices``, each read and checked when it is asked for, from any thread: a part of a picture costs
    the bytes of its own slices.

    Args:
        file: seekable, at the first slice.
    """

    def __init__(self, file: IO[bytes], index: SliceIndex) -> None:
        self._places = list(itertools.accumulate(map(stream_size, index.stream_sizes), initial=file.tell()))
        self._file, self._index = file, index
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._index.stream_sizes)

    @overload
    def __getitem__(self, k: int) -> bytes: ...
    @overload
    def __getitem__(self, k: slice) -> Sequence[bytes]: ...
    def __getitem__(self, k: int | slice) -> bytes | Sequence[bytes]:
        if isinstance(k, slice):
            return [self[n] for n in range(len(self))[k]]
        with self._lock:
            seek(self._file, self._places[k])
            return read_stream(self._file.read, self._index.stream_sizes[k])
