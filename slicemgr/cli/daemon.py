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
from slicemgr.kernel.errors import NotSupportedError
from slicemgr.service.control import AddressInUseError
from slicemgr.service.daemon import Daemon
from slicemgr.service.overview import require_cgroup2
from slicemgr.service.record import Record

_PROG = "slicemgr daemon"

_DESCRIPTION = """\
Guard the slices of the configuration: set their limits, watch them, and when one runs out end one process of it.
Meant to be started by systemd ('slicemgr install'); it stays in the foreground, and tells what it does on stderr."""

_EPILOG = """\
signals: SIGTERM and SIGINT end it in order, SIGHUP reads the configuration again (a broken one is told, and the old
one kept).

exit status: 0; 1 if the configuration can't be meant; 2 for a usage error; 125 if it can't work here.

example: slicemgr daemon --dry-run"""

_BROKEN = 1


def main(arguments: Sequence[str]) -> int:
    """Run the verb until it is told to end; returns the exit status."""
    options = _parser().parse_args(arguments)
    is_user = options.user or (not options.system and os.geteuid() != 0)
    if not is_user and os.geteuid() != 0:
        return _fail(ExitCode.USAGE, "--system is for root; try 'sudo slicemgr daemon --system', or --user")
    try:
        require_cgroup2()
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
    except NotSupportedError as error:
        return _fail(ExitCode.OWN_FAILURE, str(error))
    except ConfigError as error:
        for line in error.lines:
            _say(line)
        return _BROKEN
    except AddressInUseError as error:
        return _fail(ExitCode.OWN_FAILURE, f"another daemon listens on {error}; try 'slicemgr status'")
    except OSError as error:
        return _fail(ExitCode.OWN_FAILURE, f"can't start: {error}; try 'slicemgr status'")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = OneLineParser(
        prog=_PROG,
        usage="slicemgr daemon [--user | --system] [--dry-run]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
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
