# SPDX-License-Identifier: LGPL-2.1-or-later
"""Sessions on a real bus: a daemon's face with a logind of our own, real leaders, and a service manager that notes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import threading
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from slicemgr.bus.client import BusClient
from slicemgr.bus.control import Control
from slicemgr.bus.errors import NO_BUS, NO_OWNER, RemoteError
from slicemgr.bus.objects import BUS_NAME, MANAGER, ROOT, SESSION, session_object
from slicemgr.config.schema import DEFAULT_MACHINE, DEFAULTS, Config
from slicemgr.kernel import procfs
from slicemgr.kernel.oom_adj import adjust
from slicemgr.placement import systemd
from slicemgr.placement.bus_connection import ManagerError
from slicemgr.policy.working_set import SessionSample
from slicemgr.service import adoption, session_requests, session_watch
from slicemgr.service.bus_face import BusFace
from slicemgr.service.session_memory import SessionMemory
from slicemgr.service.session_vital import session_slice, vital_of
from slicemgr.service.session_watch import SessionSide
from tests.bus.daemon_side import daemon_side
from tests.bus.fake_login1 import FakeLogin1
from tests.service.fake_cgroups import FakeCgroups, Family

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from tests.bus.private_bus import PrivateBus

SECONDS = 20.0
PROPERTIES = "org.freedesktop.DBus.Properties"
OURS, FORMER = 137, 300
UID = os.getuid()
ADJUSTED = Config(tuple(DEFAULTS.values()), replace(DEFAULT_MACHINE, vital_oom_score_adj=OURS))


class Manager:
    """Moves nobody."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.refuses = False

    def start_transient_unit(self, unit: str, properties: dict[str, Any]) -> tuple[str, ...]:
        if self.refuses:
            raise ManagerError("org.freedesktop.systemd1.UnitExists", "it is there")
        self.calls.append((unit, properties))
        return ()

    def set_unit_properties(self, unit: str, properties: dict[str, Any]) -> None:
        self.calls.append((unit, properties))

    def close(self) -> None:
        pass


class Desk:
    """The face of a daemon, and somebody who asks."""

    def __init__(self, bus: PrivateBus, folder: Path, *, user_uid: int | None, dry_run: bool) -> None:
        self.manager = Manager()
        self.states: list[str] = []
        self.address = bus.address
        self.config = ADJUSTED
        side = daemon_side(
            bus.address, folder, user_uid=user_uid, dry_run=dry_run,
            connect=None if dry_run else lambda: self.manager,
            sessions=SessionSide(user_uid, dry_run, bus.address, str(folder), 1 << 40, lambda: self.config),
            say=self.states.append,
        )  # fmt: skip
        self.face = BusFace(bus.address, side)
        self._connected = asyncio.Event()
        self.client = BusClient(bus.address, loop=asyncio.get_running_loop(), connected=self._connected.set)
        self.told: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        for name in ("SessionAdded", "SessionRemoved"):
            self.client.subscribe(BUS_NAME, MANAGER, name, partial(self._hear, name))
        self.client.subscribe(BUS_NAME, PROPERTIES, "PropertiesChanged", self._property, arg0=SESSION)

    def _hear(self, name: str, _path: str, arguments: tuple[Any, ...]) -> None:
        self.told.put_nowait((name, arguments))

    def _property(self, path: str, arguments: tuple[Any, ...]) -> None:
        self.told.put_nowait((path, arguments[1]))

    async def up(self) -> None:
        async with asyncio.timeout(SECONDS):
            await self._connected.wait()
            while True:
                with contextlib.suppress(RemoteError):
                    await self.client.call(BUS_NAME, ROOT, PROPERTIES, "Get", "(ss)", (MANAGER, "Version"))
                    return

    async def heard(self, name: str) -> Any:
        """The next of these, whatever else is told."""
        async with asyncio.timeout(SECONDS):
            while True:
                told, arguments = await self.told.get()
                if told == name:
                    return arguments

    async def heard_of(self, session: str, name: str) -> Any:
        """The next value of a property."""
        while True:
            changed = await self.heard(session_object(session))
            if name in changed:
                return changed[name]

    async def register(self, pidfd: int, **options: Any) -> str:
        return await asyncio.to_thread(partial(register, self.address, pidfd, options))

    async def get(self, session: str) -> dict[str, Any]:
        (told,) = await self.client.call(BUS_NAME, session_object(session), PROPERTIES, "GetAll", "(s)", (SESSION,))
        return dict(told)

    async def list(self) -> list[str]:
        (rows,) = await self.client.call(BUS_NAME, ROOT, MANAGER, "ListSessions", "(a{sv})", ({},))
        return [row[0] for row in rows]


def register(address: str, pidfd: int, options: dict[str, Any], *, may_start: bool = False) -> str:
    with Control.connect(address, SECONDS) as daemon:
        return daemon.register_session(pidfd, options, may_start=may_start)


def unregister(address: str, identifier: str) -> None:
    with Control.connect(address, SECONDS) as daemon:
        daemon.unregister_session(identifier)


@contextlib.asynccontextmanager
async def desk(
    bus: PrivateBus, folder: Path, *, user_uid: int | None = UID, dry_run: bool = False
) -> AsyncIterator[Desk]:
    made = Desk(bus, folder, user_uid=user_uid, dry_run=dry_run)
    await made.face.start()
    made.client.start()
    task = asyncio.create_task(made.face.run())
    try:
        await made.up()
        yield made
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await made.face.close()
        made.client.stop()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Whoever was put somewhere is there: the cgroup, if there is one."""
    places: list[str] = []
    monkeypatch.setattr(systemd, "cgroup_of", lambda _: places[-1])
    monkeypatch.setattr(adoption, "cgroup_of", lambda _: places[-1] if places else "/nowhere")
    return places


class Leader:
    def __init__(self, stack: ExitStack, **arguments: Any) -> None:
        self._process = stack.enter_context(
            subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, **arguments)
        )
        stack.callback(self.end)
        self.pid = self._process.pid
        self.pidfd = os.pidfd_open(self.pid)
        stack.callback(os.close, self.pidfd)

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


@pytest.mark.asyncio
async def test_a_session_from_its_beginning_to_its_end(
    bus: PrivateBus, tmp_path: Path, stack: ExitStack, moved: list[str]
) -> None:
    """Put into session.slice, shown, told of; gone with its leader."""
    moved.append(f"{session_slice(UID)}/slicemgr_session-2.scope")
    async with desk(bus, tmp_path) as it:
        leader = Leader(stack)
        assert await it.register(leader.pidfd, id="2", desktop="i3", type="x11") == session_object("2")
        assert await it.heard("SessionAdded") == ("2", session_object("2"))
        ((unit, properties),) = it.manager.calls
        assert unit == "slicemgr_session-2.scope"
        assert (properties["Slice"], properties["PIDs"], properties["OOMPolicy"]) == (
            "session.slice", [leader.pid], "continue",
        )  # fmt: skip
        told = await it.get("2")
        del told["Protected"]  # Not looked for yet, or whoever else is in the cgroup that this test runs in.
        assert told == {
            "Id": "2",
            "User": UID,
            "Leader": leader.pid,
            "Type": "x11",
            "Desktop": "i3",
            "Active": True,
            "ControlGroup": moved[0],
            "WorkingSet": 0,
            "MemoryLow": 0,
            "MemoryMin": 0,
        }
        assert await it.list() == ["2"]
        # Told again, by another hook: it is there already, and stays where it is.
        assert await it.register(leader.pidfd, id="2", place=False) == session_object("2")
        assert len(it.manager.calls) == 1
        leader.end()
        assert await it.heard("SessionRemoved") == ("2", session_object("2"))
        assert await it.list() == []


@pytest.mark.asyncio
async def test_who_is_protected(bus: PrivateBus, tmp_path: Path, stack: ExitStack) -> None:
    """By pidfd, only of one's own; until it is told of no more."""
    async with desk(bus, tmp_path) as it:
        leader, shell = Leader(stack), Leader(stack)
        await it.register(leader.pidfd, id="2", place=False)
        path = session_object("2")
        call = partial(call_with_descriptors, it.address, path, "Protect", "(aha{sv})")
        assert await asyncio.to_thread(call, ([0], {}), [shell.pidfd]) == ""
        assert (shell.pid, "cat") in (await it.get("2"))["Protected"]
        assert procfs.identity_of(shell.pid) in it.face.spared()
        told = await asyncio.to_thread(call, ([1], {}), [shell.pidfd])
        assert "org.slicemgr1.Error.InvalidArgument" in told
        told = await asyncio.to_thread(call, ([0], {}), [somebody_elses(stack)])
        assert "can't protect processes of session 2: process " in told
        await asyncio.to_thread(unregister, it.address, "2")
        assert it.face.spared() == frozenset()
        assert await it.list() == []
        with pytest.raises(RemoteError):
            unregister(it.address, "2")


def somebody_elses(stack: ExitStack) -> int:
    """A pidfd."""
    if UID:
        found = os.pidfd_open(1)
        stack.callback(os.close, found)
        return found
    return Leader(stack, user=65534).pidfd


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"id": "a\nb"}, "InvalidArgument"),
        ({"name": "x"}, "InvalidArgument"),
        ({"place": "yes"}, "InvalidArgument"),
    ],
)
async def test_what_is_refused(
    bus: PrivateBus, tmp_path: Path, stack: ExitStack, options: dict[str, Any], name: str
) -> None:
    async with desk(bus, tmp_path) as it:
        with pytest.raises(RemoteError) as error:
            await it.register(Leader(stack).pidfd, **options)
        assert error.value.name == f"org.slicemgr1.Error.{name}"
        assert await it.list() == []


@pytest.mark.asyncio
async def test_somebody_elses_leader_is_refused(bus: PrivateBus, tmp_path: Path, stack: ExitStack) -> None:
    async with desk(bus, tmp_path) as it:
        with pytest.raises(RemoteError) as error:
            await it.register(somebody_elses(stack), id="2")
        assert error.value.name == "org.slicemgr1.Error.Denied"
        assert f"it is not user {UID}'s in every respect; try" in str(error.value)


@pytest.mark.asyncio
async def test_a_session_that_cant_be_put_anywhere_is_not_known(
    bus: PrivateBus, tmp_path: Path, stack: ExitStack
) -> None:
    """Half a registration would be none that anybody could tell from a whole one."""
    async with desk(bus, tmp_path) as it:
        it.manager.refuses = True
        with pytest.raises(RemoteError, match="systemd says: it is there"):
            await it.register(Leader(stack).pidfd, id="2")
        assert await it.list() == []


@pytest.mark.asyncio
async def test_what_systemd_runs_stays_where_it_is(
    bus: PrivateBus, tmp_path: Path, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GNOME and Plasma have a layout of their own."""
    monkeypatch.setattr(session_requests, "user_root", lambda _: "/")
    async with desk(bus, tmp_path) as it:
        await it.register(Leader(stack).pidfd, id="2")
        assert (await it.list(), it.manager.calls) == (["2"], [])


@pytest.mark.asyncio
async def test_a_dry_run_places_nobody(bus: PrivateBus, tmp_path: Path, stack: ExitStack) -> None:
    async with desk(bus, tmp_path, dry_run=True) as it:
        with pytest.raises(RemoteError) as error:
            await it.register(Leader(stack).pidfd, id="2")
        assert error.value.name == "org.slicemgr1.Error.NotSupported"
        await it.register(Leader(stack).pidfd, id="2", place=False)
        assert await it.list() == ["2"]


@pytest.mark.asyncio
async def test_login1_says_what_is_in_front(bus: PrivateBus, tmp_path: Path, stack: ExitStack) -> None:
    """To the user's daemon too."""
    logind = FakeLogin1(bus.address)
    stack.callback(logind.stop)
    logind.add("2", User=(UID, "/"), Type="wayland", Desktop="sway")
    async with desk(bus, tmp_path) as it:
        leader = Leader(stack)
        await it.register(leader.pidfd, id="2", place=False)
        assert await it.heard("SessionAdded") == ("2", session_object("2"))
        logind.change("2", Active=False)
        assert await it.heard_of("2", "Active") is False
        assert (await it.get("2"))["Type"] == "wayland"
        logind.change("2", Active=True)
        assert await it.heard_of("2", "Active") is True


@pytest.mark.asyncio
async def test_the_systems_daemon_follows_login1(
    bus: PrivateBus, tmp_path: Path, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It finds who is vital, gives them another oom_score_adj, and what they start what they had; and all back."""
    monkeypatch.setattr(session_watch, "SPACING_SECONDS", 0.01)
    monkeypatch.setattr(session_watch, "LOOK_SECONDS", 0.02)
    cgroups = FakeCgroups(tmp_path / "cgroup")
    monkeypatch.setattr(session_watch, "vital_of", partial(vital_of, mount=cgroups.mount))
    desktop = Family(stack, 0, name="sway")
    (app,) = desktop.children
    for pid in (app, desktop.pid):
        adjust(procfs.identity_of(pid), FORMER)
    cgroups.add("/user.slice/user-1000.slice/session-2.scope", pids=list(desktop))
    logind = FakeLogin1(bus.address)
    stack.callback(logind.stop)
    async with desk(bus, tmp_path, user_uid=None) as it:
        logind.add("2", Leader=desktop.pid, Type="wayland")
        assert await it.heard("SessionAdded") == ("2", session_object("2"))
        async with asyncio.timeout(SECONDS):
            while (await it.get("2"))["Protected"] != [(desktop.pid, "sway")]:
                pass  # It may have been found before it was told of, and then nothing has changed.
        await until(lambda: procfs.read_oom_score_adj(desktop.pid) == OURS)
        assert it.face.spared() == {procfs.identity_of(desktop.pid)}
        assert procfs.read_oom_score_adj(app) == FORMER
        # As if it had been forked since.
        guard = it.face._sessions._guard
        assert guard is not None
        guard._known.clear()
        adjust(procfs.identity_of(app), OURS)
        await until(lambda: procfs.read_oom_score_adj(app) == FORMER)
        logind.remove("2")
        assert await it.heard("SessionRemoved") == ("2", session_object("2"))
        await until(lambda: procfs.read_oom_score_adj(desktop.pid) == FORMER)
        logind.add("3", Leader=desktop.pid, Scope="session-2.scope")
        await until(lambda: procfs.read_oom_score_adj(desktop.pid) == OURS)
    assert procfs.read_oom_score_adj(desktop.pid) == FORMER


@pytest.mark.asyncio
async def test_a_login_program_tells_the_systems_daemon(bus: PrivateBus, tmp_path: Path, stack: ExitStack) -> None:
    """Root says whose session it is; and nobody is put anywhere from there."""
    async with desk(bus, tmp_path, user_uid=None) as it:
        with pytest.raises(RemoteError) as error:
            await it.register(Leader(stack).pidfd, id="2", place=True)
        assert error.value.name.rpartition(".")[2] in {"NotSupported", "Denied"}
        if UID == 0:
            await it.register(Leader(stack).pidfd, id="2", user=1000)
            assert (await it.get("2"))["User"] == 1000


@pytest.mark.asyncio
async def test_a_manager_that_has_no_time(bus: PrivateBus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the session needs is told again, though it has not changed."""
    sample = SessionSample(
        taken_seconds=1.0, unreclaimable_bytes=1 << 30, active_file_bytes=0, inactive_file_bytes=0,
        stalled_percent=0.0, is_active=True,
    )  # fmt: skip
    monkeypatch.setattr(SessionMemory, "_sample", lambda *_, **__: sample)
    monkeypatch.setattr(session_watch, "MEASURE_SECONDS", 0.01)
    failures = [ManagerError("org.freedesktop.DBus.Error.NoReply", "")]

    def busy(manager: Manager, unit: str, properties: dict[str, Any]) -> None:
        if failures:
            raise failures.pop()
        manager.calls.append((unit, properties))

    monkeypatch.setattr(Manager, "set_unit_properties", busy)
    async with desk(bus, tmp_path) as made:
        await until(lambda: bool(made.manager.calls))
        await asyncio.sleep(0.05)
        assert [unit for unit, _ in made.manager.calls] == ["session.slice"]


@pytest.mark.asyncio
async def test_a_request_that_waits_keeps_nobody_from_ending(bus: PrivateBus, tmp_path: Path) -> None:
    """A job of systemd's may take 90 s, and the daemon has 10 for its end."""
    go_on = threading.Event()
    made = Desk(bus, tmp_path, user_uid=UID, dry_run=False)
    await made.face.start()
    made.face._worker.ask(lambda: go_on.wait(60))
    try:
        async with asyncio.timeout(SECONDS):
            await made.face.close()
    finally:
        go_on.set()


async def until(is_so: Callable[[], bool]) -> None:
    """What another thread does: it tells nobody, so it is asked again and again."""
    async with asyncio.timeout(SECONDS):
        while not is_so():
            await asyncio.to_thread(os.sched_yield)


@pytest.mark.asyncio
async def test_nobody_is_there(bus: PrivateBus, stack: ExitStack) -> None:
    """Neither a daemon, nor a bus."""
    leader = Leader(stack)
    for may_start in (False, True):
        with pytest.raises(RemoteError) as nobody:
            register(bus.address, leader.pidfd, {}, may_start=may_start)
        assert nobody.value.name in NO_OWNER
    with pytest.raises(RemoteError) as nobody:
        unregister(bus.address, "2")
    assert nobody.value.name in NO_OWNER
    bus.kill()
    with pytest.raises(RemoteError) as no_bus:
        register(bus.address, leader.pidfd, {}, may_start=True)
    assert no_bus.value.name == NO_BUS


def call_with_descriptors(
    address: str, path: str, method: str, signature: str, arguments: tuple[Any, ...], descriptors: list[int]
) -> str:
    """Of a session; the error, or nothing."""
    from gi.repository import Gio, GLib

    from slicemgr.bus.values import pack

    kinds = Gio.DBusConnectionFlags
    connection = Gio.DBusConnection.new_for_address_sync(
        address, kinds.AUTHENTICATION_CLIENT | kinds.MESSAGE_BUS_CONNECTION, None, None
    )
    listed = Gio.UnixFDList.new()
    for each in descriptors:
        listed.append(each)
    try:
        connection.call_with_unix_fd_list_sync(
            BUS_NAME, path, SESSION, method, pack(signature, arguments), None, 0, 20000, listed, None
        )
    except GLib.Error as error:
        return str(error.message)
    finally:
        connection.close_sync(None)
    return ""
