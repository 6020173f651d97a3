"""Fixtures: fast tests run on a tiny bundle, tests marked ``model`` on the shipped one."""

from __future__ import annotations

import contextlib
import functools
import http.server
import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from PIL import Image

import imageio_plugin
import pillow_semicodec
from pillow_semicodec import bundle, container, slices

TESTS = Path(__file__).parent
TINY = TESTS / "data" / "tiny_bundle"
SHARED = TESTS.parent.parent / "shared" / "data"

settings.register_profile(
    "fast", deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.load_profile("fast")
imageio_plugin.register()


@pytest.fixture(autouse=True)
def chosen_model(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bundle.ModelBundle:
    """The tiny bundle is the default model, unless the test is marked ``model``."""
    monkeypatch.setattr(pillow_semicodec.options, "THREADS", 1)
    if request.node.get_closest_marker("model"):
        for variable in (bundle.PATH_VARIABLE, bundle.DEFAULT_VARIABLE):
            monkeypatch.delenv(variable, raising=False)
    else:
        monkeypatch.setenv(bundle.PATH_VARIABLE, str(TINY))
        monkeypatch.setenv(bundle.DEFAULT_VARIABLE, "tiny")
    return bundle.find_model()


def photo(height: int = 96, width: int = 160, seed: int = 0) -> np.ndarray:
    """A picture with smooth shading, edges and texture, uint8 [H, W, 3]."""
    random = np.random.default_rng(seed)
    i, j = np.mgrid[:height, :width]
    base = np.stack([120 + 80 * np.sin(i / (17 + 9 * k) + j / (23 + 5 * k) + k) for k in range(3)], 2)
    base[(i // 24 + j // 40) % 2 == 0] *= 0.6
    return np.clip(base + random.normal(0, 6, (height, width, 1)), 0, 255).astype(np.uint8)


class Sink(io.RawIOBase):
    """Takes bytes one after the other, like a pipe."""

    def __init__(self) -> None:
        self.written = b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.written += bytes(data)
        return len(data)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The URL of a server on this machine that has the files of a folder."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def coded(
    picture: np.ndarray, plan: slices.RatePlan | int, model: bundle.ModelBundle, threads: int = 1, side: int = 0
) -> tuple[slices.Streams, slices.Layout]:
    """Streams of a picture at a rate or plan, and their layout."""
    plan = slices.RatePlan(plan) if isinstance(plan, int) else plan
    layout = slices.Layout(*picture.shape[:2], side)
    return slices.Encoder(slices.analyse(picture, model, layout, threads), plan, model, layout, threads).streams(), layout


def latents_of(data: bytes, threads: int = 1) -> slices.Latents:
    """What a file holds."""
    stream = io.BytesIO(data)
    prologue = container.read_prologue(stream.read)
    streams = container.read_slices(stream.read, prologue.index)
    header = prologue.header
    layout = slices.Layout(header.height, header.width, prologue.index.side, header.alpha)
    plan = slices.RatePlan.of_file(prologue)
    return slices.Decoder(streams, plan, bundle.find_model(header.model_id), layout, threads).latents()


@pytest.fixture
def picture() -> np.ndarray:
    return photo()


@pytest.fixture
def image() -> Image.Image:
    return Image.fromarray(photo())


@pytest.fixture
def sgc_bytes() -> bytes:
    return pillow_semicodec.encode(photo(), 60, threads=1)


@pytest.fixture
def kodak() -> list[Path]:
    paths = sorted((SHARED / "kodak").glob("*.png"))
    if not paths:
        pytest.skip("the Kodak pictures are not here")
    return paths
