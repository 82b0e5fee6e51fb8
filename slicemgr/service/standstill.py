# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether the steps that run make progress while others wait; if not, one that waits gets a turn.

How that is chosen stands in policy/watchdog.py.
"""

from collections.abc import Collection
from typing import Final

from slicemgr.model.step import StepState
from slicemgr.policy.watchdog import unstick
from slicemgr.service.live_step import LiveStep

LOOK_SECONDS: Final = 0.5
"""Between two looks at CPU times: 20 us for each step that runs."""


class Standstill:
    """Watches the steps of one job."""

    def __init__(self) -> None:
        self._due_seconds = 0.0
        self._since: float | None = None

    def turn(self, steps: Collection[LiveStep], now_seconds: float) -> LiveStep | None:
        """Who is to be let go now because nothing moves."""
        if now_seconds < self._due_seconds:
            return None
        self._due_seconds = now_seconds + LOOK_SECONDS
        if not any(step.is_held for step in steps):
            self._since = None
            return None
        # A list, not any(): each has to be asked.
        moving = [step for step in steps if step.state is StepState.RUNNING and step.has_progressed()]
        if moving or self._since is None:
            self._since = now_seconds
        order = unstick(
            [step.as_step(now_seconds) for step in steps],
            now_seconds - self._since,
            {step.order: step.turns for step in steps},
        )
        if order is None:
            return None
        self._since = now_seconds
        chosen = next(step for step in steps if step.order == order)
        chosen.turns += 1
        return chosen
