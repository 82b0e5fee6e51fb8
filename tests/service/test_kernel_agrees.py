# SPDX-License-Identifier: LGPL-2.1-or-later
"""Our badness is the kernel's: on this machine, with this machine's totals (the VM adds negative adjustments)."""

import subprocess
from collections.abc import Callable

from slicemgr.kernel import procfs
from tests.conftest import Hog
from tests.oom_score import disagreements


def test_hogs_of_all_sizes_and_adjustments(hog: Callable[..., Hog]) -> None:
    """From 1 MiB to 700 MiB, adjustments from 0 to 1000, a dead leader, shared memory."""
    hogs = [
        hog("--start", "1M"),
        hog("--start", "50M", "--oom-score-adj", "100"),
        hog("--start", "300M"),
        hog("--start", "700M"),
        hog("--start", "20M", "--oom-score-adj", "300"),
        hog("--start", "20M", "--oom-score-adj", "1000"),
        hog("--start", "100M", "--dead-leader"),
        hog("--shmem", "100M"),
    ]
    lines, compared = disagreements([each.pid for each in hogs])
    assert not lines
    assert compared == len(hogs)


def test_every_process_of_the_machine() -> None:
    """Kernel threads, zombies and pid 1 among them: those are 0 to the kernel, and unkillable to us."""
    zombie = subprocess.Popen(["true"])
    lines, compared = disagreements(procfs.processes())
    zombie.wait()
    assert not lines
    assert compared >= 3
