# SPDX-License-Identifier: LGPL-2.1-or-later
"""Our badness beside the kernel's own /proc/PID/oom_score, for live processes."""

from collections.abc import Iterable

from slicemgr.kernel import procfs
from slicemgr.kernel.errors import ProcessGoneError
from slicemgr.kernel.procfs import PAGE_BYTES
from slicemgr.policy.badness import BadnessScale, badness, kernel_oom_score, why_unkillable

# The kernel scores with totalram_pages() + total_swap_pages. Its counters are per CPU and summed with an error
# (percpu_counter, since 6.2), ours are read a moment later: 64 pages a CPU move the score by one step in a thousand
# cases. So a score counts as reproduced if it is that of our points give or take this many pages.
COUNTER_ERROR_PAGES = 128


def machine_scale() -> BadnessScale:
    """The machine's totals in place of a slice's."""
    memory = procfs.machine_memory()
    return BadnessScale(total_pages=(memory.total + memory.swap_total) // PAGE_BYTES)


def disagreements(pids: Iterable[int]) -> tuple[list[str], int]:
    """A line for each process that the kernel scores otherwise than we do, and how many were compared.

    A process whose score moves while it is read is left out.
    """
    scale = machine_scale()
    lines: list[str] = []
    compared = 0
    for pid in pids:
        try:
            before = int(procfs.read_process_file(pid, "oom_score"))
            # With its parent: a vforked child, in the parent's memory, is unkillable to the kernel as well.
            table = procfs.snapshot([pid, procfs.read_stat(pid).ppid])
            process = next(each for each in table if each.pid == pid)
            if before != int(procfs.read_process_file(pid, "oom_score")):
                continue
        except (ProcessGoneError, StopIteration):
            continue
        compared += 1
        points = badness(process, scale) if why_unkillable(process, scale) is None else None
        nearby = (0,) if points is None else (0, -COUNTER_ERROR_PAGES, COUNTER_ERROR_PAGES)
        ours = [kernel_oom_score(None if points is None else points + error, scale.total_pages) for error in nearby]
        if not min(ours) <= before <= max(ours):
            lines.append(f"{process.name!r} ({pid}): the kernel says {before}, we say {ours[0]} for {points} pages")
    return lines, compared
