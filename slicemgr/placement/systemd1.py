# SPDX-License-Identifier: LGPL-2.1-or-later
"""org.freedesktop.systemd1: the calls to a service manager that we need, by its own names.

The manager's private socket comes first: it is there without any bus, answers whoever may own the manager, and sends
its signals unasked. Where it can't be had, the bus on which the manager has its name.
"""

from __future__ import annotations

import os
import time

from slicemgr.placement.bus_connection import (
    BUS_NAME,
    BUS_PATH,
    Connection,
    ManagerError,
    NoManagerError,
    first_unix_socket,
)
from slicemgr.placement.turn import Turn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any, Final

NO_LIMIT: Final = (1 << 64) - 1
"""`infinity` for every property of type t (CGROUP_LIMIT_MAX)."""

JOB_SECONDS: Final = 90.0
"""For a job of the manager to be done."""

ROOT_TURN: Final = "/run/slicemgr.turn"
"""A file of root's, mode 0600, empty."""

PROPERTY_SIGNATURES: Final = {
    "CPUWeight": "t",
    "CollectMode": "s",
    "Delegate": "b",
    "Description": "s",
    "IOWeight": "t",
    "ManagedOOMPreference": "s",
    "MemoryHigh": "t",
    "MemoryLow": "t",
    "MemoryMax": "t",
    "MemoryMin": "t",
    "MemorySwapMax": "t",
    "OOMPolicy": "s",
    "PIDs": "au",
    "Slice": "s",
    "TasksMax": "t",
    "TimeoutStopUSec": "t",
}
"""The properties that may be set, with their types (org.freedesktop.systemd1(5))."""

OPTIONAL: Final = ("ManagedOOMPreference", "OOMPolicy", "CollectMode")
"""A job is as well held without them. OOMPolicy of scopes is from 253 (Delegate= has the same effect there),
ManagedOOMPreference from 248."""

UNIT_EXISTS: Final = "org.freedesktop.systemd1.UnitExists"
NO_SUCH_UNIT: Final = "org.freedesktop.systemd1.NoSuchUnit"
PROCESS_UNKNOWN: Final = "org.freedesktop.DBus.Error.UnixProcessIdUnknown"
"""Of a list of processes one has ended: nobody was moved (unit_pid_attachable in systemd's core/unit.c)."""
_REFUSES_PROPERTY: Final = frozenset(
    {
        "org.freedesktop.DBus.Error.PropertyReadOnly",  # "Cannot set property %s, or unknown property."
        "org.freedesktop.DBus.Error.UnknownProperty",
        "org.freedesktop.DBus.Error.InvalidArgs",
    }
)

_NAME: Final = "org.freedesktop.systemd1"
_PATH: Final = "/org/freedesktop/systemd1"
_MANAGER: Final = "org.freedesktop.systemd1.Manager"
_PROPERTIES: Final = "org.freedesktop.DBus.Properties"
_UNIT_CHARACTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:_.")


class JobFailedError(Exception):
    """A job of the manager ended, but not well. `result` is systemd's word: failed, canceled, dependency, ..."""

    def __init__(self, unit: str, result: str) -> None:
        super().__init__(f"starting {unit} ended as '{result}'")
        self.result = result


class UnitState:
    """One row of ListUnits."""

    __slots__ = ("active", "description", "load", "name", "sub")

    def __init__(self, name: str, description: str, load: str, active: str, sub: str) -> None:
        self.name = name
        self.description = description
        self.load = load
        self.active = active
        self.sub = sub


def connect(
    uid: int, *, runtime_dir: str | None = None, session_bus: str | None = None, in_turn: bool = False
) -> Manager:
    """The manager of this user, root's being the system's. Raises NoManagerError with what was tried.

    `in_turn`: after everybody else who says so, and before the next one until it is closed.
    """
    if uid == 0:
        private, bus = "/run/systemd/private", "/run/dbus/system_bus_socket"
    else:
        home = runtime_dir or f"/run/user/{uid}"
        private, bus = f"{home}/systemd/private", first_unix_socket(session_bus) or f"{home}/bus"
    turn = _turn(uid, private) if in_turn else None
    try:
        return Manager(_first_connected(private, bus), turn)
    except BaseException:
        if turn is not None:
            turn.end()
        raise


def _turn(uid: int, private: str) -> Turn:
    """A user's directory is closed to others (0700 above it); the system's is not, and a lock on it anybody's."""
    return Turn(os.path.dirname(private)) if uid else Turn(ROOT_TURN, is_directory=False)


def _first_connected(private: str, bus: str) -> Connection:
    try:
        return _connected(private, is_bus=False)
    except NoManagerError as refused:
        try:
            return _connected(bus, is_bus=True)
        except NoManagerError:
            raise NoManagerError(f"{private}: {refused}", refused.errno) from None


def _connected(address: str, *, is_bus: bool) -> Connection:
    """Only to who counts processes as we do: else the pid that we name is somebody else's there."""
    connection = Connection(address, is_bus=is_bus, signals_with=b"JobRemoved")
    if connection.peer_pid() == 0:
        connection.close()
        raise NoManagerError("it is in another PID namespace")
    return connection


class Manager:
    """A connection to one manager. Every call raises ManagerError, CallTimeoutError, NoManagerError or FormatError."""

    def __init__(self, connection: Connection, turn: Turn | None = None) -> None:
        self._connection = connection
        self._turn = turn
        self._subscribed = not connection.is_bus

    def close(self) -> None:
        """Hang up."""
        self._connection.close()
        if self._turn is not None:
            self._turn.end()
            self._turn = None

    def start_transient_unit(self, unit: str, properties: Mapping[str, Any]) -> tuple[str, ...]:
        """Make a unit and wait until it is there. Returns what this systemd does not know, which was left out.

        Raises JobFailedError as well.
        """
        wanted = dict(properties)
        left_out: tuple[str, ...] = ()
        self._subscribe()
        while True:
            try:
                (job,) = self._manager("StartTransientUnit", "ssa(sv)a(sa(sv))", (unit, "fail", _settings(wanted), []))
                break
            except ManagerError as error:
                named = tuple(name for name in OPTIONAL if name in wanted and name in error.message)
                refused = named or tuple(name for name in OPTIONAL if name in wanted)
                if error.name not in _REFUSES_PROPERTY or not refused:
                    raise
                left_out += refused
                wanted = {name: value for name, value in wanted.items() if name not in refused}
        self._wait_for(job, unit)
        return left_out

    def start_unit(self, unit: str) -> None:
        """Start it and wait until it is. Raises JobFailedError as well."""
        self._subscribe()
        (job,) = self._manager("StartUnit", "ss", (unit, "replace"))
        self._wait_for(job, unit)

    def stop_unit(self, unit: str) -> None:
        """Stop it and wait until it is. Raises JobFailedError as well."""
        self._subscribe()
        (job,) = self._manager("StopUnit", "ss", (unit, "replace"))
        self._wait_for(job, unit)

    def begin_stop(self, unit: str) -> None:
        """Stop it: SIGTERM, and SIGKILL after TimeoutStopUSec. Does not wait for its end."""
        self._manager("StopUnit", "ss", (unit, "replace"))

    def set_unit_properties(self, unit: str, properties: Mapping[str, Any]) -> None:
        """Change a living unit until the next boot (runtime)."""
        self._manager("SetUnitProperties", "sba(sv)", (unit, True, _settings(properties)))

    def attach_processes(self, unit: str, pids: Sequence[int]) -> None:
        """Move processes into a unit that has Delegate=yes; systemd refuses others' (org.freedesktop.systemd1(5))."""
        self._manager("AttachProcessesToUnit", "ssau", (unit, "", list(pids)))

    def get_unit(self, unit: str) -> str:
        """The object path of a loaded unit; ManagerError NO_SUCH_UNIT if it is not."""
        (path,) = self._manager("GetUnit", "s", (unit,))
        return str(path)

    def get_property(self, unit: str, interface: str, name: str) -> Any:
        """One property, as `get_property("build.slice", "Slice", "ControlGroup")`; the unit is loaded if need be."""
        ((_, value),) = self._connection.call(
            _NAME, unit_path(unit), _PROPERTIES, "Get", "ss", (f"{_NAME}.{interface}", name)
        )
        return value

    def list_units(self, patterns: Sequence[str], states: Sequence[str] = ()) -> list[UnitState]:
        """The loaded units whose names match one of the shell patterns."""
        (rows,) = self._manager("ListUnitsByPatterns", "asas", (list(states), list(patterns)))
        return [UnitState(*row[:5]) for row in rows]

    def _manager(self, member: str, signature: str, values: Sequence[Any]) -> tuple[Any, ...]:
        return self._connection.call(_NAME, _PATH, _MANAGER, member, signature, values)

    def _subscribe(self) -> None:
        """On a bus nobody hears JobRemoved unasked; on the private socket all do."""
        if not self._subscribed:
            self._subscribed = True
            rule = f"type='signal',sender='{_NAME}',interface='{_MANAGER}',member='JobRemoved'"
            self._connection.call(BUS_NAME, BUS_PATH, BUS_NAME, "AddMatch", "s", (rule,))
            self._manager("Subscribe", "", ())

    def _wait_for(self, job: str, unit: str) -> None:
        deadline = time.monotonic() + JOB_SECONDS
        while True:
            signal = self._connection.next_signal(deadline)
            if signal.member == "JobRemoved":
                _, removed, _, result = signal.values()
                if removed == job:
                    break
        self._connection.signals.clear()
        if result != "done":
            raise JobFailedError(unit, result)


def _settings(properties: Mapping[str, Any]) -> Iterable[tuple[str, tuple[str, Any]]]:
    """As StartTransientUnit and SetUnitProperties take them; None is no limit."""
    return [
        (name, (PROPERTY_SIGNATURES[name], NO_LIMIT if value is None else value)) for name, value in properties.items()
    ]


def unit_path(unit: str) -> str:
    """`build.slice` -> `/org/freedesktop/systemd1/unit/build_2eslice` (bus_label_escape)."""
    from slicemgr.model.object_path import label

    return f"{_PATH}/unit/{label(unit)}"


def escape(text: str, longest: int = 200) -> str:
    r"""A name as part of a unit's, as systemd-escape(1) has it: `cargo build` -> `cargo\x20build`; whole signs only."""
    escaped = ""
    for byte in text.encode(errors="surrogateescape"):
        character = chr(byte)
        if character == "/":
            character = "-"
        elif character not in _UNIT_CHARACTERS or (character == "." and not escaped):
            character = f"\\x{byte:02x}"
        if len(escaped) + len(character) > longest:
            break
        escaped += character
    return escaped
