# SPDX-License-Identifier: LGPL-2.1-or-later
"""A process as the victim rule sees it: who it is, what it holds, whose child it is."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

OOM_SCORE_ADJ_MIN: Final = -1000
"""include/uapi/linux/oom.h: this process is never to be taken."""
OOM_SCORE_ADJ_MAX: Final = 1000


@dataclass(frozen=True, slots=True, order=True)
class ProcessIdentity:
    """A process for ever: a pid is used again, a pid with its start time is not (psutil's identity)."""

    pid: int
    start_ticks: int
    """Clock ticks since boot, field 22 of /proc/PID/stat."""


@dataclass(frozen=True, slots=True)
class ProcessSample:
    """One process (a thread group, never a thread) at one instant."""

    identity: ProcessIdentity
    ppid: int
    """The thread group that adopted it last, as /proc/PID/stat tells it."""
    name: str
    """The comm: 15 bytes that the process chose itself, so hostile; undecodable bytes as surrogates."""
    rss_pages: int = 0
    """Resident: anonymous, file and shared memory."""
    file_pages: int = 0
    """The part of `rss_pages` that the kernel can drop by itself: mapped files."""
    swap_pages: int = 0
    page_table_pages: int = 0
    oom_score_adj: int = 0
    """-1000 to 1000."""
    has_memory: bool = True
    """False for a zombie all of whose threads have ended, and for a kernel thread: no address space."""
    is_kernel_thread: bool = False
    shares_memory_with_parent: bool = False
    """The address space is the parent's own: a vforked child before its exec, or CLONE_VM."""

    @property
    def pid(self) -> int:
        """The pid, to be used only beside the identity."""
        return self.identity.pid


class ProcessTable:
    """The processes of one group, with an index of their children. The order of the input doesn't matter."""

    __slots__ = ("_by_pid", "_children")

    def __init__(self, processes: Iterable[ProcessSample]) -> None:
        self._by_pid: Mapping[int, ProcessSample] = {process.pid: process for process in processes}
        children: dict[int, list[ProcessSample]] = {}
        for process in self._by_pid.values():
            children.setdefault(process.ppid, []).append(process)
        self._children = children

    def __iter__(self) -> Iterator[ProcessSample]:
        return iter(self._by_pid.values())

    def get(self, pid: int) -> ProcessSample | None:
        """The process that had this pid, if it is in this table."""
        return self._by_pid.get(pid)

    def __len__(self) -> int:
        return len(self._by_pid)

    def children_of(self, process: ProcessSample) -> Iterable[ProcessSample]:
        """The direct children that are in this table."""
        # A process that names itself its parent is no child of itself: only a hostile input can say so.
        return [child for child in self._children.get(process.pid, ()) if child.pid != process.pid]

    def without(self, gone: Iterable[ProcessIdentity]) -> "ProcessTable":
        """The same table without those processes."""
        left_out = frozenset(gone)
        return ProcessTable(process for process in self if process.identity not in left_out)
