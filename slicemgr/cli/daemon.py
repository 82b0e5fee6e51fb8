# SPDX-License-Identifier: LGPL-2.1-or-later
"""`slicemgr daemon`: the service."""

import argparse
import asyncio
import os
from collections.abc import Sequence

from slicemgr.cli import OneLineParser
from slicemgr.cli.exit_codes import ExitCode
from slicemgr.cli.printable import say
from slicemgr.cli.report_lines import history_line
from slicemgr.config import ConfigError, files, schema
from slicemgr.kernel.cgroupfs import cgroup_of
from slicemgr.kernel.errors import KernelError, NotSupportedError
from slicemgr.kernel.features import Feature, probe
from slicemgr.service.control import AddressInUseError
from slicemgr.service.daemon import Daemon
from slicemgr.service.overview import SYSTEM_ROOT, user_root
from slicemgr.service.record import Record

_PROG = "slicemgr daemon"

_DESCRIPTION = """\
Guard the slices of the configuration: set their limits, watch them, and when one runs out end one process of it.
Meant to be started by systemd ('slicemgr install'); it stays in the foreground, and tells what it does on stderr."""

_EPILOG = """\
signals: SIGTERM and SIGINT end it in order, SIGHUP reads the configuration again (a broken one is told, and the old
one kept).

exit status: 0; 78 if the configuration can't be meant; 2 for a usage error; 125 if it can't work here.

example: slicemgr daemon --dry-run"""

_BROKEN = 78
"""EX_CONFIG of sysexits.h: the unit does not start it again for that (RestartPreventExitStatus=)."""

_NEEDED = frozenset({Feature.CGROUP2, Feature.MEMORY, Feature.PIDFD})
_USEFUL = frozenset({Feature.PRESSURE, Feature.KILL})


def main(arguments: Sequence[str]) -> int:
    """Run the verb until it is told to end; returns the exit status."""
    options = _parser().parse_args(arguments)
    is_user = options.user or (not options.system and os.geteuid() != 0)
    if not is_user and os.geteuid() != 0:
        return _fail(ExitCode.USAGE, "--system is for root; try 'sudo slicemgr daemon --system', or --user")
    if (unable := _why_unable(user_root(os.getuid()) if is_user else SYSTEM_ROOT)) is not None:
        return _fail(ExitCode.OWN_FAILURE, unable)
    try:
        config = schema.read(files.load(files.directories(os.environ if is_user else None)))
        daemon = Daemon(
            config,
            is_user=is_user,
            dry_run=options.dry_run,
            environment=dict(os.environ),
            say=_say,
            tell=_tell,
        )
        asyncio.run(daemon.run())
    except ConfigError as error:
        for line in error.lines:
            _say(line)
        return _BROKEN
    except AddressInUseError as error:
        return _fail(ExitCode.OWN_FAILURE, f"another daemon listens on {error}; try 'slicemgr status'")
    except OSError as error:
        return _fail(ExitCode.OWN_FAILURE, f"can't start: {error}; try 'slicemgr status'")
    return 0


def _why_unable(root: str) -> str | None:
    """What the service can't be without; what it can is told, and it works as well as it may."""
    try:
        features = probe(root)
    except KernelError as error:
        return f"{error}; try again, and report it if it stays"
    for missing in features.missing:
        if missing.feature in _NEEDED:
            return str(missing)
        if missing.feature in _USEFUL:
            _say(f"works with less: {missing}")
    try:  # After what is missing, which would be the reason.
        cgroup_of(os.getpid())
    except NotSupportedError as error:
        return str(error)
    except KernelError:
        return "/proc does not tell our own cgroup; try mount -t proc proc /proc"
    return None


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog=_PROG,
        usage="slicemgr daemon [--user | --system] [--dry-run]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--user", action="store_true", help="guard this user's slices (the default, but for root)")
    which.add_argument("--system", action="store_true", help="guard the system's builds and all users' slices")
    parser.add_argument("--dry-run", action="store_true", help="tell who would be killed, and kill nobody")
    return parser


def _tell(record: Record) -> None:
    _say(history_line(record))


def _say(line: str) -> None:
    say(line, prog=_PROG)


def _fail(code: ExitCode, message: str) -> ExitCode:
    _say(message)
    return code
