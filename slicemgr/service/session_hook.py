# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the login hook does: find the session's leader, and tell a daemon, or without one put it in place.

The two that look above us read /proc and cgroupfs. All others may block, in the kernel and on the bus; cli/session.py
sees to it that nobody waits for that.
"""

import contextlib
import os
import pwd
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from slicemgr.bus.errors import NO_BUS, NO_OWNER, UNKNOWN_OBJECT, NotFoundError, RemoteError, RequestError
from slicemgr.kernel.errors import KernelError, ProcessGoneError
from slicemgr.kernel.pidfd import HandedProcess, process_behind
from slicemgr.model.process import ProcessIdentity
from slicemgr.placement.backend import PlacementError
from slicemgr.placement.bus_connection import BusError
from slicemgr.placement.systemd1 import JobFailedError, connect
from slicemgr.service.adoption import adopt_session
from slicemgr.service.places import bus_address
from slicemgr.service.session_leader import Leader, find_leader, login_program
from slicemgr.service.sessions import session_id, session_unit

if TYPE_CHECKING:
    from slicemgr.bus.control import Control

_ABSENT: Final = NO_OWNER | {NO_BUS}


class HookError(Exception):
    """It could not be done; one line that ends in what to try."""


def leader_above(pid: int, uid: int, environment: Mapping[str, str]) -> Leader | None:
    """Of the session that this process is in; None: of none. Raises HookError."""
    with _as_hook_errors():
        return find_leader(pid, uid, environment.get("XDG_SESSION_ID", ""))


def open_session(leader: Leader | None, uid: int, environment: Mapping[str, str], *, seconds: float) -> None:
    """Tell the user's daemon of this one's session. Raises HookError.

    Without a daemon the service manager is asked for what that would have asked for.
    """
    if leader is None:
        raise HookError("this is no session; try it from within one, as from ~/.xinitrc or XDG autostart")
    with _as_hook_errors(), _held(leader.identity) as (pidfd, process):
        identifier = session_id(leader.session, leader.identity.pid)
        options: dict[str, Any] = {
            "id": identifier,
            "desktop": _desktop(environment),
            "type": environment.get("XDG_SESSION_TYPE", ""),
            "place": not leader.is_run_by_units,
        }
        if _is_told(_addresses(uid, environment), pidfd, options, seconds, may_start=True):
            return
        if not leader.is_run_by_units:
            _place(process, identifier, uid, environment)


def close_session(leader: Leader | None, uid: int, environment: Mapping[str, str], *, seconds: float) -> None:
    """It ends. Without a daemon, or if that knows nothing of it, all is well. Raises HookError."""
    if leader is None:
        return
    with _as_hook_errors():
        identifier = session_id(leader.session, leader.identity.pid)
        _forget(_addresses(uid, environment), identifier, seconds)


def login_above(pid: int) -> ProcessIdentity:
    """Who has opened the session, for a hook of PAM's. Raises HookError."""
    with _as_hook_errors():
        return login_program(pid)


def tell_the_systems_daemon(
    deed: str, login: ProcessIdentity, environment: Mapping[str, str], *, seconds: float
) -> None:
    """For PAM, as root, before or after the session: there is nobody to be put anywhere. Raises HookError."""
    told = environment.get("XDG_SESSION_ID", "")
    addresses = [bus_address(None, {})]
    with _as_hook_errors():
        identifier = session_id(told, login.pid)
        if deed == "close":
            _forget(addresses, identifier, seconds)
            return
        with _held(login) as (pidfd, _):
            options: dict[str, Any] = {
                "id": identifier,
                "desktop": _desktop(environment),
                "type": environment.get("XDG_SESSION_TYPE", ""),
                "place": False,
                "user": pwd.getpwnam(environment["PAM_USER"]).pw_uid,
            }
            _is_told(addresses, pidfd, options, seconds, may_start=False)


@contextlib.contextmanager
def _as_hook_errors() -> Iterator[None]:
    try:
        yield
    except (RemoteError, RequestError) as error:
        hint = "" if "; try " in str(error) else "; try 'slicemgr status'"
        raise HookError(f"{error}{hint}") from error
    except (BusError, JobFailedError) as error:
        raise HookError(f"systemd says: {error}; try 'systemctl --user status'") from error
    except PlacementError as error:
        raise HookError(str(error)) from error
    except (KernelError, OSError, KeyError) as error:
        raise HookError(f"{error}; try it from within the session") from error


@contextlib.contextmanager
def _held(identity: ProcessIdentity) -> Iterator[tuple[int, HandedProcess]]:
    """By a pidfd that is proven to be this process's. Raises ProcessGoneError, KernelError, OSError."""
    try:
        pidfd = os.pidfd_open(identity.pid)
    except ProcessLookupError as error:
        raise ProcessGoneError(identity.pid) from error
    try:
        process = process_behind(pidfd)
        if process.identity != identity:
            raise ProcessGoneError(identity.pid)
        yield pidfd, process
    finally:
        os.close(pidfd)


def _is_told(addresses: list[str], pidfd: int, options: Mapping[str, Any], seconds: float, *, may_start: bool) -> bool:
    """False: there is no daemon. Raises RemoteError."""
    return _asked(addresses, lambda daemon: daemon.register_session(pidfd, options, may_start=may_start), seconds)


def _forget(addresses: list[str], identifier: str, seconds: float) -> None:
    try:
        _asked(addresses, lambda daemon: daemon.unregister_session(identifier), seconds)
    except RemoteError as error:
        if error.name not in {NotFoundError().name, UNKNOWN_OBJECT}:
            raise


def _asked(addresses: list[str], ask: "Callable[[Control], object]", seconds: float) -> bool:
    """The first daemon on one of these buses; False: there is none, or Python has no GLib. Raises RemoteError."""
    try:
        from slicemgr.bus.control import Control
    except (ImportError, ValueError):  # ValueError: the namespace Gio is not there.
        return False
    for address in addresses:
        try:
            with Control.connect(address, seconds) as daemon:
                ask(daemon)
        except RemoteError as error:
            if error.name not in _ABSENT:
                raise
        else:
            return True
    return False


def _addresses(uid: int, environment: Mapping[str, str]) -> list[str]:
    """startx may have a bus of its own (dbus-launch); the daemon is on the one that the user's manager has."""
    managers = {name: value for name, value in environment.items() if name != "DBUS_SESSION_BUS_ADDRESS"}
    return list(dict.fromkeys((bus_address(uid, environment), bus_address(uid, managers))))


def _desktop(environment: Mapping[str, str]) -> str:
    """`ubuntu:GNOME` is GNOME as Ubuntu has it; shortened, because somebody's profile may write anything there."""
    return (environment.get("XDG_CURRENT_DESKTOP") or environment.get("DESKTOP_SESSION", ""))[:64]


def _place(process: HandedProcess, identifier: str, uid: int, environment: Mapping[str, str]) -> None:
    manager = connect(
        uid,
        runtime_dir=environment.get("XDG_RUNTIME_DIR"),
        session_bus=environment.get("DBUS_SESSION_BUS_ADDRESS"),
    )
    with contextlib.closing(manager):
        adopt_session(manager, process, unit=session_unit(identifier))
