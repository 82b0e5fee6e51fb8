# SPDX-License-Identifier: LGPL-2.1-or-later
"""The backend of plain files: a cgroup of the job's own below one that is ours to change.

In a container that is its root; under systemd, a unit with `Delegate=yes` (its cgroup has the attribute
`user.delegate` or `trusted.delegate`, or its manager says so: systemd's CGROUP_DELEGATION document). What the managers
of systemd made is never touched, even where the files would let us: one writer per cgroup.

A cgroup that hands controllers to its children may hold no processes itself ("no internal processes",
Documentation/admin-guide/cgroup-v2.rst). So if nobody but slicemgr stands in it, slicemgr steps into a leaf.
"""

from __future__ import annotations

import errno
import os

from slicemgr.placement.backend import (
    CGROUPS,
    JobHandle,
    PlacementError,
    avoid_oomd,
    cgroup_of,
    not_in_force,
    read_text,
    write_text,
)
from slicemgr.placement.bus_wire import BusError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

_UNIT_SUFFIXES: Final = (".slice", ".scope", ".service", ".socket", ".mount", ".swap")
_LONGEST_NAME: Final = 200
"""Bytes; a file name has 255."""


def writable_parents(own: str, *, root: str = CGROUPS, systemd_runs: bool | None = None) -> list[str]:
    """Directories where a cgroup may be made for a job, the nearest first; `own` as /proc/self/cgroup tells it.

    Raises PlacementError if there is none.
    """
    directory = root + own.rstrip("/")
    if not os.path.isdir(directory):
        raise PlacementError(
            f"the cgroup {own} is not below {root} here; try a cgroup namespace of the container's own"
        )
    if os.statvfs(directory).f_flag & os.ST_RDONLY:
        raise PlacementError(f"{root} is mounted read-only; try to start the container with it writable")
    # sd_booted(3)
    is_systemd = os.path.isdir("/run/systemd/system") if systemd_runs is None else systemd_runs
    last = _delegation_point(directory, root) if is_systemd else root
    found = []
    while last is not None and _is_writable(directory):
        found.append(directory)
        if directory == last:
            break
        directory = os.path.dirname(directory)
    if not found:
        hint = "try 'systemd-run --user --scope -p Delegate=yes'" if is_systemd else "try it as the owner of the cgroup"
        raise PlacementError(f"no cgroup here is delegated to this user ({own}); {hint}")
    return found


def open_job(
    pid: int,
    *,
    name: str,
    memory_high: int | None = None,
    memory_max: int | None = None,
    memory_swap_max: int | None = None,
    parents: Sequence[str] | None = None,
    beside: Sequence[int] = (),
) -> JobHandle:
    """Put a held process into a cgroup of its own, with these limits in bytes; None is no limit.

    `parents`: of writable_parents, where they are known. `beside`: processes of ours that may stand where we do; they
    go with us, and have ended before the job is released. Raises PlacementError, with the process where it was.
    """
    reasons = []
    for parent in writable_parents(cgroup_of("self")) if parents is None else parents:
        undo: list[tuple[str, str]] = []
        try:
            _hand_down_memory(parent, {pid, *beside}, undo)
            directory = _make_job(parent, f"slicemgr-{_file_name(name)}-{pid}")
        except (OSError, PlacementError) as error:
            _step_back(undo)
            reasons.append(_reason(error, parent))
            continue
        limits = {"memory.high": memory_high, "memory.max": memory_max, "memory.swap.max": memory_swap_max}
        try:
            _fill(directory, pid, limits)
        except OSError as error:
            _remove(directory)
            _step_back(undo)
            reasons.append(_reason(error, directory))
            continue
        _forget_others(undo)
        missing = not_in_force(directory, limits)
        why_not = f"the kernel has no {', '.join(missing)} here; try without that limit" if missing else ""

        def release(directory: str = directory, undo: list[tuple[str, str]] = undo) -> None:
            # While another run has a job beside ours, `-memory` would take its limits away.
            if _remove(directory) and not _has_other_jobs(os.path.dirname(directory)):
                _step_back(undo)

        return JobHandle(
            "cgroup", None, cgroup=directory.removeprefix(CGROUPS) or "/", why_not=why_not, release=release
        )
    raise PlacementError(reasons[0])


def _delegation_point(directory: str, root: str) -> str | None:
    """The cgroup at or above this one where systemd ends and we begin; None if systemd is all there is."""
    while len(directory) > len(root):
        if _is_delegated(directory):
            name = os.path.basename(directory)
            # user@1000.service is delegated to the user's manager, not to us; below it all is the manager's.
            return None if name.startswith("user@") else directory
        if directory.endswith(_UNIT_SUFFIXES):
            return directory if _manager_says(directory) else None
        directory = os.path.dirname(directory)
    return None


def _is_delegated(directory: str) -> bool:
    for attribute in ("user.delegate", "trusted.delegate"):
        try:
            if os.getxattr(directory, attribute) == b"1":
                return True
        except OSError:  # Not there, or trusted.* without the privilege to see it.
            continue
    return False


def _manager_says(directory: str) -> bool:
    """Whether a unit of our own user manager is delegated: those of systemd 252 have no attribute that tells."""
    unit, uid = os.path.basename(directory), os.getuid()
    kind = {".scope": "Scope", ".service": "Service"}.get(unit[unit.rfind(".") :])
    if kind is None or f"/user@{uid}.service/" not in directory:
        return False
    from slicemgr.placement.systemd1 import connect

    try:
        manager = connect(uid)
        try:
            return bool(manager.get_property(unit, kind, "Delegate"))
        finally:
            manager.close()
    except BusError:
        return False


def _is_writable(directory: str) -> bool:
    files = ("", "/cgroup.procs", "/cgroup.subtree_control")
    return all(os.access(directory + file, os.W_OK) for file in files)


def _hand_down_memory(parent: str, others: set[int], undo: list[tuple[str, str]]) -> None:
    """See that children of `parent` have the memory controller; `others` are ours to move, too.

    `undo` gets (file, text) to write, in reverse.
    """
    control = f"{parent}/cgroup.subtree_control"
    if "memory" in read_text(control).split():
        return
    if "memory" not in read_text(f"{parent}/cgroup.controllers").split():
        raise PlacementError(
            f"the memory controller is not available in {parent}; try Delegate=memory pids, or its parent"
        )
    own = os.getpid()
    members = {int(pid) for pid in read_text(f"{parent}/cgroup.procs").split()}
    strangers = members - {own} - others
    if strangers:
        who = f"{len(strangers)} other process{'es' if len(strangers) > 1 else ''} (pid {min(strangers)})"
        raise PlacementError(f"{who} in {parent}; try to start slicemgr alone in a cgroup of its own")
    if members:
        leaf = f"{parent}/slicemgr-self-{own}"
        os.mkdir(leaf)
        undo.append((leaf, ""))
        for pid in members:
            write_text(f"{leaf}/cgroup.procs", str(pid))
            undo.append((f"{parent}/cgroup.procs", str(pid)))
    write_text(control, "+memory")
    undo.append((control, "-memory"))


def _forget_others(undo: list[tuple[str, str]]) -> None:
    """Only we are to be moved back at the end: by then the others have ended, and their pids may be anybody's."""
    own = str(os.getpid())
    undo[:] = [(path, text) for path, text in undo if not path.endswith("/cgroup.procs") or text == own]


def _make_job(parent: str, name: str) -> str:
    directory = f"{parent}/{name}"
    os.mkdir(directory)
    return directory


def _fill(directory: str, pid: int, limits: dict[str, int | None]) -> None:
    for file, limit in limits.items():
        if limit is not None:
            try:
                write_text(f"{directory}/{file}", str(limit))
            except FileNotFoundError:
                continue  # A kernel without swap has no memory.swap.max: told by reading back.
    avoid_oomd(directory)  # Not inherited: oomd looks at the leaf.
    write_text(f"{directory}/cgroup.procs", str(pid))


def _step_back(undo: list[tuple[str, str]]) -> None:
    """Undo what was done to the parent, the last first, as far as it goes; a (directory, "") was made."""
    while undo:
        path, text = undo.pop()
        try:
            if text:
                write_text(path, text)
            else:
                os.rmdir(path)
        except OSError:
            continue


def _remove(directory: str) -> bool:
    """Remove a cgroup; False while somebody lives in it."""
    try:
        os.rmdir(directory)
    except OSError as error:
        return error.errno == errno.ENOENT
    return True


def _has_other_jobs(parent: str) -> bool:
    own = f"slicemgr-self-{os.getpid()}"
    try:
        return any(each != own and os.path.isdir(f"{parent}/{each}") for each in os.listdir(parent))
    except OSError:
        return True


def _file_name(name: str) -> str:
    """The name as part of a directory's: what is no name, or no sign for a terminal, becomes `_`."""
    kept = "".join(each if each.isprintable() and each not in "/\\ " else "_" for each in name)
    return kept.encode(errors="replace")[:_LONGEST_NAME].decode(errors="ignore") or "job"


def _reason(error: Exception, directory: str) -> str:
    if isinstance(error, PlacementError):
        return str(error)
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"{directory}: {text}; try --backend embedded"
