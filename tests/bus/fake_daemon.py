# SPDX-License-Identifier: LGPL-2.1-or-later
"""A daemon that is published and nothing else: hand-made objects on a real bus, and answers as a test wants them."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from slicemgr.bus.errors import NotSupportedError
from slicemgr.bus.objects import MANAGER, ROOT
from slicemgr.bus.server import BusServer
from slicemgr.model.machine import MachineReading
from slicemgr.model.slice import SliceKind
from slicemgr.service.overview import JobOverview, SliceOverview, Usage
from slicemgr.service.published import Moment, Standing, objects_of
from slicemgr.service.read_requests import reads

if TYPE_CHECKING:
    from collections.abc import Callable

    from slicemgr.bus.call import Call
    from tests.bus.private_bus import PrivateBus

MIB = 1 << 20
SECONDS = 20.0
USER_ROOT = "/user.slice/user-1000.slice/user@1000.service"
BUILD = f"{USER_ROOT}/build.slice"
KATE_UNIT = "slicemgr-kate-7.scope"
KATE = f"{BUILD}/{KATE_UNIT}"


def usage(high: int | None = None, highest: int | None = None) -> Usage:
    """With these limits."""
    return Usage(
        current_bytes=5 * MIB,
        swap_bytes=0,
        high_bytes=high,
        max_bytes=highest,
        swap_max_bytes=None,
        stalled_percent=0.0,
        members=1,
    )


def moment(user_uid: int | None = 1000, *, dry_run: bool = False, **fields: Any) -> Moment:
    """A user's build.slice of 2 GiB with a job of 1 GiB; the daemon is that user's, or the system's."""
    job = JobOverview(KATE_UNIT, KATE, "kate", usage(960 * MIB, 1024 * MIB), 7, ("make",), 1.0)
    build = SliceOverview("build.slice", BUILD, SliceKind.BUILD, usage(1920 * MIB, 2048 * MIB), (job,))
    app = SliceOverview("app.slice", f"{USER_ROOT}/app.slice", SliceKind.APP, usage(), ())
    return Moment(
        standing=Standing("1.2", user_uid, dry_run),
        machine=MachineReading(0.0, 16 << 30, 8 << 30, 0, 0, 0, 0, 0, None),
        wall_seconds=1_000_000.0,
        **{"slices": (build, app), **fields},
    )


class FakeDaemon:
    """In threads of its own. What it is asked, and what it answers."""

    def __init__(self, bus: PrivateBus, shown: Moment | None = None) -> None:
        self._moment = moment() if shown is None else shown
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fake-daemon", daemon=True)
        self._has_name = threading.Event()
        self._ended = threading.Event()
        self.calls: list[Call] = []
        self.answers: dict[str, Callable[[Call], tuple[Any, ...]]] = {}
        """By the method; all others are refused."""
        self.server = BusServer(
            bus.address,
            loop=self._loop,
            handle=self._handle,
            reads=reads(lambda: self._moment),
            refresh=self.show,
            tell=lambda state: self._has_name.set() if state == "" else None,
        )

    async def _handle(self, call: Call) -> tuple[Any, ...]:
        self.calls.append(call)
        if call.method not in self.answers:
            raise NotSupportedError(f"no {call.method} today; try tomorrow")
        return self.answers[call.method](call)

    def show(self, **fields: Any) -> None:
        """Another moment."""
        self._moment = replace(self._moment, **fields)
        self.server.publish(objects_of(self._moment))

    def emit(self, name: str, *arguments: Any, destination: str | None = None) -> None:
        """A signal of the manager's."""
        self.server.emit(ROOT, MANAGER, name, *arguments, destination=destination)

    def stand_still(self, call: Call) -> tuple[Any, ...]:
        """An answer that does not come before the end."""
        self._ended.wait(SECONDS)
        return ()

    def __enter__(self) -> Self:
        self._thread.start()
        self.show()
        self.server.start()
        assert self._has_name.wait(SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.server.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
