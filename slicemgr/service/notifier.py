# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tells a person on their desktop what happens to their jobs, and does what they press. A user's daemon only."""

import asyncio
import contextlib
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

from slicemgr.bus.client import BusClient
from slicemgr.bus.errors import RemoteError, RequestError
from slicemgr.bus.notifications import Notifications
from slicemgr.model.notice import NoticeAction
from slicemgr.policy.notices import (
    Closed,
    Event,
    LookAgain,
    Pace,
    Show,
    Story,
    Withdraw,
    after,
    decide,
    shown,
    withdrawn,
)
from slicemgr.service.notice_events import Happened, of_record, of_step
from slicemgr.service.published import Moment
from slicemgr.service.record import Record
from slicemgr.service.requests import REFUSALS, request_error

MOST_NEW: Final = 3
"""New bubbles of all jobs together in the time of one: a loop that runs a job for each test is one person's."""

MOST_STORIES: Final = 100
MOST_BUBBLES: Final = 300
"""Remembered; whoever presses a button of an older one is told nothing."""

PARTING_SECONDS: Final = 0.3
"""For the server, at our end."""

PACE: Final = Pace()

Deed = Callable[[str], Awaitable[None]]
"""What a press does to a job, by its unit. Raises RequestError and REFUSALS."""


@dataclass(frozen=True, slots=True)
class _Shown:
    """A bubble that was shown."""

    unit: str
    actions: frozenset[NoticeAction]


class Notifier:
    """Belongs to the loop's thread. Whoever tells it something never waits."""

    def __init__(
        self,
        client: BusClient,
        *,
        deeds: Mapping[NoticeAction, Deed],
        is_wanted: Callable[[], bool],
        say: Callable[[str], object],
        pace: Pace = PACE,
    ) -> None:
        """`is_wanted`: whether the configuration has notices now."""
        self._deeds = deeds
        self._is_wanted = is_wanted
        self._say = say
        self._pace = pace
        self._server = Notifications(
            client, invoked=self._invoked, closed=self._closed, changed=self._server_has_changed
        )
        self._stories: dict[str, Story] = {}
        self._numbers: dict[str, int] = {}
        """The bubble of each story, as long as it may be there."""
        self._bubbles: OrderedDict[int, _Shown] = OrderedDict()
        self._in_vain: set[str] = set()
        """Nobody was there to show them: tried again when something happens, or there is another server."""
        self._closed_meanwhile: dict[int, bool] = {}
        """Bubbles that went while one was being shown, and whether by the person: it may be that one."""
        self._opened: deque[float] = deque(maxlen=MOST_NEW)
        self._acting: dict[str, asyncio.Task[None]] = {}
        self._called = asyncio.Event()

    def begin(self) -> None:
        """Hear the server."""
        self._server.begin()

    def tell(self, record: Record) -> None:
        """What was done."""
        if self._is_wanted():
            for each in of_record(record):
                self._happened(each)

    def step(self, before: Moment, after: Moment) -> None:
        """Jobs that were paused and resumed, or have ended."""
        for each in of_step(before, after):
            if each.unit in self._stories or (each.is_news and self._is_wanted()):
                self._happened(each)

    def server_is_new(self) -> None:
        """There is another bus."""
        self._server.forget()

    async def run(self) -> None:
        """Show what there is to show, for as long as the daemon lives. A server that is slow delays only this."""
        while True:
            self._called.clear()
            look_again = await self._look()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if look_again is None else max(look_again - time.monotonic(), 0.0)):
                    await self._called.wait()

    async def close(self) -> None:
        """Do no more of what was pressed, and take away what does not hold without us: jobs that are paused go on."""
        for task in self._acting.values():
            task.cancel()
        stale = [number for key, number in self._numbers.items() if not self._stories[key].sums.ended]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PARTING_SECONDS):
                await asyncio.gather(*(self._server.withdraw(number) for number in stale))

    def _happened(self, what: Happened) -> None:
        key = what.unit
        story = self._stories.pop(key, None)
        if story is None:
            story = Story(what.subject)
        self._stories[key] = after(story, what.event, time.monotonic(), self._pace)  # The newest last.
        if not self._stories[key].is_open:
            self._numbers.pop(key, None)
        self._in_vain.discard(key)
        if len(self._stories) > MOST_STORIES:
            oldest = next(iter(self._stories))
            del self._stories[oldest]
            self._numbers.pop(oldest, None)
        self._called.set()

    async def _look(self) -> float | None:
        """Do what is due; when there is something to do again."""
        times = []
        for key in list(self._stories):
            if key not in self._stories or key in self._in_vain:
                continue
            match decide(self._stories[key], time.monotonic(), self._pace, new_from=self._new_from()):
                case Show() as show:
                    await self._show(key, show)
                case Withdraw():
                    self._stories[key] = withdrawn(self._stories[key])
                    await self._server.withdraw(self._numbers.pop(key))
                case LookAgain(at_seconds):
                    times.append(at_seconds)
        return min(times, default=None)

    async def _show(self, key: str, show: Show) -> None:
        replaces = 0 if show.is_new else self._numbers.get(key, 0)
        self._closed_meanwhile.clear()
        try:
            number = await self._server.show(show.bubble, replaces=replaces)
        except RemoteError:
            self._in_vain.add(key)
            return
        now = time.monotonic()
        if show.is_new:
            self._opened.append(now)
        if key not in self._stories:
            return
        # What has happened meanwhile is in the story, and not in what was shown.
        self._stories[key] = shown(self._stories[key], show, now, is_open=number != 0)
        if number in self._closed_meanwhile:
            self._to_story(key, Closed(self._closed_meanwhile[number]))
        elif number:
            self._numbers[key] = number
            actions = frozenset(action for action, _ in show.bubble.actions)
            self._bubbles[number] = _Shown(key, actions)
            self._bubbles.move_to_end(number)
            if len(self._bubbles) > MOST_BUBBLES:
                self._bubbles.popitem(last=False)

    def _new_from(self) -> float:
        """When there may be another new bubble, of any job."""
        return self._opened[0] + self._pace.new if len(self._opened) == MOST_NEW else float("-inf")

    def _closed(self, number: int, by_person: bool) -> None:
        if len(self._closed_meanwhile) < MOST_BUBBLES:
            self._closed_meanwhile[number] = by_person
        known = self._bubbles.get(number)
        if known is None or self._numbers.get(known.unit) != number:
            return  # Another program's, or an older one of ours.
        del self._numbers[known.unit]
        self._to_story(known.unit, Closed(by_person))

    def _server_has_changed(self) -> None:
        """All bubbles are gone, and their numbers will be others'."""
        self._bubbles.clear()
        self._numbers.clear()
        self._in_vain.clear()
        for key in self._stories:
            self._to_story(key, Closed(by_person=False))
        self._called.set()

    def _to_story(self, key: str, event: Event) -> None:
        self._stories[key] = after(self._stories[key], event, time.monotonic(), self._pace)

    def _invoked(self, number: int, key: str) -> None:
        known = self._bubbles.get(number)
        action = next((each for each in NoticeAction if each.value == key), None)
        if known is None or action not in known.actions or known.unit in self._acting:
            return
        task = asyncio.get_running_loop().create_task(self._do(action, known.unit))
        self._acting[known.unit] = task
        task.add_done_callback(lambda _: self._acting.pop(known.unit, None))

    async def _do(self, action: NoticeAction, unit: str) -> None:
        try:
            try:
                await self._deeds[action](unit)
            except REFUSALS as error:
                raise request_error(error) from error
        except RequestError as error:
            self._say(f"can't do '{action.value}' for {unit}: {error}")
