# SPDX-License-Identifier: LGPL-2.1-or-later
"""What we say to systemd, login1 and the desktop, to services that others wrote: python-dbusmock's templates."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest
from gi.repository import GLib

from slicemgr.bus.errors import RemoteError
from slicemgr.bus.login1 import Login1, LoginSession
from slicemgr.bus.notifications import Notifications
from slicemgr.model.notice import Bubble, NoticeAction, Urgency
from slicemgr.placement.bus_connection import Connection, ManagerError
from slicemgr.placement.systemd1 import NO_LIMIT, Manager
from tests.bus.connected_client import connected_client
from tests.bus.dbusmocks import Mock, needs_dbusmock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from slicemgr.bus.client import BusClient
    from tests.bus.private_bus import PrivateBus

pytestmark = needs_dbusmock

SECONDS = 60.0
SYSTEMD1, LOGIN1, DESKTOP = "org.freedesktop.systemd1", "org.freedesktop.login1", "org.freedesktop.Notifications"


@pytest.fixture
def systemd(bus: PrivateBus) -> Iterator[tuple[Mock, Manager]]:
    with Mock(bus, SYSTEMD1, "/org/freedesktop/systemd1", f"{SYSTEMD1}.Manager", template="systemd") as there:
        there.answer("Subscribe", "", "", "")
        path = bus.address.removeprefix("unix:path=")
        manager = Manager(Connection(path, is_bus=True, signals_with=b"JobRemoved", seconds=SECONDS))
        yield there, manager
        manager.close()


def test_a_scope_is_started_and_waited_for(systemd: tuple[Mock, Manager]) -> None:
    """By a bus: the answer names the job, and its end is a signal that has to be asked for."""
    there, manager = systemd
    properties = {"Slice": "build.slice", "PIDs": [4711], "MemoryMax": None, "Delegate": True, "Description": "make"}
    assert manager.start_transient_unit("slicemgr-make-4711.scope", properties) == ()
    assert manager.start_transient_unit("slicemgr-make-4712.scope", properties) == ()
    assert there.calls("Subscribe") == [()]


def test_a_slice_is_started_set_and_stopped(systemd: tuple[Mock, Manager]) -> None:
    there, manager = systemd
    there.mock("AddMockUnit", "(s)", "build.slice")
    there.answer("SetUnitProperties", "sba(sv)", "", "")
    there.answer("AttachProcessesToUnit", "ssau", "", "")
    manager.start_unit("build.slice")
    assert manager.get_unit("build.slice") == "/org/freedesktop/systemd1/unit/build_slice"  # As dbusmock escapes it.
    manager.set_unit_properties("build.slice", {"MemoryMax": 1 << 63, "MemoryHigh": None, "CPUWeight": 1})
    (told,) = there.calls("SetUnitProperties")
    assert told == ("build.slice", True, [("MemoryMax", 1 << 63), ("MemoryHigh", NO_LIMIT), ("CPUWeight", 1)])
    manager.attach_processes("x.scope", [1, 4711])
    assert there.calls("AttachProcessesToUnit") == [("x.scope", "", [1, 4711])]
    manager.stop_unit("build.slice")
    manager.begin_stop("build.slice")


def test_what_systemd_does_not_know(systemd: tuple[Mock, Manager]) -> None:
    there, manager = systemd
    with pytest.raises(ManagerError) as error:
        manager.get_property("build.slice", "Slice", "ControlGroup")
    assert error.value.name.startswith("org.freedesktop.DBus.Error.Unknown")
    there.end()
    with pytest.raises(ManagerError) as error:
        manager.start_unit("build.slice")
    assert error.value.name in {f"org.freedesktop.DBus.Error.{each}" for each in ("ServiceUnknown", "NameHasNoOwner")}


@pytest.mark.asyncio
async def test_sessions_come_change_and_go(bus: PrivateBus) -> None:
    changed = asyncio.Event()
    login: list[Login1] = []

    def subscribe(it: BusClient) -> None:
        login.append(Login1(it, changed.set))
        login[0].subscribe()

    async def until(is_so: Callable[[dict[str, LoginSession]], bool]) -> None:
        async with asyncio.timeout(SECONDS):
            while not is_so(dict(login[0].sessions)):
                changed.clear()
                await changed.wait()

    async def tell(there: Mock, *arguments: Any, **others: Any) -> None:
        await asyncio.to_thread(there.mock, *arguments, **others)

    there = await asyncio.to_thread(
        Mock, bus, LOGIN1, "/org/freedesktop/login1", f"{LOGIN1}.Manager", template="logind"
    )
    with there:
        await tell(there, "AddSession", "(ssusb)", "c1", "seat0", 1000, "person", True)
        async with connected_client(bus, subscribe):
            following = asyncio.create_task(login[0].follow())
            login[0].look_again()
            await until(lambda sessions: set(sessions) == {"c1"})
            assert login[0].sessions["c1"] == LoginSession("c1", 1000, 1, "", "test", "user", "", True)
            await tell(there, "AddSession", "(ssusb)", "c2", "seat0", 1001, "other", False)
            path = "/org/freedesktop/login1/session/c2"
            which = [GLib.Variant("s", "c2"), GLib.Variant("o", path)]
            await tell(there, "EmitSignal", "(sssav)", f"{LOGIN1}.Manager", "SessionNew", "so", which)
            await until(lambda sessions: set(sessions) == {"c1", "c2"})
            assert (login[0].sessions["c2"].uid, login[0].sessions["c2"].is_active) == (1001, False)
            active = {"Active": GLib.Variant("b", True)}
            await tell(there, "UpdateProperties", "(sa{sv})", f"{LOGIN1}.Session", active, path=path)
            await until(lambda sessions: sessions["c2"].is_active)
            await tell(there, "RemoveObject", "(s)", path)
            await tell(there, "EmitSignal", "(sssav)", f"{LOGIN1}.Manager", "SessionRemoved", "so", which)
            await until(lambda sessions: set(sessions) == {"c1"})
            there.end()
            await until(lambda sessions: not sessions)
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await following


@pytest.mark.asyncio
@pytest.mark.parametrize(("capabilities", "has_actions"), [("", False), ("body body-markup actions", True)])
async def test_a_bubble_is_shown_updated_and_withdrawn(bus: PrivateBus, capabilities: str, has_actions: bool) -> None:
    """One bubble, whose number the server gives; markup and actions where it has them."""
    closed: asyncio.Queue[tuple[int, bool]] = asyncio.Queue()
    pressed: asyncio.Queue[tuple[int, str]] = asyncio.Queue()
    shown: list[Notifications] = []

    def subscribe(it: BusClient) -> None:
        def note_closed(number: int, by_person: bool) -> None:
            closed.put_nowait((number, by_person))

        def note_pressed(number: int, key: str) -> None:
            pressed.put_nowait((number, key))

        shown.append(Notifications(it, invoked=note_pressed, closed=note_closed, changed=lambda: None))
        shown[0].begin()

    there = await asyncio.to_thread(
        Mock, bus, DESKTOP, "/org/freedesktop/Notifications", DESKTOP, template="notification_daemon",
        parameters=f'{{"capabilities": "{capabilities}"}}' if capabilities else "",
    )  # fmt: skip
    with there:
        async with connected_client(bus, subscribe), asyncio.timeout(SECONDS):
            bubble = Bubble("kate", "5 < 6 & more", Urgency.CRITICAL, ((NoticeAction.STOP, "Stop"),))
            number = await shown[0].show(bubble)
            assert number == 1
            assert await shown[0].show(bubble, replaces=number) == 1
            assert await shown[0].show(bubble) == 2
            first, again, _ = await asyncio.to_thread(there.calls, "Notify")
            assert first[:2] == ("slicemgr", 0)
            assert again[:2] == ("slicemgr", 1)
            assert first[4] == "5 &lt; 6 &amp; more"
            assert first[5] == ([NoticeAction.STOP.value, "Stop"] if has_actions else [])
            assert first[6]["urgency"] == 2
            signal = [GLib.Variant("u", 1), GLib.Variant("s", NoticeAction.STOP.value)]
            await asyncio.to_thread(there.mock, "EmitSignal", "(sssav)", DESKTOP, "ActionInvoked", "us", signal)
            assert await pressed.get() == (1, NoticeAction.STOP.value)
            dismissed = [GLib.Variant("u", 1), GLib.Variant("u", 2)]
            await asyncio.to_thread(there.mock, "EmitSignal", "(sssav)", DESKTOP, "NotificationClosed", "uu", dismissed)
            assert await closed.get() == (1, True)
            await shown[0].withdraw(2)
            assert await closed.get() == (2, False)
            there.end()
            with pytest.raises(RemoteError):
                await shown[0].show(bubble)
