# SPDX-License-Identifier: LGPL-2.1-or-later
"""A process and its descendants, moved into a scope of their own while they run. Every call may block."""

import contextlib
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from slicemgr.kernel import procfs
from slicemgr.kernel.cgroupfs import CgroupDir, cgroup_of
from slicemgr.kernel.errors import KernelError, ProcessGoneError
from slicemgr.kernel.pidfd import HandedProcess
from slicemgr.kernel.proctree import ProcessTree
from slicemgr.model.cgroup import is_below, login_session_of
from slicemgr.model.process import ProcessIdentity
from slicemgr.placement import systemd
from slicemgr.placement.backend import JobHandle
from slicemgr.placement.bus_connection import ManagerError
from slicemgr.placement.systemd1 import PROCESS_UNKNOWN, Manager
from slicemgr.service.command_lines import read_command_lines
from slicemgr.service.sessions import SESSION_SLICE

_ROUNDS: Final = 8
"""Who is forked while the others are moved comes next; a fork bomb is not waited for."""

_Others: TypeAlias = Callable[[], set[ProcessIdentity]]
"""Who else is to be there, as it is now."""


@dataclass(frozen=True, slots=True)
class Adopted:
    """Where they are now."""

    unit: str
    cgroup: str
    pids: tuple[int, ...]
    """Who is there of those that were meant, proven afterwards: not who has ended meanwhile, nor who has its number."""
    charged_elsewhere_bytes: int
    """What they held before: the kernel moves processes, not what was charged."""
    why_not: str
    """Why the limits asked for are not in force; empty if they are."""


def adopt(
    manager: Manager,
    process: HandedProcess,
    *,
    tree: bool,
    name: str,
    slice_unit: str,
    limits: Mapping[str, int | None],
    is_user: bool,
    unit: str = "",
    is_session: bool = False,
) -> Adopted:
    """Move it; with `tree` its descendants too, but for those with other owners (sudo); with `is_session` also whoever
    else of its user is in logind's scope with it: desktops and apps fork twice.

    `limits` by systemd's names; None is none. `unit`: the scope's name, else one of a job's. Raises ProcessGoneError,
    BusError, JobFailedError, PlacementError, OSError: then all are where they were.
    """
    pid = process.identity.pid
    if _identity(pid) != process.identity:
        raise ProcessGoneError(pid)  # Whoever has its number now was not meant.
    command = _command_of(pid)
    held = 0

    def others() -> set[ProcessIdentity]:
        return _others(process, is_session=is_session) if tree else set()

    def place(them: Collection[ProcessIdentity]) -> JobHandle:
        nonlocal held
        held = sum(_held_bytes(each) for each in (pid, *(other.pid for other in them)))
        return systemd.open_job(
            manager,
            pid,
            name=name or (os.path.basename(command[0]) if command else ""),
            slice_name=slice_unit,
            command=command,
            memory_high=limits.get("MemoryHigh"),
            memory_max=limits.get("MemoryMax"),
            memory_swap_max=limits.get("MemorySwapMax"),
            tree=sorted(each.pid for each in them),
            unit=unit,
            is_user=is_user,
        )

    handle, meant = _place_living(place, process, others)
    unit, cgroup = handle.unit or "", handle.cgroup or ""
    if tree:
        meant |= _follow(manager, unit, cgroup, others)
    there = tuple(sorted(each.pid for each in meant if _is_there(each, cgroup)))
    if not there:
        raise ProcessGoneError(pid)
    return Adopted(unit, cgroup, there, held, handle.why_not)


def why_not_to_move(process: HandedProcess) -> str:
    """Of whoever stays where it is, whatever somebody may; empty for all others."""
    match process.identity.pid:
        case 1:
            return "it is the service manager"
        case pid if pid == os.getpid():
            return "it is this daemon, which is to outlive its jobs"
        case _:
            return ""


def adopt_session(manager: Manager, process: HandedProcess, *, unit: str) -> Adopted:
    """A session's leader and all that is of it, into this scope in its user's session.slice. Raises as `adopt`."""
    return adopt(
        manager, process,
        tree=True, name="", slice_unit=SESSION_SLICE, limits={}, is_user=True, unit=unit, is_session=True,
    )  # fmt: skip


def _place_living(
    place: Callable[[Collection[ProcessIdentity]], JobHandle], process: HandedProcess, others: _Others
) -> tuple[JobHandle, set[ProcessIdentity]]:
    """With all others at once, and in the end alone: systemd refuses all of a list in which one has ended, and in
    a build one always has."""
    for attempt in range(_ROUNDS):
        them = others() if attempt < _ROUNDS - 1 else set()
        try:
            return place(them), {process.identity, *them}
        except ManagerError as error:
            if error.name != PROCESS_UNKNOWN:
                raise
            if _identity(process.identity.pid) != process.identity:
                break
    raise ProcessGoneError(process.identity.pid)


def _follow(manager: Manager, unit: str, cgroup: str, others: _Others) -> set[ProcessIdentity]:
    """Those that were forked meanwhile, and those that were there already: all others."""
    for _ in range(_ROUNDS):
        everybody = others()
        left = sorted(each.pid for each in everybody if not _is_there(each, cgroup))
        if not left:
            return everybody
        try:
            manager.attach_processes(unit, left)
        except ManagerError:
            # One of them has ended, or is not to be had: the others need not wait for that.
            for pid in left:
                with contextlib.suppress(ManagerError):
                    manager.attach_processes(unit, [pid])
    return others()


def _others(process: HandedProcess, *, is_session: bool) -> set[ProcessIdentity]:
    members = set(ProcessTree(process.identity.pid).members())
    if is_session and login_session_of(process.cgroup):
        members |= _members(process.cgroup)
    members -= {process.identity.pid, os.getpid()}
    identities = {_identity(pid) for pid in members if _has_owner(pid, process.uids)}
    return {each for each in identities if each is not None}


def _members(cgroup: str) -> set[int]:
    """Who is in it; of logind's scope, whoever has not been moved yet."""
    try:
        with CgroupDir.open(cgroup) as directory:
            return set(directory.members())
    except KernelError:
        return set()


def _identity(pid: int) -> ProcessIdentity | None:
    """Who lives under this number. A zombie can't be moved, and a parent that is busy leaves it for long."""
    try:
        stat = procfs.read_stat(pid)
    except KernelError:
        return None
    return None if stat.state in "ZX" else ProcessIdentity(pid, stat.starttime)


def _has_owner(pid: int, uids: frozenset[int]) -> bool:
    try:
        return procfs.read_uids(pid) == uids
    except KernelError:
        return False


def _is_there(process: ProcessIdentity, cgroup: str) -> bool:
    """This very process, in this cgroup or below. Its number alone proves nothing: it may be another's by now."""
    try:
        return is_below(cgroup_of(process.pid), cgroup) and _identity(process.pid) == process
    except KernelError:
        return False


def _held_bytes(pid: int) -> int:
    try:
        memory = procfs.read_status_memory(pid)
    except KernelError:
        return 0
    return memory.unreclaimable + memory.swap


def _command_of(pid: int) -> tuple[str, ...]:
    try:
        # Not without a time-out: who stands still is not to keep all other requests waiting.
        return read_command_lines([pid]).get(pid) or (os.fsdecode(procfs.read_stat(pid).comm),)
    except KernelError:
        return ()
