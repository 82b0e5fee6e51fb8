# SPDX-License-Identifier: LGPL-2.1-or-later
"""A process tree as a group of its own, where there is no cgroup: the descendants of this process.

Facts: a child of a *thread* stands in that thread's `children` file, so all threads of a process are asked
(cargo starts its compilers from threads). An orphan comes back to the nearest subreaper, so nobody leaves a
tree below a subreaper, however often it forks; it may only be missed by one walk while it moves.

How much a tree holds is read by one of three measures, each an upper bound of the next and dearer than it.
See docs/measurements.md for what they showed on real builds, and policy/sampling.py for when which is taken.
"""

import time
from collections.abc import Callable
from typing import Final

from slicemgr.kernel import formats, procfs
from slicemgr.kernel.errors import ProcessGoneError
from slicemgr.model.cgroup import CgroupSample, Measure
from slicemgr.model.process import ProcessIdentity, ProcessTable

_ADOPTION_ROUNDS: Final = 3
"""A process whose parent ends during the walk turns up among our own children: they are read again until
nothing new is there, three times at most, because a fork bomb always has something new."""


class ProcessTree:
    """All descendants of one process; left out are the process itself, and the outsiders with what is below them."""

    def __init__(self, root_pid: int, outsiders: frozenset[ProcessIdentity] = frozenset()) -> None:
        self._root_pid = root_pid
        # CONFIG_PROC_CHILDREN is there on every distribution we know of, and still a matter of configuration.
        self._has_children_files = procfs.has_children_files()
        self._outsiders = outsiders

    def members(self) -> set[int]:
        """The pids of all descendants, zombies among them."""
        found: set[int] = set()
        if self._has_children_files:
            for _ in range(_ADOPTION_ROUNDS):
                if not self._descend(found, procfs.children_of):
                    break
        else:
            children = _children_by_scan()
            self._descend(found, lambda pid: children.get(pid, []))
        return found

    def _descend(self, found: set[int], children_of: Callable[[int], list[int]]) -> bool:
        """Add every descendant that is not in `found` yet; False if there was none."""
        known = len(found)
        waiting = children_of(self._root_pid)
        while waiting:
            pid = waiting.pop()
            if pid not in found and not self._is_outsider(pid):
                found.add(pid)
                waiting += children_of(pid)
        return len(found) > known

    def _is_outsider(self, pid: int) -> bool:
        if not any(outsider.pid == pid for outsider in self._outsiders):
            return False  # As good as always: a file less to read for each process.
        try:
            return procfs.identity_of(pid) in self._outsiders
        except ProcessGoneError:
            return True

    def read(self, measure: Measure) -> CgroupSample:
        """What the tree holds now, by this measure."""
        started = time.monotonic()
        read_one = _READERS[measure]
        members = resident = memory = swap = 0
        for pid in self.members():
            try:
                process = read_one(pid)
            except ProcessGoneError:
                continue
            members += 1
            resident += process.rss
            memory += process.unreclaimable
            swap += process.swap
        ended = time.monotonic()
        return CgroupSample(ended, ended - started, members, resident, memory, swap, measure)

    def snapshot(self) -> ProcessTable:
        """The tree for the victim rule."""
        return procfs.snapshot(self.members())


def _children_by_scan() -> dict[int, list[int]]:
    """Every process' children from every process' ppid: four times the cost of the children files for 20 processes."""
    children: dict[int, list[int]] = {}
    for pid, stat in procfs.processes().items():
        children.setdefault(stat.ppid, []).append(pid)
    return children


def _read_resident(pid: int) -> formats.ProcMemory:
    rss = procfs.read_resident(pid)
    return formats.ProcMemory(rss=rss, unreclaimable=rss)


def _read_proportional(pid: int) -> formats.ProcMemory:
    status = procfs.read_status_memory(pid)
    try:
        rollup = formats.parse_smaps_rollup(procfs.read_process_file(pid, "smaps_rollup"))
    except PermissionError:
        # A setuid program of the build (sudo make install): its status is open to all, its maps are not.
        return status
    return formats.ProcMemory(rss=status.rss, unreclaimable=rollup.unreclaimable + status.page_tables, swap=rollup.swap)


_READERS: Final = {
    Measure.RESIDENT: _read_resident,
    Measure.UNRECLAIMABLE: procfs.read_status_memory,
    Measure.PROPORTIONAL: _read_proportional,
}
