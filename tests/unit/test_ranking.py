# SPDX-License-Identifier: LGPL-2.1-or-later
"""The whole answer to who would go."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicemgr.model.process import ProcessSample, ProcessTable
from slicemgr.model.slice import VictimRule
from slicemgr.policy.badness import BadnessScale, Unkillable
from slicemgr.policy.ranking import rank
from slicemgr.policy.victim import Choice, choose
from tests.unit.samples import SLICE, process, process_lists, table


@given(process_lists(), st.sampled_from(VictimRule), st.integers(0, 5))
def test_nobody_is_told_of_twice_or_forgotten(processes: list[ProcessSample], rule: VictimRule, count: int) -> None:
    """Each process is the victim, one of the next, later or spared; and the victim is the guard's."""
    scale = BadnessScale(1000, ourselves=frozenset({3, 4}))
    judged = ProcessTable(processes)
    ranking = rank(judged, scale, rule, count)
    chosen = choose(judged, scale, rule=rule)
    assert ranking.victim == (chosen.victim if isinstance(chosen, Choice) else None)
    named = [candidate.process.pid for candidate in ranking.next_ones] + [each.pid for each, _ in ranking.spared]
    if ranking.victim is not None:
        named.append(ranking.victim.process.pid)
    assert len(named) == len(set(named))
    assert len(named) + ranking.later == len(judged)
    assert len(ranking.next_ones) <= count
    assert ranking.later == 0 or len(ranking.next_ones) == count


@pytest.mark.parametrize(
    ("rule", "victim", "for_parent", "next_ones"),
    [
        (VictimRule.HIGHEST_BADNESS_CHILD, 12, 10, [11, 10]),
        (VictimRule.HIGHEST_BADNESS, 10, None, [12, 11]),
        (VictimRule.WHOLE_JOB, 10, None, [12, 11]),
    ],
)
def test_the_order_of_a_build(rule: VictimRule, victim: int, for_parent: int | None, next_ones: list[int]) -> None:
    """A driver that holds most, with two steps, beside a service that protects itself."""
    judged = table(process(10, 900), process(11, 100, parent=10), process(12, 200, parent=10),
                   process(20, 5000, oom_score_adj=-1000))  # fmt: skip
    ranking = rank(judged, SLICE, rule)
    assert ranking.victim is not None
    assert ranking.victim.process.pid == victim
    assert (ranking.for_parent and ranking.for_parent.process.pid) == for_parent
    assert [each.process.pid for each in ranking.next_ones] == next_ones
    assert [(each.pid, why) for each, why in ranking.spared] == [(20, Unkillable.ADJUSTED)]
