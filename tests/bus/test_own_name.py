# SPDX-License-Identifier: LGPL-2.1-or-later
"""Our name on a real bus: refused by a policy, given later, taken away, and given back."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest
from gi.repository import Gio, GLib

from slicemgr.bus import own_name
from slicemgr.bus.client import BUS, BUS_PATH, BusClient
from slicemgr.bus.errors import RemoteError
from slicemgr.bus.objects import BUS_NAME, MANAGER, ROOT
from slicemgr.bus.own_name import OwnName
from slicemgr.bus.server import BusServer
from slicemgr.model.machine import MachineReading
from slicemgr.service.published import Moment, Standing, objects_of
from tests.bus.connected_client import connected_client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.bus.private_bus import PrivateBus

SECONDS = 20.0
TAKEN = f"{BUS_NAME} is another daemon's on this bus"
MOMENT = Moment(Standing("1", 1000, False), MachineReading(0.0, 16 << 30, 8 << 30, 0, 0, 0, 0, 0, None), 1.0)


class Daemon:
    """What is published with nothing in it, and what is told of its name."""

    def __init__(self, bus: PrivateBus) -> None:
        loop = asyncio.get_running_loop()
        self.states: asyncio.Queue[str] = asyncio.Queue()
        self.server = BusServer(
            bus.address,
            loop=loop,
            handle=self._handle,
            reads={},
            refresh=lambda: None,
            tell=lambda state: loop.call_soon_threadsafe(self.states.put_nowait, state),
        )
        self.server.publish(objects_of(MOMENT))
        self.server.start()

    async def _handle(self, _call: object) -> tuple[Any, ...]:
        raise AssertionError

    async def told(self) -> str:
        async with asyncio.timeout(SECONDS):
            return await self.states.get()

    def give_up_name(self) -> None:
        """As if somebody had replaced us: the bus tells us that it is lost."""
        bus = self.server._bus
        name = GLib.Variant("(s)", (BUS_NAME,))
        self.server._thread.do(lambda: bus.con.call(BUS, BUS_PATH, BUS, "ReleaseName", name, None, 0, 5000, None))


def forbid(bus: PrivateBus) -> None:
    """From its beginning."""
    bus.kill()
    bus.forbid(BUS_NAME)
    bus.start()


@contextlib.asynccontextmanager
async def daemon(bus: PrivateBus) -> AsyncIterator[Daemon]:
    made = Daemon(bus)
    try:
        yield made
    finally:
        made.server.stop()


async def scope(asking: BusClient) -> Any:
    arguments = (MANAGER, "Scope")
    (told,) = await asking.call(BUS_NAME, ROOT, "org.freedesktop.DBus.Properties", "Get", "(ss)", arguments)
    return told


@pytest.mark.asyncio
async def test_a_policy_that_comes_later(bus: PrivateBus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told once, asked for again and again, and ours without a restart of the bus or of the daemon."""
    refused, original, loop = asyncio.Semaphore(0), OwnName._refused, asyncio.get_running_loop()

    def counted(self: OwnName, *arguments: Any) -> None:
        original(self, *arguments)
        loop.call_soon_threadsafe(refused.release)

    monkeypatch.setattr(OwnName, "_refused", counted)
    monkeypatch.setattr(own_name, "FIRST_RETRY_SECONDS", 0.01)
    forbid(bus)
    async with connected_client(bus) as it, daemon(bus) as there, asyncio.timeout(SECONDS):
        state = await there.told()
        assert state.startswith(f"the bus does not give us the name {BUS_NAME} (")
        assert state.endswith("; try 'slicemgr install'")
        for _ in range(4):
            await refused.acquire()
        with pytest.raises(RemoteError):
            await scope(it)
        bus.forbid()
        await it.call(BUS, BUS_PATH, BUS, "ReloadConfig")
        assert await there.told() == ""
        assert await scope(it) == "user"


@pytest.mark.asyncio
async def test_a_bus_that_goes_while_we_are_refused(bus: PrivateBus, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was to be asked again of the bus before is not asked of the next one as well."""
    monkeypatch.setattr(own_name, "FIRST_RETRY_SECONDS", 0.01)
    forbid(bus)
    async with daemon(bus) as there:
        assert (await there.told()).startswith("the bus does not give us")
        bus.kill()
        assert await there.told() == "the bus is gone"
        bus.forbid()
        bus.start()
        assert await there.told() == ""


@pytest.mark.asyncio
async def test_taken_away_and_given_back(bus: PrivateBus) -> None:
    async with connected_client(bus) as it, daemon(bus) as there:
        assert await there.told() == ""
        async with daemon(bus) as second:
            assert await second.told() == TAKEN
            there.give_up_name()
            assert await there.told() == TAKEN
            assert await second.told() == ""
        assert await there.told() == ""
        assert await scope(it) == "user"


@pytest.mark.asyncio
async def test_taken_away_and_nobody_has_it(bus: PrivateBus) -> None:
    """Asked for again at once."""
    async with connected_client(bus) as it, daemon(bus) as there:
        assert await there.told() == ""
        there.give_up_name()
        assert [await there.told(), await there.told()] == [TAKEN, ""]
        assert await scope(it) == "user"


def test_how_long_it_waits() -> None:
    """Up to some seconds: looking costs a message, and the policy is installed once in a machine's life."""
    waits: list[float] = []

    class Thread:
        def do(self, call: object, after_seconds: float = 0.0) -> None:
            waits.append(after_seconds)

    told: list[str] = []
    name = OwnName(Thread(), BUS_NAME, told.append)  # type: ignore[arg-type]
    for _ in range(8):
        name._refused(None, GLib.Error.new_literal(Gio.dbus_error_quark(), "no", Gio.DBusError.ACCESS_DENIED))
    assert waits == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]
    assert len(told) == 1
