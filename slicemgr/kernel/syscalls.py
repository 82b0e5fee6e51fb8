# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every call that Python's standard library lacks, by ctypes, under its kernel name; nothing else."""

import ctypes
import os
from typing import Final

_libc: Final = ctypes.CDLL(None, use_errno=True)

PR_SET_CHILD_SUBREAPER: Final = 36
"""include/uapi/linux/prctl.h"""

_MCL_SHIFT: Final = 13 if os.uname().machine.startswith("ppc") else 0
MCL_CURRENT: Final = 1 << _MCL_SHIFT
MCL_FUTURE: Final = 2 << _MCL_SHIFT
MCL_ONFAULT: Final = 4 << _MCL_SHIFT
"""include/uapi/asm-generic/mman.h, and arch/powerpc's own."""

KCMP_VM: Final = 1
"""include/uapi/linux/kcmp.h: do the two share an address space?"""

NR_PROCESS_MRELEASE: Final = 448
"""One number for all architectures, as for every call since 5.1 (alpha adds 110, and we do not run there)."""

# arch/*/entry/syscalls: kcmp is from 3.5, when each architecture still counted for itself.
_NR_KCMP: Final = {
    "x86_64": 312,
    "aarch64": 272,
    "riscv64": 272,
    "loongarch64": 272,
    "i686": 349,
    "armv7l": 378,
    "ppc64le": 354,
    "s390x": 343,
}.get(os.uname().machine)


def _failed(call: str) -> OSError:
    errno = ctypes.get_errno()
    return OSError(errno, f"{call}: {os.strerror(errno)}")


def set_child_subreaper() -> None:
    """Orphaned descendants are reparented to us and not to init (prctl(2), PR_SET_CHILD_SUBREAPER).

    Raises OSError.
    """
    if _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise _failed("prctl(PR_SET_CHILD_SUBREAPER)")


def mlockall(flags: int) -> None:
    """Keep our pages in memory (mlockall(2)); `flags` are MCL_*.

    Raises OSError: EPERM without any RLIMIT_MEMLOCK, ENOMEM above it, EINVAL for MCL_ONFAULT before 4.4.
    """
    if _libc.mlockall(ctypes.c_int(flags)) != 0:
        raise _failed("mlockall")


def inotify_init() -> int:
    """A descriptor on which changes of watched directories can be read (inotify(7)); non-blocking. Raises OSError."""
    descriptor = int(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
    if descriptor < 0:
        raise _failed("inotify_init1")
    return descriptor


def inotify_add_watch(descriptor: int, path: bytes, mask: int) -> int:
    """Watch a directory; the number of the watch. `mask` are IN_*. Raises OSError: ENOENT, ENOSPC for too many."""
    watch = int(_libc.inotify_add_watch(ctypes.c_int(descriptor), path, ctypes.c_uint32(mask)))
    if watch < 0:
        raise _failed("inotify_add_watch")
    return watch


def inotify_rm_watch(descriptor: int, watch: int) -> None:
    """Watch it no more. Raises OSError: EINVAL if its directory is gone, which ended it."""
    if _libc.inotify_rm_watch(ctypes.c_int(descriptor), ctypes.c_int(watch)) != 0:
        raise _failed("inotify_rm_watch")


def process_mrelease(pidfd: int) -> None:
    """Free the memory of a process that is being killed, without waiting for its exit (since 5.15).

    Blocks while it works: 75-90 ms for 400 MB under emulation, against 137-170 ms until a plain exit has
    freed them. Raises OSError: ESRCH if it is gone, EINVAL if it is not dying, ENOSYS before 5.15.
    """
    if _libc.syscall(ctypes.c_long(NR_PROCESS_MRELEASE), ctypes.c_int(pidfd), ctypes.c_uint(0)) != 0:
        raise _failed("process_mrelease")


def same_address_space(pid: int, other_pid: int) -> bool | None:
    """Whether two processes live in one address space (kcmp(2), KCMP_VM); None where it can't be known.

    Unknown: no permission to ptrace one of them, gone, or a kernel without CONFIG_KCMP.
    """
    if _NR_KCMP is None:
        return None
    answer = _libc.syscall(
        ctypes.c_long(_NR_KCMP),
        ctypes.c_int(pid),
        ctypes.c_int(other_pid),
        ctypes.c_int(KCMP_VM),
        ctypes.c_ulong(0),
        ctypes.c_ulong(0),
    )
    return None if answer < 0 else answer == 0
