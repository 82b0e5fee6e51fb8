# SPDX-License-Identifier: LGPL-2.1-or-later
"""A whole daemon on a private bus: what it shows, what it refuses, and that its guards need none of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from slicemgr.bus.errors import RemoteError
from slicemgr.bus.objects import BUS_NAME, LOG_CONTROL, LOG_CONTROL_PATH, MANAGER, ROOT, SLICE, slice_object
from tests.bus.connected_client import connected_client
from tests.service.test_daemon import SECONDS, Machine, Running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from slicemgr.bus.client import BusClient
    from tests.bus.private_bus import PrivateBus

PROPERTIES = "org.freedesktop.DBus.Properties"
BUILD = slice_object("build.slice")
JOB = "slicemgr-make-1.scope"


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    (tmp_path / "machine").mkdir()
    made = Machine(tmp_path / "machine")
    (made.mount / "cgroup.controllers").write_text("memory\n")
    yield made
    made.ear.close()


class Caller:
    """A client of the daemon's."""

    def __init__(self, client: BusClient) -> None:
        self.client = client

    async def call(
        self, method: str, signature: str, *arguments: Any, path: str = ROOT, interface: str = MANAGER
    ) -> Any:
        return await self.client.call(BUS_NAME, path, interface, method, signature, arguments)

    async def get(self, name: str, path: str = ROOT, interface: str = MANAGER) -> Any:
        ((value),) = await self.client.call(BUS_NAME, path, PROPERTIES, "Get", "(ss)", (interface, name))
        return value

    def hears(self, member: str) -> asyncio.Queue[tuple[Any, ...]]:
        heard: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()
        self.client.subscribe(BUS_NAME, MANAGER, member, lambda _, arguments: heard.put_nowait(arguments))
        return heard

    async def until_there(self) -> None:
        """The daemon has its name."""
        owned = asyncio.Event()
        self.client.subscribe(
            "org.freedesktop.DBus", "org.freedesktop.DBus", "NameOwnerChanged",
            lambda _, arguments: owned.set() if arguments[0] == BUS_NAME and arguments[2] else None,
        )  # fmt: skip
        with contextlib.suppress(RemoteError):
            await self.get("Version")
            return
        async with asyncio.timeout(SECONDS):
            await owned.wait()


@contextlib.asynccontextmanager
async def caller(bus: PrivateBus) -> AsyncIterator[Caller]:
    async with connected_client(bus) as client:
        yield Caller(client)


@contextlib.asynccontextmanager
async def on_bus(
    bus: PrivateBus, machine: Machine, *, watching: str = "plain"
) -> AsyncIterator[tuple[Caller, Running]]:
    with Running(machine, watching=watching, DBUS_SESSION_BUS_ADDRESS=bus.address) as daemon:
        await asyncio.to_thread(daemon.ready)
        async with caller(bus) as it:
            await it.until_there()
            yield it, daemon


def make_job(machine: Machine, pid: int = 0) -> None:
    """As `slicemgr run` does."""
    machine.make(f"build.slice/{JOB}")
    (machine.mount / f"user/build.slice/{JOB}/cgroup.procs").write_text(f"{pid}\n" if pid else "")


@pytest.mark.asyncio
async def test_what_it_shows(bus: PrivateBus, machine: Machine) -> None:
    async with on_bus(bus, machine) as (it, daemon):
        assert await it.get("Scope") == "user"
        assert await it.get("DryRun") is False
        assert await it.get("DegradedReasons") == []
        assert await it.get("PressureLevel") == "none"
        assert 0 < await it.get("MemoryAvailable") <= await it.get("MemoryTotal")
        (slices,) = await it.call("ListSlices", "(a{sv})", {})
        assert slices == [(f"{name}.slice", slice_object(f"{name}.slice")) for name in ("build", "app", "session")]
        assert await it.get("ControlGroup", BUILD, SLICE) == "/user/build.slice"
        assert await it.get("MemoryCurrent", BUILD, SLICE) == 5
        assert await it.get("LogLevel", LOG_CONTROL_PATH, LOG_CONTROL) == "info"
        assert await it.call("GetSlice", "(sa{sv})", "build", {}) == (BUILD,)
        returned, _, wrong = await asyncio.to_thread(daemon.end)
        assert (returned, wrong) == (0, "")


@pytest.mark.asyncio
async def test_a_job_comes_and_goes(bus: PrivateBus, machine: Machine) -> None:
    """Told by the directory of its slice; nobody has to ask."""
    async with on_bus(bus, machine) as (it, _), asyncio.timeout(SECONDS):
        added, removed = it.hears("JobAdded"), it.hears("JobRemoved")
        assert await it.call("ListJobs", "(a{sv})", {}) == ([],)
        make_job(machine, os.getpid())
        unit, path = await added.get()
        assert unit == JOB
        assert await it.get("Leader", path, "org.slicemgr1.Job") == 0  # By its name pid 1 was, and it is not in there.
        assert await it.get("Slice", path, "org.slicemgr1.Job") == BUILD
        assert await it.call("GetJob", "(sa{sv})", "make", {}) == (path,)
        assert (await it.get("Jobs", BUILD, SLICE)) == [path]
        directory = machine.mount / f"user/build.slice/{JOB}"
        for file in directory.iterdir():
            file.unlink()
        directory.rmdir()
        assert await removed.get() == (JOB, path)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("method", "signature", "arguments", "name", "words"),
    [
        ("GetSlice", "(sa{sv})", ("bild", {}), "NotFound", "no slice 'bild'; try 'build'"),
        ("GetJob", "(sa{sv})", ("x", {}), "NotFound", "no job 'x'; try ListJobs"),
        ("GetSession", "(sa{sv})", ("c1", {}), "NotFound", "no session 'c1'; try ListSessions"),
        ("ListSlices", "(a{sv})", ({"a": 1},), "InvalidArgument", "no option 'a'; try no options"),
        ("Explain", "(sa{sv})", ("x", {}), "NotFound", "no job 'x'; try ListJobs"),
        ("Explain", "(sa{sv})", ("9" * 30, {}), "NotFound", f"no process {'9' * 30}; try a smaller number"),
        ("SetLimits", "(sa{sv}a{sv})", ("build", {}, {}), "InvalidArgument", "no limits are given; try MemoryMax"),
        ("Hold", "(sssa{sv})", ("x", "y", "z", {}), "InvalidArgument", "nothing is called 'x'; try builds-yield or builds-grow"),
        ("Release", "(u)", (7,), "NotFound", "no hold 7; try the property Holds"),
        ("ListActions", "(tua{sv})", (0, 1001, {}), "InvalidArgument", "at most 1000 actions in one answer; try a later time"),
    ],
)  # fmt: skip
async def test_what_cant_be_meant(
    bus: PrivateBus, machine: Machine, method: str, signature: str, arguments: Any, name: str, words: str
) -> None:
    async with on_bus(bus, machine) as (it, _):
        with pytest.raises(RemoteError) as error:
            await it.call(method, signature, *arguments)
        assert (error.value.name, str(error.value)) == (f"org.slicemgr1.Error.{name}", words)


@pytest.mark.asyncio
async def test_a_hold_ends_with_its_holder(bus: PrivateBus, machine: Machine) -> None:
    """Or by its release; it is shown with who asked, and why."""
    async with on_bus(bus, machine) as (it, _), asyncio.timeout(SECONDS):
        released = it.hears("HoldReleased")
        changed: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        it.client.subscribe(
            BUS_NAME, PROPERTIES, "PropertiesChanged", lambda _, arguments: changed.put_nowait(arguments[1]), path=ROOT
        )
        (cookie,) = await it.call("Hold", "(sssa{sv})", "builds-yield", "Presenting", "org.example.Slides", {})
        assert await it.get("Holds") == [
            {"cookie": cookie, "what": "builds-yield", "reason": "Presenting", "application-id": "org.example.Slides"}
        ]
        assert await it.call("Release", "(u)", cookie) == ()
        assert await released.get() == (cookie,)
        assert await it.get("Holds") == []
        async with caller(bus) as other:
            (second,) = await other.call("Hold", "(sssa{sv})", "builds-grow", "Away", "", {})
            with pytest.raises(RemoteError, match=f"hold {second} is another caller's; try"):
                await it.call("Release", "(u)", second)
            assert len(await it.get("Holds")) == 1
            while not changed.empty():
                changed.get_nowait()
        # It has left: that is known a moment later, and told.
        while (holds := (await changed.get()).get("Holds")) != []:
            pass
        assert holds == await it.get("Holds") == []


@pytest.mark.asyncio
async def test_reload(bus: PrivateBus, machine: Machine) -> None:
    """A broken configuration is the caller's answer."""
    async with on_bus(bus, machine) as (it, _):
        machine.configure("[slice.build]\nmemory_mx = 1\n")
        with pytest.raises(RemoteError) as error:
            await it.call("Reload", "(a{sv})", {})
        assert error.value.name == "org.slicemgr1.Error.Failed"
        assert str(error.value).startswith("kept the old configuration: ")
        assert "memory_max" in str(error.value)
        machine.configure("")
        assert await it.call("Reload", "(a{sv})", {}) == ()


@pytest.mark.asyncio
async def test_the_log_level(bus: PrivateBus, machine: Machine) -> None:
    """`systemctl service-log-level`."""
    async with on_bus(bus, machine) as (it, _):

        def set_level(value: str) -> Any:
            return it.call("Set", "(ssv)", LOG_CONTROL, "LogLevel", value, path=LOG_CONTROL_PATH, interface=PROPERTIES)

        assert await set_level("debug") == ()
        assert await it.get("LogLevel", LOG_CONTROL_PATH, LOG_CONTROL) == "debug"
        with pytest.raises(RemoteError, match="no log level 'loud'; try emerg or"):
            await set_level("loud")


@pytest.mark.asyncio
async def test_a_dry_run_sets_nothing(bus: PrivateBus, machine: Machine) -> None:
    async with on_bus(bus, machine, watching="dry run") as (it, _):
        assert await it.get("DryRun") is True
        with pytest.raises(RemoteError) as error:
            await it.call("SetLimits", "(sa{sv}a{sv})", "build", {"MemoryMax": 1 << 30}, {})
        assert error.value.name == "org.slicemgr1.Error.NotSupported"
        assert "dry run" in str(error.value)


@pytest.mark.asyncio
async def test_the_bus_goes_and_the_guard_stays(bus: PrivateBus, machine: Machine) -> None:
    async with on_bus(bus, machine) as (_, daemon):
        bus.kill()
        answer = await asyncio.to_thread(machine.ask, b"watch /user/build.slice/x.scope\n")
        assert answer == b"ok\n"
        bus.start()
        async with caller(bus) as again:
            await again.until_there()
            assert await again.get("Scope") == "user"
        returned, said, wrong = await asyncio.to_thread(daemon.end)
        assert (returned, wrong) == (0, "")
        assert "D-Bus: the bus is gone; all else goes on" in said.splitlines()


@pytest.mark.asyncio
async def test_a_thousand_calls_by_twenty_clients(bus: PrivateBus, machine: Machine) -> None:
    """Each is answered, and the daemon's socket answers meanwhile."""
    make_job(machine, os.getpid())
    async with on_bus(bus, machine) as (it, _), contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(caller(bus)) for _ in range(20)]
        calls = [
            each.get("MemoryCurrent", BUILD, SLICE) if at % 2 else each.call("ListJobs", "(a{sv})", {})
            for at in range(50)
            for each in clients
        ]
        asked = asyncio.to_thread(machine.ask, b"watch /user/build.slice/x.scope\n")
        *answers, answer = await asyncio.gather(*calls, asked)
        assert answer == b"ok\n"
        assert len(answers) == 1000
        assert all(each == 5 or len(each[0]) == 1 for each in answers)
        assert await it.get("Scope") == "user"


def test_shell_tools_read_it(bus: PrivateBus, machine: Machine) -> None:
    """busctl, which knows nothing of us but what we say of ourselves."""
    with Running(machine, DBUS_SESSION_BUS_ADDRESS=bus.address) as daemon:
        daemon.ready()
        command = ["busctl", f"--address={bus.address}", "--json=short", "get-property", BUS_NAME, BUILD, SLICE, "Kind"]
        deadline = time.monotonic() + SECONDS
        while (done := subprocess.run(command, capture_output=True, text=True)).returncode != 0:
            assert time.monotonic() < deadline, done.stderr
        assert json.loads(done.stdout) == {"type": "s", "data": "build"}
        assert daemon.end(signal.SIGTERM)[0] == 0
