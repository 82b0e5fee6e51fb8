# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a command that is started here may still take: on the machine, and below the limits of our cgroup and of all
above it. Page cache is no obstacle, it gives way; what is not counted as room either is swap."""

from collections.abc import Iterator
from typing import Final

from slicemgr.kernel.cgroupfs import CgroupDir, cgroup_of
from slicemgr.kernel.errors import KernelError
from slicemgr.kernel.features import find_mount
from slicemgr.policy.limits import RESERVE_SHARE
from slicemgr.policy.safe_jobs import Headroom
from slicemgr.service.slice_room import held_by

_ROOT: Final = "this cgroup namespace"


def machine_room(total_bytes: int, available_bytes: int) -> Headroom:
    """Less the tenth that a job without a limit leaves to the session (policy/limits.py)."""
    return Headroom(available_bytes - total_bytes // RESERVE_SHARE, "this machine, less a tenth")


def cgroup_rooms(pid: int) -> list[Headroom]:
    """Below each limit on the way from this process's cgroup up; none without cgroup v2."""
    try:
        mount, _ = find_mount()
        return [] if mount is None else list(rooms_above(cgroup_of(pid), mount))
    except KernelError:
        return []


def rooms_above(path: str, mount: str) -> Iterator[Headroom]:
    """Of this cgroup, and of each above it that is to be seen and has a limit; in a container also its root."""
    parts = [part for part in path.split("/") if part]
    for depth in range(len(parts), -1, -1):
        try:
            with CgroupDir.open("/".join(parts[:depth]), mount) as cgroup:
                room = _room(cgroup)
        except KernelError:  # Gone, or not ours to see: then it is not ours to obey either.
            continue
        if room is not None:
            yield room


def _room(cgroup: CgroupDir) -> Headroom | None:
    limits = {"memory.high": cgroup.memory_high(), "memory.max": cgroup.memory_max()}
    known = [(limit, name) for name, limit in limits.items() if limit is not None]
    if not known:
        return None
    limit, name = min(known)
    return Headroom(limit - held_by(cgroup), f"{name} of {cgroup.path.rpartition('/')[2] or _ROOT}")
