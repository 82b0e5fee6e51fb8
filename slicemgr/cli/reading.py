# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the verbs that only read have in common: which manager is meant, where its things are, and how they end.

None of them needs a daemon. They exit with 0 when they have told what there is, also if that is nothing; with 2 for
what can't be meant, and with 125 where the machine lets nothing be told.
"""

import argparse
import json
import os
import re
import shutil
import socket
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from slicemgr.bus.errors import RemoteError
from slicemgr.cli import bus_errors
from slicemgr.cli.exit_codes import ExitCode
from slicemgr.cli.parser import OneLineParser
from slicemgr.cli.printable import encodable, print_out, printable, say
from slicemgr.kernel.cgroupfs import MOUNT
from slicemgr.kernel.errors import (
    CgroupNotPermittedError,
    KernelError,
    NotPermittedError,
    NotSupportedError,
    ProcessGoneError,
)
from slicemgr.model.slice import SliceSpec
from slicemgr.service.overview import SYSTEM_ROOT, SliceOverview, Usage, look, look_with_users, user_root
from slicemgr.service.places import SYSTEM_SOCKET, bus_address, control_socket, state_directory, steps_directory

DAEMON_SECONDS: Final = 0.5
"""A living daemon accepts in well under a millisecond; one that is stopped or swapped out is not waited for."""

_USER_ROOT: Final = re.compile(r"/user\.slice/user-(?P<uid>[0-9]{1,10})\.slice/user@(?P=uid)\.service(?=/|$)", re.ASCII)
_UCRED: Final = struct.Struct("3i")
"""struct ucred of unix(7): pid, uid, gid."""


REST_LINE: Final = "the system's daemon keeps the rest; try 'sudo slicemgr kills --system'"
"""For `rest_kept_by`: its history is root's, since command lines can hold secrets."""


@dataclass(frozen=True, slots=True)
class Manager:
    """The service manager whose slices are meant, and where slicemgr keeps what belongs to it."""

    uid: int | None
    """None: the system manager."""
    runtime_directory: str
    state_directory: str
    specs: tuple[SliceSpec, ...]
    """The slices of its configuration."""
    root: str = SYSTEM_ROOT
    """Its cgroup."""
    mount: str = MOUNT
    system_socket: str = SYSTEM_SOCKET
    bus_address: str = ""
    """Where its daemon has its name; empty: nobody knows."""
    system_bus_address: str = ""

    @property
    def word(self) -> str:
        """`user` or `system`."""
        return "system" if self.uid is None else "user"

    @property
    def control_socket(self) -> str:
        """Where its daemon listens."""
        return f"{self.runtime_directory}/control"


@dataclass(frozen=True, slots=True)
class DaemonState:
    """Whether somebody listens at the control socket."""

    listens: bool
    pid: int | None = None
    problem: str = ""
    """Why that can't be said; empty if it can."""


def parser(verb: str, description: str, epilog: str, usage: str, *, with_json: bool = True) -> argparse.ArgumentParser:
    """With the options that all of them have."""
    made = OneLineParser(
        prog=f"slicemgr {verb}",
        usage=f"slicemgr {verb} {usage}",
        description=description,
        epilog=epilog,
    )
    which = made.add_mutually_exclusive_group()
    which.add_argument("--user", action="store_true", help="your own user manager (the default, but for root)")
    which.add_argument("--system", action="store_true", help="the system manager (the default for root)")
    if with_json:
        made.add_argument("--json", action="store_true", help="the same as JSON, in bytes and seconds")
    return made


def chosen_manager(options: argparse.Namespace) -> Manager:
    """The manager that was asked for, by default one's own."""
    uid = os.geteuid()
    is_user = options.user or (uid != 0 and not options.system)
    return manager_of(uid if is_user else None, os.environ)


def steps_directory_of(options: argparse.Namespace) -> str:
    """Where it is kept what was learnt of builds: `--system` are root's, whatever root's environment says."""
    return state_directory(None, os.environ) if options.system else steps_directory(os.geteuid(), os.environ)


def manager_of(uid: int | None, environment: Mapping[str, str]) -> Manager:
    """The manager of this user, or the system's."""
    return Manager(
        uid=uid,
        runtime_directory=os.path.dirname(control_socket(uid, environment)),
        state_directory=state_directory(uid, environment),
        specs=_specs(None if uid is None else environment),
        root=SYSTEM_ROOT if uid is None else user_root(uid),
        bus_address=bus_address(uid, environment),
        system_bus_address=bus_address(None, environment),
    )


def uid_of_manager(path: str) -> int | None:
    """Whose user manager a cgroup is below; None: the system's."""
    match = _USER_ROOT.match(path)
    return None if match is None else int(match["uid"])


def look_around(manager: Manager) -> tuple[SliceOverview, ...]:
    """The slices of this manager; of the system's also those of all users. Raises as overview.look."""
    if manager.uid is None:
        return look_with_users(manager.specs, manager.mount)
    return look(manager.specs, manager.root, manager.mount)


def slice_name(each: SliceOverview, manager: Manager) -> str:
    """`build`; seen from the system, a user's is `build (uid 1000)`."""
    name = printable(each.unit.removesuffix(".slice"))
    uid = uid_of_manager(each.path)
    return name if uid is None or manager.uid is not None else f"{name} (uid {uid})"


def guarding_daemon(manager: Manager) -> tuple[str, DaemonState]:
    """Whose daemon it is, and its state: without one of their own, users have the system's."""
    own = ask_daemon(manager.control_socket)
    if manager.uid is not None and not own.listens and not own.problem:
        systems = ask_daemon(manager.system_socket)
        if systems.listens:
            return "system", systems
    return manager.word, own


def bus_of(manager: Manager, whose: str, daemon: DaemonState) -> str:
    """Where the daemon that `guarding_daemon` told of has its name; empty if there is none."""
    if not daemon.listens:
        return ""
    return manager.bus_address if whose == manager.word else manager.system_bus_address


def bus_of_daemon(manager: Manager) -> str:
    """Where the daemon that guards this manager's slices has its name; empty if there is none."""
    return bus_of(manager, *guarding_daemon(manager))


def rest_kept_by(manager: Manager, whose: str) -> str | None:
    """Who has the history of what `whose` daemon did to this manager's slices, if it is not this manager's own.

    `slicemgr run` writes down what the system's daemon told it of its own job (service/job.py). What was done to
    sessions and apps, or after a `run` had gone, is in the daemon's own file, which is root's.
    """
    return whose if whose != manager.word else None


def ask_daemon(path: str) -> DaemonState:
    """Connect, see who it is, and leave again: nothing is asked."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(DAEMON_SECONDS)
        try:
            connection.connect(path)
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            return DaemonState(listens=False)
        except OSError as error:  # A socket of root's, a path that is too long, a daemon that stands still.
            return DaemonState(listens=False, problem=error.strerror or str(error))
    return DaemonState(listens=True, pid=_UCRED.unpack(credentials)[0])


def run_reading(prog: str, read: Callable[[], str]) -> int:
    """Print what `read` gives, or the one line that says why there is nothing; returns the exit status."""
    try:
        text = read()
    except ProcessGoneError:  # Who was asked for: the verb has a better hint.
        raise
    except RemoteError as error:  # Who was asked is the system's daemon: a user's own files can be read.
        say(bus_errors.line_for(error, "system"), prog=prog)
        return bus_errors.exit_code_for(error)
    except (NotPermittedError, CgroupNotPermittedError, PermissionError) as error:
        say(f"{_why(error)}; try it as root", prog=prog)
        return ExitCode.OWN_FAILURE
    except NotSupportedError as error:  # It says what to try by itself.
        say(printable(str(error)), prog=prog)
        return ExitCode.OWN_FAILURE
    except (KernelError, OSError) as error:
        say(f"{_why(error)}; try again, and report it if it stays", prog=prog)
        return ExitCode.OWN_FAILURE
    return print_out(text, prog)


def _why(error: Exception) -> str:
    """An OSError without its number, and with its path."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"can't read '{printable(os.fsdecode(error.filename))}': {error.strerror}"
    return printable(str(error))


def refuse(prog: str, problem: str, hint: str) -> int:
    """A usage error that only the machine could tell."""
    say(f"{problem}; try {printable(hint)}", prog=prog)
    return ExitCode.USAGE


def as_json(schema: str, data: Mapping[str, object]) -> str:
    """For programs: grows by new keys only; a key that changes its meaning makes it the next number."""
    return json.dumps({"schema": schema, **data}, indent=2) + "\n"


def texts(values: Sequence[str]) -> list[str]:
    """Strings that JSON can carry."""
    return [encodable(each) for each in values]


def usage_data(usage: Usage) -> Mapping[str, object]:
    """The figures of a cgroup for --json: bytes and percent, null where there is no limit or no such file."""
    return {
        "memory_current": usage.current_bytes,
        "memory_swap_current": usage.swap_bytes,
        "memory_high": usage.high_bytes,
        "memory_max": usage.max_bytes,
        "memory_swap_max": usage.swap_max_bytes,
        "stalled_percent": usage.stalled_percent,
        "processes": usage.members,
    }


def terminal_width() -> int | None:
    """Columns of standard output; None where it is no terminal, and nothing has to be cut."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _specs(environment: Mapping[str, str] | None) -> tuple[SliceSpec, ...]:
    """A configuration with a fault in it is no reason to show nothing: then the defaults are, and it is said."""
    from slicemgr.config import ConfigError, Tree, files, schema

    try:
        return schema.read(files.load(files.directories(environment))).slices
    except ConfigError as error:
        say(f"ignoring the configuration, for now: {error.lines[0]}")
        return schema.read(Tree()).slices
