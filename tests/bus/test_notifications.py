# SPDX-License-Identifier: LGPL-2.1-or-later
"""Talking to a desktop on a real bus: a good one, none, a slow one, one that is replaced, and one that lies."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest
from gi.repository import GLib

from slicemgr.bus.client import BUS, BUS_PATH, BusClient
from slicemgr.bus.errors import RemoteError
from slicemgr.bus.notifications import NAME, PATH, Notifications
from slicemgr.model.notice import Bubble, NoticeAction, Urgency
from tests.bus.fake_desktop import SECONDS, FakeDesktop, connection

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.bus.private_bus import PrivateBus

BUBBLE = Bubble(
    'process ended in build "make"',
    "a<b> & c\nWhy.",
    actions=((NoticeAction.MORE_MEMORY, "More"), (NoticeAction.STOP, "Stop")),
)


class Person:
    """Hears what the desktop tells."""

    def __init__(self, bus: PrivateBus) -> None:
        self.heard: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()
        self.connected = asyncio.Event()
        self.client = BusClient(bus.address, loop=asyncio.get_running_loop(), connected=self.connected.set)
        self.notifications = Notifications(
            self.client,
            invoked=lambda number, key: self.heard.put_nowait(("invoked", number, key)),
            closed=lambda number, by_person: self.heard.put_nowait(("closed", number, by_person)),
            changed=lambda: self.heard.put_nowait(("changed",)),
        )

    async def hears(self) -> tuple[Any, ...]:
        """The next."""
        async with asyncio.timeout(SECONDS):
            return await self.heard.get()

    async def bus_answers(self) -> None:
        """A call to the bus itself: all that was sent to it before has been dealt with."""
        await self.client.call(BUS, BUS_PATH, BUS, "GetId")


@contextlib.asynccontextmanager
async def person(bus: PrivateBus) -> AsyncIterator[Person]:
    made = Person(bus)
    made.notifications.begin()
    made.client.start()
    try:
        async with asyncio.timeout(SECONDS):
            await made.connected.wait()
        await made.bus_answers()
        yield made
    finally:
        made.client.stop()


@pytest.mark.asyncio
async def test_what_is_sent(bus: PrivateBus) -> None:
    """By the specification's types, the byte of the urgency among them."""
    with FakeDesktop(bus.address, first_number=7) as desktop:
        async with person(bus) as it:
            assert await it.notifications.show(BUBBLE) == 7
            told = await desktop.shown()
            assert told.text == (
                "('slicemgr', uint32 0, 'dialog-warning', 'process ended in build \"make\"', "
                "'a&lt;b&gt; &amp; c\\nWhy.', ['more-memory', 'More', 'stop', 'Stop'], "
                "{'urgency': <byte 0x01>, 'category': <'device'>, 'desktop-entry': <'slicemgr'>, "
                "'transient': <false>, 'suppress-sound': <false>}, -1)"
            )
            again = Bubble("s", "b", Urgency.CRITICAL, is_transient=True)
            assert await it.notifications.show(again, replaces=7) == 7
            told = await desktop.shown()
            assert (told.replaces, told.icon, told.actions) == (7, "dialog-error", [])
            assert told.hints["urgency"] == 2
            assert told.hints["transient"] is True
            assert told.hints["suppress-sound"] is True
            assert desktop.asked == 1
            await it.notifications.withdraw(7)
            assert await desktop.withdrawn.get() == 7


@pytest.mark.parametrize(
    ("capabilities", "body", "actions"),
    [
        (("body", "actions"), "a<b> & c\nWhy.", ["more-memory", "More", "stop", "Stop"]),
        (("body", "body-markup"), "a&lt;b&gt; &amp; c\nWhy.", []),
        ((), "a<b> & c\nWhy.", []),
    ],
)
@pytest.mark.asyncio
async def test_what_the_server_can(
    bus: PrivateBus, capabilities: tuple[str, ...], body: str, actions: list[str]
) -> None:
    """Buttons only where there are any, and `&amp;` only where it is read as &."""
    with FakeDesktop(bus.address, capabilities=capabilities) as desktop:
        async with person(bus) as it:
            await it.notifications.show(BUBBLE)
            told = await desktop.shown()
            assert (told.body, told.actions) == (body, actions)


@pytest.mark.asyncio
async def test_another_server_is_asked_anew(bus: PrivateBus) -> None:
    async with person(bus) as it:
        with FakeDesktop(bus.address, capabilities=("body",)) as first:
            assert await it.hears() == ("changed",)
            await it.notifications.show(BUBBLE)
            assert (await first.shown()).actions == []
            with FakeDesktop(bus.address) as second:
                assert await it.hears() == ("changed",)
                await it.notifications.show(BUBBLE)
                assert (await second.shown()).actions != []
                assert (first.asked, second.asked) == (1, 1)
            assert await it.hears() == ("changed",)
            with pytest.raises(RemoteError):
                await it.notifications.show(BUBBLE)


@pytest.mark.asyncio
async def test_nobody_is_there(bus: PrivateBus) -> None:
    async with person(bus) as it:
        with pytest.raises(RemoteError) as error:
            await it.notifications.show(BUBBLE)
        assert error.value.name == "org.freedesktop.DBus.Error.ServiceUnknown"
        await it.notifications.withdraw(3)
        bus.kill()
        with pytest.raises(RemoteError):
            await it.notifications.show(BUBBLE)


@pytest.mark.asyncio
async def test_a_server_that_does_not_answer(bus: PrivateBus, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not waited for long, and it may show it yet: once. Meanwhile all others are answered."""
    monkeypatch.setattr("slicemgr.bus.notifications.SECONDS", 0.2)
    with FakeDesktop(bus.address) as desktop:
        desktop.is_mute = True
        async with person(bus) as it:
            showing = asyncio.create_task(it.notifications.show(BUBBLE))
            while desktop.asked == 0:
                await it.bus_answers()
            assert not showing.done()
            assert await showing == 0
            # What it can is not known: so nothing that it could misread, and nothing to press.
            told = await desktop.shown()
            assert (told.body, told.actions) == ("a&lt;b&gt; &amp; c\nWhy.", [])
            await it.notifications.withdraw(1)
            desktop.is_mute = False
            assert await it.notifications.show(BUBBLE, replaces=1) == 1


@pytest.mark.parametrize(("number_type", "number"), [("s", 0), ("i", 0), ("b", 0), ("u", 1)])
@pytest.mark.parametrize(("kind", "capabilities"), [("s", "actions"), ("av", []), ("a{ss}", {}), ("i", -1)])
@pytest.mark.asyncio
async def test_a_server_that_answers_anything(
    bus: PrivateBus, kind: str, capabilities: Any, number_type: str, number: int
) -> None:
    """Then it has said nothing."""
    with FakeDesktop(
        bus.address, capabilities=capabilities, capabilities_type=kind, number_type=number_type
    ) as desktop:
        async with person(bus) as it:
            assert await it.notifications.show(BUBBLE) == number
            assert (await desktop.shown()).actions == []


@pytest.mark.asyncio
async def test_what_the_person_does(bus: PrivateBus) -> None:
    """What does not look like it is not heard; nor is who is not the server."""
    with FakeDesktop(bus.address) as desktop:
        async with person(bus) as it:
            await it.notifications.show(BUBBLE)
            desktop.press(1, 2, "(uu)")
            desktop.press("1", "stop", "(ss)")
            desktop.close(1, "2", "(us)")
            stranger = await asyncio.to_thread(connection, bus.address)
            stranger.emit_signal(None, PATH, NAME, "ActionInvoked", GLib.Variant("(us)", (1, "stop")))
            await asyncio.to_thread(stranger.flush_sync, None)
            desktop.press(1, "stop")
            desktop.close(2, 1)
            desktop.close(1, 2)
            assert [await it.hears() for _ in range(3)] == [
                ("invoked", 1, "stop"),
                ("closed", 2, False),
                ("closed", 1, True),
            ]
            assert it.heard.empty()
            await asyncio.to_thread(stranger.close_sync, None)
