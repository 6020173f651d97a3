"""What imageio's own tests ask of its plugins, asked of ours, and of imageio's Pillow plugin where it serves our format."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio.v2 as iio2
import imageio.v3 as iio
import numpy as np
import pytest
from conftest import photo
from imageio.core.request import InitializationError, Request
from PIL import Image

import pillow_semicodec as sgc
from imageio_plugin.plugin import SemicodecPlugin

PICTURE = photo(48, 64)
FRAMES = [np.roll(PICTURE, 8 * k, 1) for k in range(3)]
TIMES = [10, 20, 30]
BOTH = pytest.mark.parametrize("plugin", ["sgc", "pillow"])


@pytest.fixture
def still(tmp_path: Path) -> Path:
    target = tmp_path / "still.sgc"
    target.write_bytes(sgc.encode(PICTURE, 80))
    return target


@pytest.fixture
def moving(tmp_path: Path) -> Path:
    target = tmp_path / "moving.sgc"
    iio.imwrite(target, FRAMES, duration=TIMES, loop=2)
    return target


# ---- where files come from, and go to ------------------------------------------------------------------------------


def zipped(path: Path) -> str:
    with zipfile.ZipFile(path.with_suffix(".zip"), "w") as archive:
        archive.write(path, "folder/x.sgc")
    return str(path.with_suffix(".zip") / "folder" / "x.sgc")


def renamed(path: Path) -> Path:
    return path.rename(path.with_suffix(""))


SOURCES: list[Callable[[Path], Any]] = [
    str,
    Path,
    Path.as_uri,
    Path.read_bytes,
    lambda path: io.BytesIO(path.read_bytes()),
    lambda path: path.open("rb"),
    zipped,
    renamed,
]
NAMES = ["str", "Path", "file URI", "bytes", "BytesIO", "open file", "in a zip file", "without extension"]


@pytest.mark.parametrize("source", SOURCES, ids=NAMES)
@pytest.mark.parametrize("plugin", ["sgc", "pillow", SemicodecPlugin, None], ids=str)
def test_sources(still: Path, source: Callable[[Path], Any], plugin: Any) -> None:
    """From wherever it is read, and by whichever plugin, it is the picture, and may be written to; files that are the
    caller's stay open.
    """
    expected, resource = sgc.decode(still.read_bytes()), source(still)
    options = {"plugin": plugin} if plugin else {}
    found = iio.imread(resource, **options)
    assert np.array_equal(found, expected)
    assert found.flags.writeable
    if isinstance(resource, io.IOBase):
        assert not resource.closed
        resource.seek(0)
        assert iio.improps(resource, **options).shape == PICTURE.shape
        resource.close()


@BOTH
def test_targets(tmp_path: Path, plugin: str) -> None:
    """Wherever it is written to, it is the same file."""
    expected = sgc.encode(PICTURE, 40)
    for target in (str(tmp_path / "a.sgc"), tmp_path / "b.SGC"):
        assert iio.imwrite(target, PICTURE, plugin=plugin, quality=40) is None
        assert Path(target).read_bytes() == expected
    memory = io.BytesIO()
    iio.imwrite(memory, PICTURE, plugin=plugin, extension=".sgc", quality=40)
    assert memory.getvalue() == expected
    with (tmp_path / "c.sgc").open("wb") as file:
        iio.imwrite(file, PICTURE, plugin=plugin, extension=".sgc", quality=40)
        assert not file.closed
    assert (tmp_path / "c.sgc").read_bytes() == expected
    assert iio.imwrite("<bytes>", PICTURE, plugin=plugin, extension=".sgc", quality=40) == expected
    iio.imwrite(str(tmp_path / "z.zip" / "x.sgc"), PICTURE, plugin=plugin, quality=40)
    assert zipfile.ZipFile(tmp_path / "z.zip").read("x.sgc") == expected


def test_an_existing_file_is_replaced(tmp_path: Path) -> None:
    """All of it."""
    (tmp_path / "x.sgc").write_bytes(bytes(50_000))
    iio.imwrite(tmp_path / "x.sgc", PICTURE)
    assert (tmp_path / "x.sgc").read_bytes() == sgc.encode(PICTURE)


@pytest.mark.parametrize("name", ["x.sgc", "x.png", "x", "x.unknown"])
def test_the_extension_may_be_told(tmp_path: Path, name: str) -> None:
    """Whatever the name says; reading goes by the content."""
    iio.imwrite(tmp_path / name, PICTURE, extension=".sgc")
    assert (tmp_path / name).read_bytes() == sgc.encode(PICTURE)
    expected = sgc.decode((tmp_path / name).read_bytes())
    assert np.array_equal(iio.imread(tmp_path / name, extension=".sgc"), expected)
    assert np.array_equal(iio.imread(tmp_path / name, plugin="sgc"), expected)


def test_an_extension_that_is_wrong(tmp_path: Path, still: Path) -> None:
    """A PNG that is called .sgc is read as what it is, and the other way round."""
    iio.imwrite(tmp_path / "x.png", PICTURE)
    (tmp_path / "x.png").rename(tmp_path / "x.sgc")
    assert np.array_equal(iio.imread(tmp_path / "x.sgc"), PICTURE)
    assert np.array_equal(iio.imread((tmp_path / "x.sgc").read_bytes(), extension=".sgc"), PICTURE)
    still.rename(tmp_path / "y.png")
    assert iio.imread(tmp_path / "y.png").shape == PICTURE.shape
    with pytest.raises(ValueError, match="extension"):
        iio.imread(tmp_path / "y.png", extension="sgc")


# ---- which plugin ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"\x8aSG", b"This is not an image.", b"\x89PNG\r\n\x1a\n", bytes(300)], ids=len)
@pytest.mark.parametrize("plugin", ["sgc", "pillow", SemicodecPlugin], ids=str)
def test_invalid_files(tmp_path: Path, content: bytes, plugin: Any) -> None:
    """An OSError, by path and as bytes."""
    (tmp_path / "x.sgc").write_bytes(content)
    for resource in (tmp_path / "x.sgc", content or b" "):
        with pytest.raises(OSError):
            iio.imread(resource, plugin=plugin)


@pytest.mark.parametrize("name", ["x.png", "x.mp4", "x.unknown"])
def test_foreign_targets(tmp_path: Path, name: str) -> None:
    """Nothing is written under the name of another format, and no file is left there."""
    with pytest.raises(OSError, match="can not handle"):
        iio.imopen(tmp_path / name, "w", plugin="sgc")
    assert not list(tmp_path.iterdir())


@BOTH
def test_missing_files(tmp_path: Path, plugin: str) -> None:
    """The usual error, for reading and in a folder that is not there for writing."""
    with pytest.raises(FileNotFoundError):
        iio.imread(tmp_path / "x.sgc", plugin=plugin)
    with pytest.raises(FileNotFoundError):
        iio.imwrite(tmp_path / "nowhere" / "x.sgc", PICTURE, plugin=plugin)


def test_a_refused_file_is_untouched() -> None:
    """What is not ours can be read by the next plugin from where it began."""
    png = io.BytesIO(iio.imwrite("<bytes>", PICTURE, extension=".png"))
    with pytest.raises(InitializationError):
        SemicodecPlugin(Request(png, "r"))
    assert np.array_equal(iio.imread(png, plugin="pillow"), PICTURE)


@pytest.mark.parametrize("mode", ["r", "w"])
def test_unknown_arguments(still: Path, mode: str) -> None:
    """Of open, read and write; the file stays what it is."""
    before = still.read_bytes()
    with pytest.raises((TypeError, OSError)):
        iio.imopen(still, mode, plugin="sgc", nonesuch=1)
    with pytest.raises(TypeError, match="nonesuch"):
        iio.imread(still, plugin="sgc", nonesuch=1)
    with pytest.raises(TypeError, match="nonesuch"):
        iio.imwrite("<bytes>", PICTURE, plugin="sgc", nonesuch=1)
    assert still.read_bytes() == before


# ---- reading ---------------------------------------------------------------------------------------------------


def test_one_by_one(moving: Path) -> None:
    """An open file answers in any order: frames by number, in turn, all, and what they are."""
    with iio.imopen(moving, "r", plugin="sgc") as file:
        everything = file.read(index=...)
        turns = file.iter()
        first = next(turns)
        assert np.array_equal(file.read(index=2), everything[2])
        assert file.properties(index=1).shape == PICTURE.shape
        assert np.array_equal(next(turns), everything[1])
        assert [file.metadata(index=k)["timestamp"] for k in range(3)] == [0, 10, 30]
        assert np.array_equal(next(turns), everything[2])
        with pytest.raises(StopIteration):
            next(turns)
        assert np.array_equal(first, everything[0])
        for k in range(3):
            assert np.array_equal(file.read(index=np.int64(k)), file.read(index=k - 3))


@BOTH
def test_turns(moving: Path, still: Path, plugin: str) -> None:
    """``imiter`` gives every frame once, and may be left early; frames are not one and the same array."""
    frames = list(iio.imiter(moving, plugin=plugin))
    assert np.array_equal(np.stack(frames), iio.imread(moving, index=..., plugin=plugin))
    frames[0][:] = 0
    assert frames[1].any()
    for frame in iio.imiter(moving, plugin=plugin):
        assert frame.shape == PICTURE.shape
        break
    assert len(list(iio.imiter(still, plugin=plugin))) == 1


@BOTH
@pytest.mark.parametrize("index", [0, 1, ...])
def test_properties_are_those_of_what_is_read(moving: Path, still: Path, plugin: str, index: Any) -> None:
    """Shape, dtype and number, of stills and animations."""
    for path in (moving, still):
        if index == 1 and path == still:
            continue
        found, properties = iio.imread(path, index=index, plugin=plugin), iio.improps(path, index=index, plugin=plugin)
        assert (properties.shape, properties.dtype) == (found.shape, found.dtype)
        assert properties.is_batch == (index is ...)
        assert properties.n_images == (len(found) if index is ... else None)


@pytest.mark.parametrize("index", [3, -4, 200])
def test_indexes_out_of_range(moving: Path, index: int) -> None:
    """A ValueError, of every function that takes one."""
    for function in (iio.imread, iio.improps, iio.immeta):
        with pytest.raises(ValueError, match="out of range"):
            function(moving, index=index, plugin="sgc")


KINDS = {
    "grey": PICTURE[..., 0],
    "grey with alpha": PICTURE[..., :2],
    "colour": PICTURE,
    "colour with alpha": np.dstack([PICTURE, PICTURE[..., 0]]),
    "black and white": PICTURE[..., 0] > 100,
    "16 bits": PICTURE[..., 0].astype(np.uint16) * 257,
}


@pytest.mark.parametrize("kind", KINDS)
@BOTH
def test_kinds(kind: str, plugin: str, tmp_path: Path) -> None:
    """Shape and dtype come back, one picture and several; alpha and black and white exactly; what was given stays."""
    picture = KINDS[kind]
    before = picture.copy()
    for given in (picture, [picture, picture[::-1]]):
        iio.imwrite(tmp_path / "x.sgc", given, plugin=plugin, quality=95)
        found = iio.imread(tmp_path / "x.sgc", plugin=plugin, **({"index": ...} if isinstance(given, list) else {}))
        assert (found.shape, found.dtype) == (np.shape(given), picture.dtype)
        if "alpha" in kind:
            assert np.array_equal(found[..., -1], np.asarray(given)[..., -1])
        elif picture.dtype == bool:
            assert np.array_equal(found, given)
        else:
            assert np.abs(found.astype(float) - given).mean() < 20 * float(picture.max()) / 255
    assert np.array_equal(picture, before)


@pytest.mark.parametrize(
    "strange",
    [PICTURE[::-1, ::2], np.asfortranarray(PICTURE), PICTURE.transpose(1, 0, 2), PICTURE[5:20, 7:30], PICTURE[..., ::-1]],
    ids=["steps", "Fortran", "transposed", "part", "other order"],
)
def test_arrays_of_any_layout(strange: np.ndarray) -> None:
    """What counts are the numbers; a read-only array is fine; an image and a list of images, too."""
    plain = np.ascontiguousarray(strange)
    expected = iio.imwrite("<bytes>", plain, extension=".sgc")
    assert iio.imwrite("<bytes>", strange, extension=".sgc") == expected
    plain.flags.writeable = False
    assert iio.imwrite("<bytes>", plain, extension=".sgc") == expected
    assert iio.imwrite("<bytes>", [Image.fromarray(plain)], extension=".sgc") == expected


@pytest.mark.parametrize("orientation", range(10))
def test_orientation(orientation: int) -> None:
    """``rotate=True`` turns as the tag says; 0 and 9 say nothing. It is the same with both plugins."""
    turned = {
        2: PICTURE[:, ::-1],
        3: PICTURE[::-1, ::-1],
        4: PICTURE[::-1],
        5: PICTURE.transpose(1, 0, 2),
        6: np.rot90(PICTURE, -1),
        7: np.rot90(PICTURE, 2).transpose(1, 0, 2),
        8: np.rot90(PICTURE),
    }.get(orientation, PICTURE)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = iio.imwrite("<bytes>", PICTURE, extension=".sgc", exif=exif.tobytes(), quality=95)
    found = iio.imread(data, plugin="sgc", rotate=True)
    assert found.shape == turned.shape
    assert np.abs(found.astype(float) - turned).mean() < 20
    assert np.array_equal(found, iio.imread(data, plugin="pillow", rotate=True))
    assert iio.imread(data, plugin="sgc").shape == PICTURE.shape


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "CMYK", "1", "F"])
@BOTH
def test_mode(moving: Path, mode: str, plugin: str) -> None:
    """``mode=`` converts as Pillow does, one frame, all of them, and in turn."""
    expected = [np.asarray(Image.fromarray(frame).convert(mode)) for frame in iio.imread(moving, plugin="sgc")]
    assert np.array_equal(iio.imread(moving, mode=mode, index=1, plugin=plugin), expected[1])
    assert np.array_equal(iio.imread(moving, mode=mode, index=..., plugin=plugin), expected)
    assert np.array_equal(list(iio.imiter(moving, mode=mode, plugin=plugin)), expected)


def test_metadata_of_both() -> None:
    """What both plugins tell, they tell alike, with and without what was applied."""
    options = {"comment": b"said", "xmp": b"<x/>", "dpi": (300.0, 300.0), "icc_profile": b"profile"}
    data = iio.imwrite("<bytes>", PICTURE, extension=".sgc", **options)
    ours, theirs = (iio.immeta(data, plugin=plugin) for plugin in ("sgc", "pillow"))
    assert {key: ours[key] for key in options} == {key: theirs[key] for key in options} == options
    assert (ours["mode"], ours["shape"]) == (theirs["mode"], theirs["shape"]) == ("RGB", (64, 48))
    assert iio.immeta(data, plugin="sgc", exclude_applied=False) == ours
    assert iio.improps(data, plugin="sgc").spacing == (300, 300)


# ---- writing ---------------------------------------------------------------------------------------------------


def test_frame_after_frame(tmp_path: Path) -> None:
    """By several calls, each of one picture or of several; into bytes, files and buffers."""
    expected = iio.imwrite("<bytes>", FRAMES, extension=".sgc")
    memory = io.BytesIO()
    for target in ("<bytes>", tmp_path / "x.sgc", memory):
        with iio.imopen(target, "w", extension=".sgc", plugin="sgc") as file:
            file.write(FRAMES[0])
            file.write(FRAMES[1:])
        if target == "<bytes>":
            assert file.request.get_result() == expected
    assert (tmp_path / "x.sgc").read_bytes() == memory.getvalue() == expected


def test_from_one_file_to_another(moving: Path, tmp_path: Path) -> None:
    """Frame by frame, both open at a time."""
    with iio.imopen(moving, "r") as source, iio.imopen(tmp_path / "x.sgc", "w", plugin="sgc") as target:
        for frame in source.iter():
            target.write(frame, duration=TIMES)
    assert iio.improps(tmp_path / "x.sgc").shape == (3, *PICTURE.shape)
    assert iio.immeta(tmp_path / "x.sgc", index=2)["timestamp"] == 30


@BOTH
def test_nothing_written(tmp_path: Path, plugin: str) -> None:
    """A file that was opened and closed."""
    with iio.imopen(tmp_path / "x.sgc", "w", plugin=plugin):
        pass
    assert not (tmp_path / "x.sgc").exists() or not (tmp_path / "x.sgc").stat().st_size


@pytest.mark.parametrize("count", [1, 2, 3])
@BOTH
def test_batches(count: int, plugin: str) -> None:
    """Lists, tuples and arrays of four axes are as many frames."""
    data = {
        iio.imwrite("<bytes>", form(FRAMES[:count]), plugin=plugin, extension=".sgc", is_batch=True)
        for form in (list, tuple, np.stack)
    }
    assert len(data) == 1
    properties = iio.improps(data.pop(), plugin=plugin, index=...)
    assert (properties.shape, properties.n_images) == ((count, *PICTURE.shape), count)


def test_what_is_a_batch() -> None:
    """``is_batch`` has the last word: three grey pictures are not one in colour."""
    grey = np.stack([frame[..., 0] for frame in FRAMES])
    data = iio.imwrite("<bytes>", grey, extension=".sgc", is_batch=True)
    assert iio.improps(data, plugin="sgc").shape == grey.shape
    with pytest.raises(ValueError, match="shape"):
        iio.imwrite("<bytes>", PICTURE[None], extension=".sgc", is_batch=False)


@BOTH
@pytest.mark.parametrize("wrong", [[], PICTURE[..., :1], PICTURE[0, 0], [PICTURE, PICTURE[1:]], "text", None], ids=type)
def test_what_is_no_picture(plugin: str, wrong: Any, tmp_path: Path) -> None:
    """One of the usual errors, and nothing that looks like a file."""
    usual = (ValueError, TypeError) if plugin == "sgc" else (ValueError, TypeError, IndexError)  # the last is imageio's
    with pytest.raises(usual):
        iio.imwrite(tmp_path / "x.sgc", wrong, plugin=plugin)
    assert not (tmp_path / "x.sgc").exists() or not (tmp_path / "x.sgc").stat().st_size


# ---- version 2 -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [None, "sgc", "pillow"])
class TestVersion2:
    """Readers and writers of imageio's older functions."""

    def test_reader(self, moving: Path, still: Path, name: str | None) -> None:
        """Its length, frames by number and in turn, metadata; an end."""
        expected = iio.imread(moving, index=...)
        with iio2.get_reader(moving, format=name) as reader:
            assert len(reader) == reader.get_length() == 3
            reader.set_image_index(0)
            assert np.array_equal(reader.get_next_data(), expected[0])
            assert np.array_equal(reader.get_next_data(), expected[1])
            assert np.array_equal(reader.get_data(2), expected[2])
            assert [np.asarray(frame).shape for frame in reader] == [PICTURE.shape] * 3
            assert reader.get_meta_data(1)["duration"] == 20
            with pytest.raises((IndexError, ValueError, EOFError)):
                reader.get_data(99)
        with iio2.get_reader(still, format=name) as reader:
            assert len(reader) == 1

    def test_writer(self, tmp_path: Path, name: str | None) -> None:
        """Frames that are appended."""
        with iio2.get_writer(tmp_path / "x.sgc", format=name) as writer:
            for frame in FRAMES:
                writer.append_data(frame)
        assert iio.improps(tmp_path / "x.sgc").shape == (3, *PICTURE.shape)

    def test_functions(self, tmp_path: Path, name: str | None) -> None:
        """Pictures and sequences, with options of the codec."""
        iio2.imwrite(tmp_path / "x.sgc", PICTURE, format=name, quality=30)
        assert (tmp_path / "x.sgc").read_bytes() == sgc.encode(PICTURE, 30)
        assert np.array_equal(iio2.imread(tmp_path / "x.sgc", format=name), sgc.decode((tmp_path / "x.sgc").read_bytes()))
        iio2.mimwrite(tmp_path / "m.sgc", FRAMES, format=name, duration=50)
        assert np.shape(iio2.mimread(tmp_path / "m.sgc", format=name)) == (3, *PICTURE.shape)
        assert iio.immeta(tmp_path / "m.sgc", index=2)["timestamp"] == 100
        with pytest.raises(RuntimeError, match="memory"):
            iio2.mimread(tmp_path / "m.sgc", format=name, memtest="1B")
