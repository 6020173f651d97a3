"""Files on disk: written whole or not at all, and found in folders."""

from __future__ import annotations

import io
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO


def write_atomically(path: Path, write: Callable[[IO[bytes]], None]) -> int:
    """Let ``write`` fill a temporary file beside ``path``, then rename it; returns its bytes.

    Whatever fails, ``path`` keeps what it held, and no temporary file stays behind. Links are followed; what is not
    a regular file (a device, a pipe) is written to directly.
    """
    path = path.resolve()
    if path.exists() and not path.is_file() and not path.is_dir():
        buffer = io.BytesIO()
        write(buffer)
        return path.write_bytes(buffer.getvalue())
    temporary = path.with_name(f".sgc-{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        with temporary.open("xb") as file:
            write(file)
            size = file.tell()
        if path.exists():
            shutil.copymode(path, temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return size


def walk(sources: list[Path], extensions: frozenset[str]) -> Iterator[tuple[Path, Path]]:
    """(file, its path relative to the source it was found under), files before folders' contents, sorted."""
    for source in sources:
        if source.is_dir():
            for path in sorted(source.rglob("*")):
                if path.is_file() and path.suffix.lower() in extensions:
                    yield path, path.relative_to(source)
        else:
            yield source, Path(source.name)
