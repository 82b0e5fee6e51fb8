# SPDX-License-Identifier: LGPL-2.1-or-later
"""The guard of a process tree: nothing calls where there is no cgroup, so it has to look."""

import asyncio
import dataclasses
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Final

from slicemgr.kernel.kill import ProvenProcess
from slicemgr.model.cgroup import CgroupSample, Measure, MemoryLimits
from slicemgr.model.decision import FindVictim, Resource, Shortage, Warn
from slicemgr.model.process import ProcessIdentity, ProcessTable
from slicemgr.model.source import JobSource
from slicemgr.policy.badness import BadnessScale
from slicemgr.policy.evidence import situation_of_sample
from slicemgr.policy.reaction import ReactionState, react
from slicemgr.policy.sampling import Pace, next_look, tighter_measure
from slicemgr.policy.shortage import passed
from slicemgr.service.guard import FLEETING, Ended, Guard, Killable, KillRules
from slicemgr.service.naming import CommandLines
from slicemgr.service.report import HighReport, Report
from slicemgr.service.worker import Worker

SLOW_SECONDS: Final = 0.01
"""smaps_rollup walks page tables, 12 ms for each GiB: 2 ms in all for a build of compilers, 0.3 s for 200
forked workers. ^C must not wait for the latter, so they are read by a thread; the former would only wait for it."""

NO_VICTIM_PAUSE_SECONDS: Final = 0.1
"""Nobody to take is mostly a moment: a vforked child before its exec, a zombie before it is reaped."""

FAILED_LOOKS: Final = 10
FAILED_LOOK_PAUSE_SECONDS: Final = 0.1
"""A second of failures in a row is no moment."""


class TreeGuard:
    """Watches one process tree until it is cancelled. It is the offender of its own kill path."""

    def __init__(
        self,
        source: JobSource,
        limits: MemoryLimits,
        scale: BadnessScale,
        *,
        report: Callable[[Report], None],
        command_lines: CommandLines,
        prove: Callable[[ProcessIdentity, str], AbstractContextManager[Killable]] = ProvenProcess,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.peak_bytes = 0
        self.looks = 0
        self.cgroup = ""
        self._source = source
        self._limits = limits
        self._scale = scale
        self._report = report
        self._command_lines = command_lines
        self._pause = pause
        self._clock = clock
        self._guard = Guard(KillRules(), report=report, command_lines=command_lines, prove=prove, clock=clock)
        self._state = ReactionState()
        self._pace = Pace()
        self._highest_bound_bytes = 0
        self._last: CgroupSample | None = None
        self._proportional_is_slow = False
        self._measuring = Worker("measure")

    def raise_limit(self, size_bytes: int) -> bool:
        """From now on it may hold so much more. False without a limit. From any thread."""
        if self._limits.max is None:
            return False
        self._limits = dataclasses.replace(self._limits, max=self._limits.max + size_bytes)
        return True

    async def at_rest(self) -> None:
        """Wait for the end of a kill that is under way."""
        await self._guard.at_rest()

    async def watch(self) -> None:
        """Look, act, and wait for as long as the job's growth allows; for ever.

        Raises what went wrong when it goes wrong FAILED_LOOKS times in a row.
        """
        failures = 0
        while True:
            try:
                interval = await self._look()
                failures = 0
            except FLEETING:
                failures += 1
                if failures == FAILED_LOOKS:
                    raise
                interval = FAILED_LOOK_PAUSE_SECONDS
            await self._pause(interval)

    async def _look(self) -> float:
        """Look once, and act on it. The answer: seconds until the next look."""
        sample = await self._measure()
        self._state, decision = react(self._state, situation_of_sample(sample), self._limits, throttles=False)
        if isinstance(decision, Warn):
            self._report(HighReport(self._clock(), decision.usage_bytes, decision.high_bytes))
        if isinstance(decision, FindVictim):
            ended = await self._guard.end_shortage(decision.shortage, self, lambda table: self._scale)
            return NO_VICTIM_PAUSE_SECONDS if ended is Ended.NO_VICTIM else 0.0
        self._guard.all_is_well(self)
        if sample.measure is not Measure.RESIDENT:
            self._command_lines.learn(sample.taken_seconds)
        self._pace, interval = next_look(self._pace, sample, self._limits)
        return interval

    async def _measure(self) -> CgroupSample:
        """The cheapest measure that leaves nothing open."""
        sample = self._source.read(Measure.RESIDENT)
        cost_seconds = sample.cost_seconds
        while tighter := tighter_measure(
            sample,
            self._limits,
            highest_bound_bytes=self._highest_bound_bytes,
            above_high=self._state.warned,
        ):
            bound = sample
            sample = await self._read(tighter)
            cost_seconds += sample.cost_seconds
            if bound.measure is Measure.UNRECLAIMABLE:
                self._highest_bound_bytes = max(self._highest_bound_bytes, bound.memory_bytes)
        self.looks += 1
        if sample.measure is Measure.PROPORTIONAL:
            self.peak_bytes = max(self.peak_bytes, sample.memory_bytes)
        self._last = dataclasses.replace(sample, cost_seconds=cost_seconds)
        return self._last

    async def _read(self, measure: Measure) -> CgroupSample:
        if measure is not Measure.PROPORTIONAL or not self._proportional_is_slow:
            sample = self._source.read(measure)
        else:
            sample = await self._measuring.ask(partial(self._source.read, measure))
        if measure is Measure.PROPORTIONAL:
            self._proportional_is_slow = sample.cost_seconds > SLOW_SECONDS
        return sample

    # What its kill path asks.

    def snapshot(self) -> ProcessTable:
        """The job's processes."""
        return self._source.snapshot()

    def still_short(self, shortage: Shortage) -> bool:
        """Choosing takes 2-5 ms for 20 processes, and a step may end in that.

        The cheap bound does, corrected by what it overstated when the shortage was found: the exact measure
        would cost more time than has passed.
        """
        now, found = self._source.read(Measure.UNRECLAIMABLE), self._last
        if found is not None and found.measure is Measure.PROPORTIONAL and shortage.resource is Resource.MEMORY:
            grown = now.resident_bytes - found.resident_bytes
            return found.memory_bytes + grown > shortage.limit_bytes
        return passed(situation_of_sample(now), self._limits) is not None

    async def usage_bytes(self, resource: Resource) -> int:
        """What the job holds, by the exact measure if it is near a limit."""
        sample = await self._measure()
        return sample.swap_bytes if resource is Resource.SWAP else sample.memory_bytes

    def kill_whole_job(self, victim: ProcessIdentity, table: ProcessTable, spared: frozenset[int]) -> bool:
        """A tree has no kill of its own that nobody can escape."""
        return False
