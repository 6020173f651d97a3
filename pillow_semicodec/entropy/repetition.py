"""Bytes that repeat, as raw LZMA: letters, patterns and flat grounds return exactly, which no local context sees.

Source: Pavlov, LZMA specification (draft version, 2015); Python's own ``lzma`` does the work.
"""

from __future__ import annotations

import lzma

from ..container import CutStream
from ..errors import FormatError

DICTIONARY = 2**24  # bytes that a reader keeps at hand


def _filter(width: int, **choices: int) -> list[dict[str, int]]:
    """LZMA of numbers of ``width`` bytes."""
    both = {"id": lzma.FILTER_LZMA1, "dict_size": DICTIONARY, "lc": 3, "lp": width - 1, "pb": width - 1}
    return [both | choices]


def pack(data: bytes, width: int = 1, preset: int = 9) -> bytes:
    """Args:
    width: bytes of a number, 1 or 2. preset: 0, the fastest, to 9.
    """
    size = max(4096, 1 << max(len(data) - 1, 1).bit_length())
    choices = {"preset": preset, "dict_size": min(size, DICTIONARY)} | ({"nice_len": 273} if preset == 9 else {})
    return lzma.compress(data, lzma.FORMAT_RAW, filters=_filter(width, **choices))


def unpack(data: bytes, size: int, width: int = 1) -> bytes:
    """Exactly ``size`` bytes; no more is ever made of ``data``. What is missing of a cut stream is 0.

    Raises:
        FormatError: they are something else.
    """
    stream = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_filter(width))
    try:
        result = stream.decompress(data, size)
        if not stream.eof and not stream.needs_input and len(result) == size:
            result += stream.decompress(b"", 1)  # the end marker
    except (lzma.LZMAError, EOFError) as error:
        if isinstance(data, CutStream):
            return bytes(size)
        raise FormatError(f"data is not packed as it should be: {error}") from error
    if isinstance(data, CutStream):
        return result[:size].ljust(size, b"\0")
    if len(result) != size or not stream.eof or stream.unused_data:
        raise FormatError(f"data does not unpack to {size} bytes")
    return result
