"""Animations: every frame, its time and what changed; through arrays, Pillow and imageio."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import mmap
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import photo
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageSequence

import pillow_semicodec as sgc
from pillow_semicodec import animation, codec, container
from pillow_semicodec.animation import decode_frames, encode_animation
from pillow_semicodec.container import with_chunks
from pillow_semicodec.errors import LimitExceededError
from pillow_semicodec.limits import Limits


def ball(count: int = 4, mode: str = "RGB", size: tuple[int, int] = (90, 70)) -> list[Image.Image]:
    """A square that moves over a photograph."""
    ground = Image.fromarray(photo(size[1], size[0])).convert(mode)
    frames = []
    for k in range(count):
        frame = ground.copy()
        frame.paste(
            {"L": 250, "LA": (250, 100), "1": 1}.get(mode, (250, 20, 60, 255)[: len(mode)]), (9 * k, 20, 9 * k + 12, 32)
        )
        frames.append(frame)
    return frames


def saved(frames: list[Image.Image], **options: object) -> io.BytesIO:
    file = io.BytesIO()
    frames[0].save(file, "SGC", save_all=True, append_images=frames[1:], **options)
    file.seek(0)
    return file


def test_times_that_are_none_are_those_of_the_frames() -> None:
    """As with Pillow's own formats."""
    frames = ball(2)
    frames[0].info |= {"duration": 30, "loop": 2}
    with Image.open(saved(frames, duration=None, loop=None)) as opened:
        assert (opened.info["duration"], opened.info["loop"]) == (30, 2)
        opened.seek(1)
        assert opened.info["duration"] == 0


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA"])
def test_frames_come_back(mode: str) -> None:
    """In any order, with their times; alpha and black and white exactly."""
    frames = ball(4, mode)
    with Image.open(saved(frames, duration=[10, 20, 30, 40], loop=3, quality=90)) as opened:
        assert (opened.n_frames, opened.is_animated, opened.mode, opened.info["loop"]) == (4, True, mode, 3)
        shown = [frame.copy() for frame in ImageSequence.Iterator(opened)]
        for k in (3, 0, 2, 2, 1):
            opened.seek(k)
            assert (opened.tell(), opened.info["duration"], opened.info["timestamp"]) == (k, 10 * k + 10, 5 * k * (k + 1))
            assert opened.tobytes() == shown[k].tobytes()
            assert pickle.loads(pickle.dumps(opened)).tobytes() == shown[k].tobytes()
        for wrong in (-1, 4):
            with pytest.raises(EOFError):
                opened.seek(wrong)
        assert opened.tell() == 1
    for frame, result in zip(frames, shown, strict=True):
        if mode == "1":
            assert result.tobytes() == frame.tobytes()
        else:
            seen = np.asarray(frame.convert("LA"))[:, :, 1] > 0
            difference = np.abs(np.asarray(result.convert("RGB")).astype(int) - np.asarray(frame.convert("RGB")))
            assert difference[seen].mean() < 20
        if mode.endswith("A"):
            assert result.getchannel("A").tobytes() == frame.getchannel("A").tobytes()


@settings(max_examples=15)
@given(st.lists(st.tuples(*[st.integers(0, 60)] * 2, *[st.integers(1, 30)] * 2), min_size=1, max_size=4), st.booleans())
def test_what_does_not_change_stays(boxes: list[tuple[int, int, int, int]], alpha: bool) -> None:
    """Outside of what was painted over, a frame is the one before it, to the bit; the arrays agree with Pillow."""
    picture = photo(64, 80)
    if alpha:
        picture = np.dstack([picture, np.full((64, 80), 255, np.uint8)])
    frames = [picture]
    for left, top, width, height in boxes:
        frame = frames[-1].copy()
        frame[top : top + height, left : left + width] += 77
        frames.append(frame)
    file = encode_animation(frames, 50, durations=[1.4] * len(frames))
    decoded = list(decode_frames(file))
    assert len(decoded) == len(frames)
    for k, (left, top, width, height) in enumerate(boxes):
        outside = np.ones((64, 80), bool)
        outside[top : top + height, left : left + width] = False
        assert np.array_equal(decoded[k + 1][outside], decoded[k][outside])
    with Image.open(io.BytesIO(file)) as opened:
        for k, frame in enumerate(ImageSequence.Iterator(opened)):
            assert np.array_equal(np.asarray(frame), decoded[k])
            assert frame.info["duration"] == 1
    with Image.open(io.BytesIO(file)) as opened:  # a reader that stops at the first frame
        assert np.array_equal(sgc.decode(file), np.asarray(opened))


def test_frames_from_the_middle_on() -> None:
    """The same as behind those before them."""
    file = encode_animation([np.asarray(frame) for frame in ball(4)])
    everything = list(decode_frames(file))
    for start in range(6):
        found = list(decode_frames(file, start=start))
        assert len(found) == max(4 - start, 0)
        assert all(np.array_equal(a, b) for a, b in zip(found, everything[start:], strict=True))
    with pytest.raises(ValueError, match="start"):
        next(decode_frames(file, start=-1))


def test_a_gif_that_plays_once(tmp_path: Path) -> None:
    """Does so as SGC, too; WebP says 0, which is for ever."""
    frames = ball(3)
    for name, loop in (("a.gif", 1), ("a.webp", 0)):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        with Image.open(tmp_path / name) as film:
            film.save(tmp_path / "a.sgc", save_all=True)
        with Image.open(tmp_path / "a.sgc") as opened:
            assert (opened.n_frames, opened.info["loop"]) == (3, loop)


def test_pictures_that_are_closed_behind_their_turn(tmp_path: Path) -> None:
    """A generator may open one film after the other; all their frames are saved, with their times."""
    for k in range(2):
        frames = ball(3)
        frames[0].save(tmp_path / f"{k}.webp", save_all=True, append_images=frames[1:], duration=[10 + k, 20, 30])

    def films() -> Iterator[Image.Image]:
        for k in range(2):
            with Image.open(tmp_path / f"{k}.webp") as film:
                yield film

    file = io.BytesIO()
    ball(1)[0].save(file, "SGC", save_all=True, append_images=films())
    with Image.open(file) as opened:
        times = [frame.info["duration"] for frame in ImageSequence.Iterator(opened)]
    assert times == [0, 10, 20, 30, 11, 20, 30]


def test_little_that_changes_costs_little() -> None:
    """A frame that is the same takes a few bytes, a small change those of its box."""
    picture = photo(300, 400)
    still, moved = len(encode_animation([picture] * 3)), picture.copy()
    moved[100:110, 50:60] = 200
    single = len(sgc.encode(picture))
    assert single < still < single + 30
    assert len(encode_animation([picture, moved])) < still + single / 4
    assert encode_animation([picture]) == sgc.encode(picture)
    with Image.open(saved([Image.fromarray(picture)] * 3)) as opened:
        assert opened.n_frames == 3
    hidden = np.dstack([picture, np.zeros((300, 400), np.uint8)])
    other = hidden.copy()
    other[..., 0] += 9  # nobody sees it
    assert len(encode_animation([hidden, other])) < len(sgc.encode(hidden)) + 30


def test_frames_may_be_changed_in_place() -> None:
    """What becomes of one is nothing to the next; and an unpickled frame is a picture of one."""
    file = saved(ball(3))
    with Image.open(file) as opened:
        for frame in ImageSequence.Iterator(opened):
            assert (frame.size, frame.mode) == ((90, 70), "RGB")
            frame.thumbnail((30, 30))
            assert frame.im.size == frame.size == (30, 23)
        opened.seek(0)
        opened.putalpha(7)
        opened.seek(2)
        assert np.asarray(opened).shape == (70, 90, 3)
        again = pickle.loads(pickle.dumps(opened))
        again.seek(0)
        assert again.n_frames == 1
        with pytest.raises(EOFError):
            again.seek(1)


def test_what_was_drawn_into_a_frame_is_saved() -> None:
    """Into that which is shown, of any format; and how often an animation is shown stays as it was."""
    for name in ("SGC", "WEBP", "TIFF", "GIF"):
        file = io.BytesIO()
        pictures = ball(3, "L" if name == "GIF" else "RGB")
        pictures[0].save(
            file, name, save_all=True, append_images=pictures[1:], loop=3, **({"lossless": True} if name == "WEBP" else {})
        )
        for place in range(3):
            with Image.open(file) as opened:
                opened.seek(place)
                opened.load()
                loops = opened.info.get("loop", 0)
                opened.paste(0 if opened.mode == "P" else (0, 0, 0), (0, 0, 90, 35))
                with Image.open(saved([opened])) as again:
                    assert (again.n_frames, again.info["loop"]) == (3, loops)
                    flat = [np.asarray(frame.convert("L"))[:30].std() < 5 for frame in ImageSequence.Iterator(again)]
                assert flat == [k == place for k in range(3)]


def test_frames_out_of_one_buffer() -> None:
    """A reader of films may fill the same array for every frame."""
    pictures = [np.asarray(frame) for frame in ball(3)]

    def films() -> Iterator[np.ndarray]:
        buffer = np.empty_like(pictures[0])
        for picture in pictures:
            buffer[:] = picture
            yield buffer

    assert encode_animation(films()) == encode_animation(pictures)


def test_appended_pictures_may_be_drawn_anew() -> None:
    """A generator may draw into one picture again and again, as for Pillow's GIF."""

    def reds() -> Iterator[Image.Image]:
        canvas = Image.new("RGB", (40, 30))
        for red in (80, 160):
            canvas.paste((red, 0, 0), (0, 0, 40, 30))
            yield canvas

    file = io.BytesIO()
    Image.new("RGB", (40, 30)).save(file, "SGC", save_all=True, append_images=reds(), quality=95)
    with Image.open(file) as image:
        means = [np.asarray(frame)[:, :, 0].mean() for frame in ImageSequence.Iterator(image)]
    assert np.allclose(means, [0, 80, 160], atol=12)


def test_what_makes_pictures_may_draw_them_anew() -> None:
    """Whatever it is that can be gone through: not a generator alone hands out one picture again and again."""

    class Film:
        def __iter__(self) -> Iterator[Image.Image]:
            canvas = Image.new("L", (30, 20))
            for level in (80, 160, 240):
                canvas.paste(level, (0, 0, 30, 20))
                yield canvas

    file = io.BytesIO()
    Image.new("L", (30, 20)).save(file, "SGC", save_all=True, append_images=Film())
    with Image.open(file) as opened:
        levels = [frame.getpixel((9, 9)) for frame in ImageSequence.Iterator(opened)]
    assert np.abs(np.subtract(levels, [0, 80, 160, 240])).max() < 3


def test_more_frames_than_a_file_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "MAX_FRAMES", 3)
    pictures = [np.asarray(frame) for frame in ball(4)]
    assert len(list(decode_frames(encode_animation(pictures[:3])))) == 3
    with pytest.raises(ValueError, match="more than 3 frames"):
        encode_animation(iter(pictures))


def test_a_description_as_large_as_an_index_may_not_be() -> None:
    """What describes frames is metadata: its size never keeps the first one from being shown."""
    data = with_chunks(sgc.encode(photo(40, 50)), {container.ANIMATION: bytes(2**20 + 1)})
    assert sgc.decode(data).shape == (40, 50, 3)


def test_lenient_readers_see_what_has_arrived(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a frame that is cut, what there is of it; the frames before it stay."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    data = saved(ball(3)).getvalue()
    with Image.open(io.BytesIO(data)) as opened:
        opened.seek(1)
        second = opened.tobytes()
    for cut in (9, 350):  # of the third frame, and of the first
        with Image.open(io.BytesIO(data[:-cut])) as opened:
            opened.seek(2)
            assert np.asarray(opened).shape == (70, 90, 3)
            opened.seek(1)
            assert opened.tobytes() == second or cut > 100


def test_frames_of_any_kind() -> None:
    """Generators; frames of several modes; the pictures that were given stand where they stood."""
    gif = io.BytesIO()
    frames = ball(3)
    frames[0].save(gif, "GIF", save_all=True, append_images=frames[1:], duration=[70, 80, 90])
    with Image.open(gif) as source:
        source.seek(1)
        file = io.BytesIO()

        def more() -> Iterator[Image.Image]:
            yield Image.new("L", source.size, 9)

        source.save(file, "SGC", save_all=True, append_images=more())
        assert source.tell() == 1
        with Image.open(file) as opened:
            assert opened.n_frames == 4
            assert opened.mode == "RGB"
            times = []
            for frame in ImageSequence.Iterator(opened):
                times.append(frame.info["duration"])
            assert times == [70, 80, 90, 0]
            assert opened.getpixel((3, 3)) == pytest.approx((9, 9, 9), abs=25)
    implied = io.BytesIO()
    frames[0].save(implied, "SGC", append_images=frames[1:])
    with Image.open(implied) as opened:
        assert opened.n_frames == 3


@pytest.mark.parametrize(
    "options",
    [
        {"duration": [1, 2]},
        {"duration": -1},
        {"duration": "long"},
        {"loop": -1},
        {"loop": 2**32},
        {"duration": float("inf")},
    ],
)
def test_wrong_options(options: dict[str, object]) -> None:
    """A ValueError that names what is wrong."""
    with pytest.raises(ValueError, match=r"duration|loop"):
        saved(ball(3), **options)


@pytest.mark.parametrize("options", [{"durations": [40] * 4}, {"durations": -1}, {"durations": "x"}, {"target_size": 9999}])
def test_wrong_options_cost_no_encoding(options: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    """They are told before the first frame."""
    monkeypatch.setattr("pillow_semicodec.codec.encode", lambda *a, **k: pytest.fail("encoded"))
    with pytest.raises(ValueError, match=r"duration|target"):
        encode_animation([np.zeros((20, 20), np.uint8)] * 5, **options)


@pytest.mark.parametrize("durations", [-5, "x", [1, 2], np.array([3.0, 4.0]), float("nan")])
def test_durations_of_a_single_frame(durations: object) -> None:
    """A frame alone is a picture; wrong durations are wrong there, too."""
    frame = np.zeros((20, 20), np.uint8)
    for frames in ([frame], iter([frame])):
        with pytest.raises(ValueError, match="duration"):
            encode_animation(frames, durations=durations)  # type: ignore[arg-type]
    assert sgc.decode(encode_animation([frame], durations=np.array(3.0))).shape == (20, 20)  # type: ignore[arg-type]


def test_a_wrong_hint_is_no_count() -> None:
    """Of how many frames an iterator has, its length hint need not be right."""

    class Hinted:
        def __init__(self, hint: int) -> None:
            self.hint = hint

        def __iter__(self) -> Iterator[np.ndarray]:
            frame = np.empty((20, 20), np.uint8)
            for k in range(3):  # in one array again and again
                frame[:] = 80 * k
                yield frame

        def __length_hint__(self) -> int:
            return self.hint

    for hint in (0, 1, 5):
        means = [frame.mean() for frame in decode_frames(encode_animation(Hinted(hint), durations=[10, 20, 30]))]
        assert means == pytest.approx([0, 80, 160], abs=15)


def test_a_description_is_written_within_the_limits_of_readers() -> None:
    frames, limits = [np.full((20, 20), k, np.uint8) for k in range(20)], Limits(max_metadata_bytes=40)
    with pytest.raises(LimitExceededError):
        encode_animation(frames, limits=limits)


def test_frames_must_be_alike() -> None:
    """Sizes are told."""
    with pytest.raises(ValueError, match=r"frame 1 is uint8 \[70, 80, 3\]"):
        saved([*ball(1), *ball(1, size=(80, 70))])
    with pytest.raises(ValueError, match="without frames"):
        encode_animation([])


def test_damaged_frames() -> None:
    """The first frames are there; the damaged one is an OSError; verify finds it, too; a cut file says so."""
    data = bytearray(saved(ball(3)).getvalue())
    data[-5] ^= 1
    for broken in (bytes(data), bytes(data[:-9])):
        with Image.open(io.BytesIO(broken)) as opened:
            opened.seek(1)
            opened.load()
            opened.seek(2)
            with pytest.raises(OSError, match="frame 2"):
                opened.load()
        with Image.open(io.BytesIO(broken)) as opened, pytest.raises(OSError, match=r"checksum|ends inside"):
            opened.verify()


@given(st.binary(max_size=30))
def test_any_bytes_are_an_animation_or_none(payload: bytes) -> None:
    """An ancillary chunk never keeps a picture from being shown."""
    data = with_chunks(sgc.encode(photo(20, 20)), {container.ANIMATION: payload})
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.n_frames >= 1
        opened.load()


def test_verify_looks_at_all_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is decoded for it."""
    data = saved(ball(3)).getvalue()
    animation = sgc.read_prologue(data).animation
    assert animation is not None
    monkeypatch.setattr(codec, "decode_picture", lambda *arguments, **options: pytest.fail("decoded"))
    with Image.open(io.BytesIO(data)) as opened:
        opened.verify()
    end = len(data)
    for frame in reversed(animation.frames[1:]):
        broken = bytearray(data)
        broken[end - 6] ^= 4
        end -= frame.size
        with Image.open(io.BytesIO(broken)) as opened, pytest.raises(OSError, match="checksum"):
            opened.verify()


def assert_second_frame_is_damaged(data: bytes, match: str) -> None:
    """And the first one is not."""
    with pytest.raises(sgc.FormatError, match=match):
        list(decode_frames(data))
    with Image.open(io.BytesIO(data)) as opened:
        opened.load()
        opened.seek(1)
        with pytest.raises(OSError, match="frame 1"):
            opened.load()


GREY = photo(40, 50)[:, :, 0]


@pytest.mark.parametrize(
    ("first", "other"),
    [
        (photo(40, 50), GREY),
        (photo(40, 50), GREY > 100),
        (GREY, np.dstack([GREY, GREY])),
        (GREY.astype(np.uint16), GREY.astype(np.int32)),
        (GREY.astype(np.int32), GREY.astype(np.float32)),
    ],
)
def test_frames_of_another_kind_are_damage(first: np.ndarray, other: np.ndarray) -> None:
    """FORMAT.md, section 10."""
    file = sgc.encode(other)
    described = container.Animation(0, (container.Frame(0, 0, 0, 0), container.Frame(0, 0, 0, len(file))))
    data = with_chunks(sgc.encode(first), {container.ANIMATION: container.write_animation(described)}) + file
    assert_second_frame_is_damaged(data, r"does not fit|another kind")


def test_from_a_path(tmp_path: Path) -> None:
    """The file stays open as long as frames may be asked for, and is closed with the picture."""
    (tmp_path / "x.sgc").write_bytes(saved(ball(3)).getvalue())
    with Image.open(tmp_path / "x.sgc") as opened:
        opened.load()
        opened.seek(1)
        opened.load()
        file = opened.fp
        opened.seek(2)
    assert file.closed
    with pytest.raises(ValueError, match="closed"):
        opened.load()
    with pytest.raises(ValueError, match="closed"):
        opened.seek(1)


@pytest.mark.parametrize("by_name", [True, False])
def test_saving_under_its_own_name(by_name: bool, tmp_path: Path) -> None:
    """All frames are kept, from whichever frame it is saved, and however it was opened."""
    for frame in (0, 2):
        (tmp_path / "x.sgc").write_bytes(saved(ball(3)).getvalue())
        path = tmp_path / "x.sgc"
        with contextlib.nullcontext(path) if by_name else path.open("rb") as file, Image.open(file) as opened:
            opened.seek(frame)
            opened.save(path, save_all=True)
        with Image.open(tmp_path / "x.sgc") as again:
            assert again.n_frames == 3
            again.seek(2)
            again.load()


def test_frames_outlive_a_file_that_is_closed() -> None:
    """As those of WebP and AVIF do: of an archive's member, or what a parser was fed with."""
    data = saved(ball(3)).getvalue()
    parser = ImageFile.Parser()
    parser.feed(data)
    fed = parser.close()
    with io.BytesIO(data) as file:
        opened = Image.open(file)
        opened.load()
    for film in (fed, opened):
        frames = [np.asarray(frame) for frame in ImageSequence.Iterator(film)]
        assert all(np.array_equal(a, b) for a, b in zip(frames, decode_frames(data), strict=True))


def test_the_profile_is_that_of_the_picture_that_is_saved(tmp_path: Path) -> None:
    """Pages of a TIFF have their own; an animation has one."""
    profiles = [bytes(16) + b"RGB " + bytes(100) + bytes([k]) for k in range(2)]
    pages = ball(2)
    for page, profile in zip(pages, profiles, strict=True):
        page.encoderinfo = {"icc_profile": profile}
    pages[0].save(tmp_path / "x.tif", save_all=True, append_images=pages[1:])
    with Image.open(tmp_path / "x.tif") as film:
        film.seek(1)
        assert film.info["icc_profile"] == profiles[1]
        film.seek(0)
        film.save(tmp_path / "x.sgc", save_all=True)
    with Image.open(tmp_path / "x.sgc") as opened:
        assert opened.n_frames == 2
        assert opened.info["icc_profile"] == profiles[0]


def test_a_cut_file_says_so_however_it_is_read(tmp_path: Path) -> None:
    """A map of a file refuses to go beyond its end."""
    whole = saved(ball(3)).getvalue()
    last = sgc.read_prologue(whole).animation.frames[-1].size
    (tmp_path / "x.sgc").write_bytes(whole[: -last - 5])
    with open(tmp_path / "x.sgc", "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    for lenient in (False, True):
        with Image.open(mapped) as opened, pytest.MonkeyPatch.context() as patch:
            patch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
            opened.seek(2)
            with contextlib.nullcontext() if lenient else pytest.raises(OSError, match=r"frame 1: .* ends"):
                opened.load()
    mapped.close()
    picture = photo(300, 300)
    (tmp_path / "y.sgc").write_bytes(sgc.encode(picture, slice_side=64)[:-3000])
    with open(tmp_path / "y.sgc", "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    with mapped, pytest.raises(sgc.TruncatedError):
        sgc.decode(mapped, box=(250, 250, 300, 300))


@pytest.mark.parametrize("change", [{"left": 80}, {"top": 60}])
def test_frames_beyond_the_picture_are_damage(change: dict[str, int]) -> None:
    """Of that frame alone: those before it are shown."""
    data = saved(ball(2)).getvalue()
    animation = sgc.read_prologue(data).animation
    first, second = animation.frames
    moved = container.Animation(animation.loop, (first, dataclasses.replace(second, **change)))
    broken = with_chunks(data, {container.ANIMATION: container.write_animation(moved)}) + data[-second.size :]
    assert_second_frame_is_damaged(broken, "does not fit")


def test_later_frames_hold_pixels_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What belongs to the whole is said once, and there is no preview."""
    monkeypatch.setattr("pillow_semicodec.codec.PREVIEW_FROM", 1)
    texts = {"exif": b"Exif\0\0x", "icc_profile": b"p", "comment": "c", "xmp": "x", "dpi": (72, 72)}
    frames = [np.asarray(frame) for frame in ball(3)]
    data = encode_animation(frames, roi=[(0, 0, 80, 60)], semantics=True, indexed=False, **texts)
    first, at = sgc.read_prologue(data), len(data)
    assert first.metadata.keys() >= {b"m", b"e", b"c", b"t", b"x", b"d", b"a"}
    assert container.PREVIEW not in first.metadata
    for frame in reversed(first.animation.frames[1:]):
        at -= frame.size
        assert not sgc.read_prologue(data[at : at + frame.size]).metadata


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "HSV"])
def test_frames_of_other_modes_stay_rgb(mode: str) -> None:
    """As REFERENCE.md says."""
    with Image.open(saved([frame.convert(mode) for frame in ball(2)])) as opened:
        assert (opened.n_frames, opened.mode) == (2, "RGB")


@given(st.integers(1, 200), st.integers(1, 200), st.integers(0, 6), st.integers(0, 2**32 - 1))
def test_boxes_hold_what_differs(height: int, width: int, spots: int, seed: int) -> None:
    """All of it, each pixel once, and no box is larger than it has to be."""
    random = np.random.default_rng(seed)
    differs = np.zeros((height, width), np.bool_)
    for _ in range(spots):
        top, left = random.integers(height), random.integers(width)
        differs[top : top + random.integers(1, 30), left : left + random.integers(1, 30)] = random.random() < 0.9
    before = np.zeros((height, width, 3), np.uint8)
    boxes = animation._changed(before, before + differs[:, :, None], False)
    covered = np.zeros((height, width), int)
    for box in boxes:
        part = differs[box.top : box.bottom, box.left : box.right]
        assert all(part.any(axis)[edge] for axis in (0, 1) for edge in (0, -1))
        covered[box.top : box.bottom, box.left : box.right] += 1
    assert covered.max(initial=0) <= 1
    assert (covered[differs] == 1).all()
    assert len(boxes) <= animation.MOST_BOXES


def scattered(count: int = 3, mode: str = "RGB") -> list[Image.Image]:
    """Two squares far apart that change."""
    frames = []
    for k in range(count):
        frame = Image.fromarray(photo(200, 260)).convert(mode)
        for place in ((10 + 3 * k, 8, 25 + 3 * k, 20), (220, 150 + 4 * k, 240, 170 + 4 * k)):
            frame.paste({"L": 250}.get(mode, (250, 20, 60, 255)[: len(mode)]), place)
        frames.append(frame)
    return frames


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_changes_far_apart_are_stored_apart(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In fewer bytes than in one box, and come back the same through arrays and Pillow, in any order."""
    frames = scattered(mode=mode)
    file = saved(frames, quality=80)
    data = file.getvalue()
    shown = list(decode_frames(data))
    for picture, frame in zip(shown, frames, strict=True):
        assert np.abs(picture.astype(int) - np.asarray(frame)).mean() < 12
        assert np.array_equal(picture[60:140], shown[0][60:140])
    assert len(sgc.read_prologue(data).animation.frames) == 3
    with Image.open(file) as opened:
        assert opened.n_frames == 3
        for place in (2, 0, 1):
            opened.seek(place)
            assert np.array_equal(np.asarray(opened), shown[place])
    with Image.open(file) as opened:
        opened.verify()
    monkeypatch.setattr(animation, "LEAST_SPARED", 10**9)
    assert len(saved(frames, quality=80).getvalue()) > len(data) + 300


def test_damaged_parts() -> None:
    """Every byte of a frame is checked; what stands before the damage is shown to lenient readers; parts have no parts."""
    data = saved(scattered()).getvalue()
    last = sgc.read_prologue(data).animation.frames[-1]
    for at in range(len(data) - last.size, len(data), 7):
        broken = bytearray(data)
        broken[at] ^= 4
        with pytest.raises(sgc.SemicodecError):
            list(decode_frames(bytes(broken)))
        with Image.open(io.BytesIO(broken)) as opened, pytest.raises(OSError, match=r"frame 2|SGC"):
            opened.verify()
    whole = list(decode_frames(data))
    harmed = bytearray(data)
    stream = io.BytesIO(data[-last.size :])
    container.read_slices(stream.read, container.read_prologue(stream.read, frame=True).index)
    harmed[len(data) - last.size + stream.tell() - 6] ^= 4  # in the first part
    for broken, intact in ((data[:-5], slice(0, 60)), (bytes(harmed), slice(140, None))):
        with Image.open(io.BytesIO(broken)) as opened, pytest.MonkeyPatch.context() as patch:
            patch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
            opened.seek(2)
            shown = np.asarray(opened)
        assert np.array_equal(shown[intact], whole[2][intact])
        assert not np.array_equal(shown[intact], whole[1][intact])


@pytest.mark.parametrize(
    "parts",
    [
        b"",
        b"\x01",
        bytes([0, 0, 0]),
        bytes([0, 0, 5]),
        container.write_parts([container.Frame(0, 0, 0, 10**6)]),
        bytes([0, 0, 1]) * 256,
    ],
)
def test_parts_that_are_none(parts: bytes) -> None:
    """Are damage of their frame; a picture that is no frame, or the first one, must not have any."""
    frames, small = [np.asarray(frame) for frame in ball(2)], sgc.encode(photo(8, 9))
    broken = with_chunks(small, {container.PARTS: parts})
    with pytest.raises(sgc.FormatError, match="parts"):
        sgc.decode(broken)
    described = container.Animation(0, (container.Frame(0, 0, 0, 0), container.Frame(0, 3, 4, len(broken))))
    head = with_chunks(sgc.encode(frames[0]), {container.ANIMATION: container.write_animation(described)})
    with pytest.raises(sgc.FormatError):
        list(decode_frames(head + broken))
    with Image.open(io.BytesIO(head + broken)) as opened, pytest.raises(OSError, match="frame 1"):
        opened.seek(1)
        opened.load()


def test_parts_have_no_more_pixels_than_the_picture() -> None:
    """Else a frame of a few bytes could ask for the work of 256 pictures."""
    picture, small = sgc.encode(np.full((8, 9), 90, np.uint8)), sgc.encode(np.full((8, 8), 9, np.uint8))
    for count, fits in ((0, True), (1, False)):
        parts = container.write_parts([container.Frame(0, 0, 0, len(picture))] * count)
        frame = with_chunks(small, {container.PARTS: parts} if count else {}) + picture * count
        described = container.Animation(0, (container.Frame(0, 0, 0, 0), container.Frame(0, 0, 0, len(frame))))
        file = with_chunks(picture, {container.ANIMATION: container.write_animation(described)}) + frame
        with contextlib.nullcontext() if fits else pytest.raises(sgc.FormatError, match="more pixels"):
            assert len(list(decode_frames(file))) == 2
        with Image.open(io.BytesIO(file)) as opened, pytest.MonkeyPatch.context() as patch:
            patch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
            opened.seek(1)
            assert np.abs(np.asarray(opened)[:, :8].astype(int) - 9).max() < 4  # the first part alone
        with (
            Image.open(io.BytesIO(file)) as opened,
            contextlib.nullcontext() if fits else pytest.raises(OSError, match="more"),
        ):
            opened.verify()


def test_what_was_shown_leniently_is_not_built_on() -> None:
    """By strict loads of later frames, which refuse what a file that was just opened refuses."""
    data = saved(ball(3)).getvalue()
    first = sgc.read_prologue(data).animation.frames
    for at, name in (
        (len(data) - first[2].size - 6, "frame 1"),
        (len(data) - first[1].size - first[2].size - 6, "SGC file: (?!frame)"),
    ):
        harmed = bytearray(data)
        harmed[at] ^= 4
        with Image.open(io.BytesIO(harmed)) as opened:
            opened.seek(1)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
                opened.load()
            opened.seek(2)
            with pytest.raises(OSError, match=name):
                opened.load()


def test_parts_within_the_limits_of_readers() -> None:
    """Where they would take too long a list, one box does."""
    frames = [np.full((640, 640), 90, np.uint8) for _ in range(2)]
    for top in range(0, 640, 40):
        for left in range(0, 640, 80):
            frames[1][top : top + 4, left : left + 4] = 200
    for most, parts in ((1000, True), (20, False)):
        limits = Limits(max_metadata_bytes=most)
        data = encode_animation(frames, indexed=True, limits=limits)
        shown = list(decode_frames(data, limits=limits))
        assert np.array_equal(shown[1], frames[1])
        part = data[-sgc.read_prologue(data).animation.frames[1].size :]
        assert (container.PARTS in container.read_prologue(io.BytesIO(part).read, frame=True).metadata) is parts
