"""Manners of the imageio v3 plugin."""

from __future__ import annotations

import gzip
import io
import os
import re
import sys
import threading
from pathlib import Path
from typing import Any

import imageio
import imageio.v2 as iio2
import imageio.v3 as iio
import numpy as np
import pytest
from conftest import Sink, photo
from PIL import Image

import imageio_plugin
import pillow_semicodec as sgc
from imageio_plugin.plugin import SemicodecPlugin

PICTURE = photo()
EXIF = Image.Exif()
EXIF[0x0112] = 1
EXIF = EXIF.tobytes()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    target = tmp_path / "x.sgc"
    iio.imwrite(target, PICTURE, quality=80, exif=EXIF, icc_profile=b"icc")
    return target


def test_round_trip(path: Path) -> None:
    """Written by extension, read by signature, the same pixels as the codec's."""
    assert path.read_bytes() == sgc.encode(PICTURE, 80, exif=EXIF, icc_profile=b"icc")
    expected = sgc.decode(path.read_bytes())
    assert np.array_equal(iio.imread(path), expected)
    assert np.array_equal(iio.imread(path.read_bytes()), expected)
    assert np.array_equal(iio.imread(io.BytesIO(path.read_bytes())), expected)
    assert np.array_equal(iio.imread(path, plugin="pillow"), expected)
    with iio.imopen(path, "r") as file:
        assert isinstance(file, SemicodecPlugin)


def test_imageio_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install."""
    monkeypatch.setitem(sys.modules, "imageio.config.extensions", None)
    with pytest.raises(ImportError, match=r"pillow-semicodec\[imageio\]"):
        imageio_plugin.register()


def test_grey() -> None:
    """Grey pictures keep two axes."""
    data = iio.imwrite("<bytes>", PICTURE[:, :, 0], extension=".sgc")
    assert iio.imread(data).shape == PICTURE.shape[:2]


def test_bytes_target() -> None:
    """The bytes target returns the file."""
    assert iio.imwrite("<bytes>", PICTURE, extension=".sgc", quality=30) == sgc.encode(PICTURE, 30)
    assert iio.imwrite("<bytes>", PICTURE, plugin="sgc", quality=30) == sgc.encode(PICTURE, 30)


def test_frames_as_bytes() -> None:
    """Every write returns the file of all frames so far."""
    with iio.imopen("<bytes>", "w", extension=".sgc") as file:
        first, both = file.write(PICTURE, quality=30), file.write(PICTURE[::-1], quality=30)
    assert first == sgc.encode(PICTURE, 30)
    assert both == sgc.encode_animation([PICTURE, PICTURE[::-1]], quality=30)
    with iio.imopen("<bytes>", "w", extension=".sgc") as file:  # times of frames, too, that are still to come
        *_, both = (file.write(picture, duration=[10, 20, 30]) for picture in (PICTURE, PICTURE[::-1]))
    assert both == sgc.encode_animation([PICTURE, PICTURE[::-1]], durations=[10, 20])
    with iio.imopen("<bytes>", "w", extension=".sgc") as file, pytest.raises(ValueError, match="3 durations for 2"):
        file.write([PICTURE, PICTURE[::-1]], duration=[10, 20, 30])


def test_the_other_order_of_bytes() -> None:
    """Is the same picture."""
    deep = PICTURE.astype(np.uint16) * 257
    assert iio.imwrite("<bytes>", deep.astype(">u2"), extension=".sgc") == iio.imwrite("<bytes>", deep, extension=".sgc")


def test_file_object() -> None:
    """An open file as target, with the extension given."""
    target = io.BytesIO()
    iio.imwrite(target, PICTURE, extension=".sgc")
    assert target.getvalue() == sgc.encode(PICTURE)
    target = io.BytesIO()
    iio.imwrite(target, PICTURE, plugin="sgc")
    assert target.getvalue() == sgc.encode(PICTURE)


def test_index(path: Path) -> None:
    """0, -1 and None are the picture, … a batch of one, anything else out of range."""
    picture = iio.imread(path)
    assert np.array_equal(iio.imread(path, index=None), picture)
    assert np.array_equal(iio.imread(path, index=...), picture[None])
    assert [p.shape for p in iio.imiter(path)] == [picture.shape]
    assert np.array_equal(iio.imread(path, index=-1), picture)
    for index in (1, -2, 200):
        with pytest.raises(ValueError, match="out of range"):
            iio.imread(path, index=index, plugin="sgc")


def test_pillow_keywords(tmp_path: Path) -> None:
    """The keywords of imageio's Pillow plugin mean the same here."""
    exif = Image.Exif()
    exif[0x0112] = 6
    iio.imwrite(tmp_path / "x.sgc", PICTURE, exif=exif.tobytes())
    for options in ({"mode": "L"}, {"rotate": True}, {"mode": "L", "rotate": True, "index": 0, "writeable_output": True}):
        ours, theirs = (iio.imread(tmp_path / "x.sgc", plugin=plugin, **options) for plugin in ("sgc", "pillow"))
        assert np.array_equal(ours, theirs)
        assert ours.flags.writeable


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
def test_keywords_of_imageio_2(tmp_path: Path) -> None:
    """Those that its Pillow plugin still takes."""
    exif = Image.Exif()
    exif[0x0112] = 6
    iio2.imwrite(tmp_path / "x.sgc", PICTURE, exif=exif)
    options = {"pilmode": "L", "exifrotate": True, "apply_gamma": True}
    ours, theirs = (iio.imread(tmp_path / "x.sgc", plugin=plugin, **options) for plugin in ("sgc", "pillow"))
    assert np.array_equal(ours, theirs)
    assert np.array_equal(iio2.imread(tmp_path / "x.sgc", pilmode="L"), iio.imread(tmp_path / "x.sgc", mode="L"))
    iio2.mimsave(tmp_path / "y.sgc", [PICTURE, PICTURE[::-1]], fps=8)
    assert iio.immeta(tmp_path / "y.sgc", index=1)["duration"] == 125
    assert len(list(iio.imiter(tmp_path / "y.sgc", writeable_output=True))) == 2


@pytest.mark.parametrize("chosen", [{"plugin": "sgc"}, {"extension": ".sgc"}])
def test_an_open_file_can_be_read_again(chosen: dict[str, str], tmp_path: Path) -> None:
    """Also what was just written into it; what begins elsewhere is read from there."""
    file = io.BytesIO()
    iio.imwrite(file, [PICTURE, PICTURE[::-1]], **chosen)
    for _ in range(2):
        assert iio.improps(file, **chosen).shape == (2, *PICTURE.shape)
        assert iio.imread(file, **chosen).shape == (2, *PICTURE.shape)
    (tmp_path / "x").write_bytes(b"before" + sgc.encode(PICTURE[:, :, 0]))
    with (tmp_path / "x").open("rb") as opened:
        opened.seek(6)
        assert iio.imread(opened, **chosen).shape == PICTURE.shape[:2]


def test_properties_and_metadata_decode_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shape, dtype and metadata come from the header."""
    monkeypatch.setattr("pillow_semicodec.codec.Decoder", lambda *a, **k: pytest.fail("decoded"))
    properties = iio.improps(path)
    assert (properties.shape, properties.dtype, properties.is_batch) == (PICTURE.shape, np.uint8, False)
    batch = iio.improps(path, index=...)
    assert (batch.shape, batch.n_images, batch.is_batch) == ((1, *PICTURE.shape), 1, True)
    metadata = iio.immeta(path)
    assert metadata["exif"] == EXIF
    assert metadata["icc_profile"] == b"icc"
    assert metadata["mode"] == "RGB"
    for mode, dtype in (("I;16", "u2"), ("I", "i4"), ("F", "f4")):  # Pillow's names of what grey numbers are
        data = sgc.encode(PICTURE[:, :, 0].astype(dtype))
        assert iio.immeta(data, extension=".sgc")["mode"] == mode


@pytest.mark.parametrize("bands", [2, 4])
def test_alpha(tmp_path: Path, bands: int) -> None:
    """The last of two or four bands is alpha, and comes back exactly."""
    picture = np.concatenate([PICTURE[:, :, : bands - 1], PICTURE[:, :, :1] // 128 * 255], 2)
    iio.imwrite(tmp_path / "x.sgc", picture, exact=True)
    assert iio.improps(tmp_path / "x.sgc").shape == picture.shape
    assert np.array_equal(iio.imread(tmp_path / "x.sgc")[:, :, -1], picture[:, :, -1])


def test_black_and_white(tmp_path: Path) -> None:
    """A bool array is kept as one."""
    iio.imwrite(tmp_path / "x.sgc", PICTURE[:, :, 0] > 100, xmp="<x/>", comment="said", dpi=(10, 20))
    assert iio.improps(tmp_path / "x.sgc").dtype == np.bool_
    assert np.array_equal(iio.imread(tmp_path / "x.sgc"), PICTURE[:, :, 0] > 100)
    metadata = iio.immeta(tmp_path / "x.sgc")
    assert (metadata["xmp"], metadata["comment"], metadata["dpi"]) == (b"<x/>", b"said", (10, 20))


@pytest.mark.parametrize(
    ("picture", "error", "text"),
    [
        (np.full((4, 4), np.nan), ValueError, "NaN"),
        (np.zeros((4, 4), np.float32), TypeError, "float32"),
        (np.zeros((4, 4, 4), np.uint16), ValueError, "alpha"),
        (np.zeros((4, 4, 1), np.uint8), ValueError, "shape"),
        (np.zeros((0, 4), np.uint8), ValueError, "empty"),
        ([np.zeros((4, 4), np.uint8), np.zeros((4, 5), np.uint8)], ValueError, "alike"),
    ],
)
def test_what_cannot_be_written(tmp_path: Path, picture: object, error: type[Exception], text: str) -> None:
    """Each wrong array has a message of its own, and no broken file stays under the name."""
    with pytest.raises(error, match=text):
        iio.imwrite(tmp_path / "x.sgc", picture)
    assert not (tmp_path / "x.sgc").exists() or not (tmp_path / "x.sgc").stat().st_size


def test_options_are_checked() -> None:
    """Quality and model are checked as everywhere."""
    with pytest.raises(ValueError, match="1 to 100"):
        iio.imwrite("<bytes>", PICTURE, extension=".sgc", quality=0)
    with pytest.raises(ValueError, match="not installed"):
        iio.imwrite("<bytes>", PICTURE, extension=".sgc", model="nonesuch")
    with pytest.raises(TypeError):
        iio.imwrite("<bytes>", PICTURE, extension=".sgc", nonesuch=1)


def test_animations(tmp_path: Path) -> None:
    """A list, a batch and repeated writes make the same file; frames are read one by one, all, and in turn."""
    frames = [np.roll(PICTURE, 8 * k, 1) for k in range(3)]
    iio.imwrite(tmp_path / "x.sgc", frames, duration=[10, 20, 30], loop=2)
    iio.imwrite(tmp_path / "y.sgc", np.stack(frames), duration=[10, 20, 30], loop=2)
    with iio.imopen(tmp_path / "z.sgc", "w", extension=".sgc") as file:
        again = np.memmap(tmp_path / "buffer", PICTURE.dtype, "w+", shape=PICTURE.shape)
        for frame in frames:
            again[:] = frame  # as a reader of films does
            file.write(again, duration=[10, 20, 30], loop=2)
    assert len({(tmp_path / f"{name}.sgc").read_bytes() for name in "xyz"}) == 1
    everything = iio.imread(tmp_path / "x.sgc")
    assert everything.shape == (3, *PICTURE.shape)
    assert np.array_equal(everything, iio.imread(tmp_path / "x.sgc", index=...))
    for k, frame in enumerate(iio.imiter(tmp_path / "x.sgc")):
        assert np.array_equal(frame, everything[k])
        assert np.array_equal(iio.imread(tmp_path / "x.sgc", index=k), frame)
        assert np.array_equal(iio.imread(tmp_path / "x.sgc", index=k, plugin="pillow"), frame)
    assert np.array_equal(iio.imread(tmp_path / "x.sgc", index=-1), everything[2])
    properties = iio.improps(tmp_path / "x.sgc")
    assert (properties.shape, properties.n_images, properties.is_batch) == (everything.shape, 3, True)
    assert iio.improps(tmp_path / "x.sgc", index=1).shape == PICTURE.shape
    metadata = iio.immeta(tmp_path / "x.sgc", index=1)
    assert (metadata["loop"], metadata["duration"], metadata["timestamp"]) == (2, 20, 10)
    for index, error in ((3, ValueError), (-4, ValueError), ("first", TypeError)):
        with pytest.raises(error, match="index"):
            iio.imread(tmp_path / "x.sgc", index=index)


def test_a_frame_of_another_shape(tmp_path: Path) -> None:
    """Is refused when it is written, and costs none of those before it."""
    with pytest.raises(ValueError, match="alike"), iio.imopen(tmp_path / "a.sgc", "w") as file:
        file.write(PICTURE)
        file.write(PICTURE)
        file.write(PICTURE[1:])
    assert iio.improps(tmp_path / "a.sgc", index=...).n_images == 2


@pytest.mark.parametrize("option", [{"target_size": 9000}, {"quality": 800}, {"loop": -1}, {"effort": 10}, {"duration": -1}])
def test_options_that_an_animation_cannot_have(option: dict[str, int], tmp_path: Path) -> None:
    """Are refused when they are given, and cost none of the frames before them."""
    with pytest.raises(ValueError, match=next(iter(option))), iio.imopen(tmp_path / "a.sgc", "w") as file:
        file.write(PICTURE)
        file.write(PICTURE)
        file.write(PICTURE, **option)
    assert iio.improps(tmp_path / "a.sgc", index=...).n_images == 2


def test_further_frames_need_a_place_to_go_back_to() -> None:
    """What cannot be added is said at once; what was written before it stays."""
    sink = Sink()
    with iio.imopen(sink, "w", plugin="sgc") as file:
        file.write(photo(20, 30))
        with pytest.raises(ValueError, match="at once"):
            file.write(photo(20, 30))
    assert sgc.decode(sink.written).shape == (20, 30, 3)
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb") as pipe, iio.imopen(pipe, "w", plugin="sgc") as file:  # says that it seeks
        file.write(photo(20, 30))
        with pytest.raises(ValueError, match="at once"):
            file.write(photo(20, 30))
    assert sgc.decode(gzip.decompress(packed.getvalue())).shape == (20, 30, 3)
    sink = Sink()
    with iio.imopen(sink, "w", plugin="sgc") as file:
        file.write([photo(20, 30), photo(20, 30, 1)])
    assert iio.imread(sink.written, plugin="sgc").shape == (2, 20, 30, 3)


def test_bombs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's bound counts here, too; properties are told all the same."""
    data = sgc.encode(photo(40, 50))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 999)
    with pytest.raises(Image.DecompressionBombError):
        iio.imread(data, plugin="sgc")
    assert iio.improps(data, plugin="sgc").shape == (40, 50, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert iio.imread(data, plugin="sgc").shape == (40, 50, 3)


def test_all_frames_are_bound_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred kilobytes may hold 65536 of them; one by one they are read."""
    data = iio.imwrite("<bytes>", [PICTURE] * 4, extension=".sgc")
    assert iio.imread(data, plugin="sgc").shape == (4, *PICTURE.shape)
    monkeypatch.setattr(sgc.options, "LIMITS", sgc.Limits(max_pixels=4 * PICTURE[..., 0].size - 1))
    with pytest.raises(OSError, match="one by one"):
        iio.imread(data, plugin="sgc")
    assert np.array_equal(iio.imread(data, plugin="sgc", index=3), list(iio.imiter(data, plugin="sgc"))[3])


def test_a_tuple_of_frames() -> None:
    """Is a list of them, as for imageio itself."""
    narrow = [np.full((9, 3), value, np.uint8) for value in (10, 200)]
    data = iio.imwrite("<bytes>", tuple(narrow), extension=".sgc")
    assert data == iio.imwrite("<bytes>", narrow, extension=".sgc")
    with pytest.raises(ValueError, match="alike"):
        iio.imwrite("<bytes>", (photo(8, 8), photo(8, 9)), extension=".sgc")
    with pytest.raises(TypeError, match="masked"):
        iio.imwrite("<bytes>", np.ma.masked_equal(photo(8, 8), photo(8, 8)[0, 0, 0]), extension=".sgc")


def test_a_batch_of_grey_pictures() -> None:
    """An array of three axes whose last one is longer than a picture has bands."""
    data = iio.imwrite("<bytes>", np.stack([PICTURE[..., 0], PICTURE[::-1, ..., 0]]), extension=".SGC", plugin="sgc")
    assert iio.imread(data, plugin="sgc", index=...).shape == (2, *PICTURE.shape[:2])


def test_damaged_files(path: Path) -> None:
    """After the signature matched, every error is an OSError."""
    data = path.read_bytes()
    for broken in (data[:12], data[:60], data[:-3], data[:-10] + b"x" + data[-9:]):
        with pytest.raises(OSError):
            iio.imread(broken, plugin="sgc")
    for size in (12, len(data) - 3):
        path.write_bytes(data[:size])
        with pytest.raises(OSError, match=rf"SGC file .*{re.escape(path.name)}: the file ends"):
            iio.imread(path, plugin="sgc")


def test_v2(path: Path) -> None:
    """The v2 functions work."""
    assert np.array_equal(iio2.imread(path), iio.imread(path))
    iio2.imwrite(path.with_name("y.sgc"), PICTURE)
    assert np.array_equal(np.asarray(iio2.mimread(path)[0]), iio.imread(path))
    with pytest.raises(RuntimeError):
        _ = imageio.config.known_plugins["sgc"].format


def test_registration_may_be_repeated() -> None:
    """Registering again changes nothing."""
    imageio_plugin.register()
    assert [e.extension for e in imageio.config.known_extensions[".sgc"]] == [".sgc"]


def test_frames_in_order_are_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one by one, and where some are left out; going back begins anew. A damaged one stays damaged."""
    frames = [np.roll(PICTURE, 3 * k, 1) for k in range(6)]
    data = sgc.encode_animation(frames, quality=30)
    whole, decoded, decode = list(sgc.decode_frames(data)), list[object](), sgc.codec.decode_picture
    monkeypatch.setattr(sgc.codec, "decode_picture", lambda *a, **k: decoded.append(a) or decode(*a, **k))
    for places, cost in (([0, 1, 2, 3, 4, 5], 6), ([1, 3, 5], 6), ([2, 1, 1, 2], 3 + 2 + 2 + 1), ([-1, 0], 6 + 1)):
        with iio.imopen(data, "r", plugin="sgc") as file:
            decoded.clear()
            for place in places:
                assert np.array_equal(file.read(index=place), whole[place])
            assert len(decoded) == cost, places
    with iio.imopen(data[:-20], "r", plugin="sgc") as file:
        file.read(index=4)
        for _ in range(2):
            with pytest.raises(OSError, match="SGC"):
                file.read(index=5)
        assert np.array_equal(file.read(index=4), whole[4])


class Pipe(io.RawIOBase):
    """Gives bytes one after the other; what was read is gone."""

    def __init__(self, data: bytes) -> None:
        self.data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self.data.readinto(buffer)


@pytest.mark.parametrize("chosen", [{"plugin": "sgc"}, {"extension": ".sgc"}, {"plugin": "pillow"}])
def test_what_cannot_seek_is_read(chosen: dict[str, str], path: Path) -> None:
    """As with imageio's own plugins."""
    expected = iio.imread(path)
    assert np.array_equal(iio.imread(Pipe(path.read_bytes()), **chosen), expected)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_named_pipes(path: Path, tmp_path: Path) -> None:
    """Are read once, from the beginning."""
    os.mkfifo(tmp_path / "pipe.sgc")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe.sgc").write_bytes(path.read_bytes()), daemon=True)
    writer.start()
    assert np.array_equal(iio.imread(tmp_path / "pipe.sgc"), iio.imread(path))
    writer.join()


def test_targets_that_do_not_say_whether_they_seek() -> None:
    """As the responses of some servers."""

    class Response:
        def __init__(self) -> None:
            self.parts: list[bytes] = []

        def write(self, data: bytes) -> int:
            self.parts.append(bytes(data))
            return len(data)

        def close(self) -> None:
            pass

    response = Response()
    iio.imwrite(response, photo(40, 50), plugin="sgc")
    assert b"".join(response.parts) == iio.imwrite("<bytes>", photo(40, 50), extension=".sgc")


def test_orientation_in_xmp(tmp_path: Path) -> None:
    """Turns pictures that have none in EXIF, as with Pillow."""
    picture = Image.fromarray(photo(40, 60))
    picture.save(tmp_path / "x.sgc", xmp=b'<rdf:Description tiff:Orientation="6"/>')
    turned = iio.imread(tmp_path / "x.sgc", plugin="sgc", rotate=True)
    assert turned.shape == (60, 40, 3)
    assert np.array_equal(turned, iio.imread(tmp_path / "x.sgc", plugin="pillow", rotate=True))
