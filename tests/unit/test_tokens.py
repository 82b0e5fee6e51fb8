# SPDX-License-Identifier: LGPL-2.1-or-later
"""How many jobs a make may have, and when a token is lost."""

from __future__ import annotations

from itertools import pairwise, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicemgr.policy.tokens import (
    ASSUMED_BIRTH_BYTES,
    FIRST_TOKENS,
    LEAST_WAITING,
    LOST_AFTER_SECONDS,
    WAITING_SHARE,
    Holder,
    Missing,
    allowed,
    lost_tokens,
    most_held,
)

MIB = 1 << 20


@pytest.mark.parametrize(
    ("running", "new", "birth_mib", "budget_mib", "ceiling", "is_cold", "cores", "jobs"),
    [
        # Nothing is there yet: as many as the cores take, or as may wait.
        (0, 0, 0, 1024, 20, False, 2, 4),
        (0, 0, 0, 1024, 20, False, 8, 8),
        (0, 0, 0, 16384, 20, False, 8, 20),
        # By the measured size: 51 MiB for what waits.
        (5, 2, 8, 1024, 20, False, 4, 17),
        (5, 2, 20, 1024, 20, False, 4, 10),
        (5, 2, 100, 1024, 20, False, 4, 7),
        # However small the budget: the plan has two to choose from.
        (6, 2, 60, 200, 20, False, 4, 8),
        (6, 0, 0, 0, 20, False, 4, 8),
        # Cores that would stand idle get a job each, held or not.
        (1, 3, 300, 200, 20, False, 8, 8),
        # Never more than was asked for, and never none.
        (6, 0, 0, 16384, 8, False, 4, 8),
        (12, 0, 0, 16384, 8, False, 4, 8),
        (0, 0, 0, 0, 1, False, 4, 1),
        (0, 0, 0, 0, 1, True, 4, 1),
        # Nothing is known: three, and then two more than run.
        (0, 0, 0, 16384, 20, True, 16, 3),
        (1, 2, 4, 16384, 20, True, 16, 3),
        (2, 1, 4, 16384, 20, True, 16, 4),
        (7, 0, 0, 16384, 20, True, 16, 9),
    ],
)
def test_jobs_that_may_have_a_place(
    running: int, new: int, birth_mib: int, budget_mib: int, ceiling: int, is_cold: bool, cores: int, jobs: int
) -> None:
    """What runs, and what may wait for it."""
    answer = allowed(running, new, birth_mib * MIB, budget_mib * MIB, ceiling, is_cold=is_cold, cores=cores)
    assert answer == jobs


COUNT = st.integers(0, 300)
BYTES = st.integers(0, 1 << 40)


@given(COUNT, COUNT, BYTES, BYTES, st.integers(1, 4096), st.booleans(), st.integers(1, 256))
def test_the_bounds_of_it(
    running: int, new: int, birth: int, budget: int, ceiling: int, is_cold: bool, cores: int
) -> None:
    """Within 1 and the ceiling; all that run keep their places, beside two; cold never more than warm."""
    jobs = allowed(running, new, birth, budget, ceiling, is_cold=is_cold, cores=cores)
    assert 1 <= jobs <= ceiling
    assert jobs >= min(ceiling, running + LEAST_WAITING)
    if not is_cold:
        assert jobs >= min(ceiling, cores)
        size = birth / new if new and birth else ASSUMED_BIRTH_BYTES
        assert (jobs - max(running + LEAST_WAITING, cores)) * size <= budget * WAITING_SHARE
    else:
        assert jobs <= max(FIRST_TOKENS, running + LEAST_WAITING)
        if cores >= FIRST_TOKENS:
            assert jobs <= allowed(running, new, birth, budget, ceiling, is_cold=False, cores=cores)


@given(st.lists(BYTES, min_size=2, max_size=6), st.lists(BYTES, min_size=2, max_size=6), COUNT)
def test_more_room_is_never_fewer_jobs(budgets: list[int], births: list[int], running: int) -> None:
    """And bigger births are never more."""
    by_budget = [allowed(running, 3, 60 * MIB, budget, 4096, is_cold=False, cores=4) for budget in sorted(budgets)]
    assert all(one <= other for one, other in pairwise(by_budget))
    by_birth = [allowed(running, 3, birth, 1 << 30, 4096, is_cold=False, cores=4) for birth in sorted(births) if birth]
    assert all(one >= other for one, other in pairwise(by_birth))


# What make -j5 looks like: two jobs by a shell and gcc, one by a shell, two without, and a sub-make with two.
TREE = [
    Holder(1, 0, is_make=True),
    Holder(10, 1, is_driver=True),
    Holder(11, 10, is_driver=True),
    Holder(12, 11),
    Holder(20, 1, is_driver=True),
    Holder(21, 20),
    Holder(30, 1),
    Holder(40, 1, is_make=True),
    Holder(41, 40),
    Holder(42, 40),
]


def test_a_job_has_one_token_however_many_processes_it_is() -> None:
    """Of the top make's four jobs three have one, and of the sub-make's two one; in whatever order they are read."""
    for some in permutations(TREE[:5]):
        assert most_held([*some, *TREE[5:]], root=1) == 4


MAKE = TREE[0]


@pytest.mark.parametrize(
    ("members", "bound"),
    [
        ([], 0),
        ([MAKE], 0),
        ([MAKE, Holder(10, 1)], 0),
        ([MAKE, Holder(10, 1), Holder(11, 1)], 1),
        # Another client may not know of its own place.
        ([Holder(1, 0), Holder(10, 1)], 1),
        ([MAKE, Holder(10, 1), Holder(11, 10), Holder(12, 10)], 2),
        # Of a make that was killed, what it has started lives on below somebody else.
        ([MAKE, Holder(41, 4711)], 1),
        # rustc: each thread beyond the first may have one.
        ([MAKE, Holder(10, 1, threads=9)], 8),
        ([Holder(1, 0, threads=3)], 2),
        # A shell that starts two things at once is one job; a program below it may be a client.
        ([MAKE, Holder(10, 1, is_driver=True), Holder(11, 10), Holder(12, 10)], 0),
        ([MAKE, Holder(10, 1, is_driver=True), Holder(11, 10), Holder(12, 11)], 1),
        ([MAKE, Holder(10, 1, is_driver=True), Holder(11, 10, is_make=True), Holder(12, 11), Holder(13, 11)], 1),
    ],
)
def test_the_bound_of_some_trees(members: list[Holder], bound: int) -> None:
    """The command's own place is no token, and neither is a make's first job."""
    assert most_held(members, root=1) == bound


def lost_over(looks: list[tuple[float, int, int]]) -> list[int]:
    """What comes back at each look: (time, outstanding, bound)."""
    missing: Missing | None = None
    answers = []
    for now, outstanding, bound in looks:
        missing, lost = lost_tokens(missing, outstanding, bound, now)
        answers.append(lost)
    return answers


@pytest.mark.parametrize(
    ("looks", "lost"),
    [
        # Nobody could hold three of them, for longer than a second.
        ([(0.0, 7, 4), (0.5, 7, 4), (1.0, 7, 4), (1.1, 7, 4), (1.2, 4, 4)], [0, 0, 0, 3, 0]),
        # Only what was too many all the time.
        ([(0.0, 7, 4), (0.5, 7, 6), (1.1, 7, 2)], [0, 0, 1]),
        # One look at which all is right begins it anew.
        ([(0.0, 7, 4), (0.9, 4, 4), (1.1, 7, 4), (2.0, 7, 4), (2.2, 7, 4)], [0, 0, 0, 0, 3]),
        # One that was seen once was on its way.
        ([(0.0, 7, 4), (0.1, 4, 4), (9.0, 7, 4)], [0, 0, 0]),
        ([(0.0, 7, 7), (5.0, 7, 8), (10.0, 0, 0)], [0, 0, 0]),
        # What has come back is not lost twice; what is lost after it takes its own second.
        ([(0.0, 7, 4), (1.1, 7, 4), (1.2, 6, 4), (2.1, 6, 4), (2.3, 6, 4)], [0, 3, 0, 0, 2]),
        # Two looks far apart are enough: a wrapper that was stopped itself.
        ([(0.0, 7, 4), (60.0, 7, 4)], [0, 3]),
        ([(5.0, 7, 4), (0.0, 7, 4)], [0, 0]),
    ],
)
def test_tokens_that_nobody_can_have_come_back(looks: list[tuple[float, int, int]], lost: list[int]) -> None:
    """Only what is too many at every look of more than a second."""
    assert lost_over(looks) == lost


@given(st.lists(st.tuples(st.floats(0, 0.5), st.integers(0, 20), st.integers(0, 20)), max_size=30))
def test_no_more_come_back_than_are_missing(steps: list[tuple[float, int, int]]) -> None:
    """Never more than at this look, and not twice within the time."""
    now, last, looks = 0.0, -1.0, []
    for elapsed, outstanding, bound in steps:
        now += elapsed
        looks.append((now, outstanding, bound))
    for (at, outstanding, bound), lost in zip(looks, lost_over(looks), strict=True):
        assert 0 <= lost <= max(0, outstanding - bound)
        if lost:
            assert last < 0 or at - last > LOST_AFTER_SECONDS
            last = at
