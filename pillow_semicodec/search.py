"""Search a folder of .sgc files by what they show: like a picture, or with a label."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from PIL import Image

from . import options, other_formats
from .analysis import INSTALLED, analyze, describe
from .convert import in_eight_bits, named, reason
from .errors import SemicodecError
from .files import walk
from .semantics import Semantics

SGC = ".sgc"


def semantics_of(path: Path, heads: tuple[str, ...] = ()) -> Semantics:
    """Of an .sgc file, or of any picture that Pillow reads.

    Raises:
        OSError, SemicodecError: the file cannot be read, or no heads are installed.
    """
    if path.suffix.lower() == SGC:
        return analyze(path, heads=heads, threads=options.THREADS, limits=options.LIMITS)
    import numpy as np

    other_formats.register_all()
    with Image.open(path) as image:  # as it is stored: files keep the orientation in their EXIF, too
        picture = np.asarray(in_eight_bits(image).convert("RGBA" if image.has_transparency_data else "RGB"))
    return describe(picture, heads=heads, threads=options.THREADS)


def likeness(picture: Path, heads: tuple[str, ...]) -> Callable[[Semantics, Path], float]:
    """How like ``picture`` a file is: cosine of their embeddings. Where heads that are gone made what one of them stores,
    both are looked at anew by the installed ones.

    Raises:
        OSError, SemicodecError: ``picture`` cannot be read, or no heads are installed.
        ValueError: the heads make no embedding.
    """
    wanted = semantics_of(picture, heads)
    if not wanted.embedding:
        raise ValueError(f"the heads {', '.join(wanted.heads)} make no embedding to compare")

    @cache
    def anew() -> Semantics:
        return semantics_of(picture, (INSTALLED,)) if picture.suffix.lower() == SGC and not heads else wanted

    def score(seen: Semantics, path: Path) -> float:
        if seen.space == wanted.space:
            return wanted.similarity(seen)
        return anew().similarity(seen if seen.space == anew().space else semantics_of(path, (INSTALLED,)))

    return score


def search(
    folder: Path, score: Callable[[Semantics, Path], float], heads: tuple[str, ...], failures: list[str], names: set[str]
) -> Iterator[tuple[float, Path]]:
    """(score, path) of every .sgc file below ``folder``; what cannot be read is added to ``failures``, and what labels and
    maps may be called to ``names``.
    """

    def failed(error: OSError) -> None:
        failures.append(reason(error))

    for path, _ in walk([folder], frozenset({SGC}), failed):
        try:
            seen = semantics_of(path, heads)
            names.update(seen.names())
            yield score(seen, path), path
        except (OSError, ValueError, SemicodecError) as error:
            failures.append(named(path, reason(error)))
