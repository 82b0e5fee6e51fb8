# SPDX-License-Identifier: LGPL-2.1-or-later
"""The sessions that live now: real leaders, and login1's word for the others."""

from __future__ import annotations

import asyncio
import os
import subprocess
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from slicemgr.bus.errors import DeniedError, InvalidArgumentError, LimitExceededError, NotFoundError, NotSupportedError
from slicemgr.bus.login1 import LoginSession
from slicemgr.bus.objects import session_object
from slicemgr.kernel import procfs
from slicemgr.kernel.pidfd import HandedProcess
from slicemgr.model.process import ProcessIdentity
from slicemgr.policy.vital import Vital
from slicemgr.service import session_registry
from slicemgr.service.overview import is_job_scope
from slicemgr.service.session_registry import SessionRegistry
from slicemgr.service.sessions import Session, session_id, session_unit

if TYPE_CHECKING:
    from collections.abc import Iterator

SECONDS = 20.0
SCOPE = "/user.slice/user-1000.slice/session-2.scope"


class Leader:
    """A real process, until it is let go."""

    def __init__(self, stack: ExitStack) -> None:
        self._process = stack.enter_context(subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL))
        stack.callback(self.end)
        self.identity = procfs.identity_of(self._process.pid)
        self.pidfd = os.pidfd_open(self._process.pid)
        stack.callback(os.close, self.pidfd)
        self.handed = HandedProcess(self.identity, frozenset({1000}), SCOPE)

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


class Bench:
    """A registry, and how often it has told."""

    def __init__(self, *, lists_logins: bool = False) -> None:
        self.changes = 0
        self._changed = asyncio.Event()
        self.it = SessionRegistry(changed=self._note, lists_logins=lists_logins)

    def _note(self) -> None:
        self.changes += 1
        self._changed.set()

    def register(self, leader: Leader, identifier: str = "2", uid: int = 1000, kind: str = "") -> Session:
        return self.it.register(leader.handed, leader.pidfd, identifier=identifier, uid=uid, kind=kind, desktop="i3")

    def ids(self) -> list[str]:
        return [each.id for each in self.it.sessions]

    async def changed(self) -> None:
        async with asyncio.timeout(SECONDS):
            await self._changed.wait()
            self._changed.clear()


def login(identifier: str, leader: int, *, kind: str = "user", active: bool = True, uid: int = 1000) -> LoginSession:
    return LoginSession(identifier, uid, leader, f"session-{identifier}.scope", "wayland", kind, "sway", active)


@pytest.mark.asyncio
async def test_a_session_from_its_beginning_to_its_leaders_end(stack: ExitStack) -> None:
    bench, leader = Bench(), Leader(stack)
    descriptors = len(os.listdir("/proc/self/fd"))
    session = bench.register(leader)
    assert bench.it.sessions == (session,)
    assert session == Session("2", 1000, leader.identity, SCOPE, desktop="i3", is_registered=True)
    assert bench.it.at(session_object("2")) == session
    bench.it.put_into("2", "/somewhere/else.scope")
    assert bench.it.sessions[0].cgroup == "/somewhere/else.scope"
    await bench.changed()
    leader.end()
    await bench.changed()
    assert bench.ids() == []
    assert len(os.listdir("/proc/self/fd")) == descriptors - 1  # That one was the pipe to the leader.
    with pytest.raises(NotFoundError):
        bench.it.at(session_object("2"))
    bench.it.put_into("2", "/too/late.scope")
    assert bench.ids() == []


@pytest.mark.asyncio
async def test_a_leader_that_has_ended_already(stack: ExitStack) -> None:
    """Between the call and its answer: forgotten in the loop's next turn."""
    bench, leader = Bench(), Leader(stack)
    leader.end()
    bench.register(leader)
    assert bench.ids() == ["2"]
    await bench.changed()
    await bench.changed()
    assert bench.ids() == []


@pytest.mark.asyncio
async def test_told_again(stack: ExitStack) -> None:
    """PAM, a user unit and autostart may all tell of it."""
    bench, leader = Bench(), Leader(stack)
    session = bench.register(leader)
    assert bench.register(leader) == session
    assert bench.register(leader, "leader-5") == session
    with pytest.raises(InvalidArgumentError, match=r"session 2 has another leader, process [0-9]+; try Unregister"):
        bench.register(Leader(stack))
    bench.it.close()


@pytest.mark.asyncio
async def test_how_many(stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one user; the others have theirs."""
    monkeypatch.setattr(session_registry, "MOST_SESSIONS", 1)
    bench = Bench()
    bench.register(Leader(stack))
    with pytest.raises(LimitExceededError, match="1 sessions of user 1000; try Unregister"):
        bench.register(Leader(stack), "3")
    bench.register(Leader(stack), "3", uid=1001)
    bench.it.unregister("2")
    bench.register(Leader(stack), "4")
    assert bench.ids() == ["3", "4"]
    bench.it.close()
    assert bench.ids() == []


@pytest.mark.asyncio
async def test_who_is_spared(stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who was asked for, and who was found; nobody after the session."""
    bench, leader, other = Bench(), Leader(stack), Leader(stack)
    bench.register(leader)
    assert bench.it.spared() == frozenset()
    bench.it.protect("2", [other.identity])
    assert bench.it.spared() == {other.identity}
    bench.it.learn({"2": {leader.identity: Vital.LAUNCHER}, "9": {ProcessIdentity(1, 1): Vital.NAMED}})
    assert bench.it.spared() == {leader.identity, other.identity}
    changes = bench.changes
    bench.it.learn({"2": {leader.identity: Vital.LAUNCHER}})
    assert bench.changes == changes
    monkeypatch.setattr(session_registry, "MOST_ASKED", 1)
    with pytest.raises(LimitExceededError):
        bench.it.protect("2", [leader.identity])
    other.end()  # Who has ended needs no place.
    bench.it.protect("2", [leader.identity])
    assert bench.it.sessions[0].asked == {leader.identity}
    bench.it.unregister("2")
    assert bench.it.spared() == frozenset()
    with pytest.raises(NotFoundError):
        bench.it.unregister("2")
    with pytest.raises(NotFoundError):
        bench.it.protect("2", [])


@pytest.mark.asyncio
async def test_login1s_word_for_a_session_that_somebody_has_told_of(stack: ExitStack) -> None:
    """Whether it is in front, and what nobody has said."""
    bench, leader = Bench(), Leader(stack)
    bench.register(leader)
    bench.it.follow({"2": login("2", 5, active=False)})
    (session,) = bench.it.sessions
    assert (session.type, session.desktop, session.is_active) == ("wayland", "i3", False)
    bench.it.follow({"3": login("3", os.getpid())})
    (session,) = bench.it.sessions
    assert (session.type, session.is_active) == ("", True)
    bench.it.close()


@pytest.mark.asyncio
async def test_a_session_of_another_users_is_nobodys_to_tell_of(stack: ExitStack) -> None:
    """Else its own processes would not be protected: whoever guesses the next number of login1's is not it."""
    bench, leader, other = Bench(lists_logins=True), Leader(stack), Leader(stack)
    bench.register(leader, "2", uid=7)
    bench.it.follow({"2": login("2", other.identity.pid)})
    (session,) = bench.it.sessions
    assert (session.uid, session.leader, session.is_registered) == (1000, other.identity, False)
    with pytest.raises(DeniedError):
        bench.register(leader, "2", uid=7)
    assert bench.register(leader, "2").uid == 1000
    bench.it.close()


@pytest.mark.asyncio
async def test_all_of_login1s(stack: ExitStack) -> None:
    """For the system's daemon: sessions of persons, whose leaders are there."""
    bench, leader = Bench(lists_logins=True), Leader(stack)
    logins = {
        "2": login("2", leader.identity.pid),
        "c1": login("c1", leader.identity.pid, kind="greeter"),
        "1": login("1", leader.identity.pid, kind="manager"),
        "c2": login("c2", leader.identity.pid, kind="background"),
        "9": login("9", 1 << 22),
    }
    bench.it.follow(logins)
    (session,) = bench.it.sessions
    assert session == Session("2", 1000, leader.identity, SCOPE, type="wayland", desktop="sway")
    with pytest.raises(NotSupportedError):
        bench.it.unregister("2")
    with pytest.raises(NotSupportedError):
        bench.it.protect("2", [])
    # Another process with that number is not its leader.
    bench.it._leaders = {("2", leader.identity.pid): ProcessIdentity(leader.identity.pid, 1)}
    bench.it.follow({**logins, "3": login("3", os.getpid())})
    assert next(each.leader.start_ticks for each in bench.it.sessions) == 1
    # Somebody tells of it: then it is the one.
    bench.register(leader)
    assert bench.ids() == ["2", "3"]
    assert bench.it.sessions[0].is_registered
    bench.it.follow({})
    assert bench.ids() == ["2"]
    bench.it.close()


@pytest.mark.parametrize(
    ("told", "called", "unit"),
    [
        ("2", "2", "slicemgr_session-2.scope"),
        ("c1", "c1", "slicemgr_session-c1.scope"),
        ("", "leader-4711", r"slicemgr_session-leader\x2d4711.scope"),
        ("leader-4711", "leader-4711", r"slicemgr_session-leader\x2d4711.scope"),
        ("a/b", "a/b", "slicemgr_session-a-b.scope"),
    ],
)
def test_what_it_is_called(told: str, called: str, unit: str) -> None:
    """And its scope, which is no job's."""
    assert session_id(told, 4711) == called
    assert session_unit(called) == unit
    assert not is_job_scope(unit)


@pytest.mark.parametrize("told", ["x" * 65, "a\nb", "ü", "\x1b[2J", "leader-2"])
def test_what_nobody_is_called(told: str) -> None:
    with pytest.raises(InvalidArgumentError):
        session_id(told, 1)
