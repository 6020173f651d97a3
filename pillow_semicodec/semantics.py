"""What a picture shows, and how a file carries it: labels, maps of segments and an embedding ↔ bytes of a chunk.

Strategy: stdlib only, for ``Image.open`` reads this chunk. Nothing here runs a network; see ``analysis``.
"""

from __future__ import annotations

import dataclasses
import json
import math
import zlib
from collections import Counter
from io import BytesIO
from typing import TYPE_CHECKING, Any

from .container import read_map, read_varint, write_varint
from .errors import FormatError, TruncatedError, UnsupportedError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CELL = 16  # pixels a side of a map's cell
VERSION = 1
LABELS_KEPT = 5  # of every task, in a file, however improbable; others from a probability of 0.1 % on
_MAX_HEADER = 2**16  # bytes
_MAX_EMBEDDING = 2**12  # components
_MAX_MAPS = 16


@dataclasses.dataclass(frozen=True)
class Label:
    """One class of one task and its calibrated probability, 0 to 1."""

    task: str
    name: str
    probability: float


@dataclasses.dataclass(frozen=True)
class SegmentationMap:
    """The class of every cell of 16x16 pixels, row by row: ``classes[cells[row * width + column]]``."""

    task: str
    classes: tuple[str, ...]
    width: int  # cells
    height: int
    cells: bytes = dataclasses.field(repr=False)

    def array(self) -> NDArray[np.uint8]:
        """uint8 [height, width]."""
        import numpy as np

        return np.frombuffer(self.cells, np.uint8).reshape(self.height, self.width)

    def shares(self) -> dict[str, float]:
        """Share of the picture's cells by class, largest first; classes that do not occur are left out."""
        counts = Counter(self.cells).most_common()
        return {self.classes[k]: n / len(self.cells) for k, n in counts}


@dataclasses.dataclass(frozen=True)
class Semantics:
    """What a picture shows.

    Attributes:
        heads: names of the heads that said it.
        labels: of every task in turn, the most probable first.
        maps: one for every segmentation task.
        embedding: of norm 1; pictures alike have embeddings with a large dot product. Empty if no head makes one.
        space: id of the head that made the embedding; only embeddings of one space can be compared.
    """

    heads: tuple[str, ...] = ()
    labels: tuple[Label, ...] = ()
    maps: tuple[SegmentationMap, ...] = ()
    embedding: tuple[float, ...] = dataclasses.field(default=(), repr=False)
    space: str = ""

    def best(self, task: str | None = None) -> Label | None:
        """The most probable label, of one task or of all."""
        return max((x for x in self.labels if task in (None, x.task)), key=lambda x: x.probability, default=None)

    def names(self) -> set[str]:
        """Every class that a label or map speaks of."""
        return {label.name for label in self.labels} | {name for m in self.maps for name in m.classes}

    def probability(self, name: str) -> float:
        """Of the label ``name`` in any task, or the share of the picture's cells that are of this class; 0 if unknown. The
        case of letters does not matter.
        """
        wanted = name.casefold()
        found = [x.probability for x in self.labels if x.name.casefold() == wanted]
        shares = [share for m in self.maps for known, share in m.shares().items() if known.casefold() == wanted]
        return max(found + shares, default=0.0)

    def similarity(self, other: Semantics) -> float:
        """Cosine of the embeddings, -1 to 1.

        Raises:
            ValueError: one has no embedding, or they come from different heads.
        """
        if not self.embedding or len(self.embedding) != len(other.embedding) or self.space != other.space:
            raise ValueError(f"embeddings of {self.heads or 'no head'} and {other.heads or 'no head'} cannot be compared")
        cosine = sum(a * b for a, b in zip(self.embedding, other.embedding, strict=True))
        return max(-1.0, min(1.0, cosine))  # of embeddings of a length near 1


def write_semantics(semantics: Semantics) -> bytes:
    """The payload of a semantics chunk: FORMAT.md section 8. Of very many labels the most probable are kept.

    Raises:
        ValueError: more maps, classes or components than a chunk holds.
    """
    kept: Counter[str] = Counter()
    labels: list[tuple[str, str, float]] = []
    for label in semantics.labels:
        kept[label.task] += 1
        if kept[label.task] <= LABELS_KEPT or label.probability >= 0.001:
            labels.append((label.task, label.name, round(label.probability, 3)))
    packed = [zlib.compress(m.cells, 9) for m in semantics.maps]
    maps = [[m.task, list(m.classes), m.width, m.height, len(p)] for m, p in zip(semantics.maps, packed, strict=True)]
    content = {
        "heads": list(semantics.heads),
        "labels": labels,
        "embedding": len(semantics.embedding),
        "space": semantics.space,
        "maps": maps,
    }
    header = _json(content)
    while len(header) > _MAX_HEADER and labels:
        labels.remove(min(labels, key=lambda row: row[2]))
        header = _json(content)
    if len(header) > _MAX_HEADER or len(maps) > _MAX_MAPS or len(semantics.embedding) > _MAX_EMBEDDING:
        raise ValueError("the heads say more than a file can hold: store fewer of them")
    largest = max((abs(v) for v in semantics.embedding), default=1.0) or 1.0
    embedding = bytes(round(v / largest * 127) & 0xFF for v in semantics.embedding)
    return bytes([VERSION]) + write_varint(len(header)) + header + embedding + b"".join(packed)


def _json(content: dict[str, Any]) -> bytes:
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()


def read_semantics(payload: bytes, width: int, height: int) -> Semantics:
    """Parse the chunk of a picture of ``width`` x ``height`` pixels.

    Raises:
        FormatError: anything but what ``write_semantics`` writes. UnsupportedError: semantics of another version.
    """
    stream = BytesIO(payload)
    if (version := _exactly(stream, 1)[0]) != VERSION:
        raise UnsupportedError(f"semantics of version {version}; this build reads version {VERSION}")
    size, _ = read_varint(stream.read)
    if size > _MAX_HEADER:
        raise FormatError(f"the header of the semantics states {size} bytes")
    try:
        content = json.loads(_exactly(stream, size))
        labels = tuple(Label(str(t), str(n), _probability(p)) for t, n, p in content["labels"])
        components = int(content["embedding"])
        rows = [(str(t), tuple(str(c) for c in cs), int(w), int(h), int(n)) for t, cs, w, h, n in content["maps"]]
        heads, space = tuple(str(name) for name in content["heads"]), str(content["space"])
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"the header of the semantics is not as it should be ({type(error).__name__})") from error
    if not 0 <= components <= _MAX_EMBEDDING or len(rows) > _MAX_MAPS:
        raise FormatError("the semantics state too large an embedding or too many maps")
    raw = [v - 256 if v > 127 else v for v in _exactly(stream, components)]
    norm = math.sqrt(sum(v * v for v in raw)) or 1.0
    maps = tuple(_read_map(row, stream, width, height) for row in rows)
    if stream.read(1):
        raise FormatError("the semantics are longer than they state")
    return Semantics(heads, labels, maps, tuple(v / norm for v in raw), space)


def _probability(value: Any) -> float:
    number = float(value)
    if not 0 <= number <= 1:
        raise ValueError("not a probability")
    return number


def _read_map(row: tuple[str, tuple[str, ...], int, int, int], stream: BytesIO, width: int, height: int) -> SegmentationMap:
    task, classes, columns, rows, size = row
    if (columns, rows) != (-(-width // CELL), -(-height // CELL)):
        raise FormatError(f"a map of {columns}x{rows} cells does not fit a picture of {width}x{height} pixels")
    return SegmentationMap(task, classes, columns, rows, read_map(_exactly(stream, size), columns * rows, len(classes)))


def _exactly(stream: BytesIO, size: int) -> bytes:
    if not 0 <= size <= len(stream.getbuffer()) - stream.tell():
        raise TruncatedError(f"the semantics end too early: a part of {size} bytes is missing")
    return stream.read(size)
