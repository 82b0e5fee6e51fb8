# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a job answers, wherever it has been put: a process tree today, a cgroup's directory as well later."""

from typing import Protocol

from slicemgr.model.cgroup import CgroupSample, Measure
from slicemgr.model.process import ProcessTable


class JobSource(Protocol):
    """Where a job's memory and processes are read. Policy and guard can't tell which machine they run on."""

    def place(self, pid: int) -> None:
        """Make this process and what it will start a member; before its exec, charges follow the first touch."""
        ...

    def leave_out(self, pid: int) -> None:
        """This process is no member, wherever it stands."""
        ...

    def read(self, measure: Measure) -> CgroupSample:
        """What the job holds now."""
        ...

    def members(self) -> set[int]:
        """Its pids."""
        ...

    def snapshot(self) -> ProcessTable:
        """Its processes, for the victim rule."""
        ...
