# SPDX-License-Identifier: LGPL-2.1-or-later
"""The backend for any Linux machine: no cgroup, no service, no privilege; the job is our own process tree.

It can neither throttle a job nor hold it at its limit, and it has to look where a cgroup would tell. So a job may
overshoot its limit between two looks, see docs/benchmarks.md.
"""

import os

from slicemgr.kernel import syscalls
from slicemgr.kernel.proctree import ProcessTree
from slicemgr.placement.backend import JobHandle


def open_job() -> JobHandle:
    """Make this process the root of a job: what is placed into it, and every descendant of that, orphans too.

    Raises OSError where the kernel lacks subreapers (3.4) or pidfds (5.3), or a sandbox forbids them: without a
    pidfd nobody could be killed, and that has to be known before the command starts.
    """
    os.close(os.pidfd_open(os.getpid()))
    tree = ProcessTree(os.getpid(), among_strangers=bool(ProcessTree(os.getpid()).members()))
    syscalls.set_child_subreaper()
    return JobHandle("embedded", tree)
