# SPDX-License-Identifier: LGPL-2.1-or-later
"""When nothing moves, those that wait get a turn, one after the other."""

from __future__ import annotations

import signal

import pytest

from slicemgr.model.step import StepState
from slicemgr.policy.watchdog import STUCK_SECONDS
from slicemgr.service.standstill import LOOK_SECONDS, Standstill
from tests.service.step_samples import FakeStep
from tests.service.test_holding import Real
from tests.service.waiting_child import waiting_child


class Build:
    """One step that runs, and some that stand."""

    def __init__(self, standing: int = 3) -> None:
        self.now = 100.0
        self.standstill = Standstill()
        self.running = FakeStep(0)
        self.running.enter(StepState.RUNNING, 0.0)
        self.running.progresses = False
        self.standing = [FakeStep(order) for order in range(1, standing + 1)]
        for step in self.standing:
            step.is_held = True
            step.enter(StepState.WAITING, 0.0)

    def turns(self, seconds: float, every: float = 0.1) -> list[int]:
        """Who got one in that time. Each is let go, ends nothing, and is stopped again at once."""
        found: list[int] = []
        until = self.now + seconds
        while self.now < until:
            self.now += every
            step = self.standstill.turn([self.running, *self.standing], self.now)
            if step is not None:
                found.append(step.order)
        return found


def test_nothing_moves() -> None:
    """Each gets its turn, oldest first, and then again."""
    assert Build().turns(6.5 * (STUCK_SECONDS + LOOK_SECONDS)) == [1, 2, 3, 1, 2, 3]


def test_not_at_once() -> None:
    """A step that waits for the disk is not stuck."""
    assert Build().turns(STUCK_SECONDS) == []


def test_somebody_moves() -> None:
    """A tick of one of them now and then is enough."""
    build = Build()
    for _ in range(10):
        assert build.turns(STUCK_SECONDS * 0.6) == []
        build.running.progresses = True
        assert build.turns(LOOK_SECONDS * 1.2) == []
        build.running.progresses = False


def test_who_stands_does_not_move() -> None:
    """Its own CPU time says nothing."""
    build = Build()
    for step in build.standing:
        step.progresses = True
    assert build.turns(2 * (STUCK_SECONDS + LOOK_SECONDS)) != []


def test_nobody_waits() -> None:
    """Then nobody is to be let go; and the time begins when somebody does."""
    build = Build()
    for step in build.standing:
        step.is_held = False
    assert build.turns(10 * STUCK_SECONDS) == []
    build.standing[0].is_held = True
    assert build.turns(STUCK_SECONDS) == []


def test_nobody_runs() -> None:
    """Only drivers do, of which nothing is known here."""
    build = Build()
    build.running.state = StepState.WAITING
    build.running.is_held = True
    assert build.turns(STUCK_SECONDS + 2 * LOOK_SECONDS) == [0]


def test_held_at_birth_comes_after_who_has_run() -> None:
    """Who has run may hold a lock."""
    build = Build()
    build.standing[0].state = build.standing[1].state = StepState.NEW
    assert build.turns(3.5 * (STUCK_SECONDS + LOOK_SECONDS)) == [3, 1, 2]


def test_all_are_asked() -> None:
    """A question answers what was used since the last: one that was not asked would seem to move later."""
    build = Build()
    others = [Asked(order) for order in (10, 11)]
    for step in others:
        step.enter(StepState.RUNNING, 0.0)
    build.standing += others
    build.turns(LOOK_SECONDS)
    assert [step.times for step in others] == [1, 1]


class Asked(FakeStep):
    """It counts the questions."""

    times = 0

    def has_progressed(self) -> bool:
        self.times += 1
        return True


@pytest.mark.parametrize("ends", [False, True])
def test_a_real_process(ends: bool) -> None:
    """It waits for a line, so it uses no time; the first question can't tell; and one that has ended moves."""
    with waiting_child() as child:
        real = Real(child)
        assert real.step.has_progressed()
        child.stop_by_somebody_else()
        real.step.has_progressed()
        assert not real.step.has_progressed()
        if ends:
            child.be_gone()
            assert real.step.has_progressed()
        else:
            child.send(signal.SIGCONT)
            child.answer()
        real.step.close()
