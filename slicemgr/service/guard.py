# SPDX-License-Identifier: LGPL-2.1-or-later
"""THE KILL PATH: one guard watches one job, and ends one process of it when a hard limit is passed.

In order: measure -> decide -> snapshot -> name the victim -> look again -> prove its identity -> SIGKILL ->
free its memory -> see it exit -> measure again. One victim at a time; nothing between the decision and the
signal waits for anything but the kernel. Reports go into a queue that never blocks.
"""

import asyncio
import dataclasses
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Final, Protocol

from slicemgr.kernel.errors import KernelError, NotPermittedError, ProcessGoneError
from slicemgr.kernel.kill import ProvenProcess, RefusedError, release_memory
from slicemgr.kernel.procfs import PAGE_BYTES
from slicemgr.model.cgroup import CgroupSample, Measure, MemoryLimits
from slicemgr.model.decision import FindVictim, Resource, Shortage, Warn
from slicemgr.model.process import ProcessIdentity, ProcessSample, ProcessTable
from slicemgr.model.source import JobSource
from slicemgr.policy.badness import BadnessScale, held_pages
from slicemgr.policy.reaction import ReactionState, react, shortage_in
from slicemgr.policy.sampling import Pace, next_look, tighter_measure
from slicemgr.policy.victim import Choice, NoVictim, choose, runners_up
from slicemgr.service.exits import readable_within
from slicemgr.service.naming import CommandLines
from slicemgr.service.report import HighReport, KillOutcome, KillReport, NoVictimReport, Report
from slicemgr.service.worker import Worker

EXIT_TIMEOUT_SECONDS: Final = 5.0
"""A process in an uninterruptible sleep (a dead NFS server) does not end by SIGKILL. 400 MB took 170 ms to be
freed under emulation, so who is still there after this is not busy exiting: the next candidate has its turn."""

SLOW_SECONDS: Final = 0.01
"""smaps_rollup walks page tables, 12 ms for each GiB: 2 ms in all for a build of compilers, 0.3 s for 200
forked workers. ^C must not wait for the latter, so they are read by a thread; the former would only wait for it."""

NO_VICTIM_PAUSE_SECONDS: Final = 0.1
"""Nobody to take is mostly a moment: a vforked child before its exec, a zombie before it is reaped."""

FUTILE_SACRIFICES: Final = 3
FUTILE_WINDOW_SECONDS: Final = 10.0
FUTILE_SHARE: Final = 1 / 4
"""Three children in ten seconds whose end freed less than a quarter of what their parent holds: then it is the parent
that leaks, and it goes itself. The rule prefers children; without this bound a leaking test runner took 59 of its small
workers with it before its own turn came. Only a parent that holds at least half of what its child did can be the
leaker: while the others grow, the end of a compiler seems to free nothing, and make is not to blame for that."""

FLEETING: Final = (OSError, RuntimeError, KernelError)
FAILED_LOOKS: Final = 10
FAILED_LOOK_PAUSE_SECONDS: Final = 0.1
"""A look can fail for a moment: no thread, no descriptor, no memory to be had, as a fork bomb makes it. A second of
failures in a row is no moment."""


class Killable(Protocol):
    """A proven process, see kernel/kill.py."""

    def fileno(self) -> int: ...
    def kill(self) -> None: ...


class Guard:
    """Watches one job until it is cancelled."""

    def __init__(
        self,
        source: JobSource,
        limits: MemoryLimits,
        scale: BadnessScale,
        *,
        report: Callable[[Report], None],
        command_lines: CommandLines,
        prove: Callable[[ProcessIdentity], AbstractContextManager[Killable]] = ProvenProcess,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.peak_bytes = 0
        self.looks = 0
        self._source = source
        self._limits = limits
        self._scale = scale
        self._report = report
        self._command_lines = command_lines
        self._prove = prove
        self._pause = pause
        self._clock = clock
        self._state = ReactionState()
        self._pace = Pace()
        self._highest_bound_bytes = 0
        self._futile: dict[ProcessIdentity, list[float]] = {}
        self._survivors: set[ProcessIdentity] = set()
        self._without_victim = False
        self._proportional_is_slow = False
        self._acting = asyncio.Lock()
        self._releasing = Worker("release")
        self._measuring = Worker("measure")

    async def at_rest(self) -> None:
        """Wait for the end of a kill that is under way: a victim may be the whole job, and has to be told of."""
        async with self._acting:
            return

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
        self._state, decision = react(self._state, sample, self._limits)
        if isinstance(decision, Warn):
            self._report(HighReport(self._clock(), decision.usage_bytes, decision.high_bytes))
        if isinstance(decision, FindVictim):
            async with self._acting:
                return await self._end_shortage(decision.shortage, sample)
        self._without_victim = False
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
            above_high=self._state.above_high,
        ):
            bound = sample
            sample = await self._read(tighter)
            cost_seconds += sample.cost_seconds
            if bound.measure is Measure.UNRECLAIMABLE:
                self._highest_bound_bytes = max(self._highest_bound_bytes, bound.memory_bytes)
        self.looks += 1
        if sample.measure is Measure.PROPORTIONAL:
            self.peak_bytes = max(self.peak_bytes, sample.memory_bytes)
        return dataclasses.replace(sample, cost_seconds=cost_seconds)

    async def _read(self, measure: Measure) -> CgroupSample:
        if measure is not Measure.PROPORTIONAL or not self._proportional_is_slow:
            sample = self._source.read(measure)
        else:
            sample = await self._measuring.ask(partial(self._source.read, measure))
        if measure is Measure.PROPORTIONAL:
            self._proportional_is_slow = sample.cost_seconds > SLOW_SECONDS
        return sample

    async def _end_shortage(self, shortage: Shortage, sample: CgroupSample) -> float:
        """One victim, if there is still need of one. The answer: seconds until the next look."""
        decided = self._clock()
        table = self._source.snapshot()
        scale = dataclasses.replace(self._scale, survivors=frozenset(self._survivors))
        choice = choose(table, scale, self._exhausted(decided))
        if isinstance(choice, NoVictim):
            self._tell_no_victim(NoVictimReport(decided, shortage, choice.spared))
            return NO_VICTIM_PAUSE_SECONDS
        if not self._still_short(shortage, sample):
            return 0.0
        outcome = await self._kill(choice.victim.process.identity)
        if outcome is None:
            return 0.0  # It ended by itself: that may have been enough.
        seconds_to_exit = self._clock() - decided
        try:
            after = await self._measure()
        except FLEETING:
            after = sample  # Who was killed is told, also when it can't be seen what that has brought.
        used_after = after.memory_bytes if shortage.resource is Resource.MEMORY else after.swap_bytes
        if outcome is not KillOutcome.EXITED:
            self._survivors.add(choice.victim.process.identity)
        self._note_futility(table, choice, decided, freed_bytes=shortage.usage_bytes - used_after)
        victim = choice.victim.process
        next_ones = runners_up(table, scale, choice.victim)
        self._report(
            KillReport(
                at_seconds=decided,
                victim=victim,
                command_line=self._command_lines.of(victim),
                held_bytes=_held_bytes(victim),
                points=choice.victim.points,
                for_parent=None if choice.for_parent is None else choice.for_parent.process,
                shortage=shortage,
                runners_up=tuple((each.process, _held_bytes(each.process)) for each in next_ones),
                outcome=outcome,
                seconds_to_exit=seconds_to_exit,
                usage_after_bytes=used_after,
                was_alone=len(table) == 1,
            )
        )
        return 0.0

    def _still_short(self, shortage: Shortage, sample: CgroupSample) -> bool:
        """Look again before the shot: choosing takes 2-5 ms for 20 processes, and a step may end in that.

        The cheap bound does, corrected by what it overstated when the shortage was found: the exact measure
        would cost more time than has passed.
        """
        now = self._source.read(Measure.UNRECLAIMABLE)
        if sample.measure is Measure.PROPORTIONAL and shortage.resource is Resource.MEMORY:
            grown = now.resident_bytes - sample.resident_bytes
            return sample.memory_bytes + grown > shortage.limit_bytes
        return shortage_in(now, self._limits) is not None

    async def _kill(self, identity: ProcessIdentity) -> KillOutcome | None:
        """Prove, kill, and see it exit; None if there was nobody to kill any more."""
        try:
            with self._prove(identity) as victim:
                victim.kill()
                self._release(victim.fileno())
                exited = await readable_within(victim.fileno(), EXIT_TIMEOUT_SECONDS)
        except ProcessGoneError:
            return None
        except NotPermittedError:
            return KillOutcome.NOT_PERMITTED
        except RefusedError:
            return KillOutcome.REFUSED
        return KillOutcome.EXITED if exited else KillOutcome.STILL_THERE

    def _release(self, pidfd: int) -> None:
        """process_mrelease blocks for up to 90 ms on a big process: a thread may wait for it, the loop may not.

        On a copy of the pidfd, so that nobody has to wait for the thread. Where no copy (OSError) or no thread
        (RuntimeError) is to be had, the exit frees the memory as well, a little later.
        """
        try:
            copy = os.dup(pidfd)
        except OSError:
            return
        try:
            self._releasing.do(partial(release_memory, copy))
        except RuntimeError:
            os.close(copy)

    def _exhausted(self, now: float) -> frozenset[ProcessIdentity]:
        """Parents that have had their sacrifices."""
        recent = {
            parent: [at for at in times if now - at < FUTILE_WINDOW_SECONDS] for parent, times in self._futile.items()
        }
        self._futile = {parent: times for parent, times in recent.items() if times}
        return frozenset(parent for parent, times in self._futile.items() if len(times) >= FUTILE_SACRIFICES)

    def _note_futility(self, table: ProcessTable, choice: Choice, now: float, freed_bytes: int) -> None:
        """What was freed is counted, not what the child held: most of a forked child's memory is its parent's."""
        victim, parent = choice.victim.process, table.get(choice.victim.process.ppid)
        if parent is None or 2 * _held_bytes(parent) < _held_bytes(victim):
            return
        if freed_bytes < _held_bytes(parent) * FUTILE_SHARE:
            self._futile.setdefault(parent.identity, []).append(now)

    def _tell_no_victim(self, report: NoVictimReport) -> None:
        """Once an episode."""
        if not self._without_victim:
            self._without_victim = True
            self._report(report)


def _held_bytes(process: ProcessSample) -> int:
    return held_pages(process) * PAGE_BYTES
