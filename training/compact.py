"""Shrink a checkpoint for keeping: ``python -m training.compact RUN/checkpoint.pt SMALL.pt``.

Only the moving averages are kept, in 16 bits but for the few numbers of the rates; a run resumes from it with ``--resume
SMALL.pt``, with or without ``--restart-clock``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .commands import one_line
from .state import load_checkpoint, save_changed

EXACT = "rate_bank."  # gains and their inverses are learned apart, and would no longer cancel


def compact(source: Path, target: Path) -> None:
    state = load_checkpoint(source)
    weights = {name: value if name.startswith(EXACT) else value.half() for name, value in state["ema"].items()}
    if "heads" in state:
        state["heads"] = {name: value.half() for name, value in state["heads"].items()}
    save_changed(target, state, weights)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    args = parser.parse_args(arguments)
    compact(args.source, args.target)


if __name__ == "__main__":
    with one_line("compact"):
        main()
