# SPDX-License-Identifier: LGPL-2.1-or-later
"""The configuration: files.py reads and merges TOML, schema.py makes model values of it. Here is what both speak of."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

Key: TypeAlias = tuple[str, ...]
"""From the top: ("slice", "build", "memory_max")."""

_BARE_KEY: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
_LONGEST_SHOWN = 60
"""Characters of a foreign key in a message: what a person typed fits, what a program made does not fill the screen."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value was set."""

    path: str
    line: int | None = None
    """From 1; None if the key was not found in the text."""

    def __str__(self) -> str:
        return one_line(self.path if self.line is None else f"{self.path}:{self.line}")


@dataclass(frozen=True, slots=True)
class Tree:
    """What the files say, merged key by key, before anyone has asked whether it can be meant."""

    values: Mapping[str, object] = field(default_factory=dict)
    origins: Mapping[Key, Origin] = field(default_factory=dict)
    """Of tables and of values, down to the third level."""
    files: tuple[str, ...] = ()
    """The files that were read, in the order of merging: the later one wins."""
    errors: tuple[str, ...] = ()
    """One line for each file that can't be read or is no TOML."""

    def origin(self, key: Key) -> Origin | None:
        """Where the key was set, or the nearest table around it."""
        return next((self.origins[key[:end]] for end in range(len(key), 0, -1) if key[:end] in self.origins), None)


class ConfigError(ValueError):
    """The configuration can't be meant as it stands; every error is one line that ends in what to try."""

    def __init__(self, lines: tuple[str, ...]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


def one_line(text: str) -> str:
    """The text with everything that is not plainly visible escaped: a file must not draw on the terminal."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def key_text(key: Key) -> str:
    """The key as TOML has it: `slice.build.memory_max`, `slice."my.own"`."""
    return ".".join(part if part and set(part) <= _BARE_KEY else string_text(part) for part in key)


def shortened(key: Key) -> Key:
    """For a message, which must not be as long as a foreign key can be."""
    return tuple(part if len(part) <= _LONGEST_SHOWN else part[: _LONGEST_SHOWN - 1] + "…" for part in key)


def string_text(text: str) -> str:
    r"""A TOML basic string: quoted, `"` and backslash escaped, and all that is not plainly visible as \uXXXX."""
    return '"' + "".join(_escaped(each) for each in text) + '"'


def _escaped(character: str) -> str:
    if character in {'"', "\\"}:
        return "\\" + character
    if character.isprintable():
        return character
    code = ord(character)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
