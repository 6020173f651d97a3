"""The network that makes small versions of pictures of a model: a graph and its description, in the model's folder.

No file needs it: without it, a small version is the decoded picture, reduced. It is no part of the model, whose id stays.
"""

from __future__ import annotations

import json
from pathlib import Path

from .bundle import ModelBundle, read_verified
from .errors import BundleError

REDUCED_VERSION = 1
DESCRIPTION = "reduced.json"
GRAPH = "reduced.onnx"
SCALES = (2, 4, 8, 16)  # how many times smaller; each an output of the graph


def output_of(scale: int) -> str:
    """Name of the graph's output."""
    return f"levels_{scale}"


def find_reduced(bundle: ModelBundle) -> bytes | None:
    """The graph that belongs to a model, verified; None where there is none.

    Raises:
        BundleError: it is damaged, of another version, or another model's.
    """
    path = bundle.directory / DESCRIPTION
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_bytes())
        version, model_id, sha256 = content["reduced_version"], content["model_id"], str(content["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{path}: not a valid description ({error})") from error
    if version != REDUCED_VERSION or model_id != bundle.model_id.hex():
        raise BundleError(
            f"{path}: version {version} for model {model_id}; {REDUCED_VERSION} for {bundle.model_id.hex()} is due"
        )
    return read_verified(Path(bundle.directory / GRAPH), sha256, "model")
