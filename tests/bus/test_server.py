# SPDX-License-Identifier: LGPL-2.1-or-later
"""The published objects, on a real bus: reads, calls that take their time, signals, and a bus that is restarted."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import threading
from typing import TYPE_CHECKING, Any

import pytest
from gi.repository import Gio, GLib

from slicemgr.bus import context
from slicemgr.bus.client import BusClient
from slicemgr.bus.errors import NotFoundError, RemoteError
from slicemgr.bus.objects import (
    BUS_NAME,
    LOG_CONTROL,
    LOG_CONTROL_PATH,
    MANAGER,
    NO_LIMIT,
    ROOT,
    SLICE,
    Objects,
    slice_object,
)
from slicemgr.bus.server import MOST_CALLS, BusServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from slicemgr.bus.call import Call
    from tests.bus.private_bus import PrivateBus

PROPERTIES = "org.freedesktop.DBus.Properties"
OBJECT_MANAGER = "org.freedesktop.DBus.ObjectManager"
BUILD = slice_object("build.slice")
SECONDS = 20.0

MANAGER_PROPERTIES: dict[str, Any] = {
    "Version": "1",
    "Scope": "user",
    "DryRun": False,
    "DegradedReasons": [],
    "PressureLevel": "none",
    "Holds": [],
    "MemoryAvailable": 5,
    "MemoryTotal": 6,
}
SLICE_PROPERTIES: dict[str, Any] = {
    "Unit": "build.slice",
    "ControlGroup": "/build.slice",
    "Kind": "build",
    "Jobs": [],
    "PressureLevel": "none",
    "MemoryHigh": NO_LIMIT,
    "MemoryMax": 1 << 30,
    "MemorySwapMax": 0,
    "MemoryCurrent": 1,
    "MemorySwapCurrent": 2,
    "Stalled": 0.5,
    "Processes": 3,
}


def objects(**changes: Any) -> Objects:
    """The root and one slice; `changes` are the slice's."""
    return {
        ROOT: {MANAGER: MANAGER_PROPERTIES},
        LOG_CONTROL_PATH: {LOG_CONTROL: {"LogLevel": "info", "LogTarget": "console", "SyslogIdentifier": "slicemgr"}},
        BUILD: {SLICE: {**SLICE_PROPERTIES, **changes}},
    }


class Desk:
    """A server and a client on one bus; what the server is asked, and what it answers."""

    def __init__(self, bus: PrivateBus) -> None:
        loop = asyncio.get_running_loop()
        self.states: asyncio.Queue[str] = asyncio.Queue()
        self.connections: asyncio.Queue[None] = asyncio.Queue()
        self.calls: list[Call] = []
        self._arrived = asyncio.Semaphore(0)
        self.refreshed = 0
        self.gate = asyncio.Event()
        self.is_stale = False
        self.server = BusServer(
            bus.address,
            loop=loop,
            handle=self._handle,
            reads={
                (MANAGER, "ListSlices"): lambda known, _: ([("build.slice", each) for each in known if each == BUILD],)
            },
            refresh=self._refresh,
            tell=lambda state: loop.call_soon_threadsafe(self.states.put_nowait, state),
        )
        self.client = BusClient(bus.address, loop=loop, connected=lambda: self.connections.put_nowait(None))

    async def _handle(self, call: Call) -> tuple[Any, ...]:
        self.calls.append(call)
        self._arrived.release()
        match call.method:
            case "Reload":
                await self.gate.wait()
                return ()
            case "Explain":
                return ({"victim": {"name": "a\udcff", "pid": 3}},)
            case "GetSlice":
                raise NotFoundError(f"no slice '{call.arguments[0]}'; try ListSlices")
            case "GetJobByPIDFd":
                return (os.readlink(f"/proc/self/fd/{call.descriptor(call.arguments[0])}"),)
            case "GetJob":
                return ("no object path",)
            case _:
                raise RuntimeError("a fault of ours")

    def _refresh(self) -> None:
        self.refreshed += 1
        if not self.is_stale:
            self.server.publish(objects(MemoryCurrent=100 + self.refreshed))

    async def up(self) -> None:
        """The server has its name."""
        async with asyncio.timeout(SECONDS):
            while await self.states.get() != "":
                pass

    async def asked_for(self, count: int) -> None:
        """So many calls more have come to the handler."""
        for _ in range(count):
            await self._arrived.acquire()

    async def call(self, method: str, signature: str = "()", *arguments: Any, **others: Any) -> Any:
        """Of the manager."""
        return await self.client.call(BUS_NAME, ROOT, MANAGER, method, signature, arguments, **others)

    async def get(self, name: str, path: str = BUILD, interface: str = SLICE) -> Any:
        """A property."""
        ((value),) = await self.client.call(BUS_NAME, path, PROPERTIES, "Get", "(ss)", (interface, name))
        return value

    def told(self, interface: str, member: str) -> asyncio.Queue[tuple[str, tuple[Any, ...]]]:
        """What the client hears of the server's."""
        heard: asyncio.Queue[tuple[str, tuple[Any, ...]]] = asyncio.Queue()
        self.client.subscribe(BUS_NAME, interface, member, lambda path, arguments: heard.put_nowait((path, arguments)))
        return heard


@contextlib.asynccontextmanager
async def desk(bus: PrivateBus) -> AsyncIterator[Desk]:
    made = Desk(bus)
    made.server.publish(objects())
    made.server.start()
    made.client.start()
    try:
        await made.up()
        async with asyncio.timeout(SECONDS):
            await made.connections.get()
        yield made
    finally:
        made.gate.set()
        made.server.stop()
        made.client.stop()


def refused(error: pytest.ExceptionInfo[RemoteError]) -> tuple[str, str]:
    return error.value.name, str(error.value)


@pytest.mark.asyncio
async def test_reads(bus: PrivateBus) -> None:
    async with desk(bus) as it:
        assert await it.get("MemoryMax") == 1 << 30
        (everything,) = await it.client.call(BUS_NAME, BUILD, PROPERTIES, "GetAll", "(s)", (SLICE,))
        assert everything == SLICE_PROPERTIES
        (tree,) = await it.client.call(BUS_NAME, ROOT, OBJECT_MANAGER, "GetManagedObjects")
        assert tree == {BUILD: {SLICE: SLICE_PROPERTIES}}
        assert await it.call("ListSlices", "(a{sv})", {}) == ([("build.slice", BUILD)],)
        assert await it.get("LogLevel", LOG_CONTROL_PATH, LOG_CONTROL) == "info"
        assert it.calls == []
        with pytest.raises(RemoteError) as error:
            await it.get("Nothing")
        assert error.value.name == "org.freedesktop.DBus.Error.InvalidArgs"


@pytest.mark.asyncio
async def test_calls_are_answered_on_the_loop(bus: PrivateBus) -> None:
    """With what the handler gives, or with its error by name."""
    async with desk(bus) as it:
        assert await it.call("Explain", "(sa{sv})", "build", {}) == (
            {"victim": {"name": "a\N{REPLACEMENT CHARACTER}", "pid": 3}},
        )
        (asked,) = it.calls
        assert (asked.method, asked.arguments, asked.path) == ("Explain", ("build", {}), ROOT)
        with pytest.raises(RemoteError) as error:
            await it.call("GetSlice", "(sa{sv})", "x", {})
        assert refused(error) == ("org.slicemgr1.Error.NotFound", "no slice 'x'; try ListSlices")
        # What GDBus itself refuses.
        with pytest.raises(RemoteError) as error:
            await it.call("Explain", "(s)", "build")
        assert error.value.name == "org.freedesktop.DBus.Error.InvalidArgs"


@pytest.mark.asyncio
async def test_a_fault_of_ours_is_an_answer_too(bus: PrivateBus, caplog: pytest.LogCaptureFixture) -> None:
    async with desk(bus) as it:
        with pytest.raises(RemoteError) as error:
            await it.call("Release", "(u)", 1)
        assert refused(error) == (
            "org.slicemgr1.Error.Failed",
            "RuntimeError: a fault of ours; try 'slicemgr status'",
        )
        assert "a fault of ours" in caplog.text
        with pytest.raises(RemoteError) as error:
            await it.call("GetJob", "(sa{sv})", "x", {})
        assert error.value.name == "org.slicemgr1.Error.Failed"


@pytest.mark.asyncio
async def test_slow_calls_delay_nobody(bus: PrivateBus) -> None:
    """Neither each other nor a read; and one client has only so many of them."""
    async with desk(bus) as it, asyncio.timeout(SECONDS):
        slow = [asyncio.create_task(it.call("Reload", "(a{sv})", {})) for _ in range(MOST_CALLS)]
        await it.asked_for(MOST_CALLS)
        with pytest.raises(RemoteError) as error:
            await it.get("MemoryMax")
        assert error.value.name == "org.slicemgr1.Error.LimitExceeded"
        other = BusClient(
            bus.address, loop=asyncio.get_running_loop(), connected=lambda: it.connections.put_nowait(None)
        )
        other.start()
        await it.connections.get()
        assert await other.call(BUS_NAME, BUILD, PROPERTIES, "Get", "(ss)", (SLICE, "MemoryMax")) == (1 << 30,)
        other.stop()
        it.gate.set()
        assert await asyncio.gather(*slow) == [()] * MOST_CALLS
        while True:  # The last of them is counted off a moment after its answer.
            with contextlib.suppress(RemoteError):
                assert await it.get("MemoryMax") == 1 << 30
                break


@pytest.mark.asyncio
async def test_who_does_not_wait_is_no_harm(bus: PrivateBus) -> None:
    async with desk(bus) as it:
        with pytest.raises(RemoteError) as error:
            await it.call("Reload", "(a{sv})", {}, seconds=0.05)
        assert error.value.name == "org.freedesktop.DBus.Error.NoReply"
        it.gate.set()
        assert await it.call("Reload", "(a{sv})", {}) == ()


@pytest.mark.asyncio
async def test_old_numbers_are_looked_up_anew(bus: PrivateBus, monkeypatch: pytest.MonkeyPatch) -> None:
    async with desk(bus) as it:
        assert (await it.get("MemoryCurrent"), it.refreshed) == (1, 0)
        monkeypatch.setattr("slicemgr.bus.server.FRESH_SECONDS", 0.0)
        assert (await it.get("MemoryCurrent"), it.refreshed) == (101, 1)


@pytest.mark.asyncio
async def test_nobody_waits_long_for_new_numbers(bus: PrivateBus, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine that stands still the old ones are better than none."""
    async with desk(bus) as it:
        it.is_stale = True
        monkeypatch.setattr("slicemgr.bus.server.FRESH_SECONDS", 0.0)
        assert (await it.get("MemoryCurrent"), it.refreshed) == (1, 1)


@pytest.mark.asyncio
async def test_changes_are_told(bus: PrivateBus) -> None:
    async with desk(bus) as it, asyncio.timeout(SECONDS):
        changed = it.told(PROPERTIES, "PropertiesChanged")
        added = it.told(OBJECT_MANAGER, "InterfacesAdded")
        removed = it.told(OBJECT_MANAGER, "InterfacesRemoved")
        warned = it.told(MANAGER, "Warning")
        await it.get("Unit")  # The subscriptions went out before this.
        it.server.publish(objects(MemoryMax=5, MemoryCurrent=6))
        assert await changed.get() == (BUILD, (SLICE, {"MemoryMax": 5}, []))
        it.server.publish({ROOT: {MANAGER: MANAGER_PROPERTIES}})
        assert await removed.get() == (ROOT, (BUILD, [SLICE]))
        with pytest.raises(RemoteError):
            await it.get("MemoryMax")
        it.server.publish(objects())
        assert await added.get() == (ROOT, (BUILD, {SLICE: SLICE_PROPERTIES}))
        it.server.emit(ROOT, MANAGER, "Warning", BUILD, {"memory-current": 7})
        assert await warned.get() == (ROOT, (BUILD, {"memory-current": 7}))
        assert changed.empty()


@pytest.mark.asyncio
async def test_a_signal_for_one(bus: PrivateBus) -> None:
    """HoldReleased is its holder's business."""
    async with desk(bus) as it, asyncio.timeout(SECONDS):
        heard = it.told(MANAGER, "HoldReleased")
        await it.call("Explain", "(sa{sv})", "build", {})
        it.server.emit(ROOT, MANAGER, "HoldReleased", 1, destination=":1.999")
        it.server.emit(ROOT, MANAGER, "HoldReleased", 2, destination=it.calls[0].sender)
        assert await heard.get() == (ROOT, (2,))


@pytest.mark.asyncio
async def test_the_bus_is_restarted(bus: PrivateBus) -> None:
    """Name, objects and subscriptions come back; what was published meanwhile is there."""
    async with desk(bus) as it, asyncio.timeout(SECONDS):
        changed = it.told(PROPERTIES, "PropertiesChanged")
        bus.kill()
        assert await it.states.get() == "the bus is gone"
        with pytest.raises(RemoteError):
            await it.get("MemoryMax")
        it.server.publish(objects(MemoryMax=7))
        bus.start()
        await it.up()
        await it.connections.get()
        assert await it.get("MemoryMax") == 7
        it.server.publish(objects(MemoryMax=8))
        assert await changed.get() == (BUILD, (SLICE, {"MemoryMax": 8}, []))


@pytest.mark.asyncio
async def test_no_bus_at_first(bus: PrivateBus) -> None:
    bus.kill()
    made = Desk(bus)
    made.server.publish(objects())
    made.server.start()
    made.client.start()
    try:
        with pytest.raises(RemoteError) as error:
            await made.get("MemoryMax")
        assert error.value.name == "org.freedesktop.DBus.Error.Disconnected"
        bus.start()
        await made.up()
        async with asyncio.timeout(SECONDS):
            await made.connections.get()
        assert await made.get("MemoryMax") == 1 << 30
    finally:
        made.server.stop()
        made.client.stop()


@pytest.mark.asyncio
async def test_the_name_is_somebody_elses(bus: PrivateBus) -> None:
    """It is said, and when they leave it is ours."""
    async with desk(bus) as it:
        second = Desk(bus)
        second.server.publish(objects(MemoryMax=9))
        second.server.start()
        async with asyncio.timeout(SECONDS):
            assert await second.states.get() == "org.slicemgr1 is another daemon's on this bus"
        assert await it.get("MemoryMax") == 1 << 30
        it.server.stop()
        assert await it.get("MemoryMax") == 9
        second.server.stop()


def call_with_descriptors(address: str, index: int, descriptors: list[int]) -> str:
    """GetJobByPIDFd, as a binding does it that knows file descriptors."""
    connection = Gio.DBusConnection.new_for_address_sync(
        address,
        Gio.DBusConnectionFlags.AUTHENTICATION_CLIENT | Gio.DBusConnectionFlags.MESSAGE_BUS_CONNECTION,
        None,
        None,
    )
    listed = Gio.UnixFDList.new()
    for each in descriptors:
        listed.append(each)
    try:
        answer, _ = connection.call_with_unix_fd_list_sync(
            BUS_NAME, ROOT, MANAGER, "GetJobByPIDFd", GLib.Variant("(ha{sv})", (index, {})), None, 0, 5000, listed, None
        )
        return str(answer.unpack()[0])
    except GLib.Error as error:
        return str(error.message)
    finally:
        connection.close_sync(None)


@pytest.mark.asyncio
async def test_file_descriptors(bus: PrivateBus) -> None:
    """They arrive, an index of none is refused, and all are closed when the call is answered."""
    async with desk(bus) as it:
        await it.get("Unit")
        open_before = len(os.listdir("/proc/self/fd"))
        told = await asyncio.to_thread(call_with_descriptors, bus.address, 0, [0])
        assert "no object path" not in told
        (call,) = it.calls
        assert len(call.descriptors) == 1
        told = await asyncio.to_thread(call_with_descriptors, bus.address, 7, [0, 1])
        assert "org.slicemgr1.Error.InvalidArgument" in told
        await it.get("Unit")
        assert len(os.listdir("/proc/self/fd")) == open_before


@pytest.mark.asyncio
async def test_what_is_published_is_what_the_file_says(bus: PrivateBus) -> None:
    """Somebody who asks reads our own XML, so the manual is the interface."""
    async with desk(bus) as it:
        (xml,) = await it.client.call(BUS_NAME, BUILD, "org.freedesktop.DBus.Introspectable", "Introspect")
        seen = {each.name: each for each in Gio.DBusNodeInfo.new_for_xml(xml).interfaces}
        (wanted,) = (each for each in it.server._table.infos.values() if each.name == SLICE)
        assert {each.name: each.signature for each in seen[SLICE].properties} == {
            each.name: each.signature for each in wanted.properties
        }
        assert {each.name for each in seen[SLICE].methods} == {each.name for each in wanted.methods}


@pytest.mark.asyncio
async def test_busctl_talks_to_it(bus: PrivateBus) -> None:
    async with desk(bus):
        done = await asyncio.to_thread(
            subprocess.run,
            ["busctl", f"--address={bus.address}", "get-property", BUS_NAME, BUILD, SLICE, "MemoryMax"],
            capture_output=True,
            text=True,
        )
        assert (done.stdout, done.returncode) == (f"t {1 << 30}\n", 0), done.stderr


@pytest.mark.asyncio
async def test_the_tree_is_packed_once(bus: PrivateBus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until there is another one."""
    packed: list[str] = []
    pack_one = BusServer._packed

    def noted(server: BusServer, path: str) -> Any:
        packed.append(path)
        return pack_one(server, path)

    monkeypatch.setattr(BusServer, "_packed", noted)
    async with desk(bus) as it:

        async def memory() -> int:
            (tree,) = await it.client.call(BUS_NAME, ROOT, OBJECT_MANAGER, "GetManagedObjects")
            return int(tree[BUILD][SLICE]["MemoryCurrent"])

        it.is_stale = True  # Nothing is published but this.
        it.server.publish(objects(MemoryCurrent=7))
        assert [await memory() for _ in range(5)] == [7] * 5
        assert packed.count(BUILD) == 1
        it.server.publish(objects(MemoryCurrent=8))
        assert await memory() == 8


@pytest.mark.asyncio
async def test_a_bus_that_says_nothing_keeps_nobody_from_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that systemd is about to start, on its socket: GLib waits for its answer, and knows no time-out."""
    monkeypatch.setattr(context, "STOP_SECONDS", 0.05)
    address = f"unix:path={tmp_path}/silent"
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(f"{tmp_path}/silent")
        silent.listen()
        client = BusClient(address, loop=asyncio.get_running_loop(), connected=lambda: None)
        client.start()
        connection, _ = await asyncio.to_thread(silent.accept)
        stopping = threading.Thread(target=client.stop, daemon=True)
        stopping.start()
        await asyncio.to_thread(stopping.join, 10)
        ended = not stopping.is_alive()
        connection.close()
    assert ended
