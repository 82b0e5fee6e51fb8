# SPDX-License-Identifier: LGPL-2.1-or-later
"""`slicemgr daemon`: where everything meets. One loop, one task for each guard, and an orderly end."""

import asyncio
import contextlib
import gc
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from slicemgr.config import ConfigError, files, schema
from slicemgr.config.schema import Config
from slicemgr.kernel import procfs, staying_alive
from slicemgr.kernel.cgroupfs import cgroup_of
from slicemgr.kernel.errors import KernelError
from slicemgr.kernel.kill import ProvenProcess, RefusedError
from slicemgr.model.slice import with_inner_protection
from slicemgr.placement.systemd1 import Manager, connect
from slicemgr.policy.victim import NoVictim, choose
from slicemgr.service.control import ControlServer
from slicemgr.service.delivery import Delivery
from slicemgr.service.guardian import Guardian
from slicemgr.service.guards import Guards
from slicemgr.service.history import History
from slicemgr.service.managed import ManagedSlice
from slicemgr.service.overview import SYSTEM_ROOT, user_root
from slicemgr.service.places import control_socket, state_directory
from slicemgr.service.readiness import Readiness, watchdog_seconds
from slicemgr.service.record import Record
from slicemgr.service.report import Report
from slicemgr.service.slices import OwnSlices, lift_high
from slicemgr.service.worker import Worker

OWN_OOM_SCORE_ADJ: Final = -900
"""As systemd-oomd's: whoever frees memory must not be what the kernel frees it from."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where a daemon reads and writes."""

    socket: str
    state: str
    """The directory of the history."""
    config: tuple[Path, ...]

    @classmethod
    def of(cls, *, is_user: bool, environment: Mapping[str, str]) -> "Places":
        """By the XDG directories for a user's daemon; /run and /var/lib for the system's."""
        uid = os.getuid() if is_user else None
        config = tuple(files.directories(environment if is_user else None))
        return cls(control_socket(uid, environment), state_directory(uid, environment), config)


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
        self._history_works = True
        self._delivery = Delivery(self._deliver)
        self._dry_run = dry_run
        self._manager_calls = Worker("manager")
        self._readiness = Readiness(environment.get("NOTIFY_SOCKET"))
        self._own_words: tuple[str, ...] = ()

    async def run(self) -> None:
        """Guard until SIGTERM or SIGINT. Raises OSError if another daemon has the socket."""
        # Before there are threads.
        guardian = Guardian(also=None if self._dry_run else partial(lift_high, self._connected))
        self._guards = Guards(self._config, self._report, dry_run=self._dry_run, is_user=self._is_user)
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
                await self._run(guardian)
        except ExceptionGroup as group:
            raise _first_of(group) from group
        finally:
            self._guards.close()
            await self._server.close()
            guardian.lift()

    async def _run(self, guardian: Guardian) -> None:
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, ended.set)
        hang_up = asyncio.Event()
        loop.add_signal_handler(signal.SIGHUP, hang_up.set)
        async with asyncio.TaskGroup() as tasks:
            await self._apply(guardian, tasks)
            self._stay_alive(guardian.pid)
            await self._tell_ready()
            others = [tasks.create_task(self._reload_when_told(hang_up, guardian, tasks), name="reload")]
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

    async def _apply(self, guardian: Guardian, tasks: asyncio.TaskGroup) -> None:
        """Make the slices what the configuration says, and guard them."""
        specs = [
            spec
            for spec in with_inner_protection(self._config.slices)
            if self._is_user or self._guards.is_of_the_system(spec)
        ]
        opened = await self._manager_calls.ask(partial(self._slices.open, specs, self._config.machine))
        for each in opened:
            if each.why_not:
                self._say(each.why_not)
        guardian.watch([each.managed.cgroup for each in opened if each.is_throttled_by_us])
        self._guards.guard([each.managed for each in opened], self._config, tasks)

    def _connected(self) -> Manager:
        return connect(
            os.getuid() if self._is_user else 0,
            runtime_dir=self._environment.get("XDG_RUNTIME_DIR"),
            session_bus=self._environment.get("DBUS_SESSION_BUS_ADDRESS"),
        )

    async def _reload_when_told(self, hang_up: asyncio.Event, guardian: Guardian, tasks: asyncio.TaskGroup) -> None:
        while True:
            await hang_up.wait()
            hang_up.clear()
            self._readiness.reloading("reading the configuration")
            try:
                self._config = await self._manager_calls.ask(lambda: schema.read(files.load(self._places.config)))
            except ConfigError as error:
                self._say(f"kept the old configuration: {error.lines[0]}")
                self._readiness.ready(f"kept the old configuration: {error.lines[0]}")
                continue
            await self._apply(guardian, tasks)
            self._server.hang_up(lambda cgroup: self._guards.managed_of(cgroup) is None)
            self._say("read the configuration again")
            await self._tell_ready()

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
        record = Record(report, time.time(), *self._guards.names_of(report))
        self._tell(record)
        try:
            self._history.append(record)
            self._history_works = True
        except OSError as error:
            if self._history_works:
                self._say(f"can't write the history in {self._places.state}: {error.strerror}; try 'df' on it")
            self._history_works = False


def rehearse(slices: list[ManagedSlice], pid: int) -> None:
    """The way of a kill with signal 0 for its end (ProvenProcess sends it): modules, tables and files are warm then.

    On a child of our own. Raises KernelError, OSError.
    """
    managed = slices[0] if slices else ManagedSlice("")
    table = procfs.snapshot([pid])
    # It has a keeper's name, and would be spared.
    choice = choose(table, replace(managed.scale(table, 1 << 30, frozenset()), keepers=frozenset()))
    if isinstance(choice, NoVictim):
        return
    with contextlib.suppress(RefusedError), ProvenProcess(choice.victim.process.identity, cgroup_of(pid)):
        return


def _first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What went wrong first, out of its task group."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
