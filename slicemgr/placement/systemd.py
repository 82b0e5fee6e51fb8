# SPDX-License-Identifier: LGPL-2.1-or-later
r"""The backend where systemd runs: each job a transient scope in its slice, made before the command's exec.

A scope and not a service: the command stays our child, with its terminal, its environment and its true exit status,
and only its cgroup is another one. `Delegate=yes`, so that slicemgr may read, freeze and kill below it without the
manager's leave; `OOMPolicy=continue`, or the manager ends the whole scope after one kill of the kernel's (rc 143,
Result=oom-kill); `ManagedOOMPreference=avoid`, because memory.high makes the pressure that systemd-oomd kills for.
"""

from __future__ import annotations

import os

from slicemgr.placement.backend import (
    CGROUPS,
    JobHandle,
    PlacementError,
    avoid_oomd,
    cgroup_of,
    not_in_force,
    write_text,
)
from slicemgr.placement.bus_connection import ManagerError
from slicemgr.placement.systemd1 import UNIT_EXISTS, escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, Final

    from slicemgr.placement.systemd1 import Manager

LONGEST_DESCRIPTION: Final = 200
"""Characters; `systemctl list-units` shows the first 60 or so."""

BESIDE: Final = "slicemgr-keeper"
"""The cgroup within a job's where those stand that are put beside it."""

_SAME_NAMES: Final = 5
"""A pid comes back while its last scope lives on (a daemon of the job): then another name is tried."""

_FILE_OF: Final = {
    "MemoryHigh": "memory.high",
    "MemoryMax": "memory.max",
    "MemorySwapMax": "memory.swap.max",
    "MemoryLow": "memory.low",
    "MemoryMin": "memory.min",
}

_FILES_OF_SLICES: Final = {
    **_FILE_OF,
    "TasksMax": "pids.max",
    "CPUWeight": "cpu.weight",
    "IOWeight": "io.weight",
}


class SlicePlace:
    """A slice as it is now: its cgroup, and what of the properties asked for the kernel does not hold."""

    __slots__ = ("cgroup", "missing", "unit", "why_not")

    def __init__(self, unit: str, cgroup: str, missing: tuple[str, ...], why_not: str) -> None:
        self.unit = unit
        self.cgroup = cgroup
        """`/user.slice/.../build.slice`; empty if the slice has none."""
        self.missing = missing
        """Names of files of the kernel: memory.max."""
        self.why_not = why_not
        """One line, empty if all are in force."""


def open_job(
    manager: Manager,
    pid: int,
    *,
    name: str,
    slice_name: str,
    command: Sequence[str],
    memory_high: int | None = None,
    memory_max: int | None = None,
    memory_swap_max: int | None = None,
    tree: Sequence[int] = (),
    beside: Sequence[int] = (),
    unit: str = "",
    is_user: bool,
) -> JobHandle:
    """Put a process into a scope of its own with its `tree`, and those that go `beside` it into a cgroup within that.

    Limits in bytes; None is no limit of the job's own. `unit`: the scope's name, for what is no job. Raises BusError,
    JobFailedError, PlacementError or OSError: the process is where it was, or gone.
    """
    properties: dict[str, Any] = {
        "Description": description(command) or name,
        "Slice": slice_name,
        "PIDs": [pid, *tree, *beside],
        "Delegate": True,
        "CollectMode": "inactive-or-failed",
        "OOMPolicy": "continue",
        "ManagedOOMPreference": "avoid",
    }
    limits = {"MemoryHigh": memory_high, "MemoryMax": memory_max, "MemorySwapMax": memory_swap_max}
    properties.update({key: limit for key, limit in limits.items() if limit is not None})
    if unit:
        left_out = manager.start_transient_unit(unit, properties)
    else:
        unit, left_out = _start_scope(manager, name, pid, properties)
    cgroup = cgroup_of(pid)
    if not cgroup.endswith(f"/{unit}"):
        raise PlacementError(f"systemd made {unit} but left process {pid} in {cgroup}; try --backend embedded")
    if "ManagedOOMPreference" in left_out:
        avoid_oomd(CGROUPS + cgroup)
    _step_aside(CGROUPS + cgroup, beside)
    missing = not_in_force(CGROUPS + cgroup, {_FILE_OF[key]: limit for key, limit in limits.items()})
    return JobHandle(
        "systemd",
        None,
        cgroup=cgroup,
        unit=unit,
        why_not=_why_not(CGROUPS + cgroup, missing, is_user=is_user),
        left_out=left_out,
        release=lambda: _remove(f"{CGROUPS}{cgroup}/{BESIDE}"),
    )


def set_slice(manager: Manager, unit: str, properties: Mapping[str, Any], *, is_user: bool) -> SlicePlace:
    """Start a slice and give it these properties until the next boot; None is no limit. Then read them back.

    Raises BusError, JobFailedError, OSError.
    """
    manager.start_unit(unit)
    if properties:
        manager.set_unit_properties(unit, properties)
    cgroup = str(manager.get_property(unit, "Slice", "ControlGroup"))
    directory = CGROUPS + cgroup
    files = {file: properties[key] for key, file in _FILES_OF_SLICES.items() if key in properties}
    missing = not_in_force(directory, files)
    return SlicePlace(unit, cgroup, missing, _why_not(directory, missing, is_user=is_user))


def scope_name(name: str, pid: int) -> str:
    r"""`slicemgr-cargo\x20build-123.scope`; what is too long for a unit's name (255) is cut."""
    return f"slicemgr-{escape(name) or 'job'}-{pid}.scope"


def description(command: Sequence[str]) -> str:
    """The command for `systemctl status`: one line, printable, shortened."""
    line = "".join(
        character if character.isprintable() else "?" for character in " ".join(command)[: LONGEST_DESCRIPTION + 1]
    )
    return line if len(line) <= LONGEST_DESCRIPTION else f"{line[: LONGEST_DESCRIPTION - 1]}…"


def _start_scope(manager: Manager, name: str, pid: int, properties: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    attempt = 1
    while True:
        unit = scope_name(name if attempt == 1 else f"{name}.{attempt}", pid)
        try:
            return unit, manager.start_transient_unit(unit, properties)
        except ManagerError as error:
            if error.name != UNIT_EXISTS or attempt == _SAME_NAMES:
                raise
        attempt += 1


def _step_aside(directory: str, beside: Sequence[int]) -> None:
    """Leave the job its cgroup to divide, as Delegate=yes promises.

    A cgroup with processes hands no controllers to those below it ("no internal processes",
    Documentation/admin-guide/cgroup-v2.rst): with one of ours in it, `echo +memory > cgroup.subtree_control` was EBUSY.
    """
    try:
        if beside:
            os.mkdir(f"{directory}/{BESIDE}")
        for pid in beside:
            write_text(f"{directory}/{BESIDE}/cgroup.procs", str(pid))
    except OSError:  # Then only a job that divides its cgroup is the worse for it.
        return


def _remove(directory: str) -> None:
    try:
        os.rmdir(directory)
    except OSError:  # Gone with the scope, as mostly, or lived in.
        return


def no_controller(names: Sequence[str], *, is_user: bool) -> str:
    """What is said where a manager can't give its units a controller."""
    which = f"{' and '.join(names)} controller{'s' if len(names) > 1 else ''}"
    if is_user:
        every = " ".join(sorted({"cpu", "memory", "pids", *names}))
        return (
            f"the user manager has no {which} delegated; try Delegate={every} in a drop-in of user@.service"
            " ('systemctl edit user@.service', as root), and log in again"
        )
    return f"the system manager has no {which}; try 'cat {CGROUPS}/cgroup.controllers' and the kernel's command line"


def _why_not(directory: str, missing: Sequence[str], *, is_user: bool) -> str:
    """One line for people."""
    if not missing:
        return ""
    absent = sorted({file.partition(".")[0] for file in missing if not os.path.exists(f"{directory}/{file}")})
    if absent and not ("memory" in absent and os.path.exists(f"{directory}/memory.max")):
        return no_controller(absent, is_user=is_user)
    names, unit = ", ".join(missing), os.path.basename(directory)
    return f"{names} of {unit} is not as it was asked for; try 'systemctl show {unit}', and a kernel with CONFIG_SWAP"
