# SPDX-License-Identifier: LGPL-2.1-or-later
"""Names as parts of D-Bus object paths. Light, see quantity.py."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_LABEL_CHARACTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")


def label(name: str) -> str:
    """`build.slice` -> `build_2eslice`: one part of a path, as systemd escapes it (bus_label_escape)."""
    escaped = "".join(
        chr(byte) if chr(byte) in _LABEL_CHARACTERS and (at or not chr(byte).isdigit()) else f"_{byte:02x}"
        for at, byte in enumerate(name.encode(errors="surrogateescape"))
    )
    return escaped or "_"


def name_of(label: str) -> str:
    """`build_2eslice` -> `build.slice`: what `label` was made of; a label that no name has, as it is."""
    first, *escapes = label.split("_")
    if label == "_":
        return ""
    if any(len(each) < 2 for each in escapes):
        return label
    try:
        name = first.encode("ascii") + b"".join(bytes.fromhex(each[:2]) + each[2:].encode("ascii") for each in escapes)
    except ValueError:
        return label
    return name.decode(errors="surrogateescape")
