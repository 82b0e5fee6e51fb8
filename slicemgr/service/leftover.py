# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is left to tell at a job's end: who outlived the command, and whom the kernel took unseen."""

from __future__ import annotations

import os
import select
import time
from typing import TYPE_CHECKING, Final

from slicemgr.kernel import procfs
from slicemgr.kernel.cgroupfs import CgroupDir
from slicemgr.kernel.errors import CgroupGoneError
from slicemgr.kernel.kernel_log import oom_victims
from slicemgr.service.kernel_kills import not_ours
from slicemgr.service.report import KernelKillReport

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from slicemgr.model.process import ProcessIdentity, ProcessSample

LAST_ONES_SECONDS: Final = 0.3
"""Eight interpreters that were sent SIGTERM with their command were all gone after this time."""


def members_of(cgroup: str) -> set[int]:
    """The pids in this cgroup and below it; nobody once it is gone."""
    try:
        with CgroupDir.open(cgroup) as directory:
            return directory.members()
    except CgroupGoneError:
        return set()


def untold_kernel_kills(cgroup: str, count: int, own_victims: Collection[int]) -> KernelKillReport | None:
    """The kernel's kills that no guard has told of; None if they may all have been dying of our own SIGKILL."""
    count, others = not_ours(count, oom_victims(cgroup), own_victims, own_victims)
    return KernelKillReport(time.monotonic(), cgroup, count, others) if count else None


def left_running(members: Callable[[], Iterable[int]], *, ended_by_signal: bool) -> tuple[ProcessSample, ...]:
    """The living among the members, by pid. Zombies are nobody.

    A signal that ended the command has mostly been sent to the others, too: they are on their way out.
    """
    living = _living(members)
    if living and ended_by_signal:
        _wait_for_exits((process.identity for process in living), LAST_ONES_SECONDS)
        living = _living(members)
    return tuple(sorted(living, key=lambda process: process.pid))


def _living(members: Callable[[], Iterable[int]]) -> list[ProcessSample]:
    return [process for process in procfs.snapshot(members()) if process.has_memory]


def _wait_for_exits(identities: Iterable[ProcessIdentity], timeout_seconds: float) -> None:
    """Wait until all of them have exited, by their pidfds (pidfd_open(2)), or the time is up."""
    deadline = time.monotonic() + timeout_seconds
    for identity in identities:
        try:
            pidfd = os.pidfd_open(identity.pid)
        except OSError:
            continue  # Gone already.
        try:
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
        finally:
            os.close(pidfd)
