# SPDX-License-Identifier: LGPL-2.1-or-later
"""The guard of one job, by where the job is. Each imports what it needs, and nothing of the other's: 50 ms and more."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from slicemgr.model.cgroup import MemoryLimits
    from slicemgr.model.process import ProcessIdentity
    from slicemgr.model.source import JobSource
    from slicemgr.service.lone_guard import LoneGuard
    from slicemgr.service.report import Report
    from slicemgr.service.tree_guard import TreeGuard


def tree_guard(
    source: JobSource,
    limits: MemoryLimits,
    machine_total_bytes: int,
    report: Callable[[Report], None],
    about_to_kill: Callable[[int], None],
) -> TreeGuard:
    """For a job that is our own process tree: it looks, since nothing calls. `about_to_kill` is told the victim's pid
    before anything happens to it."""
    from slicemgr.kernel import procfs
    from slicemgr.kernel.kill import ProvenProcess
    from slicemgr.policy.badness import BadnessScale
    from slicemgr.service.naming import CommandLines
    from slicemgr.service.tree_guard import TreeGuard

    scale = BadnessScale(
        total_pages=max(1, (limits.max or machine_total_bytes) // procfs.PAGE_BYTES),
        inherited_oom_score_adj=procfs.read_oom_score_adj(os.getpid()),
        ourselves=procfs.ancestors_of(os.getpid()),
    )

    def prove(identity: ProcessIdentity, cgroup: str) -> ProvenProcess:
        about_to_kill(identity.pid)
        return ProvenProcess(identity, cgroup)

    return TreeGuard(source, limits, scale, report=report, command_lines=CommandLines(source.members), prove=prove)


def cgroup_guard(
    cgroup: str, report: Callable[[Report], None], about_to_kill: Callable[[int], None], *, is_new: bool
) -> LoneGuard:
    """For a job in a cgroup of its own: it sleeps until the kernel calls. Raises KernelError.

    `is_new`: no daemon has watched it before.
    """
    from slicemgr.service.lone_guard import LoneGuard
    from slicemgr.service.managed import ManagedSlice

    return LoneGuard(ManagedSlice(cgroup), report=report, about_to_kill=about_to_kill, is_new=is_new)
