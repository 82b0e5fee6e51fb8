# SPDX-License-Identifier: LGPL-2.1-or-later
"""D-Bus values to bytes and back.

Written out because `slicemgr run` may take 2.5 times as long as `systemd-run --scope`, and an interpreter alone takes
it once: pydbus costs it 5-8 times over. So nothing heavier than `struct` (0.1 ms) is imported here.

Values of D-Bus in Python: `ay` is bytes, other arrays are lists, `a{..}` a dict, `(..)` a tuple, and a variant a pair
of (signature, value). File descriptors (`h`) are not spoken. The rules are those of the D-Bus specification; what
comes in is checked against all of them, because a bus carries what anybody sends.
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any, Final

LONGEST_ARRAY: Final = 1 << 26
"""Bytes; D-Bus specification, "Marshalling (Wire Format)"."""

DEEPEST: Final = 64
"""Containers in containers; the specification allows 32 arrays and 32 structs, and variants in variants to 64."""

_FIXED: Final = {"y": "B", "b": "I", "n": "h", "q": "H", "i": "i", "u": "I", "x": "q", "t": "Q", "d": "d"}
_SIZES: Final = {"y": 1, "b": 4, "n": 2, "q": 2, "i": 4, "u": 4, "x": 8, "t": 8, "d": 8}
_ALIGNMENTS: Final = {**_SIZES, "s": 4, "o": 4, "g": 1, "a": 4, "v": 1, "(": 8, "{": 8}
_BASIC: Final = frozenset("ybnqiuxtdsog")
_PATH_CHARACTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")


class BusError(Exception):
    """Something between us and the other end."""


class FormatError(BusError, ValueError):
    """These bytes are not D-Bus, or this value does not fit its signature."""


def pack(signature: str, values: Sequence[Any]) -> bytes:
    """The values as little-endian D-Bus. Raises FormatError."""
    types = list(complete_types(signature))
    if len(types) != len(values):
        raise FormatError(f"{len(values)} values for signature '{signature}'")
    out = bytearray()
    try:
        for each, value in zip(types, values, strict=True):
            _put(out, each, value, 0)
    except (struct.error, TypeError, ValueError, AttributeError) as error:
        raise error if isinstance(error, FormatError) else FormatError(f"{error}, for '{signature}'") from error
    return bytes(out)


def unpack(signature: str, data: bytes, *, order: str = "<") -> tuple[Any, ...]:
    """The values of a body; `order` is struct's sign. Raises FormatError, also for bytes that are left over."""
    reader = _Reader(data, order)
    values = tuple(reader.take(each, 0) for each in complete_types(signature))
    if reader.at != len(data):
        raise FormatError(f"{len(data) - reader.at} bytes left over after '{signature}'")
    return values


def complete_types(signature: str) -> Iterator[str]:
    """`sa(sv)u` -> `s`, `a(sv)`, `u`. Raises FormatError."""
    if len(signature) > 255:
        raise FormatError("signature longer than 255")
    at = 0
    while at < len(signature):
        end = _end_of_type(signature, at, 0)
        yield signature[at:end]
        at = end


def _end_of_type(signature: str, at: int, depth: int) -> int:
    kind = signature[at : at + 1]
    if kind in _BASIC or kind == "v":
        if kind:
            return at + 1
    elif kind == "a" and depth < DEEPEST:
        if signature[at + 1 : at + 2] != "{":
            return _end_of_type(signature, at + 1, depth + 1)
        end = _end_of_type(signature, at + 3, depth + 2)
        if signature[at + 2] in _BASIC and signature[end : end + 1] == "}":
            return end + 1
    elif kind == "(" and depth < DEEPEST:
        end = _end_of_type(signature, at + 1, depth + 1)
        while signature[end : end + 1] != ")":
            end = _end_of_type(signature, end, depth + 1)
        return end + 1
    raise FormatError(f"'{signature}' is no signature")


def _put(out: bytearray, kind: str, value: Any, depth: int) -> None:
    """Append one value of one complete type."""
    first = kind[0]
    out += bytes(-len(out) % _ALIGNMENTS[first])
    if first in _FIXED:
        out += struct.pack("<" + _FIXED[first], bool(value) if first == "b" else value)
    elif first in "so":
        encoded = _checked_text(first, value).encode()
        out += struct.pack("<I", len(encoded)) + encoded + b"\0"
    elif first == "g":
        out += bytes((len(value),)) + "".join(complete_types(value)).encode() + b"\0"
    elif depth >= DEEPEST:
        raise FormatError("nested too deeply")
    elif first == "v":
        inner, content = value
        if [inner] != list(complete_types(inner)):
            raise FormatError(f"a variant has one type, not '{inner}'")
        _put(out, "g", inner, depth)
        _put(out, inner, content, depth + 1)
    elif first == "a":
        _put_array(out, kind[1:], value, depth + 1)
    else:
        _put_members(out, kind, value, depth + 1)


def _put_array(out: bytearray, element: str, values: Any, depth: int) -> None:
    where = len(out)
    out += bytes(4)
    out += bytes(-len(out) % _ALIGNMENTS[element[0]])
    start = len(out)
    if element == "y":
        if not isinstance(values, bytes):
            raise FormatError("'ay' is bytes")
        out += values
    else:
        for each in values.items() if element[0] == "{" else values:
            _put(out, element, each, depth)
    if len(out) - start > LONGEST_ARRAY:
        raise FormatError("array longer than 64 MiB")
    struct.pack_into("<I", out, where, len(out) - start)


def _put_members(out: bytearray, kind: str, values: Any, depth: int) -> None:
    members = list(complete_types(kind[1:-1]))
    if len(members) != len(values):
        raise FormatError(f"{len(values)} values for '{kind}'")
    for member, value in zip(members, values, strict=True):
        _put(out, member, value, depth)


def _checked_text(kind: str, text: str) -> str:
    """A string or an object path that may travel. Raises FormatError."""
    if "\0" in text:
        raise FormatError("a string with a zero byte")
    if kind == "o" and text != "/":
        names = text.split("/")
        if names[0] or not all(name and set(name) <= _PATH_CHARACTERS for name in names[1:]):
            raise FormatError(f"'{text}' is no object path")
    return text


class _Reader:
    """Takes values off a message; every length is checked against what is there before it is used."""

    __slots__ = ("at", "data", "order")

    def __init__(self, data: bytes, order: str) -> None:
        self.data = data
        self.order = order
        self.at = 0

    def take(self, kind: str, depth: int) -> Any:
        """One value of one complete type."""
        first = kind[0]
        self._align(_ALIGNMENTS[first])
        if first in _FIXED:
            value = struct.unpack(self.order + _FIXED[first], self._bytes(_SIZES[first]))[0]
            if first == "b":
                if value > 1:
                    raise FormatError(f"a boolean of {value}")
                return value == 1
            return value
        if first in "so":
            return _checked_text(first, self._text(self._length()))
        if first == "g":
            return "".join(complete_types(self._text(self._bytes(1)[0])))
        if depth >= DEEPEST:
            raise FormatError("nested too deeply")
        if first == "v":
            inner = self.take("g", depth)
            if [inner] != list(complete_types(inner)):
                raise FormatError(f"a variant of '{inner}'")
            return inner, self.take(inner, depth + 1)
        if first == "a":
            return self._array(kind[1:], depth + 1)
        return tuple(self.take(each, depth + 1) for each in complete_types(kind[1:-1]))

    def _array(self, element: str, depth: int) -> Any:
        length = self._length()
        self._align(_ALIGNMENTS[element[0]])
        if length > LONGEST_ARRAY or length > len(self.data) - self.at:
            raise FormatError(f"an array of {length} bytes where {len(self.data) - self.at} are left")
        if element == "y":
            return self._bytes(length)
        end = self.at + length
        values = []
        while self.at < end:
            values.append(self.take(element, depth))
        if self.at != end:
            raise FormatError("an array that ends within an element")
        return dict(values) if element[0] == "{" else values

    def _length(self) -> int:
        length: int = struct.unpack(self.order + "I", self._bytes(4))[0]
        return length

    def _text(self, length: int) -> str:
        text = self._bytes(length + 1)
        if text[-1]:
            raise FormatError("a string without its zero byte")
        try:
            return text[:-1].decode()
        except UnicodeDecodeError as error:
            raise FormatError("a string that is no UTF-8") from error

    def _align(self, alignment: int) -> None:
        if any(self._bytes(-self.at % alignment)):
            raise FormatError("padding that is not zero")

    def _bytes(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise FormatError(f"{count} bytes wanted where {len(self.data) - self.at} are left")
        self.at += count
        return self.data[self.at - count : self.at]
