"""FORMAT.md and the code state the same constants."""

from __future__ import annotations

import codecs
import re
import zlib
from pathlib import Path

from pillow_semicodec import bundle, container, head_bundle, latent_path, preset, semantics
from pillow_semicodec.entropy import coder, lossless, repetition, tables
from pillow_semicodec.limits import Limits

TEXT = (Path(__file__).parent.parent / "pillow_semicodec" / "FORMAT.md").read_text("utf-8")


def test_header_table() -> None:
    """The table of the header adds up to the header's bytes, and states signature, version and modes."""
    rows = re.findall(r"^\| (\d+|LEB128) \| (.*) \|$", TEXT.partition("## 2.")[2].partition("## 3.")[0], re.M)
    for mode in ("RGB", "1"):
        sizes = [2 if size == "LEB128" else 0 if mode == "1" and "model id" in what else int(size) for size, what in rows]
        assert sum(sizes) == len(container.write_header(container.Header(768, 512, mode)))
    assert " ".join(f"{byte:02X}" for byte in container.MAGIC) in rows[0][1]
    assert rows[1][1] == f"format version, {container.FORMAT_VERSION}"
    for code, mode in container.MODES.items():
        assert re.search(rf"{code} ([^,]*\()?{mode}\b", rows[2][1])
    assert "8 to 11 indexed (section 11): L, RGB, LA, RGBA" in rows[2][1]
    assert container.INDEXED_MODES == {8: "L", 9: "RGB", 10: "LA", 11: "RGBA"}


def test_chunk_table() -> None:
    """Every chunk type of the code stands in the table, and no other."""
    stated = set(re.findall(r"^\| `(\w)` \|", TEXT, re.M))
    metadata = (container.EXIF, container.ICC_PROFILE, container.SEMANTICS, container.XMP, container.COMMENT)
    metadata += (container.PALETTE, container.OVERLAY, container.NEUTRAL, container.PACKED, container.PARTS)
    metadata += (container.RESOLUTION, container.SHOWN_AS, container.PREVIEW, container.ANIMATION, container.UNSEEN_KEPT)
    assert all(f"`{view}`" in TEXT for view in container.VIEWS)
    assert stated == {kind.decode() for kind in (container.INDEX, container.REGIONS, container.NUMBERS, *metadata)}


def test_numbers() -> None:
    """Units, totals and limits are those of the code."""
    assert tables.TOTAL == 2**16
    assert "sum to 2¹⁶" in TEXT
    assert coder.MAGNITUDE_LIMIT == 2**22
    assert "at most 2²²" in TEXT
    assert f"R/{bundle.RATE_UNIT} − 1" in TEXT
    low, high = container.SIDE_CODES[0], container.SIDE_CODES[-1]
    assert f"n from {low} to {high} for slices of 2ⁿ x 2ⁿ pixels; {container.WHOLE_PICTURE} means" in TEXT
    assert f"has {container.LAYERS}N streams" in TEXT
    halos = (latent_path.HYPER_SYNTHESIS_HALO, latent_path.CONTEXT_HALO, latent_path.SYNTHESIS_HALO)
    assert halos == (2, 1, 3) and "two hyper positions" in TEXT and "three for the pixels" in TEXT
    assert f"number of rates, 1 to {container.MAX_REGIONS}" in TEXT
    assert f"version, {semantics.VERSION}" in TEXT
    assert f"cells of {semantics.CELL}x{semantics.CELL} pixels" in TEXT
    assert f"`heads_version` {head_bundle.HEADS_VERSION}" in TEXT


def test_preset_dictionary() -> None:
    """The lines of the text are those of the code, and what they and the curve make has the sum that is stated."""
    block = TEXT.partition("## 13.")[2].split("```\n")[1]
    assert set(re.findall(r"\\(.)", block)) == {"n", "x"}
    assert [codecs.decode(line, "unicode_escape") for line in block.splitlines()] == list(preset.TEXTS)
    assert f"{len(preset.dictionary())} bytes, whose Adler-32 is `{zlib.adler32(preset.dictionary()):08X}`" in TEXT


def power(number: int) -> str:
    """As FORMAT.md writes it."""
    assert number.bit_count() == 1
    return "2" + "".join("⁰¹²³⁴⁵⁶⁷⁸⁹"[int(digit)] for digit in str(number.bit_length() - 1))


def test_limits() -> None:
    """What both directions share, and no round trip could tell."""
    limits = Limits()
    for stated in (
        f"at most {power(limits.max_latent_slice_pixels)} pixels of latents",
        f"or {power(limits.max_slice_pixels)} of other things",
        f"at most {power(limits.max_side)} pixels, {power(limits.max_pixels)} pixels in all",
        f"at most {power(limits.max_index_bytes)} bytes and other chunks of at most {power(limits.max_metadata_bytes)}",
        f"at most {power(container.MOST_PACKED)} bytes when it is unfolded",
        f"a dictionary of {power(repetition.DICTIONARY)} bytes",
        f"sum to more than {power(lossless.LARGEST_COUNT)}",
        f"number of frames, 2 to {container.MAX_FRAMES}",
        f"pictures of at most {power(container.MOST_OVERLAID)} pixels only",
    ):
        assert stated in TEXT, stated
