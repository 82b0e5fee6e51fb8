# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is there now: the slices of a manager and the jobs in them, read from cgroupfs; no daemon and no bus is asked.

A cgroup that goes while it is looked at is left out. Nothing here waits for a process of a job: a command line is read
through the address space of its process, and one that stands still in reclaim may hold that for long.
"""

import dataclasses
import difflib
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from slicemgr.kernel import procfs
from slicemgr.kernel.cgroupfs import MOUNT, CgroupDir
from slicemgr.kernel.errors import CgroupGoneError, CgroupNotPermittedError, CgroupRefusedError, NotSupportedError
from slicemgr.kernel.features import Feature, find_mount, not_mounted
from slicemgr.model.slice import SliceKind, SliceSpec, slice_path
from slicemgr.service.command_lines import read_command_lines

SYSTEM_ROOT: Final = "/"

MOST_PLACES: Final = 1000
"""Slices that are looked into below one manager, and scopes found there: a user may make as many as they like in their
own tree, and the system's daemon looks at all users."""

LONGEST_MEANT: Final = 32
MOST_COMPARED: Final = 20
"""To compare two names of 200 letters takes 5 ms, and a daemon's loop has no time for 200 of them."""

_UNSEEN: Final = (CgroupGoneError, CgroupNotPermittedError, CgroupRefusedError)
"""Refused: a path longer than PATH_MAX, for whoever has nested slices that deep."""
_SCOPE: Final = re.compile(r"slicemgr-(?P<name>.+)-(?P<pid>[1-9][0-9]{0,9})\.scope", re.ASCII)
_ESCAPED: Final = re.compile(rb"\\x([0-9a-f]{2})")
_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")


class UnknownTargetError(ValueError):
    """Nothing of that name is managed; `nearest` is what may have been meant, or empty."""

    def __init__(self, name: str, nearest: str) -> None:
        super().__init__(f"no slice, job or process '{name}'")
        self.name = name
        self.nearest = nearest


@dataclass(frozen=True, slots=True)
class Usage:
    """What a cgroup holds and may hold, in bytes; None where there is no such file, and for limits no limit."""

    current_bytes: int | None
    """memory.current: page cache is in it."""
    swap_bytes: int | None
    high_bytes: int | None
    max_bytes: int | None
    swap_max_bytes: int | None
    stalled_percent: float | None
    """How much of the last ten seconds at least one process waited for memory (memory.pressure, some avg10)."""
    members: int
    """Processes, in all cgroups below too."""


@dataclass(frozen=True, slots=True)
class JobOverview:
    """A scope that `slicemgr run` made."""

    unit: str
    path: str
    name: str
    """As a person gave it, or the command's."""
    usage: Usage
    leader_pid: int | None
    """The command itself; None when it has ended before what it started."""
    command_line: tuple[str, ...]
    """The leader's; empty when it has ended, or did not answer in time."""
    age_seconds: float | None
    """Since the leader was started, or the oldest of those that are left."""


@dataclass(frozen=True, slots=True)
class SliceOverview:
    """A slice: one of the configuration, or one that has a job in it."""

    unit: str
    path: str
    kind: SliceKind | None
    """None: the configuration does not know it, so nobody but its jobs is guarded."""
    usage: Usage | None
    """None: the slice is not there, because nothing has been started in it."""
    jobs: tuple[JobOverview, ...]


def user_root(uid: int) -> str:
    """The cgroup of a user's own manager (systemd's user@.service)."""
    return f"/user.slice/user-{uid}.slice/user@{uid}.service"


def require_cgroup2(mount: str = MOUNT, proc: str = "/proc") -> None:
    """Raises NotSupportedError where there is no cgroup v2 at this place, in the words that the daemon has for it."""
    if os.path.exists(f"{mount}/cgroup.controllers"):
        return
    _, missing = find_mount(proc)
    lack = next((each for each in missing if each.feature is Feature.CGROUP2), not_mounted(mount))
    raise NotSupportedError(lack.what, lack.hint)


def look(
    specs: Iterable[SliceSpec], root: str, mount: str = MOUNT, *, with_command_lines: bool = True
) -> tuple[SliceOverview, ...]:
    """The configured slices in their order, then others that have jobs in them.

    Raises NotSupportedError without cgroup v2, and FormatError.
    """
    require_cgroup2(mount)
    kinds = {slice_path(root, spec.unit): spec.kind for spec in specs}
    jobs = _jobs(root, mount, with_command_lines)
    paths = [*kinds, *sorted({os.path.dirname(job.path) for job in jobs} - set(kinds))]
    return tuple(
        SliceOverview(
            unit=os.path.basename(path),
            path=path,
            kind=kinds.get(path),
            usage=_usage_at(path, mount),
            jobs=tuple(job for job in jobs if os.path.dirname(job.path) == path),
        )
        for path in paths
    )


def look_with_users(
    specs: Sequence[SliceSpec], mount: str = MOUNT, *, with_command_lines: bool = True
) -> tuple[SliceOverview, ...]:
    """The slices of the system's manager, and those of all users, whom its daemon guards too. Raises as `look`.

    The system's manager itself has no sessions, so of the configuration it has the builds alone.
    """
    managers = [([spec for spec in specs if spec.kind is SliceKind.BUILD], SYSTEM_ROOT)]
    managers += [(list(specs), root) for root in user_roots(mount)]
    return tuple(
        each
        for own, root in managers
        for each in look(own, root, mount, with_command_lines=with_command_lines)
        if root == SYSTEM_ROOT or each.usage is not None
    )


def where_jobs_come_and_go(slices: Sequence[SliceOverview], user_uid: int | None, mount: str = MOUNT) -> set[str]:
    """Cgroups in which a slice or a job may be made or removed: of a user's manager; None: of all there are.

    A slice's cgroup is there only as long as somebody is in it: so its parent, and with users' what is above them.
    """
    places = {each.path for each in slices}
    places |= {os.path.dirname(path) for path in places}
    if user_uid is not None:
        return places | {user_root(user_uid)}
    places |= {SYSTEM_ROOT, "/user.slice"}
    for root in user_roots(mount):
        places |= {root, os.path.dirname(root)}
    return places


def find_slice(name: str, slices: Sequence[SliceOverview]) -> SliceOverview:
    """A slice by its unit, with or without `.slice`. Raises UnknownTargetError."""
    for each in slices:
        if name in {each.unit, each.unit.removesuffix(".slice"), each.path}:
            return each
    raise UnknownTargetError(name, nearest_name(name, slices))


def nearest_name(name: str, slices: Sequence[SliceOverview], *, with_jobs: bool = False) -> str:
    """The name of a slice, or of a job, that may have been meant; or nothing."""
    known = [each.unit.removesuffix(".slice") for each in slices]
    if with_jobs:
        known += [job.name for each in slices for job in each.jobs]
    meant = name.removesuffix(".slice")
    if len(meant) > LONGEST_MEANT:
        return ""
    compared = [each for each in known if len(each) <= LONGEST_MEANT][:MOST_COMPARED]
    return next(iter(difflib.get_close_matches(meant, compared, n=1)), "")


def usage_of(cgroup: CgroupDir) -> Usage:
    """The figures of one cgroup. Raises CgroupGoneError, CgroupNotPermittedError, FormatError."""
    pressure = cgroup.pressure()
    return Usage(
        current_bytes=cgroup.memory_current(),
        swap_bytes=cgroup.swap_current(),
        high_bytes=cgroup.memory_high(),
        max_bytes=cgroup.memory_max(),
        swap_max_bytes=cgroup.swap_max(),
        stalled_percent=None if pressure is None else pressure.some.avg10,
        members=len(cgroup.members()),
    )


def is_job_scope(unit: str) -> bool:
    """Whether a cgroup of this name is one that `slicemgr run` made."""
    return _SCOPE.fullmatch(unit) is not None


def job_name(unit: str) -> str:
    r"""`slicemgr-my\x2dbuild-4711.scope` -> `my-build`; another unit keeps its name."""
    match = _SCOPE.fullmatch(unit)
    return unit if match is None else _unescaped(match["name"])


def user_roots(mount: str = MOUNT) -> list[str]:
    """The cgroups of all user managers that run, by their uids."""
    found = []
    try:
        with CgroupDir.open("/user.slice", mount) as users:
            names = users.children()
    except _UNSEEN:
        return []
    for name in names:
        uid = name.removeprefix("user-").removesuffix(".slice")
        if name == f"user-{uid}.slice" and uid.isascii() and uid.isdigit():
            root = user_root(int(uid))
            if os.path.isdir(mount + root):
                found.append(int(uid))
    return [user_root(uid) for uid in sorted(found)]


def _usage_at(path: str, mount: str) -> Usage | None:
    try:
        with CgroupDir.open(path, mount) as cgroup:
            return usage_of(cgroup)
    except _UNSEEN:
        return None


def _jobs(root: str, mount: str, with_command_lines: bool) -> list[JobOverview]:
    """In the order of their slices, the oldest first."""
    found = sorted(_find_jobs(root, mount), key=lambda job: (os.path.dirname(job.path), -(job.age_seconds or 0.0)))
    if not with_command_lines:
        return found
    lines = read_command_lines([job.leader_pid for job in found if job.leader_pid is not None])
    return [dataclasses.replace(job, command_line=lines.get(job.leader_pid or 0, ())) for job in found]


def _find_jobs(root: str, mount: str) -> Iterator[JobOverview]:
    """Every job below the manager, without its command line."""
    for path in _scopes(root, mount):
        unit = os.path.basename(path)
        match = _SCOPE.fullmatch(unit)
        if match is None:
            continue
        try:
            with CgroupDir.open(path, mount) as cgroup:
                members = cgroup.members()
                usage = usage_of(cgroup)
        except _UNSEEN:
            continue
        leader = int(match["pid"]) if int(match["pid"]) in members else None
        began = _began_seconds(members if leader is None else (leader,))
        age = None if began is None else max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - began)
        yield JobOverview(unit, path, job_name(unit), usage, leader, (), age)


def _scopes(root: str, mount: str) -> list[str]:
    """The scopes directly in the manager's slices, of which one may be in another; services are not looked into."""
    found: list[str] = []
    ahead = [root]
    for _ in range(MOST_PLACES):
        if not ahead:
            break
        path = ahead.pop()
        try:
            with CgroupDir.open(path, mount) as cgroup:
                names = cgroup.children()
        except _UNSEEN:
            continue
        below = [f"{path.rstrip('/')}/{name}" for name in names]
        ahead += [each for each in below if each.endswith(".slice")]
        found += [each for each in below if each.endswith(".scope")]
    return found[:MOST_PLACES]


def _unescaped(name: str) -> str:
    r"""`my\x2dbuild` -> `my-build` (systemd.unit(5), "string escaping for inclusion in unit names")."""
    return os.fsdecode(_ESCAPED.sub(lambda escape: bytes([int(escape[1], 16)]), os.fsencode(name)))


def _began_seconds(pids: Iterable[int]) -> float | None:
    """When the first of these was started, since boot."""
    starts = []
    for pid in pids:
        try:
            starts.append(procfs.read_stat(pid).starttime)
        except procfs.UNSEEN:
            continue
    return min(starts) / _TICKS_PER_SECOND if starts else None
