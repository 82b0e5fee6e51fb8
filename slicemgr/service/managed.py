# SPDX-License-Identifier: LGPL-2.1-or-later
"""A slice that is ours to guard: where it is, by which rule it gives up a process, and who in it is never taken."""

from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Final

from slicemgr.kernel.cgroupfs import cgroup_of
from slicemgr.kernel.errors import KernelError
from slicemgr.kernel.procfs import PAGE_BYTES
from slicemgr.model.cgroup import is_below
from slicemgr.model.process import ProcessIdentity, ProcessTable
from slicemgr.model.slice import SliceKind
from slicemgr.policy.badness import BadnessScale, held_pages, inherited_oom_score_adj
from slicemgr.service.guard import KillRules
from slicemgr.service.guardian import NAME as KEEPER

KEEPER_MOST_BYTES: Final = 16 << 20
"""It is a fork of an interpreter that has 6 MiB of its own, and does nothing. Who takes its name to hide holds more."""


@dataclass(frozen=True, slots=True)
class ManagedSlice:
    """One slice, or one job that is guarded by itself."""

    cgroup: str
    """As /proc/PID/cgroup names it."""
    kind: SliceKind = SliceKind.BUILD
    rules: KillRules = field(default_factory=KillRules)
    protect: tuple[str, ...] = ()
    """Shell patterns of process names, or of unit names in their cgroup's path."""
    share_bytes: int = 0
    """What it may hold even when the machine is short: its memory.low, or memory.min if that is more."""
    spared: Callable[[], frozenset[ProcessIdentity]] = frozenset
    """Who is vital to a session now, whatever its name (service/session_registry.py); must not wait."""

    def contains(self, cgroup: str) -> bool:
        """Whether a cgroup is this one or below it."""
        return is_below(cgroup, self.cgroup)

    def scale(self, table: ProcessTable, limit_bytes: int, ourselves: frozenset[int]) -> BadnessScale:
        """What the badness of these processes is measured against: the guard's and `explain`'s alike."""
        spared = spared_pids(table, self.spared(), limit_bytes // 2)
        return BadnessScale(
            total_pages=max(1, limit_bytes // PAGE_BYTES),
            inherited_oom_score_adj=inherited_oom_score_adj(table),
            ourselves=ourselves,
            protected=protected_pids(table, self.protect) | spared,
            keepers=frozenset(
                each.pid for each in table if each.name == KEEPER and held_pages(each) * PAGE_BYTES < KEEPER_MOST_BYTES
            ),
        )


def spared_pids(table: ProcessTable, spared: frozenset[ProcessIdentity], most_bytes: int) -> frozenset[int]:
    """Those of them that are in the table, the oldest first, while they hold no more than that in all.

    Anybody may ask for his own processes: if what is to be spared is the leak itself, others' would go in its place.
    """
    found = set()
    for process in sorted(
        (each for each in table if each.identity in spared), key=lambda each: each.identity.start_ticks
    ):
        held = held_pages(process) * PAGE_BYTES
        if held <= most_bytes:
            most_bytes -= held
            found.add(process.pid)
    return frozenset(found)


def protected_pids(
    table: ProcessTable, patterns: tuple[str, ...], cgroup: Callable[[int], str] = cgroup_of
) -> frozenset[int]:
    """The pids of those whose name, or whose unit, fits a pattern."""
    units = tuple(pattern for pattern in patterns if "." in pattern)
    return frozenset(
        process.pid
        for process in table
        if any(fnmatchcase(process.name, pattern) for pattern in patterns)
        or (units and any(fnmatchcase(name, unit) for name in _units(process.pid, cgroup) for unit in units))
    )


def _units(pid: int, cgroup: Callable[[int], str]) -> list[str]:
    try:
        return cgroup(pid).split("/")
    except KernelError:
        return []
