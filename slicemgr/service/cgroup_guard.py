# SPDX-License-Identifier: LGPL-2.1-or-later
"""The guard of a cgroup and all below it: sleeps until a counter moves, finds whose limit it was, and acts there."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Protocol

from slicemgr.kernel.cgroupfs import MOUNT, CgroupDir
from slicemgr.kernel.errors import CgroupGoneError, KernelError, NotSupportedError
from slicemgr.model.decision import FindVictim, KernelWasFirst, Shortage, Warn
from slicemgr.model.process import ProcessTable
from slicemgr.policy.badness import BadnessScale
from slicemgr.policy.limits import is_default_high
from slicemgr.policy.reaction import after_kill
from slicemgr.service.counters import EventCounters, Moved
from slicemgr.service.endings import Endings
from slicemgr.service.episode import Episode
from slicemgr.service.guard import FLEETING, Ended, Guard
from slicemgr.service.kernel_kills import not_ours
from slicemgr.service.managed import ManagedSlice
from slicemgr.service.report import HighReport, KernelKillReport, Report
from slicemgr.service.rounds import Rounds

FAILED_ROUNDS: Final = 50
"""A second of failures in a row is no moment."""

NEAR_PERCENT: Final = 97
"""Found like this of its limit when the guard begins, a cgroup is looked at at once: its stall may be an old one."""


class FileCalls(Protocol):
    """Who calls when a cgroup file changes, see kernel/watch.py."""

    def add_file(self, descriptor: int, callback: Callable[[], None]) -> None: ...
    def remove(self, descriptor: int) -> None: ...


class CgroupGuard:
    """Watches one cgroup until it is gone, or until it is cancelled."""

    def __init__(
        self,
        root: CgroupDir,
        managed: Callable[[str], ManagedSlice | None],
        guard_of: Callable[[ManagedSlice], Guard],
        *,
        calls: FileCalls,
        report: Callable[[Report], None],
        warn: Callable[[HighReport], None] = lambda report: None,
        learn: Callable[[float], None],
        ourselves: frozenset[int],
        free_swap: Callable[[], int],
        kernel_log: Callable[[str], tuple[tuple[int, str], ...]] = lambda cgroup: (),
        is_new: bool = False,
        mount: str = MOUNT,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[asyncio.Event, float | None], Awaitable[None]] | None = None,
    ) -> None:
        """`managed` names the slice that a cgroup belongs to, or None: then nothing in it is touched.

        `guard_of` is the kill path of a slice: one for each, so one victim at a time. `learn` is told the time when
        command lines may be wanted soon, `kernel_log` tells whom the kernel's OOM killer took in a cgroup. `warn` is
        told what is above a memory.high that nobody has asked for, which is no news to a person. `is_new`: nobody has
        watched `root` before, and nothing in it has been told. The guard owns it from here on. Raises KernelError.
        """
        self.looks = 0
        self._root = root
        self._managed = managed
        self._calls = calls
        self._report = report
        self._warn = warn
        self._ourselves = ourselves
        self._free_swap = free_swap
        self._kernel_log = kernel_log
        self._guard_of = guard_of
        self._learn = learn
        self._mount = mount
        self._clock = clock
        self._wait = wait or Rounds()
        self._episodes: dict[str, Episode] = {}
        self._full: dict[str, Episode] = {}
        """Calm, and yet without room: what their slice remembers of them holds until they are gone."""
        self._endings = Endings()
        self._called = asyncio.Event()
        try:
            self._counters = EventCounters(root, is_new=is_new)
        except BaseException:
            root.close()
            raise

    def look(self) -> None:
        """Look at everything that is near its limit, for a reason of the caller's own: pressure, or a new job."""
        for path in self._counters.paths():
            if self._is_near_its_limit(path):
                self._open_episode(path, None)
        self._called.set()

    async def watch(self) -> None:
        """Sleep until called, look, act; returns when the cgroup is gone.

        Raises NotSupportedError without memory.events (the root, or no memory controller), and what goes wrong
        FAILED_ROUNDS times in a row.
        """
        try:
            file = self._root.open_file("memory.events")
            try:
                self._calls.add_file(file, self._called.set)
                self._open_episodes()
                self.look()
                await self._rounds()
            finally:
                self._calls.remove(file)
                os.close(file)
        finally:
            try:
                await self._endings.cancel()
            finally:
                for path in list(self._episodes):
                    self._forget(path)
                self._forget_the_full(self._full)
                self._counters.close()
                self._root.close()

    async def _rounds(self) -> None:
        failures = 0
        while True:
            waiting = [each for each in self._episodes.values() if not self._endings.need(each)]
            intervals = [seconds for each in waiting if (seconds := each.next_look_seconds()) is not None]
            await self._endings.or_until(self._wait(self._called, min(intervals, default=None)))
            self._called.clear()
            try:
                await self._round()
                failures = 0
            except CgroupGoneError:
                if self._root.is_gone():
                    await self._endings.finish()  # The last victim may have been all of it, and has to be told of.
                    return
            except FLEETING:
                failures += 1
                if failures == FAILED_ROUNDS:
                    await self._endings.finish()
                    raise
                self._called.set()  # Again, after the shortest pause.

    async def _round(self) -> None:
        self._check_endings()
        self._open_episodes()
        self._forget_the_full(path for path, episode in self._full.items() if episode.is_gone)
        failure: Exception | None = None
        # The deepest first: a kill there may be all that the slice above it needs.
        for path in sorted(self._episodes, key=lambda path: path.count("/"), reverse=True):
            episode, managed = self._episodes[path], self._managed(path)
            if self._endings.hold(path, "" if managed is None else managed.cgroup):
                continue
            if managed is None:  # The configuration has changed under it, or it is its user's daemon's by now.
                self._forget(path)
                continue
            try:
                await self._look_at(episode, managed)
            except (CgroupGoneError, NotSupportedError):  # Removed, or without its memory controller now.
                self._forget(path)
                continue
            except FLEETING as error:  # One that can't be read must not keep us from the others.
                failure = error
                continue
            if episode.is_calm and episode.has_room:
                self._guard_of(managed).all_is_well(episode)
                self._forget(path)
            elif episode.is_calm:
                self._full[path] = self._episodes.pop(path)
        if failure is not None:
            raise failure

    def _check_endings(self) -> None:
        """Raise what has gone wrong in those that are over: what failed is tried again after the pause, as all else."""
        failure: Exception | None = None
        for ending in self._endings.over():
            try:
                ending.task.result()
            except (CgroupGoneError, NotSupportedError):
                continue  # The next look says so as well.
            except FLEETING as error:
                failure = error
        if failure is not None:
            raise failure

    async def _look_at(self, episode: Episode, managed: ManagedSlice) -> None:
        self.looks += 1
        decision = episode.look()
        if isinstance(decision, KernelWasFirst):
            count = self._counters.kernel_kills_in(episode.cgroup, episode.local_events)
            self._tell_kernel_kills(episode.cgroup, managed, count)
        match decision:
            case Warn(usage, high):
                tell = self._warn if is_default_high(episode.limits.high, episode.limits.max) else self._report
                tell(HighReport(self._clock(), usage, high, episode.cgroup))
            case KernelWasFirst():
                pass
            case FindVictim(shortage):
                # While another one of its slice goes it is decided anew at each look: no victim by old readings.
                if not self._endings.is_at_work(managed.cgroup):
                    await self._endings.begin(episode, managed.cgroup, self._end_shortage(episode, shortage, managed))
            case _:
                self._learn(self._clock())

    def _tell_kernel_kills(self, cgroup: str, managed: ManagedSlice, count: int) -> None:
        """But for those that were dying of our own SIGKILL already."""
        if not count:
            return
        now, own = self._clock(), self._guard_of(managed).victims
        count, others = not_ours(count, self._kernel_log(cgroup), own.pids(), own.excused(cgroup, count, now))
        if count:
            self._report(KernelKillReport(now, cgroup, count, others))

    async def _end_shortage(self, episode: Episode, shortage: Shortage, managed: ManagedSlice) -> None:
        def scale(table: ProcessTable) -> BadnessScale:
            return managed.scale(table, shortage.limit_bytes, self._ourselves)

        try:
            ended = await self._guard_of(managed).end_shortage(shortage, episode, scale)
            episode.state = after_kill(episode.state, self._clock(), ended=ended is not Ended.SURVIVED)
        finally:
            if self._episodes.get(episode.cgroup) is not episode:  # Forgotten meanwhile, and left to us.
                episode.close()

    def _open_episodes(self) -> None:
        found = self._counters.moved()
        for moved in found:  # At once, for the walk says it once: what can fail comes after.
            if (managed := self._managed(moved.path)) is not None:
                self._tell_kernel_kills(moved.path, managed, moved.kernel_kills)
        for moved in found:
            self._open_episode(moved.path, moved)

    def _open_episode(self, path: str, before: Moved | None) -> None:
        managed = self._managed(path)
        if path in self._episodes and self._episodes[path].is_gone:
            self._forget(path)
        if path in self._episodes or managed is None:
            return
        self._forget_the_full({path} & self._full.keys())
        try:
            directory = CgroupDir.open(path, self._mount)
        except KernelError:  # Gone already.
            return
        self._episodes[path] = Episode(
            directory, before, job_root=managed.cgroup, free_swap=self._free_swap, mount=self._mount, clock=self._clock
        )

    def _forget(self, path: str) -> None:
        self._let_go(self._episodes.pop(path), self._managed(path))

    def _forget_the_full(self, paths: Iterable[str]) -> None:
        for path in list(paths):
            self._let_go(self._full.pop(path), self._managed(path))

    def _let_go(self, episode: Episode, managed: ManagedSlice | None) -> None:
        if managed is not None and episode.is_gone:  # Another one of its name has a history of its own.
            self._guard_of(managed).all_is_well(episode)
        if not self._endings.need(episode):
            episode.close()

    def _is_near_its_limit(self, path: str) -> bool:
        try:
            with CgroupDir.open(path, self._mount) as directory:
                limits = [limit for limit in (directory.memory_high(), directory.memory_max()) if limit is not None]
                current = directory.memory_current()
        except KernelError:
            return False
        return bool(limits) and current is not None and current * 100 >= min(limits) * NEAR_PERCENT

    def paths(self) -> list[str]:
        """The cgroups that are known below it, and itself."""
        return self._counters.paths()

    def members(self) -> set[int]:
        """Who is in an episode: their command lines may be wanted. May be called from another thread."""
        found: set[int] = set()
        for path in list(self._episodes):
            try:
                with CgroupDir.open(path, self._mount) as directory:
                    found |= directory.members()
            except KernelError:
                continue
        return found
