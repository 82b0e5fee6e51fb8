# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a situation calls for: the state table of one group, with its deadlines.

| phase | what is seen | next | decision |
| --- | --- | --- | --- |
| CALM | `high` grew, or above memory.high | THROTTLED | Warn once an episode, if it is no page cache |
| CALM, THROTTLED | what is stuck reaches a limit, or all tasks wait | STALLED | the start is noted |
| THROTTLED | quiet for SETTLE_SECONDS | CALM | Nothing |
| STALLED | still so after its patience, and reclaim can't help | KILL | FindVictim |
| STALLED | no longer so | THROTTLED | Nothing |
| KILL | a victim exited, or nobody can be taken | COOLING | (the guard reports) |
| KILL | the victim is still there | KILL | FindVictim: the next one |
| COOLING | time is up | CALM | read afresh |
| any | the kernel's OOM killer took a member | COOLING | KernelWasFirst |

A process tree without a cgroup can only pass a limit, which needs no patience: it goes CALM -> KILL in one look.
"""

import enum
from dataclasses import dataclass, replace
from typing import Final

from slicemgr.model.cgroup import MemoryLimits
from slicemgr.model.decision import (
    Decision,
    Evidence,
    FindVictim,
    KernelWasFirst,
    Nothing,
    Resource,
    Shortage,
    Warn,
)
from slicemgr.policy.evidence import Situation
from slicemgr.policy.shortage import NEAR_PERCENT, passed

HIGH_SETTLED_PERCENT: Final = 90
"""An episode above memory.high is over once usage is a tenth below it: a build that swings around the limit
is one episode and gives one warning, not one a second."""

PATIENCE_SECONDS: Final = 0.3
STALL_FULL_SHARE: Final = 0.6
STALL_CLEARED_FULL_SHARE: Final = 0.4
"""A stall: what is stuck is at least memory.high, and all tasks wait for six tenths of the time. In the episodes of
tests/data nobody who was to be spared had both; page cache that comes and goes has the stuck part below
the limit, swap that takes what there is waits less than 0.4 of the time. Every leak had both within 0.1 to 0.5 s of
the first event. Three tenths of a second more tell it from a burst: so a leak is decided on within a second."""

PARTIAL_PATIENCE_SECONDS: Final = 5.0
PARTIAL_WAITING_SHARE: Final = 0.9
"""Somebody waits nearly all the time, but not all do: who still runs may end and give back, so it gets five seconds.
(In the episode `neighbour-leaves` it did so after 1.5 s.)"""

STUCK_PERMILLE: Final = 1005
"""Of memory.high: where swap takes what is there, the stuck part was seen at 100.0x % for moments, with everybody
waiting; and the kernel puts nobody to sleep before 101.25 %. Above memory.max there is nothing."""

BRINK_SHARE: Final = 3 / 4
"""Of the way from memory.high to memory.max: beyond it the kernel's OOM killer is nearer than our patience is long,
and it takes the biggest without asking whose child it is. Twenty hogs got there 0.9 s after their first event."""

THRASH_PATIENCE_SECONDS: Final = 10.0
THRASH_FULL_SHARE: Final = 0.6
THRASH_REFAULT_SHARE_PER_SECOND: Final = 1 / 16
THRASH_STUCK_SHARE: Final = 1 / 2
"""A group that reclaims its own working set: for ten seconds all its tasks waited for six tenths of the time, a
sixteenth of its limit came back each second after it had been taken, and at least half of the limit is held by what
reclaim can't take. The last row is what saves a group that only reads files: its page cache may come and go."""

MEMORY_SECONDS: Final = THRASH_PATIENCE_SECONDS
"""What lies further back counts for less and less: a group that ran half of the time for ten minutes, and then stands
still, would else be judged by those ten minutes (decided on after 150 s)."""

SETTLE_SECONDS: Final = 2.0
QUIET_SOME_SHARE: Final = 0.1
"""Two seconds without an event, and hardly anybody waiting: the group needs no looking at, wherever it stands."""

COOLING_SECONDS: Final = 0.1
"""After an exit: the freed memory shows in memory.current, and the throttled ones wake (137 ms measured). Half of that
on the brink: twenty hogs filled 9 MiB in less than the whole of it."""

HOT_SECONDS: Final = 0.05
"""Between two looks at a stalled group: ten in its patience; a look costs 0.1 ms."""

WARM_SECONDS: Final = 0.2
"""Between two looks at a throttled one: a stall is seen to begin at most this late."""


class Phase(enum.Enum):
    """Where a group stands."""

    CALM = "calm"
    THROTTLED = "throttled"
    STALLED = "stalled"
    KILL = "kill"
    COOLING = "cooling"


@dataclass(frozen=True, slots=True)
class ReactionState:
    """What is remembered from look to look."""

    phase: Phase = Phase.CALM
    since_seconds: float = 0.0
    """When the phase began."""
    quiet_since_seconds: float | None = None
    """Since when nothing has happened at memory.high."""
    warned: bool = False
    """In an episode above memory.high, which has been told."""
    seen_seconds: float = 0.0
    """While stalled: for how long that has been measured; at most MEMORY_SECONDS."""
    full_seconds: float = 0.0
    """Of that time: how long all tasks waited."""
    waiting_seconds: float = 0.0
    """Of that time: how long somebody did."""
    refault_pages: float = 0
    """In that time: how many pages came back."""
    is_close: bool = False
    """While throttled: little is left to reclaim, so a stall may begin at any moment."""


def react(
    state: ReactionState, situation: Situation, limits: MemoryLimits, *, throttles: bool, page_bytes: int = 4096
) -> tuple[ReactionState, Decision]:
    """One step of the table. `throttles`: the kernel holds the group at its limits (a cgroup, not a process tree)."""
    now = situation.at_seconds
    if situation.kernel_kills:
        return _enter(state, Phase.COOLING, now), KernelWasFirst(situation.kernel_kills)
    if state.phase is Phase.COOLING:
        cooled = now - state.since_seconds
        if cooled < HOT_SECONDS or (cooled < COOLING_SECONDS and not _is_on_the_brink(situation, limits)):
            return state, Nothing()
        state = _enter(state, Phase.CALM, now)
    state, warning = _warning(state, situation, limits)
    if not throttles:
        shortage = passed(situation, limits)
        if shortage is None:
            return replace(state, phase=Phase.CALM), warning or Nothing()
        return _enter(state, Phase.KILL, now), FindVictim(shortage)
    if state.phase in {Phase.CALM, Phase.THROTTLED}:
        state = _watch_high(state, situation, limits)
        if _stalls(situation, limits):
            state = replace(
                _enter(state, Phase.STALLED, now),
                seen_seconds=0.0,
                full_seconds=0.0,
                waiting_seconds=0.0,
                refault_pages=0,
            )
    else:
        state = _remember(state, situation)
        if _cleared(state, situation, limits):
            return _enter(state, Phase.THROTTLED, now), warning or Nothing()
    if state.phase not in {Phase.STALLED, Phase.KILL}:
        return state, warning or Nothing()
    shortage = _hopeless(state, situation, limits, page_bytes)
    if shortage is None:
        return state, warning or Nothing()
    return replace(state, phase=Phase.KILL), FindVictim(shortage)


def after_kill(state: ReactionState, now: float, *, ended: bool) -> ReactionState:
    """The guard is done with a victim: `ended` if it exited or there is nobody to take, else the next one's turn."""
    return _enter(state, Phase.COOLING, now) if ended else state


def next_look_seconds(state: ReactionState) -> float | None:
    """When a cgroup wants to be looked at again without having called; None: when it calls."""
    if state.phase is Phase.THROTTLED and state.is_close:
        return HOT_SECONDS
    return {
        Phase.CALM: None,
        Phase.THROTTLED: WARM_SECONDS,
        Phase.STALLED: HOT_SECONDS,
        Phase.KILL: HOT_SECONDS,
        Phase.COOLING: HOT_SECONDS,
    }[state.phase]


def _warning(state: ReactionState, situation: Situation, limits: MemoryLimits) -> tuple[ReactionState, Warn | None]:
    if limits.high is None:
        return state, None
    held = situation.unreclaimable_bytes
    if held > limits.high and not state.warned:
        return replace(state, warned=True), Warn(held, limits.high)
    if state.warned and held * 100 < limits.high * HIGH_SETTLED_PERCENT:
        return replace(state, warned=False), None
    return state, None


def _watch_high(state: ReactionState, situation: Situation, limits: MemoryLimits) -> ReactionState:
    """CALM and THROTTLED: whether the kernel slows the group down."""
    now, line = situation.at_seconds, _line(limits)
    state = replace(state, is_close=line is not None and situation.stuck_bytes * 100 >= line * HIGH_SETTLED_PERCENT)
    if situation.high_events or situation.max_events or (situation.some_share or 0.0) >= QUIET_SOME_SHARE:
        if state.phase is Phase.CALM:
            state = _enter(state, Phase.THROTTLED, now)
        return replace(state, quiet_since_seconds=None)
    if state.phase is Phase.CALM:
        return state
    if state.quiet_since_seconds is None:
        return replace(state, quiet_since_seconds=now)
    return _enter(state, Phase.CALM, now) if now - state.quiet_since_seconds >= SETTLE_SECONDS else state


def _stalls(situation: Situation, limits: MemoryLimits) -> bool:
    """Whether a stall may begin here."""
    line = _line(limits)
    if line is None:
        return False
    waits = (situation.full_share or 0.0) >= STALL_FULL_SHARE
    if not _is_stuck(situation, limits):
        return waits and _is_near(situation, line)
    blind = situation.full_share is None  # No pressure files: then the events have to do.
    partly = (situation.waiting_share or 0.0) >= PARTIAL_WAITING_SHARE
    return waits or partly or (blind and bool(situation.high_events)) or _is_on_the_brink(situation, limits)


def _cleared(state: ReactionState, situation: Situation, limits: MemoryLimits) -> bool:
    """Whether a stall is over: room below the limit, or most of the time somebody runs."""
    line = _line(limits)
    if line is None or not (situation.stuck_bytes >= line or _is_near(situation, line)):
        return True
    seen = state.seen_seconds
    if seen < PATIENCE_SECONDS or situation.full_share is None:
        return False
    partly = situation.stuck_bytes >= line and state.waiting_seconds >= seen * PARTIAL_WAITING_SHARE
    return state.full_seconds < seen * STALL_CLEARED_FULL_SHARE and not partly


def _remember(state: ReactionState, situation: Situation) -> ReactionState:
    elapsed = situation.elapsed_seconds
    seen = state.seen_seconds + elapsed
    kept = min(1.0, MEMORY_SECONDS / seen) if seen else 1.0
    return replace(
        state,
        seen_seconds=min(seen, MEMORY_SECONDS),
        full_seconds=(state.full_seconds + (situation.full_share or 0.0) * elapsed) * kept,
        waiting_seconds=(state.waiting_seconds + (situation.waiting_share or 0.0) * elapsed) * kept,
        refault_pages=(state.refault_pages + situation.refault_pages) * kept,
    )


def _hopeless(state: ReactionState, situation: Situation, limits: MemoryLimits, page_bytes: int) -> Shortage | None:
    """What convinces that waiting does not help, or None."""
    line = _line(limits)
    if line is None:
        return None
    stalled = situation.at_seconds - state.since_seconds
    resource = Resource.MEMORY if limits.high is None else Resource.HIGH
    usage = situation.usage_bytes
    if _is_stuck(situation, limits) and (_is_on_the_brink(situation, limits) or _has_waited(state, situation)):
        evidence = Evidence.SWAP_FULL if situation.swap_bytes else Evidence.UNRECLAIMABLE
        return Shortage(resource, usage, line, evidence, stalled)
    seen = state.seen_seconds
    if seen < THRASH_PATIENCE_SECONDS or situation.unreclaimable_bytes < line * THRASH_STUCK_SHARE:
        return None
    refaulted = state.refault_pages * page_bytes / seen
    if state.full_seconds >= seen * THRASH_FULL_SHARE and refaulted >= line * THRASH_REFAULT_SHARE_PER_SECOND:
        return Shortage(resource, usage, line, Evidence.THRASHING, stalled)
    return None


def _has_waited(state: ReactionState, situation: Situation) -> bool:
    """For long enough, and for most of that time."""
    seen = state.seen_seconds
    if situation.full_share is None:
        return seen >= PATIENCE_SECONDS
    fully = seen >= PATIENCE_SECONDS and state.full_seconds >= seen * STALL_FULL_SHARE
    partly = seen >= PARTIAL_PATIENCE_SECONDS and state.waiting_seconds >= seen * PARTIAL_WAITING_SHARE
    return fully or partly


def _is_on_the_brink(situation: Situation, limits: MemoryLimits) -> bool:
    """About to be taken by the kernel, and growing: who merely stands there needs nothing."""
    if limits.max is None or not (situation.high_events or situation.max_events):
        return False
    high = limits.max if limits.high is None else limits.high
    return situation.usage_bytes >= high + (limits.max - high) * BRINK_SHARE


def _is_stuck(situation: Situation, limits: MemoryLimits) -> bool:
    """What neither reclaim nor swap can take is above the limit by itself."""
    if limits.high is not None:
        return situation.stuck_bytes * 1000 >= limits.high * STUCK_PERMILLE
    return limits.max is not None and situation.stuck_bytes >= limits.max


def _is_near(situation: Situation, line: int) -> bool:
    return situation.usage_bytes * 100 >= line * NEAR_PERCENT


def _line(limits: MemoryLimits) -> int | None:
    """Where the group stands still: at memory.high, else at memory.max."""
    return limits.max if limits.high is None else limits.high


def _enter(state: ReactionState, phase: Phase, now: float) -> ReactionState:
    return replace(state, phase=phase, since_seconds=now, quiet_since_seconds=None)
