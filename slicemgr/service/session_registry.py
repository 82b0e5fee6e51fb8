# SPDX-License-Identifier: LGPL-2.1-or-later
"""The sessions that live now: told by somebody, or by login1; and who of their processes is never taken.

A session that somebody has told of is forgotten when its leader's pidfd says that it has exited: nobody has to say so,
and no other process that gets its number is taken for it.
"""

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from slicemgr.bus.errors import DeniedError, InvalidArgumentError, LimitExceededError, NotFoundError, NotSupportedError
from slicemgr.bus.login1 import LoginSession
from slicemgr.bus.objects import session_object
from slicemgr.kernel import procfs
from slicemgr.kernel.errors import KernelError
from slicemgr.kernel.pidfd import HandedProcess
from slicemgr.model.process import ProcessIdentity
from slicemgr.policy.vital import Vital
from slicemgr.service.sessions import Session

MOST_SESSIONS: Final = 32
"""Of one user, told by somebody. A person has one, and another one in a window to try it."""

MOST_ASKED: Final = 64
"""Processes of one session that somebody has asked to be spared: a slice of nobody but them could not be ended."""

PERSONS: Final = frozenset({"user", "user-early", "user-light", "user-early-light"})
"""login1's classes, the last three since systemd 256 and 258. A greeter is no session of a person's, nor a manager."""


@dataclass(frozen=True, slots=True)
class _Registered:
    session: Session
    pidfd: int
    """The leader's, ours to close."""


class SessionRegistry:
    """Belongs to the loop's thread, but for `sessions` and `spared`."""

    def __init__(self, *, changed: Callable[[], object], lists_logins: bool) -> None:
        """`changed` is called whenever `sessions` is another tuple. `lists_logins`: those of login1 are ours too."""
        self._changed = changed
        self._lists_logins = lists_logins
        self._registered: dict[str, _Registered] = {}
        self._logins: Mapping[str, LoginSession] = {}
        self._leaders: dict[tuple[str, int], ProcessIdentity] = {}
        """Of login1's sessions: who had that pid when we heard of it first."""
        self._vital: Mapping[str, Mapping[ProcessIdentity, Vital]] = {}
        self._spared: frozenset[ProcessIdentity] = frozenset()
        self.sessions: tuple[Session, ...] = ()
        """The oldest first; never changed, but another one when something has."""

    def spared(self) -> frozenset[ProcessIdentity]:
        """Who is never taken. From any thread."""
        return self._spared

    def at(self, path: str) -> Session:
        """By its object. Raises NotFoundError."""
        for each in self.sessions:
            if session_object(each.id) == path:
                return each
        raise NotFoundError(f"{path} is gone; try ListSessions")

    def register(
        self, process: HandedProcess, pidfd: int, *, identifier: str, uid: int, kind: str = "", desktop: str = ""
    ) -> Session:
        """Know this session from now on; `pidfd` stays the caller's. One that is known already is that one.

        `kind` is login1's type. Raises InvalidArgumentError: another one is called so; DeniedError: login1 has it, as
        another user's; LimitExceededError, OSError.
        """
        for known in self._registered.values():
            if known.session.leader == process.identity:
                return known.session
        if identifier in self._registered:
            leader = self._registered[identifier].session.leader.pid
            raise InvalidArgumentError(f"session {identifier} has another leader, process {leader}; try Unregister")
        if self._is_anothers(identifier, uid):
            raise DeniedError(f"session {identifier} is another user's; try $XDG_SESSION_ID")
        if sum(known.session.uid == uid for known in self._registered.values()) >= MOST_SESSIONS:
            raise LimitExceededError(f"{MOST_SESSIONS} sessions of user {uid}; try Unregister")
        session = Session(
            identifier, uid, process.identity, process.cgroup, type=kind, desktop=desktop, is_registered=True
        )
        own = os.dup(pidfd)
        self._registered[identifier] = _Registered(session, own)
        asyncio.get_running_loop().add_reader(own, self._leader_ended, identifier)
        self._rebuild()
        return session

    def is_known(self, identifier: str) -> bool:
        """Whether somebody has told of it."""
        return identifier in self._registered

    def put_into(self, identifier: str, cgroup: str) -> None:
        """Its processes are there now. One that has ended meanwhile is none."""
        self._change(identifier, lambda session: replace(session, cgroup=cgroup))

    def protect(self, identifier: str, processes: Iterable[ProcessIdentity]) -> None:
        """Spare these too, as long as they live. Raises NotFoundError, NotSupportedError, LimitExceededError."""
        session = self._told(identifier)
        asked = frozenset(each for each in session.asked if _lives(each)) | frozenset(processes)
        if len(asked) > MOST_ASKED:
            raise LimitExceededError(f"{MOST_ASKED} processes of one session are spared already; try fewer")
        self._change(identifier, lambda session: replace(session, asked=asked))

    def unregister(self, identifier: str) -> None:
        """Forget it. Raises NotFoundError, NotSupportedError: login1 tells of it."""
        self._told(identifier)
        self._forget(identifier)

    def follow(self, logins: Mapping[str, LoginSession]) -> None:
        """login1's sessions, all of them. Who has told of one under the name of another user's had guessed it."""
        self._logins = logins
        for identifier, known in list(self._registered.items()):
            if self._is_anothers(identifier, known.session.uid):
                self._forget(identifier)
        self._rebuild()

    def learn(self, vital: Mapping[str, Mapping[ProcessIdentity, Vital]]) -> None:
        """By id: who was found to be vital."""
        self._vital = vital
        self._rebuild()

    def close(self) -> None:
        """Know nobody any more."""
        for identifier in list(self._registered):
            self._forget(identifier)

    def _told(self, identifier: str) -> Session:
        if identifier in self._registered:
            return self._registered[identifier].session
        if identifier in self._logins:
            raise NotSupportedError(f"session {identifier} is login1's; try RegisterSession")
        raise NotFoundError(f"no session '{identifier}'; try ListSessions")

    def _is_anothers(self, identifier: str, uid: int) -> bool:
        """By login1's word."""
        return identifier in self._logins and self._logins[identifier].uid != uid

    def _change(self, identifier: str, change: Callable[[Session], Session]) -> None:
        known = self._registered.get(identifier)
        if known is not None:
            self._registered[identifier] = replace(known, session=change(known.session))
            self._rebuild()

    def _leader_ended(self, identifier: str) -> None:
        self._forget(identifier)

    def _forget(self, identifier: str) -> None:
        known = self._registered.pop(identifier)
        asyncio.get_running_loop().remove_reader(known.pidfd)
        os.close(known.pidfd)
        self._rebuild()

    def _rebuild(self) -> None:
        sessions = [self._with_login(known.session) for known in self._registered.values()]
        if self._lists_logins:
            sessions += self._of_login1()
        found = tuple(replace(each, vital=self._vital.get(each.id, {})) for each in sessions)
        if found != self.sessions:
            self.sessions = found
            self._spared = frozenset().union(*(each.spared() for each in found))
            self._changed()

    def _with_login(self, session: Session) -> Session:
        login = self._logins.get(session.id)
        if login is None or login.uid != session.uid:
            return session
        return replace(
            session,
            type=session.type or login.type,
            desktop=session.desktop or login.desktop,
            is_active=login.is_active,
        )

    def _of_login1(self) -> list[Session]:
        """Those that nobody else has told of."""
        leaders: dict[tuple[str, int], ProcessIdentity] = {}
        sessions = []
        for each in self._logins.values():
            if each.kind not in PERSONS or each.id in self._registered:
                continue
            key = (each.id, each.leader_pid)
            try:
                leaders[key] = self._leaders.get(key) or procfs.identity_of(each.leader_pid)
            except KernelError:  # It ends just now.
                continue
            cgroup = f"/user.slice/user-{each.uid}.slice/{each.scope or f'session-{each.id}.scope'}"
            sessions.append(
                Session(
                    each.id, each.uid, leaders[key], cgroup,
                    type=each.type, desktop=each.desktop, is_active=each.is_active,
                )
            )  # fmt: skip
        self._leaders = leaders
        return sessions


def _lives(identity: ProcessIdentity) -> bool:
    try:
        return procfs.identity_of(identity.pid) == identity
    except KernelError:
        return False
