"""The transforms over ONNX Runtime: tensors in, tensors out. The only module that imports onnxruntime, and lazily.

Sessions are built when first run and shared by all threads of a process; a fork gets its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import options as package_options
from .bundle import ModelBundle
from .companions import GRADIENT, REDUCED, find_companion, output_of
from .errors import BundleError, UnsupportedError
from .head_bundle import HeadBundle

Tensor = NDArray[np.float32]
Outputs = list[NDArray[Any]]

CPU = "CPUExecutionProvider"
CELL = 8  # pixels of a side of what the first and last layers of the transforms see as one
ON_PROVIDERS = ("analysis", "synthesis")  # what other processors may run: nothing that chooses tables, or means of latents

ONE_AT_A_TIME = frozenset({"DmlExecutionProvider"})  # DirectML takes calls of one thread, as its documentation says
# What a transform keeps in float32, and sums of bytes on steps of it, do not fit the 10 bits of TF32.
PROVIDER_OPTIONS = {"CUDAExecutionProvider": {"use_tf32": "0"}}
_alone = threading.Lock()

# Execution settings that tests and tools vary; results must not depend on them.
GRAPH_OPTIMISATION = True


class _Sessions:
    """Sessions of the graphs of one owner at one number of threads.

    Args:
        owner: what the graphs belong to, for messages.
        read: bytes of a graph by name.
        threads: threads of one operator; 0 takes one per core.
    """

    def __init__(self, owner: str, read: Callable[[str], bytes], threads: int) -> None:
        self.owner, self.read, self.threads = owner, read, threads
        self._sessions: dict[tuple[str, bool, tuple[str, ...]], Any] = {}
        self._lock = threading.Lock()

    def _run(
        self, name: str, *inputs: NDArray[Any], wanted: tuple[str, ...] | None = None, **optional: NDArray[Any]
    ) -> Outputs:
        """Args: optional: inputs by name that have a default."""
        session = self._session(name)
        names = [value.name for value in session.get_inputs()]  # without those that have a default
        alone = name in ON_PROVIDERS and not ONE_AT_A_TIME.isdisjoint(package_options.PROVIDERS)
        try:
            with _alone if alone else contextlib.nullcontext():
                outputs: Outputs = session.run(wanted, {**dict(zip(names, inputs, strict=True)), **optional})
        except Exception as error:  # ONNX Runtime's own exceptions derive from Exception directly
            _check_memory(name, error)
            raise BundleError(f"graph {name} of {self.owner} failed: {error}") from error
        return outputs

    def _session(self, name: str) -> Any:
        key = (name, GRAPH_OPTIMISATION, package_options.PROVIDERS if name in ON_PROVIDERS else ())
        with self._lock:
            if key not in self._sessions:
                self._sessions[key] = self._build(name, key[-1])
            return self._sessions[key]

    def _build(self, name: str, wanted: tuple[str, ...]) -> Any:
        onnxruntime = runtime()
        options = onnxruntime.SessionOptions()
        # By itself it would take all cores of the machine, whatever of them this process may use.
        cores = package_options.cores()
        options.intra_op_num_threads = self.threads or (cores if cores < (os.cpu_count() or 1) else 0)
        options.log_severity_level = 3
        options.enable_mem_pattern = False  # windows differ in size; a plan for each would hold memory for all of them
        if _share_memory(onnxruntime):
            options.add_session_config_entry("session.use_env_allocators", "1")
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if not GRAPH_OPTIMISATION:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        available = onnxruntime.get_available_providers()
        if missing := [provider for provider in wanted if provider not in available]:
            raise BundleError(f"ONNX Runtime has no {', '.join(missing)} here; it has {', '.join(available)}")
        data = self.read(name)
        try:
            providers = [(name, PROVIDER_OPTIONS.get(name, {})) for name in dict.fromkeys([*wanted, CPU])]
            return onnxruntime.InferenceSession(data, options, providers=providers)
        except Exception as error:
            _check_memory(name, error)
            raise BundleError(f"graph {name} of {self.owner} cannot be loaded: {error}") from error


def _check_memory(name: str, error: Exception) -> None:
    """Raise MemoryError for one that ONNX Runtime has words of its own for."""
    if isinstance(error, MemoryError) or any(word in str(error) for word in ("allocate", "bad_alloc")):
        raise MemoryError(f"graph {name}: {error}") from error


LARGEST_FREED = 31 * 2**20  # bytes; larger ones do not count
_arena_of: int | None = None  # the process that has one arena for all sessions
_arena_lock = threading.Lock()


def _keep_freed_memory() -> None:
    """Of what is freed glibc keeps, for the process, twice as much as the largest array that was freed so far takes, up to
    62 MB (mallopt(3), M_TRIM_THRESHOLD). While that is a megabyte or two, memory of the arrays that entropy coding makes
    is given back and cleared anew again and again, for a fifth of its time. This array is freed, and was never touched.
    """
    np.empty(LARGEST_FREED, np.uint8)


def runtime() -> Any:
    """ONNX Runtime. Its telemetry starts a thread with the import: unasked for, and forked children hang when they end."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime


def _share_memory(onnxruntime: Any) -> bool:
    """Give all sessions one arena. It grows by powers of two (strategy 0): of regions as large as what was asked for (1)
    none is large enough for the next larger picture, and fifty of rising sizes would leave a gigabyte behind.

    Not in a forked child: a thread of the parent that held the arena's lock is not there to let go of it.
    """
    global _arena_of
    with _arena_lock:
        if _arena_of is None:
            _keep_freed_memory()
            kind = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR
            info = onnxruntime.OrtMemoryInfo("Cpu", kind, 0, onnxruntime.OrtMemType.DEFAULT)
            growth = {"max_mem": 0, "arena_extend_strategy": 0, "initial_chunk_size_bytes": -1}
            arena = onnxruntime.OrtArenaCfg({**growth, "max_dead_bytes_per_chunk": -1})
            with contextlib.suppress(Exception):  # whatever keeps it from being registered: sessions then have their own
                onnxruntime.create_and_register_allocator(info, arena)
            _arena_of = os.getpid()
        return _arena_of == os.getpid()


class Transforms(_Sessions):
    """The graphs of one model."""

    def __init__(self, bundle: ModelBundle, threads: int = 0) -> None:
        super().__init__(f"model {bundle.name}", lambda name: _graph(bundle, name), threads)

    def analysis(self, pixels: NDArray[Any]) -> Tensor:
        """Levels [1, H, W, 3], uint8 or float32 from 0 to 255, sides multiples of 16 → y [1, M, H/16, W/16]."""
        if pixels.dtype == np.uint8:
            return self._run("analysis", pixels)[0]
        self._require_depth(
            "analysis", "fraction" in (v.name for v in self._session("analysis").get_overridable_initializers())
        )
        whole = np.clip(pixels, 0, 255).astype(np.uint8)
        return self._run("analysis", whole, fraction=to_cells(pixels[0] - whole[0]))[0]

    def _require_depth(self, name: str, there: bool) -> None:
        if not there:
            raise UnsupportedError(f"{self.owner} has 8 bits only: its {name} takes and gives no fractions of levels")

    def hyper_analysis(self, y: Tensor) -> Tensor:
        """y in steps [1, M, h, w], sides multiples of 4 → z [1, Z, h/4, w/4], not yet rounded."""
        return self._run("hyper_analysis", y)[0]

    def hyper_synthesis(self, z_hat: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """z_hat [1, Z, h/4, w/4] → features and the mean of step 1, both at [h, w]."""
        features, mean = self._run("hyper_synthesis", z_hat, condition)
        return features, mean

    def mean_context(self, features: Tensor, y_hat_step1: Tensor) -> Tensor:
        """→ correction of the mean for step 2, [1, M, h, w]."""
        return self._run("mean_context", features, y_hat_step1)[0]

    def scale_hyper_synthesis(self, z_hat: Tensor) -> tuple[Tensor, NDArray[np.uint8]]:
        """Exact. z_hat → features and table indexes of step 1."""
        features, indexes = self._run("scale_hyper_synthesis", z_hat)
        return features, indexes

    def scale_context(self, features: Tensor, residual_step1: Tensor) -> NDArray[np.uint8]:
        """Exact. features, residuals of step 1 → table indexes of step 2."""
        indexes: NDArray[np.uint8] = self._run("scale_context", features, residual_step1)[0]
        return indexes

    def synthesis(self, y_hat: Tensor, condition: Tensor) -> NDArray[np.uint8]:
        """y_hat [1, M, h, w] → uint8 [1, 16h, 16w, 3]."""
        pixels: NDArray[np.uint8] = self._run("synthesis", y_hat, condition, wanted=("pixels",))[0]
        return pixels

    def reduced(self, y_hat: Tensor, condition: Tensor, scale: int) -> Tensor:
        """y_hat [1, M, h, w] → levels float32 [1, 16h/scale, 16w/scale, 3] from 0 to 255."""
        levels: Tensor = self._run(REDUCED, y_hat, condition, wanted=(output_of(scale),))[0]
        clipped: Tensor = np.clip(levels, 0, 255)
        return clipped

    def gradient(self, y_hat: Tensor, condition: Tensor, error: Tensor) -> Tensor:
        """y_hat [1, M, h, w], error of what they make, in levels, float32 [1, 16h, 16w, 3] → by what the sum of squared
        errors changes with y_hat, [1, M, h, w].
        """
        gradient: Tensor = self._run(GRADIENT, y_hat, condition, error)[0]
        return gradient

    def synthesis_of_levels(self, y_hat: Tensor, condition: Tensor) -> Tensor:
        """y_hat [1, M, h, w] → float32 [1, 16h, 16w, 3] from 0 to 255: ``synthesis`` before it rounds."""
        self._require_depth("synthesis", "samples" in (value.name for value in self._session("synthesis").get_outputs()))
        samples = self._run("synthesis", y_hat, condition, wanted=("samples",))[0]
        levels: Tensor = np.clip(from_cells(samples, 16 * y_hat.shape[3]) - np.float32(0.5), 0, 255)[None]
        return levels


def _graph(bundle: ModelBundle, name: str) -> bytes:
    if name not in (REDUCED, GRADIENT):
        return bundle.part(f"{name}.onnx")
    companion = find_companion(bundle, name)
    if companion is None:
        raise BundleError(f"{bundle.directory}: no {name}.json")
    return companion.graph()


def to_cells(levels: Tensor) -> Tensor:
    """[H, W, 3] → cells of 8x8 pixels in raster order, [HW/64, 192]."""
    height, width = levels.shape[:2]
    cells = levels.reshape(height // CELL, CELL, width // CELL, 3 * CELL).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(cells).reshape(-1, 3 * CELL**2)


def from_cells(cells: Tensor, width: int) -> Tensor:
    """Inverse of ``to_cells``."""
    across = width // CELL
    return cells.reshape(-1, across, CELL, 3 * CELL).transpose(0, 2, 1, 3).reshape(-1, width, 3)


class Heads(_Sessions):
    """The graph of one head bundle."""

    def __init__(self, heads: HeadBundle, threads: int = 0) -> None:
        super().__init__(f"heads {heads.name}", lambda name: heads.graph(), threads)

    def run(self, latents: Tensor) -> dict[str, NDArray[Any]]:
        """latents [1, M, h, w], h and w even → outputs by name."""
        outputs = self._run("heads", latents)
        return dict(zip([value.name for value in self._session("heads").get_outputs()], outputs, strict=True))


_cache: dict[tuple[bytes, Path, int], Transforms] = {}  # by where the files lie, too, of which some are read later
_heads_cache: dict[tuple[bytes, Path, int], Heads] = {}
_cache_lock = threading.Lock()


def transforms_for(bundle: ModelBundle, threads: int) -> Transforms:
    """The shared Transforms of a bundle and thread count."""
    with _cache_lock:
        return _cache.setdefault((bundle.model_id, bundle.directory.absolute(), threads), Transforms(bundle, threads))


def heads_for(heads: HeadBundle, threads: int) -> Heads:
    """The shared Heads of a head bundle and thread count."""
    with _cache_lock:
        return _heads_cache.setdefault((heads.head_id, heads.directory.absolute(), threads), Heads(heads, threads))


def _after_fork() -> None:
    """A forked child builds its own sessions: the parent's worker threads are not there, and its locks may be held.

    The inherited sessions are never destroyed, not even when the interpreter ends: their destructors would wait for
    threads that do not exist.
    """
    global _cache_lock, _arena_lock
    for sessions in (*_cache.values(), *_heads_cache.values()):
        for session in sessions._sessions.values():
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))
    _cache.clear()
    _heads_cache.clear()
    _cache_lock, _arena_lock = threading.Lock(), threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
