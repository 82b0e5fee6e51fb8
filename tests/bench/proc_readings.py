# SPDX-License-Identifier: LGPL-2.1-or-later
"""Four readings of how much memory a process has, from three files of /proc, each with its price."""

from __future__ import annotations

import ctypes
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
PR_SET_CHILD_SUBREAPER = 36
STATUS_KEYS = re.compile(rb"^(RssAnon|RssShmem|VmPTE|VmSwap):\s+(\d+) kB$", re.MULTILINE)
ROLLUP_KEYS = re.compile(rb"^(Pss|Pss_Anon|Pss_Shmem|SwapPss):\s+(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Reading:
    """One process at one instant, in bytes, and the CPU time in ns that each file cost."""

    rss_bytes: int
    """statm, second field: everything resident."""

    own_rss_bytes: int
    """status: RssAnon + RssShmem + VmPTE + VmSwap, so without the pages of files, which can be reclaimed."""

    pss_bytes: int
    """smaps_rollup: Pss, every page divided by the number of processes that map it."""

    own_pss_bytes: int
    """smaps_rollup: Pss_Anon + Pss_Shmem + SwapPss, VmPTE of status; nearest to what a kill would free."""

    statm_ns: int
    status_ns: int
    rollup_ns: int


def become_subreaper() -> None:
    """Make orphans of the tree our children, so that the walk still finds them (prctl(2))."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def slurp(path: str) -> bytes:
    """read(2) of a /proc file in one go; Path.read_bytes takes 2-3 times as long."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 65536)
    finally:
        os.close(fd)


def descendants(pid: int) -> list[int]:
    """All processes below `pid`, without `pid`; those that vanish meanwhile are left out."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        parent = waiting.pop()
        try:
            for task in os.listdir(f"/proc/{parent}/task"):
                waiting += map(int, slurp(f"/proc/{parent}/task/{task}/children").split())
        except (FileNotFoundError, ProcessLookupError):
            pass
        if parent != pid:
            found.append(parent)
    return found


def statm_rss_bytes(pid: int) -> int:
    return int(slurp(f"/proc/{pid}/statm").split()[1]) * PAGE_BYTES


def sum_of_keys(keys: re.Pattern[bytes], text: bytes) -> dict[bytes, int]:
    """b'VmPTE:\t     188 kB' -> {b'VmPTE': 192512}."""
    return {name: int(kib) * 1024 for name, kib in keys.findall(text)}


def status_bytes(pid: int) -> dict[bytes, int]:
    return sum_of_keys(STATUS_KEYS, slurp(f"/proc/{pid}/status"))


def rollup_bytes(pid: int) -> dict[bytes, int]:
    return sum_of_keys(ROLLUP_KEYS, slurp(f"/proc/{pid}/smaps_rollup"))


def own_pss_bytes(pid: int) -> int:
    """Without VmPTE, which smaps_rollup lacks."""
    return sum(value for name, value in rollup_bytes(pid).items() if name != b"Pss")


def read(pid: int) -> Reading | None:
    """None for a zombie and for a process that is gone."""
    try:
        begin = time.thread_time_ns()
        rss = statm_rss_bytes(pid)
        after_statm = time.thread_time_ns()
        status = status_bytes(pid)
        after_status = time.thread_time_ns()
        rollup = rollup_bytes(pid)
        end = time.thread_time_ns()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return Reading(
        rss_bytes=rss,
        own_rss_bytes=sum(status.values()),
        pss_bytes=rollup.pop(b"Pss", 0),
        own_pss_bytes=sum(rollup.values()) + status.get(b"VmPTE", 0),
        statm_ns=after_statm - begin,
        status_ns=after_status - after_statm,
        rollup_ns=end - after_status,
    )


def stack_base(pid: int) -> int:
    """stat, field 28 (startstack): random at each exec and kept by a fork.

    Two processes with the same one can share anonymous pages, two with different ones cannot (but for KSM). It is 0
    where the reader may not trace the process.
    """
    return int(slurp(f"/proc/{pid}/stat").rpartition(b") ")[2].split()[25])


def checkout() -> Path:
    return Path(__file__).parents[2]
