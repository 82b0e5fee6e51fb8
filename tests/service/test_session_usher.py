# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who waits for the login shell: on whom, for how long, and as whom the session is opened."""

from __future__ import annotations

import os
import pwd
import subprocess
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from slicemgr.kernel import procfs
from slicemgr.kernel.errors import ProcessGoneError
from slicemgr.model.process import ProcessIdentity
from slicemgr.service import session_usher
from slicemgr.service.session_hook import HookError
from slicemgr.service.session_leader import Leader
from slicemgr.service.session_usher import LOOK_SECONDS, WAIT_SECONDS, first_process, usher

if TYPE_CHECKING:
    from collections.abc import Iterator

LOGIN = ProcessIdentity(100, 1)
UID = 4711


class Proc:
    """A clock, and who is there at each look."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *looks: dict[int, set[int] | None]) -> None:
        self.now = 0.0
        self.waited: list[float] = []
        self.ends_after = 1 << 20
        self._looks = list(looks)
        self._last: dict[int, set[int] | None] = {}
        monkeypatch.setattr(procfs, "read_uids", self._uids)
        monkeypatch.setattr(procfs, "identity_of", lambda pid: ProcessIdentity(pid, pid * 10))

    def _uids(self, pid: int) -> frozenset[int]:
        uids = self._last[pid]
        if uids is None:
            raise ProcessGoneError(pid)
        return frozenset(uids)

    def children(self, pid: int) -> list[int]:
        assert pid == LOGIN.pid
        if self._looks:
            self._last = self._looks.pop(0)
        return list(self._last)

    def ended(self, seconds: float) -> bool:
        self.waited.append(seconds)
        self.now += seconds
        return len(self.waited) > self.ends_after

    def first(self) -> ProcessIdentity | None:
        return first_process(LOGIN, UID, self.ended, lambda: self.now, children=self.children)


@pytest.mark.parametrize(
    ("looks", "found", "waits"),
    [
        ([{7: {UID}}], 7, 0),
        ([{}, {}, {7: {UID}}], 7, 2),
        # Root's still, then on its way (setuid changes one after the other), then the user's.
        ([{7: {0}}, {7: {0, UID}}, {7: {UID}}], 7, 2),
        ([{6: {0}, 7: {UID}}], 7, 0),
        # A helper that has ended between the two reads.
        ([{6: None, 7: {UID}}], 7, 0),
        ([{6: None}, {8: {UID}}], 8, 1),
        ([{7: {1001}}, {7: {1001}, 9: {UID}}], 9, 1),
    ],
)
def test_the_first_of_the_users(
    monkeypatch: pytest.MonkeyPatch, looks: list[dict[int, set[int] | None]], found: int, waits: int
) -> None:
    proc = Proc(monkeypatch, *looks)
    assert proc.first() == ProcessIdentity(found, found * 10)
    assert proc.waited == [LOOK_SECONDS] * waits


def test_nobody_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for ever: it is a process of root's in the person's session."""
    proc = Proc(monkeypatch, {7: {0}})
    assert proc.first() is None
    assert proc.now == pytest.approx(WAIT_SECONDS, abs=LOOK_SECONDS)


def test_the_login_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    proc = Proc(monkeypatch, {})
    proc.ends_after = 3
    assert proc.first() is None
    assert len(proc.waited) == 4


@pytest.fixture
def login() -> Iterator[tuple[ProcessIdentity, subprocess.Popen[str]]]:
    """A shell with a child, both ours."""
    with subprocess.Popen(["sh", "-c", "sleep 1000 & echo $!; wait"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        yield procfs.identity_of(process.pid), process
        os.kill(child, 9)  # The shell waits for it, and has not collected it yet.


def test_as_whom(login: tuple[ProcessIdentity, subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """The user, with all of root's groups gone before; nothing of PAM's environment but the session."""
    done: list[object] = []
    uid = UID
    monkeypatch.setattr(procfs, "read_uids", lambda _: frozenset({UID}))
    monkeypatch.setattr(pwd, "getpwnam", lambda _: SimpleNamespace(pw_name="anna", pw_uid=uid, pw_gid=5))
    for name in ("initgroups", "setgid", "setuid"):
        monkeypatch.setattr(os, name, lambda *values, name=name: done.append((name, *values)))
    monkeypatch.setattr(session_usher, "open_session", lambda *values, **_: done.append(values))
    usher(login[0], {"PAM_USER": "anna", "XDG_SESSION_ID": "2", "XDG_SESSION_TYPE": "tty", "LD_PRELOAD": "evil.so"})
    (child,) = procfs.children_of(login[1].pid)
    environment = {"XDG_RUNTIME_DIR": f"/run/user/{uid}", "XDG_SESSION_ID": "2", "XDG_SESSION_TYPE": "tty"}
    leader = Leader(procfs.identity_of(child), "2", is_run_by_units=False)
    assert done == [("initgroups", "anna", 5), ("setgid", 5), ("setuid", uid), (leader, uid, environment)]


@pytest.mark.parametrize("environment", [{}, {"PAM_USER": "no such user"}])
def test_nobody_to_become(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "setuid", lambda _: pytest.fail("nobody"))
    with pytest.raises(HookError, match="; try it from within the session"):
        usher(procfs.identity_of(os.getpid()), environment)


def test_root_stays_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """By whatever name."""
    monkeypatch.setattr(session_usher, "first_process", lambda *_: pytest.fail("waited"))
    monkeypatch.setattr(pwd, "getpwnam", lambda _: SimpleNamespace(pw_name="toor", pw_uid=0, pw_gid=0))
    usher(procfs.identity_of(os.getpid()), {"PAM_USER": "toor"})


def test_a_login_that_is_gone() -> None:
    with pytest.raises(HookError, match="try it from within the session"):
        usher(ProcessIdentity(1 << 22, 1), {"PAM_USER": "daemon"})
