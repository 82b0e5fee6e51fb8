# SPDX-License-Identifier: LGPL-2.1-or-later
"""Python values as D-Bus values. What an `a{sv}` holds has its type from its key, or from the value itself."""

from collections.abc import Mapping
from typing import Any, Final

from gi.repository import GLib

BY_KEY: Final[Mapping[str, str]] = {
    "command-line": "as",
    "cookie": "u",
    "pid": "u",
    "pids": "au",
    "points": "x",
    "runners-up": "aa{sv}",
    "spared": "aa{sv}",
    "victims": "aa{sv}",
}
"""What the value alone does not tell, by org.slicemgr1.xml: of what a list is when empty, how big a number may get."""


def pack(signature: str, value: Any) -> GLib.Variant:
    """A value of this type. Raises TypeError, OverflowError, ValueError if it is none."""
    return GLib.Variant(signature, _fitted(signature, value))


def _fitted(signature: str, value: Any) -> Any:
    """As GLib.Variant takes it for this type: what is to be a variant is one, and every text passes."""
    if signature == "v":
        return variant(value)
    if isinstance(value, str):
        return text(value)
    if signature.startswith("a{"):
        key, each = split(signature[2:-1])
        if each == "v":
            return {_fitted(key, name): _keyed(name, one) for name, one in value.items()}
        return {_fitted(key, name): _fitted(each, one) for name, one in value.items()}
    if signature.startswith("a"):
        return [_fitted(signature[1:], each) for each in value]
    if signature.startswith("("):
        return tuple(_fitted(each, part) for each, part in zip(split(signature[1:-1]), value, strict=True))
    return value


def split(signature: str) -> list[str]:
    """The single complete types of a signature: `sa{sv}(us)` -> s, a{sv}, (us). Not with GVariantType's iterator: its
    Python binding copies each type, and looks for the next one behind the copy."""
    parts: list[str] = []
    depth, start = 0, 0
    for at, character in enumerate(signature):
        depth += (character in "({") - (character in ")}")
        if depth == 0 and character != "a":
            parts.append(signature[start : at + 1])
            start = at + 1
    return parts


def variant(value: Any) -> GLib.Variant:
    """Of a type that goes by the value: b, t (x below zero), d, s, a{sv}, or an array of these; an empty one is as."""
    return value if isinstance(value, GLib.Variant) else pack(_signature(value), value)


def _keyed(name: Any, value: Any) -> GLib.Variant:
    return pack(BY_KEY[name], value) if name in BY_KEY and not isinstance(value, GLib.Variant) else variant(value)


def byte(value: int) -> GLib.Variant:
    """A y, for where a type is asked for that does not go by the value. Raises OverflowError."""
    return GLib.Variant("y", value)


def text(value: str) -> str:
    """A process's name may be any bytes, and a bus hangs up on who sends what is no UTF-8, or has a zero in it."""
    return value.encode(errors="surrogateescape").decode(errors="replace").replace("\0", "\N{REPLACEMENT CHARACTER}")


def _signature(value: Any) -> str:
    if isinstance(value, bool):
        return "b"
    if isinstance(value, int):
        return "x" if value < 0 else "t"
    if isinstance(value, float):
        return "d"
    if isinstance(value, str):
        return "s"
    if isinstance(value, Mapping):
        return "a{sv}"
    if isinstance(value, list | tuple):
        return "a" + (_signature(value[0]) if value else "s")
    raise TypeError(f"{type(value).__name__} has no D-Bus type")
