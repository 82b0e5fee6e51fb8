# SPDX-License-Identifier: LGPL-2.1-or-later
"""Names and lines for people: a process names itself, so its name must not be able to draw on the terminal.

Light, see model/quantity.py.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_LONGEST = 100
"""Characters of a command line in a report: with the rest it fills two lines of a terminal."""


def printable(name: str) -> str:
    r"""The name with everything that is not plainly visible escaped: `foo\n`, `\x1b[2J`, `\xff`."""
    return "".join(_visible(character) for character in name)


def encodable(text: str) -> str:
    r"""The text as it is, but for bytes that are no UTF-8 (`\xff`): for JSON, which can carry all the rest."""
    return "".join(f"\\x{ord(each) - 0xDC00:02x}" if _is_stray_byte(each) else each for each in text)


def say(line: str, *, prog: str = "slicemgr") -> None:
    """One line of ours on stderr, in one write so that it stays whole among the command's.

    A stderr that is full or gone is no reason to stop: there is nobody to tell.
    """
    try:
        sys.stderr.write(f"{prog}: {line}\n")
        sys.stderr.flush()
    except OSError:
        return


def printable_command(arguments: Sequence[str], longest: int = _LONGEST) -> str:
    """A command line as a shell would take it, shortened: options go first, the file that it was at stays.

    gcc calls cc1plus with twenty options, and its source among them.
    """
    line = _joined(arguments)
    if len(line) > longest:
        operands = [argument for argument in arguments[1:] if not argument.startswith("-")]
        program = arguments[0].rpartition("/")[2]
        line = _joined([program, *dict.fromkeys(operands)]).replace(" ", " … ", 1)
    if len(line) <= longest:
        return line
    head = longest // 3
    return f"{line[:head]}…{line[head + 1 - longest :]}"


def _joined(arguments: Sequence[str]) -> str:
    import shlex

    return printable(" ".join(shlex.quote(argument) for argument in arguments))


def _visible(character: str) -> str:
    if character.isprintable() and character != "\\":
        return character
    if _is_stray_byte(character):
        return encodable(character)
    return "\\\\" if character == "\\" else character.encode("unicode_escape").decode("ascii")


def _is_stray_byte(character: str) -> bool:
    """A byte that is no UTF-8, as os.fsdecode carries it."""
    return "\udc80" <= character <= "\udcff"
