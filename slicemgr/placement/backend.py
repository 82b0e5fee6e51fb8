# SPDX-License-Identifier: LGPL-2.1-or-later
"""What every backend answers: where the job is, how it is measured, and what this backend can't do."""

import enum
from dataclasses import dataclass
from typing import Protocol

from slicemgr.model.cgroup import CgroupSample, Measure
from slicemgr.model.process import ProcessTable


class Capability(enum.Enum):
    """What a backend can do with a limit; the values are for `status` and for warnings."""

    THROTTLE = "slow a job down at memory.high"
    HARD_LIMIT = "let the kernel hold a job at memory.max"
    EVENTS = "be told by the kernel instead of looking"


class JobSource(Protocol):
    """Where a job's memory and processes are read: a cgroup's directory, or a process tree."""

    def read(self, measure: Measure) -> CgroupSample:
        """What the job holds now."""
        ...

    def members(self) -> set[int]:
        """Its pids."""
        ...

    def snapshot(self) -> ProcessTable:
        """Its processes, for the victim rule."""
        ...


@dataclass(frozen=True, slots=True)
class JobHandle:
    """A job where it has been put."""

    backend: str
    capabilities: frozenset[Capability]
    source: JobSource
