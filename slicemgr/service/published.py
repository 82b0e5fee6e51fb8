# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is there now, as the objects of the D-Bus interface; pure. bus/org.slicemgr1.xml says what each name means."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from slicemgr.bus.objects import (
    JOB,
    LOG_CONTROL,
    LOG_CONTROL_PATH,
    MANAGER,
    NO_LIMIT,
    ROOT,
    SESSION,
    SLICE,
    Objects,
    job_object,
    session_object,
    slice_object,
)
from slicemgr.model.cgroup import owner_of
from slicemgr.model.machine import MachineReading
from slicemgr.policy.pressure_level import PressureLevel
from slicemgr.service.holds import Hold
from slicemgr.service.overview import JobOverview, SliceOverview, Usage
from slicemgr.service.sessions import SessionOverview

_USEC: Final = 1_000_000
_NOTHING: Final = Usage(
    current_bytes=0, swap_bytes=0, high_bytes=None, max_bytes=None, swap_max_bytes=None, stalled_percent=0.0, members=0
)
"""Of a slice in which nothing has been started."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What does not change while a daemon lives."""

    version: str
    user_uid: int | None
    """Whose daemon it is; None: the system's."""
    dry_run: bool

    def uid_of(self, cgroup: str) -> int:
        """Whose a slice or a job is, where that is not the daemon's own manager: part of its object's path."""
        return owner_of(cgroup) if self.user_uid is None else 0


@dataclass(frozen=True, slots=True)
class Seen:
    """What a look at the machine finds."""

    machine: MachineReading
    wall_seconds: float
    slices: tuple[SliceOverview, ...]
    sessions: tuple[SessionOverview, ...]
    paused: frozenset[str]


@dataclass(frozen=True, slots=True)
class Moment:
    """Everything that is published, at one time."""

    standing: Standing
    machine: MachineReading
    wall_seconds: float
    slices: tuple[SliceOverview, ...] = ()
    sessions: tuple[SessionOverview, ...] = ()
    levels: Mapping[str, PressureLevel] = field(default_factory=dict)
    """By cgroup; none where a slice is not named."""
    paused: frozenset[str] = frozenset()
    """Cgroups of jobs."""
    holds: tuple[Hold, ...] = ()
    degraded: tuple[str, ...] = ()
    log_level: str = "info"


def objects_of(moment: Moment) -> Objects:
    """The tree below /org/slicemgr1, and LogControl1 beside it."""
    objects: dict[str, dict[str, Mapping[str, Any]]] = {
        ROOT: {MANAGER: _manager(moment)},
        LOG_CONTROL_PATH: {
            LOG_CONTROL: {"LogLevel": moment.log_level, "LogTarget": "console", "SyslogIdentifier": "slicemgr"}
        },
    }
    for each in moment.slices:
        uid = moment.standing.uid_of(each.path)
        objects[slice_object(each.unit, uid)] = {SLICE: _slice(each, uid, moment)}
        for job in each.jobs:
            objects[job_object(job.unit, uid)] = {JOB: _job(job, slice_object(each.unit, uid), moment)}
    for session in moment.sessions:
        objects[session_object(session.id)] = {SESSION: _session(session)}
    return objects


def _manager(moment: Moment) -> dict[str, Any]:
    standing = moment.standing
    highest = max(moment.levels.values(), key=lambda level: level.rank, default=PressureLevel.NONE)
    return {
        "Version": standing.version,
        "Scope": "system" if standing.user_uid is None else "user",
        "DryRun": standing.dry_run,
        "DegradedReasons": list(moment.degraded),
        "PressureLevel": highest.value,
        "Holds": [
            {
                "cookie": hold.cookie,
                "what": hold.what.value,
                "reason": hold.reason,
                "application-id": hold.application_id,
            }
            for hold in moment.holds
        ],
        "MemoryAvailable": moment.machine.available_bytes,
        "MemoryTotal": moment.machine.total_bytes,
    }


def _slice(each: SliceOverview, uid: int, moment: Moment) -> dict[str, Any]:
    return {
        "Unit": each.unit,
        "ControlGroup": each.path,
        "Kind": "" if each.kind is None else each.kind.value,
        "Jobs": [job_object(job.unit, uid) for job in each.jobs],
        "PressureLevel": moment.levels.get(each.path, PressureLevel.NONE).value,
        **_usage(each.usage or _NOTHING),
    }


def _job(job: JobOverview, around: str, moment: Moment) -> dict[str, Any]:
    age = job.age_seconds or 0.0
    return {
        "Unit": job.unit,
        "Name": job.name,
        "ControlGroup": job.path,
        "Slice": around,
        "Leader": job.leader_pid or 0,
        # On the system bus all users read this; /proc/PID/cmdline has the kernel's own rules for who may.
        "CommandLine": [] if moment.standing.user_uid is None else list(job.command_line),
        "StartedUSec": int((moment.wall_seconds - age) * _USEC),
        "Paused": job.path in moment.paused,
        **_usage(job.usage),
    }


def _session(session: SessionOverview) -> dict[str, Any]:
    return {
        "Id": session.id,
        "User": session.uid,
        "Leader": session.leader_pid,
        "Type": session.type,
        "Desktop": session.desktop,
        "Active": session.is_active,
        "ControlGroup": session.cgroup,
        "Protected": list(session.protected),
        "WorkingSet": session.working_set_bytes,
        "MemoryLow": session.memory_low_bytes,
        "MemoryMin": session.memory_min_bytes,
    }


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "MemoryHigh": _limit(usage.high_bytes),
        "MemoryMax": _limit(usage.max_bytes),
        "MemorySwapMax": _limit(usage.swap_max_bytes),
        "MemoryCurrent": usage.current_bytes or 0,
        "MemorySwapCurrent": usage.swap_bytes or 0,
        "Stalled": usage.stalled_percent or 0.0,
        "Processes": usage.members,
    }


def _limit(value: int | None) -> int:
    return NO_LIMIT if value is None else value
