# SPDX-License-Identifier: LGPL-2.1-or-later
"""How many steps fit at once, as tables and for any numbers."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicemgr.policy.safe_jobs import UNKNOWN_BYTES, Headroom, held_bytes, safe_jobs, tightest, unknown_bytes

MIB = 1 << 20
GIB = 1 << 30

# (cores, room, peaks, jobs)
TABLE = [
    # Nothing is known: 512 MiB each.
    (20, 16 * GIB, [], 20),
    (20, 4 * GIB, [], 8),
    (20, 4 * GIB - 1, [], 7),
    (20, 100 * MIB, [], 1),
    # The machine's limit is below what is used by now.
    (20, 0, [], 1),
    (20, -5 * GIB, [], 1),
    (1, 100 * GIB, [], 1),
    # Alike.
    (20, GIB, [100 * MIB] * 100, 10),
    # One linker among compilers: it runs beside as many of them as there is room for.
    (64, 8 * GIB, [4 * GIB, *[100 * MIB] * 1000], 41),
    # Two linkers may meet.
    (64, 8 * GIB, [4 * GIB, 4 * GIB, *[100 * MIB] * 1000], 2),
    (64, 7 * GIB, [4 * GIB, 4 * GIB, *[100 * MIB] * 1000], 1),
    # One that does not fit alone.
    (64, GIB, [4 * GIB, *[100 * MIB] * 1000], 1),
    # Fewer are known than there are cores: the others are like the average of these.
    (8, 100, [30, 10], 5),
    (8, 99, [30, 10], 4),
]


@pytest.mark.parametrize(("cores", "room", "peaks", "jobs"), TABLE)
def test_row(cores: int, room: int, peaks: list[int], jobs: int) -> None:
    """One row, in any order of the peaks."""
    assert safe_jobs(cores, room, peaks) == jobs
    assert safe_jobs(cores, room, peaks[::-1]) == jobs


PEAKS = st.lists(st.integers(1, 1 << 40), max_size=30)


@given(st.integers(1, 64), st.integers(-(1 << 40), 1 << 42), PEAKS)
def test_whichever_run_together_they_fit(cores: int, room: int, peaks: list[int]) -> None:
    """At least one runs, at most one for each core, and one more would not be sure to fit."""
    jobs = safe_jobs(cores, room, peaks)
    assert 1 <= jobs <= cores
    if jobs > 1:
        assert held_bytes(jobs, peaks, UNKNOWN_BYTES) <= room
    if jobs < cores:
        assert held_bytes(jobs + 1, peaks, UNKNOWN_BYTES) > room


@given(st.lists(st.integers(1, 1000), max_size=7), st.integers(1, 7))
def test_no_other_choice_holds_more(peaks: list[int], count: int) -> None:
    """Of those that are known."""
    count = min(count, len(peaks))
    if count:
        assert held_bytes(count, peaks, 5) == max(map(sum, itertools.combinations(peaks, count)))


@given(st.integers(1, 64), st.integers(0, 1 << 42), PEAKS, st.integers(0, 1 << 40))
def test_more_room_is_never_fewer_jobs(cores: int, room: int, peaks: list[int], more: int) -> None:
    """Nor are more cores."""
    assert safe_jobs(cores, room + more, peaks) >= safe_jobs(cores, room, peaks)
    assert safe_jobs(cores + 1, room, peaks) >= safe_jobs(cores, room, peaks)


def test_other_projects_raise_what_is_expected_of_a_new_one() -> None:
    """And do not lower it: scripts tell nothing about a compiler."""
    assert unknown_bytes([]) == UNKNOWN_BYTES
    assert unknown_bytes([5 * MIB] * 100) == UNKNOWN_BYTES
    assert unknown_bytes([GIB, 3 * GIB]) == 2 * GIB


def test_the_tightest_limit_counts() -> None:
    """In any order; of two alike the one that was asked first."""
    rooms = [Headroom(5, "a"), Headroom(-2, "b"), Headroom(7, "c")]
    for order in itertools.permutations(rooms):
        assert tightest(order).what == "b"
    assert tightest([Headroom(1, "a"), Headroom(1, "b")]).what == "a"
