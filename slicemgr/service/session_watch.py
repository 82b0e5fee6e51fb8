# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a daemon does for sessions: it follows login1, finds who is vital, and keeps memory for what is in use."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from slicemgr.bus.client import BusClient
from slicemgr.bus.login1 import Login1, LoginSession
from slicemgr.config.schema import Config
from slicemgr.kernel.errors import KernelError
from slicemgr.kernel.procfs import has_children_files
from slicemgr.model.process import ProcessIdentity
from slicemgr.model.vital import VITAL_NAMES
from slicemgr.placement.backend import PlacementError
from slicemgr.placement.bus_connection import BusError
from slicemgr.placement.systemd1 import Manager
from slicemgr.policy.vital import Vital
from slicemgr.policy.working_set import Protection
from slicemgr.service.session_memory import MEASURE_SECONDS, SessionMemory
from slicemgr.service.session_registry import PERSONS, SessionRegistry
from slicemgr.service.session_vital import overview_of, session_slice, vital_of, within_share
from slicemgr.service.sessions import SESSION_SLICE, Session, SessionOverview
from slicemgr.service.vital_guard import LOOK_SECONDS, VitalGuard
from slicemgr.service.vital_ledger import VitalLedger
from slicemgr.service.worker import Worker

VITAL_SECONDS: Final = 10.0
"""A new compositor is found within that; it takes longer to be big enough for anybody to want it."""

SPACING_SECONDS: Final = 1.0
"""Between two of these looks, however often login1 has news."""

_SURVIVED: Final = (KernelError, BusError, PlacementError, OSError)


@dataclass(frozen=True, slots=True)
class SessionSide:
    """What a daemon gives."""

    user_uid: int | None
    """Whose daemon it is; None: the system's."""
    dry_run: bool
    system_bus: str
    """The address of the bus that login1 is on."""
    runtime: str
    """A directory that outlives a SIGKILL of ours, and no boot."""
    total_bytes: int
    """The machine's memory."""
    config: Callable[[], Config]
    """What holds now."""


class SessionWatch:
    """Belongs to the loop's thread, but for `overviews` and `spared`."""

    def __init__(
        self,
        side: SessionSide,
        *,
        changed: Callable[[], object],
        with_manager: Callable[[Callable[[Manager], None]], None],
        worker: Worker,
    ) -> None:
        """`changed`: there is something to show. `with_manager` calls the service manager, in `worker`'s thread."""
        self._side = side
        self._changed = changed
        self._with_manager = with_manager
        self._worker = worker
        self._own = Worker("sessions")
        self._news = asyncio.Event()
        self.registry = SessionRegistry(changed=self._has_news, lists_logins=side.user_uid is None)
        loop = asyncio.get_running_loop()
        self._client = BusClient(side.system_bus, loop=loop, connected=self._connected)
        self._login = Login1(self._client, self._follow)
        self._memory: SessionMemory | None = None
        if side.user_uid is not None:
            self._memory = SessionMemory(session_slice(side.user_uid), total_bytes=side.total_bytes)
        self._guard: VitalGuard | None = None
        self._adj = 0
        self._is_restored = False

    def start(self) -> None:
        """Raises RuntimeError if no thread is to be had."""
        self._login.subscribe()
        self._client.start()

    async def run(self) -> None:
        """For as long as the daemon lives; again after a fault."""
        self._login.look_again()
        self._news.set()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._login.follow())
            tasks.create_task(self._keep_finding())
            if self._memory is not None:
                tasks.create_task(self._keep_measuring(self._memory))

    async def close(self) -> None:
        """All processes have what they had before us. Waits for files of /proc, and for the bus thread."""
        if self._side.user_uid is None:
            await self._own.ask(self._let_go)
        self.registry.close()
        await asyncio.to_thread(self._client.stop)

    def spared(self) -> frozenset[ProcessIdentity]:
        """Whom no guard takes. From any thread."""
        return self.registry.spared()

    def overviews(self) -> tuple[SessionOverview, ...]:
        """Of all sessions. Reads files of /proc and of cgroups; from any thread."""
        working_set = None if self._memory is None else self._memory.working_set
        return tuple(overview_of(each, working_set) for each in self.registry.sessions)

    def slices_were_set(self) -> None:
        """By the configuration: what was measured is to be told anew."""
        if self._memory is not None:
            self._memory.forget_what_was_told()

    def _connected(self) -> None:
        self._login.look_again()

    def _has_news(self) -> None:
        self._news.set()
        self._changed()

    def _follow(self) -> None:
        self.registry.follow(self._logins())

    def _logins(self) -> Mapping[str, LoginSession]:
        uid = self._side.user_uid
        return {name: each for name, each in self._login.sessions.items() if uid is None or each.uid == uid}

    async def _keep_finding(self) -> None:
        due = 0.0
        while True:
            await self._wait_for_news()
            with contextlib.suppress(*_SURVIVED):
                if self._news.is_set() or time.monotonic() >= due:
                    self._news.clear()
                    due = time.monotonic() + VITAL_SECONDS
                    await self._find()
                elif self._guard is not None:
                    await self._own.ask(self._guard.look)
            await asyncio.sleep(SPACING_SECONDS)

    async def _wait_for_news(self) -> None:
        """Or for the next look; without a session there is none."""
        if not self.registry.sessions and not self._is_protecting():
            await self._news.wait()
            return
        seconds = LOOK_SECONDS - SPACING_SECONDS if self._is_protecting() else VITAL_SECONDS - SPACING_SECONDS
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._news.wait()

    async def _find(self) -> None:
        sessions, also = self.registry.sessions, self._names()
        found = await self._own.ask(lambda: {each.id: vital_of(each, also) for each in sessions})
        self.registry.learn(found)
        if self._side.user_uid is None and not self._side.dry_run:
            await self._own.ask(partial(self._protect, sessions, found))

    def _names(self) -> tuple[str, ...]:
        """What the configuration adds to the names that everybody knows."""
        spec = next((each for each in self._side.config().slices if each.unit == SESSION_SLICE), None)
        return () if spec is None else tuple(each for each in spec.protect if each not in VITAL_NAMES)

    def _protect(self, sessions: tuple[Session, ...], found: Mapping[str, Mapping[ProcessIdentity, Vital]]) -> None:
        """In our own thread."""
        if not self._is_restored:
            VitalGuard.restore(VitalLedger(self._side.runtime), total_bytes=self._side.total_bytes)
            self._is_restored = True
        adj = self._side.config().machine.vital_oom_score_adj
        if adj != self._adj and self._guard is not None:
            self._guard.close()
            self._guard = None
        self._adj = adj
        vital = within_share(sessions, {name: each.keys() for name, each in found.items()}, self._side.total_bytes)
        if self._guard is None and adj and vital and has_children_files():
            # Without those files their children would be as safe as they, for ever.
            self._guard = VitalGuard(adj, VitalLedger(self._side.runtime), total_bytes=self._side.total_bytes)
        if self._guard is not None:
            self._guard.protect(vital)

    def _is_protecting(self) -> bool:
        return self._guard is not None and bool(self._guard.protected())

    async def _keep_measuring(self, memory: SessionMemory) -> None:
        while True:
            with contextlib.suppress(*_SURVIVED):
                active = self._is_active()
                now = time.monotonic()
                wanted = await self._own.ask(
                    partial(memory.measure, self._side.config(), is_active=active, now_seconds=now)
                )
                if wanted is not None and not self._side.dry_run:
                    with _undone(memory.forget_what_was_told):
                        await self._worker.ask(partial(self._with_manager, partial(_keep, wanted=wanted)))
                    self._changed()
            await asyncio.sleep(MEASURE_SECONDS)

    def _let_go(self) -> None:
        """In our own thread, so after whatever it was at."""
        if self._guard is not None:
            self._guard.close()

    def _is_active(self) -> bool:
        """Whether the person sits in front of one; without login1 nobody says that he does not."""
        known = [each.is_active for each in self._logins().values() if each.kind in PERSONS]
        return any(known) or not known


@contextlib.contextmanager
def _undone(undo: Callable[[], object]) -> Iterator[None]:
    """If it fails: at a login the manager has much to do, and is asked again."""
    try:
        yield
    except BaseException:
        undo()
        raise


def _keep(manager: Manager, wanted: Protection) -> None:
    manager.set_unit_properties(SESSION_SLICE, {"MemoryLow": wanted.low_bytes, "MemoryMin": wanted.min_bytes})
