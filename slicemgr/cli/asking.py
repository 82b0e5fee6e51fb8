# SPDX-License-Identifier: LGPL-2.1-or-later
"""A daemon asked over its bus: what only it knows, for the verbs that otherwise read files.

GLib is imported here, and only once somebody is there to be asked; neither is anybody waited for.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from slicemgr.bus.errors import NO_BUS, RemoteError
from slicemgr.bus.objects import JOB, SLICE
from slicemgr.cli import polkit_agent
from slicemgr.cli.bus_errors import ABSENT, NO_GLIB
from slicemgr.cli.report_lines import is_action
from slicemgr.service.history import Past
from slicemgr.service.record import Record, RecordError, record_from_line

if TYPE_CHECKING:
    from slicemgr.bus.control import Control

ANSWER_SECONDS: Final = 0.75
"""For what is only added to what the files tell. On a machine that stands still a daemon looks for 0.5 s, and then
tells what it knew before (PATIENCE_SECONDS in bus/server.py): that should still arrive."""

_USEC: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Told:
    """What a daemon knows of the present."""

    version: str
    is_dry_run: bool
    pressure_level: str
    degraded: tuple[str, ...]
    """What of the configuration is not in force."""
    holds: tuple[Mapping[str, Any], ...]
    """cookie, what, reason, application-id."""
    levels: Mapping[str, str]
    """Of the slices, by cgroup."""
    paused: Mapping[str, bool]
    """Of the jobs, by cgroup."""


def connect(address: str, seconds: float | None = None) -> "Control":
    """To a bus. Raises RemoteError, also where Python has no GLib."""
    if not address:
        raise RemoteError(NO_BUS, "nobody knows where")
    try:
        from slicemgr.bus.control import CALL_SECONDS, Control
    except (ImportError, ValueError) as error:  # ValueError: the namespace Gio is not there.
        raise RemoteError(NO_GLIB, str(error)) from None
    return Control.connect(address, CALL_SECONDS if seconds is None else seconds)


@contextlib.contextmanager
def asking_person(*, on_system_bus: bool, is_wanted: bool = True) -> Iterator[bool]:
    """Whether polkit may ask the person at the terminal meanwhile. On a session bus nobody asks polkit."""
    if not (on_system_bus and is_wanted and polkit_agent.can_ask()):
        yield False
        return
    with polkit_agent.asking_on_terminal():
        yield True


def told_by(address: str) -> Told | None:
    """None if there is nobody on this bus, or nobody who answers at once."""
    try:
        with connect(address, ANSWER_SECONDS) as control:
            return _told(control)
    except RemoteError:
        return None


def past_of_daemon(address: str, since_wall_seconds: float | None) -> Past | None:
    """What it did to anybody, for which polkit may ask the person; None if it is not there. Raises RemoteError."""
    try:
        with _living(address) as control:
            return _past(control, since_wall_seconds, 0, of_all=True, wanted=is_action)
    except RemoteError as error:
        if error.name in ABSENT:
            return None
        raise


def explanation_of_daemon(address: str, target: str) -> Mapping[str, Any] | None:
    """Who would be ended, as the system's daemon sees it; None if it is not there. Raises RemoteError."""
    try:
        with _living(address) as control, asking_person(on_system_bus=True) as interactive:
            return control.explain(target, interactive=interactive)
    except RemoteError as error:
        if error.name in ABSENT:
            return None
        raise


def with_rest(
    own: Past,
    address: str,
    *,
    limit: int | None,
    since_wall_seconds: float | None = None,
    newest: int = 0,
    wanted: Callable[[Record], bool] = is_action,
) -> Past | None:
    """The last `limit` of one's own history, and of what else the daemon on this bus did to one's own.

    `newest`: look no further back than so many; 0: as far as it tells. None if it does not tell.
    """
    try:
        with _living(address) as control:
            rest = _past(control, since_wall_seconds, newest, of_all=False, wanted=wanted)
    except RemoteError:
        return None
    return joined(own, rest, limit)


def joined(own: Past, rest: Past, limit: int | None) -> Past:
    """Both, the newest last. What `slicemgr run` was told by the daemon it has written down too, a moment later."""
    known = {record.report for record in own.records}
    records = sorted(
        [*own.records, *(record for record in rest.records if record.report not in known)],
        key=lambda record: record.wall_seconds,
    )
    if limit is not None:
        records = records[max(len(records) - limit, 0) :]
    return replace(own, records=tuple(records), skipped=own.skipped + rest.skipped)


def _living(address: str) -> "Control":
    """Somebody who answers: then what takes longer is worth to be waited for. Raises RemoteError."""
    control = connect(address, ANSWER_SECONDS)
    try:
        control.properties()
    except RemoteError:
        control.close()
        raise
    return control


def _told(control: "Control") -> Told:
    manager = control.properties()
    tree = control.tree()
    return Told(
        version=str(manager.get("Version", "")),
        is_dry_run=bool(manager.get("DryRun", False)),
        pressure_level=str(manager.get("PressureLevel", "none")),
        degraded=tuple(map(str, manager.get("DegradedReasons", ()))),
        holds=tuple(manager.get("Holds", ())),
        levels={
            str(each[SLICE].get("ControlGroup", "")): str(each[SLICE].get("PressureLevel", "none"))
            for each in tree.values()
            if SLICE in each
        },
        paused={
            str(each[JOB].get("ControlGroup", "")): bool(each[JOB].get("Paused", False))
            for each in tree.values()
            if JOB in each
        },
    )


def _past(
    control: "Control",
    since_wall_seconds: float | None,
    limit: int,
    *,
    of_all: bool,
    wanted: Callable[[Record], bool],
) -> Past:
    since_usec = max(int((since_wall_seconds or 0.0) * _USEC), 0)
    with asking_person(on_system_bus=of_all) as interactive:
        told = control.actions(since_usec, limit, of_all=of_all, interactive=interactive)
    records: list[Record] = []
    skipped = 0
    for each in told:
        try:
            record = record_from_line(str(each.get("json", "")).encode("ascii", "replace"))
        except RecordError:
            skipped += 1
            continue
        if wanted(record):
            records.append(record)
    return Past(tuple(records), skipped)
