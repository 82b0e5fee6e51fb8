# SPDX-License-Identifier: LGPL-2.1-or-later
"""A daemon as others see it on a bus: everything of bus/ and the requests, put together. Imported with GLib only."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from slicemgr.bus.authority import Authority, Caller
from slicemgr.bus.call import Call
from slicemgr.bus.client import BUS, BusClient
from slicemgr.bus.errors import InvalidArgumentError, NotSupportedError
from slicemgr.bus.objects import LOG_CONTROL, MANAGER, ROOT
from slicemgr.bus.server import BusServer
from slicemgr.kernel.errors import KernelError
from slicemgr.kernel.machine import machine_reading
from slicemgr.kernel.pressure import PressureThread
from slicemgr.model.process import ProcessIdentity
from slicemgr.placement.systemd1 import Manager
from slicemgr.service import targets
from slicemgr.service.explanation import Explanation
from slicemgr.service.history import History
from slicemgr.service.holds import Hold, HoldKind, Holds
from slicemgr.service.job_requests import JobRequests
from slicemgr.service.levels import LevelWatch
from slicemgr.service.limit_requests import LimitRequests
from slicemgr.service.notice_deeds import NoticeDeeds
from slicemgr.service.notifier import Notifier
from slicemgr.service.overview import SliceOverview
from slicemgr.service.paused import PausedJobs
from slicemgr.service.permits import Permits
from slicemgr.service.published import Moment, Seen, Standing
from slicemgr.service.publisher import Publisher
from slicemgr.service.read_requests import ReadRequests, reads
from slicemgr.service.record import Record
from slicemgr.service.requests import Answer, Requests
from slicemgr.service.session_requests import SessionRequests
from slicemgr.service.session_watch import SessionSide, SessionWatch
from slicemgr.service.worker import Worker

_PROPERTIES: Final = "org.freedesktop.DBus.Properties"

FIRST_LOOK_SECONDS: Final = 2.0
"""It takes some milliseconds, but on a machine that stands still."""

AGAIN_SECONDS: Final = 1.0
"""After a fault."""

LOG_LEVELS: Final[Mapping[str, int]] = {
    "emerg": logging.CRITICAL,
    "alert": logging.CRITICAL,
    "crit": logging.CRITICAL,
    "err": logging.ERROR,
    "warning": logging.WARNING,
    "notice": logging.INFO,
    "info": logging.INFO,
    "debug": logging.DEBUG,
}
"""syslog(3)'s, as org.freedesktop.LogControl1(5) has them."""


@dataclass(frozen=True, slots=True)
class DaemonSide:
    """What a daemon does for those who ask."""

    standing: Standing
    look: Callable[[], tuple[SliceOverview, ...]]
    """Blocks. Raises KernelError."""
    history: History
    explain: Callable[[str], Explanation]
    """Blocks."""
    connect: Callable[[], Manager] | None
    """To the service manager; None in a dry run. Blocks."""
    sessions: SessionSide
    reload: Callable[[], Awaitable[str]]
    """Read the configuration again; why the old one was kept, or nothing."""
    hold: Callable[[HoldKind | None], Awaitable[None]]
    """Apply the configuration under this."""
    paused_changed: Callable[[frozenset[str]], object]
    """Told before a job is paused, in a thread of the requests': whatever thaws them when we die."""
    pressure: PressureThread
    say: Callable[[str], object]
    wants_notices: Callable[[], bool]
    """Whether the configuration has them now."""


class BusFace:
    """Belongs to the loop's thread."""

    def __init__(self, address: str, side: DaemonSide) -> None:
        """Raises OSError where no descriptor is to be had."""
        self._side = side
        self._paused = PausedJobs(changed=side.paused_changed)
        self._publisher = publisher = Publisher(self._look, self._first())
        self._levels = LevelWatch(side.pressure, lambda levels: publisher.change(levels=levels))
        publisher.looked = lambda moment: self._levels.watch([each.path for each in moment.slices if each.usage])
        self._loop = asyncio.get_running_loop()
        self._holds = Holds()
        self._tasks: set[asyncio.Task[None]] = set()
        self._client = BusClient(address, loop=self._loop, connected=self._connected)
        self._authority = Authority(self._client)
        permits = Permits(user_uid=publisher.moment.standing.user_uid, ask=self._authority.require)
        self._worker = Worker("requests")
        self._sessions = SessionWatch(
            side.sessions, changed=publisher.want, with_manager=self._with_manager, worker=self._worker
        )
        self._limits = LimitRequests(
            moment=self._moment,
            with_manager=self._with_manager,
            limits_changed=self._limits_changed,
            holds=self._holds,
            holds_changed=self._holds_changed,
            released=self._released,
            is_here=self._authority.is_here,
            reload=side.reload,
            permits=permits,
            worker=self._worker,
        )
        reading = ReadRequests(
            moment=self._moment,
            explain=side.explain,
            history=side.history,
            permits=permits,
            worker=Worker("reading"),
        )
        jobs = JobRequests(
            moment=self._moment,
            look=publisher.look,
            with_manager=self._with_manager,
            permits=permits,
            paused=self._paused,
            worker=self._worker,
        )
        sessions = SessionRequests(
            registry=self._sessions.registry,
            moment=self._moment,
            look=publisher.look,
            with_manager=self._with_manager,
            permits=permits,
            worker=self._worker,
        )
        self._notifier: Notifier | None = None
        if side.standing.user_uid is not None and not side.standing.dry_run:
            # The desktop is on the session bus; and a dry run ends nobody, so there is nothing to tell or to press.
            deeds = NoticeDeeds(publisher.look, self._limits, jobs).by_action()
            self._notifier = Notifier(self._client, deeds=deeds, is_wanted=side.wants_notices, say=side.say)
            publisher.stepped = self._notifier.step
        own = {(_PROPERTIES, "Set"): self._set_property}
        parts = (reading.methods(), self._limits.methods(), jobs.methods(), sessions.methods(), own)
        is_shared = side.standing.user_uid is None
        self.requests = Requests(self._authority.caller, publisher.look_again, *parts, is_shared=is_shared)
        self._server = BusServer(
            address,
            loop=self._loop,
            handle=self.requests,
            reads=reads(self._moment),
            refresh=publisher.want,
            tell=self._told,
        )

    async def start(self) -> None:
        """With what there is to see, or without if that takes too long.

        Raises RuntimeError if no thread is to be had: then nobody sees us, and all else works.
        """
        with contextlib.suppress(KernelError, OSError, TimeoutError):
            async with asyncio.timeout(FIRST_LOOK_SECONDS):
                await self._publisher.look()
        self._publisher.show_on(self._server)
        self._client.subscribe(BUS, BUS, "NameOwnerChanged", self._name_changed)
        if self._notifier is not None:
            self._notifier.begin()
            self._begin(self._notifier.run())
        self._client.start()
        self._sessions.start()
        self._server.start()

    async def run(self) -> None:
        """Look when there is something to see, for as long as the daemon lives; a fault here ends no guard."""
        self._publisher.want()
        async with asyncio.TaskGroup() as tasks:
            for part in (self._publisher.run, self._levels.run, self._sessions.run):
                tasks.create_task(self._keep_running(part))

    async def _keep_running(self, part: Callable[[], Awaitable[None]]) -> None:
        """A fault, as no thread to be had in a fork bomb, ends no part: vital processes would have safe children."""
        told = ""
        while True:
            try:
                await part()
            except Exception as error:  # noqa: BLE001 - a fault of ours: said, and begun anew
                fault = repr(error.exceptions[0] if isinstance(error, ExceptionGroup) else error)
                if fault != told:
                    self._side.say(f"D-Bus: what is told there may be old: {fault}; it is tried again")
                told = fault
            await asyncio.sleep(AGAIN_SECONDS)
            self._publisher.want()

    def tell(self, record: Record, *, is_for_people: bool = True) -> None:
        """What was done: programs are told all of it."""
        self._publisher.tell(record)
        if self._notifier is not None and is_for_people:
            self._notifier.tell(record)

    def want(self) -> None:
        """Something has changed."""
        self._publisher.want()

    def degrade(self, reasons: tuple[str, ...]) -> None:
        """The slices were set anew: what of the configuration is not in force."""
        self._publisher.change(degraded=reasons)
        self._sessions.slices_were_set()

    def spared(self) -> frozenset[ProcessIdentity]:
        """Who is vital to a session: never taken. From any thread."""
        return self._sessions.spared()

    async def close(self) -> None:
        """Leave the bus, with nothing left frozen, and every process as it was. Its threads wait for nobody."""
        self._paused.thaw_all()
        self._levels.close()
        await self._sessions.close()
        self._publisher.close()
        for task in self._tasks:
            task.cancel()
        if self._notifier is not None:
            await self._notifier.close()
        await asyncio.to_thread(self._stop_threads)  # Not behind a request that waits for the service manager.

    def _stop_threads(self) -> None:
        self._server.stop()
        self._client.stop()

    def _moment(self) -> Moment:
        return self._publisher.moment

    def _first(self) -> Moment:
        return Moment(self._side.standing, machine_reading(), time.time())

    def _look(self) -> Seen:
        """In the publisher's thread."""
        known = self._paused.all()
        slices = self._side.look()
        self._paused.forget_all_but({job.path for each in slices for job in each.jobs}, known)
        return Seen(machine_reading(), time.time(), slices, self._sessions.overviews(), self._paused.all())

    def _with_manager(self, call: Callable[[Manager], Any]) -> Any:
        if self._side.connect is None:
            raise NotSupportedError("this daemon is a dry run, and sets nothing; try without --dry-run")
        with contextlib.closing(self._side.connect()) as manager:
            return call(manager)

    async def _limits_changed(self, target: targets.Target, limits: Mapping[str, int]) -> None:
        await self._publisher.look()
        self._server.emit(ROOT, MANAGER, "LimitsChanged", target.path, dict(limits))

    async def _holds_changed(self) -> None:
        self._publisher.change(holds=self._holds.all())
        await self._side.hold(self._holds.in_force())

    def _released(self, hold: Hold) -> None:
        self._server.emit(ROOT, MANAGER, "HoldReleased", hold.cookie, destination=hold.holder)

    async def _set_property(self, call: Call, _caller: Caller) -> Answer:
        """Of LogControl1; GDBus has refused all others, which can't be written. The bus lets only our own user here."""
        interface, name, value = call.arguments
        if (interface, name) == (LOG_CONTROL, "LogLevel"):
            if value not in LOG_LEVELS:
                raise InvalidArgumentError(f"no log level '{value}'; try {' or '.join(LOG_LEVELS)}")
            logging.getLogger("slicemgr").setLevel(LOG_LEVELS[value])
            self._publisher.change(log_level=value)
        elif value != "console":
            raise InvalidArgumentError(f"no log target '{value}'; try console, which the journal reads")
        return ()

    def _connected(self) -> None:
        """To the first bus daemon, or to another one: all who called have gone with the one before."""
        if self._notifier is not None:
            self._notifier.server_is_new()
        for holder in {hold.holder for hold in self._holds.all()}:
            self._begin(self._limits.left(holder))

    def _name_changed(self, _path: str, arguments: tuple[Any, ...]) -> None:
        name, _old, new = arguments
        if not new and name.startswith(":"):
            self._begin(self._limits.left(name))

    def _begin(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _told(self, state: str) -> None:
        """In the server's thread."""
        with contextlib.suppress(RuntimeError):  # The loop has ended.
            if state:
                self._loop.call_soon_threadsafe(self._side.say, f"D-Bus: {state}; all else goes on")
