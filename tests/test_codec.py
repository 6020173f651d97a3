"""Laws of the codec: sizes, exactness of what is coded, the second decoder, threads, forks and hostile bytes."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import onnxruntime
import pytest
import reference_decoder
from conftest import TINY, coded, latents_of, photo
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import pictures, planes

import pillow_semicodec as sgc
from pillow_semicodec import codec, container, inference, slices
from pillow_semicodec.bundle import ModelBundle
from pillow_semicodec.entropy import coder
from pillow_semicodec.lazy import lazily
from pillow_semicodec.limits import Limits


def test_execution_providers(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is not there is named together with those that are; the CPU's own changes nothing."""
    picture = photo(40, 50)
    data = sgc.encode(picture, 40)
    monkeypatch.setattr(sgc.options, "PROVIDERS", ("NoExecutionProvider",))
    with pytest.raises(sgc.BundleError, match=r"no NoExecutionProvider here; it has .*CPU"):
        sgc.decode(data)
    monkeypatch.setattr(sgc.options, "PROVIDERS", (inference.CPU,))
    assert sgc.encode(picture, 40) == data


@given(pictures(), st.integers(1, 100))
def test_round_trip(picture: np.ndarray, quality: int) -> None:
    """Any picture from 1x1 comes back with its shape; encoding is deterministic."""
    data = sgc.encode(picture, quality, threads=1)
    decoded = sgc.decode(data, threads=1)
    assert decoded.shape == picture.shape
    assert decoded.dtype == np.uint8
    assert data == sgc.encode(picture, quality, threads=1)


@settings(max_examples=8)
@given(pictures(40), st.sampled_from([1, 50, 100]), st.booleans())
def test_the_second_decoder_agrees(picture: np.ndarray, quality: int, regions: bool) -> None:
    """Integer networks in int64 and a plain range decoder arrive at the same latents; pixels within one level."""
    left_half = [(0, 0, picture.shape[1] // 2 + 1, picture.shape[0])]
    data = sgc.encode(picture, quality, threads=1, roi=left_half if regions else None, indexed=False)
    pixels, z, residual, indexes = reference_decoder.decode(data, reference_decoder.Model(TINY))
    latents = latents_of(data)
    assert np.array_equal(latents.z_hat, z)
    assert np.array_equal(latents.residual, residual)
    assert np.array_equal(latents.indexes, indexes)
    assert np.abs(pixels.astype(int) - sgc.decode(data)).max() <= 1


@settings(max_examples=10)
@given(planes(64), st.sampled_from([0, 64]), st.booleans())
def test_the_second_decoder_agrees_on_alpha(alpha: np.ndarray, side: int, grey: bool) -> None:
    """Of any kind and size, in slices or not."""
    alpha = np.pad(alpha, 1, mode="symmetric")
    colours = alpha[:, :, None] // ([2] if grey else [2, 3, 5])
    data = sgc.encode(np.dstack([colours, alpha]).astype(np.uint8), 20, threads=1, slice_side=side, indexed=False)
    pixels, *_ = reference_decoder.decode(data, reference_decoder.Model(TINY))
    assert np.array_equal(pixels[:, :, -1], alpha)
    assert np.abs(pixels.astype(int) - sgc.decode(data)).max() <= 1


@settings(max_examples=10)
@given(planes(64), st.sampled_from([0, 64]))
def test_the_second_decoder_agrees_on_black_and_white(plane: np.ndarray, side: int) -> None:
    """Which needs no model."""
    picture = np.pad(plane, 1, mode="symmetric") > 100
    data = sgc.encode(picture, slice_side=side, model="nonesuch")
    assert np.array_equal(reference_decoder.decode_black_and_white(data), picture)
    assert np.array_equal(sgc.decode(data), picture)


class Tape:
    """Every array that the entropy coder codes or decodes."""

    def __init__(self) -> None:
        self.encoded: list[tuple[bytes, bytes]] = []
        self.decoded: list[tuple[bytes, bytes]] = []

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        encode, decode = coder.StreamEncoder.encode, coder.StreamDecoder.decode

        def encoding(this: Any, values: np.ndarray, indexes: np.ndarray, models: Any) -> None:
            encode(this, values, indexes, models)
            self.encoded.append((values.tobytes(), indexes.tobytes()))

        def decoding(this: Any, indexes: np.ndarray, models: Any) -> np.ndarray:
            values = decode(this, indexes, models)
            self.decoded.append((values.tobytes(), indexes.tobytes()))
            return values

        with patch.object(coder.StreamEncoder, "encode", encoding), patch.object(coder.StreamDecoder, "decode", decoding):
            yield


@settings(max_examples=25)
@given(pictures(), st.integers(0, 65535), st.sampled_from([0, 64, 128]))
def test_encoder_and_decoder_hold_the_same_integers(picture: np.ndarray, rate: int, side: int) -> None:
    """Every rate of 16 bits is coded exactly, in slices too, in the bytes that the tables promise."""
    bundle, tape, plan = ModelBundle(TINY), Tape(), slices.RatePlan(rate)
    with tape.recording():
        streams, layout = coded(picture, rate, bundle, 1, side)
        slices.Decoder(streams, plan, bundle, layout, 1).picture()
    assert sorted(tape.encoded) == sorted(tape.decoded)
    latents = slices.Decoder(streams, plan, bundle, layout, 1).latents()
    ideal = slices.ideal_bits(latents, rate, bundle) / 8
    assert sum(map(len, streams)) <= 1.005 * ideal + (64 if len(streams) == 1 else 16) * len(streams)


def test_neither_threads_nor_optimisation_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Indexes and latents are the same for 1 and 2 threads, and with graph optimisation off."""
    model, picture, results = ModelBundle(TINY), photo(200, 300), []
    plan = slices.RatePlan(9000)
    first, layout = coded(picture, plan, model)
    for threads, optimise in ((1, True), (2, True), (2, False), (1, False)):
        monkeypatch.setattr(inference, "GRAPH_OPTIMISATION", optimise)
        again, _ = coded(picture, plan, model, threads)
        assert again == first or not optimise
        results.append((
            slices.Decoder(again, plan, model, layout, threads).latents().z_hat,
            slices.Decoder(first, plan, model, layout, threads).latents().indexes,
        ))  # fmt: skip
    for result in results[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(result, results[0], strict=True))


def test_grey_is_grey(picture: np.ndarray) -> None:
    """A grey picture decodes to one channel, close to the luma of the same picture in RGB."""
    grey = picture[:, :, 1]
    decoded = sgc.decode(sgc.encode(grey, 80))
    rgb = sgc.decode(sgc.encode(np.repeat(grey[:, :, None], 3, 2), 80))
    assert decoded.shape == grey.shape
    assert np.abs(decoded.astype(float) - rgb.mean(2)).mean() < 3


def test_metadata_is_kept(picture: np.ndarray) -> None:
    """ICC profile and EXIF come back byte for byte."""
    data = sgc.encode(picture, icc_profile=b"profile", exif=b"Exif\0\0data")
    assert sgc.read_prologue(data).metadata == {container.ICC_PROFILE: b"profile", container.EXIF: b"Exif\0\0data"}


@pytest.mark.parametrize("name", ["icc_profile", "exif", "xmp", "comment"])
def test_metadata_of_a_wrong_type(picture: np.ndarray, name: str) -> None:
    """The error names it."""
    with pytest.raises(TypeError, match=f"{name} must be bytes.* not int"):
        sgc.encode(picture, **{name: 5})


@pytest.mark.parametrize("quality", [0, 101, -1, 0.5, float("nan"), float("inf")])
def test_quality_out_of_range(picture: np.ndarray, quality: float) -> None:
    """Values outside 1 to 100 are told the range."""
    with pytest.raises(ValueError, match="1 to 100"):
        sgc.encode(picture, quality)


@pytest.mark.parametrize("quality", ["75", None, True, [75]])
def test_quality_of_wrong_type(picture: np.ndarray, quality: object) -> None:
    """Only numbers are qualities."""
    with pytest.raises(TypeError, match="1 to 100"):
        sgc.encode(picture, quality)  # type: ignore[arg-type]


@pytest.mark.parametrize(("threads", "error"), [(-1, ValueError), (1.5, TypeError), ("2", TypeError)])
def test_threads_are_checked(picture: np.ndarray, sgc_bytes: bytes, threads: object, error: type[Exception]) -> None:
    """Both directions say what they want."""
    with pytest.raises(error, match="threads"):
        sgc.encode(picture, threads=threads)  # type: ignore[arg-type]
    with pytest.raises(error, match="threads"):
        sgc.decode(sgc_bytes, threads=threads)  # type: ignore[arg-type]


def test_sources(tmp_path: Path, sgc_bytes: bytes) -> None:
    """A file is its name, its bytes or an open file, which stays open; nothing else is."""
    path = tmp_path / "a.sgc"
    path.write_bytes(sgc_bytes)
    wanted = sgc.decode(sgc_bytes)
    with path.open("rb") as file:
        for source in (path, str(path), memoryview(sgc_bytes), file):
            assert np.array_equal(sgc.decode(source), wanted)
        assert not file.closed
    for source in (path, sgc_bytes):
        assert sgc.read_prologue(source).header.width == wanted.shape[1]
        assert np.array_equal(next(sgc.decode_frames(source)), wanted)
    assert sgc.decode(path, box=(0, 0, 5, 7)).shape[:2] == (7, 5)
    for read in (sgc.decode, sgc.read_prologue, sgc.analyze, lambda source: next(sgc.decode_frames(source))):
        with pytest.raises(TypeError, match="its name, its bytes or an open file, not int"):
            read(5)
        with pytest.raises(FileNotFoundError, match="nothere"):
            read(tmp_path / "nothere.sgc")


@pytest.mark.parametrize("shape", [(0, 4), (4, 0, 3), (4, 4, 5), (4, 4, 1), (4,), (1, 2, 3, 4)])
def test_shapes_that_are_no_picture(shape: tuple[int, ...]) -> None:
    """Only [H, W] and [H, W, 2 to 4] are pictures."""
    with pytest.raises(ValueError, match="picture"):
        sgc.encode(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("dtype", [np.uint32, np.float64, np.int8])
def test_dtypes_that_are_no_picture(dtype: type) -> None:
    """Nothing is rounded or scaled silently."""
    with pytest.raises(TypeError, match="uint8"):
        sgc.encode(np.zeros((4, 4), dtype))


def test_limits(picture: np.ndarray, sgc_bytes: bytes) -> None:
    """Encoder and decoder keep within the caller's limits."""
    for limits in (Limits(max_pixels=100), Limits(max_side=100), Limits(max_slice_pixels=100)):
        with pytest.raises(sgc.LimitExceededError):
            sgc.decode(sgc_bytes, limits=limits)
        with pytest.raises(sgc.LimitExceededError):
            sgc.encode(picture, limits=limits)
    thin = sgc.encode(np.zeros((1, 800), np.uint8), indexed=False)
    with pytest.raises(sgc.LimitExceededError, match="12800"):  # sides are padded to 16 before anything is computed
        sgc.decode(thin, limits=Limits(max_slice_pixels=12000))


def test_limits_that_are_none(picture: np.ndarray, sgc_bytes: bytes) -> None:
    """Are told from files that are none, wherever they are given."""
    for wrong, error in ((None, TypeError), ("10", TypeError), (True, TypeError), (-1, ValueError), (math.nan, ValueError)):
        with pytest.raises(error, match="max_pixels"):
            Limits(max_pixels=wrong)
    endless = Limits(**{field.name: math.inf for field in dataclasses.fields(Limits)})
    assert sgc.decode(sgc.encode(picture, limits=endless), limits=endless).shape == picture.shape
    frames = partial(sgc.encode_animation, [picture, picture])
    for call in (partial(sgc.encode, picture), frames, *(partial(f, sgc_bytes) for f in (sgc.decode, sgc.analyze))):
        with pytest.raises(TypeError, match="limits must be Limits"):
            call(limits=None)
    with pytest.raises(TypeError, match="limits must be Limits"):
        next(sgc.decode_frames(sgc_bytes, limits=5))


def test_what_nobody_asked_for_keeps_within_limits(picture: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """A preview is left out where it is too large, slices become as small as they have to be; what was asked for is not."""
    monkeypatch.setattr(codec, "PREVIEW_FROM", 1)
    assert container.PREVIEW in sgc.read_prologue(sgc.encode(picture)).metadata
    assert container.PREVIEW not in sgc.read_prologue(sgc.encode(picture, limits=Limits(max_metadata_bytes=100))).metadata
    with pytest.raises(sgc.LimitExceededError):
        sgc.encode(picture, preview=True, limits=Limits(max_metadata_bytes=100))
    limits = Limits(max_slice_pixels=64 * 64)
    data = sgc.encode(picture, limits=limits)
    assert sgc.read_prologue(data).index.side == 64
    assert sgc.decode(data, limits=limits).shape == picture.shape
    with pytest.raises(sgc.LimitExceededError):
        sgc.encode(picture, slice_side=128, limits=limits)


def test_one_thread_that_computes_an_attribute_stops_no_other() -> None:
    """Nor a child that is forked meanwhile: there is no lock."""
    waiting, done = threading.Event(), threading.Event()

    class Slow:
        def __init__(self, first: bool) -> None:
            self.first = first

        @lazily
        def value(self) -> object:
            if self.first:
                waiting.set()
                assert done.wait(30)
            return object()

    one, other = Slow(True), Slow(False)
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(lambda: one.value)
        assert waiting.wait(30)
        assert other.value is other.value
        done.set()
        assert held.result() is one.value


def test_slices_of_latents_are_small() -> None:
    """They take a hundred times the memory of those of a palette."""
    picture = np.zeros((2100, 2100), np.uint8)
    with pytest.raises(sgc.LimitExceededError, match="4410000"):
        sgc.encode(picture, slice_side=0, indexed=False)
    assert sgc.decode(sgc.encode(picture, slice_side=0, indexed=True)).shape == picture.shape
    with pytest.raises(sgc.LimitExceededError):
        container.check_slices(5792, 5792, 0, True)


@pytest.mark.parametrize("most", [5, 10, 14])
def test_what_is_written_can_be_read_within_the_same_limits(most: int) -> None:
    """Also where the index is too long by a few bytes."""
    rgba = np.concatenate([photo(32, 65), np.full((32, 65, 1), 90, np.uint8)], 2)
    try:
        data = sgc.encode(rgba, slice_side=64, limits=Limits(max_index_bytes=most))
    except sgc.LimitExceededError:
        return
    sgc.decode(data, limits=Limits(max_index_bytes=most))


def test_threads_share_a_codec(picture: np.ndarray) -> None:
    """Many threads at once get what one gets."""
    data = sgc.encode(picture, 70)
    expected = sgc.decode(data)
    with ThreadPoolExecutor(4) as pool:
        files = list(pool.map(lambda _: sgc.encode(picture, 70, threads=1), range(8)))
        decoded = list(pool.map(lambda f: sgc.decode(f, threads=1), files))
    assert set(files) == {data}
    assert all(np.array_equal(d, expected) for d in decoded)


def _encode_in_child(picture: np.ndarray) -> bytes:
    return sgc.encode(picture, 70, threads=1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_builds_its_own_sessions(picture: np.ndarray) -> None:
    """A process forked after the codec was used works."""
    data = sgc.encode(picture, 70, threads=1)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply_async(_encode_in_child, (picture,)).get(60) == data


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_fork_ends_cleanly(threads: int) -> None:
    """A child that leaves by way of the interpreter's end neither hangs nor crashes, with worker threads in the parent."""
    code = f"""
import os, sys, numpy as np, pillow_semicodec as sgc
data = sgc.encode(np.zeros((60, 60), np.uint8), threads={threads})
child = os.fork()
if not child:
    assert sgc.decode(data, threads={threads}).shape == (60, 60)
    sys.exit(7)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"""
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], timeout=60, check=False).returncode == 7


def reseal(data: bytes, position: int, value: int) -> bytes:
    """A file with one byte of its slice changed, and every checksum right."""
    stream = bytearray(reference_decoder.parse(data)["streams"][0])
    stream[position % len(stream)] ^= value
    prologue = sgc.read_prologue(data)
    return container.write_container(prologue.header, prologue.index.rate, (bytes(stream),), {})


@given(st.integers(0, 10**6), st.integers(1, 255))
def test_a_forged_stream_decodes_or_is_refused(position: int, value: int) -> None:
    """Even with good checksums a wrong stream gives a picture or a SemicodecError."""
    with contextlib.suppress(sgc.SemicodecError):
        assert sgc.decode(reseal(FORGED, position, value)).shape == (40, 56, 3)


@given(st.integers(0, 65535), st.integers(1, 300), st.integers(1, 300))
def test_a_forged_header_decodes_or_is_refused(rate: int, width: int, height: int) -> None:
    """A stream under another size or rate gives a picture of that size or a SemicodecError."""
    prologue, stream = sgc.read_prologue(FORGED), reference_decoder.parse(FORGED)["streams"][0]
    header = container.Header(width, height, "RGB", prologue.header.model_id)
    with contextlib.suppress(sgc.SemicodecError):
        assert sgc.decode(container.write_container(header, rate, (stream,), {})).shape == (height, width, 3)


@pytest.fixture(autouse=True, scope="module")
def _forged() -> None:
    global FORGED
    bundle = ModelBundle(TINY)
    streams, _ = coded(photo(40, 56), 9000, bundle)
    FORGED = container.write_container(container.Header(56, 40, "RGB", bundle.model_id), 9000, streams, {})


FORGED = b""


def test_tables_are_chosen_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the others run: all machines have to choose the same."""
    built, build = set(), inference._Sessions._build
    monkeypatch.setattr(
        inference._Sessions,
        "_build",
        lambda self, name, wanted: built.add((name, bool(wanted))) or build(self, name, wanted),
    )
    monkeypatch.setattr(inference, "_cache", {})
    monkeypatch.setattr(sgc.options, "PROVIDERS", (inference.CPU,))
    data = sgc.encode(photo(40, 50), 40, effort=2)
    assert sgc.decode(data).shape == (40, 50, 3)
    assert len(built) > 4
    assert {name for name, elsewhere in built if elsewhere} == {"analysis", "synthesis"}


@settings(max_examples=15)
@given(st.data())
def test_words_behind_any_stream_are_refused(data: st.DataObject) -> None:
    """FORMAT.md, section 5: of whatever layer it is, or of alpha."""
    picture = np.dstack([photo(100, 128), photo(100, 128, 1)[:, :, 0]])
    file = BytesIO(sgc.encode(picture, 60, slice_side=64, indexed=False))
    prologue = container.read_prologue(file.read)
    streams = list(container.read_slices(file.read, prologue.index))
    streams[data.draw(st.integers(0, len(streams) - 1))] += bytes(range(1, 41))
    with pytest.raises(sgc.FormatError):
        sgc.decode(container.write_container(prologue.header, prologue.index.rate, streams, prologue.metadata, 64))


def test_what_providers_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA must not shorten what is float32 to TF32."""
    told: list[Any] = []
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", inference.CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda data, options, providers: told.append(providers))
    inference._Sessions("x", lambda name: b"", 1)._build("analysis", ("CUDAExecutionProvider",))
    assert told == [[("CUDAExecutionProvider", {"use_tf32": "0"}), (inference.CPU, {})]]


@pytest.mark.parametrize("alone", [True, False])
def test_providers_that_take_calls_of_one_thread(alone: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices wait for each other there."""
    running, most, session = 0, 0, inference._Sessions._session

    class Counting:
        def __init__(self, inner: Any) -> None:
            self.inner, self.get_inputs = inner, inner.get_inputs

        def run(self, *arguments: Any) -> Any:
            nonlocal running, most
            running += 1
            most = max(most, running)
            time.sleep(0.01)
            found = self.inner.run(*arguments)
            running -= 1
            return found

    def counted(self: Any, name: str) -> Any:
        found = session(self, name)
        return Counting(found) if name in inference.ON_PROVIDERS else found

    monkeypatch.setattr(inference._Sessions, "_session", counted)
    monkeypatch.setattr(inference, "ONE_AT_A_TIME", frozenset({inference.CPU} if alone else ()))
    monkeypatch.setattr(sgc.options, "PROVIDERS", (inference.CPU,))
    picture = photo(200, 200)
    data = sgc.encode(picture, 40, slice_side=64, threads=4)
    sgc.decode(data, threads=4)
    assert (most == 1) == alone


def test_the_gil_is_released(picture: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a network runs another thread has its turn, which Python would give it after a minute only."""
    data, real, turns, seen, done = sgc.encode(picture, 60), inference._Sessions._run, [0], list[bool](), threading.Event()

    def run(self: Any, *arguments: Any, **options: Any) -> Any:
        before = turns[0]
        found = real(self, *arguments, **options)
        seen.append(turns[0] > before)
        return found

    def take_turns() -> None:
        while not done.is_set():
            turns[0] += 1
            time.sleep(0)  # and give them back

    monkeypatch.setattr(inference._Sessions, "_run", run)
    other, interval = threading.Thread(target=take_turns), sys.getswitchinterval()
    sys.setswitchinterval(60)
    try:
        other.start()
        for _ in range(200):
            sgc.decode(data)
            if any(seen):
                break
    finally:
        done.set()
        sys.setswitchinterval(interval)
        other.join()
    assert any(seen)
