# SPDX-License-Identifier: LGPL-2.1-or-later
"""Shortages that are being ended, each in a task of its own: a victim that takes its time keeps nobody waiting."""

import asyncio
from collections.abc import Awaitable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

from slicemgr.model.cgroup import is_below
from slicemgr.service.episode import Episode
from slicemgr.service.guard import FLEETING


@dataclass(frozen=True, slots=True, eq=False)
class Ending:
    """One of them."""

    episode: Episode
    kill_path: str
    """The slice whose kill path it goes. By its name: a reload gives a slice a new kill path, and it is still one."""
    task: asyncio.Task[None]


class Endings:
    """At most one for each slice: its kill path takes one victim at a time anyway, by readings of that moment."""

    def __init__(self) -> None:
        self._under_way: list[Ending] = []

    async def begin(self, episode: Episode, kill_path: str, ending: Coroutine[Any, Any, None]) -> None:
        """Start it; if it has nothing to wait for it is over at once, and raises here what it raises."""
        begun = Ending(episode, kill_path, asyncio.create_task(ending))
        self._under_way.append(begun)
        await asyncio.sleep(0)
        if begun.task.done():
            self._under_way.remove(begun)
            begun.task.result()

    def is_at_work(self, kill_path: str) -> bool:
        """Whether this slice has one under way."""
        return any(each.kill_path == kill_path for each in self._under_way)

    def hold(self, cgroup: str, kill_path: str) -> bool:
        """Whether a cgroup is better not looked at: it, or one below it of the same slice, is just being relieved."""
        return any(
            each.episode.cgroup == cgroup or (each.kill_path == kill_path and is_below(each.episode.cgroup, cgroup))
            for each in self._under_way
        )

    def need(self, episode: Episode) -> bool:
        """Whether one of them still works with this episode: then it is not to be closed."""
        return any(each.episode is episode and not each.task.done() for each in self._under_way)

    def over(self) -> Iterator[Ending]:
        """Those that have ended since the last time; they are forgotten here."""
        ended = [each for each in self._under_way if each.task.done()]
        self._under_way = [each for each in self._under_way if each not in ended]
        yield from ended

    async def or_until(self, called: Awaitable[None]) -> None:
        """Wait until `called` returns, or the first of them is over: that is no moment to be slept through."""
        if not self._under_way:
            await called
            return
        waiting = asyncio.ensure_future(called)
        try:
            await asyncio.wait({waiting, *(each.task for each in self._under_way)}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if waiting.done():
            waiting.result()

    async def finish(self) -> None:
        """Wait for the end of all; what fails on the way is no news any more."""
        for each in list(self._under_way):
            try:
                await each.task
            except FLEETING:
                continue

    async def cancel(self) -> None:
        """End all now, and wait until they have let go of what they hold."""
        for each in self._under_way:
            each.task.cancel()
        await asyncio.gather(*(each.task for each in self._under_way), return_exceptions=True)
