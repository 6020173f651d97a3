"""Laws of slices: they leave no trace in the picture, a region needs its own only, and memory does not hold the rest."""

from __future__ import annotations

import gc
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from conftest import coded, latents_of, photo
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import pillow_semicodec as sgc
from pillow_semicodec import codec, container, inference, latent_path, layout, planes, slices
from pillow_semicodec.codec import default_side
from pillow_semicodec.planes import Box, Grid, Plane, run_squares

sizes = st.integers(1, 300)


@settings(max_examples=20)
@given(sizes, sizes, st.sampled_from([64, 128]), st.integers(1, 100), st.sampled_from([1, 2]))
def test_sliced_equals_unsliced(height: int, width: int, side: int, quality: int, threads: int) -> None:
    """Identical latents and indexes, pixels within one level, at any size."""
    model, picture = sgc.find_model(), photo(height, width, quality)
    plan = slices.RatePlan(model.rate_bank.rate_of_quality(quality))
    results = []
    for s, n in ((0, 1), (side, threads)):
        streams, layout = coded(picture, plan, model, n, s)
        arguments = (streams, plan, model, layout, n)
        results.append((slices.Decoder(*arguments).latents(), slices.Decoder(*arguments).picture()))
    (latents, pixels), (sliced, sliced_pixels) = results
    for a, b in zip(latents, sliced, strict=True):
        assert np.array_equal(a, b)
    assert np.abs(pixels.astype(int) - sliced_pixels).max() <= 1


def test_sliced_equals_unsliced_at_the_sides_that_are_used() -> None:
    """512 and 1024, at a size that nothing divides."""
    picture = photo(1011, 1333)
    whole = sgc.encode(picture, 60, slice_side=0, threads=1)
    for side in (512, 1024):
        sliced = sgc.encode(picture, 60, slice_side=side, threads=2)
        for a, b in zip(latents_of(whole), latents_of(sliced), strict=True):
            assert np.array_equal(a, b)
        assert np.abs(sgc.decode(whole).astype(int) - sgc.decode(sliced)).max() <= 1


@settings(max_examples=30)
@given(st.data(), sizes, sizes, st.sampled_from([0, 64, 128]), st.sampled_from(["L", "RGB"]))
def test_a_box_is_part_of_the_picture(data: st.DataObject, height: int, width: int, side: int, mode: str) -> None:
    """Decoding a box gives what cutting it out of the whole gives."""
    picture = photo(height, width) if mode == "RGB" else photo(height, width)[:, :, 0]
    file = sgc.encode(picture, 60, slice_side=side)
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    right, bottom = data.draw(st.integers(left + 1, width)), data.draw(st.integers(top + 1, height))
    whole = sgc.decode(file).astype(int)[top:bottom, left:right]
    assert np.abs(sgc.decode(file, box=(left, top, right, bottom)) - whole).max() <= 1


@pytest.mark.parametrize("box", [(0, 0, 0, 5), (5, 0, 4, 5), (-1, 0, 5, 5), (0, 0, 101, 5)])
def test_boxes_outside_are_refused(box: tuple[int, int, int, int]) -> None:
    """A box that is empty or leaves the picture is named."""
    with pytest.raises(ValueError, match="does not lie in 100x80"):
        sgc.decode(sgc.encode(photo(80, 100)), box=box)
    for wrong, error in ((box[:3], ValueError), (5, TypeError), (np.array(box, np.float32), TypeError)):
        with pytest.raises(error, match="a box is four whole numbers"):
            sgc.decode(sgc.encode(photo(80, 100)), box=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("picture", "given", "taken"),
    [
        (photo(30, 40).astype(np.uint16) * 257, np.uint8, False),
        (photo(30, 40), np.int8, False),
        (photo(30, 40)[:, :, 0].astype(np.float32), np.uint16, False),
        (photo(30, 40)[:, :, 0] > 90, np.uint8, True),
        (photo(30, 40), np.float32, True),
    ],
)
def test_what_out_holds(picture: np.ndarray, given: Any, taken: bool) -> None:
    """Every value of the pixels, or it is refused: NumPy would take numbers modulo 256."""
    data, out = sgc.encode(picture), np.zeros(picture.shape, given)
    if taken:
        assert np.array_equal(sgc.decode(data, out=out), sgc.decode(data))
    else:
        with pytest.raises(ValueError, match="out holds"):
            sgc.decode(data, out=out)


def test_sources_whose_pixels_nobody_knows() -> None:
    """A mask is not dropped, and a type that NumPy would have to guess is not guessed."""
    masked = np.ma.masked_equal(photo(30, 40)[:, :, 0], 90)
    assert masked.mask.any()
    for call in (sgc.encode, sgc.describe, lambda frame: sgc.encode_animation([photo(30, 40)[:, :, 0], frame])):
        with pytest.raises(TypeError, match="masked"):
            call(masked)
    assert np.array_equal(sgc.decode(sgc.encode(np.ma.array(photo()))), sgc.decode(sgc.encode(photo())))
    tiles = Cut(photo(1100, 1000)[:, :, 0].astype(np.float32))
    for dtype in (np.float32, "float32"):
        tiles.dtype = dtype  # type: ignore[assignment]
        with pytest.raises(TypeError, match=r"numpy\.dtype"):
            sgc.encode(tiles)
    assert sgc.describe(Cut(photo()[:, :, 0] > 90)) == sgc.describe(photo()[:, :, 0] > 90)  # type: ignore[arg-type]


def test_a_region_reads_its_own_slices_only() -> None:
    """Streams far from the region may be damaged without harm; and the networks see only what is near."""
    file = sgc.encode(photo(640, 640), 70, slice_side=64)
    stream = BytesIO(file)
    prologue = container.read_prologue(stream.read)
    streams = list(container.read_slices(stream.read, prologue.index))
    expected = sgc.decode(file, box=(70, 70, 120, 120))
    far = [k for k in range(100) if k // 10 > 5 or k % 10 > 5]
    for layer in range(3):
        for k in far:
            streams[100 * layer + k] = b"damaged!"
    header = prologue.header
    damaged = container.write_container(header, prologue.index.rate, tuple(streams), {}, 64)
    assert np.array_equal(sgc.decode(damaged, box=(70, 70, 120, 120)), expected)
    with pytest.raises(sgc.FormatError):
        sgc.decode(damaged)


class Reads(BytesIO):
    """A file that counts what is read of it."""

    taken = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.taken += len(data)
        return data


def test_a_small_crop_reads_little() -> None:
    """Of a file, and through Pillow without loading; many crops load the picture instead, and all of them agree."""
    file = sgc.encode(photo(640, 640), 90, slice_side=64)
    whole = sgc.decode(file)
    reads = Reads(file)
    assert np.abs(sgc.decode(reads, box=(10, 10, 60, 50)) - whole[10:50, 10:60].astype(int)).max() <= 1
    assert reads.taken < len(file) / 3
    reads = Reads(file)
    with Image.open(reads) as image:
        first = image.crop((10, 10, 60.2, 50))
        assert (first.size, first.mode, first.info) == ((50, 40), "RGB", image.info)
        assert reads.taken < len(file) / 2
        for left in range(0, 640, 64):
            for top in range(0, 640, 64):
                part = image.crop((left, top, left + 64, top + 64))
                assert np.abs(np.asarray(part) - whole[top : top + 64, left : left + 64].astype(int)).max() <= 1
        assert not image.tile
    assert reads.taken < 2.5 * len(file)


def test_crops_from_several_threads() -> None:
    """They read one file in turn."""
    with Image.open(BytesIO(sgc.encode(photo(640, 640), 50, slice_side=64))) as image, ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda k: np.asarray(image.crop((9 * k, 0, 9 * k + 9, 9))), range(8)))
        whole = np.asarray(image).astype(int)
    assert all(np.abs(part - whole[:9, 9 * k : 9 * k + 9]).max() <= 1 for k, part in enumerate(parts))


def test_crops_are_what_pillow_says() -> None:
    """Beyond the picture it is black, a box inside out is refused, and damage is an OSError."""
    file = sgc.encode(photo(128, 640), 50, slice_side=64)
    with Image.open(BytesIO(file)) as image:
        assert np.asarray(image.crop((630, 0, 650, 10)))[:, 10:].max() == 0
    with Image.open(BytesIO(file)) as image:
        with pytest.raises(ValueError, match="right"):
            image.crop((20, 0, 10, 10))
        assert image.tile
    damaged = bytearray(file)
    with Image.open(BytesIO(damaged)) as image:
        damaged[image.tile[0].offset + 3] ^= 1
    with Image.open(BytesIO(damaged)) as image, pytest.raises(OSError, match="checksum"):
        image.crop((0, 0, 10, 10))


class Cut:
    """A picture of which only boxes are ever seen."""

    def __init__(self, picture: np.ndarray) -> None:
        self.picture, self.shape, self.dtype, self.largest = picture, picture.shape, picture.dtype, 0

    def __getitem__(self, at: Any) -> np.ndarray:
        part = self.picture[at]
        self.largest = max(self.largest, part.size)
        return part

    def __setitem__(self, at: Any, pixels: np.ndarray) -> None:
        self.picture[at] = pixels
        self.largest = max(self.largest, pixels.size)


@pytest.mark.parametrize("shape", [(64, 700, 3), (700, 64), (260, 330, 3)])
def test_pictures_that_do_not_fit_in_memory(shape: tuple[int, ...]) -> None:
    """Encoder and decoder ask for boxes, never for the whole; the result is the same."""
    picture = photo(*shape[:2])[:, :, 0] if len(shape) == 2 else photo(*shape[:2])
    source, target = Cut(picture), Cut(np.zeros(shape, np.uint8))
    file = sgc.encode(source, 60, slice_side=64)
    assert file == sgc.encode(picture, 60, slice_side=64)
    assert sgc.decode(file, out=target) is target
    assert np.array_equal(target.picture, sgc.decode(file))
    assert source.largest <= (64 + 2 * 16 * latent_path.ANALYSIS_HALO) ** 2 * 3
    assert target.largest <= 64**2 * 3


@pytest.mark.parametrize("scale", [1, 4])
@pytest.mark.parametrize("kind", ["RGB", "L", "LA", "RGBA", "tinted grey", "1", "RGB;16", "indexed"])
def test_whatever_takes_boxes_gets_them(kind: str, scale: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In every mode, and whatever ``register`` was told."""
    rgb = photo(90, 140)
    alpha = rgb[:, :, 2]
    picture = {
        "RGB": rgb,
        "L": alpha,
        "LA": np.dstack([rgb[:, :, 0], alpha]),
        "RGBA": np.dstack([rgb, alpha]),
        "tinted grey": rgb[:, :, [1, 1, 1]],
        "1": alpha > 99,
        "RGB;16": rgb.astype(np.uint16) * 257,
        "indexed": rgb // 64 * 64,
    }[kind]
    data = sgc.encode(picture, 60, slice_side=64, indexed=kind == "indexed")
    monkeypatch.setattr(sgc.options, "LIMITS", sgc.Limits(max_pixels=1))
    whole = sgc.decode(data, scale=scale)
    target = Cut(np.zeros_like(whole))
    assert sgc.decode(data, scale=scale, out=target) is target
    assert np.array_equal(target.picture, whole)


def test_what_takes_pixels_must_have_their_shape() -> None:
    """A wrong ``out`` is named before anything is decoded."""
    with pytest.raises(ValueError, match=r"\[10, 10, 3\]"):
        sgc.decode(sgc.encode(photo(80, 100)), out=np.zeros((10, 10, 3), np.uint8))
    with pytest.raises(TypeError, match="list"):
        sgc.decode(sgc.encode(photo(80, 100)), out=[])


@pytest.mark.parametrize("shape", [(1500, 40), (40, 1500)])
def test_memory_holds_a_few_rows_of_slices(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Along the longer side planes are forgotten: a picture of any length is coded with the same few squares."""
    most, total = 0, 0
    make = Plane._begin

    def counting(self: Plane, i: int, j: int) -> Future[planes.Arrays]:
        nonlocal most, total
        result = make(self, i, j)
        most = max(most, len(self._squares))
        return result

    monkeypatch.setattr(Plane, "_begin", counting)
    file = sgc.encode(photo(*shape), 50, slice_side=64, threads=1)
    sgc.decode(file, threads=1)
    assert most <= 8
    assert len(sgc.read_prologue(file).index.stream_sizes) == 3 * 24


def test_receptive_fields_are_as_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that sees less than its halo would leave seams: the laws above notice it."""
    monkeypatch.setattr(slices, "SYNTHESIS_HALO", 0)
    model, picture = sgc.find_model(), photo(200, 200)
    whole, sliced = (slices.Decoder(c[0], slices.RatePlan(30000), model, c[1], 1).picture()
                     for c in (coded(picture, 30000, model, 1, s) for s in (0, 64)))  # fmt: skip
    assert np.abs(whole.astype(int) - sliced).max() > 1


def test_slices_are_chosen_by_size() -> None:
    """Small pictures stay whole; long ones and large ones are cut."""
    assert default_side(1024, 1024) == default_side(1, 900) == default_side(1, 2**16) == 0
    assert default_side(1023, 1025) == default_side(1365, 768) == 0
    assert default_side(1, 2**17) == 1024  # which the networks see 16 pixels high
    assert default_side(1024, 1025) == default_side(700, 4000) == 1024
    assert default_side(4096, 9000) == 512
    file = sgc.encode(photo(1030, 1100), 30)
    assert sgc.read_prologue(file).index.side == 1024
    with Image.open(BytesIO(file)) as image:
        assert np.array_equal(np.asarray(image), sgc.decode(file))


@pytest.mark.parametrize(
    ("side", "error"), [(100, ValueError), (32, ValueError), (2**17, ValueError), (-64, ValueError), (64.0, TypeError)]
)
def test_impossible_sides(side: Any, error: type[Exception]) -> None:
    """Sides that the format cannot state are refused."""
    with pytest.raises(error, match="slice_side"):
        sgc.encode(photo(), slice_side=side)


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int64])
def test_small_integers_of_numpy(kind: Any) -> None:
    """They are options like Python's, and do not overflow on the way; more threads than any machine has are refused."""
    picture = np.dstack(
        [photo(200, 300), np.arange(300, dtype=np.uint16).clip(0, 255).astype(np.uint8)[None].repeat(200, 0)]
    )
    data = sgc.encode(picture, 50, alpha_quality=99)
    assert sgc.encode(picture, 50, alpha_quality=kind(99), effort=kind(1)) == data
    assert np.array_equal(sgc.decode(data, scale=kind(4)), sgc.decode(data, scale=4))
    for wrong in (2**31, 2**70):
        with pytest.raises(ValueError, match="threads must be"):
            sgc.decode(data, threads=wrong)


def test_any_view_of_bytes() -> None:
    """One with gaps, too."""
    data = sgc.encode(photo())
    assert np.array_equal(sgc.decode(memoryview(data[::-1])[::-1]), sgc.decode(data))


# ---- planes ----------------------------------------------------------------------------------------------------


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 9), st.data())
def test_a_plane_reads_like_an_array(rows: int, columns: int, side: int, data: st.DataObject) -> None:
    """Any box, whatever squares it touches; each square is made once."""
    array, made = np.arange(2 * rows * columns).reshape(2, rows, columns), []

    def make(i: int, j: int, box: Box) -> planes.Arrays:
        made.append((i, j))
        return (array[:, box.top : box.bottom, box.left : box.right],)

    plane = Plane(Grid(rows, columns, side), make)
    for _ in range(3):
        top, left = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, columns - 1))
        box = Box(top, left, data.draw(st.integers(top + 1, rows)), data.draw(st.integers(left + 1, columns)))
        assert np.array_equal(plane.read(box)[0], array[:, box.top : box.bottom, box.left : box.right])
    assert len(set(made)) == len(made)


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 9), st.integers(1, 3))
def test_every_square_is_worked_on_once(rows: int, columns: int, side: int, workers: int) -> None:
    """And rows are left behind in order, after all their squares."""
    grid, done, left = Grid(rows, columns, side), [], []
    run_squares(
        grid, grid.bounds, lambda i, j: done.append((i, j)), lambda k, axis: left.append((k, axis, len(done))), workers
    )
    assert sorted(done) == sorted(grid.squares(grid.bounds))
    axis = int(columns > rows and grid.shape[1] > grid.shape[0])
    assert [k for k, _, _ in left] == list(range(grid.shape[axis]))
    assert all(count >= (k + 1) * grid.shape[1 - axis] for k, _, count in left)


def test_an_error_in_a_thread_is_raised() -> None:
    """Whoever waits for a square that failed hears of it, and the rest is not begun."""

    def make(i: int, j: int, box: Box) -> planes.Arrays:
        raise sgc.FormatError("broken")

    plane, grid = Plane(Grid(64, 64, 2), make), Grid(64, 64, 2)
    with pytest.raises(sgc.FormatError, match="broken"):
        run_squares(grid, grid.bounds, lambda i, j: plane.read(Box(0, 0, 64, 64)) and None, lambda k, axis: None, 2)


def test_sessions_are_shared_by_slices() -> None:
    """Slices in parallel use one session of one thread."""
    inference._cache.clear()
    sgc.decode(sgc.encode(photo(256, 256), 50, slice_side=64, threads=2), threads=2)
    assert [threads for *_, threads in inference._cache] == [1]


def test_nothing_is_kept_when_a_picture_is_done() -> None:
    """Planes and threads go with encoder and decoder at once, not when a collector comes by."""
    model, picture = sgc.find_model(), photo(80, 96)
    gc.disable()
    try:
        plan, size = layout.RatePlan(20000), layout.Layout(80, 96)
        encoder = slices.Encoder(slices.analyse(picture, model, size), plan, model, size)
        decoder = slices.Decoder(encoder.streams(), plan, model, size)
        decoder.picture()
        references = [weakref.ref(thing) for thing in (encoder, encoder.y, decoder, decoder.y_hat)]
        del encoder, decoder
        assert [reference() for reference in references] == [None] * 4
    finally:
        gc.enable()


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("busy", [False, True])
def test_dead_zones_are_wider_where_much_is_going_on(busy: bool, regions: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every slice, at the rates that it has."""
    model, asked = sgc.find_model(), list[tuple[float, int]]()

    def told(indexes: np.ndarray, rate: float) -> bool:
        asked.append((rate, indexes.size))
        return busy

    monkeypatch.setattr(slices, "is_busy", told)
    plan = layout.RatePlan(20000)
    if regions:
        plan = layout.RatePlan(20000, (10000, 30000), np.array([[0] * 4 + [1] * 4] * 4, np.uint8))
    size = layout.Layout(64, 128, 64)
    encoder = slices.Encoder(slices.analyse(photo(64, 128), model, size, 1), plan, model, size, 1)
    box = Box(0, 0, 4, 4)
    mean, indexes = encoder.means.read(box)[1], encoder.scales.read(box)[1]
    wide, narrow = (
        model.conditional.quantised(encoder._steps(box) - mean, indexes, model.predicted, kind) for kind in (True, False)
    )
    first = encoder.step1(box)
    assert np.array_equal(encoder.residual1.read(box)[0][first], (wide if busy else narrow)[first])
    encoder.streams()
    rates = {model.rate_bank.share_of(rate) for rate in ((10000, 30000) if regions else (20000,))}
    assert {rate for rate, _ in asked} == rates
    assert {count for _, count in asked} == {model.latent_channels * 8}
    assert len(asked) == 2  # once a slice


@pytest.mark.parametrize(("side", "threads"), [(64, 2), (64, 1), (0, 2)])
@pytest.mark.parametrize("broken", [True, False])
def test_nothing_is_kept_when_a_picture_fails(side: int, threads: int, broken: bool) -> None:
    """Of a damaged file, or where the caller ends the call: no error leads back to itself."""
    data = bytearray(sgc.encode(photo(200, 220), slice_side=side))
    with BytesIO(data) as stream:
        prologue = container.read_prologue(stream.read)
        streams = list(container.read_slices(stream.read, prologue.index))
    if broken:
        streams[0] = bytes(streams[0][:4]) + b"\xff" * 8
    out = Cut(np.empty((200, 220, 3), np.uint8))
    reference = weakref.ref(out)

    def cancel(share: float) -> None:
        raise RuntimeError("enough")

    gc.disable()
    try:
        try:
            codec.decode_picture(prologue, streams, out=out, threads=threads, progress=None if broken else cancel)
        except (sgc.FormatError, RuntimeError):
            pass
        else:
            raise AssertionError
        del out
        assert reference() is None
    finally:
        gc.enable()


@given(st.integers(1, 20000), st.integers(1, 20000), st.sampled_from([0, 64, 1024, 2048, 4096, 65536]), st.integers(1, 64))
def test_large_slices_are_few_at_a_time(height: int, width: int, side: int, threads: int) -> None:
    """What is in work at a time has a bound, beyond one slice; and all threads have something to do, or slices are few."""
    arranged = layout.Layout(height, width, side)
    workers, each = arranged.workers(threads)
    area = min(height, side or height) * min(width, side or width)
    assert workers == 1 or workers * area <= layout.PIXELS_AT_ONCE
    assert 1 <= workers * each <= max(threads, 1)
    assert workers <= arranged.slices
    if side == 1024:
        assert workers == min(threads, layout.WINDOWS, arranged.slices)


def test_more_slices_than_an_index_holds() -> None:
    """Are refused before anything is coded, for no reader would take the file."""
    limits = sgc.Limits(max_index_bytes=40)
    with pytest.raises(sgc.LimitExceededError, match="index of 48 streams"):
        sgc.encode(photo(256, 256), slice_side=64, limits=limits)
