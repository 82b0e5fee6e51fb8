# SPDX-License-Identifier: LGPL-2.1-or-later
"""The victim rule: highest badness, then its highest-badness child."""

from itertools import permutations
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicemgr.model.process import ProcessIdentity, ProcessSample, ProcessTable
from slicemgr.policy.badness import BadnessScale, Unkillable, badness, why_unkillable
from slicemgr.policy.victim import Candidate, Choice, NoVictim, choose, runners_up
from tests.unit.samples import SLICE, process, process_lists, table

# make (pid 10) of the 2010 mail: sh -> meinproc4 twice, konsole reparented away, in one slice.
LUNAKS_BUILD = [
    process(10, 500, parent=1, name="make"),
    process(11, 200, parent=10, name="sh"),
    process(12, 200, parent=10, name="sh"),
    process(13, 29_552, parent=11, start=5, name="meinproc4"),  # 118,208 kB
    process(14, 20_000, parent=12, start=6, name="meinproc4"),
]

TREES = {
    "the offender of the mail, not make": (LUNAKS_BUILD, 13, None),
    "a leaf that holds most": ([process(10, 100), process(11, 900, parent=10)], 11, None),
    "the highest-badness child in place of a big parent": (
        [process(10, 900), process(11, 100, parent=10), process(12, 300, parent=10), process(13, 200, parent=10)],
        12,
        10,
    ),
    "a grandchild is no child": ([process(10, 900), process(11, 10, parent=10), process(12, 800, parent=11)], 11, 10),
    "the process itself if its children hold nothing": ([process(10, 900), process(11, 0, parent=10)], 10, None),
    "the process itself if its children are zombies": (
        [process(10, 900), process(11, 0, parent=10, has_memory=False)],
        10,
        None,
    ),
    "a vforked child lives in its parent's memory": (
        [process(10, 900), process(11, 900, parent=10, start=9, shares_memory_with_parent=True)],
        10,
        None,
    ),
    "a protected child is passed over for its sibling": (
        [process(10, 900), process(11, 500, parent=10, oom_score_adj=-1000), process(12, 20, parent=10)],
        12,
        10,
    ),
    "a child adjusted below zero stays": ([process(10, 900), process(11, 500, parent=10, oom_score_adj=-10)], 10, None),
    "a protected parent does not protect its children": (
        [process(10, 900, oom_score_adj=-1000), process(11, 20, parent=10)],
        11,
        None,
    ),
    "oom_score_adj moves the choice": ([process(10, 900), process(11, 100, oom_score_adj=10)], 11, None),
    "the dead leader of living threads is judged by what they hold": ([process(10, 100), process(11, 900)], 11, None),
    "a swapped-out leaker": ([process(10, 900), process(11, 10, swap_pages=5000)], 11, None),
    "a tie goes to the younger": ([process(10, 500, start=1), process(11, 500, start=2)], 11, None),
    "a tie of twins goes to the higher pid": ([process(10, 500, start=1), process(11, 500, start=1)], 11, None),
    "all adjusted below zero: the least of them": (
        [process(10, 5, oom_score_adj=-900), process(11, 5, oom_score_adj=-100)],
        11,
        None,
    ),
    "a child of a process outside the slice is on its own": ([process(10, 50), process(11, 60, parent=5)], 11, None),
    "its own parent, as only a torn reading can say": ([process(10, 50, parent=10)], 10, None),
}


@pytest.mark.parametrize(("processes", "victim", "parent"), TREES.values(), ids=TREES.keys())
def test_who_goes(processes: list[ProcessSample], victim: int, parent: int | None) -> None:
    """One victim, and in whose place."""
    choice = choose(table(*processes), SLICE)
    assert isinstance(choice, Choice)
    assert choice.victim.process.pid == victim
    assert (choice.for_parent.process.pid if choice.for_parent else None) == parent


@pytest.mark.parametrize("name", TREES)
def test_the_order_of_the_listing_is_of_no_account(name: str) -> None:
    """Every permutation gives the same answer."""
    processes = TREES[name][0]
    choices = {_pids(choose(table(*order), SLICE)) for order in permutations(processes)}
    assert len(choices) == 1


def test_ranks_are_a_strict_order() -> None:
    """Each of this list goes before all that stand before it, in every pair."""
    ascending = [
        process(10, 100, oom_score_adj=-500),
        process(11, 0, start=1),
        process(12, 0, start=2),
        process(13, 0, start=2),
        process(14, 99, page_table_pages=0, start=9),
        process(15, 90, page_table_pages=10, start=9),
        process(16, 50, swap_pages=51),
        process(17, 100, oom_score_adj=1),
        process(18, 100_000),
        process(19, 1, oom_score_adj=1000),
    ]
    for at, heavier in enumerate(ascending):
        for lighter in ascending[:at]:
            choice = choose(table(heavier, lighter), SLICE)
            assert isinstance(choice, Choice)
            assert choice.victim.process is heavier, (lighter, heavier)


def test_an_exhausted_parent_is_taken_itself() -> None:
    """The bound on futile sacrifices, set by the guard."""
    parent = process(10, 900)
    tree = table(parent, process(11, 1, parent=10))
    choice = choose(tree, SLICE, exhausted=frozenset({parent.identity}))
    assert _pids(choice) == (10, None)


def test_nobody_left() -> None:
    """An empty slice, or one of unkillables only, gives each reason instead of a victim."""
    assert choose(table(), SLICE) == NoVictim(())
    protected, zombie = process(11, 5, oom_score_adj=-1000), process(10, has_memory=False)
    assert choose(table(protected, zombie), SLICE) == NoVictim(
        ((zombie, Unkillable.NO_MEMORY), (protected, Unkillable.ADJUSTED))
    )


def test_runners_up_are_by_the_same_rule() -> None:
    """Who would be next once the victim is gone: here the parent's other child, then the parent."""
    tree = table(process(10, 900), process(11, 300, parent=10), process(12, 200, parent=10))
    choice = choose(tree, SLICE)
    assert isinstance(choice, Choice)
    assert [each.process.pid for each in runners_up(tree, SLICE, choice.victim)] == [12, 10]
    assert [each.process.pid for each in runners_up(tree, SLICE, choice.victim, count=1)] == [12]


@given(process_lists(), st.randoms(use_true_random=False))
def test_deterministic_under_any_order(processes: list[ProcessSample], random: Random) -> None:
    """For generated slices as well, cycles among them."""
    shuffled = list(processes)
    random.shuffle(shuffled)
    assert _pids(choose(table(*processes), SLICE)) == _pids(choose(table(*shuffled), SLICE))


@given(process_lists(), st.frozensets(st.integers(1, 30)))
def test_the_victim_is_a_killable_member(processes: list[ProcessSample], ourselves: frozenset[int]) -> None:
    """Never one that was not listed, never one that has a reason to be spared; none only if all have one."""
    scale = BadnessScale(1000, ourselves=ourselves)
    choice = choose(ProcessTable(processes), scale)
    killable = [each for each in processes if why_unkillable(each, scale) is None]
    if isinstance(choice, NoVictim):
        assert not killable
        assert {each.pid for each, _ in choice.spared} == {each.pid for each in processes}
    else:
        assert choice.victim.process in killable


@given(process_lists())
def test_the_choice_is_the_rule(processes: list[ProcessSample]) -> None:
    """The victim is the highest, or the highest positive child of the highest: said again in other words."""
    choice = choose(ProcessTable(processes), SLICE)
    if isinstance(choice, NoVictim):
        return
    top = choice.for_parent or choice.victim
    assert all(Candidate(each, badness(each, SLICE)).rank <= top.rank for each in _killable(processes))
    children = [each for each in _killable(processes) if each.ppid == top.process.pid and each.pid != top.process.pid]
    positive = [each for each in children if badness(each, SLICE) > 0]
    if choice.for_parent is None:
        assert not positive
    else:
        assert choice.victim.points == max(badness(each, SLICE) for each in positive)


@given(process_lists(), st.integers(1, 1 << 40))
def test_more_memory_never_saves_a_victim_without_children(processes: list[ProcessSample], more: int) -> None:
    """Growing does not help a leaf that would go anyway."""
    choice = choose(ProcessTable(processes), SLICE)
    if isinstance(choice, NoVictim) or choice.for_parent is not None:
        return
    grown = [
        process(each.pid, each.rss_pages + more, parent=each.ppid, start=each.identity.start_ticks,
                swap_pages=each.swap_pages, page_table_pages=each.page_table_pages, oom_score_adj=each.oom_score_adj)
        if each is choice.victim.process else each
        for each in processes
    ]  # fmt: skip
    assert _pids(choose(ProcessTable(grown), SLICE)) == (choice.victim.process.pid, None)


def test_a_reused_pid_is_another_process() -> None:
    """What has been taken out by identity does not take its successor with it."""
    old, new = ProcessIdentity(10, 1), process(10, 50, start=2)
    assert [each.identity for each in table(new).without([old])] == [new.identity]


def _killable(processes: list[ProcessSample]) -> list[ProcessSample]:
    return [each for each in processes if why_unkillable(each, SLICE) is None]


def _pids(choice: Choice | NoVictim) -> tuple[int, int | None] | None:
    if isinstance(choice, NoVictim):
        return None
    return choice.victim.process.pid, choice.for_parent.process.pid if choice.for_parent else None
