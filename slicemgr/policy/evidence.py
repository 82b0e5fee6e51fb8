# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the numbers of a group say about whether waiting helps: one situation from two readings.

A cgroup at memory.high looks the same from far whether it trims page cache or has nothing left to give: `high`
grows, and its tasks wait. What tells them apart is what reclaim could still take (memory.stat), and whether what it
took comes back at once (refaults).
"""

from dataclasses import dataclass

from slicemgr.model.cgroup import CgroupReading, CgroupSample, MemoryStat


@dataclass(frozen=True, slots=True)
class Situation:
    """One group between the last look and this one; None where this machine does not tell."""

    at_seconds: float
    """Monotonic clock of this look."""
    elapsed_seconds: float
    """Since the look before; 0 for the first."""
    usage_bytes: int
    """What counts against memory.high and memory.max."""
    unreclaimable_bytes: int
    """The part of it that only swap or the end of a process frees."""
    swappable_bytes: int | None = None
    """The part of that which swap could take if it had room; None: all of it."""
    swap_bytes: int = 0
    swap_room_bytes: int = 0
    """What swap could still take of it."""
    high_events: int = 0
    max_events: int = 0
    kernel_kills: int = 0
    """How often the kernel's OOM killer took a member."""
    some_share: float | None = None
    """Part of the elapsed time in which at least one task waited for memory, 0 to 1."""
    full_share: float | None = None
    """Part of the elapsed time in which all of them did."""
    cpu_share: float | None = None
    """Processors that the group kept busy in that time: 1.0 is one of them all the time."""
    refault_pages: int = 0
    """Pages that came back soon after reclaim had taken them."""

    @property
    def waiting_share(self) -> float | None:
        """Part of the elapsed time in which somebody waited, whoever else was running, 0 to 1.

        The kernel averages the pressure of a group over the processors that it runs on (kernel/sched/psi.c): a leak
        that stands still beside one busy process shows `some` and `full` of 0.49, and beside fifteen 0.06.
        """
        if self.some_share is None:
            return None
        return min(1.0, self.some_share * (1.0 + (self.cpu_share or 0.0)))

    @property
    def stuck_bytes(self) -> int:
        """What neither reclaim nor swap can take."""
        swappable = self.unreclaimable_bytes if self.swappable_bytes is None else self.swappable_bytes
        return self.unreclaimable_bytes - min(self.swap_room_bytes, swappable)


def situation_of_sample(sample: CgroupSample) -> Situation:
    """A process tree: it has neither page cache nor events of its own, so all that is counted is held."""
    return Situation(
        at_seconds=sample.taken_seconds,
        elapsed_seconds=0.0,
        usage_bytes=sample.memory_bytes,
        unreclaimable_bytes=sample.memory_bytes,
        swap_bytes=sample.swap_bytes,
    )


def situation_between(before: CgroupReading | None, now: CgroupReading, swap_room_bytes: int) -> Situation:
    """A cgroup. `swap_room_bytes`: what is free in the machine's swap and below the cgroup's own memory.swap.max.

    Without `before`, and where a counter went backwards (another cgroup under the same name), nothing has happened.
    """
    elapsed = 0.0 if before is None else now.taken_seconds - before.taken_seconds
    events, earlier = now.events, now.events if before is None else before.events
    own = now.local_events or now.events
    own_earlier = own if before is None else before.local_events or before.events
    some, full = _stall_shares(before, now, elapsed)
    return Situation(
        at_seconds=now.taken_seconds,
        elapsed_seconds=elapsed,
        usage_bytes=now.current_bytes,
        unreclaimable_bytes=min(unreclaimable_bytes(now.stat), now.current_bytes),
        swappable_bytes=min(swappable_bytes(now.stat), now.current_bytes),
        swap_bytes=now.swap_bytes or 0,
        swap_room_bytes=swap_room_bytes,
        high_events=_grown(own.high, own_earlier.high),
        max_events=_grown(own.max, own_earlier.max),
        # oom_kill counts where the victim lived, so that of a child shows in the hierarchical file alone.
        kernel_kills=_grown(events.oom_kill, earlier.oom_kill),
        some_share=some,
        full_share=full,
        cpu_share=_cpu_share(before, now, elapsed),
        refault_pages=_refaults(before, now),
    )


def unreclaimable_bytes(stat: MemoryStat) -> int:
    """Anonymous and shared memory, and the kernel's own that no shrinker can free.

    `kernel` (5.18) has it all; before that its parts are added up. Bytes of memory.stat lag behind memory.current by
    at most 64 pages for each CPU (kernel/cgroup/rstat.c flushes each two seconds, and on reading).
    """
    if stat.kernel is not None:
        kernel = max(0, stat.kernel - (stat.slab_reclaimable or 0))
    else:
        parts = (stat.kernel_stack, stat.pagetables, stat.percpu, stat.slab_unreclaimable)
        kernel = sum(part or 0 for part in parts)
    return (stat.anon or 0) + (stat.shmem or 0) + (stat.sock or 0) + kernel


def swappable_bytes(stat: MemoryStat) -> int:
    """Anonymous and shared memory but for what is locked: of the kernel's own swap takes nothing."""
    return max(0, (stat.anon or 0) + (stat.shmem or 0) - (stat.unevictable or 0))


def _stall_shares(
    before: CgroupReading | None, now: CgroupReading, elapsed: float
) -> tuple[float | None, float | None]:
    if before is None or before.pressure is None or now.pressure is None or elapsed <= 0:
        return None, None
    some = _share(before.pressure.some.total_usec, now.pressure.some.total_usec, elapsed)
    if before.pressure.full is None or now.pressure.full is None:
        return some, None
    return some, _share(before.pressure.full.total_usec, now.pressure.full.total_usec, elapsed)


def _cpu_share(before: CgroupReading | None, now: CgroupReading, elapsed: float) -> float | None:
    if before is None or before.cpu_usage_usec is None or now.cpu_usage_usec is None or elapsed <= 0:
        return None
    return max(0.0, (now.cpu_usage_usec - before.cpu_usage_usec) / 1e6 / elapsed)


def _share(earlier_usec: int, later_usec: int, elapsed: float) -> float:
    return min(1.0, max(0.0, (later_usec - earlier_usec) / 1e6 / elapsed))


def _refaults(before: CgroupReading | None, now: CgroupReading) -> int:
    if before is None:
        return 0
    return _grown(now.stat.workingset_refault_file, before.stat.workingset_refault_file) + _grown(
        now.stat.workingset_refault_anon, before.stat.workingset_refault_anon
    )


def _grown(later: int | None, earlier: int | None) -> int:
    if later is None or earlier is None:
        return 0
    return max(0, later - earlier)
