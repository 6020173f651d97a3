"""Search a folder of .sgc files by what they show: like a picture, or with a label."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image

from . import options
from .analysis import INSTALLED, analyze, describe
from .convert import in_eight_bits
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

    with Image.open(path) as image:  # as it is stored: files keep the orientation in their EXIF, too
        picture = np.asarray(in_eight_bits(image).convert("RGBA" if image.has_transparency_data else "RGB"))
    return describe(picture, heads=heads, threads=options.THREADS)


def search(
    folder: Path, score: Callable[[Semantics], float], heads: tuple[str, ...], failures: list[str], space: str = ""
) -> Iterator[tuple[float, Path, Semantics]]:
    """(score, path, semantics) of every .sgc file below ``folder``; what cannot be read is added to ``failures``.

    Args:
        space: of the embeddings to compare; a file that stores another's is read anew with the installed heads.
    """

    def failed(error: OSError) -> None:
        failures.append(f"{error.filename}: {error.strerror or error}")

    for path, _ in walk([folder], frozenset({SGC}), failed):
        try:
            seen = semantics_of(path, heads)
            if space and seen.space != space:
                seen = analyze(path, heads=INSTALLED, threads=options.THREADS, limits=options.LIMITS)
            yield score(seen), path, seen
        except (OSError, ValueError, SemicodecError) as error:
            failures.append(f"{path}: {error}")
