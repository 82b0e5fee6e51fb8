# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command line: talks to people. One file per verb, imported when its verb is used."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from slicemgr import __version__
from slicemgr.cli.exit_codes import ExitCode

_DESCRIPTION = """\
Run builds in a memory limit of their own. When one runs out, slicemgr ends one process of that build, the
one with the highest badness, and tells you which and why. Nothing outside the build is touched."""

_VERBS = ("run",)

_EPILOG = """\
verbs:
  run         run a command under memory limits

'slicemgr VERB --help' tells more."""


class OneLineParser(argparse.ArgumentParser):
    """A usage error is one line that ends in what to try; the full help is for who asks for it."""

    def error(self, message: str) -> NoReturn:
        """Print the line and exit with 2."""
        self.exit(ExitCode.USAGE, f"{self.prog}: {message}; try '{self.prog} --help'\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """The entry point `slicemgr`; returns the exit status."""
    # Until the command runs, ^C ends us without a traceback.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    _open_standard_streams()
    parser = OneLineParser(
        prog="slicemgr",
        usage="slicemgr [--help] [--version] VERB ...",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_EPILOG,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"slicemgr {__version__}")
    parser.add_argument("verb", choices=_VERBS, metavar="VERB", help=argparse.SUPPRESS)
    parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments:
        parser.error("no verb given")
    parsed = parser.parse_args(arguments)
    verb = import_module(f"slicemgr.cli.{parsed.verb}")
    status: int = verb.main(parsed.rest)
    return status


def _open_standard_streams() -> None:
    """Where a caller closed one of 0, 1, 2 (`2>&-`): /dev/null, before a pipe of ours gets that number.

    A pidfd with the number 2 would be written into, and the command would inherit it.
    """
    for number, mode in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, mode), True)  # The lowest free number: this one.
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", errors="backslashreplace", closefd=False)
