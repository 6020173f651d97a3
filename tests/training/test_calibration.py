"""Qualities calibrated against JPEG."""

from __future__ import annotations

import numpy as np

from training.export import JPEG_QUALITIES, LIKED, quality_table

POSITIONS = np.arange(0.0, 8.5, 0.5)


def table(shifts: list[float]) -> np.ndarray:
    """Of pictures that look alike at equal positions, and in which JPEG is as good as we are at q / 15 + shift."""
    ours = np.repeat(POSITIONS[None, :, None], 2, 2).repeat(len(shifts), 0)
    theirs = np.array([[[q / 15 + shift] * 2 for q in JPEG_QUALITIES] for shift in shifts])
    return quality_table(ours, theirs, POSITIONS, {95: 7.0, 100: 8.0}, 8.0)


def test_most_pictures_are_as_good_as_jpeg() -> None:
    """The share that is promised is kept, not the mean."""
    shifts = np.linspace(0, 1, 101)
    positions = dict(map(tuple, table(list(shifts))))
    assert np.isclose(positions[50.0], 50 / 15 + LIKED)
    assert np.isclose(np.mean(50 / 15 + shifts <= positions[50.0] + 1e-9), LIKED, atol=0.02)


def test_numbers_rise_and_end_where_they_should() -> None:
    """Strictly rising; one anchor stays free below quality 100, which is the last one."""
    for shifts in ([-9.0, -9.0], [0.0, 0.5], [99.0, 99.0]):
        rows = table(shifts)
        assert list(rows[:, 0]) == list(JPEG_QUALITIES)
        assert (np.diff(rows[:, 1]) > 0).all()
        assert rows[-1, 1] >= 8.0
        assert rows[-2, 1] >= 7.0
