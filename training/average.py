"""Average two checkpoints: ``python -m training.average OLD.pt NEW.pt --share 0.6 --out MIXED.pt``.

For a NEW that was trained on from OLD: on the straight line between both, errors lie about on the line, too, and often below
it (Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022). A dial, without training, for runs that won
something and paid for it with something else. Heads are those of NEW; go on from MIXED.pt with ``--restart-clock``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from .commands import one_line
from .state import load_checkpoint, save_changed

Weights = dict[str, torch.Tensor]


def mixed(old: Weights, new: Weights, share: float) -> Weights:
    """``old`` moved towards ``new`` by ``share``; what is no float number is that of ``new``.

    Raises:
        ValueError: names or shapes of the weights differ.
    """
    if {name: w.shape for name, w in old.items()} != {name: w.shape for name, w in new.items()}:
        raise ValueError("the weights of these checkpoints have different names or shapes")
    return {
        name: torch.lerp(old[name].float(), w.float(), share).to(w.dtype) if w.is_floating_point() else w
        for name, w in new.items()
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--share", type=float, default=0.5, help="of NEW, from 0 to 1")
    parser.add_argument("--out", type=Path, required=True, help="the new checkpoint")
    args = parser.parse_args(arguments)
    if not 0 <= args.share <= 1:
        raise ValueError(f"--share is {args.share}, and should be from 0 to 1")
    old, new = load_checkpoint(args.old), load_checkpoint(args.new)
    save_changed(args.out, new, mixed(old["ema"], new["ema"], args.share))


if __name__ == "__main__":
    with one_line("average"):
        main()
