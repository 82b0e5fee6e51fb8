# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who of a session's processes is vital now, from /proc; and a session for people."""

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import islice
from typing import Final

from slicemgr.kernel import procfs
from slicemgr.kernel.cgroupfs import MOUNT, CgroupDir
from slicemgr.kernel.errors import KernelError
from slicemgr.model.process import ProcessIdentity, ProcessSample, ProcessTable
from slicemgr.policy.vital import Vital, vital_processes
from slicemgr.policy.working_set import WorkingSet
from slicemgr.service.overview import user_root
from slicemgr.service.sessions import SESSION_SLICE, Session, SessionOverview, session_unit

MOST_VITAL: Final = 32
"""Of one session, the oldest first: GNOME and Plasma have a dozen. A hundred processes that call themselves `sway` get
no further."""

MOST_SHARE_OF_USER: Final = 2
"""The vital processes of one user may hold half of the machine, all together: who names all his own so is no session,
and with them out of the kernel's reach it would end everybody else's first."""

_GRAPHICAL: Final = frozenset({"x11", "wayland", "mir"})
"""login1's types. startx is in a session of type tty, and has all its processes there."""

_ZOMBIE: Final = "Z"


def session_slice(uid: int) -> str:
    """Where a user's manager runs what is the desktop itself (systemd.special(7))."""
    return f"{user_root(uid)}/{SESSION_SLICE}"


def vital_of(session: Session, also: Sequence[str] = (), mount: str = MOUNT) -> Mapping[ProcessIdentity, Vital]:
    """By the names and the parents of those in its own cgroup and in its user's session.slice.

    `also`: names that the configuration adds. 100 processes take 2 ms. Nobody is vital in what can't be read.
    """
    table = ProcessTable(_processes(_cgroups(session), mount))
    found = vital_processes(table, session.leader.pid, _fits, also, is_desktop=session.is_registered)
    oldest = sorted(found, key=lambda identity: (identity.start_ticks, identity.pid))
    return {identity: found[identity] for identity in islice(oldest, MOST_VITAL)}


def within_share(
    sessions: Iterable[Session], found: Mapping[str, Collection[ProcessIdentity]], total_bytes: int
) -> set[ProcessIdentity]:
    """Those of them whom the kernel's OOM killer may be kept from: of each user the oldest, up to their share."""
    of_user: dict[int, set[ProcessIdentity]] = {}
    for each in sessions:
        of_user.setdefault(each.uid, set()).update(found[each.id])
    within: set[ProcessIdentity] = set()
    for vital in of_user.values():
        left = total_bytes // MOST_SHARE_OF_USER
        for identity in sorted(vital, key=lambda each: (each.start_ticks, each.pid)):
            try:
                held = procfs.read_resident(identity.pid)
            except KernelError:
                continue
            if held <= left:
                left -= held
                within.add(identity)
    return within


def overview_of(session: Session, working_set: WorkingSet | None, mount: str = MOUNT) -> SessionOverview:
    """The session as it is shown; who is protected by the names that they have now."""
    low, least = _kept(session_slice(session.uid), mount)
    return SessionOverview(
        id=session.id,
        uid=session.uid,
        leader_pid=session.leader.pid,
        type=session.type,
        desktop=session.desktop,
        is_active=session.is_active,
        cgroup=session.cgroup,
        protected=tuple(_named(session)),
        working_set_bytes=0 if working_set is None else working_set.size_bytes,
        memory_low_bytes=low,
        memory_min_bytes=least,
    )


def _cgroups(session: Session) -> list[str]:
    around = session_slice(session.uid)
    if session.is_registered or session.type in _GRAPHICAL:
        return [session.cgroup, around]
    # Nothing tells login1 of a startx, and its leader stays in logind's scope when a hook puts all others here.
    placed = f"{around}/{session_unit(session.id)}"
    return list(dict.fromkeys((session.cgroup, placed)))


def _processes(cgroups: Sequence[str], mount: str) -> Iterator[ProcessSample]:
    for cgroup in cgroups:
        try:
            with CgroupDir.open(cgroup, mount) as directory:
                members = directory.members()
        except KernelError:
            continue
        for pid in members:
            try:
                stat = procfs.read_stat(pid)
            except KernelError:
                continue
            if stat.state != _ZOMBIE:
                yield ProcessSample(ProcessIdentity(pid, stat.starttime), stat.ppid, os.fsdecode(stat.comm))


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _named(session: Session) -> Iterator[tuple[int, str]]:
    for identity in sorted(session.spared()):
        try:
            stat = procfs.read_stat(identity.pid)
        except KernelError:
            continue
        if stat.starttime == identity.start_ticks:
            yield identity.pid, os.fsdecode(stat.comm)


def _kept(cgroup: str, mount: str) -> tuple[int, int]:
    """memory.low and memory.min; 0 without the file."""
    try:
        with CgroupDir.open(cgroup, mount) as directory:
            return directory.memory_low() or 0, directory.memory_min() or 0
    except KernelError:
        return 0, 0
