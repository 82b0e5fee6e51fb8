# SPDX-License-Identifier: LGPL-2.1-or-later
"""Resume processes that somebody had stopped who has died since. Light, see kernel/signals.py.

For the guardian, which has a second and has imported nothing: hold.py and what it needs take 60 ms here and a second in
an emulated guest.
"""

from __future__ import annotations

import os

from slicemgr.kernel.signals import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_STOPS = 1 << signal.SIGSTOP - 1 | 1 << signal.SIGTSTP - 1 | 1 << signal.SIGTTIN - 1 | 1 << signal.SIGTTOU - 1


def let_go_on(held: Iterable[tuple[int, int]]) -> None:
    """SIGCONT for each (pid, start time in ticks) that is there, unless somebody else has stopped it too."""
    for pid, start_ticks in held:
        try:
            pidfd = os.pidfd_open(pid)
        except (OSError, OverflowError):
            continue
        try:
            # The pidfd first: if its process still lives afterwards, the number was its own in between.
            if _start_ticks(pid) == start_ticks and not _has_other_stop(pid):
                signal.pidfd_send_signal(pidfd, signal.SIGCONT)
        except (OSError, ValueError, IndexError):
            pass
        finally:
            os.close(pidfd)


def _start_ticks(pid: int) -> int:
    """Field 22 of /proc/PID/stat; the name before it may hold anything, parentheses too."""
    return int(_read(pid, "stat").rpartition(b")")[2].split()[19])


def _has_other_stop(pid: int) -> bool:
    """A stop signal for who is stopped already stays pending (kernel/signal.c). What it blocks has not stopped it."""
    pending, blocked, is_stopped = 0, 0, False
    for line in _read(pid, "status").split(b"\n"):
        if line.startswith((b"SigPnd:", b"ShdPnd:")):
            pending |= int(line.split()[1], 16)
        elif line.startswith(b"SigBlk:"):
            blocked = int(line.split()[1], 16)
        elif line.startswith(b"State:"):
            is_stopped = line.split()[1] == b"T"
    return is_stopped and bool(pending & ~blocked & _STOPS)


def _read(pid: int, name: str) -> bytes:
    descriptor = os.open(f"/proc/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 8192)
    finally:
        os.close(descriptor)
