"""Files on disk: opened, written whole or not at all, and found in folders."""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Protocol, cast

from .errors import SemicodecError

try:
    import fcntl
except ImportError:  # Windows, where a file that somebody writes cannot be removed
    fcntl = None  # type: ignore[assignment]

PREFIX, SUFFIX = ".sgc-", ".part"  # of files that are being written
JUNCTION = 0xA0000003  # ``stat.IO_REPARSE_TAG_MOUNT_POINT``, which only Windows knows
SETTLED = 60  # seconds after which nobody is about to rename what has been written, where there are no locks to tell
EXISTS = "it has come to exist meanwhile; --overwrite replaces it"


class Readable(Protocol):
    """An open file, in as far as it is read from its beginning to its end."""

    def read(self, size: int, /) -> bytes: ...


Source = str | os.PathLike[str] | bytes | bytearray | memoryview | Readable


@contextlib.contextmanager
def opened(source: Source) -> Iterator[IO[bytes]]:
    """What ``source`` holds, a file's name or bytes, for reading; an open file as it is, and it stays open.

    What is then found to be wrong with a file that was named is told with its name.

    Raises:
        OSError: the file cannot be read.
        TypeError: none of these.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        yield io.BytesIO(bytes(source))  # of a view with gaps, too
    elif isinstance(source, (str, os.PathLike)):
        with open(source, "rb") as file:
            try:
                yield file
            except SemicodecError as error:
                error.args = (f"{os.fsdecode(source)}: {error}",)
                raise
    elif hasattr(source, "read"):
        yield cast(IO[bytes], source)
    else:
        raise TypeError(f"a file must be its name, its bytes or an open file, not {type(source).__name__}")


def printable(text: str) -> str:
    """In one line. Names come from files: what would drive a terminal is shown, not sent."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def write_atomically(path: Path, write: Callable[[IO[bytes]], None], *, replace: bool = True) -> int:
    """Let ``write`` fill a temporary file beside ``path``, then rename it; returns its bytes.

    Whatever fails, ``path`` keeps what it held, and no temporary file stays behind. Links are followed; what is not
    a regular file (a device, a pipe) is written to directly. Errors name ``path``.

    Args:
        replace: take the place of a file that is there, or has come to be there meanwhile; else that is a FileExistsError.
    """
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            buffer = io.BytesIO()
            write(buffer)
            return path.write_bytes(buffer.getvalue())  # by this name: that of a shell's pipe leads nowhere
        return _written_atomically(path.resolve(), write, replace)
    except OSError as error:
        if isinstance(error.filename, str) and os.path.basename(error.filename).startswith(PREFIX):
            error.filename, error.filename2 = str(path), None
        raise


def write_text(path: Path, text: str) -> int:
    """``write_atomically`` for a text, in UTF-8; what of it is no text becomes escapes."""

    def write(file: IO[bytes]) -> None:
        file.write(text.encode("utf-8", "backslashreplace"))

    return write_atomically(path, write)


def _written_atomically(path: Path, write: Callable[[IO[bytes]], None], replace: bool) -> int:
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such folder", str(path.parent))
    file = _temporary(path)
    temporary = Path(file.name)
    try:
        with file:
            rights = stat.S_IMODE(path.stat().st_mode) if path.exists() else None
            if rights is not None:  # nobody may read this who may not read that; it may be removed
                _allow(temporary, rights | stat.S_IWUSR)
            write(file)
            size = file.tell()
            if rights is not None:
                _allow(temporary, rights)
            _store(file)
            if fcntl is not None:
                _move(temporary, path, replace)  # as long as it is locked
        if fcntl is None:
            _move(temporary, path, replace)
    except BaseException:
        _remove(temporary)
        raise
    return size


def _allow(path: Path, rights: int) -> None:
    """On drives where all files have the same rights, nobody but the owner may set even those."""
    if stat.S_IMODE(path.stat().st_mode) != rights:
        path.chmod(rights)


def _remove(path: Path) -> None:
    if fcntl is None:
        with contextlib.suppress(OSError):  # Windows removes no file that may not be written
            path.chmod(stat.S_IREAD | stat.S_IWRITE)
    path.unlink(missing_ok=True)


def _store(file: IO[bytes]) -> None:
    """Have it on the disk before it takes a place: network drives tell of a full one no earlier, and power may fail."""
    file.flush()
    try:
        os.fsync(file.fileno())
    except OSError as error:
        unknown = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)  # to this file system
        if error.errno not in (unknown if os.name == "posix" else (*unknown, errno.EBADF)):  # Windows says nothing else
            raise


def _move(temporary: Path, path: Path, replace: bool) -> None:
    if not replace:
        try:
            os.link(temporary, path)  # there is no renaming that leaves what is there
        except OSError as error:  # one that knows no links
            if isinstance(error, FileExistsError) or path.exists():
                raise FileExistsError(errno.EEXIST, EXISTS, str(path)) from None
        else:
            temporary.unlink()
            return
    os.replace(temporary, path)


def _temporary(path: Path) -> IO[bytes]:
    """A new file beside ``path``, locked: the lock ends with the process, however that ends, and then ``sweep`` may come."""
    while True:
        file = path.with_name(f"{PREFIX}{os.urandom(8).hex()}{SUFFIX}").open("xb")
        if fcntl is not None:
            with contextlib.suppress(OSError):  # a file system without locks: nothing is swept there
                fcntl.flock(file, fcntl.LOCK_EX)
        if Path(file.name).exists():
            return file
        file.close()  # swept before it was locked


def sweep(folders: Iterable[Path]) -> None:
    """Remove what processes that were killed, here or on another machine, left half written in these folders."""
    for folder in folders:
        found: list[Path] = []
        with contextlib.suppress(OSError):  # the folder cannot be looked into: those that write there are told
            found.extend(folder.glob(f"{PREFIX}*{SUFFIX}"))
        for path in found:
            with contextlib.suppress(OSError):  # somebody writes it, or it may not be removed
                if fcntl is None:
                    if time.time() - path.stat().st_mtime > SETTLED:
                        _remove(path)
                    continue
                with path.open("r+b") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()


def ignores_case(path: str) -> bool:
    """Whether names that differ in capital letters only are one file beside ``path``, as on macOS and Windows."""
    return os.name == "nt" or _folder_ignores_case(os.path.dirname(path))


@functools.lru_cache(maxsize=1024)
def _folder_ignores_case(folder: str) -> bool:
    """Something in it, or in the nearest folder above that is there and holds letters, is asked for by another name."""
    while True:
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                other = entry.name.swapcase()
                if other != entry.name == other.swapcase():  # an ß has no way back
                    with contextlib.suppress(OSError):
                        return os.path.samestat(os.lstat(entry.path), os.lstat(os.path.join(folder, other)))
                    return False
        if folder == (folder := os.path.dirname(folder)):
            return False


def is_picture(name: str, extensions: frozenset[str]) -> bool:
    """By what its name ends in. macOS keeps, on other systems' drives and in archives, notes on ``a.jpg`` in ``._a.jpg``."""
    return os.path.splitext(name)[1].lower() in extensions and not os.path.basename(name).startswith("._")


def walk(
    sources: list[Path], extensions: frozenset[str], failed: Callable[[OSError], None] | None = None
) -> Iterator[tuple[Path, Path]]:
    """(file, its path relative to the source it was found under), sorted; links to folders are not followed.

    Args:
        failed: hears of folders that cannot be listed, of pictures that cannot be looked at, and of links that lead nowhere.
    """
    for source in sources:
        if source.is_dir():
            for folder, children, names in os.walk(source, onerror=failed):
                children[:] = sorted(child for child in children if not _is_junction(os.path.join(folder, child)))
                for name in sorted(names):
                    path = Path(folder, name)
                    if is_picture(name, extensions) and _readable(path, failed):
                        yield path, path.relative_to(source)
        else:
            yield source, Path(source.name)


def _readable(path: Path, failed: Callable[[OSError], None] | None) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError as error:
        if failed is not None:
            failed(
                FileNotFoundError(errno.ENOENT, "a link that leads nowhere", str(path)) if is_lost(path, error) else error
            )
        return False


def is_lost(path: Path, error: OSError) -> bool:
    """Whether ``error`` says that it is a link, and leads nowhere."""
    return error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP) and path.is_symlink()


def _is_junction(path: str) -> bool:
    """Windows' other link to a folder, which ``os.walk`` follows."""
    with contextlib.suppress(OSError):  # it is gone meanwhile
        return getattr(os.lstat(path), "st_reparse_tag", 0) == JUNCTION
    return False
