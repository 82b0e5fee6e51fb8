# SPDX-License-Identifier: LGPL-2.1-or-later
"""The guard of one job, by where the job is. Each imports what it needs, and nothing of the other's: 50 ms and more."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from slicemgr.model.cgroup import MemoryLimits
    from slicemgr.model.source import JobSource
    from slicemgr.service.lone_guard import LoneGuard
    from slicemgr.service.report import Report
    from slicemgr.service.tree_guard import TreeGuard


def tree_guard(
    source: JobSource, limits: MemoryLimits, machine_total_bytes: int, report: Callable[[Report], None]
) -> TreeGuard:
    """For a job that is our own process tree: it looks, since nothing calls."""
    from slicemgr.kernel import procfs
    from slicemgr.policy.badness import BadnessScale
    from slicemgr.service.naming import CommandLines
    from slicemgr.service.tree_guard import TreeGuard

    scale = BadnessScale(
        total_pages=max(1, (limits.max or machine_total_bytes) // procfs.PAGE_BYTES),
        inherited_oom_score_adj=procfs.read_oom_score_adj(os.getpid()),
        ourselves=procfs.ancestors_of(os.getpid()),
    )
    return TreeGuard(source, limits, scale, report=report, command_lines=CommandLines(source.members))


def cgroup_guard(cgroup: str, report: Callable[[Report], None], *, is_new: bool) -> LoneGuard:
    """For a job in a cgroup of its own: it sleeps until the kernel calls. Raises KernelError.

    `is_new`: no daemon has watched it before.
    """
    from slicemgr.service.lone_guard import LoneGuard
    from slicemgr.service.managed import ManagedSlice

    return LoneGuard(ManagedSlice(cgroup), report=report, is_new=is_new)
