# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which steps of a build run and which wait, so that all of them fit: nothing has to be killed.

Congestion control: the slice is the link, steps are packets, memory is the bandwidth. Two things are decided.

Who goes on or begins: those whose predicted usage fits over all the time ahead (policy/forecast.py), beside all that
run already. Of three orders (oldest, longest, biggest first) the one is taken whose last step ends first; the oldest
comes first in any case when it has waited long. To hold a step before it takes memory is the rule.

Who is stopped: nobody, if the predictions are right. If they were wrong the newest that grows is stopped first, the
oldest and the largest last, and never the only one: somebody has to end to free anything. What the stopped ones hold
is lost for the others, so that a build of unknown steps begins slowly; and whatever the times turn out to be, nobody
grows into what the others need to end (policy/safety.py).

All is pure: times are lengths, and the answer depends on nothing but the arguments.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from slicemgr.model.step import Profile, Step, StepState
from slicemgr.policy.expectation import STILL_SECONDS, Expectation, is_at_peak, is_growing
from slicemgr.policy.instant import HARD_SHARE, PLANNED_SHARE, REACTION_SECONDS, Instant
from slicemgr.policy.planning import LONGEST_WAIT_SECONDS, SEEN_AHEAD, due
from slicemgr.policy.safety import has_not_begun

AHEAD_SECONDS: Final = 0.15
"""How far ahead the running ones have to fit. With 1 s more were stopped that had not needed it: a cold build of fast
steps took 1.11 of the best -jN once, and not 1.00."""

STANDS_SECONDS: Final = 0.1
"""Who has not grown for so long does not lack anything now. Without it a step at its peak, with 2 MB left of 178, was
taken to lack 12 MB until its growth was forgotten, and another one was killed for it (in 2 of 8 cold builds by `sh`).
"""

SHORTEST_WAIT_SECONDS: Final = 0.1
SHORTEST_RUN_SECONDS: Final = 0.3
"""Against flapping. With 0.5 s a wait, which one late end can make needless, mixed builds took 10 % longer once."""


@dataclass(frozen=True, slots=True)
class Pace:
    """What to do now; numbers are the `order` of steps."""

    stop: tuple[int, ...] = ()
    go: tuple[int, ...] = ()
    short_bytes: int = 0
    """What is lacking for the only one that runs beside what the waiting ones hold: waiting can't help any more."""


def pace(
    steps: Sequence[Step],
    ended: Mapping[str, Sequence[Profile]],
    *,
    budget_bytes: int,
    base_bytes: int,
    ceiling: int | None = None,
    is_shared: bool = False,
) -> Pace:
    """Who stops and who goes on.

    `ended`: by kind, profiles of steps that have ended, the last ones last; `budget_bytes`: what can't be reclaimed
    has to stay below it; `base_bytes`: what is held by others than the steps: drivers, the kernel for them, other
    members. It is below 0 where the steps share memory that each of them counts. `ceiling`: so many run at once at
    most, and one in any case. `is_shared`: other builds hold some of what this one could have otherwise, and will give
    it back; so if none of its steps has begun, not even one has to.
    """
    ordered = sorted(steps, key=lambda step: step.order)
    now = Instant(ordered, Expectation(ordered, ended, budget_bytes), budget_bytes, base_bytes)
    running = {step.order: step for step in ordered if step.state is StepState.RUNNING}
    most = len(ordered) if ceiling is None else max(1, ceiling)
    stopped = _stopped(now, running)
    stopped += _above_ceiling(running, most)
    going: list[int] = []
    if not stopped and len(running) < most:
        going = _going(now, running, _whose_turn(ordered, running))[: most - len(running)]
    if not stopped and not going:
        stopped, going = _exchanged(now, running)
    if not running and not going and ordered and not (is_shared and has_not_begun(ordered)):
        going = [_best_alone(now)]
    return Pace(tuple(stopped), tuple(going), _lacking(now, [*running, *going]))


def is_at_risk(steps: Sequence[Step], *, budget_bytes: int, base_bytes: int) -> bool:
    """Whether somebody may have to be stopped at once: the cheap question between two decisions."""
    ahead = float(base_bytes)
    for step in steps:
        ahead += step.held_bytes
        if step.state is StepState.RUNNING:
            ahead += step.growth_bytes_per_second * AHEAD_SECONDS
    return ahead > budget_bytes * HARD_SHARE


def _keeper(running: Mapping[int, Step]) -> Step | None:
    """Who goes on in any case: who came to run alone, else the oldest."""
    return min(running.values(), key=lambda step: (not step.alone, step.order), default=None)


def _stopped(now: Instant, running: dict[int, Step]) -> list[int]:
    """The newest that grow first; the oldest only if another one runs that has its peak behind it. They are taken out
    of `running`."""
    limit = now.budget_bytes * HARD_SHARE
    stopped: list[int] = []
    keeper = _keeper(running)
    if keeper is None:
        return stopped
    if not keeper.alone and now.need(keeper) > limit - now.usage_bytes:
        # It can't end now, and somebody has to.
        keeper = min(running.values(), key=lambda step: (now.need(step), step.order))
    is_above = now.usage_bytes > limit
    while len(running) > 1 and now.forecast(running).highest(AHEAD_SECONDS) > limit:
        growing = [step for step in running.values() if step.may_wait and _may_grow(step)]
        if not is_above:
            # But not if only the oldest has: it would be stopped for one that has just begun.
            rested = [step for step in growing if step.since_seconds >= SHORTEST_RUN_SECONDS and step is not keeper]
            growing = rested or growing
        if not growing:
            break
        largest = max(running.values(), key=lambda step: (step.held_bytes, -step.order))
        newest = next(
            (step for step in reversed(growing) if step is not keeper and step is not largest),
            next((step for step in reversed(growing) if step is not keeper), growing[-1]),
        )
        del running[newest.order]
        stopped.append(newest.order)
    # And nobody grows into what the others need to end.
    growing = [step for step in running.values() if step.may_wait and is_growing(step)]
    first = min(running.values(), key=lambda step: (now.need(step), step.order))
    while growing and len(running) > 1 and not now.is_safe(running.values()):
        newest = growing.pop()
        if newest is not first:
            del running[newest.order]
            stopped.append(newest.order)
    return stopped


def _exchanged(now: Instant, running: dict[int, Step]) -> tuple[list[int], list[int]]:
    """If only one runs, and does not fit any more, or takes what another needs to end: it waits, and the one goes on
    that lacks least to its end, if it fits. (Who is stopped never takes any more, so this goes one way: nobody is
    exchanged for who needs more.) Who is at his learnt peak always fits, also where all together are a little above
    the budget already: a look came late."""
    if len(running) != 1:
        return [], []
    (only,) = running.values()
    if not only.may_wait or only.alone or (now.is_safe([only]) and not _lacking(now, [only.order])):
        return [], []
    need, order = min(
        (0.0 if is_at_peak(step) else now.most_bytes[step.order] - step.held_bytes, step.order)
        for step in now.steps
        if step.state is not StepState.NEW
    )
    if order == only.order or need > max(0, now.budget_bytes - now.usage_bytes):
        return [], []
    del running[only.order]
    return [only.order], [order]


def _may_grow(step: Step) -> bool:
    return is_growing(step) or step.ran_seconds < STILL_SECONDS


def _above_ceiling(running: dict[int, Step], most: int) -> list[int]:
    """The newest above what may run at once; they are taken out of `running`."""
    keeper = _keeper(running)
    excess = [step.order for step in running.values() if step is not keeper and step.may_wait][::-1]
    excess = excess[: max(0, len(running) - most)]
    for order in excess:
        del running[order]
    return excess


def _whose_turn(steps: Sequence[Step], running: Mapping[int, Step]) -> list[Step]:
    """Those that wait and may begin or go on, by age, if there is room.

    One that comes again alone is next as soon as there is one: nobody new begins any more, and it does when all who
    have begun are done, so that it finds the memory that it lacked. If those take long it is next after the ones that
    run.
    """
    waiting = [step for step in steps if step.order not in running]
    alone = next((step for step in waiting if step.alone), None)
    if any(step.alone for step in running.values()):
        return []
    if alone is None:
        return waiting
    begun = [step for step in waiting if step.state is StepState.WAITING and not step.alone]
    if begun and alone.since_seconds < LONGEST_WAIT_SECONDS:
        return begun
    return [] if running else [alone]


def _going(now: Instant, running: Mapping[int, Step], turn: Sequence[Step]) -> list[int]:
    """Those of the best plan whose time has come."""
    holds_back = any(step.state is StepState.WAITING for step in now.steps)
    # New ones of unknown size take nothing while others stand still for lack of memory.
    candidates = [
        step
        for step in turn
        if (
            step.since_seconds >= SHORTEST_WAIT_SECONDS
            if step.state is StepState.WAITING
            else step.profile is not None or not holds_back
        )
    ]
    if now.is_far:
        return [step.order for step in candidates]
    candidates = candidates[:SEEN_AHEAD]
    if not candidates:
        return []
    curves = {step.order: now.expected.curve_of(step) for step in candidates}
    ready = due(candidates, curves, now.forecast(running), now.budget_bytes * PLANNED_SHARE)
    return _let_go(now, running, ready) if ready else []


def _let_go(now: Instant, running: Mapping[int, Step], ready: Sequence[Step]) -> list[int]:
    """Those who are due, as far as an oldest of unknown size keeps its room and a cold build begins slowly."""
    together, spacing = now.expected.slow_start()
    going: list[Step] = []
    youngest = min((step.ran_seconds for step in running.values()), default=0.0)
    for step in ready:
        if (running or going) and not now.is_safe(running.values(), [*going, step]):
            continue
        if now.expected.is_first_of_kind(step) and len(running) + len(going) >= together and youngest < spacing:
            continue
        youngest = 0.0
        going.append(step)
    return [step.order for step in going]


def _best_alone(now: Instant) -> int:
    """Nobody runs: the oldest that can end beside what the others hold; if none can, the one that lacks least. Who is
    to run alone comes after those that have begun."""
    turn = _whose_turn(now.steps, {})
    room = now.budget_bytes - now.usage_bytes
    return min(
        (max(0.0, now.expected.curve_of(step).peak_bytes - step.held_bytes - room), step.order) for step in turn
    )[1]


def _lacking(now: Instant, running: Sequence[int]) -> int:
    """What the only one that runs lacks until its end, once it lacks any at all within the next moment."""
    if len(running) != 1:
        return 0
    step = next(step for step in now.steps if step.order == running[0])
    if is_at_peak(step):
        return 0
    more = now.need(step)
    # Growth is measured over half a second, and what comes of this is a kill: it has to grow at this very moment.
    growth = step.growth_bytes_per_second if step.still_seconds < STANDS_SECONDS else 0.0
    soon = min(more, growth * REACTION_SECONDS)
    free = now.budget_bytes - now.usage_bytes
    if soon <= free:
        return 0
    return max(1, int(max(more, soon) - free))
