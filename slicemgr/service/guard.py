# SPDX-License-Identifier: LGPL-2.1-or-later
"""THE KILL PATH: one guard watches one job, and ends one process of it when a hard limit is passed.

In order: measure -> decide -> snapshot -> name the victim -> look again -> prove its identity -> SIGKILL ->
free its memory -> see it exit -> measure again. One victim at a time; nothing between the decision and the
signal waits for anything but the kernel. Reports go into a queue that never blocks.
"""

import asyncio
import dataclasses
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Final, Protocol

from slicemgr.kernel.errors import NotPermittedError, ProcessGoneError
from slicemgr.kernel.kill import ProvenProcess, RefusedError
from slicemgr.kernel.procfs import PAGE_BYTES
from slicemgr.model.cgroup import CgroupSample, Measure, MemoryLimits
from slicemgr.model.decision import FindVictim, Resource, Shortage, Warn
from slicemgr.model.process import ProcessIdentity, ProcessTable
from slicemgr.policy.badness import BadnessScale, memory_pages
from slicemgr.policy.reaction import ReactionState, react, shortage_in
from slicemgr.policy.sampling import Pace, next_look, tighter_measure
from slicemgr.policy.victim import Choice, NoVictim, choose, runners_up
from slicemgr.service.naming import CommandLines
from slicemgr.service.report import HighReport, KillOutcome, KillReport, NoVictimReport, Report

EXIT_TIMEOUT_SECONDS: Final = 5.0
"""A process in an uninterruptible sleep (a dead NFS server) does not end by SIGKILL. 400 MB took 170 ms to be
freed under emulation, so who is still there after this is not busy exiting: the next candidate has its turn."""

SLOW_SECONDS: Final = 0.01
"""smaps_rollup walks page tables, 12 ms for each GiB: 2 ms in all for a build of compilers, 0.3 s for 200
forked workers. ^C must not wait for the latter, so they are read by a thread; the former would only wait for it."""

NO_VICTIM_PAUSE_SECONDS: Final = 0.1
"""Nobody to take is mostly a moment: a vforked child before its exec, a zombie before it is reaped."""

FUTILE_SACRIFICES: Final = 3
"""How many children may go for one parent without having held what was needed. The rule always prefers a
child; without this bound a leaking test runner would outlive any number of its 2 MB children."""


class Source(Protocol):
    """Where a job is read; a cgroup and a process tree answer alike."""

    def read(self, measure: Measure) -> CgroupSample:
        """What the job holds now."""
        ...

    def snapshot(self) -> ProcessTable:
        """Its processes for the victim rule."""
        ...


class Killable(Protocol):
    """A proven process, see kernel/kill.py."""

    def fileno(self) -> int: ...
    def kill(self) -> None: ...
    def release_memory(self) -> None: ...


class Guard:
    """Watches one job until it is cancelled."""

    def __init__(
        self,
        source: Source,
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
        self._futile: Counter[ProcessIdentity] = Counter()
        self._survivors: set[ProcessIdentity] = set()
        self._without_victim = False
        self._proportional_is_slow = False
        self._acting = asyncio.Lock()

    async def at_rest(self) -> None:
        """Wait for the end of a kill that is under way: a victim may be the whole job, and has to be told of."""
        async with self._acting:
            return

    async def watch(self) -> None:
        """Look, act, and wait for as long as the job's growth allows; for ever."""
        while True:
            sample = await self._measure()
            self._state, decision = react(self._state, sample, self._limits)
            if isinstance(decision, Warn):
                self._report(HighReport(self._clock(), decision.usage_bytes, decision.high_bytes))
            if isinstance(decision, FindVictim):
                async with self._acting:
                    await self._end_shortage(decision.shortage, sample)
                continue
            self._without_victim = False
            if sample.measure is not Measure.RESIDENT:
                self._command_lines.learn(sample.taken_seconds)
            self._pace, interval = next_look(self._pace, sample, self._limits)
            await self._pause(interval)

    async def _measure(self) -> CgroupSample:
        """The cheapest measure that leaves nothing open."""
        sample = self._source.read(Measure.RESIDENT)
        while tighter := tighter_measure(
            sample, self._limits, peak_bytes=self.peak_bytes, above_high=self._state.above_high
        ):
            sample = await self._read(tighter)
        self.looks += 1
        # RSS alone is only ever taken when it is below the peak, so it can't raise it.
        if sample.measure is not Measure.RESIDENT:
            self.peak_bytes = max(self.peak_bytes, sample.memory_bytes)
        return sample

    async def _read(self, measure: Measure) -> CgroupSample:
        if measure is not Measure.PROPORTIONAL or not self._proportional_is_slow:
            sample = self._source.read(measure)
        else:
            sample = await asyncio.get_running_loop().run_in_executor(None, self._source.read, measure)
        if measure is Measure.PROPORTIONAL:
            self._proportional_is_slow = sample.cost_seconds > SLOW_SECONDS
        return sample

    async def _end_shortage(self, shortage: Shortage, sample: CgroupSample) -> None:
        decided = self._clock()
        table = self._source.snapshot()
        scale = dataclasses.replace(self._scale, survivors=frozenset(self._survivors))
        exhausted = frozenset(parent for parent, times in self._futile.items() if times >= FUTILE_SACRIFICES)
        choice = choose(table, scale, exhausted)
        if isinstance(choice, NoVictim):
            await self._no_victim(NoVictimReport(decided, shortage, choice.spared))
            return
        if not self._still_short(shortage, sample):
            return
        outcome = await self._kill(choice.victim.process.identity)
        if outcome is None:
            return  # It ended by itself: that may have been enough.
        exited = self._clock()
        after = await self._measure()
        self._remember(choice, shortage, outcome)
        victim = choice.victim.process
        next_ones = runners_up(table, scale, choice.victim)
        self._report(
            KillReport(
                at_seconds=decided,
                victim=victim,
                command_line=self._command_lines.of(victim),
                held_bytes=memory_pages(victim) * PAGE_BYTES,
                points=choice.victim.points,
                for_parent=None if choice.for_parent is None else choice.for_parent.process,
                shortage=shortage,
                runners_up=tuple((each.process, memory_pages(each.process) * PAGE_BYTES) for each in next_ones),
                outcome=outcome,
                seconds_to_exit=exited - decided,
                usage_after_bytes=after.memory_bytes if shortage.resource is Resource.MEMORY else after.swap_bytes,
                was_alone=not next_ones,
            )
        )

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
                # Blocks for up to 90 ms on a big process: a thread may wait for it, the loop may not.
                releasing = asyncio.get_running_loop().run_in_executor(None, victim.release_memory)
                exited = await _readable_within(victim.fileno(), EXIT_TIMEOUT_SECONDS)
                await releasing
        except ProcessGoneError:
            return None
        except NotPermittedError:
            return KillOutcome.NOT_PERMITTED
        except RefusedError:
            return KillOutcome.REFUSED
        return KillOutcome.EXITED if exited else KillOutcome.STILL_THERE

    def _remember(self, choice: Choice, shortage: Shortage, outcome: KillOutcome) -> None:
        if outcome in {KillOutcome.STILL_THERE, KillOutcome.NOT_PERMITTED, KillOutcome.REFUSED}:
            self._survivors.add(choice.victim.process.identity)
        held_bytes = memory_pages(choice.victim.process) * PAGE_BYTES
        if choice.for_parent is not None and held_bytes < shortage.needed_bytes:
            self._futile[choice.for_parent.process.identity] += 1

    async def _no_victim(self, report: NoVictimReport) -> None:
        """Said once an episode, then tried again."""
        if not self._without_victim:
            self._without_victim = True
            self._report(report)
        await self._pause(NO_VICTIM_PAUSE_SECONDS)


async def _readable_within(descriptor: int, timeout_seconds: float) -> bool:
    """Whether the descriptor becomes readable in time: the exit of a process, on its pidfd."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(descriptor, readable.set)
    try:
        await asyncio.wait_for(readable.wait(), timeout_seconds)
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(descriptor)
    return True
