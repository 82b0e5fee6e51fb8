# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whose limit it was: the event counters of a cgroup and of all below it, compared with the last time.

memory.events tells of the whole subtree, memory.events.local of one cgroup's own limits. So one descriptor is watched
for each slice, and the walk goes down only where the first has moved: 200 jobs cost 200 reads of 9 us, not of 0.3 ms.

The kernel's OOM kills are counted here and nowhere else, so that each is told once. The kernel counts a kill where the
victim lived in the local file, then in that of the subtree, then in those of all above, and only then sends SIGKILL
(mm/oom_kill.c, __oom_kill_process; memcg_memory_event); we read from above downwards. So a kill that a cgroup has in
its counters, and that none of those below has, was in one that is gone; and a cgroup that goes has been counted by all.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from slicemgr.kernel.cgroupfs import CgroupDir
from slicemgr.kernel.errors import CgroupGoneError, CgroupNotPermittedError, KernelError
from slicemgr.model.cgroup import MemoryEvents

NONE_YET: Final = MemoryEvents(low=0, high=0, max=0, oom=0, oom_kill=0, oom_group_kill=0)
"""A cgroup that was not there at the last walk began with these."""


@dataclass(frozen=True, slots=True)
class Moved:
    """A cgroup at whose own limit something happened since the last walk."""

    path: str
    events: MemoryEvents
    """As they were then, of the subtree."""
    local_events: MemoryEvents | None
    """As they were then, of its own limits."""
    kernel_kills: int
    """How many of the kernel's kills are to be told for it: in it, and in what is gone below it."""


class EventCounters:
    """The counters below one cgroup. Owns the directories that it holds open."""

    def __init__(self, root: CgroupDir, *, is_new: bool = False) -> None:
        """Takes what the counters show now for the beginning: an old kill is no news. Raises KernelError.

        But if the cgroup `is_new`, and was made for us with zeros, nothing in it is old.
        """
        self._root = _Known(root, None)
        if not is_new:
            self._root.moved(is_first=True)

    def moved(self) -> list[Moved]:
        """The cgroups whose own counters have moved, parents first. Raises CgroupGoneError when the root is gone."""
        self._root.directory.events()
        return self._root.moved(is_first=False)

    def kernel_kills_in(self, path: str, local_events: MemoryEvents | None) -> int:
        """How many are to be told for a cgroup by its local file, which somebody has read between two walks.

        It may be gone at the next one, and the kill told for the slice above it.
        """
        known = self._root.find(path)
        if known is None or known.directory.is_gone():  # Then it is another one, made since.
            return 0
        own = known.own_kills(local_events)
        known.told(own, local_events)
        return own

    def paths(self) -> list[str]:
        """Every cgroup that is known below the root, and the root."""
        return [each.directory.path for each in self._root.all()]

    def close(self) -> None:
        """Close all but the root."""
        self._root.close_below()


class _Known:
    """One cgroup as it was at the last walk."""

    def __init__(self, directory: CgroupDir, above: "_Known | None") -> None:
        self.directory = directory
        self._above = above
        self._below: dict[str, _Known] = {}
        self._events = NONE_YET
        self._local: MemoryEvents | None = NONE_YET
        self._kills = 0
        """The kernel's, here and below, as read last."""
        self._own_kills = 0
        """Of those that lived here, how many are no news to a look any more."""
        self._untold_kills = 0
        """Here and below. Below 0: told by a count further down, and not seen here yet; for as long as that takes."""
        self._found: list[Moved] = []
        """Of a walk that broke off: those below have taken over their counters, and would not say it again."""

    def moved(self, *, is_first: bool) -> list[Moved]:
        """What has moved here and below since the last walk; a walk that breaks off is done again from here."""
        events = self.directory.events()
        if events is None or (events == self._events and not is_first):
            return []
        self._untold_kills += max(0, (events.oom_kill or 0) - self._kills)
        self._kills = events.oom_kill or 0
        local = self.directory.local_events()
        self._list()
        for name, child in list(self._below.items()):
            try:
                self._found += child.moved(is_first=is_first)
            except (CgroupGoneError, CgroupNotPermittedError):  # What was in it is no longer ours to judge.
                self._forget(name)
        # What is left of the subtree's are its own, and of a cgroup that went with the only process that it had.
        kernel_kills = max(0, self._untold_kills)
        self.told(kernel_kills, local)
        has_moved = _own(local or events) != _own(self._local or self._events)
        found, self._found = self._found, []
        if not is_first and (has_moved or kernel_kills > 0):
            found.insert(0, Moved(self.directory.path, self._events, self._local, kernel_kills))
        self._events, self._local = events, local
        return found

    def own_kills(self, local: MemoryEvents | None) -> int:
        """How many that lived here itself are news. Before Linux 5.2 the subtree's counts alone tell, to a walk."""
        return 0 if local is None else max(0, (local.oom_kill or 0) - self._own_kills)

    def told(self, count: int, local: MemoryEvents | None) -> None:
        """So many are told for this cgroup, and are no news above it; what it has itself now is none to a look."""
        if local is not None:
            self._own_kills = local.oom_kill or 0
        each: _Known | None = self
        while each is not None:
            each._untold_kills -= count
            each = each._above

    def find(self, path: str) -> "_Known | None":
        """The one of this path, if it is this or known below it."""
        return next((each for each in self.all() if each.directory.path == path), None)

    def all(self) -> Iterator["_Known"]:
        yield self
        for child in self._below.values():
            yield from child.all()

    def close_below(self) -> None:
        for name in list(self._below):
            self._forget(name)

    def _list(self) -> None:
        names = set(self.directory.children())
        for name, child in list(self._below.items()):
            # Also one made anew under the same name: it is another cgroup, with counters of its own.
            if name not in names or child.directory.is_gone():
                self._forget(name)
        for name in sorted(names - self._below.keys()):
            try:
                self._below[name] = _Known(self.directory.child(name), self)
            except KernelError:
                continue

    def _forget(self, name: str) -> None:
        child = self._below.pop(name)
        child.close_below()
        self._found += child._found  # Their kills are counted as told, here too.
        child.directory.close()


def _own(events: MemoryEvents) -> tuple[int | None, ...]:
    """The counters that call for a look; `low` is no limit of the cgroup's own."""
    return events.high, events.max, events.oom, events.oom_kill
