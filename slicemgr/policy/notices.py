# SPDX-License-Identifier: LGPL-2.1-or-later
"""When a person is told what happens to a job: one bubble that is updated, and seldom a new one. Pure.

A story is what has happened to one job since its bubble began. `after` adds to it, `decide` says what to do with it
now, and `shown` or `withdrawn` what has been done. The words are notice_texts'.
"""

from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

from slicemgr.model.notice import Bubble
from slicemgr.policy.notice_texts import NAMED, AtLimit, Gone, Subject, Sums, bubble_of

NEVER: Final = float("-inf")


@dataclass(frozen=True, slots=True)
class Pace:
    """How often a person is told, in seconds."""

    new: float = 60.0
    """Between two new bubbles of one job: nohang's, and what make needs for the next shortage of the same kind."""
    update: float = 5.0
    """Between two changes of a bubble: a line is read in that time, and a shortage may take ten compilers in one."""
    calm: float = 300.0
    """After that much quiet it is another story, and a new bubble."""


@dataclass(frozen=True, slots=True)
class Ended:
    """Processes of the job were ended, by us or by the kernel's OOM killer."""

    gone: tuple[Gone, ...]
    """Those that are known by name."""
    count: int
    """All of them."""
    limit: AtLimit
    by_kernel: bool = False


@dataclass(frozen=True, slots=True)
class Slowed:
    """The job is above memory.high, and somebody will be ended if that does not change."""

    usage_bytes: int
    high_bytes: int
    is_own: bool = False


@dataclass(frozen=True, slots=True)
class StandsStill:
    """The job is at a limit, and nobody in it can be ended."""

    limit: AtLimit
    out_of_reach: bool = False
    """Nor would it help: what is held is in files of a tmpfs."""


@dataclass(frozen=True, slots=True)
class Paused:
    """Somebody has paused the job."""

    held_bytes: int


@dataclass(frozen=True, slots=True)
class Resumed:
    """Somebody has resumed it."""


@dataclass(frozen=True, slots=True)
class Left:
    """The job is no more."""


@dataclass(frozen=True, slots=True)
class Closed:
    """The bubble is no longer there."""

    by_person: bool


Event: TypeAlias = Ended | Slowed | StandsStill | Paused | Resumed | Left | Closed


@dataclass(frozen=True, slots=True)
class Story:
    """What has happened to one job, and what of it was told. All times are of the monotonic clock."""

    subject: Subject
    sums: Sums = field(default_factory=Sums)
    shown: Bubble | None = None
    """What the bubble said last."""
    is_open: bool = False
    """As far as we know, the bubble is there to be updated."""
    is_dismissed: bool = False
    """The person has closed it."""
    opened_seconds: float = NEVER
    """When a new bubble was begun."""
    shown_seconds: float = NEVER
    """When it was begun or updated."""
    changed_seconds: float = NEVER
    """When something has happened."""


@dataclass(frozen=True, slots=True)
class Show:
    """Now."""

    bubble: Bubble
    is_new: bool
    """It may make a sound; else it takes the place of the one that is there, and is silent."""


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Take the bubble away: nothing of it holds any more."""


@dataclass(frozen=True, slots=True)
class LookAgain:
    """There is something to tell, but not before this time."""

    at_seconds: float


Decision: TypeAlias = Show | Withdraw | LookAgain | None


def after(story: Story, event: Event, now: float, pace: Pace) -> Story:
    """The story with that in it."""
    match event:
        case Closed():
            return replace(story, is_open=False, is_dismissed=story.is_dismissed or event.by_person)
        case Resumed():
            return replace(story, sums=replace(story.sums, paused_bytes=None))
        case Left():
            # What it lost is told all the same; the rest was over with it.
            return replace(
                story, sums=replace(story.sums, paused_bytes=None, slowed=None, stands_still=None, has_left=True)
            )
    if now - story.changed_seconds >= pace.calm and story.sums.paused_bytes is None:
        story = Story(story.subject, opened_seconds=story.opened_seconds, shown_seconds=story.shown_seconds)
    if isinstance(event, Slowed) and (story.is_dismissed or story.sums.slowed is not None):
        # They know. A build may cross memory.high all day, and many a desktop shows what is updated once more.
        return replace(story, changed_seconds=now)
    return replace(story, sums=_added(story.sums, event), changed_seconds=now)


def _added(sums: Sums, event: Ended | Slowed | StandsStill | Paused) -> Sums:
    match event:
        case Ended():
            return replace(
                sums,
                ended=sums.ended + event.count,
                by_kernel=sums.by_kernel + event.count * event.by_kernel,
                held_bytes=sums.held_bytes + sum(each.held_bytes or 0 for each in event.gone),
                latest=(*reversed(event.gone), *sums.latest)[:NAMED],
                limit=event.limit,
                stands_still=None,
            )
        case Slowed():
            return replace(sums, slowed=(event.usage_bytes, event.high_bytes), slowed_by_own=event.is_own)
        case StandsStill():
            return replace(sums, stands_still=event.limit, out_of_reach=event.out_of_reach)
        case Paused():
            return replace(sums, paused_bytes=event.held_bytes)


def decide(story: Story, now: float, pace: Pace, *, new_from: float = NEVER) -> Decision:
    """What to do now. `new_from`: when there may be a new bubble again, of any job."""
    bubble = bubble_of(story.subject, story.sums)
    if bubble is None:
        return Withdraw() if story.is_open else None
    if bubble.says(story.shown):
        return None
    due = story.shown_seconds + pace.update
    if not story.is_open:
        if now - story.changed_seconds >= pace.calm:
            return None  # Nobody was there to show it, and it is no news any more; the history has it.
        due = max(due, story.opened_seconds + pace.new, new_from)
    return Show(bubble, is_new=not story.is_open) if now >= due else LookAgain(due)


def shown(story: Story, show: Show, now: float, *, is_open: bool = True) -> Story:
    """It was. Not `is_open`: the server has not said which bubble it is, so it can't be updated."""
    opened = now if show.is_new else story.opened_seconds
    return replace(
        story, shown=show.bubble, is_open=is_open, is_dismissed=False, opened_seconds=opened, shown_seconds=now
    )


def withdrawn(story: Story) -> Story:
    """It was."""
    return replace(story, shown=None, is_open=False)
