# SPDX-License-Identifier: LGPL-2.1-or-later
"""Columns for a terminal."""

from hypothesis import given
from hypothesis import strategies as st

from slicemgr.cli.table import cut, display_width, table

CELLS = st.text(st.characters(categories=["L", "M", "N", "P", "S", "Zs"]), max_size=12)


@given(st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=5), st.sets(st.integers(0, 2)))
def test_columns_are_aligned(rows: list[tuple[str, str, str]], right: set[int]) -> None:
    """Each cell stands whole in its column, whatever it is made of; nothing is wider than the sum of the columns."""
    widths = [max(display_width(row[at]) for row in rows) for at in range(3)]
    told = table(rows, right)
    assert len(told) == len(rows)
    for line, row in zip(told, rows, strict=True):
        assert display_width(line) <= sum(widths) + 4
        assert all(cell.strip() in line for cell in row)


@given(CELLS, st.integers(0, 14))
def test_a_cut_fits(text: str, width: int) -> None:
    """And what fits is left alone."""
    shown = cut(text, width)
    assert display_width(shown) <= width
    assert shown == text or shown == "" or shown.endswith("…")
    assert (shown == text) == (display_width(text) <= width)


def test_wide_characters_take_two_columns() -> None:
    """So the next column begins where it should."""
    assert table([("日本", "x"), ("ab", "y"), ("e\u0301", "z")]) == ["日本  x", "ab    y", "e\u0301     z"]
    assert cut("日本語", 4) == "日…"
