# SPDX-License-Identifier: LGPL-2.1-or-later
"""The full parser of `slicemgr run`: its help, and its errors. Heavy, see run_options.py."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from slicemgr.cli.parser import OneLineParser
from slicemgr.cli.run_options import BACKENDS, PROFILES, RunOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

_DESCRIPTION = """\
Run COMMAND under memory limits, in a cgroup of its own where there is one to be had: the kernel holds it there. What
does not fit waits: steps of a build (the processes that compute) are stopped while they are small, and go on when there
is room, so that all of them end. What each one takes is learnt, and planned with at the next time. Only when not even
one fits, one process is killed: the one with the least work lost; or, by the guard, the biggest, or, if that has
children, the biggest of them (so make lives and one compiler goes). Terminal, input, signals and exit status are the
command's. A daemon guards the job if one runs; if not, slicemgr run does it by itself."""

_EPILOG = """\
SIZE is in bytes, or with a suffix of 1024s: 600M, 1.5G. PCT is a share of the machine's memory: 60%. 'max' is
no limit. Without --max the command may take what is free now, less a tenth of the machine. Without --high the kernel
slows it down from a sixteenth below --max on.

BACKEND is where the job is put: systemd (a scope of its own, in SLICE), cgroup (a cgroup below slicemgr's own, as in a
container), embedded (nowhere: its processes are watched, and their priority is a little below slicemgr's, so that the
looks come in time; page cache does not count, and what several share counts once). auto is the first of these that
can be had. A BACKEND that is asked for and can't be had, or does not hold the limits, is an error.

make gets its job tokens from slicemgr instead of -jN, and a compiler that slicemgr has killed runs again, alone; both
can be turned off. A PATTERN is a shell's: ctest, '*_test'.

exit status: the command's own, and its signal if one ended it; 125 if slicemgr failed, 126 if the command
can't be executed, 127 if it is not found, 2 for a usage error.

example: slicemgr run --max 2G -- make -j20"""


def parse(arguments: Sequence[str]) -> RunOptions:
    """The options; exits for --help, and with 2 for what can't be meant."""
    options: RunOptions = _parser().parse_args(arguments, namespace=RunOptions())
    return options


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="slicemgr run",
        usage="slicemgr run [OPTIONS] -- COMMAND [ARGUMENT ...]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument("--max", metavar="SIZE|PCT", help="hard limit: above it one process is killed")
    parser.add_argument("--high", metavar="SIZE|PCT", help="soft limit: above it the command is slowed down")
    parser.add_argument(
        "--swap-max", metavar="SIZE", help="hard limit on swapped memory: above it one process is killed"
    )
    parser.add_argument("--slice", metavar="NAME", help="the slice that it is put into (build)")
    parser.add_argument(
        "--profile",
        metavar="PROFILE",
        choices=PROFILES,
        help="agent: COMMAND itself is no build, and never waits; what it starts does (build)",
    )
    parser.add_argument("--no-pacing", dest="pacing", action="store_false", help="no step waits; who is too much dies")
    parser.add_argument(
        "--never-hold",
        metavar="PATTERN",
        action="append",
        help="processes of this name never wait, as a test suite with a time-out; may be given again",
    )
    parser.add_argument("--no-tokens", dest="tokens", action="store_false", help="make keeps its own jobserver")
    parser.add_argument(
        "--no-relaunch", dest="relaunch", action="store_false", help="a compiler that was killed does not run again"
    )
    parser.add_argument(
        "--retry", metavar="N", help="run COMMAND again, up to N times, with fewer at once, if it failed by a kill (0)"
    )
    parser.add_argument("--name", metavar="NAME", help="the job's name in reports and units (the command's)")
    parser.add_argument("--json", metavar="FILE", help="write what happened to FILE as well, as JSON")
    parser.add_argument("--backend", metavar="BACKEND", choices=BACKENDS, help="where to put it (auto)")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND", help="what to run")
    return parser
