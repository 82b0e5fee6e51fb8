# SPDX-License-Identifier: LGPL-2.1-or-later
"""From two readings of a cgroup to one situation."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicemgr.model.cgroup import CgroupReading, MemoryEvents, MemoryStat, Pressure, Stall
from slicemgr.policy.evidence import Situation, situation_between, situation_of_sample, unreclaimable_bytes
from tests.unit.samples import sample

NO_EVENTS = MemoryEvents(low=0, high=0, max=0, oom=0, oom_kill=0, oom_group_kill=0)


def stalled(some_usec: int, full_usec: int | None) -> Pressure:
    """A pressure file with these totals."""
    full = None if full_usec is None else Stall(0.0, 0.0, 0.0, full_usec)
    return Pressure(Stall(0.0, 0.0, 0.0, some_usec), full)


FIRST = CgroupReading(
    taken_seconds=10.0,
    current_bytes=1000,
    swap_bytes=None,
    events=NO_EVENTS,
    local_events=NO_EVENTS,
    stat=MemoryStat(anon=600, file=300, workingset_refault_anon=1, workingset_refault_file=2),
    pressure=stalled(1_000_000, 500_000),
    cpu_usage_usec=0,
)


@pytest.mark.parametrize(
    ("stat", "held"),
    [
        (MemoryStat(), 0),
        (MemoryStat(anon=5, file=100), 5),
        # tmpfs is in `file`, and only swap takes it.
        (MemoryStat(anon=5, file=100, shmem=40), 45),
        (MemoryStat(anon=5, sock=7), 12),
        (MemoryStat(anon=5, kernel=50, slab_reclaimable=20), 35),
        # `kernel` has all of these in it.
        (MemoryStat(anon=5, kernel=50, kernel_stack=9, pagetables=9, percpu=9, slab_unreclaimable=9), 55),
        (MemoryStat(anon=5, kernel_stack=1, pagetables=2, percpu=3, slab_unreclaimable=4), 15),
        # The rows are flushed one after another.
        (MemoryStat(anon=5, kernel=10, slab_reclaimable=20), 5),
    ],
)
def test_what_reclaim_cant_take(stat: MemoryStat, held: int) -> None:
    assert unreclaimable_bytes(stat) == held


def test_the_first_look_knows_no_rates() -> None:
    """Old events and old stalls are no news."""
    reading = replace(FIRST, events=replace(NO_EVENTS, high=90, oom_kill=3), local_events=replace(NO_EVENTS, high=90))
    assert situation_between(None, reading, 0) == Situation(
        10.0, 0.0, usage_bytes=1000, unreclaimable_bytes=600, swappable_bytes=600
    )


def test_what_happened_in_between() -> None:
    """Events of its own limits, kills anywhere below, shares of the time, pages that came back."""
    now = replace(
        FIRST,
        taken_seconds=12.0,
        current_bytes=1100,
        swap_bytes=70,
        events=replace(NO_EVENTS, high=100, max=100, oom_kill=2),
        local_events=replace(NO_EVENTS, high=4, max=1),
        stat=MemoryStat(anon=800, workingset_refault_anon=11, workingset_refault_file=22),
        pressure=stalled(2_500_000, 1_500_000),
        cpu_usage_usec=3_000_000,
    )
    assert situation_between(FIRST, now, 33) == Situation(
        at_seconds=12.0,
        elapsed_seconds=2.0,
        usage_bytes=1100,
        unreclaimable_bytes=800,
        swappable_bytes=800,
        swap_bytes=70,
        swap_room_bytes=33,
        high_events=4,
        max_events=1,
        kernel_kills=2,
        some_share=0.75,
        full_share=0.5,
        cpu_share=1.5,
        refault_pages=30,
    )


def test_before_there_were_local_events_the_subtree_s_count() -> None:
    """Kernels before 5.2."""
    before = replace(FIRST, local_events=None)
    now = replace(before, taken_seconds=11.0, events=replace(NO_EVENTS, high=3))
    assert situation_between(before, now, 0).high_events == 3


@pytest.mark.parametrize(
    ("before", "now", "shares"),
    [
        (None, stalled(1, 1), (None, None)),
        (stalled(1, 1), None, (None, None)),
        (stalled(0, None), stalled(250_000, None), (0.25, None)),
        (stalled(0, 0), stalled(250_000, None), (0.25, None)),
        # Counted at another moment than the clock was read.
        (stalled(0, 0), stalled(1_000_400, 1_000_300), (1.0, 1.0)),
        (stalled(9, 9), stalled(0, 0), (0.0, 0.0)),
    ],
)
def test_shares_of_the_time(
    before: Pressure | None, now: Pressure | None, shares: tuple[float | None, float | None]
) -> None:
    """None where the kernel does not tell; never outside of 0 to 1."""
    situation = situation_between(
        replace(FIRST, pressure=before), replace(FIRST, taken_seconds=11.0, pressure=now), swap_room_bytes=0
    )
    assert (situation.some_share, situation.full_share) == shares


@pytest.mark.parametrize(
    ("some_usec", "cpu_usec", "share"),
    [
        (None, 1_000_000, None),
        (500_000, 0, 0.5),
        (500_000, None, 0.5),
        # A leak that stands still beside one busy process, and beside fifteen.
        (490_000, 1_000_000, 0.98),
        (60_000, 15_000_000, 0.96),
        (900_000, 4_000_000, 1.0),
        # Another cgroup of the same name.
        (500_000, -5, 0.5),
    ],
)
def test_who_waits_beside_who_runs(some_usec: int | None, cpu_usec: int | None, share: float | None) -> None:
    before = replace(FIRST, pressure=stalled(0, 0), cpu_usage_usec=10)
    now = replace(
        before,
        taken_seconds=11.0,
        pressure=None if some_usec is None else stalled(some_usec, 0),
        cpu_usage_usec=None if cpu_usec is None else 10 + cpu_usec,
    )
    assert situation_between(before, now, 0).waiting_share == (None if share is None else pytest.approx(share))


def test_no_time_has_passed() -> None:
    """Two readings within the clock's resolution: no share, and no division by zero."""
    assert situation_between(FIRST, replace(FIRST, pressure=stalled(9_000_000, 0)), 0).some_share is None


def test_statistics_that_lag_behind() -> None:
    """memory.stat may still show what memory.current has given back."""
    assert situation_between(None, replace(FIRST, current_bytes=500), 0).unreclaimable_bytes == 500


@pytest.mark.parametrize(("room", "stuck"), [(0, 600), (1, 599), (600, 0), (10_000, 0)])
def test_swap_makes_it_less_stuck(room: int, stuck: int) -> None:
    assert situation_between(None, FIRST, room).stuck_bytes == stuck


@pytest.mark.parametrize(
    ("stat", "stuck"),
    [
        (MemoryStat(anon=600, shmem=100), 0),
        # Of the kernel's own, of sockets, and of what is locked, swap takes nothing.
        (MemoryStat(anon=600, kernel=300), 300),
        (MemoryStat(anon=600, sock=50), 50),
        (MemoryStat(anon=600, unevictable=200), 200),
        (MemoryStat(anon=100, unevictable=900), 100),
    ],
)
def test_what_swap_cant_take(stat: MemoryStat, stuck: int) -> None:
    assert situation_between(None, replace(FIRST, stat=stat), 1 << 40).stuck_bytes == stuck


def test_a_process_tree_holds_all_that_is_counted() -> None:
    situation = situation_of_sample(sample(700, swap=40, at=3.0))
    assert situation == Situation(3.0, 0.0, usage_bytes=700, unreclaimable_bytes=700, swap_bytes=40)
    assert situation.stuck_bytes == 700


counts = st.none() | st.integers(0, 1 << 62)
events = st.builds(MemoryEvents, low=counts, high=counts, max=counts, oom=counts, oom_kill=counts)
stats = st.builds(
    MemoryStat,
    anon=counts,
    shmem=counts,
    kernel=counts,
    unevictable=counts,
    slab_reclaimable=counts,
    workingset_refault_anon=counts,
    workingset_refault_file=counts,
)
totals = st.integers(0, 1 << 62)
readings = st.builds(
    CgroupReading,
    taken_seconds=st.floats(0, 1e6),
    current_bytes=st.integers(0, 1 << 62),
    swap_bytes=counts,
    events=events,
    local_events=st.none() | events,
    stat=stats,
    pressure=st.none() | st.builds(stalled, totals, st.none() | totals),
    cpu_usage_usec=counts,
)


@given(st.none() | readings, readings, st.integers(0, 1 << 62))
def test_any_two_readings(before: CgroupReading | None, now: CgroupReading, room: int) -> None:
    """Of different kernels, of two cgroups that had one name, in any order: nothing is negative, or more than all."""
    situation = situation_between(before, now, room)
    counted = (situation.high_events, situation.max_events, situation.kernel_kills, situation.refault_pages)
    assert min(counted) >= 0
    assert 0 <= situation.stuck_bytes <= situation.unreclaimable_bytes <= situation.usage_bytes
    for share in (situation.some_share, situation.full_share):
        assert share is None or 0.0 <= share <= 1.0
