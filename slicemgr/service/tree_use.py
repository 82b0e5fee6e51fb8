# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a job without a cgroup holds, for its pacer: the sum of its processes, corrected by the exact measure.

The sum of anonymous memory is read with the steps anyway, and is right for who has exec'd. Forked workers share pages,
which a sum counts once for each: 100 MB and 21 forks are 2289 MB (kernel/proctree.py). The exact measure knows, and
costs 2 ms for a build of compilers and 0.3 s for 200 forked workers, so it is asked now and then, and what it says less
is taken off.
"""

import math
import time
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from slicemgr.kernel.step_files import held_by
from slicemgr.model.cgroup import CgroupSample, Measure
from slicemgr.service.step_watch import StepWatch

OTHERS_SECONDS: Final = 1.0
"""Between two looks at the processes that are no steps: drivers do not grow."""

EXACT_SECONDS: Final = 1.0
EXACT_COSTS: Final = 100
"""Between two exact measures: a hundred times what the last one cost, and at least that long."""

URGENT_COSTS: Final = 10
"""And ten times while the job seems to be above its limit: ten workers of 85 MB, just forked, made 1.2 GB of
250 MB, and within the second that it took to be asked again nine of them were killed."""

EXACT_SHARE: Final = 0.5
"""Of the limit; below it the sum may be too big by as much as it likes."""


class ExactMeasure(Protocol):
    """See model/source.py."""

    def read(self, measure: Measure) -> CgroupSample: ...


class TreeUse:
    """Bytes that can't be reclaimed, asked of one job again and again."""

    def __init__(
        self,
        watch: StepWatch,
        source: ExactMeasure,
        limit_bytes: int | None,
        *,
        held: Callable[[int], int] = held_by,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._watch = watch
        self._source = source
        self._limit_bytes = limit_bytes
        self._held = held
        self._clock = clock
        self._others_bytes = 0
        self._others_due = 0.0
        self._exact_due = self._urgent_due = 0.0
        self._overstated_bytes = 0
        self._before_bytes = 0

    def __call__(self) -> int:
        """As of the steps' last measurement."""
        now = self._clock()
        if now >= self._others_due:
            self._others_due = now + OTHERS_SECONDS
            self._others_bytes = self._sum_of(self._watch.others)
        total = self._others_bytes + sum(step.held_bytes for step in self._watch.steps.values())
        # Forked workers that have ended took what was overstated with them; it must not be taken off compilers.
        if self._overstated_bytes > 0:
            self._overstated_bytes = max(0, self._overstated_bytes - max(0, self._before_bytes - total))
        self._before_bytes = total
        if self._limit_bytes is not None and now >= self._due(total, self._limit_bytes):
            self._ask_exactly(now)
        return max(0, total - self._overstated_bytes)

    def overstated_now(self) -> int:
        """By how much the last answer was too high (below 0: too low), by the exact measure, which is asked now: before
        something is done about it that can't be undone. Raises KernelError."""
        before = self._overstated_bytes
        self._ask_exactly(self._clock())
        return self._overstated_bytes - before

    def _ask_exactly(self, now_seconds: float) -> None:
        sample = self._source.read(Measure.PROPORTIONAL)
        self._exact_due = now_seconds + max(EXACT_SECONDS, EXACT_COSTS * sample.cost_seconds)
        self._urgent_due = now_seconds + URGENT_COSTS * sample.cost_seconds
        self._overstated_bytes = self._before_bytes - sample.memory_bytes

    def _due(self, total_bytes: int, limit_bytes: int) -> float:
        """When the exact measure is to be asked next; never below a share of the limit."""
        if total_bytes <= limit_bytes * EXACT_SHARE:
            return math.inf
        return self._urgent_due if total_bytes - self._overstated_bytes > limit_bytes else self._exact_due

    def _sum_of(self, pids: Iterable[int]) -> int:
        return sum(self._held(pid) for pid in pids)
