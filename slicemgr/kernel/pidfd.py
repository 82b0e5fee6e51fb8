# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who is behind a pidfd that somebody has handed us: pid, start time, owner and cgroup, all of one process."""

import select
from dataclasses import dataclass

from slicemgr.kernel import procfs
from slicemgr.kernel.cgroupfs import cgroup_of
from slicemgr.kernel.errors import FormatError, NotSupportedError, ProcessGoneError
from slicemgr.kernel.formats import fdinfo_is_of_a_thread, parse_fdinfo_pid
from slicemgr.model.process import ProcessIdentity


@dataclass(frozen=True, slots=True)
class HandedProcess:
    """What is true of the process as long as its pidfd is open, but for the cgroup, which may change."""

    identity: ProcessIdentity
    uids: frozenset[int]
    """Real, effective, saved and file system's: one, or it has more rights than its user (sudo)."""
    cgroup: str

    def belongs_to(self, uid: int) -> bool:
        """Whether it is this user's, in every respect."""
        return self.uids == {uid}


def process_behind(pidfd: int) -> HandedProcess:
    """Raises NotSupportedError if it is no pidfd, or of a process in another PID namespace; ProcessGoneError,
    NotPermittedError."""
    try:
        with open(f"/proc/self/fdinfo/{pidfd}", "rb") as file:
            text = file.read()
        pid = parse_fdinfo_pid(text)
    except (OSError, FormatError) as error:
        raise NotSupportedError("this descriptor is no pidfd", "pidfd_open(2)") from error
    if fdinfo_is_of_a_thread(text):
        raise NotSupportedError("this descriptor is of a thread", "a pidfd of the process")
    if pid == 0:
        raise NotSupportedError("the process is in another PID namespace", "a pidfd from within it")
    if pid < 0:
        raise ProcessGoneError(pid)
    found = HandedProcess(procfs.identity_of(pid), procfs.read_uids(pid), cgroup_of(pid))
    # If it lives now, the number was its own all the time. A pidfd is readable from the exit on (pidfd_open(2)).
    exited = select.poll()
    exited.register(pidfd, select.POLLIN)
    if exited.poll(0):
        raise ProcessGoneError(pid)
    return found
