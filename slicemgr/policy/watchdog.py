# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which waiting step goes on when nothing moves: it may hold what those that run are waiting for.

A stopped step can hold a lock, the other end of a pipe, or a token of make's. Nobody can see that from outside; what
can be seen is that no step which runs uses any CPU time. Then those that wait get a turn, one after the other.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from slicemgr.model.step import Step, StepState

STUCK_SECONDS: Final = 3.0
"""No CPU time for so long by all that run together. Argued, not measured: a step that waits for a slow disk still gets
a tick (10 ms) now and then, and to be wrong costs little, one step that goes on too early. Shorter, and a build that
sleeps (a test, a download) would get all its steps back one after the other for nothing; longer, and with twenty that
wait the last gets its turn after more than a minute."""


def unstick(steps: Sequence[Step], still_seconds: float, tried: Mapping[int, int] | None = None) -> int | None:
    """The `order` of the waiting step to resume now, or None.

    `still_seconds`: for how long no running step has made progress; begin anew at 0 after each answer. `tried`: how
    often each has had its turn (missing: never). Oldest first among those least often tried, so that each gets its
    turn. Those that hold a lock have run: they come before those held at birth with as many turns.
    """
    if still_seconds < STUCK_SECONDS:
        return None
    turns = tried or {}
    waiting = [step for step in steps if step.state is not StepState.RUNNING]
    if not waiting:
        return None
    return min(waiting, key=lambda step: (turns.get(step.order, 0), step.state is StepState.NEW, step.order)).order
