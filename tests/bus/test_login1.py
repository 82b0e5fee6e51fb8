# SPDX-License-Identifier: LGPL-2.1-or-later
"""logind's sessions, on a real bus with a logind of our own."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from slicemgr.bus import login1
from slicemgr.bus.client import BusClient
from slicemgr.bus.errors import NO_REPLY, RemoteError
from slicemgr.bus.login1 import Login1, LoginSession
from tests.bus.fake_login1 import FakeLogin1

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

    from tests.bus.private_bus import PrivateBus

SECONDS = 20.0
TWO = LoginSession("2", 1000, 4711, "session-2.scope", "x11", "user", "i3", True)


@pytest.fixture
def logind(bus: PrivateBus) -> Iterator[FakeLogin1]:
    made = FakeLogin1(bus.address)
    yield made
    made.stop()


class Desk:
    """Somebody who follows."""

    def __init__(self, bus: PrivateBus) -> None:
        self.changes = 0
        self._changed = asyncio.Event()
        self.client = BusClient(bus.address, loop=asyncio.get_running_loop(), connected=self._connected)
        self.login = Login1(self.client, self._note)
        self.login.subscribe()

    def _connected(self) -> None:
        self.login.look_again()

    def _note(self) -> None:
        self.changes += 1
        self._changed.set()

    async def until(self, is_so: Callable[[Mapping[str, LoginSession]], bool]) -> None:
        """The sessions are such."""
        async with asyncio.timeout(SECONDS):
            while not is_so(self.login.sessions):
                self._changed.clear()
                await self._changed.wait()


@contextlib.asynccontextmanager
async def following(bus: PrivateBus) -> AsyncIterator[Desk]:
    made = Desk(bus)
    made.client.start()
    task = asyncio.create_task(made.login.follow())
    try:
        yield made
    finally:
        task.cancel()
        made.client.stop()


@pytest.mark.asyncio
async def test_from_the_beginning_to_the_end(bus: PrivateBus, logind: FakeLogin1) -> None:
    """Those that are there, a new one, one that has gone."""
    logind.add("2")
    async with following(bus) as it:
        await it.until(lambda told: told == {"2": TWO})
        logind.add("c1", Class="greeter", Type="wayland", Leader=5, User=(0, "/"), Desktop="", Active=False)
        greeter = LoginSession("c1", 0, 5, "session-c1.scope", "wayland", "greeter", "", False)
        await it.until(lambda told: told == {"2": TWO, "c1": greeter})
        logind.remove("2")
        await it.until(lambda told: told == {"c1": greeter})


@pytest.mark.asyncio
@pytest.mark.parametrize("invalidate", [False, True])
async def test_what_is_in_front(bus: PrivateBus, logind: FakeLogin1, invalidate: bool) -> None:
    """Told with the value, or only that there is another one."""
    logind.add("2")
    async with following(bus) as it:
        await it.until(lambda told: told == {"2": TWO})
        logind.change("2", Active=False, invalidate=invalidate)
        await it.until(lambda told: told == {"2": replace(TWO, is_active=False)})
        logind.change("2", Active=True, invalidate=invalidate)
        await it.until(lambda told: told == {"2": TWO})
        logind.change("2", State="closing", invalidate=invalidate)
        await it.until(lambda told: told == {"2": replace(TWO, is_active=False)})


@pytest.mark.asyncio
async def test_what_does_not_concern_us_wakes_nobody(bus: PrivateBus, logind: FakeLogin1) -> None:
    """A mouse that is moved again."""
    logind.add("2")
    async with following(bus) as it:
        await it.until(lambda told: told == {"2": TWO})
        logind.change("2", IdleHint=True)
        logind.change("2", Desktop="sway")
        await it.until(lambda told: told == {"2": replace(TWO, desktop="sway")})
        assert it.changes == 2


@pytest.mark.asyncio
async def test_one_that_ends_before_it_is_read(bus: PrivateBus, logind: FakeLogin1) -> None:
    async with following(bus) as it:
        logind.add("2")
        logind.add("3")
        logind.remove("2")
        logind.add("4")
        await it.until(lambda told: set(told) == {"3", "4"})


@pytest.mark.asyncio
async def test_without_login1(bus: PrivateBus) -> None:
    """None, until there is one; and it may be restarted."""
    async with following(bus) as it:
        first = FakeLogin1(bus.address)
        first.add("2")
        await it.until(lambda told: set(told) == {"2"})
        first.stop()
        await it.until(lambda told: not told)
        second = FakeLogin1(bus.address)
        second.add("2")
        second.add("3")
        await it.until(lambda told: set(told) == {"2", "3"})
        second.stop()


@pytest.mark.asyncio
async def test_the_bus_is_restarted(bus: PrivateBus) -> None:
    async with following(bus) as it:
        first = FakeLogin1(bus.address)
        first.add("2")
        await it.until(lambda told: set(told) == {"2"})
        bus.kill()
        bus.start()
        second = FakeLogin1(bus.address)
        second.add("5")
        await it.until(lambda told: set(told) == {"5"})
        second.stop()
        first.stop()


@pytest.mark.asyncio
@pytest.mark.parametrize("late", ["ListSessions", "GetAll"])
async def test_an_answer_that_comes_too_late(
    bus: PrivateBus, logind: FakeLogin1, monkeypatch: pytest.MonkeyPatch, late: str
) -> None:
    """As from a logind that is paged out: who is known stays known, and it is asked again."""
    call, refused = BusClient.call, 0

    async def slow(self: BusClient, destination: str, path: str, interface: str, method: str, *others: Any) -> Any:
        nonlocal refused
        if method == late and refused < 2:
            refused += 1
            raise RemoteError(NO_REPLY, "Timeout was reached")
        return await call(self, destination, path, interface, method, *others)

    monkeypatch.setattr(login1, "AGAIN_SECONDS", 0.01)
    logind.add("2")
    monkeypatch.setattr(BusClient, "call", slow)
    async with following(bus) as it:
        await it.until(lambda told: told == {"2": TWO})
        assert refused == 2
        refused = 0
        it.login.look_again()
        async with asyncio.timeout(SECONDS):
            while refused < 2:
                await asyncio.sleep(0.01)
                assert it.login.sessions == {"2": TWO}
