# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command line: talks to people. One file per verb, imported for it alone. Light, see model/quantity.py."""

from __future__ import annotations

import io
import os
import sys

from slicemgr.kernel.signals import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

    from slicemgr.cli.parser import OneLineParser as OneLineParser

VERBS: Final = (
    *("run", "status", "list", "explain", "kills", "steps", "jobs", "monitor"),
    *("pause", "resume", "set", "config", "daemon", "session", "install"),
)


def __getattr__(name: str) -> object:
    """OneLineParser, for the verbs that begin with argparse: only when it is asked for."""
    if name == "OneLineParser":
        from slicemgr.cli.parser import OneLineParser

        return OneLineParser
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def main(arguments: Sequence[str] | None = None) -> int:
    """The entry point `slicemgr`; returns the exit status."""
    # Until the command runs, ^C ends us without a traceback.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    _prepare_standard_streams()
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] in VERBS:
        name, rest = arguments[0], arguments[1:]
    else:
        from slicemgr import __version__
        from slicemgr.cli.parser import parse_verb

        name, rest = parse_verb(arguments, VERBS, __version__)
    # Not importlib's import_module: it is one more module to read.
    module = __import__(f"slicemgr.cli.{name}", fromlist=("main",))
    status: int = module.main(rest)
    return status


def _prepare_standard_streams() -> None:
    """Where a caller closed one of 0, 1, 2 (`2>&-`): /dev/null, before a pipe of ours gets that number.

    A pidfd with the number 2 would be written into, and the command would inherit it. And what the encoding of stdout
    lacks is escaped, as on stderr: Python would end us for a "…".
    """
    for number, mode in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, mode), True)  # The lowest free number: this one.
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", errors="backslashreplace", closefd=False)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
