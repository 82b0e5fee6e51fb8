# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernel's OOM kills: which of them took a victim of our own. For which cgroup each is told: counters.py.

The kernel's OOM killer likes to take who is dying of our SIGKILL already, and counts it: that is not the kernel's.
"""

import collections
from collections.abc import Collection
from typing import Final

from slicemgr.model.cgroup import is_below

DYING_SECONDS: Final = 1.0
"""For which an exit may lie back when the look comes that finds the kernel's count: the look follows within 20 ms."""

_MOST_VICTIMS: Final = 16


def not_ours(
    count: int, logged: tuple[tuple[int, str], ...], ours: Collection[int], dying: Collection[int]
) -> tuple[int, tuple[tuple[int, str], ...]]:
    """How many of the last `count` kills were the kernel's own, and whom they took as far as its log tells.

    `logged`: (pid, comm) by the kernel's log, oldest first. `ours`: pids that we have ended. `dying`: those of them
    that the kernel may just have taken; as many are left out where its log can't be read.
    """
    if count <= 0:
        return 0, ()
    victims = logged[-count:]
    others = tuple(each for each in victims if each[0] not in ours)
    return max(0, count - (len(victims) - len(others) if victims else len(dying))), others


class OwnVictims:
    """Whom we have sent SIGKILL, the last few."""

    def __init__(self) -> None:
        self._last: collections.deque[tuple[int, str]] = collections.deque(maxlen=_MOST_VICTIMS)
        self._exited_seconds: dict[int, float] = {}
        self._excused: set[int] = set()

    def add(self, pid: int, cgroup: str) -> None:
        """It has just been sent SIGKILL; `cgroup` is where it lived."""
        self._last.append((pid, cgroup))
        known = self.pids() - {pid}  # A pid is given out again.
        self._exited_seconds = {each: at for each, at in self._exited_seconds.items() if each in known}
        self._excused &= known

    def exited(self, pid: int, now_seconds: float) -> None:
        """Its exit has been seen."""
        self._exited_seconds[pid] = now_seconds

    def pids(self) -> frozenset[int]:
        """All that are remembered."""
        return frozenset(pid for pid, _ in self._last)

    def dying(self, cgroup: str, now_seconds: float) -> frozenset[int]:
        """Those of a cgroup and all below it that have not exited, or only just."""
        return frozenset(
            pid
            for pid, lived in self._last
            if is_below(lived, cgroup) and now_seconds - self._exited_seconds.get(pid, now_seconds) <= DYING_SECONDS
        )

    def excused(self, cgroup: str, count: int, now_seconds: float) -> list[int]:
        """Of the dying as many as may be among so many kills; nobody is taken twice, so each of them once."""
        found = sorted(self.dying(cgroup, now_seconds) - self._excused)[:count]
        self._excused.update(found)
        return found
