# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is seen of one step by looking at it again and again, at given times."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicemgr.model.step import Profile, StepSignature, StepState
from slicemgr.service.live_step import GROWTH_WINDOW_SECONDS, LiveStep
from tests.service.step_samples import MIB, FakeStep


def _running(*looks: tuple[float, int]) -> FakeStep:
    """It has run since 0.0, and was seen at these times to hold so many MiB."""
    step = FakeStep(1)
    step.enter(StepState.RUNNING, 0.0)
    for at, size in looks:
        step.hold_bytes(size * MIB, at)
    return step


def test_it_is_new() -> None:
    """Held at birth it has not run, whatever it holds."""
    step = FakeStep(3, "cc1plus", 5.0)
    step.hold_bytes(2 * MIB, 6.0)
    seen = step.as_step(7.0)
    assert (seen.order, seen.state, seen.kind, seen.held_bytes) == (3, StepState.NEW, "cc1plus", 2 * MIB)
    assert (seen.ran_seconds, seen.growth_bytes_per_second, seen.since_seconds) == (0.0, 0.0, 2.0)
    assert step.peak_bytes == 0
    assert step.learnt() is None


@pytest.mark.parametrize(
    ("looks", "growth"),
    [
        ([], 0),
        ([(0.1, 10)], 0),
        ([(0.1, 10), (0.2, 20)], 100),
        ([(0.1, 10), (0.2, 20), (0.3, 40)], 150),
        # It gives some back: that is no growth.
        ([(0.1, 20), (0.2, 10)], 0),
        # Two looks at one time say nothing.
        ([(0.1, 10), (0.1, 20)], 0),
        # Only the last half second counts: the jump is older.
        ([(0.0, 0), (0.1, 100), (0.4, 100), (0.7, 100), (1.0, 100)], 0),
    ],
)
def test_how_it_grows(looks: list[tuple[float, int]], growth: int) -> None:
    assert _running(*looks).growth_bytes_per_second == pytest.approx(growth * MIB)


def test_growth_is_of_running() -> None:
    """What it waited is no time, and what it holds after that no jump."""
    step = _running((0.1, 10), (0.2, 20))
    step.enter(StepState.WAITING, 0.2)
    for at in (1.0, 50.0, 100.0):
        step.measure(at)
    step.enter(StepState.RUNNING, 100.0)
    step.hold_bytes(30 * MIB, 100.1)
    assert step.ran_seconds == pytest.approx(0.3)
    assert step.growth_bytes_per_second == pytest.approx(100 * MIB)


@given(st.lists(st.tuples(st.floats(0, 0.9), st.integers(0, 1 << 40)), max_size=40))
def test_whatever_it_does(looks: list[tuple[float, int]]) -> None:
    """Nothing is ever negative, its peak is the highest that was seen, and what is learnt is a profile."""
    step, now, seen = _running(), 0.0, [0]
    for pause, size in looks:
        now += pause
        step.hold_bytes(size, now)
        seen.append(step.held_bytes)
        assert step.growth_bytes_per_second >= 0
        assert step.as_step(now).still_seconds >= 0
    assert step.peak_bytes == max(seen)
    assert step.ran_seconds == pytest.approx(now)
    learnt = step.learnt()
    assert (learnt is None) == (max(seen) == 0)
    if learnt is not None:
        assert learnt.peak_bytes >= step.peak_bytes
        assert 0 <= learnt.rise_seconds <= learnt.run_seconds


def test_a_gap_is_no_running() -> None:
    """We were stopped ourselves, and all with us; or the machine slept."""
    step = _running((0.1, 10))
    step.hold_bytes(20 * MIB, 3600.0)
    assert step.ran_seconds == pytest.approx(0.1)
    step.hold_bytes(20 * MIB, 3600.5)
    assert step.ran_seconds == pytest.approx(0.6)


def test_the_clock_does_not_run_backwards() -> None:
    step = _running((1.0, 10), (0.5, 10))
    assert step.ran_seconds == pytest.approx(0.0)
    step.measure(0.75)
    assert step.ran_seconds == pytest.approx(0.25)


def test_a_zombie_holds_nothing() -> None:
    """Its end comes on the pidfd; until then it is as it was last."""
    step = _running((0.1, 10), (0.2, 20), (0.3, 0))
    assert (step.held_bytes, step.peak_bytes) == (20 * MIB, 20 * MIB)
    assert step.ran_seconds == pytest.approx(0.3)


def test_it_is_gone() -> None:
    step = _running((0.1, 10))
    step.fake_files.is_gone = True
    step.measure(0.2)
    assert step.held_bytes == 10 * MIB


def test_it_gives_back() -> None:
    """It holds less, and its peak stays."""
    step = _running((0.1, 100), (0.2, 30))
    assert (step.held_bytes, step.peak_bytes) == (30 * MIB, 100 * MIB)


@pytest.mark.parametrize(
    ("more_bytes", "still"),
    # Less than a hundredth and a quarter MiB is none.
    [(0, 0.5), (MIB, 0.5), (MIB + (1 << 18), 0.5), (2 * MIB, 0.0)],
)
def test_for_how_long_it_has_not_grown(more_bytes: int, still: float) -> None:
    step = _running((0.1, 0), (0.5, 100))
    step.hold_bytes(100 * MIB + more_bytes, 1.0)
    assert step.as_step(1.0).still_seconds == pytest.approx(still)


@pytest.mark.parametrize(
    ("looks", "profile"),
    [
        # At once.
        ([(0.1, 100), (0.9, 100)], Profile(100 * MIB, 0.1, 0.9)),
        # Evenly: the line reaches the peak when it does.
        ([(0.1, 10), (0.2, 20), (0.5, 50), (0.9, 90)], Profile(90 * MIB, 0.9, 0.9)),
        # A jump early on: the line goes above it.
        ([(0.1, 50), (0.9, 100)], Profile(100 * MIB, 0.2, 0.9)),
        # Below a quarter is the start of an interpreter.
        ([(0.01, 20), (0.8, 100), (0.9, 100)], Profile(100 * MIB, 0.8, 0.9)),
        # It gives back before it ends.
        ([(0.4, 100), (0.8, 10)], Profile(100 * MIB, 0.4, 0.8)),
    ],
)
def test_what_is_learnt(looks: list[tuple[float, int]], profile: Profile) -> None:
    step = _running(*looks)
    step.hold_bytes(step.held_bytes, looks[-1][0] + GROWTH_WINDOW_SECONDS)  # It is still for as long as growth counts.
    step.measure(looks[-1][0] + 2 * GROWTH_WINDOW_SECONDS)
    learnt = step.learnt()
    assert learnt is not None
    assert learnt.peak_bytes == profile.peak_bytes
    assert learnt.rise_seconds == pytest.approx(profile.rise_seconds)
    assert learnt.run_seconds == pytest.approx(profile.run_seconds + 2 * GROWTH_WINDOW_SECONDS)


def test_it_grew_until_its_end() -> None:
    """Between the last look and its end, too: by half of what it would have grown until the next look."""
    learnt = _running((0.1, 10), (0.2, 20)).learnt()
    assert learnt is not None
    assert learnt.peak_bytes == pytest.approx(25 * MIB)


def test_a_long_life_is_kept_short() -> None:
    """An hour of growth, a hundred looks a second: the line is as if all had been kept."""
    step = _running()
    for each in range(1, 5001):
        step.hold_bytes(each * MIB // 10, each / 100)
    assert len(step._course) <= 256
    learnt = step.learnt()
    assert learnt is not None
    assert learnt.rise_seconds == pytest.approx(50.0, rel=0.02)


def test_waiting_is_counted() -> None:
    """Each time, and what it waits now."""
    step = FakeStep(1)
    assert step.waiting_seconds(1.0) == 0.0  # Nobody has stopped it yet.
    step.enter(StepState.NEW, 1.0)
    assert step.waiting_seconds(3.0) == pytest.approx(2.0)
    step.enter(StepState.RUNNING, 3.0)
    step.enter(StepState.WAITING, 5.0)
    assert step.waiting_seconds(6.0) == pytest.approx(3.0)
    step.enter(StepState.RUNNING, 7.0)
    assert step.waiting_seconds(100.0) == pytest.approx(4.0)
    assert step.waits == 2


def test_born_where_there_was_room() -> None:
    """It has never waited."""
    step = FakeStep(1)
    step.enter(StepState.RUNNING, 2.0)
    assert (step.waits, step.waiting_seconds(10.0)) == (0, 0.0)


def test_who_must_not_wait() -> None:
    """For policy: a driver of others by now, or excluded."""
    step = _running()
    assert step.as_step(0.0).may_wait
    step.children = 1
    assert not step.as_step(0.0).may_wait
    step.children = 0
    assert step.as_step(0.0).may_wait
    step.may_wait = False
    assert not step.as_step(0.0).may_wait


def test_what_policy_is_told() -> None:
    step = _running((0.1, 10))
    step.profile, step.alone = Profile(1, 2.0, 3.0), True
    step.signature = StepSignature("cc1plus", "a.o", "/src")
    seen = step.as_step(0.5)
    assert (seen.profile, seen.alone, seen.since_seconds) == (Profile(1, 2.0, 3.0), True, 0.5)


def test_it_lets_go_of_its_descriptors() -> None:
    step = FakeStep(1)
    LiveStep.close(step)
    assert step.fake_files.is_closed
    assert step.fake_process.is_closed
