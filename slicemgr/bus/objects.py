# SPDX-License-Identifier: LGPL-2.1-or-later
"""The published objects as plain values, and what changes from one moment to the next. Knows no GLib."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from slicemgr.model.object_path import label

ROOT: Final = "/org/slicemgr1"
BUS_NAME: Final = "org.slicemgr1"
MANAGER: Final = "org.slicemgr1.Manager"
SLICE: Final = "org.slicemgr1.Slice"
JOB: Final = "org.slicemgr1.Job"
SESSION: Final = "org.slicemgr1.Session"
LOG_CONTROL: Final = "org.freedesktop.LogControl1"
LOG_CONTROL_PATH: Final = "/org/freedesktop/LogControl1"

NO_LIMIT: Final = (1 << 64) - 1
"""systemd's: CGROUP_LIMIT_MAX."""

Interfaces: TypeAlias = Mapping[str, Mapping[str, Any]]
"""Interface -> property -> value."""
Objects: TypeAlias = Mapping[str, Interfaces]
"""Path -> interfaces. Never changed once published: the next moment is another mapping."""


@dataclass(frozen=True, slots=True)
class Added:
    """An object that was not there before."""

    path: str


@dataclass(frozen=True, slots=True)
class Removed:
    """An object that is there no more."""

    path: str
    interfaces: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Changed:
    """Properties of an object that have other values now."""

    path: str
    interface: str
    properties: Mapping[str, Any]


Difference: TypeAlias = Added | Removed | Changed


def slice_object(unit: str, uid: int = 0) -> str:
    """The object of a slice. `uid`: whose, where it is not the daemon's own manager's (the system's daemon)."""
    return f"{ROOT}{_whose(uid)}/slices/{label(unit)}"


def job_object(unit: str, uid: int = 0) -> str:
    """The object of a job."""
    return f"{ROOT}{_whose(uid)}/jobs/{label(unit)}"


def _whose(uid: int) -> str:
    return f"/users/u{uid}" if uid else ""


def session_object(identifier: str) -> str:
    """The object of a session."""
    return f"{ROOT}/sessions/{label(identifier)}"


def differences(before: Objects, after: Objects, silent: frozenset[tuple[str, str]]) -> Iterator[Difference]:
    """From one moment to the next: who is gone first, then who is new, then what has changed.

    `silent` are the (interface, property) that tell nobody. An object whose interfaces change is another one.
    """
    again = {path for path in before.keys() & after.keys() if before[path].keys() != after[path].keys()}
    for path in before:
        if path not in after or path in again:
            yield Removed(path, tuple(before[path]))
    for path in after:
        if path not in before or path in again:
            yield Added(path)
    for path, interfaces in after.items():
        if path in before and path not in again:
            for interface, properties in interfaces.items():
                known = before[path][interface]
                changed = {
                    name: value
                    for name, value in properties.items()
                    if (interface, name) not in silent and (name not in known or known[name] != value)
                }
                if changed:
                    yield Changed(path, interface, changed)
