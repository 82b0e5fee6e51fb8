# SPDX-License-Identifier: LGPL-2.1-or-later
"""What one step of a build holds, read every few milliseconds: a file that is kept open.

2 us for a kept file, 17-38 us with open and close. RSS less file and shared pages is the anonymous memory: what can't
be reclaimed, but for shared memory, which belongs to nobody alone. And an open file of /proc/PID is of that very
process: when it has ended, nobody else answers under its number.
"""

import os

from slicemgr.kernel import formats
from slicemgr.kernel.errors import KernelError, ProcessGoneError
from slicemgr.kernel.procfs import PAGE_BYTES


class StepFiles:
    """The kept files of one process."""

    __slots__ = ("_schedstat", "_statm", "pid")

    def __init__(self, pid: int) -> None:
        """Raises ProcessGoneError; OSError if no descriptor is to be had."""
        self.pid = pid
        try:
            self._statm = os.open(f"/proc/{pid}/statm", os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, ProcessLookupError) as error:
            raise ProcessGoneError(pid) from error
        try:
            self._schedstat = os.open(f"/proc/{pid}/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # Without CONFIG_SCHED_INFO, which all distributions have.
            self._schedstat = -1

    def held_bytes(self) -> int:
        """Anonymous memory; 0 for a zombie. Raises ProcessGoneError."""
        try:
            return formats.parse_statm_anonymous(os.pread(self._statm, 128, 0)) * PAGE_BYTES
        except ProcessLookupError as error:
            raise ProcessGoneError(self.pid) from error

    def queued_seconds(self) -> float:
        """For how long its first thread has waited for a processor, in all; 0 if that is not known.

        Raises ProcessGoneError.
        """
        if self._schedstat < 0:
            return 0.0
        try:
            return formats.parse_schedstat_delay(os.pread(self._schedstat, 128, 0)) * 1e-9
        except ProcessLookupError as error:
            raise ProcessGoneError(self.pid) from error

    def close(self) -> None:
        """Let go of them."""
        os.close(self._statm)
        if self._schedstat >= 0:
            os.close(self._schedstat)


def directory_of(pid: int) -> str:
    """The working directory of a process; empty if it is gone or hidden."""
    try:
        return os.readlink(f"/proc/{pid}/cwd")
    except OSError:
        return ""


def program_of(pid: int) -> str:
    """The file that it executes: of a script its interpreter's name, where its comm is the script's.

    Empty if it is gone or hidden.
    """
    try:
        return os.path.basename(os.readlink(f"/proc/{pid}/exe"))
    except OSError:
        return ""


def reads_terminal(pid: int, stat: formats.ProcStat) -> bool:
    """Whether it may be waiting for the keyboard: standard input is a terminal, and it is in the foreground there."""
    if not stat.terminal or stat.foreground != stat.pgrp:
        return False
    try:
        target = os.readlink(f"/proc/{pid}/fd/0")
    except OSError:  # Gone, or another user's: then it is none of ours to stop either.
        return True
    return target.startswith(("/dev/pts/", "/dev/tty", "/dev/console"))


def held_by(pid: int) -> int:
    """Anonymous memory of a process that is asked for once; 0 if it is gone or hidden."""
    try:
        files = StepFiles(pid)
    except (KernelError, OSError):
        return 0
    try:
        return files.held_bytes()
    except ProcessGoneError:
        return 0
    finally:
        files.close()
