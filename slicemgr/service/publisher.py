# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a daemon shows to its bus: it looks when something has changed or is asked for, and tells what differs."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from slicemgr.bus.objects import MANAGER, ROOT
from slicemgr.bus.server import BusServer
from slicemgr.kernel.cgroupfs import MOUNT
from slicemgr.kernel.directories import DirectoryWatch
from slicemgr.kernel.errors import KernelError
from slicemgr.service import signals
from slicemgr.service.overview import where_jobs_come_and_go
from slicemgr.service.published import Moment, Seen, objects_of
from slicemgr.service.record import Record
from slicemgr.service.worker import Worker

SPACING_SECONDS: Final = 0.1
"""Between two looks: a look at 200 jobs takes 30 ms, and a build may start as many."""

SECOND_LOOK_SECONDS: Final = 0.5
"""At a job that is new: its cgroup is made, and heard of, before anybody is in it."""


class Publisher:
    """Belongs to the loop's thread."""

    def __init__(self, look: Callable[[], Seen], first: Moment) -> None:
        """`look` reads the machine anew, in a thread of its own. Raises OSError where no descriptor is to be had."""
        self._look = look
        self._worker = Worker("overview")
        self._wanted = asyncio.Event()
        self._turn = asyncio.Lock()
        self._next: asyncio.Task[Moment] | None = None
        """A look that has not begun."""
        self._looked_seconds = float("-inf")
        self._directories = DirectoryWatch()
        self._server: BusServer | None = None
        self.moment = first
        self.looked: Callable[[Moment], object] = lambda _: None
        """Told each moment that was looked at."""
        self.stepped: Callable[[Moment, Moment], object] = lambda _before, _now: None
        """Told what was known before, and now."""
        asyncio.get_running_loop().add_reader(self._directories.fileno(), self._changed)

    def show_on(self, server: BusServer) -> None:
        """All of it from now on."""
        self._server = server
        server.publish(objects_of(self.moment))

    def want(self) -> None:
        """Something has changed, or somebody reads: look soon. Never waits."""
        self._wanted.set()

    async def run(self) -> None:
        """For as long as the daemon lives."""
        while True:
            await self._wanted.wait()
            with contextlib.suppress(KernelError, OSError):
                await self.look()
            await asyncio.sleep(SPACING_SECONDS)

    async def look(self) -> Moment:
        """Now, and publish it. Who asks before that look begins shares it. Raises KernelError, OSError."""
        if self._next is None:
            self._next = asyncio.create_task(self._look_once())
            self._next.add_done_callback(_heard)
        return await asyncio.shield(self._next)

    async def look_again(self) -> Moment:
        """The same for whoever may ask for it without end: not more often than changes are looked at."""
        await asyncio.sleep(max(0.0, self._looked_seconds + SPACING_SECONDS - time.monotonic()))
        return await self.look()

    async def _look_once(self) -> Moment:
        async with self._turn:
            self._next = None
            self._wanted.clear()
            seen = await self._worker.ask(self._look)
            self._looked_seconds = time.monotonic()
            # Into the moment as it is now: holds and levels may have changed meanwhile.
            self._show(
                replace(
                    self.moment,
                    machine=seen.machine,
                    wall_seconds=seen.wall_seconds,
                    slices=seen.slices,
                    sessions=seen.sessions,
                    paused=seen.paused,
                )
            )
            self.looked(self.moment)
            return self.moment

    def tell(self, record: Record) -> None:
        """Of what was done: at once, with the objects that are known."""
        for signal in signals.of_record(record, self.moment):
            self._emit(signal)
        self.want()

    def change(self, **fields: object) -> None:
        """Of the moment that is known, without a look: levels, holds, degraded."""
        self._show(replace(self.moment, **fields))  # type: ignore[arg-type]

    def close(self) -> None:
        """Look no more."""
        asyncio.get_running_loop().remove_reader(self._directories.fileno())
        self._directories.close()

    def _show(self, moment: Moment) -> None:
        before, self.moment = self.moment, moment
        places = where_jobs_come_and_go(moment.slices, moment.standing.user_uid, MOUNT)
        if self._directories.want(sorted(MOUNT + place for place in places)):
            self.want()  # A job may have come between the look and the watch.
        if self._server is not None:
            self._server.publish(objects_of(moment))
        for signal in signals.of_step(before, moment):
            self._emit(signal)
        self.stepped(before, moment)
        if _has_new_without_leader(before, moment):
            asyncio.get_running_loop().call_later(SECOND_LOOK_SECONDS, self.want)

    def _emit(self, signal: signals.Signal) -> None:
        if self._server is not None:
            self._server.emit(ROOT, MANAGER, signal.name, *signal.arguments)

    def _changed(self) -> None:
        if self._directories.drain():
            self.want()


def _has_new_without_leader(before: Moment, moment: Moment) -> bool:
    known = {job.path for each in before.slices for job in each.jobs}
    return any(job.leader_pid is None and job.path not in known for each in moment.slices for job in each.jobs)


def _heard(look: asyncio.Task[Moment]) -> None:
    """Who has asked for it may have given up."""
    if not look.cancelled():
        look.exception()
