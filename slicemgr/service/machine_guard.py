# SPDX-License-Identifier: LGPL-2.1-or-later
"""The guard of the machine as a whole: when nothing is left, the slice that is most above its share gives first."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable

from slicemgr.kernel import procfs
from slicemgr.kernel.cgroupfs import MOUNT, CgroupDir, cgroup_of
from slicemgr.kernel.errors import KernelError
from slicemgr.model.decision import Resource, Shortage
from slicemgr.model.machine import MachineReading
from slicemgr.model.process import ProcessIdentity, ProcessTable
from slicemgr.policy.badness import BadnessScale
from slicemgr.policy.evidence import unreclaimable_bytes
from slicemgr.policy.machine import (
    MachineState,
    SliceStanding,
    Thresholds,
    in_order,
    judge,
    next_reading_seconds,
)
from slicemgr.service.episode import kill_job_of
from slicemgr.service.guard import FLEETING, Ended, Guard
from slicemgr.service.managed import ManagedSlice
from slicemgr.service.rounds import Rounds


class MachineGuard:
    """Watches the machine's memory until it is cancelled."""

    def __init__(
        self,
        read: Callable[[], MachineReading],
        thresholds: Callable[[], Thresholds],
        slices: Callable[[], Iterable[ManagedSlice]],
        guard_of: Callable[[ManagedSlice], Guard],
        *,
        ourselves: frozenset[int],
        mount: str = MOUNT,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[asyncio.Event, float | None], Awaitable[None]] | None = None,
    ) -> None:
        """`slices`: those that are managed now. `guard_of`: the kill path of each, the same as for its own limits."""
        self._read = read
        self._thresholds = thresholds
        self._slices = slices
        self._guard_of = guard_of
        self._ourselves = ourselves
        self._mount = mount
        self._clock = clock
        self._wait = wait or Rounds()
        self._called = asyncio.Event()
        self._state = MachineState()
        self.is_called = False
        """A pressure trigger calls: then it reads less often."""
        self._asked: dict[str, tuple[Guard, _SliceOfMachine]] = {}
        """By cgroup: a shortage may last for hours, and it is asked ten times a second."""

    def call(self) -> None:
        """Somebody waits for memory: look now."""
        self._called.set()

    async def watch(self) -> None:
        """Read, act, and wait for as long as the headroom allows; for ever."""
        interval: float | None = 0.0
        while True:
            await self._wait(self._called, interval)
            self._called.clear()
            try:
                interval = await self._round()
            except FLEETING:
                interval = 1.0

    async def _round(self) -> float:
        reading, thresholds = self._read(), self._thresholds()
        self._state, shortage = judge(self._state, reading, thresholds)
        if shortage is None:
            self._all_is_well()
        elif await self._end(shortage, reading.total_bytes):
            self._state = MachineState()
        return next_reading_seconds(reading, thresholds, is_called=self.is_called)

    async def _end(self, shortage: Shortage, total_bytes: int) -> bool:
        """One victim, from the first slice that has one to give."""
        managed = {each.cgroup: each for each in self._slices()}
        for standing in in_order(self._standings(managed.values()), total_bytes):
            each = managed[standing.cgroup]

            def scale(table: ProcessTable, each: ManagedSlice = each) -> BadnessScale:
                return each.scale(table, total_bytes, self._ourselves)

            offender = _SliceOfMachine(each, self._read, self._mount)
            self._asked[each.cgroup] = self._guard_of(each), offender
            try:
                ended = await self._guard_of(each).end_shortage(shortage, offender, scale)
            except KernelError:
                continue  # It is gone, or can't be read: the next one's turn.
            except FLEETING:  # Ours alone, and for a moment: no other slice is to pay for that.
                return False
            if ended is not Ended.NO_VICTIM:
                return True
        return False

    def _all_is_well(self) -> None:
        """The shortage is over: if somebody has nobody to give in the next one, that is news again."""
        for guard, offender in self._asked.values():
            guard.all_is_well(offender)
        self._asked.clear()

    def _standings(self, slices: Iterable[ManagedSlice]) -> list[SliceStanding]:
        standings = []
        for each in slices:
            try:
                with CgroupDir.open(each.cgroup, self._mount) as directory:
                    stat = directory.stat()
            except KernelError:
                continue  # Not there now.
            if stat is not None:
                standings.append(SliceStanding(each.cgroup, each.kind, unreclaimable_bytes(stat), each.share_bytes))
        return standings


class _SliceOfMachine:
    """A slice as the offender in a shortage that is the machine's."""

    def __init__(self, managed: ManagedSlice, read: Callable[[], MachineReading], mount: str) -> None:
        self.cgroup = managed.cgroup
        self._read = read
        self._mount = mount

    def snapshot(self) -> ProcessTable:
        with CgroupDir.open(self.cgroup, self._mount) as directory:
            return procfs.snapshot(directory.members())

    def still_short(self, shortage: Shortage) -> bool:
        return self._available() < shortage.limit_bytes

    async def usage_bytes(self, resource: Resource) -> int:
        return self._available()

    def kill_whole_job(self, victim: ProcessIdentity, table: ProcessTable, spared: frozenset[int]) -> bool:
        return kill_job_of(victim, cgroup_of, table, spared, job_root=self.cgroup, mount=self._mount)

    def _available(self) -> int:
        return self._read().available_bytes or 0
