# SPDX-License-Identifier: LGPL-2.1-or-later
"""From the configuration of a slice to bytes on a machine."""

from dataclasses import fields, replace

import pytest

from slicemgr.config.schema import DEFAULT_MACHINE, DEFAULTS
from slicemgr.model.quantity import Amount, NoLimit, Percent
from slicemgr.model.slice import Auto, SliceAmount, SliceKind, SliceSpec
from slicemgr.policy.limits import high_below, is_default_high
from slicemgr.policy.machine import Thresholds
from slicemgr.policy.slice_limits import SliceLimits, resolve_slice, session_reserve_bytes, thresholds

GIB = 1 << 30
MACHINE = replace(DEFAULT_MACHINE, session_reserve=4 * GIB)
TOTAL = 16 * GIB
AUTO = Auto.AUTO
NONE = NoLimit.NO_LIMIT


@pytest.mark.parametrize(
    ("total", "reserve"),
    [(1 * GIB, GIB // 4), (2 * GIB, GIB // 2), (8 * GIB, 2 * GIB), (16 * GIB, 2 * GIB), (64 * GIB, 64 * GIB // 10)],
)
def test_the_reserve_that_auto_means(total: int, reserve: int) -> None:
    """A tenth, but 2 GiB, but no more than a quarter."""
    assert session_reserve_bytes(DEFAULT_MACHINE, total) == reserve


@pytest.mark.parametrize(
    ("reserve", "size"), [(0, 0), (GIB, GIB), (Percent(2500), 4 * GIB), (99 * GIB, TOTAL), (NONE, TOTAL)]
)
def test_a_reserve_of_ones_own(reserve: SliceAmount, size: int) -> None:
    """Never more than there is: else `auto` would be a limit below nothing."""
    machine = replace(DEFAULT_MACHINE, session_reserve=reserve)
    assert session_reserve_bytes(machine, TOTAL) == size
    assert resolve_slice(DEFAULTS[SliceKind.BUILD], machine, TOTAL).memory_max == TOTAL - size


@pytest.mark.parametrize(
    ("amount", "size"), [(None, None), (5 * GIB, 5 * GIB), (Percent(5000), 8 * GIB), (AUTO, 12 * GIB), (NONE, NONE)]
)
@pytest.mark.parametrize("field", ["memory_high", "memory_max", "memory_swap_max", "memory_low", "memory_min"])
def test_every_amount(field: str, amount: SliceAmount | None, size: int | NoLimit | None) -> None:
    """None is not ours to set, and NoLimit is none at all: two different things."""
    spec = replace(SliceSpec("app.slice", SliceKind.APP), **{field: amount})  # type: ignore[arg-type]
    limits = resolve_slice(spec, MACHINE, TOTAL)
    assert getattr(limits, field) == size
    others = {each.name for each in fields(SliceLimits)} - {field}
    assert {getattr(limits, other) for other in others} == {None}


@pytest.mark.parametrize(
    ("kind", "highest", "high", "expected"),
    [
        (SliceKind.BUILD, GIB, None, high_below(GIB)),
        (SliceKind.BUILD, AUTO, None, high_below(12 * GIB)),
        (SliceKind.BUILD, GIB, GIB // 2, GIB // 2),
        (SliceKind.BUILD, GIB, NONE, NONE),
        (SliceKind.BUILD, NONE, None, None),
        (SliceKind.BUILD, None, None, None),
        (SliceKind.APP, GIB, None, None),
        (SliceKind.SESSION, GIB, None, None),
    ],
)
def test_only_a_build_is_throttled_unasked(
    kind: SliceKind, highest: SliceAmount | None, high: SliceAmount | None, expected: int | NoLimit | None
) -> None:
    """Just below its memory.max; an app or a session would only crawl."""
    spec = SliceSpec("x.slice", kind, memory_max=highest, memory_high=high)
    assert resolve_slice(spec, MACHINE, TOTAL).memory_high == expected


def test_a_high_of_ours_is_known_again() -> None:
    """So nobody is warned of a limit that nobody set."""
    limits = resolve_slice(DEFAULTS[SliceKind.BUILD], MACHINE, TOTAL)
    assert isinstance(limits.memory_high, int)
    assert isinstance(limits.memory_max, int)
    assert is_default_high(limits.memory_high, limits.memory_max)
    assert limits.memory_high < limits.memory_max


def test_what_is_not_memory_goes_through() -> None:
    spec = SliceSpec("x.slice", SliceKind.APP, tasks_max=Percent(2500), cpu_weight=50, io_weight=7)
    limits = resolve_slice(spec, MACHINE, TOTAL)
    assert (limits.tasks_max, limits.cpu_weight, limits.io_weight) == (Percent(2500), 50, 7)


@pytest.mark.parametrize(
    ("low", "least", "share"),
    [(None, None, 0), (5, None, 5), (None, 6, 6), (5, 6, 6), (8, 6, 8), (Percent(2500), 1, 4 * GIB), (NONE, None, 0)],
)
def test_the_share_when_the_machine_is_short(low: SliceAmount | None, least: SliceAmount | None, share: int) -> None:
    """What it is protected by, whichever is more."""
    spec = SliceSpec("x.slice", SliceKind.APP, memory_low=low, memory_min=least)
    assert resolve_slice(spec, MACHINE, TOTAL).share_bytes == share


@pytest.mark.parametrize(
    ("available", "swap", "expected"),
    [
        (Percent(500), Percent(1000), Thresholds(1600, 40)),
        (700, 30, Thresholds(700, 30)),
        (NONE, NONE, Thresholds(32_000, 400)),
        (0, 0, Thresholds(0, 0)),
    ],
)
def test_when_the_machine_is_short(available: Amount, swap: Amount, expected: Thresholds) -> None:
    """Shares of RAM and of swap, each of its own."""
    machine = replace(DEFAULT_MACHINE, memory_available=available, swap_free=swap)
    assert thresholds(machine, 32_000, 400) == expected
