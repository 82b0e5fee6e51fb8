# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernel's OOM kills: which of them took a victim of our own, and for which cgroup each one is told.

The kernel's OOM killer likes to take who is dying of our SIGKILL already, and counts it: that is not the kernel's.
"""

import collections
from collections.abc import Callable, Collection, Iterable
from typing import Final

from slicemgr.model.cgroup import is_below

DYING_SECONDS: Final = 1.0
"""For which an exit may lie back when the look comes that finds the kernel's count: the look follows within 20 ms."""

_MOST_VICTIMS: Final = 16
_MOST_EXCUSES: Final = 64


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

    def add(self, pid: int, cgroup: str) -> None:
        """It has just been sent SIGKILL; `cgroup` is where it lived."""
        self._last.append((pid, cgroup))
        known = self.pids() - {pid}  # A pid is given out again.
        self._exited_seconds = {each: at for each, at in self._exited_seconds.items() if each in known}

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


class KernelKills:
    """The kills in a tree that have been seen, and not been told yet.

    memory.events counts a kill in every cgroup above it as well, and they are not read at one instant: what a slice has
    seen may be told for a job in this round or in the next, and the other way round.
    """

    def __init__(self) -> None:
        self._untold: dict[str, int] = {}
        """By cgroup; below 0: told for one below it, and not seen here yet."""
        self._in_doubt: set[str] = set()
        self._excuses: collections.deque[int] = collections.deque(maxlen=_MOST_EXCUSES)

    def seen(self, cgroup: str, count: int) -> None:
        """A cgroup has been looked at; also with 0, for what was told below it until now is in the past then."""
        untold = max(0, self._untold.pop(cgroup, 0) + count)
        if untold:
            self._untold[cgroup] = untold

    def is_in_doubt(self, cgroup: str, known: Callable[[], Iterable[str]]) -> bool:
        """Whether it may be the kill of one below it, which has not been looked at since: then one round decides it."""
        if self._untold.get(cgroup, 0) <= 0 or cgroup in self._in_doubt:
            return False
        if all(each == cgroup or not is_below(each, cgroup) for each in known()):
            return False
        self._in_doubt.add(cgroup)
        return True

    def take(self, cgroup: str, watched: Iterable[str]) -> int:
        """How many are to be told for this cgroup, now; they are none of those of the ones above it."""
        count = max(0, self._untold.pop(cgroup, 0))
        self._in_doubt.discard(cgroup)
        for above in watched:
            if count and above != cgroup and is_below(cgroup, above):
                self._untold[above] = self._untold.get(above, 0) - count
        return count

    def excused(self, dying: Iterable[int], count: int) -> list[int]:
        """Of the dying as many as may be among so many kills; nobody is taken twice, so each of them once."""
        found = [pid for pid in dying if pid not in self._excuses][:count]
        self._excuses.extend(found)
        return found
