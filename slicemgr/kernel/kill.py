# SPDX-License-Identifier: LGPL-2.1-or-later
"""The one way to end a process: who it is is proven on a pidfd, and only then it is signalled.

A pid is a number that the kernel gives out again; a pidfd is one process for ever. So the pidfd is opened
first, then the start time behind the number is compared, and then the pidfd is asked whether its process is
still there. If it is, the number was never free in between, and what was compared was the process itself.
"""

import errno
import os
import signal
from types import TracebackType
from typing import Final, Self

from slicemgr.kernel import procfs, syscalls
from slicemgr.kernel.cgroupfs import cgroup_of
from slicemgr.kernel.errors import NotPermittedError, ProcessGoneError
from slicemgr.model.cgroup import is_below
from slicemgr.model.process import OOM_SCORE_ADJ_MIN, ProcessIdentity

_FORBIDDEN: Final = frozenset({errno.EPERM, errno.EACCES, errno.ENOSYS})
"""How a sandbox says that nobody in it gets a pidfd."""


class RefusedError(Exception):
    """This process is never killed, whatever was decided: pid 1, ourselves, or protected by oom_score_adj."""


class ProvenProcess:
    """A process whose identity has been proven, held by its pidfd. A context manager: it closes the pidfd."""

    def __init__(self, identity: ProcessIdentity, cgroup: str = "") -> None:
        """Prove it, and that it is in this cgroup or below, if one is named (as /proc/PID/cgroup names it).

        Raises ProcessGoneError, also if it has been moved elsewhere; RefusedError, NotPermittedError; OSError where no
        descriptor or no memory is to be had now (EMFILE, ENFILE, ENOMEM): that says nothing about the process.
        """
        if identity.pid <= 1 or identity.pid == os.getpid():
            raise RefusedError(f"process {identity.pid} is never killed")
        try:
            self._pidfd = os.pidfd_open(identity.pid)
        except ProcessLookupError as error:
            raise ProcessGoneError(identity.pid) from error
        except OSError as error:
            if error.errno in _FORBIDDEN:
                raise NotPermittedError(identity.pid, "open a pidfd of") from error
            raise
        self.identity = identity
        self._wanted = cgroup
        self.cgroup = ""
        """Where it lives, as /proc/PID/cgroup tells it; read only if that had to be proven."""
        try:
            self._prove()
        except BaseException:
            self.close()
            raise

    def _prove(self) -> None:
        pid = self.identity.pid
        if procfs.identity_of(pid) != self.identity:
            raise ProcessGoneError(pid)
        self._prove_cgroup()
        # Once more at the last moment: it may have protected itself since the snapshot.
        if procfs.read_oom_score_adj(pid) <= OOM_SCORE_ADJ_MIN:
            raise RefusedError(f"process {pid} is protected by oom_score_adj {OOM_SCORE_ADJ_MIN}")
        self._signal(0)

    def _prove_cgroup(self) -> None:
        if self._wanted:
            self.cgroup = cgroup_of(self.identity.pid)
            if not is_below(self.cgroup, self._wanted):
                raise ProcessGoneError(self.identity.pid)

    def _signal(self, number: int) -> None:
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError as error:
            raise ProcessGoneError(self.identity.pid) from error
        except PermissionError as error:
            raise NotPermittedError(self.identity.pid, "signal") from error

    def check(self) -> None:
        """That it is still there: what was opened by its number since is its own. Raises ProcessGoneError."""
        self._signal(0)

    def fileno(self) -> int:
        """The pidfd: readable once the process has exited (pidfd_open(2))."""
        return self._pidfd

    def kill(self) -> None:
        """SIGKILL. Raises ProcessGoneError, also if it has left its cgroup since; NotPermittedError.

        The number behind the pidfd is its own for as long as it lives: if that has ended, the signal says so.
        """
        self._prove_cgroup()
        self._signal(signal.SIGKILL)

    def ask_to_end(self) -> None:
        """SIGTERM. Raises ProcessGoneError, NotPermittedError."""
        self._signal(signal.SIGTERM)

    def close(self) -> None:
        """Let go of the pidfd."""
        os.close(self._pidfd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def release_memory(pidfd: int) -> None:
    """Free the memory of a killed process before it has exited, and close the pidfd; see syscalls.process_mrelease.

    All its failures are survived: gone already (ESRCH), an older kernel (ENOSYS), or shared memory (EINVAL).
    """
    try:
        syscalls.process_mrelease(pidfd)
    except OSError:
        return
    finally:
        os.close(pidfd)
