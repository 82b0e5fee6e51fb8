# SPDX-License-Identifier: LGPL-2.1-or-later
"""What pace() decided wrongly in real builds on a busy machine, as they were seen there."""

from slicemgr.model.step import Profile, Step, StepState
from slicemgr.policy.pacing import pace

MB = 10**6
BUDGET = 178 * MB


def running(order: int, held: float, growth: float, ran: float, still: float = 0.0) -> Step:
    return Step(order, StepState.RUNNING, int(held * MB), ran, growth * MB, still, "python3", since_seconds=ran)


def stopped(order: int, held: float, ran: float) -> Step:
    return Step(order, StepState.WAITING, int(held * MB), ran, 50.0 * MB, 0.0, "python3", since_seconds=0.3)


def test_the_oldest_is_not_stopped_for_one_that_has_just_begun() -> None:
    """Four that grow, and a fifth for 0.1 s: a younger one stops that has run for a while."""
    steps = [running(0, 32, 50, 0.86), running(1, 32, 51, 0.86), running(2, 28, 43, 0.86), running(3, 33, 52, 0.86)]
    kin = {"python3": [Profile(40 * MB, 0.9, 1.9)] * 12}
    decision = pace([*steps, running(4, 5, 0, 0.11)], kin, budget_bytes=172 * MB, base_bytes=8 * MB)
    assert decision.stop == (2,)


def test_nothing_known_and_half_of_them_have_to_wait() -> None:
    """The same, and none of their kind has ended: any of them may come to half of the budget, so one goes on alone."""
    steps = [running(0, 32, 50, 0.86), running(1, 32, 51, 0.86), running(2, 28, 43, 0.86), running(3, 33, 52, 0.86)]
    decision = pace([*steps, running(4, 5, 0, 0.11)], {}, budget_bytes=190 * MB, base_bytes=8 * MB)
    assert set(decision.stop) == {0, 1, 2}


def at_its_peak(still: float) -> list[Step]:
    return [running(0, 58, 58, 1.3, still), stopped(1, 42, 1.0), stopped(2, 26, 1.0), stopped(3, 34, 1.0)]


def test_who_has_stopped_growing_lacks_nothing() -> None:
    """It grew within the last half second, not within the last tenth; and what it holds fits."""
    assert pace(at_its_peak(still=0.1), {}, budget_bytes=BUDGET, base_bytes=16 * MB).short_bytes == 0


def test_who_grows_on_lacks_what_it_will_take() -> None:
    """The same one a tenth of a second before."""
    assert pace(at_its_peak(still=0.02), {}, budget_bytes=BUDGET, base_bytes=16 * MB).short_bytes > 0


def test_who_is_above_the_budget_lacks_something_though_it_stands() -> None:
    """A throttled process does not grow."""
    assert pace(at_its_peak(still=0.1), {}, budget_bytes=BUDGET, base_bytes=19 * MB).short_bytes > 0
