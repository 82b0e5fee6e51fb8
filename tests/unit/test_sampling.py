# SPDX-License-Identifier: LGPL-2.1-or-later
"""How closely a tree is looked at."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicemgr.model.cgroup import CgroupSample, Measure, MemoryLimits
from slicemgr.policy.sampling import (
    ASSUMED_GROWTH_BYTES_PER_SECOND,
    GREATEST_SHARE,
    LONGEST_INTERVAL_SECONDS,
    SHORTEST_INTERVAL_SECONDS,
    Pace,
    next_look,
    tighter_measure,
)
from tests.unit.samples import MIB, sample

LIMITS = MemoryLimits(max=1000 * MIB)
GIB = 1024 * MIB


def interval_of(reading: CgroupSample, pace: Pace | None = None, limits: MemoryLimits = LIMITS) -> float:
    return next_look(pace or Pace(), reading, limits)[1]


@pytest.mark.parametrize(
    ("reading", "limits", "peak", "above_high", "answer"),
    [
        # Far below the limit and no new height: RSS settles it.
        (sample(400 * MIB, measure=Measure.RESIDENT), LIMITS, 600 * MIB, False, None),
        # A new height of the bound may be a new peak, which has to be measured.
        (sample(400 * MIB, measure=Measure.RESIDENT), LIMITS, 300 * MIB, False, Measure.UNRECLAIMABLE),
        (sample(400 * MIB), LIMITS, 300 * MIB, False, Measure.PROPORTIONAL),
        (sample(400 * MIB), LIMITS, 400 * MIB, False, None),
        # RSS lacks page tables, which may be as much again: so half of the limit is near.
        (sample(501 * MIB, measure=Measure.RESIDENT), LIMITS, GIB, False, Measure.UNRECLAIMABLE),
        (sample(500 * MIB, measure=Measure.RESIDENT), LIMITS, GIB, False, None),
        # RSS does not tell of swap, and swapped pages can be shared as well.
        (sample(1, measure=Measure.RESIDENT), MemoryLimits(swap_max=5), GIB, False, Measure.UNRECLAIMABLE),
        (sample(1, swap=6), MemoryLimits(swap_max=5), GIB, False, Measure.PROPORTIONAL),
        (sample(1, swap=5), MemoryLimits(swap_max=5), GIB, False, None),
        (sample(1000 * MIB), LIMITS, GIB, False, None),
        (sample(1000 * MIB + 1), LIMITS, GIB, False, Measure.PROPORTIONAL),
        # --high is a concern until it has been warned of.
        (sample(600 * MIB), MemoryLimits(high=500 * MIB, max=GIB), GIB, False, Measure.PROPORTIONAL),
        (sample(600 * MIB), MemoryLimits(high=500 * MIB, max=GIB), GIB, True, None),
        (sample(600 * MIB), MemoryLimits(), GIB, False, None),
        # Nothing is tighter than the last.
        (sample(2000 * MIB, measure=Measure.PROPORTIONAL), LIMITS, 0, False, None),
    ],
)
def test_the_cheapest_measure_that_settles_it(
    reading: CgroupSample, limits: MemoryLimits, peak: int, above_high: bool, answer: Measure | None
) -> None:
    """Each measure is an upper bound of the next: below the limit it ends the matter."""
    assert tighter_measure(reading, limits, highest_bound_bytes=peak, above_high=above_high) is answer


def test_seldom_far_from_the_limit_and_fast_near_it() -> None:
    """The interval shrinks with the headroom, between its bounds."""
    intervals = [interval_of(sample(usage * MIB)) for usage in (0, 300, 700, 900, 990, 999, 1000, 1100)]
    assert intervals == sorted(intervals, reverse=True)
    assert interval_of(sample(0), limits=MemoryLimits(max=100 * GIB)) == LONGEST_INTERVAL_SECONDS
    assert intervals[-2:] == [SHORTEST_INTERVAL_SECONDS] * 2


def test_without_a_hard_limit_there_is_no_hurry() -> None:
    """Only the peak is looked for."""
    assert interval_of(sample(GIB), limits=MemoryLimits(high=5)) == LONGEST_INTERVAL_SECONDS


def test_growth_that_was_seen_makes_it_faster() -> None:
    """At 4 GiB/s the remaining 200 MiB are gone in 49 ms: the second look is before that."""
    pace, _ = next_look(Pace(), sample(400 * MIB, at=1.0), LIMITS)
    pace, interval = next_look(pace, sample(800 * MIB, at=1.1), LIMITS)
    assert pace.growth_bytes_per_second == pytest.approx(4000 * MIB)
    assert 2 * interval == pytest.approx(200 / 4000)


def test_growth_is_remembered_for_about_a_step() -> None:
    """Halved every two seconds, and never below what is assumed of any tree."""
    pace = Pace(800 * MIB, 10.0, 4000 * MIB)
    pace, _ = next_look(pace, sample(800 * MIB, at=12.0), LIMITS)
    assert pace.growth_bytes_per_second == pytest.approx(2000 * MIB)
    _, interval = next_look(pace, sample(800 * MIB, at=60.0), LIMITS)
    assert interval == pytest.approx(200 * MIB / ASSUMED_GROWTH_BYTES_PER_SECOND / 2)


def test_the_nearer_of_memory_and_swap_counts() -> None:
    """Swap has a limit of its own."""
    limits = MemoryLimits(max=1000 * MIB, swap_max=50 * MIB)
    assert interval_of(sample(0, swap=50 * MIB), limits=limits) == SHORTEST_INTERVAL_SECONDS


@given(
    usage=st.integers(0, 1 << 50), resident=st.integers(0, 1 << 50), limit=st.integers(1, 1 << 50),
    cost=st.floats(0, 10), at=st.floats(0, 1e9), last=st.floats(0, 1e9), before=st.integers(0, 1 << 50),
)  # fmt: skip
def test_reading_never_takes_more_than_its_share(
    usage: int, resident: int, limit: int, cost: float, at: float, last: float, before: int
) -> None:
    """A thousand forked processes near their limit cost an eighth of a core, not all of it; a clock may jump."""
    reading = sample(usage, resident=resident, at=at, cost=cost)
    interval = interval_of(reading, Pace(before, last, 0.0), MemoryLimits(max=limit))
    assert cost / GREATEST_SHARE <= max(interval, SHORTEST_INTERVAL_SECONDS)
    assert SHORTEST_INTERVAL_SECONDS <= interval <= max(LONGEST_INTERVAL_SECONDS, cost / GREATEST_SHARE)
