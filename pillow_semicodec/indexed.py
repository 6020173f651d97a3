"""Indexed pictures: screens, text and drawings of few colours, as a palette and the numbers of its colours, without a model.

Where the same letters and flat grounds return, exact repetition beats any transform: such a picture takes fewer bytes, shows
no trace of coding and is decoded faster. Quality says how many of its colours stay. A colour gives way to a near one only as
far as its surroundings hide it: pixels at the edges of letters do, those of flat grounds never, of soft gradients hardly.

Source: dictionary and range coding of LZMA (Pavlov), palettes as in HEVC's screen content coding (Pu et al., 2016).
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import container
from .alpha import BY_CONTEXT, BY_REPETITION, decode_alpha, encode_alpha
from .container import CutStream, Header
from .entropy.coder import StreamEncoder
from .entropy.lossless import encode_plane
from .entropy.repetition import is_available, pack, unpack
from .errors import FormatError
from .layout import Layout, Streams
from .lazy import lazily
from .limits import Limits
from .pixels import LATENT_STRIDE
from .planes import Box
from .progress import Progress, stage
from .rate_control import SquaredError, Target

SLICE_SIDE, LEAST_SIDE = 4096, 64  # pixels; repetition pays across large areas, and there is no network to be fed
NEEDLESS = (container.PREVIEW, container.REGIONS)
MOST_COLOURS = 2**16  # of a file
WORTH_COLOURS = 2**13  # of a picture for which an encoder tries
WORTH_REPEATS = 0.3  # share of the pixels that are equal to the one on their left; most photographs have 0.02 to 0.25
LONG_RUN = 32  # pixels of one colour in a row
WORTH_RUNS = 0.2  # share of the pixels in such runs, if a picture of more colours is a screen with photographs
FEW_COLOURS = 16  # of a dithered picture, which need repeat nothing
PROBE_ROWS = 32
AS_THEY_ARE = b"\1"  # before colours that are not packed: LZMA begins with 0
FREQUENT = 256  # colours whose numbers have one byte
EXACT_FROM = 95  # quality
SHARE_PER_QUALITY, LARGEST_SHARE = 0.0075, 0.3
SHARES = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3)  # that are tried for a target; where less must do, latents do better
SMOOTHEST = 4.0  # times the least contrast along a run: where that is less, the run keeps its colour
STEADY, ANOTHER = 16, 24.0  # the most frequent colours, letters' among them, never become one that is farther away than that
BATCH = 256  # colours that are compared with all others at once
LUMA = (0.299, 0.587, 0.114)
OPPONENT = ((0.299, 0.587, 0.114), (-0.0845, -0.1655, 0.25), (0.25, -0.2095, -0.0405))  # chroma counts half

Numbers = NDArray[np.signedinteger[Any]]


class Indexed(NamedTuple):
    """A picture as a palette and numbers.

    Attributes:
        palette: uint8 [n, 3], or [n, 1] of a grey picture. numbers: uint16 [H, W].
    """

    palette: NDArray[np.uint8]
    numbers: NDArray[np.uint16]


def share_of(quality: float) -> float:
    """Of the contrast around a colour, how far away the colour may be that takes its place."""
    return min(max(EXACT_FROM - float(quality), 0.0) * SHARE_PER_QUALITY, LARGEST_SHARE)


# ---- which pictures ----------------------------------------------------------------------------------------------


def is_worth_trying(picture: Any) -> bool:
    """Whether a few rows look like a screen or a drawing. Costs far less than encoding.

    Args:
        picture: uint8 [H, W] or [H, W, 1 to 4], an array or anything that gives boxes.
    """
    height, width = picture.shape[:2]
    if height * width > container.MOST_OVERLAID or not is_available():
        return False
    probe = _probe(picture)
    if width > 1 and (probe[:, 1:] == probe[:, :-1]).mean() < WORTH_REPEATS:
        return all(len(np.unique(rows)) <= FEW_COLOURS for rows in (probe[:1], probe))  # one row tells of photographs
    return len(np.unique(probe)) <= WORTH_COLOURS or _share_of_runs(probe) >= WORTH_RUNS


def _share_of_runs(probe: Numbers) -> float:
    """Of the pixels of some rows, those in long runs of one colour."""
    begins = np.ones(probe.shape, np.bool_)
    begins[:, 1:] = probe[:, 1:] != probe[:, :-1]
    runs = np.diff(np.append(np.flatnonzero(begins), probe.size))
    return float(runs[runs >= LONG_RUN].sum() / probe.size)


def _probe(picture: Any) -> Numbers:
    """Colours of a few rows, as ``visible`` numbers them."""
    height, width = picture.shape[:2]
    rows = range(0, height, max(1, height // PROBE_ROWS))
    return visible(np.concatenate([np.asarray(picture[i : i + 1, 0:width]) for i in rows]))[0]


def visible(picture: NDArray[np.uint8], exact: bool = False) -> tuple[Numbers, NDArray[np.bool_] | None]:
    """(colours as numbers [H, W], where alpha is not 0, unless it is nowhere); unseen colours are -1."""
    if picture.ndim == 2:
        return picture.astype(np.int32), None
    alpha = picture.shape[2] in (2, 4)
    colours = _numbers_of(picture[:, :, :-1] if alpha else picture)
    seen = picture[:, :, -1] > 0 if alpha and not exact else None
    if seen is None or seen.all():
        return colours, None
    colours[~seen] = -1
    return colours, seen


def _numbers_of(colours: NDArray[np.uint8]) -> Numbers:
    """[…, bands] → […]."""
    numbers = colours[..., 0].astype(np.int32)
    for band in range(1, colours.shape[-1]):
        numbers = numbers << 8 | colours[..., band]
    return numbers


def bytes_of(numbers: Numbers, grey: bool) -> NDArray[np.uint8]:
    """[…] → […, 1], or […, 3] unless ``grey``."""
    shifts = np.array([0] if grey else [16, 8, 0])
    result: NDArray[np.uint8] = (numbers[..., None] >> shifts & 255).astype(np.uint8)
    return result


# ---- fewer colours -----------------------------------------------------------------------------------------------


class Colours:
    """The colours of a picture, how often they occur, and how much contrast surrounds them.

    Args:
        picture: uint8 [H, W] or [H, W, 2 to 4].
        exact: colours under alpha 0 count, too.
        where: bool [H, W]: no others count.

    Attributes:
        found: how many there are.
    """

    def __init__(self, picture: NDArray[np.uint8], exact: bool = False, where: NDArray[np.bool_] | None = None) -> None:
        self.picture, self.grey, self.exact = picture, picture.ndim == 2 or picture.shape[2] == 2, exact
        flat, self.seen = visible(picture, exact)
        if where is not None:
            flat, self.seen = np.where(where, flat, -1), where if self.seen is None else self.seen & where
        self.shape = flat.shape
        line = flat.ravel()
        self.starts = np.concatenate([[0], np.flatnonzero(line[1:] != line[:-1]) + 1])  # of runs of one colour
        self.values, self.which = np.unique(line[self.starts], return_inverse=True)
        self.found = int((self.values >= 0).sum())

    @lazily
    def lengths(self) -> NDArray[np.intp]:
        """Of the runs, pixels."""
        return np.diff(np.append(self.starts, self.shape[0] * self.shape[1]))

    @lazily
    def contrasts(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """(the least along every run, the mean around every colour), so much more as they are seen through."""
        around: NDArray[Any] = _contrast(self.picture, self.grey, self.seen).ravel()
        sums, shown = np.add.reduceat(around, self.starts, dtype=np.float64), self.lengths.astype(np.float64)
        if self.picture.ndim == 3 and self.picture.shape[2] in (2, 4) and not self.exact:
            alpha = np.maximum(self.picture[:, :, -1], 1).ravel() / np.float32(255)
            around, shown = around / alpha, np.add.reduceat(alpha, self.starts, dtype=np.float64)
        mean = np.bincount(self.which, sums) / np.bincount(self.which, shown)
        return np.minimum.reduceat(around, self.starts), mean

    def indexed(self, share: float) -> Indexed:
        """Args: share: as ``share_of`` gives it."""
        values, which = self.values, self.which
        counts = np.bincount(which, self.lengths)
        unseen = int(values[0] < 0)
        counts[:unseen] = 0
        palette = bytes_of(values, self.grey)
        takes, distances = np.arange(len(values)), np.zeros(len(values), np.float32)
        moves: Any = True
        if share:
            least, mean = self.contrasts
            takes, distances = _merged(palette, counts, share * mean)
            moves = distances[which] <= SMOOTHEST * share * least
        if unseen:  # what nobody sees is of the most frequent colour
            takes[0] = takes[counts.argmax()]
            moves = moves | (which == 0)
        which = np.where(moves, takes[which], which)
        counts = np.bincount(which, self.lengths * (self.which >= unseen), len(values))
        counts[which[0]] += not counts.any()  # nobody sees anything
        kept = np.flatnonzero(counts)
        order = kept[_order(counts[kept])]
        rank = np.zeros(len(values), np.uint16)
        rank[order] = np.arange(len(order))
        return Indexed(palette[order], np.repeat(rank[which], self.lengths).reshape(self.shape))

    def fillings(self, indexed: Indexed) -> list[Indexed]:
        """What ``indexed`` gave; and with what nobody sees like the last that is seen before it, which may take less."""
        unseen = self.which == 0 if self.values[0] < 0 else np.zeros(1, np.bool_)
        if not unseen.any() or unseen.all():
            return [indexed]
        before = np.maximum.accumulate(np.where(unseen, unseen.argmin(), np.arange(len(unseen))))
        runs = indexed.numbers.ravel()[self.starts]
        return [indexed, indexed._replace(numbers=np.repeat(runs[before], self.lengths).reshape(self.shape))]


def _order(counts: NDArray[Any]) -> NDArray[np.intp]:
    """The most frequent colours, in ascending order, and then all others, likewise."""
    frequent = np.sort(np.argsort(-counts, kind="stable")[:FREQUENT])
    rest = np.setdiff1d(np.arange(len(counts)), frequent)
    return np.concatenate([frequent, rest])


def _contrast(picture: NDArray[np.uint8], grey: bool, seen: NDArray[np.bool_] | None) -> NDArray[np.float32]:
    """The largest difference in luma to one of the four neighbours, [H, W]; what nobody sees makes none."""
    if grey:
        luma = (picture if picture.ndim == 2 else picture[:, :, 0]).astype(np.float32)
    else:
        luma = sum(np.float32(w) * picture[:, :, k] for k, w in enumerate(LUMA))  # type: ignore[assignment]
    result = np.zeros_like(luma)
    for axis in (0, 1):
        step = np.abs(np.diff(luma, axis=axis))
        before, behind = [slice(None)] * 2, [slice(None)] * 2
        before[axis], behind[axis] = slice(None, -1), slice(1, None)
        if seen is not None:
            step *= seen[tuple(before)] & seen[tuple(behind)]
        for at in (tuple(before), tuple(behind)):
            np.maximum(result[at], step, out=result[at])
    return result


def _merged(
    palette: NDArray[np.uint8], counts: NDArray[Any], reach: NDArray[Any]
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """(which colour every one becomes: the nearest more frequent one that stays, if it is within reach; how far that is)."""
    wide = palette.astype(np.float32)
    if palette.shape[1] == 3:
        wide = wide @ np.array(OPPONENT, np.float32).T
    takes, distances = np.arange(len(palette)), np.zeros(len(palette), np.float32)
    kept: NDArray[np.intp] = np.zeros(0, np.intp)
    order = np.argsort(-counts, kind="stable")
    reach = reach.copy()
    reach[order[:STEADY]] = np.minimum(reach[order[:STEADY]], ANOTHER)
    for start in range(0, len(order), BATCH):
        own = order[start : start + BATCH]
        near, squares = _nearest(wide[own], wide[kept])
        near = kept[near] if len(kept) else near
        among = np.square(wide[own][:, None] - wide[own]).sum(2)
        stays = np.zeros(len(own), np.bool_)
        for k, limit in enumerate(reach[own] ** 2):
            if squares[k] > limit:
                stays[k] = True
                nearer = among[k] < squares
                squares[nearer], near[nearer] = among[k][nearer], own[k]
            else:
                takes[own[k]], distances[own[k]] = near[k], squares[k] ** 0.5
        kept = np.concatenate([kept, own[stays]])
    return takes, distances


def _nearest(some: NDArray[np.float32], others: NDArray[np.float32]) -> tuple[NDArray[np.intp], NDArray[Any]]:
    """For every row of ``some``: (the nearest row of ``others``, its squared distance, without end where there are none)."""
    if not len(others):
        return np.zeros(len(some), np.intp), np.full(len(some), np.inf)
    products = (others**2).sum(1) - 2 * some @ others.T
    nearest = products.argmin(1)
    return nearest, np.square(others[nearest] - some).sum(1)


# ---- bytes -------------------------------------------------------------------------------------------------------


def write_palette(palette: NDArray[np.uint8]) -> bytes:
    """The payload of the palette's chunk: uint8 [n, bands], in the order of ``Colours.indexed``."""
    steps = np.concatenate([np.diff(part, prepend=0) for part in _groups(_numbers_of(palette))])
    planes = bytes_of(steps, palette.shape[1] == 1).T.tobytes()  # high bytes first
    packed = pack(planes)
    return container.write_varint(len(palette)) + (packed if len(packed) <= len(planes) else AS_THEY_ARE + planes)


def read_palette(payload: bytes, grey: bool) -> NDArray[np.uint8]:
    """Mirror of ``write_palette``; [n, 1] or [n, 3].

    Raises:
        FormatError.
    """
    stream = BytesIO(payload)
    count, bands = container.read_varint(stream.read)[0], 1 if grey else 3
    if not 1 <= count <= MOST_COLOURS:
        raise FormatError(f"a palette of {count} colours")
    size, planes = count * bands, stream.read()
    if planes[:1] == AS_THEY_ARE:
        planes = planes[1:]
        if len(planes) != size:
            raise FormatError(f"a palette of {count} colours in {len(planes)} bytes")
    else:
        planes = unpack(planes, size)
    steps = _numbers_of(np.frombuffer(planes, np.uint8).reshape(bands, count).T)
    colours = np.concatenate([np.cumsum(part) for part in _groups(steps)])
    if colours.max() >= 256**bands:
        raise FormatError("a palette of colours that do not exist")
    return bytes_of(colours, grey)


def _groups(numbers: Numbers) -> list[Numbers]:
    return [part for part in (numbers[:FREQUENT], numbers[FREQUENT:]) if len(part)]


def _width_of(colours: int) -> int:
    return 1 if colours <= FREQUENT else 2


def pack_numbers(numbers: NDArray[np.uint16], colours: int) -> bytes:
    """The stream of a slice, [rows, columns], of a palette of so many colours."""
    if colours == 1:
        return b""
    width = _width_of(colours)
    stream = pack(numbers.astype("<u2" if width == 2 else np.uint8).tobytes(), width)
    if colours > 2:
        return stream
    encoder = StreamEncoder()
    encode_plane(encoder, numbers.astype(np.uint8) * np.uint8(255), bilevel=True)
    return min(bytes([BY_CONTEXT]) + encoder.finish(), bytes([BY_REPETITION]) + stream, key=len)


def unpack_numbers(stream: bytes, colours: int, shape: tuple[int, int]) -> NDArray[Any]:
    """Mirror of ``pack_numbers``; what has not arrived of a cut stream is 0.

    Raises:
        FormatError.
    """
    if colours == 1:
        if stream:
            raise FormatError(f"{len(stream)} bytes of numbers where there is one colour")
        return np.zeros(shape, np.uint8)
    cut = isinstance(stream, CutStream)
    if colours == 2:
        kind = stream[:1]
        if cut and kind != bytes([BY_REPETITION]):
            return np.zeros(shape, np.uint8)
        if kind == bytes([BY_CONTEXT]):
            return decode_alpha(stream[1:], shape, bilevel=True) >> 7
        if kind != bytes([BY_REPETITION]):
            raise FormatError("numbers of an unknown kind")
        stream = type(stream)(stream[1:])
    width = _width_of(colours)
    data = unpack(stream, shape[0] * shape[1] * width, width)
    numbers = np.frombuffer(data, "<u2" if width == 2 else np.uint8).reshape(shape)
    if numbers.max() >= colours:
        if not cut:
            raise FormatError(f"a colour beyond the {colours} of the palette")
        numbers = np.where(numbers < colours, numbers, 0)
    return numbers


def encode_numbers(indexed: Indexed, layout: Layout, threads: int, step: Callable[[], None] = lambda: None) -> Streams:
    """The streams of a picture's numbers, one for every slice, after which ``step`` is called."""
    streams = [b""] * layout.slices

    def work(i: int, j: int) -> None:
        at = layout.pixels_of(layout.latents.box(i, j))
        part = indexed.numbers[at.top : at.bottom, at.left : at.right]
        streams[layout.latents.number(i, j)] = pack_numbers(part, len(indexed.palette))
        step()

    layout.run(work, threads)
    return tuple(streams)


def decode_indexed(
    palette: NDArray[np.uint8],
    streams: Streams,
    layout: Layout,
    box: Box,
    out: Any,
    threads: int,
    step: Callable[[], None] = lambda: None,
) -> None:
    """A box of a picture, into ``out``; ``step`` is called after every slice.

    Args:
        streams: those of the numbers, then, if the layout says so, those of alpha.
        out: of [rows, columns] for grey, or with bands as the picture has them: takes boxes.

    Raises:
        FormatError: the streams cannot have been made by an encoder.
    """

    def work(i: int, j: int) -> None:
        at = layout.pixels_of(layout.latents.box(i, j))
        part, k = at.grown(0, 0, box), layout.latents.number(i, j)
        numbers = unpack_numbers(streams[k], len(palette), at.shape)
        pixels = palette[numbers[part.within(at)]]
        if layout.alpha:
            alpha = decode_alpha(streams[layout.slices + k], at.shape)[part.within(at)]
            pixels = np.concatenate([pixels, alpha[:, :, None]], 2)
        rows, columns = part.within(box)
        out[rows, columns] = pixels[:, :, 0] if pixels.shape[2] == 1 else pixels
        step()

    layout.run(work, threads, box.divided(LATENT_STRIDE))


# ---- files -------------------------------------------------------------------------------------------------------


class Drawing:
    """A picture that can be coded indexed, at one share or another (``share_of``).

    Args:
        picture: uint8 [H, W] or [H, W, 2 to 4], an array or anything that gives boxes. mode: of the file.
        alpha_levels: as ``alpha.levels_of`` gives them. exact: colours under alpha 0 are kept, too.
        side: of the slices; None chooses, within ``limits``, those of a reader.
        metadata: payloads of chunks that the file shall hold. must: there is no other way to code it.

    Raises:
        ValueError: it must be, and has more than ``MOST_COLOURS``.
    """

    def __init__(
        self,
        picture: Any,
        mode: str,
        threads: int,
        alpha_levels: int,
        exact: bool,
        side: int | None,
        limits: Limits,
        metadata: dict[bytes, bytes],
        must: bool = False,
    ) -> None:
        height, width = picture.shape[:2]
        if side is None:
            side = SLICE_SIDE
            while side**2 > limits.max_slice_pixels and side > LEAST_SIDE:
                side //= 2
            side = side if max(height, width) > side else 0
        self.threads, self.alpha_levels, self.limits = threads, alpha_levels, limits
        self.metadata = {kind: payload for kind, payload in metadata.items() if kind not in NEEDLESS}
        self.header = Header(width, height, mode, indexed=True)
        self.layout = Layout(height, width, side, self.header.alpha)
        self.pixels, self._exact = np.asarray(picture[0:height, 0:width]), exact
        if must and self.colours.found > MOST_COLOURS:
            raise ValueError(f"{self.colours.found} colours are too many for an indexed picture: {MOST_COLOURS} at most")
        # A few rows may tell already what counting all colours would.
        self.hopeless = not must and (
            len(np.unique(_probe(self.pixels))) > WORTH_COLOURS or self.colours.found > WORTH_COLOURS
        )
        self._last: tuple[float, Indexed] | None = None
        self._must = must

    @lazily
    def colours(self) -> Colours:
        return Colours(self.pixels, self._exact)

    @lazily
    def alpha(self) -> Streams:
        return encode_alpha(self.pixels, self.layout, self.alpha_levels, self.threads) if self.header.alpha else ()

    def indexed(self, share: float) -> Indexed:
        if self._last is None or self._last[0] != share:  # a share is often looked at twice
            self._last = share, self.colours.indexed(share)
        return self._last[1]

    def file(self, share: float, below: float = np.inf, way: Progress | None = None) -> bytes | None:
        """The bytes of the file, unless they are not fewer than ``below``."""
        if self.hopeless:
            return None
        indexed = self.indexed(share)
        fillings = self.colours.fillings(indexed)
        step = stage(way, len(fillings) * self.layout.slices, 1 / 2)
        ways = [encode_numbers(filled, self.layout, self.threads, step) for filled in fillings]
        streams = tuple(min(choices, key=len) for choices in zip(*ways, strict=True))
        if sum(map(len, streams)) >= below:
            return None
        palette = write_palette(indexed.palette)
        if len(palette) > self.limits.max_metadata_bytes and not self._must:
            return None
        metadata = {**self.metadata, container.PALETTE: palette}
        streams = (*streams, *self.alpha)
        data = container.write_container(self.header, 0, streams, metadata, self.layout.side)
        return data if len(data) < below else None

    def psnr(self, share: float) -> float:
        indexed, found = self.indexed(share), SquaredError(self.pixels)
        decoded = indexed.palette[indexed.numbers]
        rows, columns = (slice(0, n) for n in decoded.shape[:2])
        found[rows, columns] = decoded
        return found.psnr

    def file_for(self, quality: float, target: Target | None, way: Progress | None = None) -> bytes | None:
        """The best file that is not too large, or the smallest one that is good enough; None if there is none."""
        if self.hopeless:
            return None
        if target is None:
            return self.file(share_of(quality), way=way)
        if target.size is not None:
            files = (self.file(share, target.size + 1, way) for share in SHARES)
            return next((data for data in files if data), None)
        assert target.psnr is not None
        good = (share for share in reversed(SHARES) if self.psnr(share) >= target.psnr)
        share = next(good, None)
        return None if share is None else self.file(share, way=way)

    def costly(self, target: Target) -> bytes | None:
        """A file that meets a target, however many colours that takes; None where no palette has so many."""
        self.hopeless = self.colours.found > MOST_COLOURS
        return self.file_for(0, target)
