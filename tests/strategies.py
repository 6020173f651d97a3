"""Hypothesis strategies for pictures, tables and containers."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from pillow_semicodec import container
from pillow_semicodec.entropy.tables import TOTAL, TableSet, join, quantise


@st.composite
def pictures(draw: st.DrawFn, side: int = 70) -> np.ndarray:
    """uint8 [H, W] or [H, W, 3]: noise, flat, or ramps, of any size from 1x1."""
    height, width = draw(st.integers(1, side)), draw(st.integers(1, side))
    shape = (height, width) if draw(st.booleans()) else (height, width, 3)
    kind = draw(st.sampled_from(["noise", "flat", "ramp"]))
    if kind == "flat":
        return np.full(shape, draw(st.integers(0, 255)), np.uint8)
    if kind == "ramp":
        return np.broadcast_to(np.linspace(0, 255, width)[(None, slice(None)) + (None,) * (len(shape) - 2)], shape).astype(
            np.uint8
        )
    return np.random.default_rng(draw(st.integers(0, 99))).integers(0, 256, shape, dtype=np.uint8)


@st.composite
def table_sets(draw: st.DrawFn) -> TableSet:
    tables = []
    for _ in range(draw(st.integers(1, 5))):
        size = draw(st.sampled_from([0, 2, 3, 9, 64, 700]))
        weights = np.random.default_rng(draw(st.integers(0, 99))).random(size) ** 8 + 1e-9
        frequencies = quantise(weights) if size else np.zeros(0, np.uint32)
        assert not size or frequencies.sum() == TOTAL
        tables.append((draw(st.integers(-600, 10)), frequencies))
    return join(tables)


sides = {"width": st.integers(1, 5000), "height": st.integers(1, 800)}  # one slice, as large as readers take
model_ids = st.binary(min_size=8, max_size=8)
headers = st.builds(container.Header, **sides, mode=st.sampled_from(["L", "RGB"]), model_id=model_ids)
headers |= st.builds(container.Header, **sides, mode=st.just("1"))
metadata = st.dictionaries(st.sampled_from([b"e", b"c", b"x", b"q"]), st.binary(max_size=300), max_size=4)


@st.composite
def planes(draw: st.DrawFn, side: int = 90) -> np.ndarray:
    """uint8 [H, W]: flat, discs with soft edges, noise, a few levels, ramps."""
    height, width = draw(st.integers(1, side)), draw(st.integers(1, side))
    random = np.random.default_rng(draw(st.integers(0, 999)))
    i, j = np.mgrid[:height, :width]
    kind = draw(st.sampled_from(["flat", "disc", "noise", "levels", "ramp"]))
    if kind == "flat":
        return np.full((height, width), random.integers(256), np.uint8)
    if kind == "disc":
        distance = np.hypot(i - random.integers(height), j - random.integers(width)) - random.integers(1, side)
        return np.clip(128 - 60 * distance, 0, 255).astype(np.uint8)
    if kind == "ramp":
        return ((i * random.integers(4) + j * random.integers(4)) % 256).astype(np.uint8)
    if kind == "levels":
        return random.choice(random.integers(0, 256, 3), (height, width)).astype(np.uint8)
    return random.integers(0, 256, (height, width), dtype=np.uint8)
