# SPDX-License-Identifier: LGPL-2.1-or-later
"""One cgroup from the first event at its limit until it is calm again; the offender of its own kill path."""

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Iterator

from slicemgr.kernel import procfs
from slicemgr.kernel.cgroupfs import MOUNT, CgroupDir, cgroup_of
from slicemgr.kernel.errors import CgroupGoneError, KernelError
from slicemgr.kernel.procfs import PAGE_BYTES
from slicemgr.model.cgroup import CgroupReading, MemoryEvents, MemoryLimits
from slicemgr.model.decision import Decision, Resource, Shortage
from slicemgr.model.process import OOM_SCORE_ADJ_MIN, ProcessIdentity, ProcessTable
from slicemgr.policy.evidence import Situation, situation_between
from slicemgr.policy.reaction import WARM_SECONDS, Phase, ReactionState, next_look_seconds, react
from slicemgr.policy.shortage import still_short
from slicemgr.service.counters import Moved


class Episode:
    """A cgroup that is looked at. Owns its directory."""

    def __init__(
        self,
        directory: CgroupDir,
        before: Moved | None,
        *,
        job_root: str,
        free_swap: Callable[[], int],
        mount: str = MOUNT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`before`: its counters when all was calm. `job_root`: the slice, whose children are the jobs; or the job."""
        self.state = ReactionState()
        self.limits = MemoryLimits()
        self.has_room = True
        """What is stuck is below its limits; one that is calm without that has only nobody who asks for more."""
        self._directory = directory
        self._around: list[CgroupDir] = []
        self._before = before
        self._job_root = job_root
        self._free_swap = free_swap
        self._mount = mount
        self._clock = clock
        self._last: CgroupReading | None = None
        self._is_compared = False
        try:
            self._around.extend(_cgroups_around(directory.path, mount))
        except BaseException:
            self.close()
            raise

    @property
    def cgroup(self) -> str:
        """Its path."""
        return self._directory.path

    @property
    def is_calm(self) -> bool:
        """Nothing is left to look at, or to remember.

        One reading with none before it does not tell: a stall has to be seen to last. And who has been warned of is
        remembered until usage has settled: it is one episode to people.
        """
        return self._is_compared and self.state.phase is Phase.CALM and not self.state.warned

    @property
    def is_gone(self) -> bool:
        """It has been removed; another one of its name is not it."""
        return self._directory.is_gone()

    @property
    def local_events(self) -> MemoryEvents | None:
        """As of the last look: of its own limits, and of who lived in it."""
        return None if self._last is None else self._last.local_events

    def next_look_seconds(self) -> float | None:
        """When it wants to be looked at again; None: when it calls."""
        return next_look_seconds(self.state) if self._is_compared else WARM_SECONDS

    def look(self) -> Decision:
        """Read it, and say what that calls for. Raises CgroupGoneError and what else a reading may raise."""
        self.limits = self._read_limits()
        reading = self._directory.reading(self._clock)
        before = self._last if self._last is not None else self._as_it_was(reading)
        self._last = reading
        self._is_compared = before is not None
        situation = situation_between(before, reading, self._swap_room(reading))
        lines = [limit for limit in (self.limits.high, self.limits.max) if limit is not None]
        self.has_room = situation.stuck_bytes < min(lines, default=situation.stuck_bytes + 1)
        self.state, decision = react(self.state, situation, self.limits, throttles=True, page_bytes=PAGE_BYTES)
        return decision

    # What its kill path asks.

    def snapshot(self) -> ProcessTable:
        """Its processes, and those of all cgroups below it."""
        return procfs.snapshot(self._directory.members())

    def still_short(self, shortage: Shortage) -> bool:
        """Whether the shortage is there yet."""
        return still_short(shortage, self._now())

    async def usage_bytes(self, resource: Resource) -> int:
        """memory.current, or memory.swap.current; 0 once it is gone."""
        try:
            now = self._now()
        except CgroupGoneError:
            return 0
        return now.swap_bytes if resource is Resource.SWAP else now.usage_bytes

    def kill_whole_job(self, victim: ProcessIdentity, table: ProcessTable, spared: frozenset[int]) -> bool:
        """cgroup.kill on the job of this process: the scope below the slice, or this very cgroup if it is a job."""
        return kill_job_of(victim, cgroup_of, table, spared, job_root=self._job_root, mount=self._mount)

    def close(self) -> None:
        """Close its directory, and those around it."""
        for each in (self._directory, *self._around):
            each.close()

    def _now(self) -> Situation:
        reading = self._directory.reading(self._clock)
        return situation_between(None, reading, self._swap_room(reading))

    def _as_it_was(self, reading: CgroupReading) -> CgroupReading | None:
        """The counters of the calm before, at this reading's time: so the first look sees what has called for it."""
        if self._before is None:
            return None
        return dataclasses.replace(reading, events=self._before.events, local_events=self._before.local_events)

    def _read_limits(self) -> MemoryLimits:
        return MemoryLimits(
            high=self._directory.memory_high(), max=self._directory.memory_max(), swap_max=self._directory.swap_max()
        )

    def _swap_room(self, reading: CgroupReading) -> int:
        """What swap could still take: of the machine's, below the cgroup's own limit, and below those around it.

        `memory_swap_max = 0` of a slice holds for its jobs, whose own is `max`: without a look around, a leak in one
        of them seemed to have the machine's swap before it, and stood at memory.high for ever.
        """
        room = self._free_swap()
        if self.limits.swap_max is not None:
            room = min(room, self.limits.swap_max - (reading.swap_bytes or 0))
        for each in self._around:
            with contextlib.suppress(KernelError):
                limit = each.swap_max()
                if limit is not None:
                    room = min(room, limit - (each.swap_current() or 0))
        return max(0, room)


def _cgroups_around(path: str, mount: str) -> Iterator[CgroupDir]:
    """All above it but the root, which has no limits; those that can't be read tell nothing."""
    above = os.path.dirname(path)
    while above != "/":
        with contextlib.suppress(KernelError):
            yield CgroupDir.open(above, mount)
        above = os.path.dirname(above)


def kill_job_of(
    victim: ProcessIdentity,
    cgroup: Callable[[int], str],
    table: ProcessTable,
    spared: frozenset[int],
    *,
    job_root: str,
    mount: str,
) -> bool:
    """cgroup.kill on the job of this process, the cgroup below `job_root` that it lives in.

    False where the kernel has no cgroup.kill (5.14), and where somebody in the job has to be spared.
    """
    try:
        path = job_of(cgroup(victim.pid), job_root)
        if path is None:
            return False
        with CgroupDir.open(path, mount) as job:
            members = job.members()
            adjusted = any(each.pid in members and each.oom_score_adj <= OOM_SCORE_ADJ_MIN for each in table)
            if adjusted or members & (spared | {1}) or victim.pid not in members:
                return False
            job.kill_all()
    except KernelError:
        return False
    return True


def job_of(cgroup: str, job_root: str) -> str | None:
    """The job that a cgroup belongs to: the child of the slice it is in or below; the root itself if it is that.

    None for a cgroup that is outside.

    A slice within the slice is no job: GNOME's app-org.gnome.Terminal.slice has a scope for each tab.
    """
    below = cgroup.removeprefix(job_root.rstrip("/") + "/")
    if below == cgroup:
        return job_root if cgroup == job_root else None
    parts = below.split("/")
    depth = next((at for at, part in enumerate(parts) if not part.endswith(".slice")), len(parts) - 1)
    return "/".join((job_root.rstrip("/"), *parts[: depth + 1]))
