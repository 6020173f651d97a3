"""Indexed pictures: exact where they say so, never larger than what else there is, decoded without a model."""

from __future__ import annotations

import contextlib
import gc
import io
import weakref
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import reference_decoder
from conftest import photo
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFile, ImageFont
from strategies import planes

import pillow_semicodec as sgc
from pillow_semicodec import container, indexed, metrics
from pillow_semicodec.cli import main
from pillow_semicodec.codec import PALETTE_WORTH
from pillow_semicodec.layout import Layout
from pillow_semicodec.overlay import GROUND_COST


def screen(height: int = 120, width: int = 200, ground: int = 255, ramp: bool = True) -> np.ndarray:
    """Letters with soft edges on a flat ground, and a soft gradient, uint8 [H, W, 3]."""
    image = Image.new("RGB", (width, height), (ground,) * 3)
    draw = ImageDraw.Draw(image)
    for row, colour in enumerate(("black", "#204080", "#c02010", "black")):
        draw.text((4, 4 + 20 * row), "Screens say the same again", font=ImageFont.load_default(13), fill=colour)
    picture = np.asarray(image).copy()
    if ramp:
        picture[-20:] = np.linspace(200, 250, width).astype(np.uint8)[None, :, None]
    return picture


def is_indexed(data: bytes) -> bool:
    return container.read_prologue(io.BytesIO(data).read).header.indexed


few_colours = st.builds(
    lambda plane, levels, bands, seed: (
        np.random.default_rng(seed)
        .integers(0, 256, (256, bands), dtype=np.uint8)[plane // levels * levels]
        .squeeze(2 if bands == 1 else ())
    ),
    planes(60),
    st.sampled_from([1, 7, 60, 128]),
    st.sampled_from([1, 2, 3, 4]),
    st.integers(0, 99),
)


@settings(max_examples=30)
@given(few_colours, st.integers(95, 100), st.sampled_from([None, 0, 64]))
def test_exact_from_quality_95_on(picture: np.ndarray, quality: int, side: int | None) -> None:
    data = sgc.encode(picture, quality, indexed=True, slice_side=side, exact=True, threads=1)
    assert np.array_equal(sgc.decode(data, threads=1), picture)


@settings(max_examples=30)
@given(few_colours, st.integers(1, 100), st.sampled_from([0, 64]))
def test_the_second_decoder_agrees(picture: np.ndarray, quality: int, side: int) -> None:
    data = sgc.encode(picture, quality, indexed=True, slice_side=side, threads=1)
    assert np.array_equal(reference_decoder.decode_indexed(data), sgc.decode(data))


@settings(max_examples=15)
@given(few_colours, st.integers(1, 100))
def test_the_better_file_is_taken(picture: np.ndarray, quality: int) -> None:
    """By default; a palette, which is sharper, may take a little more. Whatever comes out is the one or the other."""
    default, never, always = (sgc.encode(picture, quality, indexed=choice, threads=1) for choice in (None, False, True))
    if is_indexed(default):
        assert len(default) == len(always) < PALETTE_WORTH * len(never)
    else:
        overlaid = container.OVERLAY in sgc.read_prologue(default).metadata
        assert len(default) <= len(never) * (1 + GROUND_COST * overlaid)
        has_alpha = picture.ndim == 3 and picture.shape[2] in (2, 4)
        worth = 1 if has_alpha else PALETTE_WORTH  # the share is one of the bytes beside alpha's
        assert overlaid or not indexed.is_worth_trying(picture) or len(always) >= worth * len(never)
    assert default in (never, always) or sgc.read_prologue(default).metadata
    assert not is_indexed(never)
    assert is_indexed(always)


@pytest.mark.model
def test_a_palette_is_worth_a_few_bytes() -> None:
    """Where it takes a little more than latents it is taken, for it is far sharper; metadata weigh nothing there."""
    picture, exif = screen(), bytes(20_000)
    sizes = {q: [len(sgc.encode(picture, q, indexed=choice)) for choice in (False, True)] for q in range(8, 22)}
    quality = next(q for q, (latents, palette) in sizes.items() if latents < palette < 1.12 * latents)
    default, never = (sgc.encode(picture, quality, indexed=choice) for choice in (None, False))
    assert is_indexed(default)
    assert metrics.psnr(picture, sgc.decode(default)) > metrics.psnr(picture, sgc.decode(never)) + 3
    least = min(sizes)
    assert sizes[least][1] > 1.2 * sizes[least][0]
    assert not is_indexed(sgc.encode(picture, least, exif=exif))


@given(st.integers(1, 94), st.sampled_from([255, 0, 40]))
def test_flat_grounds_stay_exact(quality: int, ground: int) -> None:
    """And soft gradients within a level: what is lost is lost at edges."""
    picture = screen(ground=ground)
    decoded = sgc.decode(sgc.encode(picture, quality, indexed=True, threads=1), threads=1)
    flat = (picture == ground).all(2)
    assert (decoded[flat] == ground).all()
    assert np.abs(decoded[-19:].astype(int) - picture[-19:]).max() <= 1
    assert np.abs(decoded.astype(int) - picture).mean() < 4


@pytest.mark.parametrize("quality", [1, 30, 60, 90])
@pytest.mark.parametrize("letters", [(20, 20, 20), (60, 20, 20), (0, 60, 20)])
def test_letters_keep_their_colour(letters: tuple[int, int, int], quality: int) -> None:
    """Beside a bar whose colour, which is more frequent, lies nearer to theirs than the ground's contrast to them."""
    image = Image.new("RGB", (300, 200), "white")
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, 300, 60), fill=(40, 60, 120))
    for row in range(6):
        draw.text((4, 64 + 20 * row), "Screens say the same again", font=ImageFont.load_default(13), fill=letters)
    picture = np.asarray(image)
    decoded = sgc.decode(sgc.encode(picture, quality, indexed=True))
    assert (decoded[(picture == letters).all(2)] == letters).all()


def test_letters_take_few_bytes() -> None:
    """Fewer than latents or PNG; less quality, fewer bytes."""
    picture = screen(400, 640)
    data = sgc.encode(picture, 75)
    assert is_indexed(data)
    sizes = [len(sgc.encode(picture, quality)) for quality in (100, 90, 75, 50)]
    assert sizes == sorted(sizes, reverse=True)
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", optimize=True)
    assert sizes[0] < len(file.getvalue())


def test_photographs_are_not_even_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexed.Colours, "__init__", None)
    assert not is_indexed(sgc.encode(photo(), 60))
    assert not is_indexed(sgc.encode(photo()[:, :, 0], 60))


@settings(max_examples=20)
@given(st.data())
def test_boxes_and_scales(data: st.DataObject) -> None:
    """Are parts of the whole, or means of it, in slices or not."""
    picture = np.dstack([screen(), np.arange(200, dtype=np.uint8)[None].repeat(120, 0)])
    file = sgc.encode(picture, data.draw(st.integers(1, 100)), indexed=True, slice_side=data.draw(st.sampled_from([0, 64])))
    left, top = data.draw(st.integers(0, 199)), data.draw(st.integers(0, 119))
    right, bottom = data.draw(st.integers(left + 1, 200)), data.draw(st.integers(top + 1, 120))
    whole = sgc.decode(file)
    assert np.array_equal(sgc.decode(file, box=(left, top, right, bottom)), whole[top:bottom, left:right])
    assert sgc.decode(file, scale=4).shape == (30, 50, 4)


def test_alpha_is_exact_and_unseen_colours_are_free() -> None:
    picture = np.dstack([screen(), np.zeros((120, 200), np.uint8)])
    picture[:, :100, 3] = 255
    noisy = picture.copy()
    noisy[:, 100:, :3] = np.random.default_rng(0).integers(0, 256, (120, 100, 3))
    files = [sgc.encode(p, 90, indexed=True) for p in (picture, noisy)]
    assert files[0] == files[1]
    decoded = sgc.decode(files[0])
    assert np.array_equal(decoded[:, :, 3], picture[:, :, 3])
    kept = sgc.decode(sgc.encode(noisy, 100, indexed=True, exact=True))
    assert np.array_equal(kept, noisy)
    nothing = np.zeros((5, 6, 4), np.uint8)
    assert (sgc.decode(sgc.encode(nothing, indexed=True))[:, :, 3] == 0).all()


def test_patterns_in_alpha() -> None:
    """Noise that repeats costs little, and comes back exactly, beside any colours."""
    noise = np.random.default_rng(0).integers(0, 200, (64, 64), dtype=np.uint8)
    picture = np.dstack([photo(256, 256), np.tile(noise, (4, 4))])
    data = sgc.encode(picture, 50)
    assert np.array_equal(sgc.decode(data)[:, :, 3], picture[:, :, 3])
    assert len(data) - len(sgc.encode(picture[:, :, :3], 50)) < 1.5 * noise.size


def test_targets() -> None:
    picture = screen(400, 640)
    exact = len(sgc.encode(picture, 100, indexed=True))
    data = sgc.encode(picture, target_size=exact)
    assert np.array_equal(sgc.decode(data), picture)
    assert len(sgc.encode(picture, target_size=exact * 9 // 10)) <= exact * 9 // 10
    with pytest.raises(ValueError, match="out of reach of an indexed"):
        sgc.encode(picture, target_size=exact // 10, indexed=True)
    for psnr in (30, 45, 80):
        decoded = sgc.decode(sgc.encode(picture, target_psnr=psnr)).astype(float)
        error = np.mean((decoded - picture) ** 2)
        assert error <= 255**2 / 10 ** (psnr / 10)


def test_patterns_that_return_are_found() -> None:
    """However far away."""
    tile = np.random.default_rng(0).integers(0, 4, (64, 32), dtype=np.uint8).repeat(2, 1) * 80
    picture = np.tile(tile, (8, 8))[:480, :480]
    size = len(sgc.encode(picture, 100, indexed=True))
    assert size < 2000
    assert np.array_equal(sgc.decode(sgc.encode(picture, target_size=size + 100)), picture)
    letters = np.tile(tile > 80, (8, 8)).astype(np.uint8) * 200  # two colours
    data = sgc.encode(letters, 100, indexed=True)
    assert len(data) < 1000
    assert np.array_equal(reference_decoder.decode_indexed(data), letters)


def test_quality_may_be_any_number() -> None:
    for quality in (np.uint8(100), np.int16(100), np.float32(100)):
        assert np.array_equal(sgc.decode(sgc.encode(screen(), quality, indexed=True)), screen())


def test_many_colours() -> None:
    """A few thousand are compared with each other at once."""
    steps = np.arange(8000).repeat(2).reshape(100, 160)
    picture = np.dstack([steps >> 5, steps & 31, steps % 97]).astype(np.uint8)
    colours = indexed.Colours(picture)
    assert colours.found == 8000
    fewer = colours.indexed(0.3)
    assert len(fewer.palette) < 8000
    takes, distances = indexed._merged(fewer.palette, np.arange(len(fewer.palette)), np.zeros(len(fewer.palette)))
    assert np.array_equal(takes, np.arange(len(takes)))
    assert not distances.any()


@given(st.integers(2, 700), st.integers(0, 99))
def test_colours_move_to_the_nearest_that_stay(count: int, seed: int) -> None:
    """More frequent ones, within reach."""
    random = np.random.default_rng(seed)
    palette = np.unique(random.integers(0, 256, (count, 1), dtype=np.uint8), axis=0)
    counts, reach = random.permutation(len(palette)), random.integers(0, 9, len(palette))
    takes, distances = indexed._merged(palette, counts, reach)
    values = palette[:, 0].astype(int)
    stays = takes == np.arange(len(takes))
    assert (counts[takes] >= counts).all()
    assert (np.abs(values[takes] - values) == distances).all()
    assert (distances <= reach).all()
    for k in np.flatnonzero(~stays):
        earlier = values[stays & (counts > counts[k])]
        assert distances[k] == np.abs(earlier - values[k]).min()


def test_limits_hold_for_slices_too() -> None:
    """What is written can be read within the same limits."""
    limits = sgc.Limits(max_slice_pixels=2**14)
    for side in (None, 64):
        data = sgc.encode(screen(300, 400), 100, limits=limits, slice_side=side, indexed=True)
        assert np.array_equal(sgc.decode(data, limits=limits), screen(300, 400))
    with pytest.raises(sgc.LimitExceededError):
        sgc.encode(screen(300, 400), 100, limits=sgc.Limits(max_metadata_bytes=20), indexed=True)
    data = sgc.encode(screen(300, 400), 100, limits=sgc.Limits(max_metadata_bytes=20))  # a palette is longer
    assert sgc.read_prologue(data).header.latents
    assert indexed.Drawing(screen(300, 400), "RGB", 1, 256, False, None, limits, {}).layout.side == 128


@pytest.mark.parametrize("quality", [60, 100])
def test_frames(quality: int) -> None:
    """May be indexed, all or some; those that are, from quality 95 on, are exact."""
    picture = screen(300, 400)
    changed = picture.copy()
    changed[5:60, 9:99] = photo(55, 90)
    expected = [picture, changed, picture]
    for choice in (None, True):
        file = sgc.encode_animation(expected, quality, durations=[10, 20, 30], indexed=choice)
        frames = list(sgc.decode_frames(file))
        assert max(np.abs(a.astype(int) - b).mean() for a, b in zip(frames, expected, strict=True)) < 12
        if choice and quality >= 95:
            assert np.array_equal(frames, expected)


def test_nothing_is_held_when_it_is_done() -> None:
    picture = screen()
    reference = weakref.ref(picture)
    sgc.encode(picture, 60, indexed=True)
    sgc.encode(picture, target_size=5000)
    del picture
    gc.collect()
    assert reference() is None


def test_previews_of_screens_are_used() -> None:
    """They are coded like their pictures."""
    file = io.BytesIO()
    Image.fromarray(screen(400, 640)).save(file, "SGC", preview=True)
    assert not is_indexed(file.getvalue())
    prologue = sgc.read_prologue(file.getvalue())
    assert prologue.preview
    assert sgc.read_prologue(prologue.preview[1]).header.model_id == prologue.header.model_id


@pytest.mark.parametrize(
    "options",
    [
        {"indexed": True, "slice_side": 64},
        {"indexed": True, "target_size": 10**6},
        {"effort": 3},
        {"slice_side": 64},
        {"effort": 3, "target_psnr": 25},
    ],
)
def test_progress_rises_and_may_stop_the_work(options: dict) -> None:
    heard: list[float] = []
    sgc.encode(screen(), progress=heard.append, **options)
    assert heard == sorted(heard)
    assert heard.index(1) == len(heard) - 1 > 0
    with pytest.raises(KeyError):
        sgc.encode(screen(), progress={}.__getitem__, **options)


def test_no_model_is_looked_for() -> None:
    """Unless something shall be seen."""
    data = sgc.encode(screen(), indexed=True, model="nonesuch")
    assert sgc.decode(data).shape == (120, 200, 3)
    with pytest.raises(sgc.UnknownModelError):
        sgc.encode(screen(), indexed=True, semantics=True, model="nonesuch")


def test_imageio_and_the_command_line(tmp_path: Path) -> None:
    data = iio.imwrite("<bytes>", screen(), extension=".sgc", indexed=True, quality=100)
    assert "model_id" not in iio.immeta(data, extension=".sgc")
    assert np.array_equal(iio.imread(data, extension=".sgc"), screen())
    Image.fromarray(screen()).save(tmp_path / "a.png")
    assert main(["encode", str(tmp_path / "a.png"), "--indexed", "-q", "100"]) == 0
    with Image.open(tmp_path / "a.sgc") as image:
        assert np.array_equal(np.asarray(image), screen())
    assert main(["info", str(tmp_path / "a.sgc")]) == 0


def test_what_cannot_be_indexed() -> None:
    many = np.arange(70000, dtype=np.uint32).view(np.uint8).reshape(200, 350, 4)[:, :, :3]
    with pytest.raises(ValueError, match="70000 colours"):
        sgc.encode(many, indexed=True)
    most = np.dstack([many, np.where(np.arange(70000) < 65536, 255, 0).reshape(200, 350).astype(np.uint8)])
    assert np.array_equal(sgc.decode(sgc.encode(most, 100, indexed=True))[:187, :, :3], many[:187])
    with pytest.raises(ValueError, match="8 bits"):
        sgc.encode(np.zeros((4, 4), np.uint16), indexed=True)
    with pytest.raises(ValueError, match="without regions"):
        sgc.encode(screen(), roi=[(0, 0, 9, 9)], indexed=True)
    with pytest.raises(TypeError, match="indexed must be"):
        sgc.encode(screen(), indexed=3)  # type: ignore[arg-type]
    assert not is_indexed(sgc.encode(screen(), roi=[(0, 0, 9, 9)]))


def test_more_than_256_colours() -> None:
    steps = np.arange(1200, dtype=np.uint16).reshape(30, 40)
    picture = np.dstack([steps >> 4, steps & 15, steps % 7]).astype(np.uint8)
    data = sgc.encode(picture, 100, indexed=True)
    assert np.array_equal(sgc.decode(data), picture)
    assert np.array_equal(reference_decoder.decode_indexed(data), picture)


def test_pillow_opens_and_saves_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a model, with thumbnails, in their own modes; a small version is not stored."""
    picture = Image.fromarray(screen(400, 640))
    picture.convert("P").save(tmp_path / "p.sgc", quality=100)
    picture.convert("L").save(tmp_path / "l.sgc", quality=100)
    picture.save(tmp_path / "rgb.sgc", quality=100, preview=True, indexed=True, comment="kept")
    monkeypatch.setenv("SGC_MODEL_PATH", str(tmp_path))
    monkeypatch.setattr("pillow_semicodec.codec.find_model", None)
    with Image.open(tmp_path / "rgb.sgc") as image:
        assert image.info == {"comment": b"kept"}
        assert np.array_equal(np.asarray(image), np.asarray(picture))
    with Image.open(tmp_path / "l.sgc") as image:
        assert np.array_equal(np.asarray(image), np.asarray(picture.convert("L")))
    with Image.open(tmp_path / "p.sgc") as image:
        assert np.array_equal(np.asarray(image), np.asarray(picture.convert("P").convert("RGB")))
    with Image.open(tmp_path / "rgb.sgc") as image:
        image.thumbnail((100, 100))
        assert image.size == (100, 63)


def test_what_has_arrived_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = screen(400, 640, ramp=False)
    data = sgc.encode(picture, 100, indexed=True)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with Image.open(io.BytesIO(data[: len(data) * 2 // 3])) as image:
        shown = np.asarray(image)
    assert np.array_equal(shown[:10], picture[:10])
    tile = np.random.default_rng(0).integers(0, 2, (64, 64), np.uint8) * np.uint8(255)
    twice = np.tile(tile, (3, 3))  # two colours that repeat
    data = sgc.encode(twice, 100, indexed=True)
    stream = io.BytesIO(data)
    (coded,) = container.read_slices(stream.read, container.read_prologue(stream.read).index)
    assert coded[0] == indexed.BY_REPETITION
    with Image.open(io.BytesIO(data[:-8])) as image:
        assert np.array_equal(np.asarray(image)[:64], twice[:64])


@settings(max_examples=60)
@given(st.data())
def test_damage_is_an_error_of_ours(data: st.DataObject) -> None:
    """Checksums mended, so that what is inside is read."""
    file = sgc.encode(np.dstack([screen(40, 60), screen(40, 60)[:, :, 0]]), 90, indexed=True)
    stream = io.BytesIO(file)
    prologue = container.read_prologue(stream.read)
    streams = [bytearray(s) for s in container.read_slices(stream.read, prologue.index)]
    palette = bytearray(prologue.metadata[container.PALETTE])
    chosen = data.draw(st.sampled_from([palette, *streams]))
    place = data.draw(st.integers(0, len(chosen) - 1))
    if data.draw(st.booleans()):
        chosen[place] ^= data.draw(st.integers(1, 255))
    else:
        del chosen[place:]
    broken = container.write_container(
        prologue.header, 0, [bytes(s) for s in streams], {**prologue.metadata, container.PALETTE: bytes(palette)}
    )
    with contextlib.suppress(sgc.SemicodecError):
        assert sgc.decode(broken).shape == (40, 60, 4)


def test_palettes_and_headers_must_agree() -> None:
    file = sgc.encode(screen(), 90, indexed=True)
    stream = io.BytesIO(file)
    prologue = container.read_prologue(stream.read)
    streams = container.read_slices(stream.read, prologue.index)
    with pytest.raises(sgc.FormatError, match="palette"):
        sgc.decode(container.write_container(prologue.header, 0, streams, {}))
    for colours in (0, 2**16 + 1):
        with pytest.raises(sgc.FormatError, match=f"palette of {colours} colours"):
            indexed.read_palette(container.write_varint(colours), grey=False)


@given(st.integers(1, 700), st.booleans(), st.integers(0, 9))
def test_palettes_come_back(count: int, grey: bool, seed: int) -> None:
    """And are hardly larger than their colours."""
    bands = 1 if grey else 3
    palette = np.unique(np.random.default_rng(seed).integers(0, 256, (count, bands), dtype=np.uint8), axis=0)
    payload = indexed.write_palette(palette)
    assert np.array_equal(indexed.read_palette(payload, grey), palette)
    assert len(payload) <= 3 + palette.size


@pytest.mark.model
def test_what_they_show_is_seen() -> None:
    """By heads, from the pixels."""
    for data in (sgc.encode(screen(), 90, indexed=True), sgc.encode(screen()[..., 0] > 127)):
        assert sgc.analyze(data).labels


@pytest.mark.model
def test_few_colours_need_not_return() -> None:
    """A dithered picture of two colours is noise to networks."""
    grey = Image.fromarray(photo(120, 160)).convert("L")
    dithered = np.asarray(grey.convert("1").convert("L"))
    assert indexed.is_worth_trying(dithered)
    data = sgc.encode(dithered, 50)
    assert len(data) < dithered.size / 8 + 200
    assert np.array_equal(sgc.decode(data), dithered)
    assert not indexed.is_worth_trying(np.asarray(grey))


@given(few_colours, planes(40), st.integers(1, 94))
def test_what_nobody_sees_may_be_anything(picture: np.ndarray, alpha: np.ndarray, quality: int) -> None:
    """However it is filled, what is seen is the same."""
    height, width = (min(n) for n in zip(picture.shape[:2], alpha.shape, strict=True))
    colour = picture[:height, :width].reshape(height, width, -1)
    picture = np.dstack([colour if colour.shape[2] in (1, 3) else colour[:, :, :-1], alpha[:height, :width] // 64 * 85])
    colours = indexed.Colours(picture)
    first, *others = colours.fillings(colours.indexed(indexed.share_of(quality)))
    assert len(others) == int(colours.seen is not None and colours.seen.any())
    for other in others:
        assert np.array_equal(other.palette, first.palette)
        assert np.array_equal(other.numbers[colours.seen], first.numbers[colours.seen])
    data = sgc.encode(picture, quality, indexed=True)
    seen = picture[..., -1] > 0
    assert np.array_equal(sgc.decode(data)[seen], np.dstack([first.palette[first.numbers], picture[..., -1]])[seen])


def test_every_slice_is_filled_as_is_shortest() -> None:
    """Where nobody sees anything; here one with few holes among stripes, another with noise of which little is seen."""
    rng = np.random.default_rng(0)
    picture = np.repeat(rng.integers(0, 9, (64, 128, 1), np.uint8) * 20, 2, 2)
    picture[:, :64, 0] = np.arange(64)[:, None] // 8 * 20
    picture[..., 1] = 255 * (rng.random((64, 128)) < np.repeat([0.95, 0.05], 64))
    colours, layout = indexed.Colours(picture), Layout(64, 128, 64)
    ways = [indexed.encode_numbers(way, layout, 1) for way in colours.fillings(colours.indexed(indexed.share_of(95)))]
    left, right = (np.argmin(sizes) for sizes in zip(*(map(len, way) for way in ways), strict=True))
    assert left != right
    sizes = sgc.read_prologue(sgc.encode(picture, 95, indexed=True, slice_side=64)).index.stream_sizes
    assert list(sizes[:2]) == [min(map(len, streams)) for streams in zip(*ways, strict=True)]


def test_exact_colours_move_no_farther_for_being_unseen() -> None:
    """Below quality 95, too: what nobody sees counts as if it were seen."""
    levels = np.repeat(np.arange(0, 256, 4, dtype=np.uint8)[None], 64, 0)
    picture = np.dstack([levels, levels, levels, np.zeros_like(levels)])
    decoded = sgc.decode(sgc.encode(picture, 75, indexed=True, exact=True))
    assert np.abs(decoded.astype(int) - picture).max() < 9


def test_transparent_pixels_move_no_opaque_ones() -> None:
    """A colour goes as far as it can be seen through where it is, in the mean of all of its places."""
    opaque = np.full((40, 60, 4), (0, 0, 0, 255), np.uint8)
    opaque[20:30, :, :3] = 20
    opaque[2:18:4, 2:58:4, :3] = 40
    clear = opaque.copy()
    clear[36, 10:16:2] = 40, 40, 40, 1
    for picture in (opaque, clear):
        decoded = sgc.decode(sgc.encode(picture, 75, indexed=True))
        assert np.array_equal(decoded[:34], picture[:34])
