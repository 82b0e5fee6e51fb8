# SPDX-License-Identifier: LGPL-2.1-or-later
"""Command lines of busctl and gdbus, held against the interface: every call has a method of that name and types."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slicemgr.bus.objects import BUS_NAME
from slicemgr.bus.values import split

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slicemgr.bus.interface import InterfaceTable

# What every bus has; the first is the bus's own.
OTHERS = {
    ("org.freedesktop.DBus", "NameHasOwner"): "s",
    ("org.freedesktop.DBus.ObjectManager", "GetManagedObjects"): "",
    ("org.freedesktop.DBus.Properties", "Get"): "ss",
}


def complaints(words: Sequence[str], table: InterfaceTable) -> list[str]:
    """Of one command line without redirections; none for a verb that names no method or property."""
    program, *words = words
    if program == "gdbus":
        return _of_gdbus(words, table)
    verb, *words = [word for word in words if not word.startswith("--")]
    if verb == "call":
        _destination, _path, interface, method, *words = words
        signature, *arguments = words or [""]
        wanted = _signature(interface, method, table)
        if signature != wanted:
            return [f"{interface}.{method} takes {wanted!r}, not {signature!r}"]
        left = _left_over(signature, arguments)
        return [] if left == [] else [f"{interface}.{method}: {arguments} are not {signature}"]
    if verb in {"get-property", "set-property"}:
        _destination, _path, interface, *names = words
        names = names if verb == "get-property" else names[:1]
        return [f"no property {interface}.{name}" for name in names if (interface, name) not in table.properties]
    return []


def _of_gdbus(words: Sequence[str], table: InterfaceTable) -> list[str]:
    if words[0] != "call" or BUS_NAME not in words:
        return []
    at = words.index("--method")
    interface, _, method = words[at + 1].rpartition(".")
    wanted = _signature(interface, method, table)
    given = len(words) - at - 2
    if wanted is None or given != len(split(wanted)):
        return [f"{interface}.{method} takes {wanted!r}, not {given} arguments"]
    return []


def _signature(interface: str, method: str, table: InterfaceTable) -> str | None:
    known = table.methods.get((interface, method))
    return OTHERS.get((interface, method)) if known is None else "".join(known.arguments)


def _left_over(signature: str, arguments: Sequence[str]) -> list[str] | None:
    """What busctl would not need of these; None if there are too few, or a number is none."""
    left = list(arguments)
    try:
        for part in split(signature):
            if part == "a{sv}":
                for _ in range(int(left.pop(0))):
                    left.pop(0)
                    left = _required(_left_over(*_variant(left)))
                continue
            word = left.pop(0)
            if part in {"u", "t", "h"}:
                int(word)
    except (IndexError, ValueError):
        return None
    return left


def _variant(words: list[str]) -> tuple[str, list[str]]:
    """busctl's `t 5 ...`: the type, and all that follows."""
    return words[0], words[1:]


def _required(left: list[str] | None) -> list[str]:
    if left is None:
        raise ValueError
    return left
