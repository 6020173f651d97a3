"""Bytes that repeat, as raw LZMA: letters, patterns and flat grounds return exactly, which no local context sees.

Source: Pavlov, LZMA specification (draft version, 2015); Python's own ``lzma`` does the work.
"""

from __future__ import annotations

import importlib.util
from typing import Any

from ..container import CutStream
from ..errors import FormatError, UnsupportedError

DICTIONARY = 2**24  # bytes that a reader keeps at hand
PIECE = 4096  # bytes of a cut stream that are unpacked at a time: what comes before a fault is kept


def is_available() -> bool:
    """Some builds of Python lack ``lzma``."""
    return importlib.util.find_spec("_lzma") is not None


def _lzma() -> Any:
    try:
        import lzma
    except ImportError as error:
        raise UnsupportedError("this Python was built without lzma, which the picture needs") from error
    return lzma


def _settings(lzma: Any, width: int, **choices: int) -> dict[str, Any]:
    """LZMA of numbers of ``width`` bytes."""
    known = {"id": lzma.FILTER_LZMA1, "dict_size": DICTIONARY, "lc": 3, "lp": width - 1, "pb": width - 1}
    return {"format": lzma.FORMAT_RAW, "filters": [known | choices]}


def pack(data: bytes, width: int = 1) -> bytes:
    """Args: width: bytes of a number, 1 or 2."""
    lzma = _lzma()
    size = min(max(4096, 1 << max(len(data) - 1, 1).bit_length()), DICTIONARY)
    packed: bytes = lzma.compress(data, **_settings(lzma, width, preset=9, nice_len=273, dict_size=size))
    return packed


def unpack(data: bytes, size: int, width: int = 1) -> bytes:
    """Exactly ``size`` bytes; no more is ever made of ``data``. What is missing of a cut stream is 0.

    Raises:
        FormatError: they are something else. UnsupportedError: this Python lacks ``lzma``.
    """
    lzma = _lzma()
    stream = lzma.LZMADecompressor(**_settings(lzma, width))
    cut, result, place = isinstance(data, CutStream), bytearray(), 0
    step = PIECE if cut else max(len(data), 1)
    try:
        while len(result) < size and not stream.eof and place < len(data):
            result += stream.decompress(data[place : place + step], size - len(result))
            place += step
        if not stream.eof and len(result) == size:
            result += stream.decompress(b"", 1)  # the end marker
    except (lzma.LZMAError, EOFError) as error:
        if not cut:
            raise FormatError(f"data is not packed as it should be: {error}") from error
    if cut:
        return bytes(result[:size].ljust(size, b"\0"))
    if len(result) != size or not stream.eof or stream.unused_data:
        raise FormatError(f"data does not unpack to {size} bytes")
    return bytes(result)
