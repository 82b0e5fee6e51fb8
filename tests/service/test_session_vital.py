# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who is vital in cgroups of plain files with real processes in them; and what their slice needs."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from slicemgr.config.schema import DEFAULT_MACHINE, DEFAULTS, Config
from slicemgr.kernel import procfs
from slicemgr.kernel.errors import ProcessGoneError
from slicemgr.model.process import ProcessIdentity
from slicemgr.model.quantity import Percent
from slicemgr.model.slice import SliceKind
from slicemgr.policy.vital import Vital
from slicemgr.policy.working_set import TELL_SECONDS, Protection, WorkingSet
from slicemgr.service import session_vital
from slicemgr.service.session_memory import SessionMemory
from slicemgr.service.session_vital import overview_of, session_slice, vital_of, within_share
from slicemgr.service.sessions import Session, SessionOverview
from tests.service.fake_cgroups import MIB, USER_ROOT, FakeCgroups, Family

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

UID = 1000
SCOPE = f"/user.slice/user-{UID}.slice/session-2.scope"
SLICE = session_slice(UID)
GIB = 1 << 30
CONFIG = Config(tuple(DEFAULTS.values()), DEFAULT_MACHINE)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


@pytest.fixture
def cgroups(tmp_path: Path) -> FakeCgroups:
    return FakeCgroups(tmp_path / "cgroup")


def pids_of(found: object) -> dict[int, Vital]:
    assert isinstance(found, dict)
    return {identity.pid: why for identity, why in found.items()}


def test_where_the_slice_of_a_users_desktop_is() -> None:
    assert f"{USER_ROOT}/session.slice" == SLICE


def test_startx(stack: ExitStack, cgroups: FakeCgroups) -> None:
    """All is in the session's own scope, also below the leader; another user's things are elsewhere."""
    desktop = Family(stack, 0, 0, name="sway")
    cgroups.add(SCOPE, pids=list(desktop))
    session = Session("2", UID, procfs.identity_of(desktop.pid), SCOPE, type="tty")
    assert pids_of(vital_of(session, mount=cgroups.mount)) == {desktop.pid: Vital.NAMED}
    assert pids_of(vital_of(session, ["cc1plus"], cgroups.mount)) == dict.fromkeys(desktop, Vital.NAMED)


def test_startx_that_a_hook_has_put_into_session_slice(stack: ExitStack, cgroups: FakeCgroups) -> None:
    """login1 knows the login program alone, which has stayed; another session's scope is another's."""
    login, desktop, other = Family(stack, name="login"), Family(stack, 0, name="sway"), Family(stack, name="i3")
    cgroups.add(SCOPE, pids=list(login))
    cgroups.add(f"{SLICE}/slicemgr_session-2.scope", pids=list(desktop))
    cgroups.add(f"{SLICE}/slicemgr_session-3.scope", pids=list(other))
    session = Session("2", UID, procfs.identity_of(login.pid), SCOPE, type="tty")
    assert pids_of(vital_of(session, mount=cgroups.mount)) == {
        desktop.pid: Vital.NAMED,
        login.pid: Vital.LAUNCHER,
    }


@pytest.mark.parametrize(("kind", "registered", "is_seen"), [
    ("wayland", False, True), ("x11", False, True), ("tty", False, False), ("tty", True, True),
])  # fmt: skip
def test_a_desktop_that_systemd_runs(
    stack: ExitStack, cgroups: FakeCgroups, kind: str, registered: bool, is_seen: bool
) -> None:
    """Its shell is in session.slice; and the same user's ssh is another session."""
    login, shell = Family(stack, name="login"), Family(stack, 0, name="gnome-shell")
    cgroups.add(SCOPE, pids=list(login))
    cgroups.add(f"{SLICE}/org.gnome.Shell@wayland.service", pids=list(shell))
    session = Session("2", UID, procfs.identity_of(login.pid), SCOPE, type=kind, is_registered=registered)
    found = pids_of(vital_of(session, mount=cgroups.mount))
    assert found == ({shell.pid: Vital.NAMED, login.pid: Vital.LAUNCHER} if is_seen else {})


def test_how_many(stack: ExitStack, cgroups: FakeCgroups, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest: what calls itself like them later gets nowhere."""
    monkeypatch.setattr(session_vital, "MOST_VITAL", 2)
    families = [Family(stack, name="sway") for _ in range(3)]
    cgroups.add(SCOPE, pids=[each.pid for each in families])
    session = Session("2", UID, procfs.identity_of(families[0].pid), SCOPE)
    oldest = sorted(families, key=lambda each: (procfs.identity_of(each.pid).start_ticks, each.pid))
    assert set(pids_of(vital_of(session, mount=cgroups.mount))) == {each.pid for each in oldest[:2]}


def test_nothing_can_be_read(cgroups: FakeCgroups) -> None:
    session = Session("2", UID, procfs.identity_of(1), SCOPE)
    assert vital_of(session, mount=cgroups.mount) == {}


def test_as_it_is_shown(stack: ExitStack, cgroups: FakeCgroups) -> None:
    """By the names of now; who has ended, or has another's number, is not there."""
    desktop = Family(stack, 0, name="sway")
    directory = cgroups.add(SLICE)
    (directory / "memory.low").write_text(f"{64 * MIB}\n")
    (directory / "memory.min").write_text("max\n")
    leader = procfs.identity_of(desktop.pid)
    other = replace(procfs.identity_of(desktop.children[0]), start_ticks=1)
    session = Session("2", UID, leader, SCOPE, type="x11", desktop="i3", asked=frozenset({leader, other}))
    assert overview_of(session, WorkingSet(5 * MIB, 0.0), cgroups.mount) == SessionOverview(
        id="2",
        uid=UID,
        leader_pid=desktop.pid,
        type="x11",
        desktop="i3",
        is_active=True,
        cgroup=SCOPE,
        protected=((desktop.pid, "sway"),),
        working_set_bytes=5 * MIB,
        memory_low_bytes=64 * MIB,
        memory_min_bytes=0,
    )
    assert overview_of(replace(session, uid=7), None, cgroups.mount).memory_low_bytes == 0


STAT = "anon {anon}\nfile 999\nshmem {shmem}\nactive_file {active}\ninactive_file {inactive}\n"


def holds(
    cgroups: FakeCgroups, *, anon: int, shmem: int = 0, active: int = 0, inactive: int = 0, stalled: float = 0
) -> None:
    """session.slice, with somebody in it."""
    directory = cgroups.add(SLICE, stalled=stalled)
    (directory / "memory.stat").write_text(
        STAT.format(anon=anon * MIB, shmem=shmem * MIB, active=active * MIB, inactive=inactive * MIB)
    )
    (directory / "cgroup.events").write_text("populated 1\nfrozen 0\n")


def test_what_a_session_needs_is_measured_and_told(cgroups: FakeCgroups) -> None:
    """At once, and then not before minutes have passed; the estimate goes on in between."""
    memory = SessionMemory(SLICE, total_bytes=16 * GIB, mount=cgroups.mount)

    def measure(now: float, config: Config = CONFIG, *, active: bool = True) -> Protection | None:
        return memory.measure(config, is_active=active, now_seconds=now)

    assert (measure(0.0), memory.working_set) == (None, None)
    holds(cgroups, anon=200, shmem=100, active=100, inactive=900)
    assert measure(10.0) == Protection(464 * MIB, 112 * MIB)
    holds(cgroups, anon=700, shmem=100, active=100)
    assert measure(20.0) is None
    assert memory.working_set == WorkingSet(900 * MIB, 20.0)
    assert measure(10.0 + TELL_SECONDS) == Protection(1024 * MIB, 256 * MIB)
    # Pushed out, and waiting for it: no less is needed for that.
    holds(cgroups, anon=100, stalled=50.0)
    assert measure(1e6) is None
    assert memory.working_set == WorkingSet(900 * MIB, 1e6)
    holds(cgroups, anon=100)
    assert measure(2e6, active=False) is None
    assert measure(3e6) == Protection(128 * MIB, 32 * MIB)


def test_what_was_told_is_told_again(cgroups: FakeCgroups) -> None:
    """When the configuration has set the slice anew."""
    memory = SessionMemory(SLICE, total_bytes=16 * GIB, mount=cgroups.mount)
    holds(cgroups, anon=400)
    assert memory.measure(CONFIG, is_active=True, now_seconds=0.0) is not None
    assert memory.measure(CONFIG, is_active=True, now_seconds=1.0) is None
    memory.forget_what_was_told()
    assert memory.measure(CONFIG, is_active=True, now_seconds=2.0) is not None


@pytest.mark.parametrize("changes", [{"memory_low": Percent(2000)}, {"memory_min": 1 << 20}, {"memory_low": None}])
def test_what_a_person_has_written_holds(cgroups: FakeCgroups, changes: dict[str, object]) -> None:
    """It is measured all the same, for who looks."""
    spec = replace(DEFAULTS[SliceKind.SESSION], **changes)  # type: ignore[arg-type]
    memory = SessionMemory(SLICE, total_bytes=16 * GIB, mount=cgroups.mount)
    holds(cgroups, anon=400)
    assert memory.measure(Config((spec,), DEFAULT_MACHINE), is_active=True, now_seconds=0.0) is None
    assert memory.measure(Config((), DEFAULT_MACHINE), is_active=True, now_seconds=0.0) is None
    assert memory.working_set == WorkingSet(400 * MIB, 0.0)


def test_a_slice_without_anybody_says_nothing(cgroups: FakeCgroups) -> None:
    """It stays, with the page cache of those that were there."""
    holds(cgroups, anon=0, active=500)
    (cgroups.add(SLICE) / "cgroup.events").write_text("populated 0\nfrozen 0\n")
    memory = SessionMemory(SLICE, total_bytes=16 * GIB, mount=cgroups.mount)
    assert (memory.measure(CONFIG, is_active=True, now_seconds=0.0), memory.working_set) == (None, None)


def test_what_one_user_may_keep_from_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest of his, in all of his sessions; another user has a share of his own. One has ended meanwhile."""
    sizes = {1: 3, 2: 3, 3: 2, 4: 5}

    def resident(pid: int) -> int:
        if pid not in sizes:
            raise ProcessGoneError(pid)
        return sizes[pid]

    monkeypatch.setattr(procfs, "read_resident", resident)
    one, two, three, four, gone = (ProcessIdentity(pid, pid) for pid in (1, 2, 3, 4, 5))
    sessions = [Session(name, uid, one, "/") for name, uid in (("a", 7), ("b", 7), ("c", 8))]
    found = {"a": [two, three, gone], "b": [one], "c": [four]}
    assert within_share(sessions, found, 10) == {one, three, four}
