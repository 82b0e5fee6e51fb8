# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a person sees of their jobs on a desktop, and what their presses do: on a real bus."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
from typing import TYPE_CHECKING, Any

import pytest

from slicemgr.bus.client import BUS, BUS_PATH, BusClient
from slicemgr.bus.errors import NotFoundError
from slicemgr.kernel.machine import machine_reading
from slicemgr.model.decision import Resource, Shortage
from slicemgr.model.notice import NoticeAction
from slicemgr.model.slice import SliceKind
from slicemgr.policy.notices import Pace
from slicemgr.service.bus_face import BusFace
from slicemgr.service.notifier import MOST_NEW, Notifier
from slicemgr.service.overview import JobOverview, SliceOverview, Usage
from slicemgr.service.published import Moment, Standing
from slicemgr.service.record import Record
from slicemgr.service.report import HighReport, KillOutcome, KillReport
from tests.bus.daemon_side import daemon_side
from tests.bus.fake_desktop import SECONDS, FakeDesktop, Notice
from tests.unit.samples import MIB, process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.bus.private_bus import PrivateBus

SLICE = "/user.slice/user-7.slice/user@7.service/build.slice"
MAKE = "slicemgr-make-4700.scope"
HASTE = Pace(new=0.3, update=0.1, calm=300.0)
PATIENCE = Pace(new=1000.0, update=1000.0, calm=5000.0)


def kill(name: str, unit: str = MAKE) -> Record:
    """One process of a job at its own limit."""
    report = KillReport(
        at_seconds=1.0,
        victim=process(4711, name=name),
        command_line=(),
        held_bytes=100 * MIB,
        points=1,
        for_parent=None,
        shortage=Shortage(Resource.MEMORY, 1000 * MIB, 1000 * MIB),
        runners_up=(),
        outcome=KillOutcome.EXITED,
        seconds_to_exit=0.1,
        usage_after_bytes=900 * MIB,
        was_alone=False,
        cgroup=f"{SLICE}/{unit}",
    )
    return Record(report, 0.0, "build.slice", unit)


def high(unit: str = MAKE) -> Record:
    return Record(HighReport(1.0, 980 * MIB, 960 * MIB, f"{SLICE}/{unit}"), 0.0, "build.slice", unit)


def slices(*units: str) -> tuple[SliceOverview, ...]:
    usage = Usage(5 * MIB, 0, 400 * MIB, 800 * MIB, None, 0.0, 1)
    jobs = tuple(JobOverview(each, f"{SLICE}/{each}", each[9:-11], usage, None, (), None) for each in units)
    return (SliceOverview("build.slice", SLICE, SliceKind.BUILD, None, jobs),)


def moment(*units: str, paused: str = "") -> Moment:
    standing = Standing("1", 7, dry_run=False)
    return Moment(standing, machine_reading(), 0.0, slices(*units), paused=frozenset({paused} if paused else ()))


class Desk:
    """A notifier, and what it does when somebody presses."""

    def __init__(self, bus: PrivateBus, pace: Pace) -> None:
        self.is_wanted = True
        self.done: asyncio.Queue[tuple[NoticeAction, str]] = asyncio.Queue()
        self.said: asyncio.Queue[str] = asyncio.Queue()
        self.connected = asyncio.Event()
        self.client = BusClient(bus.address, loop=asyncio.get_running_loop(), connected=self.connected.set)

        def deed(action: NoticeAction) -> Any:
            async def do(unit: str) -> None:
                self.done.put_nowait((action, unit))
                if action is NoticeAction.STOP:
                    raise NotFoundError(f"no job '{unit}'; try ListJobs")
                if action is NoticeAction.RESUME:
                    raise OSError(5, "Input/output error")

            return do

        self.notifier = Notifier(
            self.client,
            deeds={action: deed(action) for action in NoticeAction},
            is_wanted=lambda: self.is_wanted,
            say=self.said.put_nowait,
            pace=pace,
        )

    async def bus_answers(self) -> None:
        """A call to the bus itself, there and back."""
        await self.client.call(BUS, BUS_PATH, BUS, "GetId")

    async def until(self, is_so: Callable[[], object]) -> None:
        """The notifier has heard of it."""
        async with asyncio.timeout(SECONDS):
            while not is_so():
                await self.bus_answers()

    async def knows(self, *numbers: int) -> None:
        """These bubbles, and no other, are there to be updated."""
        await self.until(lambda: sorted(self.notifier._numbers.values()) == sorted(numbers))


@contextlib.asynccontextmanager
async def desk(bus: PrivateBus, pace: Pace = PATIENCE) -> AsyncIterator[Desk]:
    made = Desk(bus, pace)
    made.notifier.begin()
    made.client.start()
    running = asyncio.create_task(made.notifier.run())
    try:
        async with asyncio.timeout(SECONDS):
            await made.connected.wait()
        await made.bus_answers()
        yield made
    finally:
        running.cancel()
        await made.notifier.close()
        made.client.stop()


def short(notice: Notice) -> tuple[int, str]:
    return notice.replaces, notice.summary


async def next_of(queue: asyncio.Queue[Any]) -> Any:
    async with asyncio.timeout(SECONDS):
        return await queue.get()


@pytest.mark.asyncio
async def test_one_bubble_that_is_updated(bus: PrivateBus) -> None:
    """The first at once, the next ones together; and after the person has closed it, a new one."""
    with FakeDesktop(bus.address) as desktop:
        async with desk(bus, HASTE) as it:
            it.notifier.tell(kill("meinproc5"))
            assert short(await desktop.shown()) == (0, '1 process ended in build "make"')
            it.notifier.tell(kill("ld"))
            it.notifier.tell(kill("cc1plus"))
            told = await desktop.shown()
            assert short(told) == (1, '3 processes ended in build "make"')
            assert told.body.startswith("cc1plus (100.0M), ld (100.0M), meinproc5 (100.0M); 300.0M in all.\n")
            assert told.hints["suppress-sound"] is True
            desktop.close(1, 2)
            await it.knows()
            it.notifier.tell(kill("as"))
            told = await desktop.shown()
            assert short(told) == (0, '4 processes ended in build "make"')
            assert told.hints["suppress-sound"] is False
            # The server's word for the old one is no news of the new one.
            desktop.close(1, 3)
            await it.knows(2)
            it.notifier.tell(kill("as"))
            assert short(await desktop.shown()) == (2, '5 processes ended in build "make"')
            assert desktop.notices.empty()


@pytest.mark.asyncio
async def test_each_job_has_its_own(bus: PrivateBus) -> None:
    """But not all at once."""
    names = [f"slicemgr-{name}-7.scope" for name in "abcdef"]
    with FakeDesktop(bus.address) as desktop:
        async with desk(bus) as it:
            for name in names:
                it.notifier.tell(kill("ld", name))
            told = [await desktop.shown() for _ in range(MOST_NEW)]
            assert [each.summary for each in told] == [f'1 process ended in build "{name}"' for name in "abc"]
            await it.knows(1, 2, 3)
            await it.bus_answers()
            assert desktop.notices.empty()
        async with desk(bus, HASTE) as it:
            for name in names:
                it.notifier.tell(kill("ld", name))
            told = [await desktop.shown() for _ in names]
            assert [each.summary for each in told] == [f'1 process ended in build "{name}"' for name in "abcdef"]


@pytest.mark.asyncio
async def test_what_is_pressed_is_done(bus: PrivateBus) -> None:
    with FakeDesktop(bus.address) as desktop:
        async with desk(bus) as it:
            it.notifier.tell(kill("ld"))
            told = await desktop.shown()
            assert told.actions == ["more-memory", "A quarter more memory", "stop", "Stop the build"]
            await it.knows(1)
            # Another program's bubble, what was not offered, what there is not.
            desktop.press(7, "stop")
            desktop.press(1, "resume")
            desktop.press(1, "default")
            desktop.press(1, "more-memory")
            assert await next_of(it.done) == (NoticeAction.MORE_MEMORY, MAKE)
            await it.until(lambda: not it.notifier._acting)
            assert it.done.empty()
            assert it.said.empty()
            # The job has ended meanwhile.
            desktop.press(1, "stop")
            assert await next_of(it.done) == (NoticeAction.STOP, MAKE)
            assert await next_of(it.said) == f"can't do 'stop' for {MAKE}: no job '{MAKE}'; try ListJobs"


@pytest.mark.asyncio
async def test_paused_and_resumed(bus: PrivateBus) -> None:
    """It is told for as long as it holds; a failure is said."""
    with FakeDesktop(bus.address) as desktop:
        async with desk(bus) as it:
            going, paused = moment(MAKE), moment(MAKE, paused=f"{SLICE}/{MAKE}")
            it.notifier.step(going, paused)
            told = await desktop.shown()
            assert (told.summary, told.body) == (
                'Build "make" is paused',
                "It keeps 5.0M, and goes on when it is resumed.",
            )
            await it.knows(1)
            desktop.press(1, "resume")
            assert await next_of(it.done) == (NoticeAction.RESUME, MAKE)
            assert await next_of(it.said) == f"can't do 'resume' for {MAKE}: Input/output error; try again"
            it.notifier.step(paused, going)
            assert await next_of(desktop.withdrawn) == 1
            # A job of which nothing was told ends without a word.
            it.notifier.step(moment(MAKE, "slicemgr-b-7.scope"), moment(MAKE))
            await it.bus_answers()
            assert desktop.notices.empty()


@pytest.mark.asyncio
async def test_a_warning_ends_with_its_job_and_with_us(bus: PrivateBus) -> None:
    other = "slicemgr-b-7.scope"
    with FakeDesktop(bus.address) as desktop:
        async with desk(bus) as it:
            it.notifier.tell(high())
            assert short(await desktop.shown()) == (0, 'Memory is short in build "make"')
            it.notifier.tell(high(other))
            await desktop.shown()
            it.notifier.tell(kill("ld", "slicemgr-c-7.scope"))
            await desktop.shown()
            await it.knows(1, 2, 3)
            it.notifier.step(moment(MAKE, other), moment(other))
            assert await next_of(desktop.withdrawn) == 1
        assert await next_of(desktop.withdrawn) == 2
        assert desktop.withdrawn.empty()


@pytest.mark.asyncio
async def test_the_desktop_comes_later(bus: PrivateBus) -> None:
    """A user's daemon is there before it: what was not shown is shown then, in one."""
    async with desk(bus) as it:
        for name in ("ld", "as"):
            it.notifier.tell(kill(name))
            await it.until(lambda: it.notifier._in_vain)
        with FakeDesktop(bus.address) as desktop:
            assert short(await desktop.shown()) == (0, '2 processes ended in build "make"')


@pytest.mark.asyncio
async def test_the_desktop_is_restarted(bus: PrivateBus) -> None:
    """What was told is told; its numbers are others' now."""
    async with desk(bus, dataclasses.replace(HASTE, new=0.0)) as it:
        with FakeDesktop(bus.address) as desktop:
            it.notifier.tell(kill("ld"))
            await desktop.shown()
            await it.knows(1)
        await it.knows()
        with FakeDesktop(bus.address) as desktop:
            desktop.press(1, "more-memory")
            it.notifier.tell(kill("ld"))
            assert short(await desktop.shown()) == (0, '2 processes ended in build "make"')
            assert desktop.notices.empty()
            assert it.done.empty()


@pytest.mark.asyncio
async def test_the_bus_is_restarted(bus: PrivateBus) -> None:
    async with desk(bus, HASTE) as it:
        bus.kill()
        it.notifier.tell(kill("ld"))
        it.connected.clear()
        bus.start()
        async with asyncio.timeout(SECONDS):
            await it.connected.wait()
        it.notifier.server_is_new()  # As the face does when it is connected.
        with FakeDesktop(bus.address) as desktop:
            assert short(await desktop.shown()) == (0, '1 process ended in build "make"')


@pytest.mark.asyncio
async def test_a_slow_desktop(bus: PrivateBus, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told once, and nobody waits for it: not who tells, not who ends."""
    monkeypatch.setattr("slicemgr.bus.notifications.SECONDS", 0.2)
    with FakeDesktop(bus.address) as desktop:
        desktop.is_mute = True
        async with desk(bus, HASTE) as it:
            for _ in range(50):
                it.notifier.tell(kill("ld"))
            assert short(await desktop.shown()) == (0, '50 processes ended in build "make"')
            it.notifier.tell(kill("ld"))
            assert short(await desktop.shown()) == (0, '51 processes ended in build "make"')


@pytest.mark.asyncio
async def test_not_wanted(bus: PrivateBus) -> None:
    """By the configuration of that moment."""
    with FakeDesktop(bus.address) as desktop:
        async with desk(bus) as it:
            it.is_wanted = False
            it.notifier.tell(kill("ld"))
            it.notifier.step(moment(MAKE), moment(MAKE, paused=f"{SLICE}/{MAKE}"))
            it.is_wanted = True
            it.notifier.tell(kill("ld", "slicemgr-b-7.scope"))
            assert short(await desktop.shown()) == (0, '1 process ended in build "b"')


class FakeManager:
    """Of services: what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def set_unit_properties(self, unit: str, properties: Any) -> None:
        self.asked.append((unit, dict(properties)))

    def begin_stop(self, unit: str) -> None:
        self.asked.append(("stop", unit))

    def close(self) -> None:
        return


@pytest.mark.parametrize(("is_user", "dry_run"), [(True, False), (True, True), (False, False)])
@pytest.mark.asyncio
async def test_a_daemon(bus: PrivateBus, tmp_path: Path, is_user: bool, dry_run: bool) -> None:
    """A user's own talks to their desktop, and does what they press; the system's, or a dry run, does not."""
    manager = FakeManager()
    told: asyncio.Queue[str] = asyncio.Queue()
    side = daemon_side(
        bus.address, tmp_path, user_uid=os.getuid() if is_user else None, dry_run=dry_run,
        look=lambda: slices(MAKE),
        connect=lambda: manager,
        say=told.put_nowait,
        wants_notices=lambda: True,
    )  # fmt: skip
    with FakeDesktop(bus.address) as desktop:
        face = BusFace(bus.address, side)
        await face.start()
        running = asyncio.create_task(face.run())
        try:
            face.tell(kill("ld"))
            if not is_user or dry_run:
                (identifier,) = await face._client.call(BUS, BUS_PATH, BUS, "GetId")
                assert identifier
                assert desktop.asked == 0
                return
            notice = await desktop.shown()
            assert short(notice) == (0, '1 process ended in build "make"')
            assert face._notifier is not None
            while not face._notifier._numbers:
                await face._client.call(BUS, BUS_PATH, BUS, "GetId")
            changed = asyncio.Event()
            face._client.subscribe("org.slicemgr1", "org.slicemgr1.Manager", "LimitsChanged", lambda *_: changed.set())
            await face._client.call(BUS, BUS_PATH, BUS, "GetId")
            desktop.press(notice.number, "more-memory")
            async with asyncio.timeout(SECONDS):
                await changed.wait()
            assert manager.asked == [(MAKE, {"MemoryHigh": 500 * MIB, "MemoryMax": 1000 * MIB})]
        finally:
            running.cancel()
            await face.close()
