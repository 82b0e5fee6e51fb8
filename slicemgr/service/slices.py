# SPDX-License-Identifier: LGPL-2.1-or-later
"""The slices of a manager as they are to be: their properties set, and where they are."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from slicemgr.kernel.cgroupfs import MOUNT
from slicemgr.model.quantity import NoLimit, Percent
from slicemgr.model.slice import MachineSpec, SliceKind, SliceSpec
from slicemgr.placement.bus_connection import BusError
from slicemgr.placement.systemd import set_slice
from slicemgr.placement.systemd1 import NO_LIMIT, JobFailedError, Manager
from slicemgr.policy.slice_limits import SliceLimits, resolve_slice
from slicemgr.service.guard import KillRules
from slicemgr.service.managed import ManagedSlice
from slicemgr.service.overview import slice_path

_FROM_FIELDS: Final = {
    "MemoryHigh": "memory_high",
    "MemoryMax": "memory_max",
    "MemorySwapMax": "memory_swap_max",
    "MemoryLow": "memory_low",
    "MemoryMin": "memory_min",
    "CPUWeight": "cpu_weight",
    "IOWeight": "io_weight",
}


@dataclass(frozen=True, slots=True)
class OpenedSlice:
    """A slice that is ours to guard, and what of its configuration is not in force."""

    managed: ManagedSlice
    why_not: str
    """One line, empty if all is as it should be."""


def open_slice(
    spec: SliceSpec, machine: MachineSpec, *, total_bytes: int, manager: Manager | None, root: str, is_user: bool
) -> OpenedSlice:
    """Start the slice and set its properties until the next boot; without a manager it is taken as it is. May block."""
    limits = resolve_slice(spec, machine, total_bytes)
    cgroup, why_not = slice_path(root, spec.unit), ""
    if manager is None:
        if not os.path.isdir(MOUNT + cgroup):
            why_not = f"{spec.unit} is not there, and no service manager to make it; try with systemd"
    else:
        try:
            place = set_slice(manager, spec.unit, _properties(limits), is_user=is_user)
            cgroup, why_not = place.cgroup or cgroup, place.why_not
        except (BusError, JobFailedError, OSError) as error:
            why_not = f"systemd did not set {spec.unit}: {error}; try 'systemctl status {spec.unit}'"
    return OpenedSlice(managed_slice(spec, limits, cgroup), why_not)


def managed_slice(spec: SliceSpec, limits: SliceLimits, cgroup: str) -> ManagedSlice:
    """The slice for its guard."""
    return ManagedSlice(
        cgroup=cgroup,
        kind=spec.kind,
        rules=KillRules(spec.victim, spec.grace_seconds),
        protect=spec.protect,
        share_bytes=limits.share_bytes,
    )


def throttled_by_us(spec: SliceSpec, machine: MachineSpec, total_bytes: int) -> bool:
    """Whether its memory.high is one that only we end a stall at: it must not outlive us."""
    return spec.kind is SliceKind.BUILD and resolve_slice(spec, machine, total_bytes).memory_high is not None


def _properties(limits: SliceLimits) -> Mapping[str, int]:
    """By systemd's names (org.freedesktop.systemd1(5)); what is not configured is left as it is."""
    properties = {}
    for name, field in _FROM_FIELDS.items():
        value = getattr(limits, field)
        if value is not None:
            properties[name] = NO_LIMIT if isinstance(value, NoLimit) else value
    tasks = limits.tasks_max
    if isinstance(tasks, Percent):
        tasks = tasks.of(_tasks_of_the_system())
    if tasks is not None:
        properties["TasksMax"] = NO_LIMIT if isinstance(tasks, NoLimit) else tasks
    return properties


def _tasks_of_the_system() -> int:
    """What a percentage of TasksMax= is one of (systemd.resource-control(5)): the least of the kernel's maxima."""
    found = []
    for path in ("/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max"):
        with open(path, "rb") as file:
            found.append(int(file.read()))
    return min(found)
