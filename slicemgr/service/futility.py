# SPDX-License-Identifier: LGPL-2.1-or-later
"""For whom children were ended in vain: the bound of the rule that prefers them."""

from typing import Final

from slicemgr.kernel.procfs import PAGE_BYTES
from slicemgr.model.process import ProcessIdentity, ProcessSample, ProcessTable
from slicemgr.policy.badness import held_pages

FUTILE_SACRIFICES: Final = 3
FUTILE_WINDOW_SECONDS: Final = 10.0
FUTILE_SHARE: Final = 1 / 4
"""Three children in ten seconds whose end freed less than a quarter of what their parent holds: then it is the parent
that leaks, and it goes itself. The rule prefers children; without this bound a leaking test runner took 59 of its small
workers with it before its own turn came. Only a parent that holds at least half of what its child did can be the
leaker: while the others grow, the end of a compiler seems to free nothing, and make is not to blame for that."""


class Futility:
    """The sacrifices that helped nothing, by the parent they were made for."""

    def __init__(self) -> None:
        self._times: dict[ProcessIdentity, list[float]] = {}

    def exhausted(self, now_seconds: float) -> frozenset[ProcessIdentity]:
        """Parents that have had their sacrifices."""
        recent = {
            parent: [at for at in times if now_seconds - at < FUTILE_WINDOW_SECONDS]
            for parent, times in self._times.items()
        }
        self._times = {parent: times for parent, times in recent.items() if times}
        return frozenset(parent for parent, times in self._times.items() if len(times) >= FUTILE_SACRIFICES)

    def note(self, table: ProcessTable, victim: ProcessSample, now_seconds: float, *, freed_bytes: int) -> None:
        """What was freed is counted, not what the child held: most of a forked child's memory is its parent's."""
        parent = table.get(victim.ppid)
        if parent is None or 2 * held_bytes(parent) < held_bytes(victim):
            return
        if freed_bytes < held_bytes(parent) * FUTILE_SHARE:
            self._times.setdefault(parent.identity, []).append(now_seconds)


def held_bytes(process: ProcessSample) -> int:
    """What a process holds of what counts against a limit, in bytes."""
    return held_pages(process) * PAGE_BYTES
