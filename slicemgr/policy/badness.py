# SPDX-License-Identifier: LGPL-2.1-or-later
"""How bad one process is: the points of the kernel's oom_badness(), on the scale of one slice.

The kernel (mm/oom_kill.c, since 2.6.36 in this form):

    points = get_mm_rss(p->mm) + get_mm_counter(p->mm, MM_SWAPENTS) + mm_pgtables_bytes(p->mm) / PAGE_SIZE;
    adj *= totalpages / 1000;
    points += adj;

Here `totalpages` is the limit of the slice, as the kernel itself takes the cgroup's limit in an OOM of a
cgroup: an oom_score_adj of 100 is worth a tenth of what the slice may hold, not a tenth of the machine.
And only what a process (or a parent on purpose) set beyond the job's own oom_score_adj counts: GNOME gives
200 to everything started in a terminal, and what all members have by birth says nothing about any of them.
"""

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from slicemgr.model.process import OOM_SCORE_ADJ_MAX, OOM_SCORE_ADJ_MIN, ProcessIdentity, ProcessSample


class Unkillable(enum.Enum):
    """Why a process can't be the victim; the values are ends of the sentence 'it is ...'."""

    INIT = "pid 1"
    KERNEL_THREAD = "a kernel thread"
    OURSELVES = "slicemgr itself or an ancestor of it"
    ADJUSTED = "protected by oom_score_adj -1000"
    NO_MEMORY = "a zombie, which holds no memory"
    SHARES_MEMORY = "living in its parent's address space until it execs"
    SURVIVED = "one that could not be ended before"
    PROTECTED = "protected by the configuration of its slice"
    KEEPER = "slicemgr's own, which keeps the job's cgroup in being"


@dataclass(frozen=True, slots=True)
class BadnessScale:
    """What badness is measured against, for one slice or job."""

    total_pages: int
    """The slice's limit in pages; at least 1."""
    inherited_oom_score_adj: int = 0
    """What every member has by birth: the job's own oom_score_adj at its start."""
    ourselves: frozenset[int] = frozenset()
    """Pids of this process and all its ancestors."""
    survivors: frozenset[ProcessIdentity] = frozenset()
    """Who could not be killed, or did not end by it in time."""
    protected: frozenset[int] = frozenset()
    """Pids that the configuration spares (`protect` of the slice)."""
    keepers: frozenset[int] = frozenset()
    """Pids of ours in the jobs: nobody judges them, but they go where the whole job goes."""


def why_unkillable(process: ProcessSample, scale: BadnessScale) -> Unkillable | None:
    """The first reason that holds for never taking this process, or None."""
    reasons = (
        (process.pid <= 1, Unkillable.INIT),
        (process.is_kernel_thread, Unkillable.KERNEL_THREAD),
        (process.pid in scale.ourselves, Unkillable.OURSELVES),
        (process.oom_score_adj <= OOM_SCORE_ADJ_MIN, Unkillable.ADJUSTED),
        (not process.has_memory, Unkillable.NO_MEMORY),
        # in_vfork() in the kernel's oom_badness(): its memory is its parent's, and killing it frees nothing.
        (process.shares_memory_with_parent, Unkillable.SHARES_MEMORY),
        (process.identity in scale.survivors, Unkillable.SURVIVED),
        (process.pid in scale.protected, Unkillable.PROTECTED),
        (process.pid in scale.keepers, Unkillable.KEEPER),
    )
    return next((reason for holds, reason in reasons if holds), None)


def memory_pages(process: ProcessSample) -> int:
    """The memory that badness counts: RSS + swap + page tables, in pages."""
    return process.rss_pages + process.swap_pages + process.page_table_pages


def held_pages(process: ProcessSample) -> int:
    """The same less mapped files: what counts against the job's limit, and what people are told that it held."""
    return memory_pages(process) - process.file_pages


def inherited_oom_score_adj(processes: Iterable[ProcessSample]) -> int:
    """What the members of a group have by birth: the value that most of them have, the lowest of several such.

    Who it is taken from hardly matters: a common part shifts all points alike, and only the order decides.
    """
    counts: dict[int, int] = {}
    for process in processes:
        if process.has_memory and process.oom_score_adj > OOM_SCORE_ADJ_MIN:
            counts[process.oom_score_adj] = counts.get(process.oom_score_adj, 0) + 1
    return min(counts, key=lambda adj: (-counts[adj], adj), default=0)


def badness(process: ProcessSample, scale: BadnessScale) -> int:
    """The points of a process, in pages; may be negative. Says nothing about whether it may be killed."""
    own_adj = process.oom_score_adj - scale.inherited_oom_score_adj
    # One above the minimum: -1000 means "never", and a difference of two adjustments must not come to say so.
    own_adj = max(OOM_SCORE_ADJ_MIN + 1, min(OOM_SCORE_ADJ_MAX, own_adj))
    return memory_pages(process) + own_adj * (scale.total_pages // 1000)
