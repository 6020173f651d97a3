"""HeadBundle: a directory with ``heads.json`` and ``heads.onnx``, networks that read a model's latents.

Heads lie in the folder of their model or in a folder of their own, in any directory where models are looked for (see
``bundle``). They name their model by id but are no part of it: new heads understand old files, and no file needs heads.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path

from .bundle import MALFORMED, identity, model_directories, read_verified
from .errors import BundleError

HEADS_VERSION = 1
DESCRIPTION = "heads.json"
GRAPH = "heads.onnx"
CLASSIFICATION, SEGMENTATION = "classification", "segmentation"


@dataclasses.dataclass(frozen=True)
class Task:
    """One output of the graph, of the same name.

    Attributes:
        kind: "classification": probabilities float32 [1, K]; "segmentation": a map of classes, uint8 [1, h, w].
        foreground: classes that a region of interest is made of.
    """

    name: str
    kind: str
    classes: tuple[str, ...]
    foreground: tuple[str, ...] = ()


class HeadBundle:
    """Heads on disk; the graph is read and verified when first needed.

    Raises:
        BundleError: the description is missing, damaged or of another version.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        try:
            raw = (directory / DESCRIPTION).read_bytes()
            content = json.loads(raw)
            version = content["heads_version"]
            self.name = str(content["name"])
            self.model_id = bytes.fromhex(content["model_id"])
            self.embedding = int(content["embedding"])
            self.tasks = tuple(
                Task(str(t["name"]), str(t["kind"]), tuple(map(str, t["classes"])), tuple(map(str, t.get("foreground", ()))))
                for t in content["tasks"]
            )
            self._sha256 = str(content["sha256"])
        except (*MALFORMED, OSError) as error:
            raise BundleError(f"{directory}: no valid {DESCRIPTION} ({error})") from error
        if version != HEADS_VERSION:
            raise BundleError(f"{directory}: heads of version {version}; this build reads version {HEADS_VERSION}")
        self.head_id = identity(raw)

    def __repr__(self) -> str:
        return f"HeadBundle({self.name!r}, of model {self.model_id.hex()})"

    def graph(self) -> bytes:
        """The bytes of ``heads.onnx``, verified."""
        return read_verified(self.directory / GRAPH, self._sha256, "heads")


_cache: dict[tuple[Path, int], HeadBundle] = {}


def _candidates() -> Iterator[Path]:
    for directory in model_directories():
        if os.path.isfile(directory / DESCRIPTION):
            yield directory
        if os.path.isdir(directory):
            yield from sorted(child.parent for child in directory.glob(f"*/{DESCRIPTION}"))


def _load(directory: Path) -> HeadBundle:
    key = directory.absolute(), (directory / DESCRIPTION).stat().st_mtime_ns
    if key not in _cache:
        _cache[key] = HeadBundle(directory)
    return _cache[key]


def list_heads(broken: list[str] | None = None) -> list[HeadBundle]:
    """All installed heads, in order of search; broken ones are passed over, and said to ``broken``."""
    found = []
    for directory in _candidates():
        try:
            found.append(_load(directory))
        except (BundleError, OSError) as error:
            if broken is not None:
                broken.append(str(error))
    return found


def find_heads(model_id: str | bytes, names: str | tuple[str, ...] = ()) -> list[HeadBundle]:
    """The heads that read the latents of a model: all, or those named.

    Args:
        model_id: 8 bytes, as in files, or hexadecimal.

    Raises:
        BundleError: there are none, or not the ones named; the message says which there are.
        ValueError: ``model_id`` is not hexadecimal.
    """
    if isinstance(model_id, str):
        model_id = bytes.fromhex(model_id)
    names = (names,) if isinstance(names, str) else names
    broken: list[str] = []
    every = list_heads(broken)
    fitting: dict[str, HeadBundle] = {}
    for heads in every:
        if heads.model_id == model_id:
            fitting.setdefault(heads.name, heads)  # the first found wins, as with models
    missing = [name for name in names if name not in fitting]
    if missing or not fitting:
        known = ", ".join(f"{h.name} (model {h.model_id.hex()})" for h in every) or "none"
        wanted = f"heads named {', '.join(missing)}" if missing else "heads"
        known += f". Broken: {'; '.join(broken)}" if broken else ""
        raise BundleError(f"no {wanted} for model {model_id.hex()} installed. Installed heads: {known}")
    return [fitting[name] for name in names] if names else list(fitting.values())
