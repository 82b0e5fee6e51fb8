# SPDX-License-Identifier: LGPL-2.1-or-later
"""A build at one instant, as policy/pacing.py judges it: what each step may come to hold, and what fits beside what."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from slicemgr.model.step import Step, StepState
from slicemgr.policy.expectation import Expectation
from slicemgr.policy.forecast import Forecast
from slicemgr.policy.safety import can_all_end

PLANNED_SHARE: Final = 0.97
"""Of the budget for what is planned: a look comes late by some 20 ms, and a learnt peak is not the next one."""

HARD_SHARE: Final = 0.99
"""Of the budget where running steps are stopped."""

REACTION_SECONDS: Final = 0.15
"""What may go by between the moment at which a step ought to stand and that at which it does: a look each 20 ms, the
signal, and the step's own core. With 0.3 s the simulated builds stopped more (known fast ones 28 times, not 8)."""

BEGIN_SHARE: Final = 0.03
"""Of the budget, what a step takes before it can be stopped again."""


class Instant:
    """What all of it is decided from."""

    def __init__(self, steps: Sequence[Step], expected: Expectation, budget_bytes: int, base_bytes: int) -> None:
        self.steps = steps
        """By age."""
        self.expected = expected
        self.budget_bytes = budget_bytes
        self.base_bytes = base_bytes
        self.usage_bytes = base_bytes + sum(step.held_bytes for step in steps)
        """Of all together."""
        self.most_bytes = {step.order: expected.most_bytes(step) for step in steps}
        """What each may come to hold."""

    @property
    def is_far(self) -> bool:
        """Whether all fit beside each other, whatever they do."""
        return self.base_bytes + sum(self.most_bytes.values()) <= self.budget_bytes * PLANNED_SHARE

    def need(self, step: Step) -> float:
        """What it lacks to its end at most."""
        return max(0.0, self.most_bytes[step.order] - step.held_bytes)

    def forecast(self, running: Mapping[int, Step]) -> Forecast:
        """If these run on, and nobody else does."""
        held = self.base_bytes + sum(step.held_bytes for step in self.steps if step.order not in running)
        return Forecast(float(held), [self.expected.curve_of(step) for step in running.values()])

    def is_safe(self, running: Iterable[Step], beginning: Iterable[Step] = ()) -> bool:
        """Whether all that have begun can still end, if these run on, and those begin, for as long as it takes to
        stop them again."""
        ahead = {step.order: step.growth_bytes_per_second * REACTION_SECONDS for step in running}
        for step in beginning:
            ahead[step.order] = self.budget_bytes * BEGIN_SHARE
        free = self.budget_bytes * HARD_SHARE - self.usage_bytes
        holds: list[tuple[float, float]] = []
        for step in self.steps:
            more = ahead.get(step.order)
            if more is None:
                if step.state is StepState.NEW:
                    continue  # It can wait until all others are done.
                more = 0.0
            need = self.need(step)
            more = min(more, need)
            free -= more
            holds.append((need - more, step.held_bytes + more))
        return can_all_end(holds, free)
