# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a person is told of a job, and how often."""

import dataclasses
import html
import re
from collections.abc import Iterable
from itertools import pairwise, permutations
from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicemgr.model.decision import Evidence, Resource, Shortage
from slicemgr.model.notice import Bubble, NoticeAction, Urgency
from slicemgr.policy.notice_texts import AtLimit, Gone, Subject, plain
from slicemgr.policy.notices import (
    Closed,
    Decision,
    Ended,
    Event,
    Left,
    LookAgain,
    Pace,
    Paused,
    Resumed,
    Show,
    Slowed,
    StandsStill,
    Story,
    Withdraw,
    after,
    decide,
    shown,
    withdrawn,
)
from tests.unit.samples import MIB

PACE = Pace()
MAKE = Subject("build", "make", is_ours=True)
GIB = 1 << 30
FULL = Shortage(Resource.MEMORY, GIB, GIB, Evidence.UNRECLAIMABLE)
OWN = AtLimit(FULL, is_own=True)
MORE, STOP, RESUME = NoticeAction


def ended(*names: str, limit: AtLimit = OWN, held: int = 100) -> Ended:
    return Ended(tuple(Gone(name, held * MIB) for name in names), len(names), limit)


def by_kernel(*names: str, count: int = 0, is_own: bool = True) -> Ended:
    gone = tuple(Gone(name) for name in names)
    return Ended(gone, count or len(gone), AtLimit(None, is_own), by_kernel=True)


HIGH = Slowed(980 * MIB, 960 * MIB, is_own=True)
STILL = StandsStill(OWN)
PAUSED, RESUMED, LEFT = Paused(2 * GIB), Resumed(), Left()

Timed: TypeAlias = tuple[float, Event]


class Player:
    """A desktop that does at once what it is told, and a clock that is set."""

    def __init__(self, subject: Subject = MAKE) -> None:
        self.story = Story(subject)
        self.done: list[tuple[float, Show | Withdraw]] = []

    def play(self, events: Iterable[Timed]) -> None:
        """In the order of their times, and on until there is nothing more to do."""
        for now, event in events:
            self._run(until=now)
            self.story = after(self.story, event, now, PACE)
            self._do(now)
        self._run(until=float("inf"))

    def _run(self, until: float) -> None:
        now = float("-inf")
        while isinstance(what := decide(self.story, now, PACE), LookAgain) and what.at_seconds < until:
            assert what.at_seconds > now, "it never comes to rest"
            now = what.at_seconds
            self._do(now)

    def _do(self, now: float) -> None:
        what: Decision = decide(self.story, now, PACE)
        if isinstance(what, Show):
            self.story = shown(self.story, what, now)
            self.done.append((now, what))
        elif isinstance(what, Withdraw):
            self.story = withdrawn(self.story)
            self.done.append((now, what))


def bubble(*events: Event, subject: Subject = MAKE) -> Bubble:
    """What is to be seen after all of them, with nobody in a hurry."""
    story = Story(subject)
    for event in events:
        story = after(story, event, 0.0, PACE)
    what = decide(story, 0.0, PACE)
    assert isinstance(what, Show)
    return what.bubble


WHY = "It used 1.0G of its limit of 1.0G (memory.max), and nearly all of it can't be reclaimed."
TO_KEEP_ALL = "To keep all: fewer steps at once, or a higher limit."
OF_THE_SLICE = 'To keep all: fewer steps at once, or a higher memory_max of "build" in slicemgr.toml.'


@pytest.mark.parametrize(
    ("events", "summary", "body"),
    [
        ([ended("meinproc5")], '1 process ended in build "make"', ["meinproc5 (100.0M).", WHY, TO_KEEP_ALL]),
        ([ended("meinproc5"), ended("cc1plus"), ended("ld")], '3 processes ended in build "make"',
         ["ld (100.0M), cc1plus (100.0M), meinproc5 (100.0M); 300.0M in all.", WHY, TO_KEEP_ALL]),
        ([ended(*"abcdefg")], '7 processes ended in build "make"',
         ["g (100.0M), f (100.0M), e (100.0M), d (100.0M), c (100.0M) and 2 more; 700.0M in all.", WHY, TO_KEEP_ALL]),
        ([ended("cc1plus", limit=AtLimit(Shortage(Resource.MEMORY, 8 * GIB, 8 * GIB), is_own=False))],
         '1 process ended in build "make"',
         ["cc1plus (100.0M).", "The slice used 8.0G of its limit of 8.0G (memory.max).", OF_THE_SLICE]),
        ([ended("ld", limit=AtLimit(Shortage(Resource.MACHINE, 300 * MIB, 800 * MIB, Evidence.MACHINE), is_own=False))],
         '1 process ended in build "make"',
         ["ld (100.0M).", "The machine had 300.0M available, of at least 800.0M.", "To keep all: fewer steps at once."]),
        ([by_kernel("ld", count=3)], '3 processes ended in build "make"',
         ["ld and 2 more; by the kernel.", "The kernel's OOM killer was first, at its limit.", TO_KEEP_ALL]),
        ([by_kernel(count=1, is_own=False)], '1 process ended in build "make"',
         ["1 process; by the kernel.", "The kernel's OOM killer was first, at the limit of the slice.", OF_THE_SLICE]),
        ([by_kernel("ld"), ended("cc1plus")], '2 processes ended in build "make"',
         ["cc1plus (100.0M), ld; 100.0M in all, 1 by the kernel.", WHY, TO_KEEP_ALL]),
        ([HIGH], 'Memory is short in build "make"',
         ["It uses 980.0M, above 960.0M (memory.high), and is slowed down.", "If that goes on, one process is ended."]),
        ([dataclasses.replace(HIGH, is_own=False)], 'Memory is short in build "make"',
         ["The slice uses 980.0M, above 960.0M (memory.high), and is slowed down.", "If that goes on, one process is ended."]),
        ([HIGH, ended("ld")], '1 process ended in build "make"', ["ld (100.0M).", WHY, TO_KEEP_ALL]),
        ([STILL], 'Nothing can be ended in build "make"',
         [WHY, "None of its processes may be ended. Stop it, or give it a higher limit."]),
        ([ended("ld"), StandsStill(OWN, out_of_reach=True)], 'Nothing more can be ended in build "make"',
         ["ld (100.0M).", WHY, "It is in files that no process's end frees. Remove what it wrote to /dev/shm or /tmp."]),
        ([STILL, ended("ld")], '1 process ended in build "make"', ["ld (100.0M).", WHY, TO_KEEP_ALL]),
        ([PAUSED], 'Build "make" is paused', ["It keeps 2.0G, and goes on when it is resumed."]),
        ([HIGH, PAUSED], 'Build "make" is paused', ["It keeps 2.0G, and goes on when it is resumed."]),
        ([ended("ld"), PAUSED], '1 process ended in build "make"',
         ["ld (100.0M).", WHY, "It keeps 2.0G, and goes on when it is resumed."]),
    ],
)  # fmt: skip
def test_the_words(events: list[Event], summary: str, body: list[str]) -> None:
    """Who, why, how much, what to do."""
    made = bubble(*events)
    assert (made.summary, made.body.split("\n")) == (summary, body)


@pytest.mark.parametrize(
    ("subject", "phrase"),
    [
        (Subject("build", "make"), 'build "make"'),
        (Subject("build-image", "debos"), 'build "debos"'),
        (Subject("app", "firefox"), 'app "firefox"'),
        (Subject("agent", "claude"), 'job "claude"'),
        (Subject("build"), "the builds"),
        (Subject("app"), "the apps"),
        (Subject("session"), "the session"),
        (Subject("agent"), 'slice "agent"'),
        (Subject("build", "\n"), 'build "\N{REPLACEMENT CHARACTER}"'),
    ],
)
def test_whom_it_is_about(subject: Subject, phrase: str) -> None:
    assert subject.phrase == phrase
    assert bubble(ended("ld"), subject=subject).summary == f"1 process ended in {phrase}"


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("cc1plus", "cc1plus"),
        ("", "?"),
        ("a\x1b[2J\nb", "a\N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}b"),
        ("a\N{RIGHT-TO-LEFT OVERRIDE}b", "a\N{REPLACEMENT CHARACTER}b"),
        ("a\udcffb", "a\N{REPLACEMENT CHARACTER}b"),
        ("größer", "größer"),
        ("x" * 40, "x" * 40),
        ("x" * 41, "x" * 39 + "…"),
    ],
)
def test_a_name_can_not_draw(name: str, written: str) -> None:
    assert plain(name) == written


@pytest.mark.parametrize(
    ("events", "actions"),
    [
        ([ended("ld")], [MORE, STOP]),
        ([by_kernel("ld")], [MORE, STOP]),
        ([HIGH], [MORE, STOP]),
        ([STILL], [MORE, STOP]),
        # What the job's own limits do not keep from it, higher ones would not give it.
        ([by_kernel("ld", is_own=False)], [STOP]),
        ([dataclasses.replace(HIGH, is_own=False)], [STOP]),
        ([ended("ld", limit=AtLimit(FULL, is_own=False))], [STOP]),
        ([ended("ld", limit=AtLimit(Shortage(Resource.SWAP, 5, 4), is_own=True))], [STOP]),
        ([ended("ld", limit=AtLimit(Shortage(Resource.MACHINE, 4, 5), is_own=False))], [STOP]),
        ([PAUSED], [RESUME, STOP]),
        ([ended("ld"), PAUSED], [RESUME, STOP]),
        ([ended("ld"), PAUSED, RESUMED], [MORE, STOP]),
        ([ended("ld"), LEFT], []),
    ],
)
def test_what_can_be_pressed(events: list[Event], actions: list[NoticeAction]) -> None:
    assert [action for action, _ in bubble(*events).actions] == actions
    for stranger in (Subject("build", "make"), Subject("build")):
        assert bubble(*events, subject=stranger).actions == ()


def test_labels() -> None:
    assert bubble(ended("ld")).actions == ((MORE, "A quarter more memory"), (STOP, "Stop the build"))
    agent = Subject("agent", "claude", is_ours=True)
    assert bubble(PAUSED, subject=agent).actions == ((RESUME, "Resume the job"), (STOP, "Stop the job"))


@pytest.mark.parametrize(
    ("event", "urgency", "is_transient"),
    [
        (ended("ld"), Urgency.NORMAL, False),
        (HIGH, Urgency.NORMAL, True),
        (STILL, Urgency.CRITICAL, False),
        (PAUSED, Urgency.LOW, False),
    ],
)
def test_how_urgent(event: Event, urgency: Urgency, is_transient: bool) -> None:
    made = bubble(event)
    assert (made.urgency, made.is_transient) == (urgency, is_transient)


@pytest.mark.parametrize(
    ("events", "done"),
    [
        # The first at once, the next together.
        ([(0, ended("a")), (1, ended("b")), (2, ended("c")), (4.9, ended("d"))],
         [(0, "new", "1"), (5, "update", "4")]),
        ([(0, ended("a")), (5, ended("b")), (299, ended("c"))],
         [(0, "new", "1"), (5, "update", "2"), (299, "update", "3")]),
        # After some minutes of quiet it is another story.
        ([(0, ended("a")), (300, ended("b"))], [(0, "new", "1"), (300, "new", "1")]),
        # A bubble that is gone can't be updated, and the next one may come a minute after it began.
        ([(0, ended("a")), (8, Closed(False)), (10, ended("b")), (20, ended("c"))], [(0, "new", "1"), (60, "new", "3")]),
        ([(0, ended("a")), (70, Closed(True)), (80, ended("b"))], [(0, "new", "1"), (80, "new", "2")]),
        ([(0, ended("a")), (8, Closed(True))], [(0, "new", "1")]),
        # A build may cross memory.high all day.
        ([(at, HIGH) for at in range(0, 3600, 100)], [(0, "new", "Memory")]),
        ([(0, HIGH), (5, Closed(False)), (100, HIGH)], [(0, "new", "Memory")]),
        ([(0, HIGH), (301, HIGH)], [(0, "new", "Memory"), (301, "new", "Memory")]),
        ([(0, HIGH), (3, ended("a"))], [(0, "new", "Memory"), (5, "update", "1")]),
        ([(0, ended("a")), (7, HIGH)], [(0, "new", "1")]),
        ([(0, ended("a")), (7, Closed(True)), (70, HIGH)], [(0, "new", "1")]),
        # Paused and resumed: it is seen, and withdrawn.
        ([(0, PAUSED), (9, RESUMED)], [(0, "new", "Build"), (9, "withdraw", "")]),
        ([(0, PAUSED), (9, RESUMED), (20, PAUSED)], [(0, "new", "Build"), (9, "withdraw", ""), (60, "new", "Build")]),
        ([(0, PAUSED), (9, RESUMED), (20, PAUSED), (40, RESUMED)], [(0, "new", "Build"), (9, "withdraw", "")]),
        ([(0, PAUSED), (4000, RESUMED)], [(0, "new", "Build"), (4000, "withdraw", "")]),
        ([(0, PAUSED), (4000, by_kernel("a")), (4001, RESUMED)],
         [(0, "new", "Build"), (4000, "update", "1"), (4005, "update", "1")]),
        ([(0, RESUMED), (1, LEFT)], []),
        # A job that ends takes with it what was about to happen to it, and leaves what it has lost.
        ([(0, STILL), (9, LEFT)], [(0, "new", "Nothing"), (9, "withdraw", "")]),
        ([(0, HIGH), (9, LEFT)], [(0, "new", "Memory"), (9, "withdraw", "")]),
        ([(0, ended("a")), (9, LEFT)], [(0, "new", "1")]),
        ([(0, ended("a")), (1, ended("b")), (2, LEFT)], [(0, "new", "1"), (5, "update", "2")]),
        ([(0, ended("a")), (7, STILL), (13, LEFT)], [(0, "new", "1"), (7, "update", "Nothing"), (13, "update", "1")]),
    ],
)  # fmt: skip
def test_when(events: list[Timed], done: list[tuple[float, str, str]]) -> None:
    """One bubble that is updated, and seldom a new one."""
    player = Player()
    player.play(events)
    assert [_in_short(*each) for each in player.done] == done


def _in_short(now: float, what: Show | Withdraw) -> tuple[float, str, str]:
    if isinstance(what, Withdraw):
        return now, "withdraw", ""
    return now, "new" if what.is_new else "update", what.bubble.summary.partition(" ")[0]


def test_other_jobs_have_new_bubbles_too() -> None:
    """A new one waits for them, an update for nobody."""
    story = after(Story(MAKE), ended("a"), 100.0, PACE)
    assert decide(story, 100.0, PACE, new_from=130.0) == LookAgain(130.0)
    what = decide(story, 130.0, PACE, new_from=130.0)
    assert isinstance(what, Show)
    story = after(shown(story, what, 130.0), ended("b"), 136.0, PACE)
    assert isinstance(decide(story, 136.0, PACE, new_from=1000.0), Show)


def test_a_server_that_does_not_say_which() -> None:
    """Then there is nothing to update: it is told once, and the next is a new one."""
    story = after(Story(MAKE), ended("a"), 0.0, PACE)
    what = decide(story, 0.0, PACE)
    assert isinstance(what, Show)
    story = shown(story, what, 2.0, is_open=False)
    assert decide(story, 2.0, PACE) is None
    story = after(story, ended("b"), 3.0, PACE)
    assert decide(story, 3.0, PACE) == LookAgain(62.0)


def test_what_nobody_showed_is_no_news_after_a_while() -> None:
    story = after(Story(MAKE), ended("a"), 0.0, PACE)
    assert isinstance(decide(story, 299.0, PACE), Show)
    assert decide(story, 300.0, PACE) is None


@pytest.mark.parametrize("order", list(permutations([ended("a"), by_kernel("b", count=2), ended("c", "d"), HIGH])))
def test_the_order_is_no_matter_to_the_sums(order: tuple[Event, ...]) -> None:
    """All are counted, and all are named."""
    made = bubble(*order)
    assert made.summary == '5 processes ended in build "make"'
    who = made.body.partition("\n")[0]
    assert sorted(re.findall(r"\b[abcd]\b(?! more)", who.partition(";")[0])) == ["a", "b", "c", "d"]
    assert who.endswith(" and 1 more; 300.0M in all, 2 by the kernel.")


NAMES = st.text(max_size=60)
SIZES = st.integers(0, 1 << 50)
SHORTAGES = st.builds(Shortage, st.sampled_from(Resource), SIZES, SIZES, st.sampled_from(Evidence))
LIMITS = st.builds(AtLimit, st.none() | SHORTAGES, st.booleans())
ENDS = st.builds(
    lambda gone, more, limit, kernel: Ended(tuple(gone), len(gone) + more, limit, kernel),
    st.lists(st.builds(Gone, NAMES, st.none() | SIZES), min_size=1, max_size=7),
    st.integers(0, 3),
    LIMITS,
    st.booleans(),
)
CLOSES = st.builds(Closed, st.booleans())
EVENTS = st.one_of(
    ENDS,
    st.builds(Slowed, SIZES, SIZES, st.booleans()),
    st.builds(StandsStill, LIMITS, st.booleans()),
    st.builds(Paused, SIZES),
    st.just(RESUMED),
    st.just(LEFT),
    CLOSES,
)
SUBJECTS = st.builds(Subject, st.sampled_from(["build", "app", "session", "agent"]) | NAMES, NAMES, st.booleans())
GAPS = st.floats(0, 3) | st.floats(0, 90) | st.floats(0, 1000)


def timed(events: st.SearchStrategy[Event]) -> st.SearchStrategy[list[Timed]]:
    """One after the other: bursts, and pauses of all lengths."""

    def at(steps: list[tuple[float, Event]]) -> list[Timed]:
        now, found = 0.0, []
        for gap, event in steps:
            now += gap
            found.append((now, event))
        return found

    return st.lists(st.tuples(GAPS, events), max_size=25).map(at)


@given(SUBJECTS, timed(EVENTS))
def test_never_more_often(subject: Subject, events: list[Timed]) -> None:
    player = Player(subject)
    player.play(events)
    shows = [(now, what) for now, what in player.done if isinstance(what, Show)]
    new = [now for now, what in shows if what.is_new]
    assert all(later >= earlier + PACE.new for earlier, later in pairwise(new))
    assert all(later >= earlier + PACE.update for (earlier, _), (later, _) in pairwise(shows))


@given(timed(ENDS | CLOSES))
def test_nothing_is_lost(events: list[Timed]) -> None:
    """Of each story the last bubble has all that were ended, whoever closed it meanwhile."""
    player = Player()
    player.play(events)
    stories: list[list[tuple[float, Ended]]] = []
    for now, event in events:
        if isinstance(event, Ended):
            if not stories or now - stories[-1][-1][0] >= PACE.calm:
                stories.append([])
            stories[-1].append((now, event))
    begins = [story[0][0] for story in stories]
    for story, begin, end in zip(stories, begins, [*begins[1:], float("inf")], strict=False):
        last = [what for now, what in player.done if begin <= now < end][-1]
        assert isinstance(last, Show)
        count = sum(event.count for _, event in story)
        assert last.bubble.summary == f'{count} process{"" if count == 1 else "es"} ended in build "make"'


@given(SUBJECTS, st.lists(EVENTS.filter(lambda event: not isinstance(event, Closed)), max_size=8))
def test_any_name_is_text(subject: Subject, events: list[Event]) -> None:
    """On a line of its own, not too long, and never markup."""
    story = Story(subject)
    for event in events:
        story = after(story, event, 0.0, PACE)
    what = decide(story, 0.0, PACE)
    if not isinstance(what, Show):
        return
    made = what.bubble
    assert made.summary.isprintable()
    assert len(made.summary) < 100
    lines = made.body.split("\n")
    assert len(lines) <= 4
    assert all(line.isprintable() and len(line) < 400 for line in lines)
    assert not set(made.markup) & set("<>")
    assert re.fullmatch(r"(?:[^&]|&(?:amp|lt|gt);)*", made.markup, re.DOTALL)
    assert html.unescape(made.markup) == made.body
    (made.summary + made.markup).encode()


def test_markup_stays_text() -> None:
    made = bubble(ended('<a href="http://x">&amp;</a>'))
    assert made.markup.partition(" (100")[0] == '&lt;a href="http://x"&gt;&amp;amp;&lt;/a&gt;'
