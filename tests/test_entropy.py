"""Laws of entropy coding: exact round trips, exact sums, and no more bytes than the tables promise."""

from __future__ import annotations

import numpy as np
import pytest
import reference_decoder
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import table_sets

from pillow_semicodec.entropy.coder import MAGNITUDE_LIMIT, StreamDecoder, StreamEncoder, TableModels
from pillow_semicodec.entropy.models import BUSY_DEAD_ZONES, DEAD_ZONES, ScaleConditional, StaticPrior
from pillow_semicodec.entropy.tables import TOTAL, TableSet, join, quantise
from pillow_semicodec.errors import BundleError, FormatError


def sample(tables: TableSet, count: int, seed: int, wild: float) -> tuple[np.ndarray, np.ndarray]:
    """Values and indexes: mostly inside the tables, a share ``wild`` far outside."""
    random = np.random.default_rng(seed)
    indexes = random.integers(0, len(tables), count)
    sizes, minimums = tables.sizes[indexes], tables.minimums[indexes]
    values = minimums + random.integers(0, np.maximum(sizes - 1, 1))
    far = random.integers(-(2**22), 2**22, count)
    values = np.where(random.random(count) < wild, far, values)
    return np.where(sizes == 0, 0, values).astype(np.int32), indexes


@given(table_sets(), st.integers(0, 400), st.integers(0, 999), st.sampled_from([0, 0.02, 0.5]))
def test_round_trip_and_length(tables: TableSet, count: int, seed: int, wild: float) -> None:
    """Values come back, escapes too, and the stream is as long as the tables say, plus at most 0.1 % and 12 bytes."""
    models = TableModels(tables)
    values, indexes = sample(tables, count, seed, wild)
    encoder = StreamEncoder()
    encoder.encode(values, indexes, models)
    stream = encoder.finish()
    decoder = StreamDecoder(stream)
    assert np.array_equal(decoder.decode(indexes, models), values)
    decoder.finish()
    ideal = sum(tables.bits(k, values[indexes == k]).sum() for k in range(len(tables))) / 8
    assert len(stream) <= ideal * 1.001 + 12


@settings(max_examples=10)
@given(table_sets(), st.integers(0, 60), st.integers(0, 999))
def test_the_second_decoder_agrees(tables: TableSet, count: int, seed: int) -> None:
    """The plain-Python range decoder of FORMAT.md reads the same values."""
    values, indexes = sample(tables, count, seed, 0.05)
    encoder = StreamEncoder()
    encoder.encode(values, indexes, TableModels(tables))
    arrays = {f"r_{name}": getattr(tables, name) for name in ("minimums", "sizes", "frequencies")}
    coder = reference_decoder.RangeDecoder(encoder.finish())
    assert np.array_equal(reference_decoder.decode_array(coder, reference_decoder.Tables(arrays, "r"), indexes), values)


def test_exact_words() -> None:
    """The stream of a fixed array is fixed: a change of the coder would break every file."""
    tables = join([(-2, quantise(np.array([1.0, 4, 9, 4, 1, 0.01]))), (0, quantise(np.array([1.0, 1])))])
    values, indexes = np.array([0, 1, -2, 0, 7, -3, 0, 0], np.int32), np.array([0, 0, 0, 1, 0, 1, 1, 0])
    encoder = StreamEncoder()
    encoder.encode(values, indexes, TableModels(tables))
    assert encoder.finish().hex() == EXACT_WORDS


EXACT_WORDS = "d93ced9d75e71d6c"


def test_values_out_of_reach_are_refused() -> None:
    """What cannot be coded is an error at the encoder, never a wrong picture."""
    tables = join([(0, np.zeros(0, np.uint32)), (0, quantise(np.array([1.0, 1])))])
    for value, index in ((1, 0), (2**23, 1)):
        with pytest.raises(ValueError, match="latent"):
            StreamEncoder().encode(np.array([value], np.int32), np.array([index]), TableModels(tables))


@given(st.binary(max_size=60), st.integers(0, 200))
def test_any_stream_decodes_or_is_refused(stream: bytes, count: int) -> None:
    """Garbage gives values or a FormatError."""
    tables = join([(-1, quantise(np.array([1.0, 9, 1, 3]))), (0, quantise(np.array([1.0, 2])))])
    try:
        decoder = StreamDecoder(stream)
        assert len(decoder.decode(np.arange(count) % 2, TableModels(tables))) == count
        decoder.finish()
    except FormatError:
        pass


def test_leftover_words_are_noticed() -> None:
    """A stream longer than its picture is refused."""
    with pytest.raises(FormatError):
        StreamDecoder(bytes(40)).finish()


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=900).filter(lambda p: sum(p) > 1e-3))
def test_quantised_frequencies_sum_exactly(probabilities: list[float]) -> None:
    """Frequencies are positive and sum to 2**16."""
    frequencies = quantise(np.array(probabilities))
    assert frequencies.sum() == TOTAL
    assert (frequencies > 0).all()


@pytest.mark.parametrize(
    ("minimums", "sizes", "frequencies"),
    [
        ([0], [2], [1, 2]),
        ([0], [3], [TOTAL - 1, 1]),
        ([0], [2], [TOTAL, 0]),
        ([0], [1], [TOTAL]),
        ([0, 1], [2], [1, TOTAL - 1]),
    ],
)
def test_broken_tables_are_refused(minimums: list[int], sizes: list[int], frequencies: list[int]) -> None:
    """Incomplete tables are the bundle's fault."""
    with pytest.raises(BundleError):
        TableSet(np.array(minimums, np.int32), np.array(sizes, np.int32), np.array(frequencies, np.uint32)).check()


def test_priors(chosen_model) -> None:
    """z and residuals of a real bundle round trip within one stream."""
    random = np.random.default_rng(0)
    prior, conditional = chosen_model.prior, chosen_model.conditional
    assert isinstance(prior, StaticPrior)
    assert isinstance(conditional, ScaleConditional)
    z = random.integers(-3, 4, (prior.channels, 3, 5), dtype=np.int32)
    indexes = random.integers(0, 64, 500).astype(np.uint8)
    residual = conditional.zero_uncoded(random.integers(-9, 9, 500).astype(np.int32), indexes)
    encoder = StreamEncoder()
    prior.encode(encoder, z, 1)
    conditional.encode(encoder, residual, indexes, conditional.bands - 1)
    decoder = StreamDecoder(encoder.finish())
    assert np.array_equal(prior.decode(decoder, 1, (3, 5)), z)
    assert np.array_equal(conditional.decode(decoder, indexes, conditional.bands - 1), residual)


@given(st.integers(0, 999))
def test_dead_zones(chosen_model, seed: int) -> None:
    """What is quantised is rounded, or 0 in the dead zone of its scale; channels without one and what was chosen already are
    rounded. Where a table codes nothing, everything is 0. To quantise again changes nothing.
    """
    random = np.random.default_rng(seed)
    conditional = chosen_model.conditional
    indexes = random.integers(0, 64, (3, 8, 9)).astype(np.uint8)
    values = random.laplace(size=indexes.shape).astype(np.float32) * 2
    busy = bool(seed % 2)
    rounded, coded = conditional.rounded(values, indexes), conditional.quantised(values, indexes, [1], busy)
    assert np.array_equal(rounded, np.where(conditional.codes_nothing[indexes], 0, np.rint(values)))
    assert np.array_equal(coded[1], rounded[1])
    for channel in (0, 2):
        dead = np.abs(values[channel]) < (BUSY_DEAD_ZONES if busy else DEAD_ZONES)[indexes[channel]]
        assert np.array_equal(coded[channel], np.where(dead, 0, rounded[channel]))
    assert np.array_equal(conditional.quantised(coded.astype(np.float32), indexes, []), coded)


def test_dead_zones_end_where_they_should(chosen_model) -> None:
    """The smallest scales have the widest; from index 9 on there are none. Values that nobody can code are cut."""
    conditional = chosen_model.conditional
    values = np.array([0.61, 0.63, 0.51, 0.52, 0.51, -0.61, -0.63, 1e9, -np.inf, 1.6], np.float32)[:, None, None]
    indexes = np.array([1, 1, 8, 8, 9, 1, 1, 40, 40, 1], np.uint8)[:, None, None]
    limit = MAGNITUDE_LIMIT // 2 - 1
    assert conditional.quantised(values, indexes, [])[:, 0, 0].tolist() == [0, 1, 0, 1, 1, 0, -1, limit, -limit, 2]
    assert conditional.quantised(values, indexes, [], busy=True)[:, 0, 0].tolist() == [0, 0, 0, 0, 1, 0, 0, limit, -limit, 2]
    assert conditional.quantised(values, indexes, [0, 5])[:, 0, 0].tolist() == [1, 1, 0, 1, 1, -1, -1, limit, -limit, 2]
