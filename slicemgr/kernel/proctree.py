# SPDX-License-Identifier: LGPL-2.1-or-later
"""A process tree as a group of its own, where there is no cgroup: the descendants of this process.

Facts: a child of a *thread* stands in that thread's `children` file, so all threads of a process are asked
(cargo starts its compilers from threads). An orphan comes back to the nearest subreaper, so nobody leaves a
tree below a subreaper, however often it forks; it may only be missed by one walk while it moves.

How much a tree holds is read by one of three measures, each an upper bound of the next and dearer than it.
See docs/measurements.md for what they showed on real builds, and policy/sampling.py for when which is taken.
"""

import time
from typing import Final

from slicemgr.kernel import formats, procfs
from slicemgr.kernel.errors import ProcessGoneError
from slicemgr.model.cgroup import CgroupSample, Measure
from slicemgr.model.process import ProcessTable

_ADOPTION_ROUNDS: Final = 3
"""A process whose parent ends during the walk turns up among our own children: they are read again until
nothing new is there, three times at most, because a fork bomb always has something new."""


class ProcessTree:
    """All descendants of one process, this process itself left out."""

    def __init__(self, root_pid: int) -> None:
        self._root_pid = root_pid
        # CONFIG_PROC_CHILDREN is there on every distribution we know of, and still a matter of configuration.
        self._has_children_files = procfs.has_children_files()

    def members(self) -> set[int]:
        """The pids of all descendants, zombies among them."""
        if not self._has_children_files:
            return self._members_by_scan()
        found: set[int] = set()
        for _ in range(_ADOPTION_ROUNDS):
            waiting = [pid for pid in procfs.children_of(self._root_pid) if pid not in found]
            if not waiting:
                break
            while waiting:
                pid = waiting.pop()
                if pid not in found:
                    found.add(pid)
                    waiting += procfs.children_of(pid)
        return found

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

    def _members_by_scan(self) -> set[int]:
        """The same from every process' ppid: 1.5 ms for 90 processes, a quarter of it by children files."""
        children: dict[int, list[int]] = {}
        for pid, stat in procfs.parents().items():
            children.setdefault(stat.ppid, []).append(pid)
        found: set[int] = set()
        waiting = list(children.get(self._root_pid, ()))
        while waiting:
            pid = waiting.pop()
            if pid not in found:
                found.add(pid)
                waiting += children.get(pid, ())
        return found


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
