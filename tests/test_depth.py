"""Pictures of more than 8 bits."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from conftest import photo
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from test_pillow import saved

import pillow_semicodec as sgc
from pillow_semicodec import container, depth
from pillow_semicodec.container import Chunk, Header, Numbers

LARGEST = float(np.finfo(np.float32).max)


def fine(height: int = 80, width: int = 120) -> np.ndarray:
    """Float64 [H, W] from 0 to 1, in steps far below 1/255."""
    i, j = np.mgrid[:height, :width]
    return 0.5 + 0.3 * np.sin(i / 37 + j / 51) + 0.1 * np.cos(j / 23)


@pytest.mark.parametrize("value", [0.0, 1e-45, 1e-8, 0.001, 0.5, 1.0, -3.0, LARGEST, -LARGEST])
def test_constant_pictures_are_exact(value: float) -> None:
    """There is no range whose levels could be confused; whole numbers likewise."""
    picture = np.full((40, 70), value, np.float32)
    assert np.array_equal(sgc.decode(sgc.encode(picture, 30)), picture)
    if abs(value) >= LARGEST:
        whole = np.full((40, 70), np.iinfo(np.int32).max if value > 0 else np.iinfo(np.int32).min, np.int32)
        assert np.array_equal(sgc.decode(sgc.encode(whole, 30)), whole)


@st.composite
def pictures(draw: st.DrawFn) -> np.ndarray:
    shape = (draw(st.integers(1, 40)), draw(st.integers(1, 40)))
    random = np.random.default_rng(draw(st.integers(0, 999)))
    kind = draw(st.sampled_from(["uint16", "rgb", "int32", "float32"]))
    if kind in ("uint16", "rgb"):
        return random.integers(0, 2 ** draw(st.integers(1, 16)), shape + (3,) * (kind == "rgb"), dtype=np.uint16)
    low, high = sorted((draw(st.integers(-(2**31), 2**31 - 1)), draw(st.integers(-(2**31), 2**31 - 1))))
    values = random.integers(low, high, shape, dtype=np.int32, endpoint=True)
    return values if kind == "int32" else (values * draw(st.sampled_from([1e-30, 1e-3, 1, 1e20]))).astype(np.float32)


@given(pictures(), st.sampled_from([5, 60, 100]))
def test_dtype_shape_and_range_are_kept(picture: np.ndarray, quality: int) -> None:
    """Whatever the numbers: as many come back, of the same kind, none beyond what the file says their range is."""
    data = sgc.encode(picture, quality)
    decoded = sgc.decode(data)
    assert (decoded.dtype, decoded.shape) == (picture.dtype, picture.shape)
    numbers = sgc.read_prologue(data).numbers
    assert numbers is not None
    slack = 1e-6 * max(abs(numbers.low), abs(numbers.high))
    assert numbers.low - slack <= picture.min() and picture.max() <= numbers.high + slack
    assert numbers.low - slack <= decoded.min() and decoded.max() <= numbers.high + slack
    box = (0, 0, picture.shape[1], 1)
    assert np.array_equal(sgc.decode(data, box=box), decoded[:1])


@given(pictures())
def test_levels_and_back(picture: np.ndarray) -> None:
    """Numbers become levels from 0 to 255, and these the same numbers, to a float's precision."""
    numbers = depth.numbers_of(picture)
    levels = depth.Levels(picture, numbers)[0 : len(picture), 0 : picture.shape[1]]
    assert levels.min() >= -1e-4 and levels.max() <= 255.0001
    back = np.zeros_like(picture)
    depth.FromLevels(back, numbers)[0 : len(picture), 0 : picture.shape[1]] = levels
    precision = (numbers.high - numbers.low) * 2e-7 + (picture.dtype.kind != "f")
    assert np.abs(back.astype(np.float64) - picture).max() <= precision


@pytest.mark.parametrize(
    ("picture", "low", "high"),
    [
        (np.array([[0, 4095]], np.uint16), 0, 4095),
        (np.array([[7, 4096]], np.uint16), 0, 8191),
        (np.array([[0, 3]], np.uint16), 0, 3),
        (np.array([[29120, 30314]], np.uint16), 29120, 30314),
        (np.array([[0.001, 0.002]], np.float32), np.float32(0.001), np.float32(0.002)),
        (np.array([[0, 70000]], np.int32), 0, 131071),
        (np.array([[-5, 70000]], np.int32), -5, 70000),
        (np.array([[0.1, 0.9]], np.float32), 0, 1),
        (np.array([[0.1, 99]], np.float32), 0, 255),
        (np.array([[-1, 3]], np.float32), -1, 3),
        (np.array([[400, 400]], np.float32), 400, 400 * (1 + 2.0**-26)),
        (np.array([[400, 400]], np.int32), 400, 401),
        (np.array([[-LARGEST, 90]], np.float32), -LARGEST, 90),
        (np.array([[LARGEST]], np.float32), LARGEST * (1 - 2.0**-26), LARGEST),
    ],
)
def test_ranges(picture: np.ndarray, low: float, high: float) -> None:
    """Whole numbers take the bits of their largest one, floats 0 to 1 or 0 to 255, where they fill a quarter of that."""
    numbers = depth.numbers_of(picture)
    assert (numbers.kind, numbers.low, numbers.high) == (depth.KINDS[picture.dtype], low, high)


@pytest.mark.parametrize("value", [-LARGEST, LARGEST])
def test_the_largest_floats_there_are(value: float) -> None:
    """Maps have them where there are no data; a file that holds them can be read."""
    picture = np.full((20, 30), value, np.float32)
    for other in (value, 5.0):
        picture[:, 9:] = other
        decoded = sgc.decode(sgc.encode(picture, 90))
        assert np.isfinite(decoded).all()
        assert np.abs(decoded / LARGEST - picture / LARGEST).mean() < 0.2


@pytest.mark.model
def test_a_ramp_has_no_bands() -> None:
    """A slow ramp comes back in many more steps than 8 bits have for it, nearer to it than they could be."""
    ramp = np.broadcast_to(np.linspace(20000, 22570, 256), (128, 256)).astype(np.uint16)  # ten levels of 257
    decoded = sgc.decode(sgc.encode(ramp, 95)).astype(float)
    assert len(np.unique(np.rint(decoded))) > 200
    assert np.abs(decoded - ramp).mean() < 257 / 4 / 2  # rounding to levels costs a quarter of one on average


@pytest.mark.model
def test_as_good_as_eight_bits() -> None:
    """At one quality a photograph of 16 bits takes about the bytes of its 8-bit version, and 12 bits kept in 16 as well."""
    picture = photo(128, 160)
    eight = len(sgc.encode(picture, 75))
    for factor in (257, 16):
        deep = picture.astype(np.uint16) * factor
        data = sgc.encode(deep, 75)
        assert abs(len(data) / eight - 1) < 0.02
        error = np.abs(sgc.decode(data) / factor - picture).mean()
        assert error < 1.02 * np.abs(sgc.decode(sgc.encode(picture, 75)).astype(float) - picture).mean()


@pytest.mark.parametrize(("mode", "source"), [("I;16", "I;16"), ("I;16B", "I;16"), ("I", "I"), ("F", "F")])
def test_pillow_modes(mode: str, source: str) -> None:
    """The mode on load is that on save; crops of an unloaded picture and pickles too."""
    values = fine() * 60000
    array = values.astype({"I;16": np.uint16, "I": np.int32, "F": np.float32}[source])
    image = Image.fromarray(array)
    if mode == "I;16B":
        image = Image.frombytes("I;16B", image.size, array.astype(">u2").tobytes())
    file = saved(image, quality=95)
    with Image.open(file) as opened:
        assert opened.mode == source
        pixels = np.asarray(opened)
    assert np.abs(pixels.astype(float) - values).mean() < 0.1 * 60000
    with Image.open(file) as opened:
        assert np.abs(np.asarray(opened.crop((16, 8, 40, 30))) - pixels[8:30, 16:40].astype(float)).max() <= 1.5


def test_colour_of_16_bits_is_opened_as_rgb() -> None:
    """Pillow has no mode for it: it gets what rounds to 8 bits."""
    picture = photo(40, 56).astype(np.uint16) * 257
    data = sgc.encode(picture, 90)
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.mode == "RGB"
        assert np.abs(np.asarray(opened) - sgc.decode(data) / 257).max() <= 0.5 + 1e-3


def test_imageio_keeps_uint16(tmp_path: Path) -> None:
    """Grey and colour, one picture and several, with the properties that a reader is told."""
    for picture in (photo(30, 41)[:, :, 0].astype(np.uint16) * 257, photo(30, 41).astype(np.uint16) * 257):
        iio.imwrite(tmp_path / "x.sgc", picture, quality=95)
        assert iio.improps(tmp_path / "x.sgc").dtype == np.uint16
        assert iio.improps(tmp_path / "x.sgc").shape == picture.shape
        assert iio.imread(tmp_path / "x.sgc").dtype == np.uint16
    iio.imwrite(tmp_path / "x.sgc", [picture, picture[::-1] // 2])
    assert iio.imread(tmp_path / "x.sgc").shape == (2, *picture.shape)
    assert iio.imread(tmp_path / "x.sgc").dtype == np.uint16


def test_parts_of_a_colour_picture_are_shown_on_one_scale() -> None:
    """What Pillow shows in 8 bits of a frame or a preview is on the scale of the whole picture."""
    first = photo(64, 80).astype(np.uint16) * 240
    second = first.copy()
    second[16:40, 16:56] = 2100
    with Image.open(io.BytesIO(sgc.encode_animation([first, second], 90))) as opened:
        opened.seek(1)
        assert np.abs(np.asarray(opened)[20:36, 20:52].astype(float) - 2100 / 257).max() < 12
    dark = np.full((400, 600, 3), 3000, np.uint16)
    dark[200, 300] = 65535
    data = sgc.encode(dark, 90, preview=True)
    with Image.open(io.BytesIO(data)) as opened, Image.open(io.BytesIO(data)) as small:
        small.draft(None, (150, 100))
        assert small.size < opened.size
        assert abs(np.asarray(opened).mean() - np.asarray(small).mean()) < 4


@pytest.mark.parametrize("number", [0, 1000, 30000, 65535])
def test_colours_of_16_bits_are_shown_as_bright_as_they_are(number: int) -> None:
    """White stays white, whatever the range is that is coded; Pillow, imageio and frames of an animation agree."""
    picture = np.full((32, 40, 3), number, np.uint16)
    for data in (sgc.encode(picture), sgc.encode_animation([np.zeros_like(picture), picture])):
        with Image.open(io.BytesIO(data)) as opened:
            opened.seek(getattr(opened, "n_frames", 1) - 1)
            assert np.abs(np.asarray(opened).astype(float) - number / 257).max() <= 1
        shown = iio.imread(data, plugin="sgc", index=-1, mode="RGB")
        assert np.abs(shown.astype(float) - number / 257).max() <= 1


@pytest.mark.parametrize("mode", ["I", "F"])
def test_imageio_keeps_numbers_where_a_mode_can_hold_them(mode: str) -> None:
    data = sgc.encode(np.linspace(0, 50400, 32 * 32).reshape(32, 32).astype(np.uint16), 95)
    shown = iio.imread(data, plugin="sgc", mode=mode)
    assert shown.dtype == (np.int32 if mode == "I" else np.float32)
    assert np.array_equal(shown, sgc.decode(data))


def test_what_lies_far_from_zero() -> None:
    """Narrow ranges are coded as what they are."""
    wave = fine() * 1194
    for picture in (
        (29120 + wave).astype(np.uint16),
        (1029120 + wave).astype(np.int32),
        (1e-6 * (1100 + wave)).astype(np.float32),
    ):
        decoded = sgc.decode(sgc.encode(picture, 95)).astype(np.float64)
        assert np.sqrt(np.mean((decoded - picture) ** 2)) < 0.3 * picture.std()


def test_imageio_turns_and_converts(tmp_path: Path) -> None:
    """Rotation keeps 16 bits; modes of 8 bits are scaled, not cut."""
    grey = (fine(40, 56) * 30000).astype(np.uint16)
    exif = Image.Exif()
    exif[0x0112] = 6
    for picture in (grey, np.stack([grey] * 3, 2)):
        iio.imwrite(tmp_path / "x.sgc", picture, quality=95, exif=exif.tobytes())
        plain, turned = iio.imread(tmp_path / "x.sgc"), iio.imread(tmp_path / "x.sgc", rotate=True)
        assert turned.dtype == np.uint16
        assert np.array_equal(turned, np.rot90(plain, -1))
        shown = iio.imread(tmp_path / "x.sgc", mode="L")
        assert shown.dtype == np.uint8 and abs(shown.mean() - plain.mean() / 257) < 1.5


def test_measured_conversions(tmp_path: Path) -> None:
    """Quality of pictures of 16 bits is that of their range, not of what 8 bits cut off."""
    from pillow_semicodec.convert import Job, Settings, convert

    Image.fromarray((fine(96, 96) * 60000).astype(np.uint16)).save(tmp_path / "x.png")
    outcome = convert(Job(str(tmp_path / "x.png"), str(tmp_path / "x.sgc")), Settings({"quality": 5}, measure=True))
    assert not outcome.error
    assert 10 < outcome.quality["psnr"] < 60
    to_webp = convert(Job(str(tmp_path / "x.sgc"), str(tmp_path / "x.webp")), Settings({"quality": 90}, measure=True))
    assert to_webp.quality["psnr"] > 25


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
@pytest.mark.parametrize("largest", [12, 40])
def test_targets_of_few_numbers(dtype: type, largest: int) -> None:
    """A reader gets whole numbers: the PSNR that was asked for is one of those."""
    picture = np.rint(photo(90, 120)[:, :, 0] / 255.0 * largest).astype(dtype)
    picture[0, :2] = 0, largest
    best = 10 * np.log10(largest**2 / max(np.square(decoded_again(picture, 100)).mean(), 1e-9))
    for wanted in (20.0, min(best - 1, 26.0)):
        error = sgc.decode(sgc.encode(picture, target_psnr=wanted)).astype(float) - picture
        assert 10 * np.log10(largest**2 / np.square(error).mean()) >= wanted - 1e-6


def decoded_again(picture: np.ndarray, quality: int) -> np.ndarray:
    """How far off."""
    return sgc.decode(sgc.encode(picture, quality)).astype(float) - picture


def test_slices_and_targets() -> None:
    """Slices leave no trace, and targets are met."""
    picture = (fine(150, 210) * 65535).astype(np.uint16)
    whole, sliced = (sgc.decode(sgc.encode(picture, 80, slice_side=side)).astype(int) for side in (0, 64))
    assert np.abs(whole - sliced).max() <= 2
    data = sgc.encode(picture, target_psnr=34)
    error = (sgc.decode(data).astype(float) - picture) / 65535
    assert 33.9 < -10 * np.log10((error**2).mean()) < 35
    assert len(sgc.encode(picture, target_size=1500)) <= 1500


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite(value: float, tmp_path: Path) -> None:
    """They have no level; no file is left behind."""
    array = np.zeros((5, 5), np.float32)
    array[2, 3] = value
    with pytest.raises(ValueError, match="NaN or infinite"):
        Image.fromarray(array).save(tmp_path / "x.sgc")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("mode", "payload"),
    [
        ("I;16", None),
        ("RGB", struct.pack(">Bdd", 1, 0, 1)),
        ("I;16", b""),
        ("I;16", struct.pack(">Bdd", 0, 0, 1)),
        ("I;16", struct.pack(">Bdd", 4, 0, 1)),
        ("RGB;16", struct.pack(">Bdd", 3, 0, 1)),
        ("I;16", struct.pack(">Bdd", 1, 1, 1)),
        ("I;16", struct.pack(">Bdd", 3, float("nan"), 1)),
        ("I;16", struct.pack(">Bdd", 3, 0, float("inf"))),
        ("I;16", struct.pack(">Bdd", 3, -1.7e308, 1.7e308)),
    ],
)
def test_chunks_that_are_wrong(mode: str, payload: bytes | None) -> None:
    """A mode of more than 8 bits has a chunk of numbers, others none, and it states a range."""
    metadata = {} if payload is None else {container.NUMBERS: payload}
    data = container.write_container(Header(8, 8, mode), 0, (b"",), metadata)
    with pytest.raises(sgc.FormatError):
        sgc.read_prologue(data)


def test_a_model_of_eight_bits_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose graphs know no fractions cannot take such pictures."""
    from pillow_semicodec import inference

    real = inference._Sessions._session

    class Older:
        def __init__(self, session: object) -> None:
            self.session = session

        def __getattr__(self, name: str) -> object:
            return (lambda: []) if name == "get_overridable_initializers" else getattr(self.session, name)

    monkeypatch.setattr(inference._Sessions, "_session", lambda self, name: Older(real(self, name)))
    with pytest.raises(sgc.UnsupportedError, match="8 bits only"):
        sgc.encode(np.zeros((8, 8), np.uint16))


def test_numbers_in_bytes() -> None:
    """Written and read again."""
    numbers = Numbers(container.FLOAT, -1.5, 1e9)
    assert container.read_numbers(container.write_numbers(numbers), Header(1, 1, "I;16")) == numbers
    assert Chunk(container.NUMBERS, b"").type.isupper()
