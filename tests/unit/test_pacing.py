# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who stops and who goes on, at one instant. Whole builds are in tests/pacing."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicemgr.model.step import Profile, Step, StepState
from slicemgr.policy.pacing import SHORTEST_WAIT_SECONDS, Pace, is_at_risk, pace
from slicemgr.policy.planning import LONGEST_WAIT_SECONDS

MB = 1_000_000
GIB = 1 << 30
BUDGET = 1000 * MB
R, W, N = StepState.RUNNING, StepState.WAITING, StepState.NEW


def profile(peak: float, rise: float = 4.0, run: float = 10.0) -> Profile:
    """Learnt, in MB and seconds."""
    return Profile(int(peak * MB), rise, run)


def running(order: int, held: float, growth: float = 0.0, learnt: Profile | None = None, **fields: float) -> Step:
    """Has run for 5 s unless told otherwise."""
    step = Step(order, R, int(held * MB), 5.0, growth * MB, 0.0 if growth else 5.0, "cc", learnt, 5.0)
    return replace(step, **fields)  # type: ignore[arg-type]


def waiting(order: int, held: float, learnt: Profile | None = None, since: float = 5.0, *, alone: bool = False) -> Step:
    """Stopped by us."""
    return Step(order, W, int(held * MB), 5.0, kind="cc", profile=learnt, since_seconds=since, alone=alone)


def new(order: int, learnt: Profile | None = None, since: float = 0.0, *, alone: bool = False) -> Step:
    """Held at birth."""
    return Step(order, N, 5 * MB, 0.01, kind="cc", profile=learnt, since_seconds=since, alone=alone)


def paced(
    steps: Sequence[Step],
    ended: Sequence[Profile] = (),
    *,
    budget: int = BUDGET,
    base: int = 0,
    ceiling: int | None = None,
) -> Pace:
    """Of one build."""
    by_kind: Mapping[str, Sequence[Profile]] = {"cc": ended} if ended else {}
    return pace(steps, by_kind, budget_bytes=budget, base_bytes=base, ceiling=ceiling)


def test_nothing_is_decided_of_nobody() -> None:
    """A build that has not started yet."""
    assert paced([]) == Pace()


def test_known_ones_begin_as_long_as_their_peaks_fit() -> None:
    """Three of 300 MB into 970, by age; and what those that wait hold counts."""
    steps = [new(order, profile(300)) for order in range(6)]
    assert paced(steps) == Pace(go=(0, 1, 2))
    assert len(paced(steps, base=100 * MB).go) == 2


def test_one_begins_that_is_done_before_another_grows() -> None:
    """Beside one that takes 900 MB, but only in 20 s."""
    slow = running(0, 10, 10, profile(900, 100, 110), ran_seconds=1)
    assert paced([slow, new(1, profile(300, 1, 2))]).go == (1,)
    assert paced([slow, new(1, profile(300, 1, 90))]).go == ()


def test_a_base_below_zero_is_room() -> None:
    """Steps that share memory which each of them counts."""
    steps = [new(order, profile(300)) for order in range(6)]
    assert len(paced(steps, base=-300 * MB).go) == 4


def test_far_from_the_budget_all_begin() -> None:
    """Cold `make -j20` under 20 GiB: nobody waits. Under a tenth of it, three begin."""
    steps = [new(order) for order in range(20)]
    assert paced(steps, budget=20 * GIB).go == tuple(range(20))
    assert paced(steps, budget=2 * GIB).go == (0, 1, 2)


def test_a_cold_build_begins_slowly_where_guesses_do_not_fit() -> None:
    """The fourth 0.7 s later; at once when one of the kind has ended, as small as that."""
    begun = [running(order, 20, 10, since_seconds=0.3, ran_seconds=0.3) for order in range(3)]
    later = [replace(step, since_seconds=0.8, ran_seconds=0.8) for step in begun]
    assert paced([*begun, new(3)]).go == ()
    assert paced([*later, new(3)]).go == (3,)
    assert paced([*begun, new(3)], [profile(50)] * 3).go == (3,)


def test_a_new_one_of_unknown_size_takes_nothing_while_another_stands_still() -> None:
    """First those that hold memory."""
    assert paced([running(0, 100, 20), waiting(1, 50, since=0.01), new(2)]).go == ()
    assert paced([running(0, 100, 20), waiting(1, 50), new(2)]).go == (1,)


@pytest.mark.parametrize(("since", "go"), [(SHORTEST_WAIT_SECONDS - 0.01, ()), (SHORTEST_WAIT_SECONDS, (1,))])
def test_who_was_stopped_stays_so_for_a_moment(since: float, go: tuple[int, ...]) -> None:
    """Against flapping."""
    assert paced([running(0, 100, learnt=profile(100)), waiting(1, 50, profile(100), since)]).go == go


def test_the_newest_that_grow_are_stopped() -> None:
    """Not the oldest, not the largest, not who has its peak behind it, and nobody begins in the same breath."""
    steps = [
        running(0, 150, 100),
        running(1, 200, 100),
        running(2, 350, 100),
        running(3, 150, 100),
        running(4, 100),
        new(5),
    ]
    told = paced(steps, [Profile(360 * MB, 2.0, 4.0)] * 20)
    assert told.go == ()
    assert 3 in told.stop
    assert not {0, 2, 4} & set(told.stop)


def test_the_largest_goes_on_though_it_is_the_newest() -> None:
    """It frees most when it ends."""
    steps = [running(0, 300, 100), running(1, 230, 200), running(2, 420, 60)]
    assert 2 not in paced(steps).stop
    assert 1 in paced(steps).stop


def test_who_must_not_wait_is_never_stopped() -> None:
    """Whatever it takes."""
    steps = [running(0, 400, 100), replace(running(1, 590, 200), may_wait=False)]
    assert 1 not in paced(steps).stop


def test_who_has_just_begun_runs_for_a_moment() -> None:
    """Unless it is too late for that: an older one is stopped in its place."""
    steps = [running(0, 400, 30), running(1, 400, 200), running(2, 150, 200, since_seconds=0.1)]
    assert paced(steps).stop[0] == 1 or 2 not in paced(steps).stop
    over = [running(0, 400, 30), running(1, 450, 20), running(2, 150, 200, since_seconds=0.1)]
    assert 2 in paced(over).stop


def test_nobody_grows_into_what_the_others_need_to_end() -> None:
    """Two half grown, known: both at once never fit, and the one that needs least goes on, though it is the newer."""
    steps = [running(0, 450, 400, profile(700)), running(1, 480, 100, profile(520))]
    told = paced(steps)
    assert told.stop == (0,)
    assert told.short_bytes == 0


def test_the_only_one_is_exchanged_for_one_that_can_end() -> None:
    """It needs more than there is, and another hardly anything."""
    told = paced([running(0, 500, 100, profile(800)), waiting(1, 490, profile(490))])
    assert (told.stop, told.go, told.short_bytes) == ((0,), (1,), 0)


def test_at_its_learnt_peak_it_can_end_whatever_the_others_hold() -> None:
    """Looks came late, and all are 1 MB above the budget: that is no reason to kill anybody."""
    others = [waiting(1, 470, profile(700)), waiting(2, 31, profile(700))]
    at_peak = paced([running(0, 500, 0, profile(500)), *others])
    assert (at_peak.stop, at_peak.short_bytes) == ((), 0)
    others = [waiting(1, 500, profile(500)), waiting(2, 31, profile(700))]
    growing = paced([running(0, 470, 100, profile(700)), *others])
    assert (growing.stop, growing.go, growing.short_bytes) == ((0,), (1,), 0)
    # And who grows beyond it does lack something.
    beyond = paced([running(0, 520, 100, profile(500)), waiting(1, 481, profile(700))])
    assert beyond.short_bytes > 0


def test_the_only_one_does_not_take_what_another_needs_to_end() -> None:
    """There is room for it still, but not for anybody when it has gone on: the one that needs least is next now."""
    steps = [running(0, 470, 100, profile(800)), waiting(1, 300, profile(480))]
    assert paced(steps) == Pace()
    steps = [running(0, 495, 100, profile(800)), waiting(1, 300, profile(480))]
    assert paced(steps) == Pace(stop=(0,), go=(1,))


def test_what_is_lacking_when_waiting_can_not_help() -> None:
    """The only one that runs, up to its learnt end; nobody else could end either."""
    told = paced([running(0, 600, 100, profile(800)), waiting(1, 395, profile(700))])
    assert (told.stop, told.go) == ((), ())
    assert told.short_bytes == 800 * MB * 1.02 - 600 * MB - 5 * MB
    assert paced([running(0, 600, 100, profile(800)), waiting(1, 100, profile(700))]).short_bytes == 0


def test_the_only_one_that_fits_lacks_nothing() -> None:
    """Nor do two, of which one can wait."""
    assert paced([running(0, 900, 300, profile(950))]).short_bytes == 0
    assert paced([running(0, 500, 300), running(1, 495)]) == Pace(stop=(0,))


def test_who_has_stopped_growing_lacks_nothing_now() -> None:
    """Growth is measured over half a second, and outlives itself by that."""
    stands = running(0, 600, 100, profile(800), still_seconds=0.2)
    assert paced([stands, waiting(1, 395, profile(700))]).short_bytes == 0


def test_one_that_exceeds_the_budget_alone() -> None:
    """It goes on until somebody decides; what it lacks is said."""
    told = paced([running(0, 1010, 300)])
    assert told.stop == ()
    assert told.short_bytes > 0


def test_one_begins_though_it_does_not_fit() -> None:
    """At least one always runs: the oldest that lacks least."""
    assert paced([new(0, profile(2000)), new(1, profile(1500))]).go == (1,)
    assert paced([waiting(0, 600, profile(900)), waiting(1, 390, profile(395))]).go == (1,)


def test_a_ceiling() -> None:
    """So many at once; and one at least."""
    steps = [new(order, profile(10)) for order in range(6)]
    assert paced(steps, ceiling=2).go == (0, 1)
    assert paced(steps, ceiling=0).go == (0,)
    assert paced([running(0, 10), new(1, profile(10))], ceiling=1).go == ()


def test_a_ceiling_that_is_lowered() -> None:
    """The newest wait; not the one that must not."""
    steps = [running(0, 10), running(1, 10), replace(running(2, 10), may_wait=False), running(3, 10)]
    assert paced(steps, ceiling=2) == Pace(stop=(3, 1))


@pytest.mark.parametrize(
    ("steps", "go"),
    [
        ([new(0, profile(50)), new(1, profile(50), alone=True)], (1,)),
        ([running(0, 10), new(1, profile(50), alone=True), new(2, profile(50))], ()),
        ([running(0, 10), waiting(1, 20, profile(50)), new(2, alone=True), new(3)], (1,)),
        ([waiting(0, 20, profile(50), since=0.01), new(1, alone=True)], (0,)),
        ([running(0, 10, alone=True), new(1, profile(50)), waiting(2, 20, profile(50))], ()),
        ([new(0, alone=True), new(1, alone=True)], (0,)),
        ([waiting(0, 20, profile(50)), new(1, alone=True, since=LONGEST_WAIT_SECONDS)], (1,)),
        ([running(0, 10), waiting(1, 20, profile(50)), new(2, alone=True, since=LONGEST_WAIT_SECONDS)], ()),
    ],
)
def test_who_comes_again_runs_alone(steps: list[Step], go: tuple[int, ...]) -> None:
    """Nobody new begins before it, those that have begun are done first, and none of it for ever."""
    assert paced(steps).go == go


def test_who_runs_alone_is_the_last_to_be_stopped() -> None:
    """Though another that goes on (because nothing moved) is older."""
    steps = [running(0, 500, 100), replace(running(1, 480, 100), alone=True)]
    assert paced(steps).stop == (0,)


@pytest.mark.parametrize(
    ("steps", "risk"),
    [
        ([], False),
        ([running(0, 500), waiting(1, 480)], False),
        ([running(0, 500), waiting(1, 495)], True),
        ([running(0, 500, 100), waiting(1, 480)], True),
        ([running(0, 500), replace(waiting(1, 480), growth_bytes_per_second=100.0 * MB)], False),
    ],
)
def test_who_may_have_to_be_stopped_at_once(steps: list[Step], risk: bool) -> None:
    """What runs grows on, and what waits does not."""
    assert is_at_risk(steps, budget_bytes=BUDGET, base_bytes=0) is risk


@st.composite
def builds(draw: st.DrawFn) -> list[Step]:
    """Any steps at any instant."""
    steps = []
    for order in range(draw(st.integers(0, 10))):
        state = draw(st.sampled_from([R, R, W, N]))
        ran = 0.01 if state is N else draw(st.floats(0, 20))
        learnt = draw(st.none() | st.tuples(st.integers(1, 600), st.floats(0, 5), st.floats(0, 10)))
        steps.append(
            Step(
                order,
                state,
                5 * MB if state is N else draw(st.integers(0, 300)) * MB,
                ran,
                draw(st.sampled_from([0.0, 5e6, 1e8])),
                draw(st.floats(0, ran)),
                draw(st.sampled_from(["cc", "ld"])),
                learnt and Profile(learnt[0] * MB, learnt[1], learnt[1] + learnt[2]),
                draw(st.floats(0, 100)),
                draw(st.booleans()) or state is not R,
                draw(st.sampled_from([False] * 5 + [True])),
            )
        )
    return steps


endings = st.dictionaries(
    st.sampled_from(["cc", "ld"]),
    st.lists(st.integers(1, 500).map(lambda peak: Profile(peak * MB, 1.0, 3.0)), min_size=1, max_size=4),
)


@given(
    steps=builds(),
    ended=endings,
    budget=st.sampled_from([0, 100 * MB, BUDGET, 30 * GIB]),
    base=st.integers(-200, 300),
    ceiling=st.none() | st.integers(0, 5),
)
def test_whatever_the_build(
    steps: list[Step], ended: dict[str, list[Profile]], budget: int, base: int, ceiling: int | None
) -> None:
    """At least one runs; who is stopped ran and may wait, who goes on did not run; the order of naming says nothing."""
    told = pace(steps, ended, budget_bytes=budget, base_bytes=base * MB, ceiling=ceiling)
    by_order = {step.order: step for step in steps}
    was_running = {step.order for step in steps if step.state is R}
    assert set(told.stop) <= was_running
    assert all(by_order[order].may_wait for order in told.stop)
    assert set(told.go) <= set(by_order) - was_running
    assert len(set(told.stop)) == len(told.stop)
    assert len(set(told.go)) == len(told.go)
    after = was_running - set(told.stop) | set(told.go)
    assert after or not steps
    if ceiling is not None:
        unstoppable = sum(not by_order[order].may_wait for order in after)
        # The keeper and those that must not wait.
        assert len(after) <= max(1, ceiling, unstoppable + 1)
    assert told.short_bytes == 0 or len(after) == 1
    if any(by_order[order].alone for order in told.go):
        assert len(after) == 1
    if any(by_order[order].alone for order in was_running - set(told.stop)):
        assert not told.go
    shuffled = Random(0).sample(steps, len(steps))
    assert pace(shuffled, ended, budget_bytes=budget, base_bytes=base * MB, ceiling=ceiling) == told


@given(steps=builds(), ended=endings)
def test_where_there_is_room_for_all_nobody_waits(steps: list[Step], ended: dict[str, list[Profile]]) -> None:
    """But for who comes again alone, and who was stopped this very moment."""
    ordinary = [replace(step, alone=False, since_seconds=max(1.0, step.since_seconds)) for step in steps]
    told = pace(ordinary, ended, budget_bytes=200 * GIB, base_bytes=0)
    holds_back = any(step.state is W for step in ordinary)
    free = {
        step.order for step in ordinary if step.state is W or (step.state is N and (step.profile or not holds_back))
    }
    assert told.stop == ()
    assert set(told.go) == free
