# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where slicemgr's own files are, by the XDG Base Directory Specification. Light, see model/quantity.py."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Final

SYSTEM_SOCKET: Final = "/run/slicemgr/control"
SYSTEM_STATE: Final = "/var/lib/slicemgr"


def control_socket(uid: int | None, environment: Mapping[str, str]) -> str:
    """Where the daemon of this user listens; None is the system's."""
    if uid is None:
        return SYSTEM_SOCKET
    runtime = environment.get("XDG_RUNTIME_DIR", "")
    # "All paths must be absolute. If an implementation encounters a relative path, it should ignore it."
    return f"{runtime if runtime.startswith('/') else f'/run/user/{uid}'}/slicemgr/control"


def steps_directory(uid: int, environment: Mapping[str, str]) -> str:
    """Where it is kept what was learnt of this user's builds; root's is where the system's history is, unless told."""
    is_told = environment.get("XDG_STATE_HOME", "").startswith("/")
    return state_directory(uid if uid or is_told else None, environment)


def launcher_directory(uid: int, environment: Mapping[str, str]) -> str:
    """Where the links of build/launcher.py stay. Root's builds may go on as somebody else, who has to get there."""
    is_told = environment.get("XDG_STATE_HOME", "").startswith("/")
    return f"{steps_directory(uid, environment)}/launcher" if uid or is_told else "/var/cache/slicemgr/launcher"


def job_directory(uid: int, environment: Mapping[str, str], name: str) -> str:
    """A directory to be made for one job alone, where its marks are."""
    if uid == 0 and os.access("/run", os.W_OK):
        return f"/run/slicemgr-jobs/{name}"  # Not in the daemon's own: that goes when it is stopped.
    runtime = environment.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/") and os.access(runtime, os.W_OK):
        return f"{runtime}/slicemgr/jobs/{name}"
    return f"/tmp/slicemgr-{uid}-{name}/job"  # noqa: S108 - made with mkdir, 0700, which refuses what is there


def bus_address(uid: int | None, environment: Mapping[str, str]) -> str:
    """Where this user's session bus is, or the system's (D-Bus Specification, "Well-known Message Bus Instances")."""
    if uid is None:
        return environment.get("DBUS_SYSTEM_BUS_ADDRESS") or "unix:path=/run/dbus/system_bus_socket"
    runtime = environment.get("XDG_RUNTIME_DIR") or f"/run/user/{uid}"
    return environment.get("DBUS_SESSION_BUS_ADDRESS") or f"unix:path={runtime}/bus"


def state_directory(uid: int | None, environment: Mapping[str, str]) -> str:
    """Where the history of this user is; None is the system's."""
    if uid is None:
        return SYSTEM_STATE
    state = environment.get("XDG_STATE_HOME", "")
    if not state.startswith("/"):
        # Without $HOME the user database tells.
        state = f"{environment.get('HOME') or os.path.expanduser('~')}/.local/state"
    return f"{state}/slicemgr"
