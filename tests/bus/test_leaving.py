# SPDX-License-Identifier: LGPL-2.1-or-later
"""Somebody leaves the bus, or the bus leaves us, at every step of a request: nothing half done is left behind."""

from __future__ import annotations

import os
import subprocess
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from gi.repository import GLib

from slicemgr.bus.authority import Authority, Caller
from slicemgr.bus.call import Call
from slicemgr.bus.client import BUS, BUS_PATH
from slicemgr.bus.errors import DeniedError
from slicemgr.bus.objects import JOB, MANAGER, ROOT, job_object, slice_object
from slicemgr.service.holds import HoldKind
from tests.bus.dbusmocks import Mock, needs_dbusmock, polkit
from tests.bus.face import SECONDS, STRANGER, SYSTEM_JOB, Face, Peer, refusal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.bus.private_bus import PrivateBus

UID = os.getuid()
WORK = job_object(SYSTEM_JOB)
HOLD = GLib.Variant("(sssa{sv})", ("builds-grow", "Away", "", {}))
LIMITS = GLib.Variant("(sa{sv}a{sv})", ("build", {"MemoryMax": GLib.Variant("t", 1 << 30)}, {}))
NOTHING = GLib.Variant("(a{sv})", ({},))


@pytest.fixture
def face(bus: PrivateBus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Face]:
    with Face(bus, tmp_path, user_uid=UID, monkeypatch=monkeypatch) as made:
        yield made


@pytest.fixture
def system(bus: PrivateBus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Face]:
    """The system's, called by a stranger."""
    original = Authority._ask_bus

    async def ask_bus(self: Authority, method: str, name: str, bus_id: str) -> Any:
        told = await original(self, method, name, bus_id)
        return {**told, "UnixUserID": STRANGER} if method == "GetConnectionCredentials" else told

    monkeypatch.setattr(Authority, "_ask_bus", ask_bus)
    with Face(bus, tmp_path, user_uid=None, monkeypatch=monkeypatch) as made:
        yield made


@pytest.fixture
def pidfd() -> Iterator[int]:
    with ExitStack() as stack:
        process = stack.enter_context(subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL))
        assert process.stdin is not None
        stack.callback(process.stdin.close)
        descriptor = os.pidfd_open(process.pid)
        stack.callback(os.close, descriptor)
        yield descriptor


def restart(bus: PrivateBus) -> None:
    bus.kill()
    bus.start()


def is_as_before(face: Face, tasks: int) -> None:
    """The name is there again, and whoever changes something is heard; no task has been left over."""
    it = face.peer()
    face.until_named(it)
    face.until(lambda: not face.face._holds.all())
    assert it.get("Holds") == []
    (cookie,) = it.manager("Hold", "(sssa{sv})", "builds-yield", "Presenting", "", {})
    assert face.in_force[-1:] == [HoldKind.BUILDS_YIELD]
    it.manager("Release", "(u)", cookie)
    assert face.in_force[-1:] == [None]
    Face.until_outside(lambda: face.tasks() <= tasks)


@pytest.mark.parametrize("way", ["leaves", "bus restarts"])
def test_while_holding(face: Face, bus: PrivateBus, way: str) -> None:
    """The hold ends, what it meant too, and whoever is still there sees it."""
    tasks, holder = face.tasks(), face.peer()
    holder.call(ROOT, MANAGER, "Hold", HOLD)
    assert face.in_force == [HoldKind.BUILDS_GROW]
    holder.leave() if way == "leaves" else restart(bus)
    face.until(lambda: face.in_force == [HoldKind.BUILDS_GROW, None])
    is_as_before(face, tasks)


@pytest.mark.parametrize("way", ["leaves", "bus restarts"])
def test_before_the_answer(face: Face, bus: PrivateBus, pidfd: int, way: str) -> None:
    """The service manager is asked already: that is done to its end, once, and the answer is nobody's."""
    tasks, it = face.tasks(), face.peer()
    face.manager.go_on.clear()
    it.send(ROOT, MANAGER, "SetLimits", LIMITS)
    assert face.manager.begun.acquire(timeout=SECONDS)
    it.leave() if way == "leaves" else restart(bus)
    other = face.peer()
    face.until_named(other)
    face.manager.go_on.set()
    is_as_before(face, tasks)
    assert [name for name, _ in face.manager.calls] == ["set"]


@pytest.mark.parametrize("way", ["leaves", "bus restarts"])
def test_during_a_placement(face: Face, bus: PrivateBus, pidfd: int, way: str) -> None:
    """Its descriptor stays open until it is over, and is closed then."""
    tasks, it = face.tasks(), face.peer()
    place = GLib.Variant("(hsa{sv})", (0, "build", {}))
    mine = pid_of(pidfd)
    before = descriptors_of(mine)
    face.manager.go_on.clear()
    it.send(ROOT, MANAGER, "PlaceProcess", place, [pidfd])
    assert face.manager.begun.acquire(timeout=SECONDS)
    it.leave() if way == "leaves" else restart(bus)
    face.until_named(face.peer())
    assert descriptors_of(mine) > before
    face.manager.go_on.set()
    is_as_before(face, tasks)
    assert [name for name, _ in face.manager.calls] == ["start"]
    Face.until_outside(lambda: descriptors_of(mine) == before)


def pid_of(pidfd: int) -> bytes:
    with open(f"/proc/self/fdinfo/{pidfd}", "rb") as file:
        return next(line for line in file if line.startswith(b"Pid:"))


def descriptors_of(pid: bytes) -> int:
    """How many of ours are pidfds of this process."""
    count = 0
    for each in os.listdir("/proc/self/fdinfo"):
        try:
            with open(f"/proc/self/fdinfo/{each}", "rb") as file:
                count += pid in file.read()
        except OSError:
            continue
    return count


@pytest.mark.parametrize("way", ["leaves", "bus restarts"])
def test_a_paused_job_stays_paused(face: Face, bus: PrivateBus, way: str) -> None:
    """Not a hold: whoever comes next sees it, and resumes it; our end would thaw it."""
    tasks, it = face.tasks(), face.peer()
    it.call(WORK, JOB, "Pause", NOTHING)
    cgroup = face.slices[0].jobs[0].path
    it.leave() if way == "leaves" else restart(bus)
    other = face.peer()
    face.until_named(other)
    assert face.frozen == {cgroup}
    assert other.get("Paused", WORK, JOB) is True
    other.call(WORK, JOB, "Resume", NOTHING)
    assert face.frozen == frozenset()
    is_as_before(face, tasks)


@needs_dbusmock
@pytest.mark.parametrize("way", ["leaves", "bus restarts"])
@pytest.mark.parametrize("method", ["Hold", "SetLimits", "Pause", "PlaceProcess"])
def test_while_polkit_thinks(system: Face, bus: PrivateBus, pidfd: int, method: str, way: str) -> None:
    """Whatever it says to that in the end, a hold without a holder is none, and a bus that is gone says nothing."""
    tasks = system.tasks()
    where, body = {
        "Hold": ((ROOT, MANAGER), HOLD),
        "SetLimits": ((ROOT, MANAGER), LIMITS),
        "Pause": ((WORK, JOB), NOTHING),
        "PlaceProcess": ((ROOT, MANAGER), GLib.Variant("(hsa{sv})", (0, "build", {}))),
    }[method]
    with polkit(bus) as there:
        it = system.peer()
        there.mock("SetAllowed", "(as)", ["org.slicemgr1.manage"])
        there.mock("SimulateHang", "(b)", True)
        it.send(*where, method, body, [pidfd] if method == "PlaceProcess" else ())
        Face.until_outside(lambda: there.mock("HaveHangingCalls", "()")[0])
        if way == "leaves":
            it.leave()
            gone = it.connection.get_unique_name()
            Face.until_outside(lambda: not owned(there, gone))
            there.mock("ReleaseHangingCalls", "()")
        else:
            restart(bus)
    Face.until_outside(lambda: system.tasks() <= tasks)
    system.until_named(system.peer())
    system.until(lambda: not system.face._holds.all())
    assert not system.in_force or system.in_force[-1] is None
    if way == "bus restarts" or method == "Hold":
        assert not system.manager.calls
        assert system.frozen == frozenset()


def owned(there: Mock, name: str) -> bool:
    return bool(there._peer.call(BUS_PATH, BUS, "NameHasOwner", GLib.Variant("(s)", (name,)), to=BUS)[0])


def test_a_holder_that_left_before_it_was_known(face: Face) -> None:
    """Its end was told before there was a hold to end."""
    it = face.peer()
    it.manager("ListSlices", "(a{sv})", {})
    name = it.connection.get_unique_name()
    it.leave()
    face.until(lambda: True)
    caller = Caller(name, UID, _bus_id(face.peer()))
    call = Call(name, ROOT, MANAGER, "Hold", ("builds-grow", "Away", "", {}), (), caller.bus_id)
    with pytest.raises(DeniedError, match="can't hold builds-grow: the caller has left the bus; try again"):
        face.on_loop(face.face._limits._hold(call, caller))
    assert face.face._holds.all() == ()
    assert face.in_force[-1:] in ([], [None])


def _bus_id(peer: Peer) -> str:
    return str(peer.connection.get_guid())


def test_a_name_of_the_bus_before_is_somebody_elses(face: Face, bus: PrivateBus) -> None:
    """Who calls is asked only of the bus that the call came from."""
    first = face.peer()
    old = Call(first.connection.get_unique_name(), ROOT, MANAGER, "Reload", ({},), (), _bus_id(first))
    authority = face.face._authority
    assert face.on_loop(authority.caller(old)).uid == UID
    restart(bus)
    now = face.peer()
    face.until_named(now)
    assert _bus_id(now) != old.bus_id
    new = Call(now.connection.get_unique_name(), ROOT, MANAGER, "Reload", ({},), (), _bus_id(now))
    assert face.on_loop(authority.caller(new)).bus_id == new.bus_id
    stale = Call(new.sender, ROOT, MANAGER, "Reload", ({},), (), "0" * 32)
    with pytest.raises(DeniedError, match="the bus is another one by now"):
        face.on_loop(authority.caller(stale))
    assert not face.on_loop(authority.is_here(Caller(new.sender, UID, "0" * 32)))


def test_subscriptions_come_back(face: Face, bus: PrivateBus) -> None:
    """A hold of the second bus ends with its holder as one of the first: NameOwnerChanged is heard again."""
    for _ in range(3):
        restart(bus)
        holder = face.peer()
        face.until_named(holder)
        holder.call(ROOT, MANAGER, "Hold", HOLD)
        before = len(face.in_force)
        holder.leave()
        face.until(lambda: len(face.in_force) > before)  # noqa: B023
        assert face.in_force[-1] is None


def test_many_leave_in_the_middle(face: Face) -> None:
    """Nobody waits for an answer, and nobody else has to wait for them."""
    tasks, stays = face.tasks(), face.peer()
    for _ in range(40):
        with face.peer() as it:
            for _ in range(5):
                it.send(ROOT, MANAGER, "Hold", HOLD)
                it.send(
                    slice_object("build.slice"), "org.freedesktop.DBus.Properties", "GetAll", GLib.Variant("(s)", ("",))
                )
    assert stays.get("Scope") == "user"
    face.until(lambda: not face.face._holds.all())
    is_as_before(face, tasks)
    assert refusal(lambda: stays.manager("Release", "(u)", 1)).name == "org.slicemgr1.Error.NotFound"


def test_a_paused_job_can_be_stopped(face: Face) -> None:
    """SIGTERM is for those who run: else it would take until systemd's SIGKILL."""
    it = face.peer()
    it.call(WORK, JOB, "Pause", NOTHING)
    it.call(WORK, JOB, "Stop", NOTHING)
    assert face.manager.calls == [("stop", (SYSTEM_JOB,))]
    assert face.frozen == frozenset()


def test_a_fault_of_ours_is_said_and_no_end(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread is to be had for a while, as during a fork bomb: what is published follows again after that."""
    look, slices = face.face._publisher._look, face.slices

    def faulty() -> Any:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(face.face._publisher, "_look", faulty)
    face.on_loop(_want(face))
    face.until(lambda: any("can't start new thread" in each for each in face.said))
    face.slices = slices[:1]
    monkeypatch.setattr(face.face._publisher, "_look", look)
    face.until(lambda: len(face.face._publisher.moment.slices) == 1)
    assert len(face.said) == 1


async def _want(face: Face) -> None:
    face.face.want()
