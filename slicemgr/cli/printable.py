# SPDX-License-Identifier: LGPL-2.1-or-later
"""Names and lines for people: a process names itself, so its name must not be able to draw on the terminal.

Light, see model/quantity.py.
"""

from __future__ import annotations

import os
import sys

from slicemgr.cli.exit_codes import ExitCode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_LONGEST = 100
"""Characters of a command line in a report: with the rest it fills two lines of a terminal."""

_LONGEST_SHOWN = 60
_LONGEST_MESSAGE = 320
"""Four lines of a terminal: what is longer has an argument in it that nobody has typed."""


def printable(name: str) -> str:
    r"""The name with everything that is not plainly visible escaped: `foo\n`, `\x1b[2J`, `\xff`."""
    return "".join(_visible(character) for character in name)


def shown(argument: str) -> str:
    """An argument in a message: on one line, and not longer than that."""
    return printable(argument if len(argument) <= _LONGEST_SHOWN else argument[:_LONGEST_SHOWN] + "…")


def one_line(message: str) -> str:
    r"""A whole message, whose arguments may be escaped already: a backslash stays one, the rest is as in `printable`.

    Of one that is too long the middle goes: what was wrong stands at its front, and what to try at its end.
    """
    line = "".join(each if each == "\\" else _visible(each) for each in message)
    return _without_middle(line, _LONGEST_MESSAGE)


def encodable(text: str) -> str:
    r"""The text as it is, but for bytes that are no UTF-8 (`\xff`): for JSON, which can carry all the rest."""
    return "".join(f"\\x{ord(each) - 0xDC00:02x}" if _is_stray_byte(each) else each for each in text)


def say(line: str, *, prog: str = "slicemgr") -> None:
    """One line of ours on stderr, in one write so that it stays whole among the command's."""
    complain(f"{prog}: {line}")


def complain(*lines: str) -> None:
    """Lines as they are to stderr. One that is full or gone is no reason to stop: there is nobody to tell."""
    try:
        sys.stderr.write("".join(f"{line}\n" for line in lines))
        sys.stderr.flush()
    except OSError:
        # The line is still in the buffer: the interpreter would try it once more at its end, and exit with 120. The
        # descriptor stays as it is: a command inherits it, and a disk may have room again.
        sys.stderr = os.fdopen(2, "w", errors="backslashreplace", closefd=False)


def print_out(text: str, prog: str) -> int:
    """To standard output; returns the exit status. That somebody has read enough of it (`| head`) is no failure."""
    error = write_out(text)
    if error is None or isinstance(error, BrokenPipeError):
        return 0
    say(f"can't write: {error.strerror}; try another place", prog=prog)
    return ExitCode.OWN_FAILURE


def write_out(text: str) -> OSError | None:
    """To standard output, at once; returns why it was not written, and then nothing more will be."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        # As with stderr; nobody inherits this one.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
        return error
    return None


def printable_command(arguments: Sequence[str], longest: int = _LONGEST) -> str:
    """A command line as a shell would take it, shortened: options go first, the file that it was at stays.

    gcc calls cc1plus with twenty options, and its source among them.
    """
    line = _joined(arguments)
    if len(line) > longest:
        operands = [argument for argument in arguments[1:] if not argument.startswith("-")]
        program = arguments[0].rpartition("/")[2]
        line = _joined([program, *dict.fromkeys(operands)]).replace(" ", " … ", 1)
    return _without_middle(line, longest)


def _without_middle(line: str, longest: int) -> str:
    head = longest // 3
    return line if len(line) <= longest else f"{line[:head]}…{line[head + 1 - longest :]}"


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
