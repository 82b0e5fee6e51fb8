# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who leads the session that a hook is called in, as tables of processes; and once of real ones."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicemgr.kernel import procfs
from slicemgr.kernel.errors import ProcessGoneError
from slicemgr.model.process import ProcessIdentity
from slicemgr.service.session_leader import Leader, Seen, find_leader, login_program, scopes_of, see
from tests.service.fake_cgroups import FakeCgroups

if TYPE_CHECKING:
    from pathlib import Path

UID = 1000
SCOPE = "/user.slice/user-1000.slice/session-2.scope"
MANAGER = "/user.slice/user-1000.slice/user@1000.service"


@dataclass(frozen=True)
class Row:
    pid: int
    ppid: int
    cgroup: str
    uid: int = UID
    name: str = "sh"


class Table:
    def __init__(self, *rows: Row) -> None:
        self._rows = {row.pid: row for row in rows}

    def look(self, pid: int) -> Seen:
        row = self._rows.get(pid)
        if row is None:
            raise ProcessGoneError(pid)
        return Seen(ProcessIdentity(pid, pid * 10), row.ppid, frozenset({row.uid}), row.cgroup, row.name)

    def scopes(self, uid: int) -> dict[str, list[int]]:
        assert uid == UID
        found: dict[str, list[int]] = {}
        for pid, row in self._rows.items():
            if "/session-" in row.cgroup:
                found.setdefault(row.cgroup.partition("/session-")[2].removesuffix(".scope"), []).append(pid)
        return found

    def leader_of(self, pid: int, session: str = "2") -> Leader | None:
        return find_leader(pid, UID, session, look=self.look, scopes=self.scopes)


# pid 1, then login, bash, startx, i3, and the hook, which is the last.
STARTX = [
    Row(1, 0, "/init.scope", 0),
    Row(10, 1, SCOPE, 0),
    Row(20, 10, SCOPE),
    Row(30, 20, SCOPE),
    Row(40, 30, SCOPE),
    Row(50, 40, SCOPE),
]
GNOME = [
    Row(1, 0, "/init.scope", 0),
    Row(10, 1, SCOPE, 0),
    Row(20, 10, SCOPE),
    Row(30, 20, SCOPE),
    Row(5, 1, f"{MANAGER}/init.scope"),
    Row(60, 5, f"{MANAGER}/session.slice/org.gnome.Shell@wayland.service"),
]


def at(pid: int, session: str = "2", *, by_units: bool = False) -> Leader:
    return Leader(ProcessIdentity(pid, pid * 10), session, by_units)


TABLES: dict[str, tuple[list[Row], Leader | None]] = {
    "startx: the login shell, and not login": (STARTX, at(20)),
    "a window manager started by a display manager": (
        [Row(10, 1, SCOPE, 0), Row(20, 10, SCOPE), Row(30, 20, SCOPE)],
        at(20),
    ),
    "an autostart file's, whose starter has ended": ([*STARTX, Row(60, 1, SCOPE), Row(61, 60, SCOPE)], at(20)),
    "the same, and its own parent has ended too": ([*STARTX, Row(61, 1, SCOPE)], at(20)),
    "what is in a cgroup of its own in between": (
        [Row(10, 1, SCOPE, 0), Row(20, 10, SCOPE), Row(30, 20, "/other.scope"), Row(40, 30, SCOPE), Row(50, 40, SCOPE)],
        at(20),
    ),
    "the same without logind: it is not above": (
        [Row(10, 1, "/", 0), Row(20, 10, "/"), Row(30, 20, "/other"), Row(40, 30, "/"), Row(50, 40, "/")],
        at(40),
    ),
    "the user's, with more rights in between": (
        [Row(10, 1, SCOPE), Row(20, 10, SCOPE, 0), Row(30, 20, SCOPE), Row(40, 30, SCOPE)],
        at(10),
    ),
    "nobody above us": ([Row(10, 1, SCOPE, 0), Row(20, 10, SCOPE)], None),
    "our parent has ended": ([Row(20, 10, SCOPE)], None),
    "GNOME, from a unit of its own": (
        [*GNOME, Row(70, 5, f"{MANAGER}/app.slice/slicemgr-session.service")],
        at(20, by_units=True),
    ),
    "GNOME, from a terminal": (
        [*GNOME, Row(70, 60, f"{MANAGER}/app.slice/vte.scope"), Row(71, 70, f"{MANAGER}/app.slice/vte.scope")],
        at(20, by_units=True),
    ),
    "a tree that has a root in the user's manager": (
        [Row(5, 1, f"{MANAGER}/init.scope"), Row(20, 5, SCOPE), Row(30, 20, SCOPE)],
        at(20),
    ),
    "another user's manager is not ours": (
        [Row(10, 1, MANAGER.replace("1000", "1001"), 0), Row(20, 10, SCOPE), Row(30, 20, SCOPE)],
        at(20),
    ),
    "a circle": ([Row(20, 30, SCOPE), Row(30, 20, SCOPE)], at(20)),
}


@pytest.mark.parametrize("name", TABLES)
def test_who_leads(name: str) -> None:
    """The last row is the hook."""
    rows, leader = TABLES[name]
    assert Table(*rows).leader_of(rows[-1].pid) == leader


HOOK = Row(70, 5, f"{MANAGER}/app.slice/slicemgr-session.service")


OF_SSH = [Row(80, 1, SCOPE.replace("2", "1"), 0), Row(81, 80, SCOPE.replace("2", "1"))]


@pytest.mark.parametrize("session", ["3", "../2", "2/x"])
def test_run_by_units_and_no_such_session(session: str) -> None:
    """It may be that of the last login, for whom the manager was started: as if nobody had said which."""
    assert Table(*GNOME, HOOK).leader_of(70, session) == at(20, by_units=True)
    assert Table(*GNOME, *OF_SSH, HOOK).leader_of(70, session) is None
    assert Table(HOOK).leader_of(70, session) is None


def test_run_by_units_and_told_which() -> None:
    """Then it is that one, whoever has a session manager's name elsewhere."""
    manager = Row(82, 81, SCOPE.replace("2", "1"), name="gnome-session-b")
    assert Table(*GNOME, *OF_SSH, manager, HOOK).leader_of(70, "2") == at(20, by_units=True)
    assert Table(*GNOME, *OF_SSH, manager, HOOK).leader_of(70, "7") == at(81, "1", by_units=True)


def test_run_by_units_and_nobody_says_which() -> None:
    """gnome-session keeps XDG_SESSION_ID to itself: the scope with a session manager in it, and not the one of ssh."""
    assert Table(*GNOME, *OF_SSH, HOOK).leader_of(70, "") is None
    manager = Row(31, 20, SCOPE, name="gnome-session-b")
    assert Table(*GNOME, manager, *OF_SSH, HOOK).leader_of(70, "") == at(20, by_units=True)


@pytest.mark.parametrize(
    ("cgroup", "told", "session"),
    [(SCOPE, "", "2"), (SCOPE, "7", "2"), ("/x.service", "7", "7"), ("/x.service", "", ""), ("/", "c1", "c1")],
)
def test_which_session_it_is(cgroup: str, told: str, session: str) -> None:
    """The kernel's word comes before a variable that may be another session's."""
    assert Table(Row(20, 1, cgroup), Row(30, 20, cgroup)).leader_of(30, told) == at(20, session)


def test_in_the_scope_the_oldest_of_several_trees() -> None:
    """Another user's in it, and who ends meanwhile, are none."""
    rows = [*GNOME, Row(15, 1, SCOPE), Row(16, 15, SCOPE), Row(12, 1, SCOPE, 0), Row(70, 5, f"{MANAGER}/x.service")]
    assert Table(*rows).leader_of(70) == at(15, by_units=True)
    found = find_leader(70, UID, "2", look=Table(*rows).look, scopes=lambda _: {"2": [99, 15, 16]})
    assert found == at(15, by_units=True)


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9), st.sampled_from([SCOPE, "/x"]), st.sampled_from([0, UID])))
)
def test_any_table(rows: list[tuple[int, int, str, int]]) -> None:
    """It ends, and never moves anybody else's, pid 1, or ourselves."""
    table = Table(*(Row(*row) for row in rows), Row(10, 5, SCOPE))
    leader = table.leader_of(10)
    if leader is not None:
        seen = table.look(leader.identity.pid)
        assert (seen.uids, seen.cgroup) == (frozenset({UID}), SCOPE)
        assert leader.identity.pid not in {1, 10}


@pytest.mark.parametrize(
    ("rows", "pid"),
    [
        # login, and pam_exec's child with a time-out around it.
        ([Row(1, 0, "/", 0), Row(10, 1, SCOPE, 0), Row(20, 10, SCOPE, 0), Row(30, 20, SCOPE, 0)], 10),
        # lightdm's own child is in the session, lightdm is not.
        ([Row(5, 1, "/system.slice/lightdm.service", 0), Row(10, 5, SCOPE, 0), Row(30, 10, SCOPE, 0)], 10),
        # Without pam_systemd before us: the parent.
        ([Row(5, 1, "/system.slice/x.service", 0), Row(30, 5, "/system.slice/x.service", 0)], 5),
        ([Row(1, 0, "/", 0), Row(5, 1, "/", 0), Row(30, 5, "/", 0)], 5),
    ],
)
def test_who_has_opened_it(rows: list[Row], pid: int) -> None:
    assert login_program(30, look=Table(*rows).look) == ProcessIdentity(pid, pid * 10)


def test_who_has_opened_it_has_ended() -> None:
    with pytest.raises(ProcessGoneError):
        login_program(30, look=Table(Row(30, 5, "/")).look)


TREE = """
import subprocess, sys
depth = int(sys.argv[1])
if depth:
    subprocess.run([sys.executable, "-c", sys.argv[2], str(depth - 1), sys.argv[2]])
else:
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_real_processes() -> None:
    """From the innermost of three: the outermost below us, who are somebody else here."""
    outer = subprocess.Popen(
        [sys.executable, "-c", TREE, "2", TREE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert outer.stdout is not None
    assert outer.stdin is not None
    with outer:
        assert outer.stdout.readline() == "ready\n"
        (middle,) = procfs.children_of(outer.pid)
        (inner,) = procfs.children_of(middle)

        def look(pid: int) -> Seen:
            found = see(pid)
            uid = -1 if pid == os.getpid() else 4711  # No user's manager has that.
            return Seen(found.identity, found.ppid, frozenset({uid}), "/session-2.scope", "")

        assert see(inner).ppid == middle
        assert find_leader(inner, 4711, "", look=look) == Leader(procfs.identity_of(outer.pid), "2", False)
        outer.stdin.close()


def test_scopes(tmp_path: Path) -> None:
    """logind's, and none of the manager's."""
    cgroups = FakeCgroups(tmp_path / "cgroup")
    assert scopes_of(UID, cgroups.mount) == {}
    cgroups.add(SCOPE, pids=[5, 6])
    cgroups.add(SCOPE.replace("2", "c1"), pids=[7])
    cgroups.add(f"{MANAGER}/app.slice/session-9.scope", pids=[8])
    assert scopes_of(UID, cgroups.mount) == {"2": {5, 6}, "c1": {7}}
