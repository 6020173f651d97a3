"""Chains of elementwise operations, and whole runs of 8-bit blocks, compiled where a run asks for it: ``train.compile``.

What a step spends on a CPU beside its convolutions is memory traffic: rounding to levels reads and writes a tensor ten
times in as many operations. ``torch.compile`` makes one loop of them; it needs a C++ compiler, and two to four minutes once.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch

SHAPES = 64  # for which a function may be compiled; beyond them it runs as it is
_state = {"on": False}
F = TypeVar("F", bound=Callable[..., Any])


def compile_from_now_on(on: bool) -> None:
    """Compile what is ``fused`` when it is next called, or no longer."""
    if on:
        torch._dynamo.config.recompile_limit = SHAPES
    _state["on"] = on


@contextlib.contextmanager
def as_written() -> Iterator[None]:
    """Compile nothing in here: for shapes that occur once."""
    before, _state["on"] = _state["on"], False
    try:
        yield
    finally:
        _state["on"] = before


def fused(function: F) -> F:
    """A function of tensors, or of a module and tensors, that may be compiled."""
    compiled: list[Any] = []

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        if not _state["on"] or torch.compiler.is_compiling():  # within something larger: part of that
            return function(*args)
        if not compiled:
            compiled.append(torch.compile(function, dynamic=False))
        return compiled[0](*args)

    return call  # type: ignore[return-value]
