# SPDX-License-Identifier: LGPL-2.1-or-later
"""Badness: the kernel's points on a slice's scale."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicemgr.model.process import ProcessIdentity, ProcessSample
from slicemgr.policy.badness import BadnessScale, Unkillable, badness, held_pages, memory_pages, why_unkillable
from tests.oom_score import kernel_oom_score
from tests.unit.samples import SLICE, process


@pytest.mark.parametrize(
    ("fields", "points"),
    [
        ({"pages": 1000}, 1000),
        ({"pages": 1000, "swap_pages": 200, "page_table_pages": 30}, 1230),
        # The leaker of Rientjes' objection: swapped out, and found all the same.
        ({"pages": 10, "swap_pages": 90_000}, 90_010),
        ({"pages": 1000, "oom_score_adj": 500}, 51_000),
        ({"pages": 1000, "oom_score_adj": -500}, -49_000),
        ({"pages": 1000, "oom_score_adj": 1000}, 101_000),
    ],
)
def test_points_are_pages_plus_a_share_of_the_slice(fields: dict[str, int], points: int) -> None:
    """RSS + swap + page tables, and oom_score_adj in thousandths of the limit."""
    assert badness(process(10, **fields), SLICE) == points


def test_the_share_is_of_the_slice_and_not_of_the_machine() -> None:
    """oom_score_adj 100 weighs a tenth of what the slice may hold."""
    adjusted = process(10, 1000, oom_score_adj=100)
    assert badness(adjusted, BadnessScale(total_pages=100_000)) == 11_000
    assert badness(adjusted, BadnessScale(total_pages=4_000_000)) == 401_000


@pytest.mark.parametrize(
    ("inherited", "own", "counted"),
    [
        (200, 200, 0),
        (200, 500, 300),
        (200, 0, -200),
        (-500, -500, 0),
        (-500, 300, 800),
        (200, -999, -999),
        (-999, 1000, 1000),
    ],
)
def test_an_inherited_adjustment_is_neutral(inherited: int, own: int, counted: int) -> None:
    """GNOME gives 200 to everything in a terminal: only the difference says something about a process."""
    scale = BadnessScale(total_pages=1000, inherited_oom_score_adj=inherited)
    assert badness(process(10, 0, oom_score_adj=own), scale) == counted


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        (process(1, 10), Unkillable.INIT),
        (process(10, is_kernel_thread=True, has_memory=False), Unkillable.KERNEL_THREAD),
        (process(20, 10), Unkillable.OURSELVES),
        (process(10, 10, oom_score_adj=-1000), Unkillable.ADJUSTED),
        (process(10, has_memory=False), Unkillable.NO_MEMORY),
        (process(10, 10, shares_memory_with_parent=True), Unkillable.SHARES_MEMORY),
        (process(30, 10), Unkillable.SURVIVED),
        (process(30, 10, start=1), None),  # who has its pid now did nothing
        (process(10, 10, oom_score_adj=-999), None),
        (process(10, 0), None),
    ],
)
def test_who_is_never_taken(sample: ProcessSample, reason: Unkillable | None) -> None:
    """Each reason by itself."""
    scale = BadnessScale(100_000, ourselves=frozenset({20}), survivors=frozenset({ProcessIdentity(30, 0)}))
    assert why_unkillable(sample, scale) is reason


def test_inheriting_minus_1000_protects_all_the_same() -> None:
    """A job started under -1000 is not made killable by calling its adjustment neutral."""
    scale = BadnessScale(1000, inherited_oom_score_adj=-1000)
    assert why_unkillable(process(10, 10, oom_score_adj=-1000), scale) is Unkillable.ADJUSTED


@pytest.mark.parametrize(
    ("points", "total", "score"),
    [
        (None, 1000, 0),
        (0, 1_000_000, 666),
        (1_000_000, 1_000_000, 1333),
        (500_000, 1_000_000, 1000),
        (-999_000, 1_000_000, 0),
        (-500_000, 1_000_000, 333),
        (-1, 1000, 666),  # 1000 - 1 = 999, by 2/3
        (-1, 1_000_000, 666),  # C rounds -0.001 to 0, Python's // would make it -1
        (300_000, 1_000_000, 866),
    ],
)
def test_oom_score_is_computed_as_the_kernel_does(points: int | None, total: int, score: int) -> None:
    """proc_oom_score(), with C's division; the first line is for kernel threads and -1000."""
    assert kernel_oom_score(points, total) == score


@given(
    pages=st.integers(0, 1 << 40),
    more=st.integers(0, 1 << 40),
    adj=st.integers(-1000, 1000),
    total=st.integers(1, 1 << 40),
)
def test_more_memory_is_never_less_bad(pages: int, more: int, adj: int, total: int) -> None:
    """Badness grows with memory, whatever the adjustment."""
    scale = BadnessScale(total)
    lean = process(10, pages, oom_score_adj=adj)
    fat = process(10, pages + more, oom_score_adj=adj)
    assert badness(fat, scale) - badness(lean, scale) == more == memory_pages(fat) - memory_pages(lean)


def test_mapped_files_are_ranked_but_not_held() -> None:
    """RSS decides who goes; what a person is told is what counts against the limit."""
    mapped = process(10, 1000, file_pages=900, swap_pages=5, page_table_pages=3)
    assert (memory_pages(mapped), held_pages(mapped)) == (1008, 108)
