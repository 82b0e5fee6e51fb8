# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is counted for the person who waits for a build."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicemgr.model.step import StepSignature, StepState
from slicemgr.service.pacing_tally import _KEPT, TOLD, WAITED_SECONDS, FatStep, PacingSummary, PacingTally
from tests.service.step_samples import MIB, FakeStep


def _ended(order: int, peak_mib: int, what: str | None = None, waited: float = 0.0) -> FakeStep:
    """One that held so much, and had waited before."""
    step = FakeStep(order)
    if what is not None:
        step.signature = StepSignature("cc1plus", what, "/src")
    if waited:
        step.enter(StepState.WAITING, 0.0)
    step.enter(StepState.RUNNING, waited)
    step.hold_bytes(peak_mib * MIB, waited)
    return step


def test_nothing_has_happened() -> None:
    assert PacingTally().summary() == PacingSummary(0, 0, 0.0, 0, 0, 0, 0, ())


def test_who_has_waited() -> None:
    """A moment between birth and the next plan is no wait."""
    tally = PacingTally()
    for order, waited in enumerate([0.0, WAITED_SECONDS / 2, 1.0, 2.5]):
        tally.begun()
        tally.ended(_ended(order, 10, waited=waited), 100.0)
    summary = tally.summary()
    assert (summary.steps, summary.waited) == (4, 2)
    assert summary.waited_seconds == pytest.approx(3.5)


def test_who_waits_at_the_end() -> None:
    """The command was killed: what it has waited until then counts."""
    tally, step = PacingTally(), FakeStep(1)
    step.enter(StepState.NEW, 1.0)
    tally.begun()
    tally.ended(step, 5.0)
    assert tally.summary().waited_seconds == pytest.approx(4.0)
    assert tally.summary().fattest == ()


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(1, 100), st.integers(0, 20)), min_size=1))
def test_the_most(looks: list[tuple[int, int, int]]) -> None:
    """What it held at most, with what it might have held then; and the most that ran, at whatever time."""
    tally = PacingTally()
    for look in looks:
        tally.used(*look)
    summary = tally.summary()
    assert (summary.peak_bytes, summary.budget_bytes) == max((used, budget) for used, budget, _ in [*looks, (0, 0, 0)])
    assert summary.most_running == max(running for _, _, running in looks)


def test_the_fattest() -> None:
    """The first few, the fattest first."""
    tally = PacingTally()
    for order, peak in enumerate([30, 10, 50, 40, 20]):
        tally.ended(_ended(order, peak, f"{order}.o"), 1.0)
    fattest = tally.summary().fattest
    assert len(fattest) == TOLD
    assert [step.peak_bytes // MIB for step in fattest] == [50, 40, 30]
    assert fattest[0] == FatStep("cc1plus", StepSignature("cc1plus", "2.o", "/src"), 50 * MIB)


def test_one_step_that_runs_often_is_told_once() -> None:
    """By its highest peak; who has no signature is each one of its own."""
    tally = PacingTally()
    for order, peak in enumerate([30, 50, 40]):
        tally.ended(_ended(order, peak, "a.o"), 1.0)
    for order in (10, 11):
        tally.ended(_ended(order, 5), 1.0)
    assert [step.peak_bytes // MIB for step in tally.summary().fattest] == [50, 5, 5]


def test_a_build_of_thousands() -> None:
    """The list does not grow with it, and the fattest stay in it."""
    tally = PacingTally()
    for order in range(2000):
        tally.begun()
        tally.ended(_ended(order, order * 7919 % 2000, f"{order}.o"), 1.0)
    assert len(tally._fattest) == _KEPT
    assert [step.peak_bytes // MIB for step in tally.summary().fattest] == [1999, 1998, 1997]
    assert tally.summary().steps == 2000
