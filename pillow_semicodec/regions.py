"""Regions of interest: which latent positions get more of the bits, and how many, at the same size of file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from . import container
from .bundle import RATE_MAX, RATE_UNIT, ModelBundle
from .errors import BundleError
from .head_bundle import SEGMENTATION, HeadBundle, find_heads
from .layout import Layout, RatePlan, Streams
from .pixels import LATENT_STRIDE, latent_shape
from .planes import Plane
from .semantics import Semantics
from .slices import Encoder

AUTO: Literal["auto"] = "auto"


@runtime_checkable
class Picture(Protocol):
    """An image of Pillow, which this module does without."""

    @property
    def mode(self) -> str: ...
    def convert(self, mode: str, /) -> Any: ...


Roi = NDArray[Any] | Picture | Sequence[tuple[int, int, int, int]] | Literal["auto"] | None
Cells = NDArray[np.bool_]  # [h, w]: True inside

CONTRAST = 2 * RATE_UNIT  # rate inside less rate outside: two anchors of the rate bank, about 4 dB
TRIALS = 7


def cells_of(roi: Roi, height: int, width: int) -> Cells | None:
    """Latent positions that the region touches; None where it says nothing, or has yet to be found (``AUTO``).

    Raises:
        TypeError, ValueError: neither a mask of the picture's size nor boxes inside it nor "auto".
    """
    if roi is None or (isinstance(roi, str) and roi == AUTO):
        return None
    if isinstance(roi, Picture):
        roi = np.asarray(roi if roi.mode in ("1", "L", "I", "F", "I;16") else roi.convert("L"))
    if isinstance(roi, (str, bytes)):
        raise ValueError(f'roi must be a mask, boxes or "auto", not {roi!r}')
    is_mask = isinstance(roi, np.ndarray) and roi.shape == (height, width)
    mask: Cells = np.asarray(roi, np.bool_) if is_mask else _mask_of_boxes(roi, height, width)
    h, w = latent_shape(height, width)
    padded = np.zeros((h * LATENT_STRIDE, w * LATENT_STRIDE), np.bool_)
    padded[:height, :width] = mask
    cells: Cells = np.any(padded.reshape(h, LATENT_STRIDE, w, LATENT_STRIDE), (1, 3))
    return cells


def _mask_of_boxes(boxes: Any, height: int, width: int) -> Cells:
    try:
        table = np.asarray(boxes, np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f'roi must be a mask, boxes or "auto", not {type(boxes).__name__}') from error
    if table.shape == (height, width):
        return np.asarray(table, np.bool_)
    table = table[None] if table.shape == (4,) else table.reshape(-1, 4) if not table.size else table
    if table.ndim != 2 or table.shape[1] != 4:
        raise ValueError(
            f"roi must be a mask of shape [{height}, {width}] or boxes (left, top, right, bottom), not an array of shape "
            f"{list(table.shape)}"
        )
    mask = np.zeros((height, width), np.bool_)
    for left, top, right, bottom in table:
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            raise ValueError(f"box ({left:g}, {top:g}, {right:g}, {bottom:g}) does not lie in {width}x{height} pixels")
        mask[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))] = True
    return mask


def heads_with_foreground(model_id: bytes) -> list[HeadBundle]:
    """The installed heads that know what a foreground is.

    Raises:
        BundleError: there are none.
    """
    heads = [h for h in find_heads(model_id) if any(t.foreground and t.kind == SEGMENTATION for t in h.tasks)]
    if not heads:
        raise BundleError('roi="auto" needs heads that draw maps with foreground classes, and there are none for this model')
    return heads


def auto_cells(seen: Semantics, heads: list[HeadBundle]) -> Cells:
    """Cells that are of a foreground class of ``heads``, and their neighbours."""
    wanted = {(task.name, name) for bundle in heads for task in bundle.tasks for name in task.foreground}
    found = []
    for segments in seen.maps:
        table = np.array([(segments.task, name) in wanted for name in segments.classes])
        found.append(table[segments.array()])
    padded = np.pad(np.any(found, 0), 1)
    grown: Cells = padded[1:-1, 1:-1] | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
    return grown


def balance(
    y: Plane, rate: int, cells: Cells, uniform: Streams, bundle: ModelBundle, layout: Layout, threads: int
) -> tuple[RatePlan, Streams]:
    """(plan, streams): more rate inside ``cells``, less outside, in no more bytes than ``uniform``, the streams at ``rate``
    everywhere; the regions' chunk counts.

    The contrast between inside and outside is fixed; both move together until the bytes fit. Where even the lowest pair
    does not fit (a region of nearly everything, a tiny picture), there are no regions.
    """
    best = RatePlan(rate), uniform
    low, high = 0.0, 1.0  # how far both are moved down: 0 leaves the outside as it was, 1 the inside
    for trial in range(TRIALS):
        shift = (low + high) / 2 if trial else 1.0
        outside = round(rate - shift * CONTRAST)
        rates = tuple(int(np.clip(r, 0, RATE_MAX)) for r in (outside, outside + CONTRAST))
        plan = RatePlan(rate, rates, cells.astype(np.uint8))
        streams = Encoder(y, plan, bundle, layout, threads).streams()
        if _bytes(streams) + container.chunk_size(len(plan.chunk() or b"")) <= _bytes(uniform):
            best, high = (plan, streams), shift
        elif trial:
            low = shift
        else:
            break
    return best


def _bytes(streams: Streams) -> int:
    """Of them, and of what the index says of them."""
    return sum(container.stream_size(size) + len(container.write_varint(size)) for size in map(len, streams))
