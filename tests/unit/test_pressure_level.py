# SPDX-License-Identifier: LGPL-2.1-or-later
"""One word for how much a slice suffers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicemgr.policy.pressure_level import FROM_PERCENT, HYSTERESIS, PressureLevel, pressure_level

NONE, LOW, MEDIUM, CRITICAL = PressureLevel
PERCENT = st.floats(0, 100)


@pytest.mark.parametrize(
    ("before", "percent", "now"),
    [
        (NONE, 0.0, NONE),
        (NONE, 4.99, NONE),
        (NONE, 5.0, LOW),
        (NONE, 100.0, CRITICAL),
        (LOW, 3.0, LOW),
        (LOW, 2.99, NONE),
        (MEDIUM, 12.0, MEDIUM),
        (MEDIUM, 11.99, LOW),
        (MEDIUM, 2.0, NONE),
        (CRITICAL, 24.0, CRITICAL),
        (CRITICAL, 23.99, MEDIUM),
        (CRITICAL, 0.0, NONE),
        (LOW, 20.0, MEDIUM),
    ],
)
def test_the_table(before: PressureLevel, percent: float, now: PressureLevel) -> None:
    assert pressure_level(before, percent) is now


@given(st.sampled_from(PressureLevel), PERCENT)
def test_it_settles_at_once(before: PressureLevel, percent: float) -> None:
    """The same pressure twice is no news the second time."""
    now = pressure_level(before, percent)
    assert pressure_level(now, percent) is now


@given(st.sampled_from(PressureLevel), PERCENT)
def test_hysteresis_holds_a_level_and_nothing_more(before: PressureLevel, percent: float) -> None:
    now = pressure_level(before, percent)
    fresh = pressure_level(NONE, percent)
    assert now.rank >= fresh.rank
    if now.rank > fresh.rank:
        assert now.rank <= before.rank
        assert percent >= FROM_PERCENT[now] * HYSTERESIS
