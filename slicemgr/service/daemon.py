# SPDX-License-Identifier: LGPL-2.1-or-later
"""`slicemgr daemon`: where everything meets. One loop, one task for each guard, and an orderly end."""

import asyncio
import contextlib
import gc
import os
import signal
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Final

from slicemgr import __version__
from slicemgr.config import ConfigError, files, schema
from slicemgr.config.schema import Config
from slicemgr.kernel import staying_alive
from slicemgr.kernel.errors import KernelError
from slicemgr.model.process import ProcessIdentity
from slicemgr.model.slice import with_inner_protection
from slicemgr.placement.systemd1 import Manager, connect
from slicemgr.service.control import ControlServer
from slicemgr.service.daemon_places import Places
from slicemgr.service.delivery import Delivery
from slicemgr.service.guardian import Guardian
from slicemgr.service.guards import Guards
from slicemgr.service.history import Chronicler, History
from slicemgr.service.holds import HoldKind, under
from slicemgr.service.overview import SYSTEM_ROOT, user_root
from slicemgr.service.published import Standing
from slicemgr.service.readiness import Readiness, watchdog_seconds
from slicemgr.service.record import Record
from slicemgr.service.rehearsal import rehearse
from slicemgr.service.report import HighReport, Report
from slicemgr.service.slices import OwnSlices, lift_high
from slicemgr.service.views import Views
from slicemgr.service.worker import Worker

if TYPE_CHECKING:
    from slicemgr.service.bus_face import BusFace

CLOSING_SECONDS: Final = 4.0
"""For the bus to be left, whatever hangs there: before systemd's 10 s are over the guardian is to lift."""

OWN_OOM_SCORE_ADJ: Final = -900
"""As systemd-oomd's: whoever frees memory must not be what the kernel frees it from."""


class Daemon:
    """The service, from its configuration to its end."""

    def __init__(
        self,
        config: Config,
        *,
        is_user: bool,
        dry_run: bool,
        environment: Mapping[str, str],
        say: Callable[[str], None],
        tell: Callable[[Record], None],
    ) -> None:
        """`say` is told one line for each thing that a person may want to know, `tell` what the guards did.

        Both may block: `tell` has a thread of its own.
        """
        self._config = config
        self._is_user = is_user
        self._environment = environment
        self._say = say
        self._tell = tell
        self._places = Places.of(is_user=is_user, environment=environment)
        self._history = History(self._places.state)
        self._chronicler = Chronicler(self._history, say)
        self._delivery = Delivery(self._deliver)
        self._dry_run = dry_run
        self._manager_calls = Worker("manager")
        self._readiness = Readiness(environment.get("NOTIFY_SOCKET"))
        self._own_words: tuple[str, ...] = ()
        self._face: BusFace | None = None
        self._hold: HoldKind | None = None
        self._throttled: tuple[str, ...] = ()
        self._frozen: frozenset[str] = frozenset()
        self._guardian_lock = threading.Lock()
        self._reading = asyncio.Lock()

    async def run(self) -> None:
        """Guard until SIGTERM or SIGINT. Raises OSError if another daemon has the socket."""
        # Before there are threads.
        self._guardian = Guardian(also=None if self._dry_run else partial(lift_high, self._connected))
        self._guards = Guards(
            self._config, self._report, self._warn, dry_run=self._dry_run, is_user=self._is_user, spared=self._spared
        )
        self._slices = OwnSlices(
            None if self._dry_run else self._connected,
            root=user_root(os.getuid()) if self._is_user else SYSTEM_ROOT,
            is_user=self._is_user,
            total_bytes=self._guards.total_bytes,
            say=self._say,
        )
        self._server = ControlServer(self._places.socket, refusal=self._guards.refusal, at_rest=self._guards.at_rest)
        try:
            await self._server.start(for_everybody=not self._is_user)
            with self._delivery:
                await self._run()
        except ExceptionGroup as group:
            raise _first_of(group) from group
        finally:
            if self._face is not None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(CLOSING_SECONDS):
                        await self._face.close()
            self._guards.close()
            await self._server.close()
            self._guardian.lift()

    async def _run(self) -> None:
        ended = asyncio.Event()
        self._loop = loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, ended.set)
        hang_up = asyncio.Event()
        loop.add_signal_handler(signal.SIGHUP, hang_up.set)
        async with asyncio.TaskGroup() as tasks:
            self._guarding = tasks
            await self._apply()
            self._stay_alive(self._guardian.pid)
            others = [tasks.create_task(self._reload_when_told(hang_up), name="reload")]
            self._face = await self._open_face()
            if self._face is not None:
                others.append(tasks.create_task(self._face.run(), name="bus"))
            await self._tell_ready()
            usec, pid = self._environment.get("WATCHDOG_USEC"), self._environment.get("WATCHDOG_PID")
            interval = watchdog_seconds(usec, pid, os.getpid())
            if interval is not None:
                others.append(tasks.create_task(self._bark(interval), name="watchdog"))
            await ended.wait()
            self._readiness.stopping("ending")
            await self._guards.at_rest()
            for task in others:
                task.cancel()
            self._guards.cancel()

    async def _apply(self, *, only_what_differs: bool = False) -> None:
        """Make the slices what the configuration says, or what of it is other than the last time; and guard them."""
        own = [
            spec
            for spec in with_inner_protection(self._config.slices)
            if self._is_user or self._guards.is_of_the_system(spec)
        ]
        specs, machine = under(self._hold, own, self._config.machine)
        opened = await self._manager_calls.ask(
            partial(self._slices.open, specs, machine, only_what_differs=only_what_differs)
        )
        self._degraded = tuple(each.why_not for each in opened if each.why_not)
        for line in self._degraded:
            self._say(line)
        self._outlived_by_guardian(throttled=tuple(each.managed.cgroup for each in opened if each.is_throttled_by_us))
        self._guards.guard([each.managed for each in opened], self._config, self._guarding)
        if self._face is not None:
            self._face.degrade(self._degraded)
            self._face.want()

    def _outlived_by_guardian(
        self, *, throttled: tuple[str, ...] | None = None, frozen: frozenset[str] | None = None
    ) -> None:
        """What it has to undo when we die. From any thread."""
        with self._guardian_lock:
            self._throttled = self._throttled if throttled is None else throttled
            self._frozen = self._frozen if frozen is None else frozen
            self._guardian.watch(self._throttled, self._frozen)

    def _connected(self) -> Manager:
        return connect(
            os.getuid() if self._is_user else 0,
            runtime_dir=self._environment.get("XDG_RUNTIME_DIR"),
            session_bus=self._environment.get("DBUS_SESSION_BUS_ADDRESS"),
        )

    async def _reload_when_told(self, hang_up: asyncio.Event) -> None:
        while True:
            await hang_up.wait()
            hang_up.clear()
            await self._read_again()

    async def _read_again(self) -> str:
        """The configuration; why the old one was kept, or nothing."""
        async with self._reading:
            self._readiness.reloading("reading the configuration")
            try:
                self._config = await self._manager_calls.ask(lambda: schema.read(files.load(self._places.config)))
            except ConfigError as error:
                self._say(f"kept the old configuration: {error.lines[0]}")
                self._readiness.ready(f"kept the old configuration: {error.lines[0]}")
                return error.lines[0]
            await self._apply()
            self._server.hang_up(lambda cgroup: self._guards.managed_of(cgroup) is None)
            self._say("read the configuration again")
            await self._tell_ready()
            return ""

    async def _under_hold(self, hold: HoldKind | None) -> None:
        async with self._reading:
            self._hold = hold
            await self._apply(only_what_differs=True)

    async def _open_face(self) -> "BusFace | None":
        """None where Python has no GLib, or there is no thread for it: all but the bus works without."""
        try:
            from slicemgr.service.bus_face import BusFace, DaemonSide
            from slicemgr.service.session_watch import SessionSide
        except ImportError as error:
            self._say(f"no D-Bus API: {error}; try installing PyGObject (python3-gi)")
            return None
        uid = os.getuid() if self._is_user else None
        views = Views(uid, lambda: self._config, total_bytes=self._guards.total_bytes, spared=self._spared)
        side = DaemonSide(
            standing=Standing(__version__, uid, self._dry_run),
            look=views.look,
            history=self._history,
            explain=views.explain,
            connect=None if self._dry_run else self._connected,
            sessions=SessionSide(
                user_uid=uid,
                dry_run=self._dry_run,
                system_bus=self._places.system_bus,
                runtime=self._places.runtime,
                total_bytes=self._guards.total_bytes,
                config=lambda: self._config,
            ),
            reload=self._read_again,
            hold=self._under_hold,
            paused_changed=lambda frozen: self._outlived_by_guardian(frozen=frozen),
            pressure=self._guards.pressure,
            say=self._say,
            wants_notices=lambda: self._config.notifications.enabled,
        )
        try:
            face = BusFace(self._places.bus, side)
            await face.start()
        except (OSError, RuntimeError) as error:
            self._say(f"no D-Bus API: {error}; try 'sysctl fs.inotify.max_user_instances', and a restart")
            return None
        face.degrade(self._degraded)
        return face

    def _spared(self) -> frozenset[ProcessIdentity]:
        return frozenset() if self._face is None else self._face.spared()

    async def _tell_ready(self) -> None:
        """Not before the guards have taken their first step: what happens after READY=1 is no old story to them."""
        await asyncio.sleep(0)
        self._readiness.ready(self._status())

    async def _bark(self, interval_seconds: float) -> None:
        while True:
            self._readiness.alive()
            await asyncio.sleep(interval_seconds)

    def _stay_alive(self, guardian_pid: int) -> None:
        """Go the way of a kill once, so that all of it is in memory; then keep it there."""
        with contextlib.suppress(KernelError, OSError):
            rehearse(self._guards.managed(), guardian_pid)
        gc.collect()
        gc.freeze()
        files_allowed = staying_alive.raise_open_files()
        adj = staying_alive.lower_oom_score_adj(OWN_OOM_SCORE_ADJ)
        lock = staying_alive.lock_memory()
        self._own_words = (lock.value, f"oom_score_adj {adj}", f"{files_allowed} files")

    def _status(self) -> str:
        return f"guarding {', '.join(self._guards.names())}; {', '.join(self._own_words)}"

    def _report(self, report: Report) -> None:
        """From a guard: queued, so that no disk and no client delays a kill."""
        self._server.publish(report)
        self._delivery(report)

    def _deliver(self, report: Report) -> None:
        """In the delivery thread."""
        record = self._guards.record_of(report)
        if self._face is not None:
            with contextlib.suppress(RuntimeError):  # The loop has ended.
                self._loop.call_soon_threadsafe(self._face.tell, record)
        self._tell(record)
        self._chronicler.add(record)

    def _warn(self, report: HighReport) -> None:
        """Of a memory.high that nobody asked for. In the loop's thread."""
        if self._face is not None:
            self._face.tell(self._guards.record_of(report), is_for_people=False)


def _first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What went wrong first, out of its task group."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
