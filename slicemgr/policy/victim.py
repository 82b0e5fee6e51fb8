# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who goes: the highest badness, then its child with the highest badness.

The rule is David Rientjes' of February 2010 (in the kernel as commit 5e9d834a0e0c, "sacrifice child with
highest badness score for parent"), on Lubos Lunak's measure, RSS in place of VmSize. The kernel dropped the
sacrifice of children in 2019 (bbbe48029720), for the whole machine rightly so. Inside a build it is right:
the parent is the driver whose loss loses the build, the child is one step that can be run again.

All of it looks at one set of processes, the offending cgroup or job, and at nothing outside:

- A process whose parent is not in the set is nobody's child here.
- Threads are no processes: a thread group is judged as one, also after its leader has ended.
- A zombie holds nothing and is not judged; a vforked child lives in its parent's memory, which is counted
  once, at the parent.
- A child counts as a sacrifice only if its own badness is above 0, as in the patch (`cpoints > victim_points`,
  from 0): a child that has been adjusted away stays.
- Ties go to the process that started last, which has least work to lose, and then to the higher pid: so the
  answer is the same whatever order the processes come in.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from slicemgr.model.process import ProcessIdentity, ProcessSample, ProcessTable
from slicemgr.model.slice import VictimRule
from slicemgr.policy.badness import BadnessScale, Unkillable, badness, why_unkillable


@dataclass(frozen=True, slots=True)
class Candidate:
    """A process that may be taken, with its points."""

    process: ProcessSample
    points: int
    """Badness in pages."""

    @property
    def rank(self) -> tuple[int, int, int]:
        """The greatest rank goes first; unique within a table."""
        return self.points, self.process.identity.start_ticks, self.process.pid


@dataclass(frozen=True, slots=True)
class Choice:
    """The victim and how it came to that."""

    victim: Candidate
    for_parent: Candidate | None
    """The process with the highest badness, if the victim goes in its place."""


@dataclass(frozen=True, slots=True)
class NoVictim:
    """Nobody can be taken; why not, for each process, in the order of pids."""

    spared: tuple[tuple[ProcessSample, Unkillable], ...]


def choose(
    table: ProcessTable,
    scale: BadnessScale,
    exhausted: frozenset[ProcessIdentity] = frozenset(),
    rule: VictimRule = VictimRule.HIGHEST_BADNESS_CHILD,
) -> Choice | NoVictim:
    """Name one process of the table, or say why there is none.

    `exhausted`: parents for whom no further child is sacrificed; they go in their children's place. Only the rule
    HIGHEST_BADNESS_CHILD sacrifices children: elsewhere than in a build the child is as dear as its parent.
    """
    candidates = _candidates(table, scale)
    highest = max(candidates, key=lambda candidate: candidate.rank, default=None)
    if highest is None:
        return NoVictim(_spared(table, scale))
    if rule is not VictimRule.HIGHEST_BADNESS_CHILD:
        return Choice(highest, None)
    responsible = [each for each in candidates if each.process.identity in exhausted]
    for each in responsible:
        if each is highest or each.process.pid == highest.process.ppid:
            return Choice(each, None)
    children = [child for child in _candidates(table.children_of(highest.process), scale) if child.points > 0]
    sacrifice = max(children, key=lambda candidate: candidate.rank, default=None)
    return Choice(highest, None) if sacrifice is None else Choice(sacrifice, highest)


def runners_up(
    table: ProcessTable,
    scale: BadnessScale,
    victim: Candidate,
    count: int = 3,
    rule: VictimRule = VictimRule.HIGHEST_BADNESS_CHILD,
) -> tuple[Candidate, ...]:
    """Who would be next, and next after that, if memory stayed short: by the same rule, `count` at most."""
    taken = [victim]
    while len(taken) <= count:
        choice = choose(table.without(candidate.process.identity for candidate in taken), scale, rule=rule)
        if isinstance(choice, NoVictim):
            break
        taken.append(choice.victim)
    return tuple(taken[1:])


def _candidates(processes: Iterable[ProcessSample], scale: BadnessScale) -> list[Candidate]:
    return [
        Candidate(process, badness(process, scale)) for process in processes if why_unkillable(process, scale) is None
    ]


def _spared(table: ProcessTable, scale: BadnessScale) -> tuple[tuple[ProcessSample, Unkillable], ...]:
    reasons = ((process, why_unkillable(process, scale)) for process in table)
    spared = [(process, reason) for process, reason in reasons if reason is not None]
    return tuple(sorted(spared, key=lambda entry: entry[0].pid))
