# SPDX-License-Identifier: LGPL-2.1-or-later
"""A build on a machine of its own: a virtual clock, steps that take memory as they run, and a rule that stops them.

Nothing here waits or reads a clock, and the same build with the same rule always ends alike. What is as in reality:
the rule looks only every 20 ms; what it decides takes effect later; a step is seen and held some milliseconds after
its birth, and holds memory meanwhile; growth is measured over the last half second of running, as service/live_step.py
does. What is not: all steps of a moment get the same share of the cores, and a stopped step holds what it held.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from slicemgr.model.step import Profile, Step, StepState
from tests.pacing.builds import BIRTH_BYTES, Build, Work

LOOK_SECONDS: Final = 0.02
DELAY_SECONDS: Final = 0.02
"""From a look until a stop or a start takes effect: the look itself, the signal, and a core for the step."""

BORN_SECONDS: Final = 0.01
"""So long a step runs before it is held at birth."""

GROWTH_SECONDS: Final = 0.5
GIVE_UP_SECONDS: Final = 20_000.0


class StuckError(Exception):
    """Nobody runs, and nobody will."""


@dataclass(slots=True)
class Live:
    """One step that has begun."""

    order: int
    work: Work
    index: int
    """Of the work in the build."""
    state: StepState
    since: float
    ran: float = 0.0
    held: float = BIRTH_BYTES
    peak: float = 0.0
    grown_at: float = 0.0
    marked: float = 0.0
    alone: bool = False
    stops: int = 0
    waited: float = 0.0
    history: deque[tuple[float, float]] = field(default_factory=deque)
    course: list[tuple[float, float]] = field(default_factory=list)

    def run(self, progress: float, wall: float) -> bool:
        """Go on for some seconds, of which it gets a share; whether it ends with them."""
        self.ran += wall
        self._progress += progress
        done = self._progress >= self.work.run_seconds - 1e-9
        self.held = max(BIRTH_BYTES, self._at(self._progress))
        if self.held > self.marked * 1.01 + 262_144:
            # Above the mark, not the last peak: who grows slowly is above that by a little at each look.
            self.grown_at, self.marked = self.ran, self.held
        if self.held > self.peak:
            self.peak = self.held
            self.course.append((self.ran, self.held))
        self.history.append((self.ran, self.held))
        while len(self.history) > 2 and self.history[1][0] <= self.ran - GROWTH_SECONDS:
            self.history.popleft()
        return done

    _progress: float = 0.0

    def _at(self, progress: float) -> float:
        course = self.work.course
        index = bisect_right(course, progress, key=lambda point: point[0])
        if index >= len(course):
            return course[-1][1]
        if index == 0:
            return course[0][1]
        (at, held), (to, then) = course[index - 1], course[index]
        return held + (then - held) * (progress - at) / (to - at)

    @property
    def growth(self) -> float:
        """Over the last half second of its running."""
        if len(self.history) < 2:
            return 0.0
        (began, then), (ended, now) = self.history[0], self.history[-1]
        return max(0.0, (now - then) / (ended - began)) if ended > began else 0.0

    def as_step(self, now: float, profile: Profile | None) -> Step:
        """For policy."""
        return Step(
            self.order,
            self.state,
            int(self.held),
            self.ran,
            self.growth,
            self.ran - self.grown_at,
            self.work.kind,
            profile,
            now - self.since,
            True,
            self.alone,
        )

    def learnt(self) -> Profile:
        """As LiveStep.learnt."""
        rise = min((at * self.peak / held for at, held in self.course if held >= self.peak * 0.25), default=self.ran)
        return Profile(int(self.peak), min(rise, self.ran), self.ran)


@dataclass(frozen=True, slots=True)
class Look:
    """What a rule sees."""

    now: float
    steps: Sequence[Live]
    """Oldest first."""
    base_bytes: float
    """What the drivers hold."""
    limit_bytes: float
    is_event: bool
    """Somebody was born or has ended since the last look."""
    ended: Sequence[Live] = ()
    """Who has ended since the last look."""
    waiting_to_begin: bool = False

    @property
    def usage(self) -> float:
        """Of all together."""
        return self.base_bytes + sum(step.held for step in self.steps)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the rule wants: numbers of steps."""

    stop: Sequence[int] = ()
    go: Sequence[int] = ()
    kill: Sequence[int] = ()


class Rule(Protocol):
    """Who runs and who waits."""

    holds_at_birth: bool
    look_seconds: float

    def decide(self, look: Look) -> Answer:
        """At this moment."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a build went."""

    makespan: float
    kills: int
    stops: int
    """Of steps that had run; held at birth does not count."""
    peak_bytes: float
    failed: int = 0
    """Steps that were killed though they ran alone."""
    profiles: Mapping[int, Profile] = field(default_factory=dict)
    waited_seconds: float = 0.0
    decisions: int = 0


def simulate(build: Build, rule: Rule, watch: Callable[[Look, Answer], None] | None = None) -> Outcome:
    """Run the whole build. Raises StuckError if the rule lets nobody run for long."""
    return _Machine(build, rule, watch).run()


class _Machine:
    def __init__(self, build: Build, rule: Rule, watch: Callable[[Look, Answer], None] | None) -> None:
        self._build, self._rule, self._watch = build, rule, watch
        self._queue = deque((index, work, False) for index, work in enumerate(build.works))
        self._live: dict[int, Live] = {}
        self._orders = 0
        self._now = 0.0
        self._pending: list[tuple[float, StepState, int]] = []
        self._tries: dict[int, int] = {}
        self._ended: list[Live] = []
        self._is_event = False
        self._kills = self._stops = self._failed = self._decisions = 0
        self._peak = self._waited = 0.0
        self._profiles: dict[int, Profile] = {}

    def run(self) -> Outcome:
        next_look = 0.0
        last_run = 0.0
        while self._queue or self._live:
            self._begin()
            if self._now >= next_look - 1e-9:
                self._look()
                next_look = self._now + self._rule.look_seconds
            self._advance()
            if any(live.state is StepState.RUNNING for live in self._live.values()) or not self._live:
                last_run = self._now
            if self._now - last_run > 300.0 or self._now > GIVE_UP_SECONDS:
                raise StuckError(f"{self._build.name}: nobody runs at {self._now:.1f} s")
        return Outcome(
            self._now, self._kills, self._stops, self._peak, self._failed, self._profiles, self._waited, self._decisions
        )

    def _base(self) -> float:
        return self._build.base_bytes + self._build.driver_bytes * len(self._live)

    def _begin(self) -> None:
        """The build tool fills its slots."""
        while self._queue and len(self._live) < self._build.jobs:
            index, work, alone = self._queue.popleft()
            live = Live(self._orders, work, index, StepState.RUNNING, self._now, alone=alone)
            self._live[self._orders] = live
            self._orders += 1
            self._is_event = True
            if self._rule.holds_at_birth:
                live.run(BORN_SECONDS, BORN_SECONDS)
                live.state = StepState.NEW

    def _look(self) -> None:
        steps = [self._live[order] for order in sorted(self._live)]
        look = Look(self._now, steps, self._base(), self._build.limit_bytes, self._is_event, self._ended)
        self._is_event, self._ended = False, []
        answer = self._rule.decide(look)
        if self._watch is not None:
            self._watch(look, answer)
        self._decisions += 1
        for order in answer.kill:
            self._kill(self._live[order])
        due = self._now + DELAY_SECONDS
        self._pending += [(due, StepState.WAITING, order) for order in answer.stop]
        self._pending += [(due, StepState.RUNNING, order) for order in answer.go]

    def _advance(self) -> None:
        """One look interval further."""
        for _, state, order in [each for each in self._pending if each[0] <= self._now + 1e-9]:
            live = self._live.get(order)
            if live is not None and live.state is not state:
                if state is StepState.WAITING:
                    self._stops += 1
                    live.stops += 1
                else:
                    live.waited += self._now - live.since
                live.state, live.since = state, self._now
        self._pending = [each for each in self._pending if each[0] > self._now + 1e-9]
        running = [live for live in self._live.values() if live.state is StepState.RUNNING]
        share = min(1.0, self._build.cores / len(running)) if self._build.cores and running else 1.0
        for live in running:
            if live.run(LOOK_SECONDS * share, LOOK_SECONDS):
                self._end(live)
        self._now += LOOK_SECONDS
        usage = self._base() + sum(live.held for live in self._live.values())
        self._peak = max(self._peak, usage)
        while usage > self._build.limit_bytes and self._live:
            victim = max(self._live.values(), key=lambda live: (live.held, live.order))
            usage -= victim.held
            self._kill(victim)

    def _end(self, live: Live) -> None:
        del self._live[live.order]
        self._ended.append(live)
        self._is_event = True
        self._waited += live.waited
        self._profiles[live.index] = live.learnt()

    def _kill(self, live: Live) -> None:
        """It comes again, and alone; who was alone already has failed."""
        del self._live[live.order]
        self._is_event = True
        self._kills += 1
        self._waited += live.waited
        self._tries[live.index] = self._tries.get(live.index, 0) + 1
        if self._tries[live.index] > 2:
            self._failed += 1
        else:
            self._queue.appendleft((live.index, live.work, True))
