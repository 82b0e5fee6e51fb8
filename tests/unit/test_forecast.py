# SPDX-License-Identifier: LGPL-2.1-or-later
"""The sum of all steps over the time ahead, compared with adding up the curves at many moments."""

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicemgr.policy.forecast import Curve, Forecast, total_area

SLACK = 1e-3
"""Bytes: what rounding may do."""

numbers = st.integers(0, 60)


@st.composite
def curves(draw: st.DrawFn) -> Curve:
    """First below peak, rise below end; on a grid, so that moments coincide."""
    first, more, rise, rest = draw(numbers), draw(numbers), draw(st.integers(0, 8)), draw(st.integers(0, 8))
    return Curve(first, first + more, rise, rise + rest + 0.5)


placed = st.lists(st.tuples(curves(), st.integers(0, 8).map(float)), max_size=6)


def forecast_of(base: float, steps: list[tuple[Curve, float]]) -> Forecast:
    """One after the other."""
    forecast = Forecast(base)
    for curve, at in steps:
        forecast.add(curve, at)
    return forecast


def total(base: float, steps: list[tuple[Curve, float]], moment: float) -> float:
    """By hand: at an end and at a start both count, as the curves say."""
    return base + sum(curve.at(moment - at) for curve, at in steps)


def moments(steps: list[tuple[Curve, float]]) -> list[float]:
    """Where the sum may be at its highest: just before an end, and between."""
    ends = [at + each for curve, at in steps for each in (0.0, curve.rise_seconds, curve.end_seconds)]
    return sorted({max(0.0, end + by) for end in ends for by in (-1e-4, 0.1, 0.25)})


@pytest.mark.parametrize(
    ("seconds", "held"),
    [(-1, 0), (0, 10), (1, 30), (2, 50), (3, 50), (4, 50), (4.1, 0)],
)
def test_a_curve(seconds: float, held: float) -> None:
    """A line up, a plateau, and nothing; at the very end still all."""
    assert Curve(10, 50, 2, 4).at(seconds) == held


@pytest.mark.parametrize(
    ("level", "seconds"),
    [(5, 0), (10, 0), (30, 1), (49, 1.95), (50, 4), (90, 4)],
)
def test_when_a_curve_is_above_a_level(level: float, seconds: float) -> None:
    """Its end, if it never is."""
    assert Curve(10, 50, 2, 4).reaches(level) == pytest.approx(seconds)


def test_a_jump_is_there_at_once() -> None:
    """Without a rise the peak is taken at the start."""
    assert Curve(10, 50, 0, 4).at(0) == 50
    assert Curve(10, 50, 0, 4).reaches(20) == 0


def test_areas() -> None:
    """Bytes times seconds: a triangle above the first, then the plateau."""
    assert Curve(10, 50, 2, 4).area == 2 * 30 + 2 * 50
    assert total_area([Curve(10, 50, 2, 4), Curve(0, 1, 0, 3)]) == 163


def test_a_step_begins_when_another_ends() -> None:
    """Not before: both at their peak are too much. As it rises it may begin earlier than that."""
    forecast = Forecast(0, [Curve(60, 60, 0, 5)])
    assert forecast.earliest(Curve(50, 50, 0, 2), 100) == pytest.approx(5)
    assert forecast.earliest(Curve(0, 50, 5, 7), 100) == pytest.approx(1)
    assert forecast.earliest(Curve(40, 40, 0, 2), 100) == 0
    assert forecast.earliest(Curve(40, 101, 1, 2), 100) is None


def test_it_may_be_done_before_another_grows() -> None:
    """Backfill: what is short fits into the rise of what is long."""
    forecast = Forecast(0, [Curve(0, 100, 10, 12)])
    assert forecast.fits(Curve(50, 50, 0, 5), 100)
    assert not forecast.fits(Curve(50, 50, 0, 6), 100)
    assert forecast.earliest(Curve(50, 50, 0, 6), 100) == pytest.approx(12)


def test_the_base_may_be_below_zero() -> None:
    """Steps that share memory, each of which counts it."""
    assert Forecast(-30, [Curve(60, 60, 0, 5)]).earliest(Curve(60, 60, 0, 1), 100) == 0


@given(base=st.integers(-50, 50), steps=placed)
def test_the_highest_is_the_highest(base: float, steps: list[tuple[Curve, float]]) -> None:
    """No moment is above it, and one is at it."""
    highest = forecast_of(base, steps).highest()
    sums = [total(base, steps, moment) for moment in moments(steps)] or [base]
    assert max(sums) <= highest + SLACK
    assert max([*sums, base]) >= highest - 0.5


@given(base=st.integers(-50, 50), steps=st.lists(curves(), max_size=6), within=st.floats(0, 20))
def test_all_at_once_is_one_after_the_other(base: float, steps: list[Curve], within: float) -> None:
    """The fast way to make a forecast says the same."""
    at_once, in_turn = Forecast(base, steps), forecast_of(base, [(curve, 0.0) for curve in steps])
    assert at_once.highest(within) == pytest.approx(in_turn.highest(within), abs=SLACK)
    assert at_once.highest() == pytest.approx(in_turn.highest(), abs=SLACK)


@given(base=st.integers(-50, 50), steps=placed, curve=curves(), limit=st.integers(0, 250))
def test_the_earliest_fits_and_nothing_before_does(
    base: float, steps: list[tuple[Curve, float]], curve: Curve, limit: float
) -> None:
    """What is answered keeps below the limit; every quarter of a second before it does not."""
    forecast = forecast_of(base, steps)
    at = forecast.earliest(curve, limit)
    last = max([0.0, *(start + each.end_seconds for each, start in steps)])
    tried = [step / 4 for step in range(int(last * 4) + 8)]
    if at is None:
        assert not any(forecast.fits(curve, limit, moment) for moment in tried)
        return
    assert forecast.fits(curve, limit, at)
    assert not any(forecast.fits(curve, limit, moment) for moment in tried if moment < at - 1e-3)
    assert forecast.fits_soon(curve, limit, at)
    assert at < 0.01 or not forecast.fits_soon(curve, limit, at - 0.01)


@given(base=st.integers(-50, 50), steps=placed, curve=curves(), at=st.integers(0, 8))
def test_it_fits_if_the_sum_stays_below(base: float, steps: list[tuple[Curve, float]], curve: Curve, at: int) -> None:
    """While it lives; what is too much before or after is not its fault."""
    together = [*steps, (curve, float(at))]
    inside = [moment for moment in moments(together) if at + 1e-5 < moment < at + curve.end_seconds - 1e-5]
    most = max([total(base, together, moment) for moment in inside], default=0.0)
    forecast = forecast_of(base, steps)
    assert forecast.fits(curve, most + 1.0, float(at))
    assert not forecast.fits(curve, most - 1.0, float(at))


@given(base=st.integers(0, 50), steps=st.lists(st.tuples(curves(), st.integers(0, 8).map(float)), max_size=4))
def test_the_order_of_adding_does_not_matter(base: float, steps: list[tuple[Curve, float]]) -> None:
    """A sum is a sum."""
    found = {round(forecast_of(base, list(order)).highest(), 3) for order in permutations(steps)}
    assert len(found) == 1


@given(steps=placed, curve=curves())
def test_a_copy_is_another(steps: list[tuple[Curve, float]], curve: Curve) -> None:
    """To plan on it changes nothing."""
    forecast = forecast_of(0, steps)
    before = forecast.highest()
    forecast.copy().add(curve, 1.0)
    assert forecast.highest() == before
