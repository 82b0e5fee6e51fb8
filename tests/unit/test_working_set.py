# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a session needs, from what it holds; and what is kept for it."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicemgr.policy.working_set import (
    HALF_LIFE_SECONDS,
    STALLED_PERCENT,
    STEP_BYTES,
    TELL_SECONDS,
    Caps,
    Protection,
    SessionSample,
    Told,
    WorkingSet,
    is_news,
    next_working_set,
    protection,
)

MIB, GIB = 1 << 20, 1 << 30
CALM = SessionSample(0.0, 300 * MIB, 100 * MIB, 500 * MIB, 0.0, True)
LAPTOP = Caps(16 * GIB, 2 * GIB)

SIZES = st.integers(0, 1 << 45)
SAMPLES = st.builds(
    SessionSample,
    taken_seconds=st.floats(0, 1e6),
    unreclaimable_bytes=SIZES,
    active_file_bytes=SIZES,
    inactive_file_bytes=SIZES,
    stalled_percent=st.floats(0, 100),
    is_active=st.booleans(),
)


@pytest.mark.parametrize(
    ("before_mib", "passed", "changes", "after_mib"),
    [
        # The first sample is all that is known. Cache that nobody uses twice is not needed.
        (None, 0.0, {}, 400),
        (None, 0.0, {"is_active": False}, 400),
        # Quick to rise.
        (300, 0.0, {}, 400),
        (300, 10.0, {"is_active": False}, 400),
        # Slow to fall: a half after ten minutes.
        (800, 0.0, {}, 800),
        (800, HALF_LIFE_SECONDS, {}, 600),
        (800, 2 * HALF_LIFE_SECONDS, {}, 500),
        # In the background it is pushed out, and needs no less for that.
        (800, HALF_LIFE_SECONDS, {"is_active": False}, 800),
        # What comes back begins on the inactive list.
        (300, 10.0, {"stalled_percent": 40.0}, 900),
        (1000, HALF_LIFE_SECONDS, {"stalled_percent": 40.0}, 1000),
        (1000, HALF_LIFE_SECONDS, {"stalled_percent": STALLED_PERCENT}, 1000),
        (1000, HALF_LIFE_SECONDS, {"stalled_percent": STALLED_PERCENT - 0.1}, 700),
    ],
)
def test_the_estimate(before_mib: int | None, passed: float, changes: dict[str, float], after_mib: int) -> None:
    before = None if before_mib is None else WorkingSet(before_mib * MIB, 50.0)
    sample = replace(CALM, taken_seconds=50.0 + passed, **changes)  # type: ignore[arg-type]
    assert next_working_set(before, sample) == WorkingSet(after_mib * MIB, 50.0 + passed)


def test_a_clock_that_goes_back_takes_nothing_away() -> None:
    assert next_working_set(WorkingSet(GIB, 50.0), CALM) == WorkingSet(GIB, 0.0)


@given(SAMPLES, SAMPLES)
def test_it_never_falls_below_what_is_used(first: SessionSample, second: SessionSample) -> None:
    """Nor above what was ever seen."""
    before = next_working_set(None, first)
    after = next_working_set(before, second)
    used = second.unreclaimable_bytes + second.active_file_bytes
    assert used <= after.size_bytes <= max(before.size_bytes, used + second.inactive_file_bytes)
    if second.stalled_percent >= STALLED_PERCENT or not second.is_active:
        assert after.size_bytes >= before.size_bytes


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=20))
def test_how_often_it_is_looked_at_says_nothing(steps: list[float]) -> None:
    """Twenty looks fall as far as one over the same time, but for a byte each."""
    start = WorkingSet(10 * GIB, 0.0)
    many, now = start, 0.0
    for step in steps:
        now += step
        many = next_working_set(many, replace(CALM, taken_seconds=now))
    one = next_working_set(start, replace(CALM, taken_seconds=now))
    assert abs(many.size_bytes - one.size_bytes) <= 2 * len(steps)


@pytest.mark.parametrize(
    ("size", "caps", "kept"),
    [
        # 400 MiB and an eighth are 450: 29 steps of 16. A quarter of them, in whole steps.
        (400 * MIB, LAPTOP, Protection(464 * MIB, 112 * MIB)),
        # A leak of the shell's: the reserve, and a fiftieth of the machine.
        (9 * GIB, LAPTOP, Protection(2 * GIB, 320 * MIB)),
        # A fifth of the machine, whatever is reserved.
        (9 * GIB, Caps(4 * GIB, 3 * GIB), Protection(816 * MIB, 80 * MIB)),
        (0, LAPTOP, Protection(64 * MIB, 16 * MIB)),
        (GIB, Caps(16 * GIB, 0), Protection(0, 0)),
        (GIB, Caps(50 * MIB, 40 * MIB), Protection(0, 0)),
    ],
)
def test_what_is_kept(size: int, caps: Caps, kept: Protection) -> None:
    assert protection(WorkingSet(size, 0.0), caps) == kept


@given(SIZES, st.integers(1, 1 << 45), SIZES)
def test_the_caps_hold(size: int, total: int, reserve: int) -> None:
    kept = protection(WorkingSet(size, 0.0), Caps(total, reserve))
    assert 0 <= kept.min_bytes * 4 <= kept.low_bytes
    assert kept.low_bytes <= min(reserve, total // 5)
    assert kept.min_bytes <= total // 50
    assert kept.low_bytes % STEP_BYTES == kept.min_bytes % STEP_BYTES == 0


@given(SIZES, SIZES, st.integers(1, 1 << 45), SIZES)
def test_who_needs_more_is_kept_no_less(size: int, more: int, total: int, reserve: int) -> None:
    less, greater = (protection(WorkingSet(each, 0.0), Caps(total, reserve)) for each in sorted((size, more)))
    assert less.low_bytes <= greater.low_bytes
    assert less.min_bytes <= greater.min_bytes


LOW = Protection(800 * MIB, 160 * MIB)


@pytest.mark.parametrize(
    ("told", "wanted", "now", "news"),
    [
        (None, LOW, 0.0, True),
        (Told(LOW, 0.0), replace(LOW, low_bytes=2 * GIB), TELL_SECONDS - 0.1, False),
        (Told(LOW, 0.0), replace(LOW, low_bytes=2 * GIB), TELL_SECONDS, True),
        (Told(LOW, 0.0), LOW, 1e6, False),
        # Less than an eighth is none, in both directions.
        (Told(LOW, 0.0), replace(LOW, low_bytes=896 * MIB), 1e6, False),
        (Told(LOW, 0.0), replace(LOW, low_bytes=912 * MIB), 1e6, True),
        (Told(LOW, 0.0), replace(LOW, low_bytes=704 * MIB), 1e6, False),
        (Told(LOW, 0.0), replace(LOW, low_bytes=688 * MIB), 1e6, True),
        (Told(LOW, 0.0), replace(LOW, min_bytes=0), 1e6, True),
        (Told(Protection(), 0.0), LOW, 1e6, True),
    ],
)
def test_when_systemd_is_told(told: Told | None, wanted: Protection, now: float, news: bool) -> None:
    assert is_news(told, wanted, now) is news


@given(st.lists(st.tuples(st.floats(0.1, 60), SIZES), max_size=60))
def test_it_is_never_told_twice_within_minutes(steps: list[tuple[float, int]]) -> None:
    told: Told | None = None
    times: list[float] = []
    now = 0.0
    for step, size in steps:
        now += step
        wanted = protection(WorkingSet(size, now), LAPTOP)
        if is_news(told, wanted, now):
            told = Told(wanted, now)
            times.append(now)
    assert all(later - earlier >= TELL_SECONDS for earlier, later in itertools.pairwise(times))
