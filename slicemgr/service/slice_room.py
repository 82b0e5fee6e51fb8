# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the jobs of one slice may hold together, and what each of them holds: read from cgroupfs.

The tightest limit is not always the slice's own: a user's slices are in user-1000.slice, which may have one too. What
others hold there is no longer to be had; neither is what is in the slice itself beside the jobs that are meant.
"""

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from slicemgr.kernel.cgroupfs import MOUNT, CgroupDir
from slicemgr.kernel.errors import KernelError
from slicemgr.kernel.unreclaimable import read_unreclaimable
from slicemgr.policy.evidence import unreclaimable_bytes


@dataclass(frozen=True, slots=True)
class Room:
    """At one instant, in bytes of what can't be reclaimed."""

    limit_bytes: int | None
    """For all of the jobs together; None: no limit above them, and then nothing else was read."""
    held: Mapping[str, int]
    """By the name of each job's cgroup; who is gone is left out."""


class SliceRoom:
    """The cgroup that jobs are in, and those above it. Owns the descriptors: 4 for each level, 3 for each job."""

    def __init__(self, path: str, mount: str = MOUNT) -> None:
        """Opens nothing yet. `path` as /proc/PID/cgroup has it."""
        self.path = path
        self._mount = mount
        self._levels: list[CgroupDir] = []
        self._jobs: dict[str, CgroupDir] = {}

    def jobs(self) -> list[str]:
        """The names of the jobs that are in it now. Raises KernelError."""
        return [name for name in self._own().children() if is_job(name)]

    def look(self, jobs: Collection[str]) -> Room:
        """What there is for these jobs; everybody else in the slice has what he holds. Raises KernelError."""
        own = self._own()
        limits = [(level, limit) for level in self._levels if (limit := limit_of(level)) is not None]
        if not limits:
            return Room(None, {})
        in_slice = held_by(own)
        held = self._held(jobs)
        room = min(limit - (in_slice if level is own else held_by(level)) for level, limit in limits)
        return Room(max(0, room + min(in_slice, sum(held.values()))), held)

    def is_frozen(self, name: str) -> bool:
        """Whether this job, which was looked at, stands still as a whole: somebody has paused it."""
        job = self._jobs.get(name)
        if job is None:
            return False
        try:
            return job.is_frozen()
        except KernelError:
            return False

    def _held(self, jobs: Collection[str]) -> dict[str, int]:
        for name in self._jobs.keys() - set(jobs):
            self._jobs.pop(name).close()
        held = {}
        for name in jobs:
            try:
                if name not in self._jobs:
                    self._jobs[name] = self._own().child(name)
                held[name] = held_by(self._jobs[name])
            except (KernelError, ValueError):  # Gone; or it was no name.
                if name in self._jobs:
                    self._jobs.pop(name).close()
        return held

    def _own(self) -> CgroupDir:
        """The slice's own directory; those of another one of its name are opened anew."""
        if self._levels and self._levels[0].is_gone():
            self.close()
        if not self._levels:
            self._levels.append(CgroupDir.open(self.path, self._mount))
            above = os.path.dirname(self.path)
            while above not in {"", "/"}:
                self._levels.append(CgroupDir.open(above, self._mount))
                above = os.path.dirname(above)
        return self._levels[0]

    def close(self) -> None:
        """Let go of all descriptors. The next look would open them again."""
        for each in (*self._levels, *self._jobs.values()):
            each.close()
        self._levels, self._jobs = [], {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def is_job(name: str) -> bool:
    """Whether `slicemgr run` has made the cgroup of this name: a scope, or one of the backend `cgroup`."""
    return name.startswith("slicemgr-") and not name.startswith("slicemgr-self-")


def limit_of(cgroup: CgroupDir) -> int | None:
    """memory.high or memory.max, whichever is lower; None if there is neither. Raises KernelError."""
    limits = [limit for limit in (cgroup.memory_high(), cgroup.memory_max()) if limit is not None]
    return min(limits, default=None)


def held_by(cgroup: CgroupDir) -> int:
    """What can't be reclaimed there and below. That swap could take some of it is ignored, as by all of pacing: what
    is swapped out comes back through the disk. Raises KernelError."""
    stat = read_unreclaimable(cgroup)
    return 0 if stat is None else unreclaimable_bytes(stat)
