"""A short run of the fuzzer; ``tests/fuzz/mutate.py`` is the long one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import pillow_semicodec

sys.path.insert(0, str(Path(__file__).parent / "fuzz"))


@pytest.mark.parametrize("seed", [1, 2])
def test_mutated_files_raise_typed_errors_only(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anything but a picture or a typed error fails the test."""
    import mutate

    for name in ("LIMITS", "THREADS"):
        monkeypatch.setattr(pillow_semicodec.options, name, getattr(pillow_semicodec.options, name))
    outcomes = mutate.fuzz(150, seed)
    assert outcomes.keys() >= {
        "sealed, codec: decoded",
        "sealed, codec: FormatError",
        "codec: ChecksumError",
        "Pillow: OSError",
        "imageio: OSError",
    }
    assert {key.split(":")[0] for key in outcomes} == {kind + way for kind in ("", "sealed, ") for way in mutate.WAYS_IN}
