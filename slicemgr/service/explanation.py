# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who would die now in a slice, a job, or the job of a process: the guard's own ranking, with nobody killed.

The numbers are read at one instant, and the guard will read them anew: this is a forecast, not a promise.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from slicemgr.kernel import procfs
from slicemgr.kernel.cgroupfs import MOUNT, CgroupDir, cgroup_of
from slicemgr.kernel.errors import CgroupGoneError, CgroupNotPermittedError
from slicemgr.model.process import ProcessIdentity
from slicemgr.model.slice import SliceSpec, VictimRule, slice_path, with_inner_protection
from slicemgr.policy.ranking import Ranking, rank
from slicemgr.service.command_lines import read_command_lines
from slicemgr.service.guard import KillRules
from slicemgr.service.managed import ManagedSlice
from slicemgr.service.overview import (
    SliceOverview,
    UnknownTargetError,
    Usage,
    find_slice,
    is_job_scope,
    nearest_name,
    usage_of,
)

_LONGEST_PID: Final = 10
"""Digits of 2**31 - 1; the kernel itself ends at 2**22."""


class AmbiguousTargetError(ValueError):
    """Several jobs have that name; `units` tells them apart."""

    def __init__(self, name: str, units: tuple[str, ...]) -> None:
        super().__init__(f"several jobs are called '{name}'")
        self.name = name
        self.units = units


@dataclass(frozen=True, slots=True)
class Explanation:
    """Who would go now, and everything that a person asks about it."""

    path: str
    """The cgroup that is judged, with all below it."""
    rule: VictimRule
    grace_seconds: float
    usage: Usage
    limit_bytes: int
    """What badness is measured against."""
    limit_path: str | None
    """The cgroup whose limit that is: this one or one above; None: the machine's memory."""
    limit_file: str
    """`memory.high` or `memory.max`: the one that would be reached first."""
    ranking: Ranking
    victim_command_line: tuple[str, ...]


def pid_in(name: str) -> int | None:
    """The pid that is meant; None for a name. Raises UnknownTargetError for a number that is longer than any pid."""
    if not (name.isascii() and name.isdigit()):
        return None
    digits = name.lstrip("0") or "0"
    if len(digits) > _LONGEST_PID:  # Python reads no more than 4300 digits, the kernel no file name above 255.
        raise UnknownTargetError(name, "")
    return int(digits)


def find(name: str, slices: Sequence[SliceOverview]) -> str:
    """The cgroup of a slice, of a job, or of what a pid belongs to: its job, else its slice, else its own.

    Raises UnknownTargetError, AmbiguousTargetError; for a pid ProcessGoneError, NotPermittedError, NotSupportedError.
    """
    pid = pid_in(name)
    if pid is not None:
        return _managed_part(cgroup_of(pid), slices)
    with contextlib.suppress(UnknownTargetError):
        return find_slice(name, slices).path
    jobs = [job for each in slices for job in each.jobs]
    found = [job for job in jobs if name in {job.unit, job.name, job.path}]
    if len(found) > 1:
        raise AmbiguousTargetError(name, tuple(job.unit for job in found))
    if found:
        return found[0].path
    raise UnknownTargetError(name, nearest_name(name, slices, with_jobs=True))


def is_managed(path: str, slices: Sequence[SliceOverview]) -> bool:
    """Whether a cgroup is one that a guard may act in: a slice of ours, or a job wherever it is."""
    inside = any(is_job_scope(level) for level in path.split("/"))
    return inside or any(ManagedSlice(each.path).contains(path) for each in slices if each.kind is not None)


def spec_for(path: str, root: str, specs: Sequence[SliceSpec]) -> SliceSpec | None:
    """The configured slice that a cgroup is or is in, the innermost; None: nobody manages it."""
    around = [spec for spec in with_inner_protection(specs) if ManagedSlice(slice_path(root, spec.unit)).contains(path)]
    return max(around, key=lambda spec: len(slice_path(root, spec.unit)), default=None)


def explain(
    path: str,
    spec: SliceSpec | None,
    *,
    ourselves: frozenset[int],
    machine_total_bytes: int,
    mount: str = MOUNT,
    next_ones: int = 3,
    asking_pid: int | None = None,
    spared: Callable[[], frozenset[ProcessIdentity]] = frozenset,
) -> Explanation:
    """Judge one cgroup as its guard would; without a spec by the rule of a job.

    `ourselves`: the guard, and all that it comes from. `asking_pid` is left out: it will be gone in a moment. `spared`
    are never taken, as the daemon's guards have it.
    Raises CgroupGoneError, CgroupNotPermittedError, NotSupportedError, FormatError.
    """
    rules = KillRules() if spec is None else KillRules(spec.victim, spec.grace_seconds)
    managed = ManagedSlice(path, rules=rules, protect=() if spec is None else spec.protect, spared=spared)
    with CgroupDir.open(path, mount) as cgroup:
        usage = usage_of(cgroup)
        table = procfs.snapshot(cgroup.members() - {asking_pid})
    limit_path, limit_file, limit_bytes = _tightest_limit(path, mount) or (None, "", machine_total_bytes)
    ranking = rank(table, managed.scale(table, limit_bytes, ourselves), rules.rule, next_ones)
    victim = () if ranking.victim is None else (ranking.victim.process.pid,)
    return Explanation(
        path=path,
        rule=rules.rule,
        grace_seconds=rules.grace_seconds,
        usage=usage,
        limit_bytes=limit_bytes,
        limit_path=limit_path,
        limit_file=limit_file,
        ranking=ranking,
        victim_command_line=next(iter(read_command_lines(victim).values()), ()),
    )


def _managed_part(path: str, slices: Sequence[SliceOverview]) -> str:
    """The job around a cgroup, wherever it is; else the innermost of our slices; else the cgroup itself."""
    levels = path.split("/")
    for end in range(len(levels), 0, -1):
        if is_job_scope(levels[end - 1]):
            return "/".join(levels[:end])
    around = [each.path for each in slices if ManagedSlice(each.path).contains(path)]
    return max(around, key=len, default=path)


def _tightest_limit(path: str, mount: str) -> tuple[str, str, int] | None:
    """The smallest limit of a cgroup and all above it: whose, which, and how much."""
    parts = [part for part in path.split("/") if part]
    found: list[tuple[str, str, int]] = []
    for end in range(len(parts), 0, -1):
        level = "/" + "/".join(parts[:end])
        try:
            with CgroupDir.open(level, mount) as cgroup:
                limits = (("memory.high", cgroup.memory_high()), ("memory.max", cgroup.memory_max()))
        except (CgroupGoneError, CgroupNotPermittedError):
            continue
        found += [(level, name, limit) for name, limit in limits if limit is not None]
    return min(found, key=lambda each: each[2], default=None)
