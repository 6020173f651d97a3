"""Networks beside a model that no file needs: for small versions, and for an encoder that looks where errors come from.

Each is a graph and a description in the model's folder, and no part of the model, whose id stays.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from .bundle import MALFORMED, ModelBundle, read_verified
from .errors import BundleError

COMPANION_VERSION = 1
REDUCED, GRADIENT = "reduced", "gradient"  # names of files: reduced.onnx, reduced.json
SCALES = (2, 4, 8, 16)  # how many times smaller; each an output of the first one's graph


def output_of(scale: int) -> str:
    """Name of the graph's output."""
    return f"levels_{scale}"


class Companion(NamedTuple):
    path: Path  # of the graph
    notes: dict[str, Any]  # its description

    def graph(self) -> bytes:
        """The bytes of the graph, verified."""
        return read_verified(self.path, str(self.notes["sha256"]), "model")


def has_companion(bundle: ModelBundle, name: str) -> bool:
    """Whether a model has one; it may yet be damaged."""
    return (bundle.directory / f"{name}.json").is_file()


def find_companion(bundle: ModelBundle, name: str) -> Companion | None:
    """That of a model; None where there is none.

    Raises:
        BundleError: its description is damaged, of another version, or another model's.
    """
    if not has_companion(bundle, name):
        return None
    path = bundle.directory / f"{name}.json"
    try:
        notes = json.loads(path.read_bytes())
        version, model_id, _ = notes["companion_version"], notes["model_id"], notes["sha256"]
    except (*MALFORMED, OSError) as error:
        raise BundleError(f"{path}: not a valid description ({error})") from error
    if version != COMPANION_VERSION or model_id != bundle.model_id.hex():
        due = f"version {COMPANION_VERSION} for model {bundle.model_id.hex()}"
        raise BundleError(f"{path}: version {version} for model {model_id}, where {due} is due")
    return Companion(bundle.directory / f"{name}.onnx", notes)
