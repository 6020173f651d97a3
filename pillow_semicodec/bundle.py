"""ModelBundle: a directory with a manifest, ONNX graphs and integer tables, each verified by its SHA-256.

A model is identified by the first eight bytes of the SHA-256 of its manifest, which holds the hash of every part; a
file names the model that wrote it by that id, never by a path. Models are found, in this order, in this package, in the
directories of ``SGC_MODEL_PATH``, and in installed packages that offer an entry point of group
``pillow_semicodec.models``, whose value is the name of a top-level package that holds bundles. Several models live side
by side; the first one found is the default, unless ``SGC_MODEL`` names another.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .entropy.models import ScaleConditional, StaticPrior
from .entropy.tables import TableSet
from .errors import BundleError, UnknownModelError
from .lazy import lazily

BUILT_IN = "84585e344beced1d"  # folder of this version's model: builds may find folders of earlier ones, too
BUNDLE_VERSION = 3
READABLE_VERSIONS = (1, 2, 3)  # 1: one band of residual tables, which is all that readers of it know. 2: no predictions
ENTRY_POINT_GROUP = "pillow_semicodec.models"
PATH_VARIABLE = "SGC_MODEL_PATH"
DEFAULT_VARIABLE = "SGC_MODEL"
MANIFEST = "manifest.json"
RATE_UNIT = 4096  # rates are stored as 16-bit integers, in 1/4096 anchor, plus one anchor
RATE_MAX = 2**16 - 1
MALFORMED = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)  # what wrong JSON comes to


@dataclasses.dataclass(frozen=True)
class RateBank:
    """What the networks need to know of the rate, at evenly spaced anchors; interpolated and extrapolated linearly.

    Attributes:
        log_gain, log_inverse_gain: float32 [A, M].
        synthesis_condition: float32 [A, C]. hyper_condition: float32 [A, C'].
        quality_positions: float64 [K, 2], rows (quality, position in anchors), both rising.
    """

    log_gain: NDArray[np.float32]
    log_inverse_gain: NDArray[np.float32]
    synthesis_condition: NDArray[np.float32]
    hyper_condition: NDArray[np.float32]
    quality_positions: NDArray[np.float64]

    @property
    def anchors(self) -> int:
        return len(self.log_gain)

    def rate_of_quality(self, quality: float) -> int:
        """The 16-bit rate of a quality from 1 to 100."""
        position = float(np.interp(quality, self.quality_positions[:, 0], self.quality_positions[:, 1]))
        return int(np.clip(round((position + 1) * RATE_UNIT), 0, RATE_MAX))

    def quality_of_rate(self, rate: int) -> float:
        """The quality from 1 to 100 whose rate is nearest."""
        return float(np.interp(rate / RATE_UNIT - 1, self.quality_positions[:, 1], self.quality_positions[:, 0]))

    def share_of(self, rate: float) -> float:
        """From 0 at the first anchor to 1 at the last."""
        return (rate / RATE_UNIT - 1) / (self.anchors - 1)

    def interpolate(self, bank: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
        """Row of ``bank`` [A, C] at ``rate``, as [1, C, 1, 1]."""
        position = rate / RATE_UNIT - 1
        low = min(max(int(np.floor(position)), 0), self.anchors - 2)
        row = bank[low] + np.float32(position - low) * (bank[low + 1] - bank[low])
        result: NDArray[np.float32] = row[None, :, None, None].astype(np.float32)
        return result

    def band(self, rate: int, bands: int) -> int:
        """Which of ``bands`` sets of tables serves ``rate``; integers only, for it must not differ anywhere."""
        inside = min(max(rate - RATE_UNIT, 0), (self.anchors - 1) * RATE_UNIT)
        return min(inside * bands // ((self.anchors - 1) * RATE_UNIT), bands - 1)


def identity(description: bytes) -> bytes:
    """The id that files name a model or heads by: 8 bytes of the SHA-256 of their JSON, whatever ends its lines.

    Git for Windows, by default, checks texts out with other ends of lines.
    """
    return hashlib.sha256(description.replace(b"\r\n", b"\n")).digest()[:8]


def read_verified(path: Path, sha256: str, what: str) -> bytes:
    """The bytes of a file that are known by their hash; BundleError where they are not those, or cannot be read."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror})") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise BundleError(f"{path}: does not match its SHA-256; reinstall the {what}")
    return data


class ModelBundle:
    """One model on disk. Parts are read and verified when first needed; safe to share between threads.

    Raises:
        BundleError: the manifest or a part is missing, damaged or made for another version.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        try:
            raw = (directory / MANIFEST).read_bytes()
            self.manifest: dict[str, Any] = json.loads(raw)
            version = self.manifest["bundle_version"]
            self.name = str(self.manifest["name"])
            self._parts: dict[str, str] = {str(k): str(v) for k, v in self.manifest["sha256"].items()}
            self.latent_channels = int(self.manifest["latent_channels"])
            self.hyper_channels = int(self.manifest["hyper_channels"])
            # Channels whose residuals of step 1 are predicted from their neighbours.
            self.predicted = tuple(int(c) for c in (self.manifest["predicted"] if version == BUNDLE_VERSION else ()))
        except (*MALFORMED, OSError) as error:
            raise BundleError(f"{directory}: no valid {MANIFEST} ({error})") from error
        if min(self.latent_channels, self.hyper_channels) < 1:
            raise BundleError(f"{directory}: {self.latent_channels} and {self.hyper_channels} channels")
        if version not in READABLE_VERSIONS:
            known = " and ".join(map(str, READABLE_VERSIONS))
            raise BundleError(f"{directory}: bundle version {version}; this build reads versions {known}")
        if len(set(self.predicted)) < len(self.predicted) or not all(0 <= c < self.latent_channels for c in self.predicted):
            raise BundleError(f"{directory}: predicted channels {self.predicted} of {self.latent_channels}")
        self.model_id = identity(raw)
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"ModelBundle({self.name!r}, {self.model_id.hex()})"

    def part(self, name: str) -> bytes:
        """The bytes of a part, verified."""
        expected = self._parts.get(name)
        if expected is None or Path(name).name != name:
            raise BundleError(f"{self.directory}: the manifest names no part {name!r}")
        return read_verified(self.directory / name, expected, "model")

    def _arrays(self, name: str) -> dict[str, NDArray[Any]]:
        from io import BytesIO

        data = self.part(name)
        try:
            with np.load(BytesIO(data), allow_pickle=False) as archive:
                return dict(archive)
        except (OSError, ValueError, EOFError) as error:
            raise BundleError(f"{self.directory / name}: not a NumPy archive ({error})") from error

    @lazily
    def _tables(self) -> tuple[StaticPrior, ScaleConditional]:
        arrays = self._arrays("tables.npz")
        try:
            sets = [TableSet(*(arrays[f"{which}_{k}"] for k in ("minimums", "sizes", "frequencies"))) for which in "zr"]
        except KeyError as error:
            raise BundleError(f"{self.directory / 'tables.npz'}: no array {error}") from error
        try:
            for tables in sets:
                tables.check()
            prior, conditional = StaticPrior(sets[0], self.hyper_channels), ScaleConditional(sets[1])
            if self.predicted and conditional.codes_nothing[1:].any():
                raise BundleError("a table beside the first codes nothing, and predicted residuals may need it")
            return prior, conditional
        except BundleError as error:
            raise BundleError(f"{self.directory / 'tables.npz'}: {error}") from error

    @property
    def prior(self) -> StaticPrior:
        with self._lock:
            return self._tables[0]

    @property
    def conditional(self) -> ScaleConditional:
        with self._lock:
            return self._tables[1]

    def is_called(self, model: str | bytes) -> bool:
        """Whether that is its name, or its id in hexadecimal or as in files."""
        return model == self.model_id if isinstance(model, bytes) else model in (self.name, self.model_id.hex())

    @lazily
    def rate_bank(self) -> RateBank:
        arrays = self._arrays("rates.npz")
        try:
            bank = RateBank(**{field.name: arrays[field.name] for field in dataclasses.fields(RateBank)})
        except KeyError as error:
            raise BundleError(f"{self.directory / 'rates.npz'}: no array {error}") from error
        gains, anchors = (len(bank.log_gain), self.latent_channels), (len(bank.log_gain),)
        conditions = (bank.synthesis_condition, bank.hyper_condition)
        alike = bank.log_gain.shape == bank.log_inverse_gain.shape == gains
        if not alike or any(c.ndim != 2 or c.shape[:1] != anchors for c in conditions) or anchors[0] < 2:
            raise BundleError(f"{self.directory / 'rates.npz'}: arrays that are not those of two or more anchors")
        return bank


# ---- discovery -------------------------------------------------------------------------------------------------


def model_directories() -> Iterator[Path]:
    """Directories that hold bundles as their children, or are bundles themselves, in order of search."""
    yield Path(__file__).parent / "models"
    for entry in os.environ.get(PATH_VARIABLE, "").split(os.pathsep):
        if entry:
            yield Path(entry)
    yield from _entry_point_directories(tuple(sys.path))


@functools.lru_cache(maxsize=4)
def _entry_point_directories(path: tuple[str, ...]) -> tuple[Path, ...]:
    """Asked once for every ``sys.path``: it reads a file of every installed package."""
    import importlib.metadata  # 10 ms, which nobody needs whose model is found before
    import importlib.util

    found = []
    for point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
        if "." in point.value:
            continue  # to locate a subpackage would import its parent
        try:
            spec = importlib.util.find_spec(point.value)  # located, not imported
        except (ImportError, ValueError):
            continue
        found += [Path(location) for location in (spec and spec.submodule_search_locations) or ()]
    return tuple(found)


def _candidates() -> Iterator[list[Path]]:
    """What may be bundles, directory by directory; one that cannot be looked at holds none."""
    for directory in model_directories():
        if os.path.isfile(directory / MANIFEST):
            yield [directory]
        elif os.path.isdir(directory):
            found = (child.parent for child in directory.glob(f"*/{MANIFEST}"))
            yield sorted(found, key=lambda folder: (folder.name != BUILT_IN, folder))


_cache: dict[tuple[Path, int], ModelBundle] = {}
_cache_lock = threading.Lock()


def _load(directory: Path) -> ModelBundle:
    with _cache_lock:
        try:
            written = (directory / MANIFEST).stat().st_mtime_ns
        except OSError:
            written = 0  # the bundle says what is wrong
        key = directory.absolute(), written
        if key not in _cache:
            _cache[key] = ModelBundle(directory)
        return _cache[key]


def _after_fork() -> None:
    """Locks may have been held by a thread of the parent that a forked child does not have."""
    global _cache_lock
    _cache.clear()
    _cache_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _installed(broken: list[str]) -> Iterator[list[ModelBundle]]:
    """Models in order of search, directory by directory; what is wrong with bundles passed over is added to ``broken``."""
    for directories in _candidates():
        found = []
        for directory in directories:
            try:
                found.append(_load(directory))
            except BundleError as error:
                broken.append(str(error))
        yield found


def list_models() -> list[ModelBundle]:
    """Every installed model, in order of search; broken bundles are passed over."""
    return list(itertools.chain.from_iterable(_installed([])))


def find_model(model: str | bytes | None = None) -> ModelBundle:
    """A model by name, by id in hexadecimal, by the 8-byte id of a file, or the default one.

    Raises:
        UnknownModelError: it is not installed; the message says how to add it.
        BundleError: no model is installed at all; or one directory has several of this name, as after a second export.
    """
    broken: list[str] = []
    model = model or os.environ.get(DEFAULT_VARIABLE) or None
    for bundles in _installed(broken):  # stops at the first match: entry points, which cost a search, come last
        found = [b for b in bundles if model is None or b.is_called(model)]
        if len({b.model_id for b in found}) > 1 and model is not None:
            named = ", ".join(f"{b.model_id.hex()} ({b.directory})" for b in found)
            raise BundleError(f"several models are named {found[0].name}: name one by its id, or remove the others: {named}")
        if found:
            return found[0]
    wrong = f". Broken: {'; '.join(broken)}" if broken else ""
    if model is None:
        raise BundleError(f"no model is installed; reinstall pillow-semicodec or set {PATH_VARIABLE}{wrong}")
    wanted = model.hex() if isinstance(model, bytes) else model
    known = ", ".join(f"{m.name} ({m.model_id.hex()})" for m in list_models()) or "none"
    raise UnknownModelError(
        f"model {wanted} is not installed. Installed: {known}. Install the package that brings it, or unpack its bundle "
        f"into a directory listed in {PATH_VARIABLE}{wrong}"
    )
