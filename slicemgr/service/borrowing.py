# SPDX-License-Identifier: LGPL-2.1-or-later
"""Raising the limits of a job while it runs, by who holds them: the manager, the cgroup's files, or its own guard."""

import os
from typing import TYPE_CHECKING

from slicemgr.kernel.cgroupfs import CgroupDir
from slicemgr.kernel.errors import KernelError
from slicemgr.placement.bus_connection import ManagerError, NoManagerError
from slicemgr.placement.bus_wire import BusError
from slicemgr.placement.systemd1 import connect
from slicemgr.policy.limits import high_below, is_default_high

if TYPE_CHECKING:
    from slicemgr.placement.backend import JobHandle
    from slicemgr.service.tree_guard import TreeGuard


def raise_limits(handle: "JobHandle", guard: "TreeGuard | None", size_bytes: int) -> bool:
    """memory.max by this, and memory.high with it if it stood below by default. False: it could not be, or is none."""
    if handle.cgroup is None:
        return guard is not None and guard.raise_limit(size_bytes)
    try:
        with CgroupDir.open(handle.cgroup) as cgroup:
            high, highest = cgroup.memory_high(), cgroup.memory_max()
            if highest is None:
                return False
            limits = {"memory.max": highest + size_bytes}
            if is_default_high(high, highest):
                limits["memory.high"] = high_below(highest + size_bytes)
            if handle.unit is not None:
                _by_manager(handle.unit, limits)
            else:
                for name, value in limits.items():
                    cgroup.set_limit(name, value)
    except (KernelError, BusError, ManagerError, NoManagerError, OSError):
        return False
    return True


_PROPERTIES = {"memory.max": "MemoryMax", "memory.high": "MemoryHigh"}


def _by_manager(unit: str, limits: dict[str, int]) -> None:
    """Under systemd it is the only writer: what is in the files alone it writes over (systemd, CGROUP_DELEGATION)."""
    manager = connect(os.getuid())
    try:
        manager.set_unit_properties(unit, {_PROPERTIES[name]: value for name, value in limits.items()})
    finally:
        manager.close()
