# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who waits for a person's first process after PAM's hook has ended, and sees it to session.slice.

pam_exec calls while the login program is still alone: what it forks next is the login shell, and that is what a session
of startx or a plain window manager begins with. So a process of the hook's stays behind, for some seconds at most. It
is for text logins: what a display manager starts may be a desktop that the user's manager runs, and nobody knows yet.
"""

import os
import pwd
import select
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from slicemgr.kernel import procfs
from slicemgr.kernel.errors import KernelError
from slicemgr.model.process import ProcessIdentity
from slicemgr.service.session_hook import HookError, open_session
from slicemgr.service.session_leader import Leader

WAIT_SECONDS: Final = 30.0
"""For the shell; a login that asks for something after PAM (a new password) is none to wait for."""

LOOK_SECONDS: Final = 0.05
"""Between two looks at the login program's children. Nothing tells of a fork; an idle machine needs one look."""

CALL_SECONDS: Final = 25.0
"""For the user's daemon, which may have to be started: nobody waits for us."""

TEXT: Final = frozenset({"", "tty"})
"""XDG_SESSION_TYPE of a text login; not set where pam_systemd is not."""


def usher(login: ProcessIdentity, environment: Mapping[str, str]) -> None:
    """Wait, become the user, and open the session of their first process. For root, in a process of its own.

    Raises HookError.
    """
    try:
        person = pwd.getpwnam(environment["PAM_USER"])
        descriptor = os.pidfd_open(login.pid)
    except (OSError, KeyError) as error:
        raise HookError(f"{error}; try it from within the session") from error
    if person.pw_uid == 0:
        return  # Root has no session.slice.
    ended = select.poll()
    ended.register(descriptor, select.POLLIN)
    first = first_process(login, person.pw_uid, lambda seconds: bool(ended.poll(seconds * 1000)), time.monotonic)
    if first is None:
        return
    os.initgroups(person.pw_name, person.pw_gid)
    os.setgid(person.pw_gid)
    os.setuid(person.pw_uid)
    session = environment.get("XDG_SESSION_ID", "")
    of_person = {
        "XDG_RUNTIME_DIR": f"/run/user/{person.pw_uid}",
        "XDG_SESSION_ID": session,
        "XDG_SESSION_TYPE": environment.get("XDG_SESSION_TYPE", ""),
    }
    leader = Leader(first, session, is_run_by_units=False)
    open_session(leader, person.pw_uid, of_person, seconds=CALL_SECONDS)


def first_process(
    login: ProcessIdentity,
    uid: int,
    ended: Callable[[float], bool],
    clock: Callable[[], float],
    *,
    children: Callable[[int], Iterable[int]] = procfs.children_of,
) -> ProcessIdentity | None:
    """The login program's first child that is the user's in every respect; None if there is none in time.

    `ended` waits for so many seconds, and tells whether the login program has ended.
    """
    deadline = clock() + WAIT_SECONDS
    while clock() < deadline:
        for pid in children(login.pid):
            try:
                if procfs.read_uids(pid) == {uid}:
                    return procfs.identity_of(pid)
            except KernelError:
                continue
        if ended(LOOK_SECONDS):
            return None
    return None
