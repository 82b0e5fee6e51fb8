# SPDX-License-Identifier: LGPL-2.1-or-later
"""Our own process when memory is short: its pages stay, the kernel takes others first, and files can be opened.

Each call answers what it has achieved: an ordinary user gets little of it, and has to be told.
"""

import enum
import resource
from pathlib import Path
from typing import Final

from slicemgr.kernel import syscalls
from slicemgr.kernel.errors import FormatError

_SELF: Final = Path("/proc/self")

_HEADROOM_BYTES: Final = 1 << 30
"""The limit on locked memory counts address space, not pages: each thread takes a stack (8 MiB) and a malloc arena
(64 MiB) of it. With less than this to spare a later mmap might fail, and the guard with it: worse than a page fault.
systemd allows a user an eighth of the machine's memory, so this is 9 GiB of memory or more."""


class MemoryLock(enum.Enum):
    """Whether our pages stay in memory."""

    LOCKED = "memory locked"
    LIMITED = "memory not locked (LimitMEMLOCK= is too low)"
    REFUSED = "memory not locked (the kernel refuses)"


def lock_memory() -> MemoryLock:
    """Keep every page that we have or will touch (mlockall(2), from 4.4 on); call it when the warm-up is over.

    Under thrashing the way from an event to the kill took 45 ms at worst without, and 9 ms with it; it costs nothing,
    for pages that were never touched stay out (MCL_ONFAULT).
    """
    limit = _raise_limit(resource.RLIMIT_MEMLOCK)
    if limit != resource.RLIM_INFINITY and limit < _mapped_bytes() + _HEADROOM_BYTES:
        return MemoryLock.LIMITED
    try:
        syscalls.mlockall(syscalls.MCL_CURRENT | syscalls.MCL_FUTURE | syscalls.MCL_ONFAULT)
    except OSError:
        return MemoryLock.REFUSED
    return MemoryLock.LOCKED


def lower_oom_score_adj(wanted: int) -> int:
    """Make the kernel's OOM killer prefer others, if we may; what it is now, -1000 to 1000 (proc(5)).

    Without CAP_SYS_RESOURCE it can't go below what a parent with it has set: 100 under a user's manager.
    """
    file = _SELF / "oom_score_adj"
    text = file.read_bytes()
    try:
        now = int(text)
    except ValueError:
        raise FormatError(str(file), text) from None
    if now <= wanted:
        return now
    try:
        file.write_bytes(b"%d" % wanted)
    except OSError:
        return now
    return wanted


def raise_open_files() -> int:
    """Allow ourselves as many descriptors as the hard limit does: each cgroup costs several. How many there may be."""
    return _raise_limit(resource.RLIMIT_NOFILE)


def _raise_limit(which: int) -> int:
    """Up to infinity with CAP_SYS_RESOURCE, else up to the hard limit."""
    hard = resource.getrlimit(which)[1]
    # RLIMIT_NOFILE ends at fs.nr_open even for root, and the hard limit of 524288 is plenty.
    wanted = resource.RLIM_INFINITY if which == resource.RLIMIT_MEMLOCK else hard
    for soft_and_hard in ((wanted, wanted), (hard, hard)):
        try:
            resource.setrlimit(which, soft_and_hard)
        except (OSError, ValueError):
            continue
        return soft_and_hard[0]
    return resource.getrlimit(which)[0]


def _mapped_bytes() -> int:
    """VmSize: the first number of statm, in pages."""
    text = (_SELF / "statm").read_bytes()
    try:
        return int(text.split()[0]) * resource.getpagesize()
    except (ValueError, IndexError):
        raise FormatError(str(_SELF / "statm"), text) from None
