# SPDX-License-Identifier: LGPL-2.1-or-later
"""The slices of a manager as they are to be: their properties set, and where they are."""

import contextlib
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from slicemgr.kernel.cgroupfs import MOUNT
from slicemgr.model.quantity import NoLimit, Percent
from slicemgr.model.slice import MachineSpec, SliceKind, SliceSpec, slice_path
from slicemgr.placement.bus_connection import BusError
from slicemgr.placement.systemd import set_slice
from slicemgr.placement.systemd1 import NO_LIMIT, JobFailedError, Manager
from slicemgr.policy.slice_limits import SliceLimits, resolve_slice
from slicemgr.service.guard import KillRules
from slicemgr.service.managed import ManagedSlice

_FROM_FIELDS: Final = {
    "MemoryHigh": "memory_high",
    "MemoryMax": "memory_max",
    "MemorySwapMax": "memory_swap_max",
    "MemoryLow": "memory_low",
    "MemoryMin": "memory_min",
    "CPUWeight": "cpu_weight",
    "IOWeight": "io_weight",
}


_NOTHING_KEPT: Final = ("MemoryLow", "MemoryMin")
"""0 if nobody sets them; for all others 2^64-1 is as if nobody had (CGROUP_LIMIT_MAX, CGROUP_WEIGHT_INVALID)."""


@dataclass(frozen=True, slots=True)
class OpenedSlice:
    """A slice that is ours to guard, and what of its configuration is not in force."""

    managed: ManagedSlice
    why_not: str = ""
    """One line, empty if all is as it should be."""
    is_throttled_by_us: bool = False
    """Its memory.high is one that only we end a stall at: it must not outlive us."""


class OwnSlices:
    """The slices of one manager, as a daemon sets them. Every call may block: they are for a thread of their own."""

    def __init__(
        self,
        connect: Callable[[], Manager] | None,
        *,
        root: str,
        is_user: bool,
        total_bytes: int,
        say: Callable[[str], None],
    ) -> None:
        """`connect` reaches the manager, or raises BusError or OSError; None: the slices are taken as they are.

        Not once for all: whoever stays connected is sent the signals of all units, and what nobody reads piles up in
        the manager. Connecting takes 1 ms.
        """
        self._connect = connect
        self._root = root
        self._is_user = is_user
        self._total_bytes = total_bytes
        self._say = say
        self._set: dict[str, Mapping[str, int]] = {}
        self._why_not: dict[str, str] = {}

    def open(
        self, specs: Sequence[SliceSpec], machine: MachineSpec, *, only_what_differs: bool = False
    ) -> list[OpenedSlice]:
        """Start them and set their properties until the next boot; what we have set before, and is not asked for any
        more, is taken back. `only_what_differs` from that: what somebody else has set since stays."""
        with contextlib.ExitStack() as stack:
            manager: Manager | None = None
            try:
                manager = None if self._connect is None else stack.enter_context(contextlib.closing(self._connect()))
            except (BusError, OSError) as error:
                self._say(f"no service manager answers ({error}): the slices are taken as they are")
            limits = {spec.unit: resolve_slice(spec, machine, self._total_bytes) for spec in specs}
            wanted = {unit: _properties(each) for unit, each in limits.items()}
            before = self._set if only_what_differs else {}
            opened = [
                self._open(spec, limits[spec.unit], _without(wanted[spec.unit], before.get(spec.unit, {})), manager)
                for spec in specs
            ]
            if manager is not None:
                for unit, names in self._set.items():
                    _take_back(manager, unit, names.keys() - wanted.get(unit, {}).keys())
                self._set = wanted
            if only_what_differs:
                # Only what differs was read back.
                opened = [
                    replace(each, why_not=each.why_not or self._why_not.get(each.managed.cgroup, "")) for each in opened
                ]
            self._why_not = {each.managed.cgroup: each.why_not for each in opened}
        return opened

    def _open(
        self, spec: SliceSpec, limits: SliceLimits, properties: Mapping[str, int], manager: Manager | None
    ) -> OpenedSlice:
        cgroup, why_not = slice_path(self._root, spec.unit), ""
        if manager is not None:
            try:
                place = set_slice(manager, spec.unit, properties, is_user=self._is_user)
                cgroup, why_not = place.cgroup or cgroup, place.why_not
            except (BusError, JobFailedError, OSError) as error:
                why_not = f"systemd did not set {spec.unit}: {error}; try 'systemctl status {spec.unit}'"
        elif self._connect is not None and not os.path.isdir(MOUNT + cgroup):
            why_not = f"{spec.unit} is not there, and no service manager to make it; try with systemd"
        is_throttled = self._connect is not None and spec.kind is SliceKind.BUILD and limits.memory_high is not None
        return OpenedSlice(managed_slice(spec, limits, cgroup), why_not, is_throttled)


def lift_high(connect: Callable[[], Manager], cgroups: Sequence[str]) -> None:
    """Nobody guards these slices any more, so their manager is not to slow anybody down there; as far as it goes."""
    with contextlib.suppress(BusError, OSError), contextlib.closing(connect()) as manager:
        for cgroup in cgroups:
            _take_back(manager, cgroup.rpartition("/")[2], ["MemoryHigh"])


def managed_slice(spec: SliceSpec, limits: SliceLimits, cgroup: str) -> ManagedSlice:
    """The slice for its guard."""
    return ManagedSlice(
        cgroup=cgroup,
        kind=spec.kind,
        rules=KillRules(spec.victim, spec.grace_seconds),
        protect=spec.protect,
        share_bytes=limits.share_bytes,
    )


def _take_back(manager: Manager, unit: str, names: Collection[str]) -> None:
    """As far as it goes: a slice that is gone needs nothing."""
    with contextlib.suppress(BusError, OSError):
        if names:
            manager.set_unit_properties(unit, {name: 0 if name in _NOTHING_KEPT else NO_LIMIT for name in names})


def _without(properties: Mapping[str, int], known: Mapping[str, int]) -> Mapping[str, int]:
    return {name: value for name, value in properties.items() if known.get(name) != value}


def _properties(limits: SliceLimits) -> Mapping[str, int]:
    """By systemd's names (org.freedesktop.systemd1(5)); what is not configured is left as it is."""
    properties = {}
    for name, field in _FROM_FIELDS.items():
        value = getattr(limits, field)
        if value is not None:
            properties[name] = NO_LIMIT if isinstance(value, NoLimit) else value
    tasks = limits.tasks_max
    if isinstance(tasks, Percent):
        tasks = tasks.of(tasks_of_the_system())
    if tasks is not None:
        properties["TasksMax"] = NO_LIMIT if isinstance(tasks, NoLimit) else tasks
    return properties


def tasks_of_the_system() -> int:
    """What a percentage of TasksMax= is one of (systemd.resource-control(5)): the least of the kernel's maxima."""
    found = []
    for path in ("/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max"):
        with open(path, "rb") as file:
            found.append(int(file.read()))
    return min(found)
