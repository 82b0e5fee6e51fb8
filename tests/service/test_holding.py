# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whoever we have stopped goes on at last, and nobody else does."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicemgr.kernel.errors import NotPermittedError, ProcessGoneError
from slicemgr.kernel.hold import HeldProcess, Stand
from slicemgr.kernel.step_files import StepFiles
from slicemgr.model.step import StepState
from slicemgr.service.holding import OBEY_SECONDS, Holding
from slicemgr.service.live_step import LiveStep
from tests.service.step_samples import FakeOutliver, FakeStep
from tests.service.waiting_child import WaitingChild, waiting_child

if TYPE_CHECKING:
    from collections.abc import Iterator


class Held:
    """One step, and who outlives us."""

    def __init__(self) -> None:
        self.outliver = FakeOutliver()
        self.holding = Holding(self.outliver)
        self.step = FakeStep(1)
        self.process = self.step.fake_process

    def hold(self, now: float = 1.0, state: StepState = StepState.WAITING) -> bool:
        return self.holding.hold(self.step, state, now)

    def look(self, now: float) -> None:
        self.holding.look([self.step], now)

    @property
    def is_told_of(self) -> bool:
        """Whether it would be resumed after our death."""
        return self.outliver.held == {(self.step.pid, self.step.identity.start_ticks)}

    def is_free(self) -> bool:
        """We know nothing of having stopped it."""
        return not (self.step.is_held or self.outliver.held) and self.step.state is StepState.RUNNING


@pytest.fixture
def held() -> Held:
    return Held()


@pytest.mark.parametrize("state", [StepState.NEW, StepState.WAITING])
def test_held_and_let_go(held: Held, state: StepState) -> None:
    assert held.hold(state=state)
    assert (held.step.is_held, held.step.state, held.is_told_of) == (True, state, True)
    held.holding.let_go(held.step, 2.0)
    assert held.is_free()
    assert held.process.told == ["stop", "resume"]


def test_who_outlives_us_is_told_first(held: Held) -> None:
    """Between the two we may be killed."""
    was_told: list[bool] = []

    def stop() -> bool:
        was_told.append(held.is_told_of)
        return True

    held.process.stop = stop  # type: ignore[method-assign]
    held.hold()
    assert was_told == [True]


def test_let_go_who_was_not_held(held: Held) -> None:
    """It has just begun, and there is room."""
    held.holding.let_go(held.step, 1.0)
    assert held.is_free()
    assert held.process.told == []


@pytest.mark.parametrize(
    "refusal",
    [ProcessGoneError(1), NotPermittedError(1, "signal"), OSError(24, "Too many open files"), None],
)
def test_who_cant_be_stopped_runs_on(held: Held, refusal: ProcessGoneError | None) -> None:
    """And is not asked again. None: somebody else has stopped it."""
    held.process.refuses = refusal
    if refusal is None:
        held.process.stand_now = Stand.STOPPED
    assert not held.hold()
    assert held.is_free()
    assert not held.step.may_wait


def test_nobody_outlives_us() -> None:
    """Then nobody is ever stopped."""
    holding, step = Holding(None), FakeStep(1)
    assert not holding.is_possible
    assert not holding.hold(step, StepState.NEW, 1.0)
    assert step.fake_process.told == []
    assert step.state is StepState.RUNNING


def test_who_outlives_us_was_killed(held: Held) -> None:
    """From now on nobody is stopped; those that stand are let go by the pacer."""
    other = FakeStep(2)
    held.hold()
    held.outliver.is_dead = True
    assert not held.holding.hold(other, StepState.WAITING, 1.0)
    assert not held.holding.is_possible
    assert other.fake_process.told == []
    held.holding.let_go(held.step, 2.0)
    assert held.process.told == ["stop", "resume"]
    assert not held.step.is_held


def test_who_outlives_us_was_killed_while_steps_stand(held: Held) -> None:
    """It is seen at the next look at them, not when somebody is to be stopped next."""
    held.hold()
    held.holding.look([held.step], 1.0)
    assert held.holding.is_possible
    held.outliver.is_dead = True
    held.holding.look([held.step], 1.25)
    assert not held.holding.is_possible


def test_it_has_ended_while_it_stood(held: Held) -> None:
    held.hold()
    held.process.stand_now = Stand.GONE
    held.look(2.0)  # Its pidfd says so as well.
    held.holding.has_ended(held.step)
    assert not held.step.is_held
    assert held.outliver.held == set()
    held.holding.let_go(held.step, 3.0)
    assert "resume" not in held.process.told


def test_it_has_ended_before_it_is_let_go(held: Held) -> None:
    held.hold()
    held.process.stand_now = Stand.GONE
    held.holding.let_go(held.step, 2.0)
    assert held.is_free()


def test_a_signal_is_to_end_it(held: Held) -> None:
    """It hears it, and never waits again."""
    held.hold()
    held.process.stand_now = Stand.MUST_HEAR
    held.look(2.0)
    assert held.is_free()
    assert held.process.told == ["stop", "resume"]
    assert not held.step.may_wait


def test_somebody_else_stops_it_too(held: Held) -> None:
    """It is not ours to resume any more, now, at the end, and after our death; but when it goes on it may be stopped
    again: ^Z stops all, and `fg` continues them."""
    held.hold()
    held.process.stand_now = Stand.STOPPED_BY_OTHERS
    held.look(2.0)
    assert held.is_free()
    held.holding.let_go(held.step, 3.0)
    assert held.process.told == ["stop"]
    held.process.stand_now = Stand.GOES_ON
    assert held.step.may_wait
    assert held.hold(4.0)


def test_somebody_continues_it(held: Held) -> None:
    """Then it runs, and may be stopped again like any other."""
    held.hold()
    held.look(1.1)
    held.process.stand_now = Stand.GOES_ON
    held.look(1.2)
    assert held.is_free()
    assert held.step.may_wait
    assert held.hold(1.3)


def test_it_has_not_obeyed_yet(held: Held) -> None:
    """Who allocates above memory.high sleeps for up to two seconds first."""
    held.process.obeys = False
    held.hold(1.0)
    held.look(1.0 + OBEY_SECONDS)
    assert held.step.is_held
    held.process.stand_now = Stand.STOPPED
    held.look(1.1 + OBEY_SECONDS)
    assert held.step.is_held
    assert held.process.told == ["stop"]


def test_it_does_not_obey(held: Held) -> None:
    """On a dead file server no signal reaches it. Forgotten it would stop there at last, and nobody would resume it."""
    held.process.obeys = False
    held.hold(1.0)
    held.look(1.1 + OBEY_SECONDS)
    assert held.is_free()
    assert held.process.told == ["stop", "resume"]


@pytest.mark.parametrize("stood", [False, True])
def test_held_again_after_fg(held: Held, stood: bool) -> None:
    """It has not obeyed when we look next, and is not taken for one that somebody has continued."""
    held.hold(1.0)
    if stood:
        held.look(1.1)
    held.process.stand_now = Stand.GOES_ON
    held.process.obeys = False
    held.holding.hold_again([held.step], 100.0)
    held.look(100.0)
    held.look(100.0 + OBEY_SECONDS)
    assert held.process.told == ["stop", "again"]
    assert (held.step.is_held, held.step.state, held.is_told_of) == (True, StepState.WAITING, True)


def test_only_who_was_held_is_held_again(held: Held) -> None:
    """And one that has ended meanwhile keeps it from no other."""
    gone, free = FakeStep(2), FakeStep(3)
    for step in (gone, held.step):
        held.holding.hold(step, StepState.WAITING, 1.0)
        step.fake_process.stand_now = Stand.GOES_ON
    gone.fake_process.stand_now = Stand.GONE
    held.holding.hold_again([gone, free, held.step], 2.0)
    assert free.fake_process.told == []
    assert held.process.told == ["stop", "again"]


_EVENTS = st.sampled_from(["hold", "let go", "look", "fg", "end", *Stand])


@given(st.lists(_EVENTS, max_size=30))
def test_whatever_happens(events: list[str | Stand]) -> None:
    """Who stands for us alone is one that we know of, and who outlives us does, too; so it goes on at last."""
    held, now = Held(), 1.0
    for event in events:
        now += 1.0
        if event == "hold" and not held.step.is_held:
            held.hold(now)
        elif event == "let go":
            held.holding.let_go(held.step, now)
        elif event == "look":
            held.look(now)
        elif event == "fg":
            held.holding.hold_again([held.step], now)
        elif event == "end":
            held.holding.has_ended(held.step)
            held.process.stand_now = Stand.GONE
        elif isinstance(event, Stand) and (held.step.is_held or event is Stand.GOES_ON):
            held.process.stand_now = event
        assert held.step.is_held == held.is_told_of
    held.holding.let_go(held.step, now + 1)
    held.holding.let_go(held.step, now + 2)
    assert held.is_free()
    stands = held.process.stand_now is Stand.STOPPED
    assert not stands or "stop" not in held.process.told


class Real:
    """A real process as a step."""

    def __init__(self, child: WaitingChild) -> None:
        self.child = child
        self.outliver = FakeOutliver()
        self.holding = Holding(self.outliver)
        process, files = HeldProcess(child.identity), StepFiles(child.pid)
        self.step = LiveStep(0, child.identity, "cat", process, files, 0.0)


@pytest.fixture
def real() -> Iterator[Real]:
    with waiting_child() as child:
        made = Real(child)
        yield made
        made.step.close()


def test_a_real_one_is_held_through_ctrl_z_and_fg(real: Real) -> None:
    """Whether it was in the group that was continued or not."""
    for numbers in ([signal.SIGCONT], []):
        assert real.holding.hold(real.step, StepState.WAITING, 1.0)
        real.child.wait_until_stopped()
        real.holding.look([real.step], 1.1)
        real.child.send(*numbers)
        real.holding.hold_again([real.step], 1.2)
        if numbers:
            real.child.wait_until_stopped()
        real.holding.look([real.step], 1.3)
        assert real.step.is_held
        real.holding.let_go(real.step, 1.4)
        real.child.answer()


def test_a_real_one_that_is_to_end(real: Real) -> None:
    """It ends by that signal, though it stood."""
    real.holding.hold(real.step, StepState.WAITING, 1.0)
    real.child.wait_until_stopped()
    real.child.send(signal.SIGTERM)
    real.holding.look([real.step], 1.1)
    assert os.waitstatus_to_exitcode(os.waitpid(real.child.pid, 0)[1]) == -signal.SIGTERM
    real.child.process.returncode = 0  # Collected already.


def test_a_real_one_that_somebody_else_stops_too(real: Real) -> None:
    """It stands until that one lets it go on, whatever we do."""
    real.holding.hold(real.step, StepState.WAITING, 1.0)
    real.child.wait_until_stopped()
    real.child.send(signal.SIGSTOP)
    real.holding.look([real.step], 1.1)
    real.holding.let_go(real.step, 1.2)
    assert real.child.stands()
    assert real.outliver.held == set()
    real.child.send(signal.SIGCONT)
    real.child.answer()
