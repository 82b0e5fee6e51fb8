# SPDX-License-Identifier: LGPL-2.1-or-later
"""The guard of a cgroup and all below it: sleeps until a counter moves, finds whose limit it was, and acts there."""

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from slicemgr.kernel.cgroupfs import MOUNT, CgroupDir
from slicemgr.kernel.errors import CgroupGoneError, KernelError, NotSupportedError
from slicemgr.model.decision import FindVictim, KernelWasFirst, Shortage, Warn
from slicemgr.model.process import ProcessTable
from slicemgr.policy.badness import BadnessScale
from slicemgr.policy.limits import is_default_high
from slicemgr.policy.reaction import after_kill
from slicemgr.service.counters import EventCounters, Moved
from slicemgr.service.episode import Episode
from slicemgr.service.guard import FLEETING, Ended, Guard
from slicemgr.service.managed import ManagedSlice
from slicemgr.service.report import HighReport, KernelKillReport, Report

SHORTEST_ROUND_SECONDS: Final = 0.02
"""The kernel tells of a file up to a hundred times a second (CGROUP_FILE_NOTIFY_MIN_INTV); a cgroup that trims its
page cache keeps that up for hours, and half of it is soon enough."""

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
        command lines may be wanted soon, `kernel_log` tells whom the kernel's OOM killer took in a cgroup. `is_new`:
        nobody has watched `root` before, and nothing in it has been told. The guard owns it from here on. Raises
        KernelError.
        """
        self.looks = 0
        self._root = root
        self._managed = managed
        self._calls = calls
        self._report = report
        self._ourselves = ourselves
        self._free_swap = free_swap
        self._kernel_log = kernel_log
        self._guard_of = guard_of
        self._learn = learn
        self._mount = mount
        self._clock = clock
        self._wait = wait or Rounds()
        self._episodes: dict[str, Episode] = {}
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
            self._counters.close()
            for path in list(self._episodes):
                self._forget(path)
            self._root.close()

    async def _rounds(self) -> None:
        failures = 0
        while True:
            intervals = [episode.next_look_seconds() for episode in self._episodes.values()]
            await self._wait(self._called, min((each for each in intervals if each is not None), default=None))
            self._called.clear()
            try:
                await self._round()
                failures = 0
            except CgroupGoneError:
                if self._root.is_gone():
                    return
            except FLEETING:
                failures += 1
                if failures == FAILED_ROUNDS:
                    raise
                self._called.set()  # Again, after the shortest pause.

    async def _round(self) -> None:
        self._open_episodes()
        told: dict[str, int] = {}
        failure: Exception | None = None
        # The deepest first: a kill there may be all that the slice above it needs.
        for path in sorted(self._episodes, key=lambda path: path.count("/"), reverse=True):
            try:
                await self._look_at(self._episodes[path], told)
            except (CgroupGoneError, NotSupportedError):  # Removed, or without its memory controller now.
                self._forget(path)
                continue
            except FLEETING as error:  # One that can't be read must not keep us from the others.
                failure = error
                continue
            if self._episodes[path].is_calm:
                managed = self._managed(path)
                if managed is not None and self._episodes[path].has_room:
                    self._guard_of(managed).all_is_well(self._episodes[path])
                self._forget(path)
        if failure is not None:
            raise failure

    async def _look_at(self, episode: Episode, told: dict[str, int]) -> None:
        self.looks += 1
        match episode.look():
            case Warn(usage, high) if not is_default_high(episode.limits.high, episode.limits.max):
                self._report(HighReport(self._clock(), usage, high, episode.cgroup))
            case KernelWasFirst(count):
                news = count - sum(many for path, many in told.items() if path.startswith(episode.cgroup + "/"))
                if news > 0:
                    told[episode.cgroup] = news
                    self._tell_kernel_kills(episode.cgroup, news)
            case FindVictim(shortage):
                await self._end_shortage(episode, shortage)
            case _:
                self._learn(self._clock())

    def _tell_kernel_kills(self, cgroup: str, count: int) -> None:
        """But for those that were dying of our own SIGKILL already: the kernel's killer likes to take these."""
        victims = self._kernel_log(cgroup)[-count:]
        managed = self._managed(cgroup)
        ours = frozenset() if managed is None else self._guard_of(managed).last_victims
        others = tuple(each for each in victims if each[0] not in ours)
        count -= len(victims) - len(others)
        if count > 0:
            self._report(KernelKillReport(self._clock(), cgroup, count, others))

    async def _end_shortage(self, episode: Episode, shortage: Shortage) -> None:
        managed = self._managed(episode.cgroup)
        if managed is None:  # The configuration has changed under it.
            return

        def scale(table: ProcessTable) -> BadnessScale:
            return managed.scale(table, shortage.limit_bytes, self._ourselves)

        ended = await self._guard_of(managed).end_shortage(shortage, episode, scale)
        episode.state = after_kill(episode.state, self._clock(), ended=ended is not Ended.SURVIVED)

    def _open_episodes(self) -> None:
        for moved in self._counters.moved():
            self._open_episode(moved.path, moved)

    def _open_episode(self, path: str, before: Moved | None) -> None:
        managed = self._managed(path)
        if path in self._episodes and self._episodes[path].is_gone:
            self._forget(path)
        if path in self._episodes or managed is None:
            return
        try:
            directory = CgroupDir.open(path, self._mount)
        except KernelError:
            return  # Gone already.
        self._episodes[path] = Episode(
            directory,
            before,
            job_root=managed.cgroup,
            free_swap=self._free_swap,
            mount=self._mount,
            clock=self._clock,
        )

    def _forget(self, path: str) -> None:
        self._episodes.pop(path).close()

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


class Rounds:
    """The time between two rounds: until called or for so long, and never less than the shortest."""

    def __init__(self) -> None:
        self._ended_seconds = -SHORTEST_ROUND_SECONDS

    async def __call__(self, called: asyncio.Event, seconds: float | None) -> None:
        """Sleep until `called`, or for `seconds`."""
        # Not wait_for: until 3.12 it swallows a cancellation that comes together with the call, and the guard of a job
        # that has just been killed would be waited for in vain.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await called.wait()
        loop = asyncio.get_running_loop()
        early = self._ended_seconds + SHORTEST_ROUND_SECONDS - loop.time()
        if early > 0:
            await asyncio.sleep(early)
        self._ended_seconds = loop.time()
