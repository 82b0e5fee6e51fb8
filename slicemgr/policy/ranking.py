# SPDX-License-Identifier: LGPL-2.1-or-later
"""The whole answer to "who would go?": the victim, who is next, and why the others are not. For people, not for a kill.

It judges nothing itself: victim.py names, badness.py says why not.
"""

from dataclasses import dataclass

from slicemgr.model.process import ProcessSample, ProcessTable
from slicemgr.model.slice import VictimRule
from slicemgr.policy.badness import BadnessScale, Unkillable, why_unkillable
from slicemgr.policy.victim import Candidate, NoVictim, choose, runners_up


@dataclass(frozen=True, slots=True)
class Ranking:
    """Every process of a table is in exactly one of these."""

    victim: Candidate | None
    """None: nobody can be taken."""
    for_parent: Candidate | None
    """The process with the highest badness, if the victim goes in its place."""
    next_ones: tuple[Candidate, ...]
    """Who would follow, one after the other."""
    later: int
    """How many could be taken after those."""
    spared: tuple[tuple[ProcessSample, Unkillable], ...]
    """Who can't be taken, in the order of pids."""


def rank(
    table: ProcessTable, scale: BadnessScale, rule: VictimRule = VictimRule.HIGHEST_BADNESS_CHILD, count: int = 3
) -> Ranking:
    """Who would go now, `count` at most of those who would go then, and who never."""
    choice = choose(table, scale, rule=rule)
    if isinstance(choice, NoVictim):
        return Ranking(None, None, (), 0, choice.spared)
    next_ones = runners_up(table, scale, choice.victim, count, rule)
    reasons = ((process, why_unkillable(process, scale)) for process in table)
    spared = sorted(((process, why) for process, why in reasons if why is not None), key=lambda each: each[0].pid)
    later = len(table) - 1 - len(next_ones) - len(spared)
    return Ranking(choice.victim, choice.for_parent, next_ones, later, tuple(spared))
