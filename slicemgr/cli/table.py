# SPDX-License-Identifier: LGPL-2.1-or-later
"""Columns for a terminal: as wide as what stands in them, and never wider than the terminal."""

import unicodedata
from collections.abc import Collection, Sequence

_GAP = "  "


def table(rows: Sequence[Sequence[str]], right: Collection[int] = (), width: int | None = None) -> list[str]:
    """Lines of aligned columns; those in `right` are aligned to the right. Every row has the same number of cells.

    `width`: cut lines to so many columns. Cells have to be printable (cli/printable.py).
    """
    if not rows:
        return []
    widths = [max(display_width(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [_padded(cell, widths[at], to_right=at in right) for at, cell in enumerate(row)]
        line = _GAP.join(cells).rstrip()
        lines.append(line if width is None else cut(line, width))
    return lines


def display_width(text: str) -> int:
    """Columns that a terminal takes for it: a Chinese character takes two, a combining accent none."""
    return sum(_columns(character) for character in text)


def cut(text: str, width: int) -> str:
    """The text, or its beginning and an ellipsis, within so many columns."""
    if display_width(text) <= width:
        return text
    taken = 0
    for at, character in enumerate(text):
        taken += _columns(character)
        if taken > width - 1:
            return text[:at] + "…" if width > 0 else ""
    return text


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in {"W", "F"} else 1


def _padded(cell: str, width: int, *, to_right: bool) -> str:
    blanks = " " * (width - display_width(cell))
    return blanks + cell if to_right else cell + blanks
