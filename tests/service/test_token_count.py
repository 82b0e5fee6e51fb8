# SPDX-License-Identifier: LGPL-2.1-or-later
"""How many tokens a make gets by what its build does, and whose come back; with real trees for who holds some."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slicemgr.kernel import procfs
from slicemgr.kernel.errors import KernelError, ProcessGoneError
from slicemgr.kernel.formats import ProcStat
from slicemgr.model.step import Profile
from slicemgr.policy.tokens import LOST_AFTER_SECONDS
from slicemgr.service.token_count import LOST_LOOK_SECONDS, TokenCount
from tests.service.step_samples import MIB, FakeStep, FakeWatch

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = 1
GIB = 1 << 30


class FakeTokens:
    """In place of a jobserver."""

    ceiling = 20

    def __init__(self) -> None:
        self.allowed: list[int] = []
        self.outstanding = 0
        self.given_back: list[int] = []

    def allow(self, running: int) -> None:
        self.allowed.append(running)

    def give_back(self, lost: int) -> None:
        self.given_back.append(lost)
        self.outstanding -= lost


class Count:
    """The tokens of one make, by a clock that the test turns."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.tokens = FakeTokens()
        self.fakes = FakeWatch()
        self.count = TokenCount(self.tokens, self.fakes.watch, ROOT, clock=lambda: self.now)
        self.count._cores = 2
        self.processes: dict[int, ProcStat] = {}
        monkeypatch.setattr(procfs, "read_stat", self._stat)

    def _stat(self, pid: int) -> ProcStat:
        try:
            return self.processes[pid]
        except KeyError:
            raise ProcessGoneError(pid) from None

    def live(self, processes: Mapping[int, tuple[int, str]]) -> None:
        """pid: (parent, name); none of them is a step."""
        self.processes = {
            pid: ProcStat(name.encode(), "S", parent, 1, 1, 0, 1, 0, 0, 0, -1, 1, 0)
            for pid, (parent, name) in processes.items()
        }
        self.fakes.others = list(processes)

    def look(self, running: int = 1, new: tuple[int, ...] = (), *, is_near: bool = True) -> int:
        """And say how many are allowed then."""
        self.count.look(running, new, GIB, is_near=is_near)
        return self.tokens.allowed[-1]

    def looks(self, count: int = 4) -> list[int]:
        """So many looks for lost ones, and what came back."""
        for _ in range(count):
            self.look()
            self.now += LOST_LOOK_SECONDS
        return self.tokens.given_back


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> Count:
    return Count(monkeypatch)


def test_far_from_the_budget(count: Count) -> None:
    """All of -jN."""
    assert count.look(running=0, is_near=False) == 20


def test_near_it_a_few_beside_those_that_run(count: Count) -> None:
    """Of known size: what is held at birth may take a twentieth of the budget."""
    step = FakeStep(1)
    step.profile = Profile(MIB, 1.0, 1.0)
    count.fakes.steps = {step.pid: step}
    assert count.look(running=4, new=(10 * MIB, 10 * MIB)) == 4 + 5
    assert count.look(running=4, new=(100 * MIB,)) == 4 + 2
    assert count.look(running=19, new=(MIB,)) == 20


def test_a_cold_build_begins_slowly(count: Count) -> None:
    """As long as no size is known: none has ended, and none was learnt before."""
    assert count.look(running=0) == 3
    assert count.look(running=5, new=(MIB,)) == 7
    count.fakes.has_ended = True
    assert count.look(running=5, new=(MIB,)) > 7


def test_there_is_always_one(count: Count) -> None:
    count.tokens.ceiling = 1
    assert count.look(running=0) == 1


MAKE_OF_TWO = {1: (0, "make"), 2: (1, "sh"), 3: (2, "g++"), 4: (1, "sh")}


@pytest.mark.parametrize(
    ("processes", "outstanding", "lost"),
    [
        # Two jobs, and the first is make's own place: one token is out.
        (MAKE_OF_TWO, 1, []),
        (MAKE_OF_TWO, 2, [1]),
        (MAKE_OF_TWO, 5, [4]),
        (MAKE_OF_TWO, 0, []),
        # A sub-make of three jobs, beside one of its parent's.
        ({1: (0, "make"), 2: (1, "make"), 3: (2, "sh"), 4: (2, "sh"), 5: (2, "sh"), 6: (1, "sh")}, 3, []),
        ({1: (0, "make"), 2: (1, "gmake"), 3: (2, "sh"), 4: (2, "sh"), 5: (2, "sh"), 6: (1, "sh")}, 4, [1]),
        # ninja takes one for each, as make's own client; a shell only hands on.
        ({1: (0, "make"), 2: (1, "ninja"), 3: (2, "sh"), 4: (2, "sh"), 5: (2, "sh")}, 3, []),
        ({1: (0, "make"), 2: (1, "sh"), 3: (2, "sh"), 4: (2, "sh"), 5: (2, "sh")}, 3, [3]),
        # cargo keeps them between its jobs.
        ({1: (0, "make"), 2: (1, "cargo")}, 9, []),
        # Who was adopted may be a job of somebody.
        ({1: (0, "make"), 7: (999, "cc1")}, 1, []),
    ],
)  # fmt: skip
def test_tokens_that_nobody_has(
    count: Count, processes: Mapping[int, tuple[int, str]], outstanding: int, lost: list[int]
) -> None:
    """They come back, once, and not before they have been missing for a while."""
    count.live(processes)
    count.tokens.outstanding = outstanding
    count.look()
    assert count.tokens.given_back == []
    assert count.looks() == lost


def test_they_are_missing_for_a_moment(count: Count) -> None:
    """A client has one before it has started the job: then the job is there at the next look."""
    count.live({1: (0, "make")})
    count.tokens.outstanding = 2
    count.look()
    count.now += LOST_LOOK_SECONDS
    count.live(MAKE_OF_TWO | {5: (1, "sh")})
    assert count.looks() == []


def test_the_look_is_not_made_often(count: Count) -> None:
    """40 us for each process."""
    count.live({1: (0, "make")})
    count.tokens.outstanding = 2
    for _ in range(50):
        count.look()
        count.now += LOST_AFTER_SECONDS / 100
    assert count.tokens.given_back == []


def test_one_ends_while_it_is_asked(count: Count) -> None:
    """The others are counted."""
    count.live(MAKE_OF_TWO)
    del count.processes[4]
    count.tokens.outstanding = 1
    assert count.looks() == [1]


def test_each_step_may_have_one(count: Count) -> None:
    """Not more out than there are steps: nobody is asked for anything."""
    step = FakeStep(1)
    count.fakes.steps = {step.pid: step}
    count.tokens.outstanding = 1

    def fail(pid: int) -> ProcStat:
        raise KernelError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(procfs, "read_stat", fail)
        assert count.looks() == []
