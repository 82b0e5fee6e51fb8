# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command line: talks to people. One file per verb, imported when its verb is used."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from slicemgr import __version__
from slicemgr.cli.exit_codes import ExitCode

_DESCRIPTION = """\
Run builds in a memory limit of their own. When one runs out, slicemgr ends one process of that build, the
one with the highest badness, and tells you which and why. Nothing outside the build is touched."""

_VERBS = {"run": "run a command under memory limits"}


class OneLineParser(argparse.ArgumentParser):
    """A usage error is one line that ends in what to try; the full help is for who asks for it."""

    def error(self, message: str) -> NoReturn:
        """Print the line and exit with 2."""
        self.exit(ExitCode.USAGE, f"{self.prog}: {message}; try '{self.prog} --help'\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """The entry point `slicemgr`; returns the exit status."""
    parser = OneLineParser(
        prog="slicemgr",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="'slicemgr VERB --help' tells more.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"slicemgr {__version__}")
    verbs = "\n".join(f"  {verb:<8}{summary}" for verb, summary in _VERBS.items())
    parser.add_argument("verb", metavar="VERB", choices=_VERBS, help=f"one of: {', '.join(_VERBS)}")
    parser.add_argument("rest", metavar="...", nargs=argparse.REMAINDER, help="the verb's own arguments")
    parser.epilog = f"verbs:\n{verbs}\n\n{parser.epilog}"
    parsed = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    verb = import_module(f"slicemgr.cli.{parsed.verb}")
    status: int = verb.main(parsed.rest)
    return status
