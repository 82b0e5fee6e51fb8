# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whom to end when waiting can't help: the least work lost; who goes on when nothing moves; whether all can end."""

from itertools import combinations, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicemgr.model.step import Step, StepState
from slicemgr.policy.last_resort import least_work_lost
from slicemgr.policy.safety import can_all_end
from slicemgr.policy.watchdog import STUCK_SECONDS, unstick

R, W, N = StepState.RUNNING, StepState.WAITING, StepState.NEW


def step(
    order: int, state: StepState, held: int, ran: float = 0.0, *, may_wait: bool = True, alone: bool = False
) -> Step:
    """With what these rules look at."""
    return Step(order, state, held, ran_seconds=ran, may_wait=may_wait, alone=alone)


CASES = {
    "nothing is needed": ([step(1, R, 90), step(2, W, 50)], 0, ()),
    "nothing is there": ([], 10, ()),
    "one that suffices": ([step(1, R, 90), step(2, W, 50, 3), step(3, W, 20, 1)], 30, (2,)),
    "of several that suffice the one that has run least": (
        [step(1, R, 90), step(2, W, 50, 3), step(3, W, 40, 1), step(4, W, 60, 2)],
        30,
        (3,),
    ),
    "a single one before two that have run less": (
        [step(1, R, 90), step(2, W, 50, 30), step(3, W, 25, 1), step(4, W, 25, 1)],
        50,
        (2,),
    ),
    "two, if no single one suffices": (
        [step(1, R, 90), step(2, W, 50, 5), step(3, W, 40, 1), step(4, W, 45, 9)],
        80,
        (2, 3),
    ),
    "at birth nothing is lost": ([step(1, R, 90), step(2, W, 50, 3), step(3, N, 5)], 5, (3,)),
    "a tie goes to the one that frees most": ([step(1, R, 90), step(2, W, 50, 1), step(3, W, 60, 1)], 30, (3,)),
    "then to the newest": ([step(1, R, 90), step(2, W, 50, 1), step(3, W, 50, 1)], 30, (3,)),
    "not the only one that runs": ([step(1, W, 50, 9), step(2, R, 90, 1)], 40, (1,)),
    "unless all others do not suffice: then nobody else": ([step(1, W, 50, 9), step(2, R, 900, 1)], 400, (2,)),
    "the only one there": ([step(1, R, 900)], 100, (1,)),
    "of several that run the oldest stays": ([step(1, R, 90, 1), step(2, R, 90, 5)], 40, (2,)),
    "or the one that came to run alone": ([step(1, R, 90, 1), step(2, R, 90, 0.5, alone=True)], 40, (1,)),
    "who must not wait only if the others do not suffice": (
        [step(1, R, 90), step(2, W, 50, 1, may_wait=False), step(3, W, 50, 9)],
        40,
        (3,),
    ),
    "nor who has come again already: it would not do so a second time": (
        [step(1, R, 90), step(2, W, 50, 9), step(3, N, 50, 1, alone=True)],
        40,
        (2,),
    ),
    "but before who must not wait": (
        [step(1, R, 90), step(2, W, 50, 1, may_wait=False), step(3, N, 50, 9, alone=True)],
        40,
        (3,),
    ),
    "and then": ([step(1, R, 90), step(2, W, 50, 1, may_wait=False), step(3, W, 30, 9)], 40, (2,)),
}


@pytest.mark.parametrize("case", CASES)
def test_the_least_work_is_lost(case: str) -> None:
    """In whatever order they are named."""
    steps, need, expected = CASES[case]
    assert {least_work_lost(list(order), need) for order in permutations(steps)} == {expected}


def test_many_small_ones() -> None:
    """More than are looked through one set by one: as few as can be, and those that have run longest stay."""
    steps = [step(0, R, 90), *(step(order, W, 10, float(order)) for order in range(1, 41))]
    assert least_work_lost(steps, 100) == tuple(range(1, 11))


held_steps = st.lists(
    st.tuples(st.sampled_from([R, W, N]), st.integers(0, 100), st.integers(0, 20), st.booleans()), max_size=8
).map(lambda rows: [step(n, s, held, float(ran), may_wait=may) for n, (s, held, ran, may) in enumerate(rows)])


@given(steps=held_steps, need=st.integers(1, 400))
def test_what_is_taken_suffices_and_is_the_least(steps: list[Step], need: int) -> None:
    """Compared with all sets of those that may wait."""
    taken = least_work_lost(steps, need)
    by_order = {each.order: each for each in steps}
    running = [each.order for each in steps if each.state is R]
    keeper = running[0] if running else None
    others = [each for each in steps if each.order != keeper]
    if sum(each.held_bytes for each in others) < need:
        assert taken in ((), (keeper,))
        return
    assert keeper not in taken
    assert sum(by_order[order].held_bytes for order in taken) >= need
    able = [each for each in others if each.may_wait]
    if sum(each.held_bytes for each in able) >= need:
        assert all(by_order[order].may_wait for order in taken)
    else:
        able = others
    sets = [
        chosen
        for count in range(1, len(taken) + 1)
        for chosen in combinations(able, count)
        if sum(each.held_bytes for each in chosen) >= need
    ]
    assert min(len(chosen) for chosen in sets) == len(taken)
    if len(taken) <= 3:
        lost = min(sum(each.ran_seconds for each in chosen) for chosen in sets if len(chosen) == len(taken))
        assert sum(by_order[order].ran_seconds for order in taken) == lost


def test_nobody_goes_on_while_something_moves() -> None:
    """Nor if nobody waits."""
    assert unstick([step(1, R, 9), step(2, W, 9)], STUCK_SECONDS - 0.1) is None
    assert unstick([step(1, R, 9)], STUCK_SECONDS) is None


@pytest.mark.parametrize(
    ("tried", "order"),
    [({}, 2), ({2: 1}, 4), ({2: 1, 4: 1}, 1), ({1: 1, 2: 1, 4: 1}, 2), ({2: 2, 4: 1, 1: 5}, 4)],
)
def test_who_goes_on_when_nothing_moves(tried: dict[int, int], order: int) -> None:
    """The least tried; those that have run and may hold a lock before those held at birth; the oldest first."""
    steps = [step(1, N, 5), step(2, W, 50), step(3, R, 90), step(4, W, 60)]
    assert {unstick(list(each), STUCK_SECONDS, tried) for each in permutations(steps)} == {order}


@given(st.integers(1, 20))
def test_each_gets_its_turn(count: int) -> None:
    """After as many turns as wait, each has had one."""
    steps = [step(n, W if n % 2 else N, 5) for n in range(count)]
    tried: dict[int, int] = {}
    for _ in range(count):
        order = unstick(steps, STUCK_SECONDS, tried)
        assert order is not None
        tried[order] = tried.get(order, 0) + 1
    assert tried == dict.fromkeys(range(count), 1)


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=5),
    st.integers(-10, 60),
)
def test_all_can_end_if_any_order_is_possible(steps: list[tuple[int, int]], free: int) -> None:
    """The smallest need first finds an order if there is one."""

    def ends(order: tuple[tuple[int, int], ...]) -> bool:
        room = free
        for need, held in order:
            if need > room:
                return False
            room += held
        return True

    assert can_all_end(list(steps), free) == any(ends(order) for order in permutations(steps))
