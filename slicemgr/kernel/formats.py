# SPDX-License-Identifier: LGPL-2.1-or-later
"""Kernel file formats: text in, value out, one function per format; opens no file.

Everything comes in as bytes: a process names itself, and no encoding binds it.
"""

from dataclasses import dataclass
from typing import Final

from slicemgr.kernel.errors import FormatError

PF_KTHREAD: Final = 0x00200000
"""include/linux/sched.h: in the flags of /proc/PID/stat."""


@dataclass(frozen=True, slots=True)
class ProcStat:
    """The fields of /proc/PID/stat that we use, under the names of proc_pid_stat(5)."""

    comm: bytes
    state: str
    ppid: int
    pgrp: int
    session: int
    flags: int
    starttime: int
    """Clock ticks since boot."""
    startstack: int
    """Where the stack begins: random at each exec, inherited by a fork; 0 where it is hidden from us."""
    cpu_ticks: int
    """CPU time of all its threads in clock ticks, user's and system's."""
    terminal: int
    """The device number of the controlling terminal; 0 is none."""
    foreground: int
    """The process group in the foreground of that terminal; -1 without one."""
    threads: int
    exit_code: int
    """Of a zombie, as waitpid(2) tells it; 0 before, where it is hidden, and before Linux 3.5."""

    @property
    def is_kernel_thread(self) -> bool:
        """It never had an address space."""
        return bool(self.flags & PF_KTHREAD)


@dataclass(frozen=True, slots=True)
class ProcMemory:
    """What a process holds, in bytes."""

    rss: int = 0
    file: int = 0
    """The part of `rss` that is mapped files, which the kernel can drop."""
    unreclaimable: int = 0
    """Anonymous and shared memory and page tables."""
    shmem: int = 0
    """The part of `unreclaimable` that other processes may have mapped as well."""
    swap: int = 0
    page_tables: int = 0
    has_memory: bool = False
    """The file told of an address space at all."""


def parse_stat(text: bytes) -> ProcStat:
    r"""/proc/PID/stat: `4711 (cc1plus) R 4700 4700 3999 34816 4700 4194304 ...` (proc_pid_stat(5)).

    The comm may hold anything, `foo) Z 1 ` included, so the fields are counted from the *last* parenthesis.
    Raises FormatError.
    """
    start, end = text.find(b"("), text.rfind(b")")
    fields = text[end + 1 :].split()
    try:
        return ProcStat(
            comm=text[start + 1 : end],
            state=fields[0].decode("ascii"),
            ppid=int(fields[1]),
            pgrp=int(fields[2]),
            session=int(fields[3]),
            flags=int(fields[6]),
            starttime=int(fields[19]),
            startstack=int(fields[25]),
            cpu_ticks=int(fields[11]) + int(fields[12]),
            terminal=int(fields[4]),
            foreground=int(fields[5]),
            threads=int(fields[17]),
            exit_code=int(fields[49]) if len(fields) > 49 else 0,
        )
    except (IndexError, ValueError) as error:
        raise FormatError("/proc/PID/stat", text) from error


def parse_statm_resident(text: bytes) -> int:
    """/proc/PID/statm: `5631 1302 930 1 0 412 0`; the second is RSS in pages. Raises FormatError."""
    try:
        return int(text.split()[1])
    except (IndexError, ValueError) as error:
        raise FormatError("/proc/PID/statm", text) from error


def parse_statm_anonymous(text: bytes) -> int:
    """/proc/PID/statm: RSS without what is mapped from files or shared, in pages. Raises FormatError.

    `5631 1302 930 1 0 412 0`: 1302 - 930 (fs/proc/task_mmu.c, task_statm: the third is file and shmem pages). Both are
    read one after the other, so that the difference may be negative for a moment: then it is 0.
    """
    try:
        fields = text.split()
        return max(0, int(fields[1]) - int(fields[2]))
    except (IndexError, ValueError) as error:
        raise FormatError("/proc/PID/statm", text) from error


def parse_schedstat_delay(text: bytes) -> int:
    """/proc/PID/schedstat: `319248 454454 2`; the second is the time spent on a run queue, in ns (sched-stats.rst).

    Raises FormatError.
    """
    try:
        return int(text.split()[1])
    except (IndexError, ValueError) as error:
        raise FormatError("/proc/PID/schedstat", text) from error


def parse_last_pid(text: bytes) -> int:
    """/proc/loadavg: `0.20 0.18 0.12 1/80 11206`; the last is the pid or thread id given out last (proc_loadavg(5)).

    Raises FormatError.
    """
    try:
        return int(text.split()[4])
    except (IndexError, ValueError) as error:
        raise FormatError("/proc/loadavg", text) from error


def parse_status_memory(text: bytes) -> ProcMemory:
    r"""/proc/PID/status: lines such as `VmRSS:\t  118208 kB` (Documentation/filesystems/proc.rst).

    Missing lines are 0: a zombie has none of them, and RssAnon is younger than 4.5. The name in the first
    line can't forge another: the kernel escapes its newlines there.
    """
    fields = _kilobyte_fields(text)
    rss = fields.get(b"VmRSS", 0)
    page_tables = fields.get(b"VmPTE", 0)
    shmem = fields.get(b"RssShmem", 0)
    return ProcMemory(
        rss=rss,
        file=fields.get(b"RssFile", 0),
        # Before 4.5 there is only RSS, which is the bound that we had already.
        unreclaimable=fields.get(b"RssAnon", rss) + shmem + page_tables,
        shmem=shmem,
        swap=fields.get(b"VmSwap", 0),
        page_tables=page_tables,
        has_memory=b"VmSize" in fields,
    )


@dataclass(frozen=True, slots=True)
class ProcSignals:
    """Which signals wait for a process, bit N-1 for signal N."""

    state: str
    """As in /proc/PID/stat: T is stopped by a signal."""
    pending: int
    """For the process, and for its first thread."""
    blocked: int
    """By its first thread."""


def parse_status_signals(text: bytes) -> ProcSignals:
    r"""/proc/PID/status: `State:\tT (stopped)`, `ShdPnd:\t0000000000004000` (fs/proc/array.c, task_sig).

    Raises FormatError.
    """
    try:
        return ProcSignals(
            _status_word(text, b"State").decode(),
            int(_status_word(text, b"SigPnd"), 16) | int(_status_word(text, b"ShdPnd"), 16),
            int(_status_word(text, b"SigBlk"), 16),
        )
    except (IndexError, ValueError) as error:
        raise FormatError("/proc/PID/status", text) from error


def parse_status_thread_group(text: bytes) -> int:
    r"""/proc/PID/status: `Tgid:\t4711`, its own number unless it is a thread. Raises FormatError."""
    try:
        return int(_status_word(text, b"Tgid"))
    except (IndexError, ValueError) as error:
        raise FormatError("/proc/PID/status", text) from error


def _status_word(text: bytes, key: bytes) -> bytes:
    """The first word of one row, found and not split: 1 us of 50 rows. The name in the first row has no newline."""
    at = text.index(b"\n" + key + b":") + len(key) + 2
    return text[at : at + 64].split(None, 1)[0]


def parse_smaps_rollup(text: bytes) -> ProcMemory:
    """/proc/PID/smaps_rollup: `Pss_Anon:  81920 kB` and so on (Documentation/ABI/testing/procfs-smaps_rollup).

    Without `Pss_Anon` (before 5.4) the whole Pss counts, file pages included. Page tables are not in it.
    """
    fields = _kilobyte_fields(text)
    whole = fields.get(b"Pss", 0)
    proportional = fields.get(b"Pss_Anon", whole) + fields.get(b"Pss_Shmem", 0)
    return ProcMemory(
        rss=fields.get(b"Rss", 0),
        unreclaimable=proportional,
        swap=fields.get(b"SwapPss", fields.get(b"Swap", 0)),
        has_memory=b"Rss" in fields,
    )


def parse_children(text: bytes) -> list[int]:
    """/proc/PID/task/TID/children: `4712 4713 ` (proc_pid_task(5)). Raises FormatError."""
    try:
        return [int(pid) for pid in text.split()]
    except ValueError as error:
        raise FormatError("/proc/PID/task/TID/children", text) from error


def parse_status_uids(text: bytes) -> frozenset[int]:
    r"""/proc/PID/status: `Uid:\t1000\t1000\t1000\t1000`, real, effective, saved, file system's. Raises FormatError."""
    for line in text.split(b"\n"):
        if line.startswith(b"Uid:"):
            fields = line.split()[1:]
            if len(fields) == 4 and all(field.isdigit() for field in fields):
                return frozenset(map(int, fields))
            break
    raise FormatError("/proc/PID/status", text)


_O_EXCL: Final = 0o200
"""include/uapi/asm-generic/fcntl.h; PIDFD_THREAD is the same."""


def fdinfo_is_of_a_thread(text: bytes) -> bool:
    r"""/proc/self/fdinfo/FD of a pidfd: `flags:\t02000202`, octal, with O_EXCL for PIDFD_THREAD (since Linux 6.9)."""
    for line in text.split(b"\n"):
        name, _, value = line.partition(b"\t")
        if name == b"flags:" and value.isdigit():
            return bool(int(value, 8) & _O_EXCL)
    return False


def parse_fdinfo_pid(text: bytes) -> int:
    r"""/proc/self/fdinfo/FD of a pidfd: `Pid:\t4711`; -1 if that has ended, 0 if it is in another PID namespace
    (pidfd_open(2)). Raises FormatError if it is another kind of descriptor."""
    for line in text.split(b"\n"):
        if line.startswith(b"Pid:"):
            field = line.removeprefix(b"Pid:").strip()
            if field.removeprefix(b"-").isdigit():
                return int(field)
            break
    raise FormatError("/proc/self/fdinfo", text)


def _kilobyte_fields(text: bytes) -> dict[bytes, int]:
    """`Key:   123 kB` lines as bytes; every other line is somebody else's business."""
    fields: dict[bytes, int] = {}
    for line in text.split(b"\n"):  # Not splitlines(): in a name the kernel escapes a newline, and no `\r`.
        key, colon, value = line.partition(b":")
        words = value.split()
        if colon and len(words) == 2 and words[1] == b"kB" and words[0].isdigit():
            fields[key] = int(words[0]) << 10
    return fields
