# SPDX-License-Identifier: LGPL-2.1-or-later
"""The files of the configuration: which ones count, what they say merged, and where each value stands.

The order is systemd's, as its manual pages have it in "Configuration directories and precedence" (homed.conf(5) and
others): the first main file that is found counts alone; drop-ins of all directories are merged above it, sorted by file
name; of two with one name the one in the higher directory counts, so that an empty one or a link to /dev/null masks.
"""

import errno
import os
import re
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from slicemgr.config import Key, Origin, Tree, one_line

SYSTEM_DIRECTORIES: Final = (
    Path("/etc/slicemgr"),
    Path("/run/slicemgr"),
    Path("/usr/local/lib/slicemgr"),
    Path("/usr/lib/slicemgr"),
)
"""The first has the highest precedence."""

MAIN_FILE: Final = "slicemgr.toml"
DROP_IN_DIRECTORY: Final = "slicemgr.toml.d"

LARGEST_BYTES: Final = 1 << 20
"""A thousand slices with every key set are 0.3 MiB; what is larger is another file, and would only cost memory."""

_DEEPEST = 3
"""slice.NAME.KEY: below that a value is a value, whatever it is, and a file can nest until Python's stack is full."""

_PIECE: Final = re.compile(
    r'"""(?:\\.|[^\\])*?"""{1,3}(?!")|' + r"'''.*?'''{1,3}(?!')|" + r'"(?:\\.|[^"\\\n])*"|' + r"'[^'\n]*'|"
    r"\#[^\n]*|[A-Za-z0-9_+:-]+|\n|[^\S\n]+|.",
    re.DOTALL,
)


def directories(user_environment: Mapping[str, str] | None) -> tuple[Path, ...]:
    """Where to look, the highest precedence first.

    With the environment of a user (XDG_CONFIG_HOME, HOME) that user's own directory stands above the machine's. A
    relative XDG_CONFIG_HOME counts as unset, as the XDG Base Directory Specification has it.
    """
    if user_environment is None:
        return SYSTEM_DIRECTORIES
    config_home, home = (Path(user_environment.get(name, "")) for name in ("XDG_CONFIG_HOME", "HOME"))
    if not config_home.is_absolute():
        config_home = home / ".config"
    return (config_home / "slicemgr", *SYSTEM_DIRECTORIES) if config_home.is_absolute() else SYSTEM_DIRECTORIES


def load(search_path: Sequence[Path]) -> Tree:
    """Read and merge what the directories hold; the first has the highest precedence. Nothing at all is no error.

    Never raises: a file that can't be read is a line in `errors`. tomli is imported only if a file has content.
    """
    merged = _Merged()
    for path in _main_file(search_path):
        merged.add_file(path)
    for path in _drop_ins(search_path, merged.errors):
        merged.add_file(path)
    return merged.tree()


def load_file(path: Path) -> Tree:
    """This one file, as if there were no other; here it is an error if it is not there."""
    merged = _Merged()
    try:
        os.lstat(path)
    except FileNotFoundError:
        merged.errors.append(f"{_shown(path)}: no such file; try another path")
        return merged.tree()
    except OSError:
        pass  # Reading says why.
    merged.add_file(path)
    return merged.tree()


def load_text(text: bytes, name: str) -> Tree:
    """The content of a file that has been read already; `name` is for the messages."""
    merged = _Merged()
    merged.add_text(text, name)
    return merged.tree()


def _main_file(search_path: Sequence[Path]) -> list[Path]:
    """The first there is, also if it can't be read: what hides behind it was not meant to count."""
    for each in search_path:
        try:
            os.lstat(each / MAIN_FILE)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            pass  # A directory that we may not enter: reading will say so.
        return [each / MAIN_FILE]
    return []


def _drop_ins(search_path: Sequence[Path], errors: list[str]) -> list[Path]:
    by_name: dict[str, Path] = {}
    for each in search_path:
        directory = each / DROP_IN_DIRECTORY
        try:
            names = os.listdir(directory)
        except FileNotFoundError:
            continue
        except OSError as error:
            errors.append(one_line(f"{directory}: can't be listed: {error.strerror}; try 'ls -ld {directory}'"))
            continue
        for name in names:
            # Hidden files and what editors leave behind (x.toml~) are nobody's configuration; systemd skips them too.
            if name.endswith(".toml") and not name.startswith("."):
                by_name.setdefault(name, directory / name)
    return [path for _, path in sorted(by_name.items())]


class _Merged:
    """A tree while it grows."""

    def __init__(self) -> None:
        self.values: dict[str, object] = {}
        self.origins: dict[Key, Origin] = {}
        self.files: list[str] = []
        self.errors: list[str] = []

    def tree(self) -> Tree:
        return Tree(self.values, self.origins, tuple(self.files), tuple(self.errors))

    def add_file(self, path: Path) -> None:
        try:
            content = _content(path)
        except FileNotFoundError:
            # Gone since it was listed: no error. A link to nowhere was put there to mean something.
            if path.is_symlink():
                self.errors.append(f"{_shown(path)}: a link to nowhere; try /dev/null as its target to mask a file")
        except OSError as error:
            self.errors.append(f"{_shown(path)}: can't be read: {error.strerror}; try 'ls -l {_shown(path)}'")
        else:
            self.add_text(content, str(path))

    def add_text(self, content: bytes, name: str) -> None:
        if not content.strip():
            return  # A mask.
        self.files.append(name)
        if len(content) > LARGEST_BYTES:
            self.errors.append(f"{one_line(name)}: larger than 1 MiB; try a file that is a configuration")
            return
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = content[: error.start].count(b"\n") + 1
            self.errors.append(f"{one_line(name)}:{line}: not UTF-8; try 'iconv -t UTF-8' on it")
            return
        from tomli import TOMLDecodeError, loads

        try:
            values = loads(text)
        except TOMLDecodeError as error:
            self.errors.append(_syntax_error(name, text, str(error)))
        except (ValueError, RecursionError) as error:  # A number of 5000 digits; [[[[[[...
            self.errors.append(one_line(f"{name}: {_first_words(str(error))}; try a file that is a configuration"))
        else:
            self._merge(self.values, values, (), name, _KeyLines(text).lines)

    def _merge(self, into: dict[str, Any], new: dict[str, Any], above: Key, name: str, lines: dict[Key, int]) -> None:
        for part, value in new.items():
            key = (*above, part)
            old = into.get(part)
            self.origins[key] = Origin(name, lines.get(key, lines.get(above)))
            if isinstance(value, dict) and len(key) < _DEEPEST:
                into[part] = old if isinstance(old, dict) else {}
                self._merge(into[part], value, key, name, lines)
            else:
                into[part] = value


def _content(path: Path) -> bytes:
    """At most one byte more than is allowed. O_NONBLOCK: a named pipe must not hold us up."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    with open(path, "rb", opener=lambda name, _: os.open(name, flags)) as file:
        status = os.fstat(file.fileno())
        if stat.S_ISCHR(status.st_mode) and status.st_rdev == os.makedev(1, 3):
            return b""  # /dev/null: the mask.
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "Not a regular file")
        return file.read(LARGEST_BYTES + 1)


def _syntax_error(name: str, text: str, message: str) -> str:
    """`FILE:LINE:COLUMN: what; try ...`; tomli tells the place in words, in all its versions alike."""
    what, _, place = message.rpartition(" (at ")
    numbers = [int(each) for each in re.findall(r"\d+", place)]
    line, column = numbers if len(numbers) == 2 else (text.rstrip("\n").count("\n") + 1, None)
    where = f"{name}:{line}" if column is None else f"{name}:{line}:{column}"
    # By far the commonest two: a size without quotes, and a key or table that is there already.
    hint = "a line for it only once" if re.search(r"overwrite|twice|mutate", what) else 'quotes, as in kind = "build"'
    return one_line(f"{where}: {_first_words(what)}; try {hint}")


def _first_words(message: str) -> str:
    return message.partition(";")[0][:200]


def _shown(path: Path) -> str:
    return one_line(str(path))


class _KeyLines:
    """Each key and table of a text that is valid TOML, and the line where it is first named: tomli does not tell.

    Tolerant: what it takes wrongly costs a line number in a message; keys of tables in lists are told as if the list
    were the table. No recursion: how deep a value is nested is the file's choice.
    """

    def __init__(self, text: str) -> None:
        self.lines: dict[Key, int] = {}
        self._line = 1
        self._parts: list[str] = []  # Of the key that is being read.
        self._key: Key = ()
        self._in_header = self._in_value = False
        # The table of the last header, and one more for each bracket that is open in a value.
        self._open: list[tuple[str, Key]] = [("{", ())]
        for match in _PIECE.finditer(text):
            piece = match.group()
            if piece == "\n" and len(self._open) == 1:
                self._parts, self._in_header, self._in_value = [], False, False
            elif self._in_value:
                self._take_in_value(piece)
            else:
                self._take_in_key(piece)
            self._line += piece.count("\n")

    def _take_in_key(self, piece: str) -> None:
        if piece[0] in "\"'_-" or piece[0].isalnum():
            self._parts.append(_unquoted(piece))
        elif piece == "=":
            self._key = self._note(self._open[-1][1])
            self._in_value = True
        elif piece == "[":
            self._in_header = True
        elif piece == "]" and self._in_header and self._parts:
            self._open[0] = ("{", self._note(()))
        elif piece == "}":
            self._close()

    def _take_in_value(self, piece: str) -> None:
        if piece in {"[", "{"}:
            self._open.append((piece, self._key))
            self._in_value = piece == "["
        elif piece in {"]", "}"}:
            self._close()
        elif piece == "," and self._open[-1][0] == "{":
            self._in_value = False

    def _close(self) -> None:
        if len(self._open) > 1:
            self._open.pop()
        self._in_value = True

    def _note(self, above: Key) -> Key:
        key = (*above, *self._parts)
        self._parts = []
        for end in range(len(above) + 1, min(len(key), _DEEPEST) + 1):
            self.lines.setdefault(key[:end], self._line)
        return key


def _unquoted(piece: str) -> str:
    """A key without its quotes, and what its escapes stand for."""
    if piece[0] == '"' and "\\" in piece:
        from tomli import loads

        return str(loads(f"key = {piece}")["key"])
    return piece[1:-1] if piece[0] in "\"'" else piece
