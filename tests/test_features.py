"""FEATURES.md: every cell of ours is backed by tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in (TESTS.parent / "FEATURES.md").read_text("utf-8").splitlines()
    if line.startswith("| ")
][1:]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_rows_name_their_tests(row: list[str]) -> None:
    """Eight columns, and a test function for every name in the last one."""
    assert len(row) == 8
    names = row[-1].rstrip(" |").split()
    assert names
    for name in names:
        file, function = name.split("::")
        source = (TESTS / f"test_{file}.py").read_text("utf-8")
        assert re.search(rf"^def test_{function}\(", source, re.M), name
