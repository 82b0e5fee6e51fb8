# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is expected of a step: learnt, or by its kin and by how it grows."""

import pytest

from slicemgr.model.step import Profile, Step, StepState
from slicemgr.policy.expectation import ENDED_SEEN, FIRST_BYTES, FIRST_TOGETHER, Expectation, is_growing

MB = 1_000_000
GIB = 1 << 30
BUDGET = 1000 * MB
R, W, N = StepState.RUNNING, StepState.WAITING, StepState.NEW
KNOWN = Profile(200 * MB, 4.0, 10.0)


def expected(steps: list[Step], ended: list[Profile] | None = None, budget: int = BUDGET) -> Expectation:
    """Of one build of `cc`."""
    return Expectation(steps, {"cc": ended} if ended else {}, budget)


def running(
    held: float,
    *,
    order: int = 0,
    ran: float = 2.0,
    growth: float = 0.0,
    still: float = 0.0,
    profile: Profile | None = None,
) -> Step:
    """A step that runs."""
    return Step(order, R, int(held * MB), ran, growth * MB, still, "cc", profile)


@pytest.mark.parametrize(
    ("step", "grows"),
    [
        (running(100, growth=0.5), False),  # Below 1 MiB/s it is a page here and there.
        (running(10, growth=1.2), True),
        (running(500, growth=8), False),  # Below 2 % a second.
        (running(500, growth=12), True),
        (running(100, growth=50, profile=KNOWN), True),
        (running(198, growth=50, profile=KNOWN), False),  # At its learnt peak: it has done with it.
        (running(210, growth=50, profile=KNOWN), True),  # And beyond: what was learnt is wrong.
    ],
)
def test_who_grows(step: Step, grows: bool) -> None:
    """By the last half second, and by what was learnt."""
    assert is_growing(step) is grows


@pytest.mark.parametrize(
    ("step", "peak", "rise", "end"),
    [
        (Step(0, N, 5 * MB, kind="cc", profile=KNOWN), 200, 4.0, 10.2),
        (running(100, ran=2, growth=50, profile=KNOWN), 200, 2.0, 8.2),
        (running(200, ran=6, profile=KNOWN), 200, 0.0, 4.2),
        (running(200, ran=12, profile=KNOWN), 200, 0.0, 0.2),  # Overdue: at any moment.
        (running(250, ran=5, growth=50, profile=KNOWN), 325, 1.5, 7.5),  # Above all that was expected.
        (running(250, ran=5, still=1, profile=KNOWN), 255, 0.0, 5.0),
    ],
)
def test_a_known_step(step: Step, peak: float, rise: float, end: float) -> None:
    """From now on, as the last time; it ends a little later."""
    curve = expected([step]).curve_of(step)
    told = [curve.first_bytes / MB, curve.peak_bytes / MB, curve.rise_seconds, curve.end_seconds]
    assert told == pytest.approx([step.held_bytes / MB, peak, rise, end])


@pytest.mark.parametrize(
    ("budget", "guess"),
    [(600 * MB, 100 * MB), (6 * GIB, FIRST_BYTES), (20 * GIB, FIRST_BYTES), (200 * GIB, FIRST_BYTES)],
)
def test_the_first_guess_does_not_grow_with_the_budget(budget: int, guess: int) -> None:
    """A sixth, or 1 GB; taken at once, and for ever."""
    step = Step(0, N, 5 * MB, kind="cc")
    curve = expected([step], budget=budget).curve_of(step)
    assert curve.peak_bytes == pytest.approx(guess)
    assert curve.rise_seconds == 0


@pytest.mark.parametrize(
    ("budget", "together", "spacing"),
    [(600 * MB, 3, 0.7), (6 * GIB, 3, 0.652), (12 * GIB, 6, 0.326), (20 * GIB, 10, 0.196), (0, 3, 0.7)],
)
def test_a_big_budget_begins_faster(budget: int, together: int, spacing: float) -> None:
    """Three at once where a guess is a sixth; half of those that fit where it is less."""
    assert list(expected([], budget=budget).slow_start()) == pytest.approx([together, spacing], abs=2e-3)
    assert together >= FIRST_TOGETHER


def test_kin_tell_about_each_other() -> None:
    """Who has ended says how big the next becomes; who is bigger already says more."""
    step = Step(9, N, 5 * MB, kind="cc")
    alike = [Profile(100 * MB, 2.0, 5.0)] * 8
    peak = expected([step], alike).curve_of(step).peak_bytes
    assert 100 * MB <= peak <= 115 * MB
    grown = [step, running(300, growth=20)]
    assert expected(grown, alike).curve_of(step).peak_bytes > peak
    other = Step(8, N, 5 * MB, kind="ld")
    assert expected([other], alike).curve_of(other).peak_bytes == pytest.approx(BUDGET / 6, abs=1)


def test_the_more_have_ended_the_nearer_to_the_average() -> None:
    """One says little."""
    step = Step(9, N, 5 * MB, kind="cc")
    peaks = [
        expected([step], [Profile(100 * MB, 2.0, 5.0)] * count).curve_of(step).peak_bytes for count in (1, 3, 9, 50)
    ]
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[-1] < 103 * MB


def test_only_the_last_that_have_ended_count() -> None:
    """A build of thousands costs no more than one of a hundred, and what it does now is what counts."""
    step = Step(9, N, 5 * MB, kind="cc")
    ended = [Profile(500 * MB, 2.0, 5.0)] * 5 + [Profile(50 * MB, 2.0, 5.0)] * ENDED_SEEN
    assert expected([step], ended).curve_of(step).peak_bytes < 60 * MB


@pytest.mark.parametrize(
    ("step", "most"),
    [
        (running(100, profile=KNOWN), 204),
        (running(250, growth=9, profile=KNOWN), 325),
        (running(100, growth=9), 400),  # Two fifths of the budget.
        (running(200, growth=9), 500),  # 2.5 times as much as it holds.
        (running(300, growth=9), 600),  # And never above 0.6 of the budget, but what it has and a quarter.
        (running(500, growth=9), 625),
        (running(300, still=1), 306),  # At its peak.
        (Step(0, W, 30 * MB, kind="cc"), 400),
    ],
)
def test_the_most_that_it_may_come_to_hold(step: Step, most: float) -> None:
    """What has to be free for it to end."""
    assert expected([step]).most_bytes(step) / MB == pytest.approx(most)


@pytest.mark.parametrize(("ended", "most"), [(0, 400), (4, 300), (12, 200), (100, 125)])
def test_the_most_fades_with_what_is_seen(ended: int, most: float) -> None:
    """After a hundred small ones the next may take a quarter more than one that lives, and no more."""
    step = running(100, growth=9)
    assert expected([step], [Profile(20 * MB, 1.0, 2.0)] * ended).most_bytes(step) / MB == pytest.approx(most)


def test_the_most_of_all_that_were_seen() -> None:
    """A tenth above the biggest that has ended; and where none has 2.5 times of the biggest that lives."""
    step = running(100, growth=9)
    assert expected([step], [Profile(400 * MB, 1.0, 2.0)]).most_bytes(step) == pytest.approx(440 * MB)
    assert expected([step, running(180, order=1, growth=9)]).most_bytes(step) == pytest.approx(450 * MB)


def test_the_first_of_its_kind() -> None:
    """Neither learnt nor seen."""
    assert expected([]).is_first_of_kind(Step(0, N, 0, kind="cc"))
    assert not expected([]).is_first_of_kind(Step(0, N, 0, kind="cc", profile=KNOWN))
    assert not expected([], [KNOWN]).is_first_of_kind(Step(0, N, 0, kind="cc"))
