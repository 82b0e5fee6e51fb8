# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run in a scope of its own: a process tree by our three measures, beside the scope's memory.stat, as JSON."""

import json
import os
import sys

from slicemgr.kernel.proctree import ProcessTree
from slicemgr.model.cgroup import Measure
from tests.conftest import Hog
from tests.vm.systemd import cgroup_of, memory_stat


def main() -> None:
    """The arguments are a hog's."""
    hog = Hog(*sys.argv[1:])
    tree = ProcessTree(os.getpid())
    measured = {measure.value: tree.read(measure).memory_bytes for measure in Measure}
    # What only ending processes frees: the kernel's own sums for this cgroup, this script's own memory included.
    stat = memory_stat(cgroup_of())
    measured["cgroup"] = stat["anon"] + stat["shmem"] + stat["pagetables"]
    own = ProcessTree(os.getppid()).read(Measure.UNRECLAIMABLE).memory_bytes - measured["unreclaimable"]
    measured["ourselves"] = own
    print(json.dumps(measured))
    hog.let_go()


if __name__ == "__main__":
    main()
