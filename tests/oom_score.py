# SPDX-License-Identifier: LGPL-2.1-or-later
"""Our badness beside the kernel's own /proc/PID/oom_score, for live processes."""

import os
from collections.abc import Iterable

import psutil

from slicemgr.kernel import procfs
from slicemgr.kernel.errors import ProcessGoneError
from slicemgr.kernel.procfs import PAGE_BYTES
from slicemgr.policy.badness import BadnessScale, badness, why_unkillable

# The kernel scores with totalram_pages() + total_swap_pages. Its counters are per CPU and summed with an error
# (percpu_counter, since 6.2), ours are read a moment later: 64 pages a CPU move the score by one step in a thousand
# cases. So a score counts as reproduced if it is that of our points give or take this many pages.
COUNTER_ERROR_PAGES = 128


def machine_scale() -> BadnessScale:
    """The machine's totals in place of a slice's."""
    total = psutil.virtual_memory().total + psutil.swap_memory().total
    return BadnessScale(total_pages=total // PAGE_BYTES)


def kernel_oom_score(points: int | None, total_pages: int) -> int:
    """What /proc/PID/oom_score shows for these points (proc_oom_score() in fs/proc/base.c, since 5.9).

    None (unkillable) is 0. `total_pages` is the machine's RAM and swap. One step of the score is
    total_pages/667, so it can't tell small processes apart: it serves to compare ours with the kernel's.
    """
    if points is None:
        return 0
    return (1000 + _c_divide(points * 1000, total_pages)) * 2 // 3


def _c_divide(dividend: int, divisor: int) -> int:
    """Integer division as C has it, towards zero: for negative points Python's rounds the other way."""
    quotient = abs(dividend) // divisor
    return quotient if dividend >= 0 else -quotient


def _has_the_kernels_init() -> bool:
    """The pid 1 of a container is a process like any other to the kernel; to us it is init all the same."""
    return os.readlink("/proc/self/ns/pid") == "pid:[4026531836]"  # PROC_PID_INIT_INO, include/linux/proc_ns.h


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
        if pid == 1 and not _has_the_kernels_init():
            continue
        compared += 1
        points = badness(process, scale) if why_unkillable(process, scale) is None else None
        nearby = (0,) if points is None else (0, -COUNTER_ERROR_PAGES, COUNTER_ERROR_PAGES)
        ours = [kernel_oom_score(None if points is None else points + error, scale.total_pages) for error in nearby]
        if not min(ours) <= before <= max(ours):
            lines.append(f"{process.name!r} ({pid}): the kernel says {before}, we say {ours[0]} for {points} pages")
    return lines, compared
