"""A second decoder of pictures of 8 bits, laid out like FORMAT.md: slow, plain, and sharing no code with the package.

The range decoder and the integer networks are plain Python and NumPy integers; only the float networks run in ONNX
Runtime. It is the oracle for indexes and latents, and the proof that FORMAT.md says enough.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import onnxruntime

# ---- 1 to 4: file, header, chunks, slice index -------------------------------------------------------------------


def leb128(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def parse(data: bytes) -> dict:
    signature, version, mode = struct.unpack(">4sBB", data[:6])
    assert signature == b"\x8aSGC" and version == 0
    width, at = leb128(data, 6)
    height, at = leb128(data, at)
    networks = mode != 5 and not 8 <= mode <= 11
    model = data[at : at + 8] if networks else None
    at += 8 * networks
    assert struct.unpack(">I", data[at : at + 4])[0] == zlib.crc32(data[:at])
    at += 4
    file = {
        "mode": {1: "L", 2: "RGB", 3: "LA", 4: "RGBA", 5: "1", 8: "L", 9: "RGB", 10: "LA", 11: "RGBA"}[mode],
        "indexed": 8 <= mode <= 11,
        "size": (width, height),
        "model": model,
        "metadata": {},
    }
    while "streams" not in file:
        start, kind = at, chr(data[at])
        size, at = leb128(data, at + 1)
        payload = data[at : at + size]
        at += size
        assert struct.unpack(">I", data[at : at + 4])[0] == zlib.crc32(data[start:at])
        at += 4
        if kind == "I":
            position = 2 * networks
            file["rate"] = int.from_bytes(payload[:position], "big")
            file["side"] = 2 ** payload[position] if payload[position] != 255 else None
            position, file["streams"] = position + 1, []
            while position < len(payload):
                size, position = leb128(payload, position)
                file["streams"].append(data[at : at + size])
                at += size
                assert struct.unpack(">I", data[at : at + 4])[0] == zlib.crc32(file["streams"][-1])
                at += 4
        elif kind == "R":
            rates = struct.unpack(f">{payload[0]}H", payload[1 : 1 + 2 * payload[0]])
            levels = np.frombuffer(zlib.decompress(payload[1 + 2 * payload[0] :]), np.uint8)
            file["rates"] = np.array(rates)[levels].reshape(-(-height // 16), -(-width // 16))
        else:
            assert kind.islower() or kind in ("P" if file["indexed"] else "OG")
            file["metadata"][kind] = payload
    return file


# ---- 5: the range coder ------------------------------------------------------------------------------------------

PRECISION = 24


class RangeDecoder:
    """Range decoder with 64-bit state and 32-bit words."""

    def __init__(self, stream: bytes) -> None:
        self.words = list(struct.unpack(f"<{len(stream) // 4}I", stream))
        self.lower, self.range = 0, 2**64 - 1
        self.point = self.next_word() << 32 | self.next_word()

    def next_word(self) -> int:
        return self.words.pop(0) if self.words else 0

    def decode(self, cumulative: list[int]) -> int:
        """``cumulative`` rises from 0 to 2**24; returns the symbol."""
        scale = self.range >> PRECISION
        quantile = ((self.point - self.lower) % 2**64) // scale
        assert quantile < 2**PRECISION, "invalid stream"
        symbol = int(np.searchsorted(cumulative, quantile, side="right")) - 1
        self.lower = (self.lower + scale * cumulative[symbol]) % 2**64
        self.range = scale * (cumulative[symbol + 1] - cumulative[symbol])
        if self.range < 2**32:
            self.lower = self.lower << 32 & 2**64 - 1
            self.range <<= 32
            self.point = (self.point << 32 & 2**64 - 1) | self.next_word()
        return symbol

    def finish(self) -> None:
        assert not self.words, "words are left over"
        assert self.range == 2**64 - 1 or (self.point - self.lower) % 2**64 < 2**33 - 1, "the stream goes on"


def categorical(frequencies: np.ndarray) -> list[int]:
    """Every symbol gets one part of 2**24, the rest is shared out by rounding down the cumulative frequencies."""
    n = len(frequencies)
    scale = np.float64(2**PRECISION - n) / np.float64(frequencies.sum())
    before = np.concatenate([[0], np.cumsum(frequencies.astype(np.int64))[:-1]]).astype(np.float64)
    return [int(c * scale) + k for k, c in enumerate(before)] + [2**PRECISION]


def uniform(size: int) -> list[int]:
    """Equal parts of 2**24; the last symbol takes what is left over."""
    return [k * (2**PRECISION // size) for k in range(size)] + [2**PRECISION]


class Tables:
    def __init__(self, arrays: dict, which: str) -> None:
        sizes = arrays[f"{which}_sizes"]
        ends = np.cumsum(sizes)
        self.minimums = arrays[f"{which}_minimums"]
        self.models = [
            categorical(arrays[f"{which}_frequencies"][e - s : e]) if s else None for s, e in zip(sizes, ends, strict=True)
        ]

    def __len__(self) -> int:
        return len(self.models)


def decode_array(coder: RangeDecoder, tables: Tables, indexes: np.ndarray) -> np.ndarray:
    values = np.zeros(len(indexes), np.int64)
    escaped = []
    for position in np.argsort(indexes, kind="stable"):
        model = tables.models[indexes[position]]
        if model is None:
            continue
        symbol = coder.decode(model)
        if symbol == len(model) - 2:
            escaped.append(position)
        values[position] = symbol + tables.minimums[indexes[position]]
    classes = [coder.decode(uniform(32)) for _ in escaped]
    for position, k in zip(escaped, classes, strict=True):
        n = 2**k + (coder.decode(uniform(2**k)) if k else 0)
        values[position] = (n - 1) // 2 if n % 2 else -n // 2
    return values


# ---- 5: alpha ----------------------------------------------------------------------------------------------------


LARGEST_COUNT = 2**20


class Counts:
    """Frequencies of symbols by context, from what was seen before."""

    def __init__(self, start: Callable[[int], list[int]]) -> None:
        self.start, self.counts = start, {}

    def model(self, context: int) -> list[int]:
        counts = self.counts.get(context) or self.start(context)
        frequencies = [1 + c * (65536 - len(counts)) // sum(counts) for c in counts]
        frequencies[counts.index(max(counts))] += 65536 - sum(frequencies)
        return categorical(np.array(frequencies))

    def add(self, seen: list[tuple[int, int]]) -> None:
        for context, symbol in seen:
            self.counts.setdefault(context, self.start(context))[symbol] += 4
        for context, counts in self.counts.items():
            if sum(counts) > LARGEST_COUNT:
                self.counts[context] = [(c + 1) // 2 for c in counts]


def decode_grouped(coder: RangeDecoder, contexts: list[int], counts: Counts) -> list[int]:
    symbols = [0] * len(contexts)
    models = {context: counts.model(context) for context in set(contexts)}
    for position in sorted(range(len(contexts)), key=contexts.__getitem__):
        symbols[position] = coder.decode(models[contexts[position]])
    counts.add(list(zip(contexts, symbols, strict=True)))
    return symbols


def decode_plane(  # noqa: PLR0915
    coder: RangeDecoder, shape: tuple[int, int], bilevel: bool = False
) -> np.ndarray:
    height, width = shape
    a = np.zeros(shape, int)
    a[0, 0] = coder.decode(uniform(256))
    choices = Counts(lambda context: [8 if context % 128 == 127 else 1, 1, 1][: 2 if bilevel else 3])
    residuals = Counts(lambda context: [1 + 16 // (1 + min(k, 256 - k)) for k in range(256)])
    step = 1
    while step < max(shape):
        step *= 2
    while step > 1:
        half = step // 2

        def grid(k: int, l: int, top: int, left: int, step: int = step) -> int:  # noqa: E741
            """(k, l) on the grid that begins at (top, left), or what is nearest to it there."""
            k, l = (max(0, min(n, (size - 1 - start) // step)) for n, size, start in ((k, height, top), (l, width, left)))  # noqa: E741
            return int(a[top + k * step, left + l * step])

        for kind, (top, left) in enumerate(((half, 0), (0, half), (half, half))):
            positions = [(i, j) for i in range(top, height, step) for j in range(left, width, step)]
            near, guesses = [], []
            for i, j in positions:
                k, l = i // step, j // step  # noqa: E741
                if kind == 0:
                    steps = ((0, 0), (1, 0), (0, -1), (0, 1), (1, -1), (1, 1), (-1, 0), (2, 0))
                    near.append([grid(k + p, l + q, 0, 0) for p, q in steps])
                    far = near[-1][6:]
                elif kind == 1:
                    first, second = grid(k, l, 0, 0), grid(k, l + 1, 0, 0)
                    steps = ((-1, 0), (0, 0), (-1, 1), (0, 1))
                    corners = (
                        [grid(k + p, l + q, half, 0) for p, q in steps] if half < height else [first] * 2 + [second] * 2
                    )
                    far = [grid(k, l - 1, 0, 0), grid(k, l + 2, 0, 0)]
                    near.append([first, second, *corners, *far])
                else:
                    sides = [grid(k, l, half, 0), grid(k, l + 1, half, 0), grid(k, l, 0, half), grid(k + 1, l, 0, half)]
                    near.append([*sides, *(grid(k + p, l + q, 0, 0) for p, q in ((0, 0), (0, 1), (1, 0), (1, 1)))])
                    far = [grid(k, l - 1, half, 0), grid(k, l + 2, half, 0)]
                    far += [grid(k - 1, l, 0, half), grid(k + 2, l, 0, half)]
                n = len(far)
                guesses.append(min(255, max(0, (9 * sum(near[-1][:n]) - sum(far) + 4 * n) // (8 * n))))
            spreads = [max(n) - min(n) for n in near]
            patterns = [sum((v == n[0]) << (6 - b) for b, v in enumerate(n[1:])) for n in near]
            classes = [sum(s > bound for bound in (0, 8, 64)) for s in spreads]
            contexts = [(kind * 4 + c) * 128 + p for c, p in zip(classes, patterns, strict=True)]
            finer = [sum(s > bound for bound in (0, 1, 2, 4, 8, 16, 32, 64, 128)) for s in spreads]
            size, start = len(positions), 0
            while start < size:
                end = size if size < 2048 else min(size, max(size // 8, 3 * start))
                symbols = decode_grouped(coder, contexts[start:end], choices)
                others = [start + n for n, symbol in enumerate(symbols) if symbol == 2]
                rest = dict(zip(others, decode_grouped(coder, [finer[n] for n in others], residuals), strict=True))
                for n in range(start, end):
                    v = near[n]
                    if bilevel:
                        a[positions[n]] = 255 - v[0] if symbols[n - start] else v[0]
                    else:
                        a[positions[n]] = (guesses[n] + rest[n]) % 256 if n in rest else v[symbols[n - start]]
                start = end
        step = half
    coder.finish()
    return a


# ---- 5: the integer networks ---------------------------------------------------------------------------------------


class IntegerGraph:
    """Runs the operators of an exported integer network in int64, and checks that nothing leaves float32's range."""

    def __init__(self, data: bytes) -> None:
        self.graph = onnx.load_from_string(data).graph
        self.constants = {t.name: onnx.numpy_helper.to_array(t) for t in self.graph.initializer}

    def run(self, *inputs: np.ndarray) -> list[np.ndarray]:
        values = dict(self.constants)
        values.update({i.name: x.astype(np.float64) for i, x in zip(self.graph.input, inputs, strict=True)})
        for node in self.graph.node:
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            values[node.output[0]] = self.operator(node.op_type, attributes, [values[n] if n else None for n in node.input])
        return [values[o.name] for o in self.graph.output]

    def operator(self, kind: str, attributes: dict, x: list) -> np.ndarray:
        if kind == "Conv":
            return convolve(*x, groups=attributes.get("group", 1))
        if kind == "Constant":
            return onnx.numpy_helper.to_array(attributes["value"])
        if kind == "Mul":
            return x[0] * x[1]  # by a power of two: exact
        if kind == "Floor":
            return np.floor(x[0])
        if kind == "Clip":
            low, high = [*x, None, None][1:3]
            return np.clip(x[0], -np.inf if low is None else low, np.inf if high is None else high)
        if kind == "Min":
            return np.minimum(x[0], x[1])
        if kind == "Max":
            return np.maximum(x[0], x[1])
        if kind == "DepthToSpace":
            assert attributes["mode"] == b"CRD"
            b, (_, c, h, w) = attributes["blocksize"], x[0].shape
            return x[0].reshape(1, c // b**2, b, b, h, w).transpose(0, 1, 4, 2, 5, 3).reshape(1, c // b**2, h * b, w * b)
        if kind == "Concat":
            return np.concatenate(x, attributes["axis"])
        if kind == "Add":
            return x[0] + x[1]
        if kind == "Abs":
            return np.abs(x[0])
        if kind == "Cast":
            return x[0]
        raise NotImplementedError(kind)


def convolve(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, groups: int) -> np.ndarray:
    """Stride 1, zero padding that keeps the size; integers in, integers out."""
    x, weight, bias = (np.asarray(v) for v in (x, weight, bias))
    for values in (x, weight, bias):
        assert (values == np.round(values)).all(), "an integer network holds a fraction"
    x, weight, bias = (v.astype(np.int64) for v in (x, weight, bias))
    size = weight.shape[2]
    padded = np.pad(x, ((0, 0), (0, 0), (size // 2,) * 2, (size // 2,) * 2))
    h, w = x.shape[2:]
    out = np.zeros((1, len(weight), h, w), np.int64) + bias[None, :, None, None]
    per_group = len(weight) // groups
    for i in range(size):
        for j in range(size):
            window = padded[0, :, i : i + h, j : j + w].reshape(groups, -1, h * w)
            taps = weight[:, :, i, j].reshape(groups, per_group, -1)
            out += (taps @ window).reshape(1, -1, h, w)
    assert np.abs(out).max() < 2**24
    return out.astype(np.float64)


# ---- 5 to 7: slice, rate, model ------------------------------------------------------------------------------------


class Model:
    def __init__(self, directory: Path) -> None:
        raw = (directory / "manifest.json").read_bytes()
        self.manifest, self.id, self.directory = (
            json.loads(raw),
            hashlib.sha256(raw.replace(b"\r\n", b"\n")).digest()[:8],
            directory,
        )
        tables = dict(np.load(BytesIO(self.part("tables.npz"))))
        self.prior, self.residual = Tables(tables, "z"), Tables(tables, "r")
        self.rates = dict(np.load(BytesIO(self.part("rates.npz"))))
        assert len(self.prior) % self.manifest["hyper_channels"] == len(self.residual) % 64 == 0
        version = self.manifest["bundle_version"]
        assert version in (2, 3) or len(self.residual) == 64
        self.predicted = self.manifest["predicted"] if version == 3 else []

    def part(self, name: str) -> bytes:
        data = (self.directory / name).read_bytes()
        assert hashlib.sha256(data).hexdigest() == self.manifest["sha256"][name]
        return data

    def float_graph(self, name: str, *inputs: np.ndarray) -> list[np.ndarray]:
        session = onnxruntime.InferenceSession(self.part(f"{name}.onnx"), providers=["CPUExecutionProvider"])
        named = {i.name: x.astype(np.float32) for i, x in zip(session.get_inputs(), inputs, strict=True)}
        return session.run(None, named)

    def row(self, bank: str, rate: np.ndarray) -> np.ndarray:
        """rate [h, w], or [1, 1] without regions → [1, C, h, w]."""
        values, p = self.rates[bank].astype(np.float64), rate[:, :, None] / 4096 - 1
        low = np.clip(np.floor(p[:, :, 0]), 0, len(values) - 2).astype(int)
        rows = values[low] + (p - low[:, :, None]) * (values[low + 1] - values[low])
        return rows.transpose(2, 0, 1)[None]


def slices_of(side: int | None, height: int, width: int, scale: int) -> list[tuple[slice, slice]]:
    """Rows and columns of every slice in raster order, in units of ``scale`` pixels."""
    rows, columns = -(-height // scale), -(-width // scale)
    step = side // scale if side else max(rows, columns)
    return [(slice(i, i + step), slice(j, j + step)) for i in range(0, rows, step) for j in range(0, columns, step)]


def decode_black_and_white(data: bytes) -> np.ndarray:
    """bool [H, W]."""
    file = parse(data)
    assert file["mode"] == "1"
    plane = np.zeros(file["size"][::-1], np.uint8)
    for stream, (rows, columns) in zip(file["streams"], slices_of(file["side"], *plane.shape, 1), strict=True):
        plane[rows, columns] = decode_plane(RangeDecoder(stream), plane[rows, columns].shape, bilevel=True)
    assert set(np.unique(plane)) <= {0, 255}
    return plane > 0


def unpack(data: bytes, width: int = 1) -> bytes:
    """A raw LZMA stream of numbers of one or two bytes, with an end marker."""
    settings = {"id": lzma.FILTER_LZMA1, "dict_size": 2**24, "lc": 3, "lp": width - 1, "pb": width - 1}
    return lzma.decompress(data, lzma.FORMAT_RAW, filters=[settings])


def decode_alpha(stream: bytes, shape: tuple[int, int]) -> np.ndarray:
    if stream[0] == 0:
        return decode_plane(RangeDecoder(stream[1:]), shape).astype(np.uint8)
    if stream[0] == 2:
        (value,) = stream[1:]
        return np.full(shape, value, np.uint8)
    if stream[0] == 3:
        plane = decode_plane(RangeDecoder(stream[1:]), shape, bilevel=True)
        assert plane[0, 0] in (0, 255)
        return plane.astype(np.uint8)
    assert stream[0] == 1
    plane = np.frombuffer(unpack(stream[1:]), np.uint8).reshape(shape).astype(int)
    for i in range(1, shape[0]):
        plane[i] = (plane[i - 1] + plane[i]) % 256
    return plane.astype(np.uint8)


def read_palette(payload: bytes, bands: int) -> np.ndarray:
    count, at = leb128(payload, 0)
    steps = payload[at + 1 :] if payload[at] == 1 else unpack(payload[at:])
    assert len(steps) == count * bands
    palette, colour = [], 0
    for k in range(count):
        colour = 0 if k == 256 else colour
        for band in range(bands):
            colour += steps[band * count + k] << 8 * (bands - 1 - band)
        palette.append([colour >> 8 * (bands - 1 - band) & 255 for band in range(bands)])
    return np.array(palette, np.uint8)


def decode_numbers(stream: bytes, count: int, shape: tuple[int, int]) -> np.ndarray:
    if count == 1:
        return np.zeros(shape, int)
    if count == 2:
        if stream[0] == 0:
            return (decode_plane(RangeDecoder(stream[1:]), shape, bilevel=True) > 127).astype(int)
        stream = stream[1:]
    return np.frombuffer(unpack(stream, 2 if count > 256 else 1), "<u2" if count > 256 else "u1").reshape(shape)


def decode_indexed(data: bytes) -> np.ndarray:
    """[H, W], or with bands."""
    file = parse(data)
    assert file["indexed"]
    palette = read_palette(file["metadata"]["P"], 1 if file["mode"].startswith("L") else 3)
    width, height = file["size"]
    parts = slices_of(file["side"], height, width, 1)
    numbers, alpha = np.zeros((height, width), int), np.zeros((height, width, 1), np.uint8)
    for k, (rows, columns) in enumerate(parts):
        shape = numbers[rows, columns].shape
        numbers[rows, columns] = decode_numbers(file["streams"][k], len(palette), shape)
        if file["mode"].endswith("A"):
            alpha[rows, columns, 0] = decode_alpha(file["streams"][len(parts) + k], shape)
    pixels = palette[numbers]
    if file["mode"].endswith("A"):
        return np.concatenate([pixels, alpha], 2)
    return pixels[:, :, 0] if palette.shape[1] == 1 else pixels


def lay_over(pixels: np.ndarray, payload: bytes) -> np.ndarray:
    """What is drawn, over pixels [H, W] or [H, W, 3]."""
    height, width = pixels.shape[:2]
    size, at = leb128(payload, 0)
    cells = np.frombuffer(zlib.decompress(payload[at : at + size]), np.uint8).reshape(-(-height // 16), -(-width // 16))
    size, at = leb128(payload, at + size)
    palette = read_palette(payload[at : at + size], 1 if pixels.ndim == 2 else 3)
    numbers = decode_numbers(payload[at + size :], len(palette), (height, width))
    pixels = pixels.copy()
    for i in range(height):
        for j in range(width):
            if cells[i // 16, j // 16]:
                pixels[i, j] = palette[numbers[i, j]] if pixels.ndim == 3 else palette[numbers[i, j], 0]
    return pixels


def in_bands(pixels: np.ndarray, file: dict) -> np.ndarray:
    """RGB as the networks give it → as the picture has it."""
    luma = ((pixels.astype(np.int64) @ [19595, 38470, 7471] + 32768) >> 16).astype(np.uint8)
    if file["mode"].startswith("L"):
        return luma
    return np.stack([luma] * 3, 2) if "G" in file["metadata"] else pixels


def add_predictions(r: np.ndarray, channel: int) -> None:
    """Of one channel's residuals of step 1 in a slice, in place."""
    h, w = r.shape
    for i in range(h):
        for j in range((channel + i) % 2, w, 2):
            near = [r[0, k] for k in (j - 2,) if k >= 0] if i == 0 else [r[i - 1, k] for k in (j - 1, j + 1) if 0 <= k < w]
            if near:
                r[i, j] += -(-sum(map(int, near)) // len(near))


def decode(  # noqa: PLR0915
    data: bytes, model: Model
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(pixels, z, residual, indexes)."""
    file = parse(data)
    assert file["model"] == model.id
    (width, height), rate = file["size"], file["rate"]
    h, w = -(-height // 16), -(-width // 16)
    hz, wz = -(-h // 4), -(-w // 4)
    channels, latents = model.manifest["hyper_channels"], model.manifest["latent_channels"]
    c, i, j = np.indices((latents, h, w))
    step1 = (c + i + j) % 2 == 0

    last = 4096 * (len(model.rates["log_gain"]) - 1)

    def band(bands: int) -> int:
        return min(min(max(rate - 4096, 0), last) * bands // last, bands - 1)

    parts, hyper_parts = slices_of(file["side"], height, width, 16), slices_of(file["side"], height, width, 64)
    alpha = [file["streams"].pop() for _ in parts][::-1] if file["mode"].endswith("A") else []
    coders = [RangeDecoder(stream) for stream in file["streams"]]
    coders *= 3 if len(parts) == 1 else 1  # one stream holds all three layers
    assert len(coders) == 3 * len(parts)
    z = np.zeros((1, channels, hz, wz), np.int64)
    for coder, (rows, columns) in zip(coders, hyper_parts, strict=False):
        part = z[0, :, rows, columns]
        z_indexes = band(len(model.prior) // channels) * channels + np.arange(channels).repeat(part[0].size)
        part[:] = decode_array(coder, model.prior, z_indexes).reshape(part.shape)

    first_table = band(len(model.residual) // 64) * 64

    def residuals(layer: int, indexes: np.ndarray, positions: np.ndarray) -> None:
        for coder, (rows, columns) in zip(coders[layer * len(parts) :], parts, strict=False):
            at = positions[:, rows, columns]
            residual[:, rows, columns][at] = decode_array(coder, model.residual, first_table + indexes[:, rows, columns][at])

    features, indexes1 = IntegerGraph(model.part("scale_hyper_synthesis.onnx")).run(z)
    features, indexes1 = features[:, :, :h, :w], indexes1[0, :, :h, :w].astype(int)
    residual = np.zeros((latents, h, w), np.int64)
    for channel in model.predicted:
        indexes1[channel] = np.maximum(indexes1[channel], 1)
    residuals(1, indexes1, step1)
    for rows, columns in parts:
        for channel in model.predicted:
            add_predictions(residual[channel, rows, columns], channel)
    (indexes2,) = IntegerGraph(model.part("scale_context.onnx")).run(features, residual[None])
    indexes = np.where(step1, indexes1, indexes2[0].astype(int))
    first = residual.copy()
    residuals(2, indexes, ~step1)
    for coder in coders:
        coder.finish()

    rates = file.get("rates", np.array([[rate]]))
    regions = "rates" in file
    hyper = np.pad(rates, ((0, 4 * hz - h), (0, 4 * wz - w)), mode="edge") if regions else rates
    fine = rates.repeat(2, 0).repeat(2, 1) if regions else rates
    context, mean1 = (x[:, :, :h, :w] for x in model.float_graph("hyper_synthesis", z, model.row("hyper_condition", hyper)))
    (correction,) = model.float_graph("mean_context", context, np.where(step1, mean1 + first, 0))
    mean = np.where(step1, mean1, mean1 + correction)
    y = (mean + residual) * np.exp(model.row("log_inverse_gain", rates))
    pixels = model.float_graph("synthesis", y, model.row("synthesis_condition", fine))[0]
    pixels = pixels[0, :height, :width]
    pixels = in_bands(pixels, file)
    if "O" in file["metadata"]:
        pixels = lay_over(pixels, file["metadata"]["O"])
    if alpha:
        plane = np.zeros((height, width), np.uint8)
        for stream, (rows, columns) in zip(alpha, slices_of(file["side"], height, width, 1), strict=True):
            plane[rows, columns] = decode_alpha(stream, plane[rows, columns].shape)
        pixels = np.dstack([pixels, plane])
    return pixels, z[0], residual, indexes
