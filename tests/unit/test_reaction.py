# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a sample calls for."""

import pytest

from slicemgr.model.cgroup import MemoryLimits
from slicemgr.model.decision import Decision, FindVictim, Nothing, Resource, Shortage, Warn
from slicemgr.policy.reaction import ReactionState, react
from tests.unit.samples import sample

CALM, ABOVE = ReactionState(), ReactionState(above_high=True)
BOTH = MemoryLimits(high=80, max=100, swap_max=10)

ROWS: list[tuple[str, ReactionState, int, int, ReactionState, Decision]] = [
    ("below all", CALM, 50, 0, CALM, Nothing()),
    ("at a limit is not above it", CALM, 80, 10, CALM, Nothing()),
    ("above high", CALM, 81, 0, ABOVE, Warn(81, 80)),
    ("warned once an episode", ABOVE, 90, 0, ABOVE, Nothing()),
    ("just below high is the same episode", ABOVE, 79, 0, ABOVE, Nothing()),
    ("a tenth below high ends it", ABOVE, 71, 0, CALM, Nothing()),
    ("at max", ABOVE, 100, 0, ABOVE, Nothing()),
    ("above max", ABOVE, 101, 0, ABOVE, FindVictim(Shortage(Resource.MEMORY, 101, 100))),
    (
        "from calm above max at once: the kill is the news",
        CALM,
        101,
        0,
        ABOVE,
        FindVictim(Shortage(Resource.MEMORY, 101, 100)),
    ),
    ("above swap", CALM, 50, 11, CALM, FindVictim(Shortage(Resource.SWAP, 11, 10))),
    ("memory before swap", ABOVE, 150, 90, ABOVE, FindVictim(Shortage(Resource.MEMORY, 150, 100))),
]


@pytest.mark.parametrize(("name", "state", "memory", "swap", "then", "decision"), ROWS, ids=[row[0] for row in ROWS])
def test_row(name: str, state: ReactionState, memory: int, swap: int, then: ReactionState, decision: Decision) -> None:
    """One row of the table."""
    assert react(state, sample(memory, swap=swap), BOTH) == (then, decision)


def test_no_limits_no_reaction() -> None:
    """Whatever is held."""
    assert react(CALM, sample(1 << 60, swap=1 << 60), MemoryLimits()) == (CALM, Nothing())
