# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a memory-limited group of processes may hold, and what it holds at one instant."""

import enum
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MemoryLimits:
    """Limits in bytes; None is no limit. The names are cgroup v2's (Documentation/admin-guide/cgroup-v2.rst)."""

    high: int | None = None
    """memory.high: above it a group is slowed down where the backend can, and warned about where it can't."""
    max: int | None = None
    """memory.max: above it a process has to go."""
    swap_max: int | None = None
    """memory.swap.max: above it a process has to go."""


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
