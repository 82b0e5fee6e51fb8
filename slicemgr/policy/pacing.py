# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which steps of a build run and which wait, so that all of them fit: nothing has to be killed.

Congestion control: the slice is the link, steps are packets, memory is the bandwidth. Two things are decided.

Who goes on or begins: those whose predicted usage fits over all the time ahead (policy/forecast.py), beside all that
run already. Of three orders (oldest, longest, biggest first) the one is taken whose last step ends first; the oldest
comes first in any case when it has waited long. To hold a step before it takes memory is the rule.

Who is stopped: nobody, if the predictions are right. If they were wrong the newest that grows is stopped first, the
oldest last, and never the only one: somebody has to end to free anything. What the stopped ones hold is lost for the
others, so that a build of unknown steps begins slowly, and the oldest keeps room for the biggest that was seen.

All is pure: times are lengths, and the answer depends on nothing but the arguments.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from slicemgr.model.step import Profile, Step, StepState
from slicemgr.policy.expectation import STILL_SECONDS, Expectation, is_growing
from slicemgr.policy.forecast import Curve, Forecast

PLANNED_SHARE: Final = 0.97
"""Of the budget for what is planned: a look comes late by some 20 ms, and a learnt peak is not the next one."""

HARD_SHARE: Final = 0.99
"""Of the budget where running steps are stopped."""

AHEAD_SECONDS: Final = 0.15
"""How far ahead the running ones have to fit. With 1 s more were stopped that had not needed it: a cold build of fast
steps took 1.11 of the best -jN, and not 1.00."""

REACTION_SECONDS: Final = 0.3
"""What may go by between the moment at which a step ought to stand and that at which it does."""

FIRST_TOGETHER: Final = 3
FIRST_SPACING_SECONDS: Final = 0.7
"""Of a build of which nothing is known only so many begin at once, then one each 0.7 s: so their peaks do not come
together either. Without it the simulated cold builds ran out in 1 of 18; with 1.5 s short steps took 7 % longer."""

BEGIN_SHARE: Final = 0.03
"""Of the budget, what a step takes before it can be stopped again."""

SHORTEST_WAIT_SECONDS: Final = 0.1
SHORTEST_RUN_SECONDS: Final = 0.3
"""Against flapping. With 0.5 s a wait, which one late end can make needless, mixed builds took 10 % longer."""

LONGEST_WAIT_SECONDS: Final = 60.0
"""After this the oldest is planned first, and no other may delay it: planning the oldest first always made a mixed
build 10 to 20 % slower."""

AT_ONCE_SECONDS: Final = 0.03
"""Who could begin that soon begins now."""

SEEN_AHEAD: Final = 20
"""So many waiting steps are planned; `make -j200` has more, and they come later."""


@dataclass(frozen=True, slots=True)
class Pace:
    """What to do now; numbers are the `order` of steps."""

    stop: tuple[int, ...] = ()
    go: tuple[int, ...] = ()
    short_bytes: int = 0
    """What is lacking for the only one that runs beside what the waiting ones hold: waiting can't help any more."""


def pace(steps: Sequence[Step], ended: Mapping[str, Sequence[Profile]], *, budget_bytes: int, base_bytes: int) -> Pace:
    """Who stops and who goes on.

    `ended`: by kind, profiles of steps that have ended; `budget_bytes`: what can't be reclaimed has to stay below it;
    `base_bytes`: what is held by others than the steps: drivers, the kernel for them, other members.
    """
    expected = Expectation(steps, ended, budget_bytes)
    ordered = sorted(steps, key=lambda step: step.order)
    running = {step.order: step for step in ordered if step.state is StepState.RUNNING}
    stopped = _stopped(ordered, running, expected, budget_bytes=budget_bytes, base_bytes=base_bytes)
    for order in stopped:
        del running[order]
    going: list[int] = []
    if not stopped:
        waiting = [step for step in ordered if step.order not in running]
        forecast = _forecast(ordered, running, expected, base_bytes)
        going = _going(waiting, running, forecast, expected, budget_bytes=budget_bytes, base_bytes=base_bytes)
    if not running and not going and ordered:
        going = [_best_alone(ordered, expected, budget_bytes=budget_bytes, base_bytes=base_bytes)]
    return Pace(
        tuple(stopped),
        tuple(going),
        _lacking(ordered, [*running, *going], expected, budget_bytes=budget_bytes, base_bytes=base_bytes),
    )


def is_at_risk(steps: Sequence[Step], *, budget_bytes: int, base_bytes: int) -> bool:
    """Whether somebody may have to be stopped at once: the cheap question between two decisions."""
    usage = base_bytes + sum(step.held_bytes for step in steps)
    growth = sum(step.growth_bytes_per_second for step in steps if step.state is StepState.RUNNING)
    return usage + growth * AHEAD_SECONDS > budget_bytes * HARD_SHARE


def _forecast(steps: Sequence[Step], running: Mapping[int, Step], expected: Expectation, base_bytes: int) -> Forecast:
    forecast = Forecast(float(base_bytes + sum(step.held_bytes for step in steps if step.order not in running)))
    for step in running.values():
        forecast.add(expected.curve_of(step))
    return forecast


def _stopped(
    steps: Sequence[Step],
    running: Mapping[int, Step],
    expected: Expectation,
    *,
    budget_bytes: int,
    base_bytes: int,
) -> list[int]:
    """The newest that grow first; the oldest only if another one runs that has its peak behind it."""
    limit = budget_bytes * HARD_SHARE
    left = dict(running)
    stopped: list[int] = []
    usage = base_bytes + sum(step.held_bytes for step in steps)

    def stop_one(candidates: Sequence[Step]) -> bool:
        if not candidates or len(left) < 2:
            return False
        stopped.append(candidates[-1].order)
        del left[candidates[-1].order]
        return True

    while len(left) > 1 and _forecast(steps, left, expected, base_bytes).highest(AHEAD_SECONDS) > limit:
        growing = [step for step in left.values() if step.may_wait and _may_grow(step)]
        if usage <= limit and (rested := [step for step in growing if step.since_seconds >= SHORTEST_RUN_SECONDS]):
            growing = rested
        oldest = min(left)
        if not stop_one([step for step in growing if step.order != oldest] or growing):
            break
    # And room for the keeper to end, as long as nobody knows how big it becomes.
    keeper = left.get(min(left)) if left else None
    if keeper is not None and keeper.profile is None:
        others = base_bytes + sum(step.held_bytes for step in steps if step is not keeper)
        room = limit - others - expected.keeper_bytes(keeper)
        while True:
            growing = [step for step in left.values() if step is not keeper and step.may_wait and is_growing(step)]
            growth = sum(step.growth_bytes_per_second for step in growing) * REACTION_SECONDS
            if growth <= room or not stop_one(growing):
                break
    return stopped


def _may_grow(step: Step) -> bool:
    return is_growing(step) or step.ran_seconds < STILL_SECONDS


def _going(
    waiting: Sequence[Step],
    running: Mapping[int, Step],
    forecast: Forecast,
    expected: Expectation,
    *,
    budget_bytes: int,
    base_bytes: int,
) -> list[int]:
    """Those of the best plan whose time has come."""
    holds_back = any(step.state is StepState.WAITING for step in waiting)
    # New ones of unknown size take nothing while others stand still for lack of memory.
    candidates = [
        step for step in waiting if step.state is StepState.NEW and (step.profile is not None or not holds_back)
    ] + [step for step in waiting if step.state is StepState.WAITING and step.since_seconds >= SHORTEST_WAIT_SECONDS]
    candidates.sort(key=lambda step: step.order)
    limit = budget_bytes * PLANNED_SHARE
    curves = {step.order: expected.curve_of(step) for step in candidates[:SEEN_AHEAD]}
    plan = _best_plan(candidates[:SEEN_AHEAD], curves, forecast, limit)
    return _let_go(
        [step for at, step in plan if at <= AT_ONCE_SECONDS],
        waiting,
        running,
        expected,
        budget_bytes=budget_bytes,
        base_bytes=base_bytes,
    )


def _best_plan(
    candidates: Sequence[Step], curves: Mapping[int, Curve], forecast: Forecast, limit: float
) -> list[tuple[float, Step]]:
    """When each begins, in the order by which the last one ends first."""
    orders = [
        list(candidates),
        sorted(candidates, key=lambda step: -curves[step.order].end_seconds),
        sorted(candidates, key=lambda step: -curves[step.order].peak_bytes),
    ]
    if candidates and candidates[0].since_seconds >= LONGEST_WAIT_SECONDS:
        orders = [[candidates[0], *(step for step in order if step is not candidates[0])] for order in orders]
    plans = [_plan(order, curves, forecast.copy(), limit) for order in orders]
    return min(plans, key=lambda plan: plan[0])[1]


def _plan(
    order: Sequence[Step], curves: Mapping[int, Curve], forecast: Forecast, limit: float
) -> tuple[float, list[tuple[float, Step]]]:
    """Each at the earliest moment that the ones before it leave; and when the last of them ends."""
    last = 0.0
    plan: list[tuple[float, Step]] = []
    for step in order:
        curve = _beyond(curves[step.order], step.held_bytes)
        at = forecast.earliest(curve, limit)
        if at is None:
            last = max(last, 1e6) + curve.end_seconds  # After all the others.
            continue
        forecast.add(curve, at)
        plan.append((at, step))
        last = max(last, at + curve.end_seconds)
    return last, plan


def _beyond(curve: Curve, held_bytes: int) -> Curve:
    """What it takes besides what it holds already: that is in the forecast of all."""
    return Curve(
        max(0.0, curve.first_bytes - held_bytes),
        max(0.0, curve.peak_bytes - held_bytes),
        curve.rise_seconds,
        curve.end_seconds,
    )


def _let_go(
    due: Sequence[Step],
    waiting: Sequence[Step],
    running: Mapping[int, Step],
    expected: Expectation,
    *,
    budget_bytes: int,
    base_bytes: int,
) -> list[int]:
    """Those who are due, as far as an oldest of unknown size keeps its room and a cold build begins slowly."""
    keeper = running[min(running)] if running else None
    if keeper is None and due:
        keeper = due[0]
    room = float("inf")
    if keeper is not None and keeper.profile is None:
        others = sum(step.held_bytes for step in (*running.values(), *waiting) if step is not keeper)
        growth = sum(step.growth_bytes_per_second for step in running.values() if step is not keeper)
        room = budget_bytes * HARD_SHARE - base_bytes - others - expected.keeper_bytes(keeper)
        room -= growth * REACTION_SECONDS
    going: list[int] = []
    youngest = min((step.since_seconds for step in running.values()), default=FIRST_SPACING_SECONDS)
    for step in due:
        if step is not keeper:
            if room < budget_bytes * BEGIN_SHARE:
                break
            room -= budget_bytes * BEGIN_SHARE
            if expected.is_first_of_kind(step) and len(running) + len(going) >= FIRST_TOGETHER:
                if youngest < FIRST_SPACING_SECONDS:
                    continue
                youngest = 0.0
        going.append(step.order)
    return going


def _best_alone(steps: Sequence[Step], expected: Expectation, *, budget_bytes: int, base_bytes: int) -> int:
    """Nobody runs: the oldest that can end beside what the others hold; if none can, the one that lacks least."""
    room = budget_bytes - base_bytes - sum(step.held_bytes for step in steps)
    lacking = [(max(0.0, expected.curve_of(step).peak_bytes - step.held_bytes - room), step.order) for step in steps]
    return min(lacking)[1]


def _lacking(
    steps: Sequence[Step], running: Sequence[int], expected: Expectation, *, budget_bytes: int, base_bytes: int
) -> int:
    """What the only one that runs lacks at this moment, for its next second."""
    if len(running) != 1:
        return 0
    usage = base_bytes + sum(step.held_bytes for step in steps)
    step = next(step for step in steps if step.order == running[0])
    return max(0, int(usage + step.growth_bytes_per_second * REACTION_SECONDS - budget_bytes))
