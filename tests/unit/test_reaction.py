# SPDX-License-Identifier: LGPL-2.1-or-later
"""The state table: every row of it, its deadlines, and what it never does."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from slicemgr.policy import reaction
from slicemgr.policy.evidence import Situation
from slicemgr.policy.reaction import Phase, ReactionState, after_kill, next_look_seconds, react
from slicemgr.policy.shortage import still_short

CALM, WARNED = ReactionState(), ReactionState(warned=True)
TREE = MemoryLimits(high=80, max=100, swap_max=10)
CGROUP = MemoryLimits(high=1000, max=1100)


def holds(memory: int, swap: int = 0) -> Situation:
    """A process tree that holds so much."""
    return Situation(1.0, 0.0, memory, memory, swap_bytes=swap)


def at(
    seconds: float,
    usage: int,
    stuck: int,
    full: float | None = None,
    *,
    events: int = 0,
    elapsed: float = 0.05,
    **more: int,
) -> Situation:
    """A cgroup in which all tasks have waited for this part of the time."""
    return Situation(
        at_seconds=seconds,
        elapsed_seconds=elapsed,
        usage_bytes=usage,
        unreclaimable_bytes=stuck,
        high_events=events,
        some_share=full,
        full_share=full,
        **more,
    )


TREE_ROWS: list[tuple[str, ReactionState, int, int, bool, Decision]] = [
    ("below all", CALM, 50, 0, False, Nothing()),
    ("at a limit is not above it", CALM, 80, 10, False, Nothing()),
    ("above high", CALM, 81, 0, True, Warn(81, 80)),
    ("warned once an episode", WARNED, 90, 0, True, Nothing()),
    ("just below high is the same episode", WARNED, 79, 0, True, Nothing()),
    ("a tenth below high ends it", WARNED, 71, 0, False, Nothing()),
    ("at max", WARNED, 100, 0, True, Nothing()),
    ("above max", WARNED, 101, 0, True, FindVictim(Shortage(Resource.MEMORY, 101, 100))),
    ("at once above max: the kill is the news", CALM, 101, 0, True, FindVictim(Shortage(Resource.MEMORY, 101, 100))),
    ("above swap", CALM, 50, 11, False, FindVictim(Shortage(Resource.SWAP, 11, 10))),
    ("memory before swap", WARNED, 150, 90, True, FindVictim(Shortage(Resource.MEMORY, 150, 100))),
]


@pytest.mark.parametrize(
    ("name", "state", "memory", "swap", "warned", "decision"), TREE_ROWS, ids=[row[0] for row in TREE_ROWS]
)
def test_a_process_tree(
    name: str, state: ReactionState, memory: int, swap: int, warned: bool, decision: Decision
) -> None:
    """It can only pass a limit, and that needs no patience."""
    then, decided = react(state, holds(memory, swap), TREE, throttles=False)
    assert decided == decision
    assert then.warned == warned
    assert then.phase is (Phase.KILL if isinstance(decision, FindVictim) else Phase.CALM)


def play(situations: list[Situation], limits: MemoryLimits = CGROUP) -> list[tuple[Phase, Decision]]:
    """What the table says to one situation after the other."""
    state, told = ReactionState(), []
    for situation in situations:
        state, decision = react(state, situation, limits, throttles=True)
        told.append((state.phase, decision))
    return told


def looks(
    seconds: float, usage: int, stuck: int, full: float | None, *, events: int = 1, start: float = 0.0
) -> list[Situation]:
    """Twenty looks a second at a group that doesn't change."""
    return [
        at(start + count * 0.05, usage, stuck, full, events=events if count % 4 == 0 else 0)
        for count in range(round(seconds / 0.05) + 1)
    ]


def first_kill(told: list[tuple[Phase, Decision]]) -> int | None:
    return next((count for count, (_, decision) in enumerate(told) if isinstance(decision, FindVictim)), None)


def test_quiet_below_high() -> None:
    assert play([at(1, 900, 900, 0.0)]) == [(Phase.CALM, Nothing())]


def test_an_event_throttles() -> None:
    """Nobody is warned of page cache."""
    assert play([at(1, 1001, 400, 0.1, events=1)]) == [(Phase.THROTTLED, Nothing())]


def test_a_warning_is_for_what_is_held() -> None:
    """Once an episode."""
    told = play([at(1, 1001, 1001, 0.1, events=1), at(1.05, 1001, 1001, 0.1, events=1)])
    assert [decision for _, decision in told] == [Warn(1001, 1000), Nothing()]


def test_throttled_until_it_is_quiet_for_a_while() -> None:
    quiet = [at(1.1 + tenth / 10, 900, 400, 0.0) for tenth in range(22)]
    told = play([at(1, 1001, 400, 0.1, events=1), *quiet])
    assert told[-3][0] is Phase.THROTTLED
    assert told[-1] == (Phase.CALM, Nothing())


def test_who_stands_above_high_and_does_nothing_is_left_alone() -> None:
    """An idle group after its limit was lowered: nothing happens at the limit, and nobody waits."""
    assert {phase for phase, _ in play(looks(10, 1050, 1050, 0.0, events=0))} == {Phase.CALM}


def test_a_stall_that_nothing_can_end() -> None:
    """Within a second, and not before its patience."""
    told = play(looks(1, 1010, 1005, 1.0))
    kill = first_kill(told)
    assert kill is not None
    assert reaction.PATIENCE_SECONDS <= kill * 0.05 < 1.0
    decision = told[kill][1]
    assert isinstance(decision, FindVictim)
    assert decision.shortage.resource is Resource.HIGH
    assert decision.shortage.evidence is Evidence.UNRECLAIMABLE
    assert (decision.shortage.usage_bytes, decision.shortage.limit_bytes) == (1010, 1000)
    assert [phase for phase, _ in told[:kill]] == [Phase.STALLED] * kill


@pytest.mark.parametrize(
    ("usage", "stuck", "full"),
    [(1010, 400, 0.3), (1010, 950, 0.4), (1005, 999, 0.59), (1020, 1010, 0.3), (1010, 20, 1.0), (1010, 450, 1.0)],
    ids=[
        "half cache",
        "little cache",
        "at the edge of both",
        "above, but it works",
        "only cache",
        "cache, and all wait",
    ],
)
def test_reclaim_helps_or_work_goes_on(usage: int, stuck: int, full: float) -> None:
    """A minute of page cache that comes and goes, or of work above the limit, costs nobody anything."""
    assert first_kill(play(looks(60, usage, stuck, full))) is None


def test_a_burst_passes() -> None:
    """A quarter of a second above the limit, then all is given back."""
    told = play([*looks(0.25, 1050, 1050, 1.0), *looks(2, 500, 500, 0.0, events=0, start=0.3)])
    assert first_kill(told) is None
    assert told[-1][0] is Phase.THROTTLED


def test_a_stall_in_pieces_begins_anew() -> None:
    """Patience is for one stall, not for the sum of many."""
    pieces = [
        look
        for turn in range(5)
        for look in [*looks(0.2, 1010, 1010, 1.0, start=turn), *looks(0.5, 500, 500, 0.0, start=turn + 0.25)]
    ]
    assert first_kill(play(pieces)) is None


def test_some_wait_and_some_work() -> None:
    """Who runs may end and give back: five seconds."""
    situations = [replace(look, some_share=0.5, cpu_share=1.0) for look in looks(8, 1010, 1010, 0.3)]
    kill = first_kill(play(situations))
    assert kill is not None
    assert kill * 0.05 == pytest.approx(reaction.PARTIAL_PATIENCE_SECONDS, abs=0.1)


def test_on_the_brink_there_is_no_patience() -> None:
    """Three quarters of the way to memory.max, and growing: the kernel would be next."""
    told = play([at(1, 1080, 1080, None, events=5)])
    assert first_kill(told) == 0


def test_standing_on_the_brink_is_not_growing() -> None:
    assert first_kill(play([at(1, 1080, 1080, 0.0)])) is None


@pytest.mark.parametrize(("room", "kills"), [(500, False), (1, True), (0, True)])
def test_swap_with_room_is_given_its_time(room: int, kills: bool) -> None:
    """What swap can take is not stuck; full swap takes nothing."""
    situations = [replace(look, swap_room_bytes=room, swap_bytes=50) for look in looks(1, 1010, 1006, 1.0)]
    told = play(situations)
    kill = first_kill(told)
    assert (kill is not None) is kills
    if kill is not None:
        decision = told[kill][1]
        assert isinstance(decision, FindVictim)
        assert decision.shortage.evidence is Evidence.SWAP_FULL


def test_without_pressure_files_events_have_to_do() -> None:
    """A kernel without PSI."""
    assert first_kill(play(looks(1, 1010, 1010, None))) == round(reaction.PATIENCE_SECONDS / 0.05)


@pytest.mark.parametrize(("refaults", "kills"), [(4000, True), (0, False)])
def test_thrashing(refaults: int, kills: bool) -> None:
    """All wait for what was just taken, for seconds; without refaults it is only slow."""
    limits = MemoryLimits(high=1000 * 4096, max=1100 * 4096)
    situations = [replace(look, refault_pages=refaults // 20) for look in looks(15, 1000 * 4096, 900 * 4096, 0.9)]
    told = play(situations, limits)
    kill = first_kill(told)
    assert (kill is not None) is kills
    if kill is not None:
        decision = told[kill][1]
        assert isinstance(decision, FindVictim)
        assert decision.shortage.evidence is Evidence.THRASHING
        assert kill * 0.05 == pytest.approx(reaction.THRASH_PATIENCE_SECONDS, abs=0.1)


@pytest.mark.parametrize("before_seconds", [1, 60, 600])
def test_what_is_long_ago_does_not_count(before_seconds: float) -> None:
    """Half of the time it ran, for however long; when it stands still, it is decided on within three seconds."""
    begin = [at(0.0, 1010, 1010, 0.7, events=1)]
    half = looks(before_seconds, 1010, 1010, 0.5, start=0.05)
    assert first_kill(play([*begin, *half])) is None
    kill = first_kill(play([*begin, *half, *looks(5, 1010, 1010, 1.0, start=before_seconds + 0.1)]))
    assert kill is not None
    assert (kill - 1 - len(half)) * 0.05 < 3.0


def test_memory_max_alone_is_a_line_too() -> None:
    """No memory.high: the stall is at memory.max."""
    told = play(looks(1, 1100, 1100, 1.0), MemoryLimits(max=1100))
    kill = first_kill(told)
    assert kill is not None
    decision = told[kill][1]
    assert isinstance(decision, FindVictim)
    assert decision.shortage.resource is Resource.MEMORY


def test_no_limits_no_reaction() -> None:
    assert first_kill(play(looks(10, 1 << 60, 1 << 60, 1.0), MemoryLimits())) is None


def test_the_kernel_was_first() -> None:
    """Told, and nobody else goes before the dust has settled."""
    state, decision = react(CALM, at(5, 1100, 1100, 1.0, events=9, kernel_kills=2), CGROUP, throttles=True)
    assert decision == KernelWasFirst(2)
    assert state.phase is Phase.COOLING


def test_cooling_and_afresh() -> None:
    """After an exit the next look but one counts again; a victim that stays has the next one follow at once."""
    killing = replace(ReactionState(phase=Phase.KILL, since_seconds=1.0), full_seconds=1.0)
    assert after_kill(killing, 2.0, ended=False) is killing
    cooling = after_kill(killing, 2.0, ended=True)
    assert cooling.phase is Phase.COOLING
    still = react(cooling, at(2.05, 1010, 1010, 1.0, events=1), CGROUP, throttles=True)
    assert still == (cooling, Nothing())
    state, decision = react(
        cooling, at(2.0 + reaction.COOLING_SECONDS, 1010, 1010, 1.0, events=1), CGROUP, throttles=True
    )
    assert state.phase is Phase.STALLED
    assert state.since_seconds == 2.0 + reaction.COOLING_SECONDS
    assert isinstance(decision, Warn)


def test_on_the_brink_cooling_is_short() -> None:
    """Others grow while one has just gone: the kernel would be next."""
    cooling = ReactionState(phase=Phase.COOLING, since_seconds=2.0)
    brink = at(2.06, 1090, 1090, 1.0, events=3)
    assert isinstance(react(cooling, brink, CGROUP, throttles=True)[1], FindVictim)
    assert react(cooling, replace(brink, at_seconds=2.04), CGROUP, throttles=True) == (cooling, Nothing())
    assert react(cooling, replace(brink, usage_bytes=1010), CGROUP, throttles=True) == (cooling, Nothing())


def test_the_next_candidate_at_once() -> None:
    """KILL goes on until somebody has ended."""
    told = play(looks(1, 1010, 1010, 1.0))
    kill = first_kill(told)
    assert kill is not None
    assert all(isinstance(decision, FindVictim) for _, decision in told[kill:])


@pytest.mark.parametrize(
    ("phase", "seconds"),
    [
        (Phase.CALM, None),
        (Phase.THROTTLED, reaction.WARM_SECONDS),
        (Phase.STALLED, reaction.HOT_SECONDS),
        (Phase.KILL, reaction.HOT_SECONDS),
        (Phase.COOLING, reaction.HOT_SECONDS),
    ],
)
def test_when_to_look_again(phase: Phase, seconds: float | None) -> None:
    """CALM sleeps until it is called."""
    assert next_look_seconds(ReactionState(phase=phase)) == seconds


def test_close_to_a_stall_looks_are_close() -> None:
    state, _ = react(CALM, at(1, 1001, 950, 0.1, events=1), CGROUP, throttles=True)
    assert state.phase is Phase.THROTTLED
    assert next_look_seconds(state) == reaction.HOT_SECONDS


SHORT = [
    (Shortage(Resource.HIGH, 1010, 1000, Evidence.UNRECLAIMABLE), at(1, 1010, 1000), True),
    (Shortage(Resource.HIGH, 1010, 1000, Evidence.UNRECLAIMABLE), at(1, 1010, 999), False),
    (Shortage(Resource.HIGH, 1010, 1000, Evidence.SWAP_FULL), at(1, 1010, 1005, swap_room_bytes=100), False),
    (Shortage(Resource.HIGH, 1010, 1000, Evidence.THRASHING), at(1, 980, 500), True),
    (Shortage(Resource.HIGH, 1010, 1000, Evidence.THRASHING), at(1, 900, 500), False),
    (Shortage(Resource.MEMORY, 1010, 1000), at(1, 1001, 0), True),
    (Shortage(Resource.MEMORY, 1010, 1000), at(1, 1000, 0), False),
    (Shortage(Resource.SWAP, 11, 10), at(1, 0, 0, swap_bytes=11), True),
    (Shortage(Resource.SWAP, 11, 10), at(1, 5000, 5000, swap_bytes=10), False),
]


@pytest.mark.parametrize(("shortage", "now", "answer"), SHORT)
def test_the_look_before_the_shot(shortage: Shortage, now: Situation, answer: bool) -> None:
    assert still_short(shortage, now) is answer


situations = st.builds(
    Situation,
    at_seconds=st.just(0.0),
    elapsed_seconds=st.floats(0, 1),
    usage_bytes=st.integers(0, 2000),
    unreclaimable_bytes=st.integers(0, 2000),
    swap_bytes=st.integers(0, 100),
    swap_room_bytes=st.integers(0, 100),
    high_events=st.integers(0, 3),
    max_events=st.integers(0, 3),
    kernel_kills=st.sampled_from([0, 0, 0, 1]),
    some_share=st.none() | st.floats(0, 1),
    full_share=st.none() | st.floats(0, 1),
    refault_pages=st.integers(0, 1000),
)


@given(st.lists(st.tuples(situations, st.floats(0, 0.5))))
def test_never_two_kills_without_cooling_between(script: list[tuple[Situation, float]]) -> None:
    """Whatever comes: after a victim has ended nobody is looked for until the time is up, and a kill has its reason."""
    state, now, ended = ReactionState(), 0.0, -1.0
    for drawn, step in script:
        now += step
        situation = replace(drawn, at_seconds=now)
        state, decision = react(state, situation, CGROUP, throttles=True)
        if isinstance(decision, FindVictim):
            assert now - ended >= reaction.HOT_SECONDS
            assert decision.shortage.limit_bytes == CGROUP.high
            stuck = situation.stuck_bytes >= decision.shortage.limit_bytes
            assert stuck or decision.shortage.evidence is Evidence.THRASHING
            state, ended = after_kill(state, now, ended=True), now
