# SPDX-License-Identifier: LGPL-2.1-or-later
"""GNU make's command line and MAKEFLAGS, as far as `-j` goes: found, taken out, and a jobserver put in its place.

make ignores an inherited jobserver when its arguments have a -j ("warning: -j8 forced in submake: resetting jobserver
mode"), but not when only MAKEFLAGS has one; so N is taken out of the arguments and becomes a ceiling. Read as
main.c of make does it, with getopt_long(3) and three ways of its own: options count up to `--`, also behind targets;
-j and -l take the next word if it looks like a number; and MAKEFLAGS may begin with letters without a dash. Whatever
make would refuse is left alone, so that make itself says why. Light, see model/quantity.py.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Final

UNLIMITED_PER_CORE: Final = 4
"""What a `-j` without a number is taken for: enough for recipes that wait for a disk or a network. More steps at once
than cores end no sooner, and whoever writes it has not counted them."""

_MOST_JOBS: Final = (1 << 31) - 1
"""make reads an int: -j4294967297 is -j1 to it, and a longer number an error in 4.3 and no -j in 4.4."""

_MOST_DIGITS: Final = 10

_UNLIMITED: Final = 0

_DIGITS: Final = frozenset("0123456789")

# How an option takes its value: not at all, attached or in the next word, attached only, and -j and -l as they do.
_NONE, _NEXT, _ATTACHED, _COUNT, _LOAD = "none", "next", "attached", "count", "load"

_LETTERS: Final = {
    **dict.fromkeys("bBdehikLmnpqrRsStvw", _NONE),
    **dict.fromkeys("CEfIoW", _NEXT),
    "O": _ATTACHED,
    "j": _COUNT,
    "l": _LOAD,
}

# make 4.3, then what 4.4 has more; each with its letter, if it has one: two names of one option are not ambiguous.
_NAMES: Final = {
    "always-make": "B", "environment-overrides": "e", "eval": "E", "help": "h", "ignore-errors": "i", "keep-going": "k",
    "check-symlink-times": "L", "just-print": "n", "dry-run": "n", "recon": "n", "print-data-base": "p",
    "question": "q", "no-builtin-rules": "r", "no-builtin-variables": "R", "silent": "s", "quiet": "s",
    "no-keep-going": "S", "stop": "S", "touch": "t", "version": "v", "print-directory": "w", "directory": "C",
    "file": "f", "makefile": "f", "include-dir": "I", "jobs": "j", "load-average": "l", "max-load": "l",
    "old-file": "o", "assume-old": "o", "output-sync": "O", "what-if": "W", "new-file": "W", "assume-new": "W",
    "debug": "", "jobserver-auth": "", "trace": "", "no-print-directory": "", "warn-undefined-variables": "",
    "sync-mutex": "", "no-silent": "", "jobserver-fds": "",
    "jobserver-style": "", "shuffle": "",
}  # fmt: skip

_WITHOUT_LETTER: Final = {
    "debug": _ATTACHED, "shuffle": _ATTACHED, "jobserver-auth": _NEXT, "jobserver-fds": _NEXT,
    "jobserver-style": _NEXT, "sync-mutex": _NEXT,
}  # fmt: skip

_JOBSERVER: Final = ("jobserver-auth", "jobserver-fds")

_LARGEST_MAKE: Final = 8 << 20
"""Bytes, statically linked and with all its symbols."""


class MakeCommand:
    """A make whose parallelism can be paced: its arguments without -j, and how many jobs were asked for at most."""

    __slots__ = ("arguments", "ceiling")

    def __init__(self, arguments: tuple[str, ...], ceiling: int) -> None:
        self.arguments = arguments
        self.ceiling = ceiling

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MakeCommand):
            return NotImplemented
        return (self.arguments, self.ceiling) == (other.arguments, other.ceiling)

    def __hash__(self) -> int:
        return hash((self.arguments, self.ceiling))

    def __repr__(self) -> str:
        return f"MakeCommand({self.arguments!r}, {self.ceiling})"


def make_command(arguments: Sequence[str], environment: Mapping[str, str]) -> MakeCommand | None:
    """The command, if it is plainly a make that may run two jobs or more; else None, and it stays as it is.

    None also inside another make that has a jobserver, and for what make would refuse. A make behind `env` or `sh -c`
    is not looked for. A -j of the environment (MAKEFLAGS, then GNUMAKEFLAGS) counts as it does for make: where the
    arguments have none. MAKEFLAGS of such a command is `with_jobserver`.
    """
    if not arguments or not _is_make(arguments[0]):
        return None
    try:
        own = _Reading(arguments[1:])
    except _NotUnderstoodError:
        return None
    around = [_Reading.of_makeflags(environment.get(name, "")) for name in ("MAKEFLAGS", "GNUMAKEFLAGS")]
    if any(reading.has_jobserver for reading in (own, *around)):
        return None
    jobs = next((reading.jobs for reading in (own, *around) if reading.jobs is not None), 1)
    if jobs == _UNLIMITED:
        jobs = max(2, UNLIMITED_PER_CORE * len(os.sched_getaffinity(0)))
    if jobs == 1:
        return None
    return MakeCommand((arguments[0], *(word for word in own.kept if word is not None)), jobs)


def with_jobserver(makeflags: str, ceiling: int, reading: int, writing: int) -> str:
    """MAKEFLAGS for a make that is to take its tokens from `reading` and to bring them back to `writing`.

    All else in it stays: letters without a dash first, where alone make reads them, and variables last. -jN is what
    make's own has, and what makefiles look for; there it does not reset the jobserver.
    """
    read = _Reading.of_makeflags(makeflags)
    kept = [
        raw if word == before else _quoted(word)
        for (raw, before), word in zip(_split(makeflags), read.kept, strict=True)
        if word is not None
    ]
    letters = 1 if read.begins_with_letters and read.kept[0] is not None else 0
    # make's own has nothing before the blank where there are no letters.
    before = kept[:letters] or [""]
    return " ".join((*before, f"-j{ceiling}", f"--jobserver-auth={reading},{writing}", *kept[letters:]))


def _is_make(command: str) -> bool:
    """`make`, `gmake`, and a version 4 beside the distribution's: `make-4.4.1`."""
    name, dash, version = command.rpartition("/")[2].partition("-")
    return name in {"make", "gmake"} and (not dash or (version.startswith("4.") and set(version) <= _DIGITS | {"."}))


def _split(makeflags: str) -> list[tuple[str, str]]:
    """decode_env_switches() of make: words at blanks, and after a backslash what is meant literally.

    Each as it is written, and as it is read.
    """
    words: list[tuple[str, str]] = []
    raw = word = ""
    characters = iter(makeflags)
    for character in characters:
        if character in " \t":
            if raw:
                words.append((raw, word))
            raw = word = ""
            continue
        # The last backslash of all is one.
        literal = next(characters, "\\") if character == "\\" else ""
        raw += character + literal
        word += literal or character
    return [*words, (raw, word)] if raw else words


def _quoted(word: str) -> str:
    return "".join(f"\\{character}" if character in " \t\\" else character for character in word)


class _NotUnderstoodError(Exception):
    """make would refuse it, or it is of a make that we do not know."""


class _Reading:
    """Words as make's options: what they say of jobs, and what remains of each without that (None: nothing)."""

    def __init__(self, words: Sequence[str], *, is_environment: bool = False) -> None:
        """Raises _NotUnderstoodError. Not in the environment: there make passes over what it does not know."""
        self.kept: list[str | None] = list(words)
        self.jobs: int | None = None
        self.has_jobserver = False
        self.begins_with_letters = is_environment and bool(words) and words[0][:1] != "-" and "=" not in words[0]
        self._words = words
        self._is_environment = is_environment
        self._at = 0
        while self._at < len(words) and words[self._at] != "--":
            word = words[self._at]
            if word.startswith("--"):
                self._read_name(word)
            elif word.startswith("-"):
                self._read_letters(word, 1)
            elif self._at == 0 and self.begins_with_letters:
                self._read_letters(word, 0)
            self._at += 1

    @classmethod
    def of_makeflags(cls, makeflags: str) -> _Reading:
        """Of a variable as make reads it from the environment."""
        return cls([word for _, word in _split(makeflags)], is_environment=True)

    def _read_letters(self, word: str, first: int) -> None:
        """`-kj20`: the first letter that takes a value takes all that is behind it."""
        for place, letter in enumerate(word[first:], first):
            takes = _LETTERS.get(letter)
            if takes is None:
                self._unknown()
            elif takes != _NONE:
                at = self._at
                value = word[place + 1 :] or self._next_word(takes)
                if letter == "j":
                    self._take_jobs(value, at, word[:place] if place > first else None)
                elif not first:
                    # Its value may be the next word, and what is put behind letters would come between.
                    self.begins_with_letters = False
                    self.kept[at] = f"-{word}"
                return

    def _read_name(self, word: str) -> None:
        name, equals, attached = word[2:].partition("=")
        candidates = [name] if name in _NAMES else [known for known in _NAMES if known.startswith(name)]
        if len({_NAMES[known] or known for known in candidates}) != 1:  # Two names of one option are one.
            return self._unknown()
        letter = _NAMES[candidates[0]]
        takes = _LETTERS[letter] if letter else _WITHOUT_LETTER.get(candidates[0], _NONE)
        if equals and takes == _NONE:
            return self._unknown()
        at = self._at
        value = attached if equals else self._next_word(takes)
        if candidates[0] in _JOBSERVER:
            self.has_jobserver = True
        if letter == "j":
            self._take_jobs(value, at, None)
        return None

    def _next_word(self, takes: str) -> str | None:
        """The next word, if it is this option's value."""
        if takes in {_NONE, _ATTACHED}:
            return None
        if self._at + 1 == len(self._words):
            if takes == _NEXT:
                self._unknown()
            return None
        word = self._words[self._at + 1]
        if (takes == _COUNT and not set(word) <= _DIGITS) or (takes == _LOAD and word[:1] not in _DIGITS | {"."}):
            return None
        self._at += 1
        return word

    def _take_jobs(self, value: str | None, at: int, rest: str | None) -> None:
        """`at` is where the option stands, and `rest` what else the word says."""
        if value is None:
            self.jobs = _UNLIMITED
        elif set(value) <= _DIGITS and len(value.lstrip("0")) <= _MOST_DIGITS and 1 <= int(value or "0") <= _MOST_JOBS:
            self.jobs = int(value)
        else:
            self._unknown()
        self.kept[at] = rest
        if self._at != at:
            self.kept[self._at] = None

    def _unknown(self) -> None:
        if not self._is_environment:
            raise _NotUnderstoodError


def takes_tokens(command: str, search_path: str) -> bool:
    """Whether the make behind this name knows --jobserver-auth, as GNU make does since 4.2: others would refuse it.

    Told by the word in its file: to read 250 kB takes 0.1 ms, and to ask it for its version 2 ms.
    """
    directories = [""] if "/" in command else [f"{entry or '.'}/" for entry in search_path.split(":")]
    for directory in directories:
        path = f"{directory}{command}"
        if os.access(path, os.X_OK) and os.path.isfile(path):
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                return False
            try:
                return b"jobserver-auth" in os.read(descriptor, _LARGEST_MAKE)
            finally:
                os.close(descriptor)
    return False
