# SPDX-License-Identifier: LGPL-2.1-or-later
"""The sum over a process tree, corrected by the exact measure, with given numbers and given times."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicemgr.kernel.errors import KernelError
from slicemgr.kernel.step_files import held_by
from slicemgr.model.cgroup import CgroupSample, Measure
from slicemgr.service.tree_use import EXACT_COSTS, EXACT_SECONDS, OTHERS_SECONDS, URGENT_COSTS, TreeUse
from tests.service.step_samples import MIB, FakeStep, FakeWatch
from tests.service.waiting_child import descriptors, waiting_child


class Tree:
    """Steps and others, and what the exact measure would say."""

    def __init__(self, limit_mib: int | None = 1000) -> None:
        self.now = 100.0
        self.fakes = FakeWatch()
        self.others: dict[int, int] = {}
        self.asked = 0
        self.exact_mib = 0
        self.cost_seconds = 0.002
        self.looked_at: list[int] = []
        limit = None if limit_mib is None else limit_mib * MIB
        self.use = TreeUse(self.fakes.watch, self, limit, held=self._held, clock=lambda: self.now)

    def _held(self, pid: int) -> int:
        self.looked_at.append(pid)
        return self.others[pid] * MIB

    def read(self, measure: Measure) -> CgroupSample:
        """The exact measure."""
        self.asked += 1
        size = self.exact_mib * MIB
        return CgroupSample(self.now, self.cost_seconds, 1, size, size, 0, measure)

    def steps(self, *sizes: int) -> None:
        """They hold this now, each in MiB."""
        for step in self.fakes.steps.values():
            step.close()
        self.fakes.steps.clear()
        for order, size in enumerate(sizes):
            step = FakeStep(order)
            step.hold_bytes(size * MIB, self.now)
            self.fakes.steps[step.pid] = step

    def at(self, now: float) -> float:
        """What the job holds at this time, in MiB."""
        self.now = now
        return self.use() / MIB


@pytest.fixture
def tree() -> Tree:
    return Tree()


def test_the_sum(tree: Tree) -> None:
    """Of steps, and of those that are none."""
    tree.steps(100, 50)
    tree.others, tree.fakes.others = {1: 3, 2: 4}, [1, 2]
    assert tree.at(100.0) == 157
    assert tree.asked == 0


def test_others_are_looked_at_now_and_then(tree: Tree) -> None:
    """Drivers do not grow; steps are measured each time."""
    tree.others, tree.fakes.others = {1: 3}, [1]
    assert tree.at(100.0) == 3
    tree.others[1] = 9
    tree.steps(100)
    assert tree.at(100.0 + OTHERS_SECONDS * 0.9) == 103
    assert tree.at(100.1 + OTHERS_SECONDS) == 109
    assert tree.looked_at == [1, 1]


def test_nothing_at_all(tree: Tree) -> None:
    assert tree.at(100.0) == 0


@pytest.mark.parametrize(("size", "asked"), [(0, 0), (499, 0), (500, 0), (501, 1), (5000, 1)])
def test_the_exact_measure_is_asked_near_the_limit(tree: Tree, size: int, asked: int) -> None:
    """It is dear, and far below the limit the sum may be too big."""
    tree.steps(size)
    tree.exact_mib = size
    tree.at(100.0)
    assert tree.asked == asked


def test_without_a_limit_it_is_never_asked() -> None:
    tree = Tree(limit_mib=None)
    tree.steps(10**6)
    assert tree.at(100.0) == 10**6
    assert tree.asked == 0


def test_forked_workers_are_not_counted_for_each(tree: Tree) -> None:
    """100 MB that twenty share; what they take beside it from now on counts in full."""
    tree.steps(*[100] * 20)
    tree.exact_mib = 120
    assert tree.at(100.0) == 120
    tree.steps(*[110] * 20)
    assert tree.at(100.1) == 320


def test_what_was_shared_goes_with_who_shared_it(tree: Tree) -> None:
    """Workers end and compilers begin: it is not taken off those, of which it was never a part."""
    tree.cost_seconds = 0.3
    tree.steps(*[100] * 20)
    tree.exact_mib = 120
    assert tree.at(100.0) == 120
    tree.steps(100, 100)
    assert tree.at(100.1) == 120
    tree.steps(100, 100, 300)
    assert tree.at(100.2) == 420
    tree.steps(100)
    tree.steps(300, 300)
    assert tree.at(100.3) >= 500


@given(st.lists(st.integers(0, 10), min_size=1, max_size=20), st.lists(st.integers(0, 400), max_size=10))
def test_compilers_after_workers_count_in_full(ends: list[int], compilers: list[int]) -> None:
    """Whatever order the workers end in, before the exact measure is asked again."""
    tree = Tree()
    tree.cost_seconds = 10.0
    tree.steps(*[100] * 20)
    tree.exact_mib = 120
    tree.at(100.0)
    left = 20
    for each in ends:
        left = max(0, left - each)
        tree.steps(*[100] * left)
        tree.at(100.1)
    tree.steps()
    assert tree.at(100.2) >= 0
    tree.steps(*compilers)
    assert tree.at(100.3) == sum(compilers)


def test_how_often_the_exact_measure_is_asked(tree: Tree) -> None:
    """Once a second; a hundredth of the time where it is dearer."""
    tree.steps(900)
    tree.exact_mib = 900
    tree.at(100.0)
    tree.at(100.0 + EXACT_SECONDS * 0.99)
    assert tree.asked == 1
    tree.cost_seconds = 0.3
    tree.at(101.0)
    tree.at(101.0 + 0.3 * EXACT_COSTS * 0.99)
    assert tree.asked == 2
    tree.at(101.1 + 0.3 * EXACT_COSTS)
    assert tree.asked == 3


def test_above_the_limit_it_is_asked_again_soon(tree: Tree) -> None:
    """Ten workers are forked a moment after it was asked: what they make of the sum is not believed for long."""
    tree.steps(800)
    tree.exact_mib = 800
    tree.at(100.0)
    tree.steps(*[800] * 11)
    tree.at(100.0 + tree.cost_seconds * URGENT_COSTS * 0.9)
    assert tree.asked == 1
    assert tree.at(100.0 + tree.cost_seconds * URGENT_COSTS) == 800
    assert tree.asked == 2
    tree.at(100.1)
    assert tree.asked == 2


@pytest.mark.parametrize(("exact", "too_much"), [(810, 790), (1600, 0), (1700, -100)])
def test_before_somebody_is_killed_for_it(tree: Tree, exact: int, too_much: int) -> None:
    """It is asked at once, whenever it was asked before; and from then on the answer is right."""
    tree.steps(800)
    tree.exact_mib = 800
    tree.at(100.0)
    tree.steps(800, 800)
    assert tree.at(100.001) == 1600
    tree.exact_mib = exact
    assert tree.use.overstated_now() == too_much * MIB
    assert tree.at(100.002) == exact


def test_it_says_more_than_the_sum(tree: Tree) -> None:
    """Shared memory is in no sum."""
    tree.steps(600)
    tree.exact_mib = 800
    assert tree.at(100.0) == 800
    tree.steps(500)
    assert tree.at(100.1) == 700


def test_the_exact_measure_fails(tree: Tree) -> None:
    """For once, as the look does then; and it is asked again."""
    tree.steps(600)

    def fail(measure: Measure) -> CgroupSample:
        raise KernelError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tree, "read", fail)
        with pytest.raises(KernelError):
            tree.at(100.0)
    tree.exact_mib = 300
    assert tree.at(100.1) == 300


def test_a_real_process() -> None:
    """It holds something, and nothing when it is gone; no descriptor stays."""
    before = descriptors()
    with waiting_child() as child:
        assert held_by(child.pid) > 0
        child.be_gone()
        assert held_by(child.pid) == 0
    assert len(descriptors()) <= len(before)
