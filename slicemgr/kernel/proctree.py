# SPDX-License-Identifier: LGPL-2.1-or-later
"""A process tree as a group of its own, where there is no cgroup: the descendants of this process.

Facts: a child of a *thread* stands in that thread's `children` file, so all threads of a process are asked
(cargo starts its compilers from threads). An orphan comes back to the nearest subreaper, so nobody leaves a
tree below a subreaper, however often it forks; it may only be missed by one walk while it moves.

How much a tree holds is read by one of three measures, each an upper bound of the next and dearer than it. On
real trees, in MiB at their peak, and for each process the time of one reading (docs/measurements.md has the rest):

    | measure                                   | 33 g++ | 55 meinproc5 | 100M, 21 forks | a mapped file | reading    |
    | RSS (statm)                               |   4127 |         1232 |           2289 |           311 | 17-38 us   |
    | anonymous + shmem + page tables (status)  |   3764 |         1020 |           2223 |             6 | 34-49 us   |
    | the same, shared pages once (smaps_rollup)|   3764 |         1020 |            123 |             6 | 0.1-4.6 ms |

So RSS alone would kill for shared libraries and page cache, PSS alone would be too slow to be in time: RSS says
when all is well, status when it is not for compilers, and smaps_rollup is read where pages can be shared.
policy/sampling.py says when which is taken.
"""

import dataclasses
import time
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

from slicemgr.kernel import formats, procfs, syscalls
from slicemgr.model.cgroup import CgroupSample, Measure
from slicemgr.model.process import ProcessIdentity, ProcessTable

_Read = TypeVar("_Read")

_ADOPTION_ROUNDS: Final = 3
"""A process whose parent ends during the walk turns up among our own children: they are read again until
nothing new is there, three times at most, because a fork bomb always has something new."""


class ProcessTree:
    """All descendants of one process, itself left out; `among_strangers`, only what comes of who has been placed.

    A shell that execs slicemgr leaves it its own background jobs as children. When one of those ends, its children
    are adopted by us and look like orphans of the job. So among strangers an orphan counts only if it was seen in the
    job before: one that forked away between two looks is missed, and nobody is taken who may be another's.
    """

    def __init__(self, root_pid: int, *, among_strangers: bool = False) -> None:
        self._root_pid = root_pid
        # CONFIG_PROC_CHILDREN is there on every distribution we know of, and still a matter of configuration.
        self._has_children_files = procfs.has_children_files()
        self._among_strangers = among_strangers
        self._seen: set[ProcessIdentity] = set()
        self._left_out: set[int] = set()

    def leave_out(self, pid: int) -> None:
        """This child is ours, and not the job's: the one that outlives us."""
        self._left_out.add(pid)

    def place(self, pid: int) -> None:
        """This child is the job: it and all that it starts. Raises ProcessGoneError."""
        self._seen.add(procfs.identity_of(pid))

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
        if self._among_strangers:
            self._seen = {identity for pid in found if (identity := _if_seen(procfs.identity_of, pid)) is not None}
        return found - self._left_out

    def _descend(self, found: set[int], children_of: Callable[[int], list[int]]) -> bool:
        """Add every descendant that is not in `found` yet; False if there was none."""
        known = len(found)
        waiting = [pid for pid in children_of(self._root_pid) if self._is_ours(pid)]
        while waiting:
            pid = waiting.pop()
            if pid not in found:
                found.add(pid)
                waiting += children_of(pid)
        return len(found) > known

    def _is_ours(self, pid: int) -> bool:
        return not self._among_strangers or _if_seen(procfs.identity_of, pid) in self._seen

    def read(self, measure: Measure) -> CgroupSample:
        """What the tree holds now, by this measure."""
        # CPU time: among twenty compilers a reading waits longer than it works, and to look less often for that
        # would be the wrong answer.
        started = time.thread_time()
        processes = _READERS[measure](self.members())
        return CgroupSample(
            taken_seconds=time.monotonic(),
            cost_seconds=time.thread_time() - started,
            members=len(processes),
            resident_bytes=sum(process.rss for process in processes),
            memory_bytes=sum(process.unreclaimable for process in processes),
            swap_bytes=sum(process.swap for process in processes),
            measure=measure,
        )

    def snapshot(self) -> ProcessTable:
        """The tree for the victim rule."""
        return procfs.snapshot(self.members())


def _children_by_scan() -> dict[int, list[int]]:
    """Every process' children from every process' ppid: four times the cost of the children files for 20 processes."""
    children: dict[int, list[int]] = {}
    for pid, stat in procfs.processes().items():
        children.setdefault(stat.ppid, []).append(pid)
    return children


def _resident(pids: Iterable[int]) -> list[formats.ProcMemory]:
    sizes = [size for pid in pids if (size := _if_seen(procfs.read_resident, pid)) is not None]
    return [formats.ProcMemory(rss=size, unreclaimable=size) for size in sizes]


def _unreclaimable(pids: Iterable[int]) -> list[formats.ProcMemory]:
    return [memory for pid in pids if (memory := _if_seen(procfs.read_status_memory, pid)) is not None]


def _proportional(pids: Iterable[int]) -> list[formats.ProcMemory]:
    """smaps_rollup only where pages can be shared: 1.9 ms for a build of 55 processes, and not 32 ms.

    Pages are shared since a fork or by shared memory. The beginning of the stack is random at each exec and
    the same after a fork, so only processes with one beginning can have anonymous pages in common; where it is
    hidden (another user's process) or not random (setarch -R) all are taken for kin, which costs, and is right.
    """
    statuses = {pid: memory for pid in pids if (memory := _if_seen(procfs.read_status_memory, pid)) is not None}
    families: dict[int, list[int]] = {}
    parents: dict[int, int] = {}
    for pid in statuses:
        if (stat := _if_seen(procfs.read_stat, pid)) is not None:
            families.setdefault(stat.startstack, []).append(pid)
            parents[pid] = stat.ppid
    kin = {pid for family in families.values() if len(family) > 1 for pid in family}
    kin |= {pid for pid, memory in statuses.items() if memory.shmem}
    # A vforked child shows all of its parent's memory once more, undivided.
    twins = {pid for pid in kin if parents.get(pid) in kin and syscalls.same_address_space(pid, parents[pid])}
    return [
        memory if pid not in kin else _shared_once(pid, memory) for pid, memory in statuses.items() if pid not in twins
    ]


def _shared_once(pid: int, status: formats.ProcMemory) -> formats.ProcMemory:
    try:
        rollup = formats.parse_smaps_rollup(procfs.read_process_file(pid, "smaps_rollup"))
    except procfs.UNSEEN:
        # A setuid program of the build (sudo make install): its status is open to all, its maps are not.
        return status
    return dataclasses.replace(status, unreclaimable=rollup.unreclaimable + status.page_tables, swap=rollup.swap)


def _if_seen(read: Callable[[int], _Read], pid: int) -> _Read | None:
    try:
        return read(pid)
    except procfs.UNSEEN:
        return None


_READERS: Final = {
    Measure.RESIDENT: _resident,
    Measure.UNRECLAIMABLE: _unreclaimable,
    Measure.PROPORTIONAL: _proportional,
}
