# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whose child each member of a job is; also of those that have just ended."""

import os
from typing import Final

_LATELY: Final = 256
"""Of those that have ended last it is still known whose children they were."""


class Lineage:
    """Of one job. Only the pacer's thread calls."""

    def __init__(self) -> None:
        self._parents: dict[int, int] = {}
        self._lately: dict[int, list[int]] = {}
        self._awaited: set[int] = set()

    def has_begun(self, pid: int, ppid: int, *, is_awaited: bool) -> None:
        """A member, and who was its parent when it was first seen. `is_awaited`: that one computes afterwards."""
        self._parents[pid] = ppid
        if is_awaited:
            self._awaited.add(pid)

    def gone(self) -> list[int]:
        """Of those that are awaited, who is no more; each is told once.

        Looked for by name, for no pidfd tells of them: meinproc5 waits for the shell that waits for its xmllint, and
        takes 100 MB/s from then on. Seen by the next list five had 219 MB of 220 before they were steps again.
        """
        gone = [pid for pid in self._awaited if not os.path.exists(f"/proc/{pid}")]
        self._awaited.difference_update(gone)
        return gone

    def has_ended(self, pid: int) -> int:
        """It is nobody's child any more; the answer is whose it was, 0 if nobody knows."""
        self._awaited.discard(pid)
        self._lately[pid] = self.ancestors_of(pid)
        while len(self._lately) > _LATELY:
            del self._lately[next(iter(self._lately))]
        return self._parents.pop(pid, 0)

    def parent_of(self, pid: int) -> int:
        """0 for who is no member."""
        return self._parents.get(pid, 0)

    def has_children(self, pid: int) -> bool:
        """Whether some member is its child."""
        return pid in self._parents.values()

    def ancestors_of(self, pid: int) -> list[int]:
        """Its parent, that one's, and so on, as far as they are members; or were, if it has just ended."""
        if pid not in self._parents:
            return self._lately.get(pid, [])
        chain: list[int] = []
        while (pid := self._parents.get(pid, 0)) and pid not in chain:
            chain.append(pid)
        return chain
