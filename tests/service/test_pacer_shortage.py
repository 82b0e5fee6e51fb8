# SPDX-License-Identifier: LGPL-2.1-or-later
"""When the pacer asks for the last resort: only after it has been true for long enough that nothing else helps."""

from types import SimpleNamespace
from typing import Any

import pytest

from slicemgr.policy.pacing import Pace
from slicemgr.service.job_budget import Budget
from slicemgr.service.pacer import SHARED_SECONDS, SHORT_SECONDS, Pacer, Shortage

SHORT = Pace(short_bytes=5)


def asked_at(budget: Budget, *looks: tuple[float, Pace]) -> list[float]:
    """The times of these looks at which it asked."""
    asked: list[Shortage] = []
    watch: Any = SimpleNamespace(steps={}, version=0)
    memory: Any = SimpleNamespace()
    pacer = Pacer(watch, lambda: None, lambda now: budget, outliver=None, memory=memory, last_resort=asked.append)
    times = []
    for now, decision in looks:
        pacer._carry_out(decision, budget, now)
        times += [now for shortage in asked if shortage.is_sure]
        asked.clear()
    return times


@pytest.mark.parametrize(("is_shared", "seconds"), [(False, SHORT_SECONDS), (True, SHARED_SECONDS)])
def test_the_last_resort_waits(*, is_shared: bool, seconds: float) -> None:
    """And where it is only the share that is too small, until the others have had the time to give something back: a
    build that came second was told 15.7M for a moment, and lost its only step for it."""
    budget = Budget(100, 101, is_shared=is_shared)
    times = [at * 0.3 * seconds for at in range(10)]
    # After it something is different, and it is asked anew.
    assert asked_at(budget, *((at, SHORT) for at in times)) == [times[4], times[9]]


def test_a_moment_without_shortage_begins_anew() -> None:
    """It has to be true all the time."""
    looks = [(0.0, SHORT), (SHORT_SECONDS * 0.9, Pace()), (SHORT_SECONDS, SHORT), (SHORT_SECONDS * 1.9, SHORT)]
    assert asked_at(Budget(100, 101), *looks) == []


def test_what_can_be_undone_is_done_at_once() -> None:
    """So it is told of a shortage when it begins, and that nothing is sure yet."""
    asked: list[Shortage] = []
    watch: Any = SimpleNamespace(steps={}, version=0)
    memory: Any = SimpleNamespace()
    budget = Budget(100, 101)
    pacer = Pacer(watch, lambda: None, lambda now: budget, outliver=None, memory=memory, last_resort=asked.append)
    for now in (0.0, SHORT_SECONDS / 2, SHORT_SECONDS):
        pacer._carry_out(SHORT, budget, now)
    assert [each.is_sure for each in asked] == [False, True]
