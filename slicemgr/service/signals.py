# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which signals tell of a report, and of the step from one moment to the next; pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from slicemgr.bus.objects import ROOT, session_object
from slicemgr.policy.pressure_level import PressureLevel
from slicemgr.service import targets
from slicemgr.service.action_details import about
from slicemgr.service.published import Moment
from slicemgr.service.record import Record
from slicemgr.service.report import HighReport, KernelKillReport, KillReport, NoVictimReport


@dataclass(frozen=True, slots=True)
class Signal:
    """One of org.slicemgr1.Manager."""

    name: str
    arguments: tuple[Any, ...]


def of_record(record: Record, moment: Moment) -> Iterator[Signal]:
    """None for what only concerns ourselves."""
    name = _name(record)
    if name is None:
        return
    cgroup = getattr(record.report, "victim_cgroup", "") or getattr(record.report, "cgroup", "")
    target = targets.around(cgroup, moment) if cgroup else None
    details = about(record)
    if moment.standing.user_uid is None:
        # On the system bus all hear it; /proc/PID/cmdline has the kernel's own rules for who may read it.
        details.pop("command-line", None)
    yield Signal(name, (ROOT if target is None else target.path, details))


def _name(record: Record) -> str | None:
    match record.report:
        case KillReport() as report:
            return "ProcessKilled" if report.killed else None
        case KernelKillReport():
            return "ProcessKilled"
        case HighReport():
            return "Warning"
        case NoVictimReport():
            return "NobodyToEnd"
        case _:
            return None


def of_step(before: Moment | None, after: Moment) -> Iterator[Signal]:
    """Jobs and sessions that have come and gone, jobs paused and resumed, levels that have changed."""
    old = {} if before is None else {each.path: each for each in targets.targets(before)}
    new = {each.path: each for each in targets.targets(after)}
    for path, target in old.items():
        if path not in new and target.job is not None:
            yield Signal("JobRemoved", (target.unit, path))
    for path, target in new.items():
        if target.job is None:
            yield from _level(path, target.cgroup, before, after)
            continue
        if path not in old:
            yield Signal("JobAdded", (target.unit, path))
        was = before is not None and target.cgroup in before.paused
        if was != (target.cgroup in after.paused):
            yield Signal("JobResumed" if was else "JobPaused", (path, {"control-group": target.cgroup}))
    yield from _sessions(before, after)


def _level(path: str, cgroup: str, before: Moment | None, after: Moment) -> Iterator[Signal]:
    """A level that nobody has told of is none, and so is that of a slice that has come to rest."""
    was = PressureLevel.NONE if before is None else before.levels.get(cgroup, PressureLevel.NONE)
    now = after.levels.get(cgroup, PressureLevel.NONE)
    if was is not now:
        yield Signal("PressureLevelChanged", (path, now.value))


def _sessions(before: Moment | None, after: Moment) -> Iterator[Signal]:
    old = set() if before is None else {each.id for each in before.sessions}
    new = {each.id for each in after.sessions}
    for each in sorted(old - new):
        yield Signal("SessionRemoved", (each, session_object(each)))
    for each in sorted(new - old):
        yield Signal("SessionAdded", (each, session_object(each)))
