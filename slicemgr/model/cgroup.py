# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a memory-limited group of processes may hold, and what it holds at one instant."""

import enum
from dataclasses import dataclass


def owner_of(cgroup: str) -> int:
    """Whose a cgroup is by where it is: a user's below user-UID.slice, else root's."""
    parts = cgroup.split("/")
    if len(parts) > 2 and parts[1] == "user.slice":
        uid = parts[2].removeprefix("user-").removesuffix(".slice")
        if parts[2] == f"user-{uid}.slice" and uid.isascii() and uid.isdigit():
            return int(uid)
    return 0


def login_session_of(cgroup: str) -> str:
    """login1's id of the session whose scope a cgroup is; empty if it is none."""
    name = cgroup.rpartition("/")[2]
    return name[8:-6] if name.startswith("session-") and name.endswith(".scope") else ""


def is_below(cgroup: str, ancestor: str) -> bool:
    """Whether a cgroup is this one or below it, by their paths as /proc/PID/cgroup tells them."""
    return cgroup == ancestor or cgroup.startswith(ancestor.rstrip("/") + "/")


@dataclass(frozen=True, slots=True)
class MemoryLimits:
    """Limits in bytes; None is no limit. The names are cgroup v2's (Documentation/admin-guide/cgroup-v2.rst)."""

    high: int | None = None
    """memory.high: above it a group is slowed down where the backend can, and warned about where it can't."""
    max: int | None = None
    """memory.max: above it a process has to go."""
    swap_max: int | None = None
    """memory.swap.max: above it a process has to go."""


@dataclass(frozen=True, slots=True)
class MemoryEvents:
    """memory.events or memory.events.local: counts since the cgroup was made; None where the kernel has no such row."""

    low: int | None = None
    high: int | None = None
    max: int | None = None
    oom: int | None = None
    oom_kill: int | None = None
    oom_group_kill: int | None = None

    def since(self, earlier: "MemoryEvents") -> "MemoryEvents":
        """What happened in between; a counter that only one of the two has is None."""
        return MemoryEvents(
            low=_difference(self.low, earlier.low),
            high=_difference(self.high, earlier.high),
            max=_difference(self.max, earlier.max),
            oom=_difference(self.oom, earlier.oom),
            oom_kill=_difference(self.oom_kill, earlier.oom_kill),
            oom_group_kill=_difference(self.oom_group_kill, earlier.oom_group_kill),
        )


def _difference(later: int | None, earlier: int | None) -> int | None:
    return None if later is None or earlier is None else later - earlier


@dataclass(frozen=True, slots=True)
class MemoryStat:
    """The rows of memory.stat that say whether reclaim can help; None where the kernel has no such row."""

    anon: int | None = None
    """Bytes of anonymous memory."""
    file: int | None = None
    """Bytes of page cache, shmem included."""
    shmem: int | None = None
    """Bytes of tmpfs and shared memory: in `file`, and nothing but swap can take them."""
    kernel: int | None = None
    """Bytes of kernel memory in all (since 5.18)."""
    kernel_stack: int | None = None
    pagetables: int | None = None
    percpu: int | None = None
    sock: int | None = None
    slab_reclaimable: int | None = None
    slab_unreclaimable: int | None = None
    unevictable: int | None = None
    file_dirty: int | None = None
    file_writeback: int | None = None
    inactive_file: int | None = None
    active_file: int | None = None
    workingset_refault_anon: int | None = None
    """Pages that came back from swap soon after they had gone: counts, not bytes (5.9 split anon and file)."""
    workingset_refault_file: int | None = None
    pgscan: int | None = None
    """Pages that reclaim looked at."""
    pgsteal: int | None = None
    """Pages that reclaim freed."""
    pgmajfault: int | None = None


@dataclass(frozen=True, slots=True)
class Stall:
    """One line of a pressure file (Documentation/accounting/psi.rst)."""

    avg10: float
    """Percent of the last ten seconds; stale for as long, so never the reason for a kill."""
    avg60: float
    avg300: float
    total_usec: int
    """Microseconds since boot, or since the cgroup was made."""


@dataclass(frozen=True, slots=True)
class Pressure:
    """memory.pressure of a cgroup, or /proc/pressure/memory."""

    some: Stall
    """At least one task waits for memory."""
    full: Stall | None
    """All tasks that could run wait for memory."""


@dataclass(frozen=True, slots=True)
class CgroupReading:
    """One cgroup at one instant, as its files tell it; None where a file or its controller is missing."""

    taken_seconds: float
    """Monotonic clock."""
    current_bytes: int
    """memory.current: page cache is in it."""
    swap_bytes: int | None
    events: MemoryEvents
    """memory.events: of the whole subtree."""
    local_events: MemoryEvents | None
    """memory.events.local: of this cgroup's own limits (since 5.2)."""
    stat: MemoryStat
    pressure: Pressure | None
    cpu_usage_usec: int | None
    """cpu.stat usage_usec."""


class Measure(enum.Enum):
    """How a group's memory was measured; each is an upper bound of the next, and costs more to read.

    RESIDENT is one but for page tables, which it lacks: see policy/sampling.py, NEAR_THE_LIMIT.
    """

    RESIDENT = "resident"
    """Sum of RSS: counts shared pages once a process, and file pages that the kernel can drop."""
    UNRECLAIMABLE = "unreclaimable"
    """Sum of anonymous and shared memory and page tables: counts pages shared since a fork once a process."""
    PROPORTIONAL = "proportional"
    """The same, each shared page counted once in all (the anonymous and shmem parts of PSS)."""


@dataclass(frozen=True, slots=True)
class CgroupSample:
    """One group of processes at one instant."""

    taken_seconds: float
    """Monotonic clock at the end of the reading."""
    cost_seconds: float
    """CPU time that the reading took."""
    members: int
    """Processes counted."""
    resident_bytes: int
    """Sum of RSS, read in every sample: its growth sets the pace of sampling."""
    memory_bytes: int
    """The tightest bound that was read, see `measure`."""
    swap_bytes: int
    """Sum of swapped memory; 0 while `measure` is RESIDENT, which does not read it."""
    measure: Measure
