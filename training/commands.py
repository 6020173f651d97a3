"""What all commands of the trainer share: bad input ends in one line, never in a trace of the code."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from pillow_semicodec.errors import SemicodecError


class ExportError(RuntimeError):
    """What was exported does not compute what PyTorch computes."""


@contextlib.contextmanager
def one_line(command: str) -> Iterator[None]:
    """Leave with exit code 1 and one line for bad settings, labels, pictures, checkpoints or models."""
    try:
        yield
    except (ValueError, OSError, SemicodecError, ExportError) as error:
        print(f"{command}: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)
