# SPDX-License-Identifier: LGPL-2.1-or-later
"""From what was asked for to bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicemgr.model.cgroup import MemoryLimits
from slicemgr.model.quantity import Amount, NoLimit, Percent
from slicemgr.model.spec import JobSpec, SpecError, slice_unit_name
from slicemgr.policy.limits import (
    LEAST_MAX_BYTES,
    following_high,
    high_below,
    is_default_high,
    quarter_more,
    resolve,
)
from tests.unit.samples import MIB

TOTAL, AVAILABLE = 1000 * MIB, 700 * MIB
TOO_MUCH = "{} is more than this machine's memory (1000.0M), so it would never act; try {} 80%"


def job(high: Amount | None = None, max: Amount | None = None, swap_max: Amount | None = None) -> JobSpec:  # noqa: A002
    return JobSpec(command=("make",), name="make", high=high, max=max, swap_max=swap_max)


@pytest.mark.parametrize(
    ("asked", "limits"),
    [
        ({"max": 600 * MIB}, MemoryLimits(max=600 * MIB)),
        ({"max": Percent(6000)}, MemoryLimits(max=600 * MIB)),
        ({"max": TOTAL}, MemoryLimits(max=TOTAL)),
        ({"max": NoLimit.NO_LIMIT}, MemoryLimits()),
        ({"max": 600 * MIB, "high": 600 * MIB}, MemoryLimits(high=600 * MIB, max=600 * MIB)),
        ({"max": NoLimit.NO_LIMIT, "high": Percent(5000)}, MemoryLimits(high=500 * MIB)),
        ({"max": 600 * MIB, "swap_max": 0}, MemoryLimits(max=600 * MIB, swap_max=0)),
        ({"max": 600 * MIB, "swap_max": 4 * TOTAL}, MemoryLimits(max=600 * MIB, swap_max=4 * TOTAL)),
        ({"max": 600 * MIB, "swap_max": NoLimit.NO_LIMIT}, MemoryLimits(max=600 * MIB)),
        # Nothing said: what is free now, less a tenth of the machine.
        ({}, MemoryLimits(max=600 * MIB)),
        # A --high above that lifts it: who asks for more knows why.
        ({"high": 650 * MIB}, MemoryLimits(high=650 * MIB, max=650 * MIB)),
    ],
)
def test_limits_in_bytes(asked: dict[str, Amount], limits: MemoryLimits) -> None:
    """Percentages are of the machine's memory; max is no limit."""
    assert MemoryLimits(*resolve(job(**asked), TOTAL, AVAILABLE)) == limits


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"max": 500 * MIB, "high": 600 * MIB},
            "--max 500.0M is below --high 600.0M; try --high 450.0M, or a higher --max",
        ),
        ({"max": 2 * TOTAL}, TOO_MUCH.format("--max 2.0G", "--max")),
        ({"high": 2 * TOTAL}, TOO_MUCH.format("--high 2.0G", "--high")),
        ({"max": Percent(10_001)}, TOO_MUCH.format("--max 1000.1M", "--max")),
        ({"max": 0}, "--max 0 leaves nothing to run in; try --max 60%"),
        ({"high": 0}, "--high 0 leaves nothing to run in; try --high 60%"),
        ({"max": 100_000}, "--max 97.7K is less than any command needs to start; try --max 64M"),
        ({"max": 600}, "--max 600B is less than any command needs to start; try --max 600M"),
    ],
)
def test_what_cant_be_meant(asked: dict[str, Amount], message: str) -> None:
    """One line, ending in what to try."""
    with pytest.raises(SpecError) as caught:
        resolve(job(**asked), TOTAL, AVAILABLE)
    assert str(caught.value) == message


@given(total=st.integers(64 * MIB, 1 << 50), share=st.floats(0, 1))
def test_the_default_is_within_the_machine(total: int, share: float) -> None:
    """Whatever is free, a job without a limit of its own gets one that is above the least and below the total."""
    _, limit, _ = resolve(job(), total, int(total * share))
    assert limit is not None
    assert LEAST_MAX_BYTES <= limit <= total


GIB = 1024 * MIB


@pytest.mark.parametrize(
    ("limit", "high"),
    [
        (1 * MIB, 960 << 10),
        (64 * MIB, 60 * MIB),
        (1 * GIB, 960 * MIB),
        (8 * GIB, 8 * GIB - 512 * MIB),
        (16 * GIB, 16 * GIB - 512 * MIB),
        (64 * GIB, 62 * GIB),
    ],
)
def test_memory_high_where_nobody_asked_for_one(limit: int, high: int) -> None:
    """A sixteenth below, at most 512 MiB, at least a thirty-second."""
    assert high_below(limit) == high


@given(st.integers(LEAST_MAX_BYTES, 1 << 50))
def test_memory_high_is_where_the_kernel_slows_down(limit: int) -> None:
    """Below max, in whole pages, and far enough for the throttle, which does nothing up to 1.25 % above high."""
    high = high_below(limit)
    assert high % 65536 == 0
    # The kernel rounds max down to its own pages, and is asked for both later.
    assert is_default_high(high, limit)
    assert is_default_high(high, limit - limit % 4096)
    assert not is_default_high(high + 65536, limit)
    assert 1.03 * high <= limit <= 1.15 * high + 65536


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ((None, None), (None, None)),
        ((None, 800 * MIB), (None, 1000 * MIB)),
        ((400 * MIB, None), (500 * MIB, None)),
        ((400 * MIB, 800 * MIB), (500 * MIB, 1000 * MIB)),
        # Nobody asked for this one: it stays where it stands for the new limit.
        ((high_below(800 * MIB), 800 * MIB), (high_below(1000 * MIB), 1000 * MIB)),
        # Not beyond the machine's.
        ((None, 3000 * MIB), (None, 3200 * MIB)),
        ((3000 * MIB, 3100 * MIB), (3200 * MIB, 3200 * MIB)),
        ((None, 4000 * MIB), (None, 4000 * MIB)),
    ],
)
def test_a_quarter_more(before: tuple[int | None, int | None], now: tuple[int | None, int | None]) -> None:
    assert quarter_more(*before, 3200 * MIB) == now


SOME_BYTES = st.none() | st.integers(LEAST_MAX_BYTES, 1 << 50)


@given(SOME_BYTES, SOME_BYTES, st.integers(LEAST_MAX_BYTES, 1 << 50))
def test_more_is_never_less(high: int | None, most: int | None, total: int) -> None:
    """And memory.high never above memory.max, if it was not before."""
    new_high, new_most = quarter_more(high, most, total)
    assert (new_high is None, new_most is None) == (high is None, most is None)
    assert (new_most or 0) >= (most or 0)
    if high is not None and new_high is not None and (most is None or high <= most):
        assert new_high >= high
        assert new_most is None or new_high <= new_most


@pytest.mark.parametrize(
    ("text", "unit"), [("build", "build.slice"), ("build.slice", "build.slice"), ("app-ci", "app-ci.slice")]
)
def test_slice_names(text: str, unit: str) -> None:
    """With or without the suffix."""
    assert slice_unit_name(text) == unit


@pytest.mark.parametrize("text", ["", ".slice", "a b", "a/b", "../x", "-a", "a-", "a--b", "ä", "x" * 250, "a\n"])
def test_what_is_no_slice_name(text: str) -> None:
    """systemd would refuse them later, and not as clearly."""
    with pytest.raises(SpecError, match=r"(; try | in a slice name )"):
        slice_unit_name(text)


@pytest.mark.parametrize(
    ("new", "high", "most", "has_own_high", "follows"),
    [
        # It stood where we have it.
        (80 * MIB, high_below(100 * MIB), 100 * MIB, False, (high_below(80 * MIB),)),
        (200 * MIB, high_below(100 * MIB), 100 * MIB, False, (high_below(200 * MIB),)),
        (None, high_below(100 * MIB), 100 * MIB, False, (None,)),
        # Nobody has set a limit yet.
        (80 * MIB, None, None, True, (high_below(80 * MIB),)),
        (80 * MIB, None, None, False, None),
        # Somebody has asked for it: it stays, but never above the new limit, where the kernel would be first.
        (80 * MIB, 50 * MIB, 100 * MIB, True, None),
        (80 * MIB, 80 * MIB, 100 * MIB, True, None),
        (80 * MIB, 81 * MIB, 100 * MIB, False, (high_below(80 * MIB),)),
        (None, 50 * MIB, 100 * MIB, True, None),
        (80 * MIB, None, 100 * MIB, True, None),
    ],
)
def test_high_follows_a_new_max(
    new: int | None, high: int | None, most: int | None, has_own_high: bool, follows: tuple[int | None] | None
) -> None:
    assert following_high(new, high, most, has_own_high=has_own_high) == follows


@given(st.integers(1 << 20, 1 << 40), st.integers(1 << 20, 1 << 40), st.integers(1 << 20, 1 << 40), st.booleans())
def test_high_never_stays_above(new: int, high: int, most: int, has_own_high: bool) -> None:
    follows = following_high(new, high, most, has_own_high=has_own_high)
    now = high if follows is None else follows[0]
    assert now is not None
    assert now <= new
