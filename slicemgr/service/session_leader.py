# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which process is the leader of the session that we are in, by our ancestors and their cgroups; and who runs it.

A session of startx or a plain window manager is one tree: login (root's), the login shell, xinit, the window manager,
and this hook somewhere below. All are in logind's session-ID.scope, and what is to be moved is the topmost that is the
user's own: login itself stays, and with it the scope, so for logind the session goes on.

A desktop that the user's manager runs has no such tree: the hook is in user@UID.service, and so is the compositor. Then
nothing is to be moved, and the leader is who waits for the end of the session in the scope. Which scope, XDG_SESSION_ID
may tell; gnome-session keeps that from its units, and in a manager that outlives the logins it may be the last one's.
So where no scope has that id it is the only one, or else the one in which somebody has a session manager's name.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from slicemgr.kernel import procfs
from slicemgr.kernel.cgroupfs import MOUNT, CgroupDir, cgroup_of
from slicemgr.kernel.errors import KernelError
from slicemgr.model.cgroup import is_below, login_session_of
from slicemgr.model.process import ProcessIdentity
from slicemgr.model.vital import LEADING
from slicemgr.service.overview import user_root


@dataclass(frozen=True, slots=True)
class Seen:
    """One process, as far as this is about it."""

    identity: ProcessIdentity
    ppid: int
    uids: frozenset[int]
    cgroup: str
    name: str


@dataclass(frozen=True, slots=True)
class Leader:
    """Who leads a session, and whether the user's manager runs it: then all stay where they are."""

    identity: ProcessIdentity
    session: str
    """login1's id; empty if it has none."""
    is_run_by_units: bool


See = Callable[[int], Seen]
Scopes = Callable[[int], Mapping[str, Iterable[int]]]
"""Of a user: logind's sessions by id, and who is in their scopes."""


def see(pid: int) -> Seen:
    """Raises ProcessGoneError, NotPermittedError, NotSupportedError: no cgroup v2."""
    stat = procfs.read_stat(pid)
    name = stat.comm.decode(errors="surrogateescape")
    return Seen(ProcessIdentity(pid, stat.starttime), stat.ppid, procfs.read_uids(pid), cgroup_of(pid), name)


def scopes_of(uid: int, mount: str = MOUNT) -> Mapping[str, Iterable[int]]:
    """As cgroupfs has them; none where there is no logind."""
    found: dict[str, Iterable[int]] = {}
    try:
        with CgroupDir.open(f"/user.slice/user-{uid}.slice", mount) as user:
            for name in user.children():
                identifier = login_session_of(name)
                if identifier:
                    with user.child(name) as scope:
                        found[identifier] = scope.members()
    except KernelError:
        return found
    return found


def find_leader(pid: int, uid: int, session: str, *, look: See = see, scopes: Scopes = scopes_of) -> Leader | None:
    """Of the session that this process, of this user's, is in; None: of none. `session`: XDG_SESSION_ID, or empty.

    Raises KernelError.
    """
    own = look(pid)
    above = list(_ancestors(own, uid, look))
    # The kernel knows better: who has entered another session by ssh or su may have the variable of the first.
    own_session = login_session_of(own.cgroup)
    if not own_session and any(is_below(each.cgroup, user_root(uid)) for each in (own, *above)):
        return _leader_in_scope(uid, session, look, scopes(uid))
    same = [each.identity for each in _while_in(own.cgroup, above)]
    if own_session:
        # Not by our ancestors: autostart files are started by somebody who has ended.
        oldest = _oldest(_of_user(scopes(uid).get(own_session, ()), uid, look))
        same += [oldest] if oldest is not None and oldest != own.identity else []
    return Leader(same[-1], own_session or session, is_run_by_units=False) if same else None


def login_program(pid: int, *, look: See = see) -> ProcessIdentity:
    """Who has opened the session, for PAM: the topmost ancestor in the session's own scope, or else the parent.

    Raises KernelError.
    """
    own = look(pid)
    if login_session_of(own.cgroup):
        same = list(_while_in(own.cgroup, _ancestors(own, None, look)))
        if same:
            return same[-1].identity
    return look(own.ppid).identity


def _leader_in_scope(uid: int, session: str, look: See, scopes: Mapping[str, Iterable[int]]) -> Leader | None:
    is_told = session in scopes
    for identifier in [session] if is_told else sorted(scopes):
        found = _of_user(scopes.get(identifier, ()), uid, look)
        # The only one there is may be anybody's: a desktop of units that is not known by name.
        if is_told or len(scopes) == 1 or any(_is_leading(each.name) for each in found.values()):
            oldest = _oldest(found)
            return None if oldest is None else Leader(oldest, identifier, is_run_by_units=True)
    return None


def _is_leading(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in LEADING)


def _of_user(pids: Iterable[int], uid: int, look: See) -> Mapping[int, Seen]:
    return {each.identity.pid: each for each in _seen(pids, look) if each.uids == {uid} and each.identity.pid != 1}


def _oldest(found: Mapping[int, Seen]) -> ProcessIdentity | None:
    """Of those who have nobody above them there."""
    topmost = [each.identity for each in found.values() if each.ppid not in found]
    return min(topmost, key=lambda each: (each.start_ticks, each.pid), default=None)


def _seen(pids: Iterable[int], look: See) -> Iterator[Seen]:
    for pid in pids:
        try:
            yield look(pid)
        except KernelError:
            continue


def _ancestors(process: Seen, uid: int | None, look: See) -> Iterator[Seen]:
    """The nearest first, as long as they are this user's in every respect (None: anybody's), and not pid 1."""
    passed = {process.identity.pid}
    while process.ppid > 1 and process.ppid not in passed:
        passed.add(process.ppid)
        try:
            process = look(process.ppid)
        except KernelError:
            return
        if uid is not None and process.uids != {uid}:
            return
        yield process


def _while_in(cgroup: str, processes: Iterable[Seen]) -> Iterator[Seen]:
    for each in processes:
        if each.cgroup != cgroup:
            return
        yield each
