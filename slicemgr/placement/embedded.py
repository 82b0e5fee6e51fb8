# SPDX-License-Identifier: LGPL-2.1-or-later
"""The backend for any Linux machine: no cgroup, no service, no privilege; the job is our own process tree.

What it lacks is said by its capabilities: it can neither throttle a job nor hold it at its limit, and it has
to look where a cgroup would tell. So a job may overshoot its limit between two looks, see docs/benchmarks.md.
"""

import os
from typing import Final

from slicemgr.kernel import syscalls
from slicemgr.kernel.proctree import ProcessTree
from slicemgr.placement.backend import Capability, JobHandle

_CAPABILITIES: Final[frozenset[Capability]] = frozenset()


def open_job() -> JobHandle:
    """Make this process the root of a job: every descendant that comes is a member, orphans too.

    Who is there already is none: a shell that execs slicemgr leaves it its own background jobs as children.
    Raises OSError (from a kernel before 3.4, which has no subreapers).
    """
    outsiders = frozenset(process.identity for process in ProcessTree(os.getpid()).snapshot())
    syscalls.set_child_subreaper()
    return JobHandle("embedded", _CAPABILITIES, ProcessTree(os.getpid(), outsiders))
