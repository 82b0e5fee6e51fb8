# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kill path and the bus on one loop, as in the daemon: neither waits for the other, with twenty clients at once."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from gi.repository import GLib

from slicemgr.bus.objects import JOB, MANAGER, ROOT, SLICE, job_object, slice_object
from slicemgr.kernel.kill import ProvenProcess
from slicemgr.service import guard as guard_module
from slicemgr.service.guard import Ended
from slicemgr.service.record import Record
from slicemgr.service.report import HighReport, KillOutcome
from tests.bus.face import PROPERTIES, SECONDS, SYSTEM_JOB, Face, Peer, in_thread
from tests.service.test_kill_path import CHILD, KillPath, Offender

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from slicemgr.model.process import ProcessIdentity
    from slicemgr.service.report import Report
    from tests.bus.private_bus import PrivateBus

CLIENTS, CALLS = 20, 50
BUILD, WORK = slice_object("build.slice"), job_object(SYSTEM_JOB)
LIMITS = GLib.Variant("(sa{sv}a{sv})", ("build", {"MemoryMax": GLib.Variant("t", 1 << 30)}, {}))


@pytest.fixture
def face(bus: PrivateBus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Face]:
    monkeypatch.setattr(guard_module, "EXIT_TIMEOUT_SECONDS", 120.0)  # This machine may have much else to do.
    with Face(bus, tmp_path, user_uid=os.getuid(), monkeypatch=monkeypatch) as made:
        yield made


@pytest.fixture
def victim() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, "plain"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as made:
        assert made.stdout is not None
        made.stdout.readline()
        yield made
        made.kill()


class Late(ProvenProcess):
    """One that takes its time to end: it is ordered to, and still there until it is let go."""

    ordered: threading.Event
    go: threading.Event

    def kill(self) -> None:
        self.ordered.set()
        end = super().kill
        threading.Thread(target=lambda: (self.go.wait(120), end()), daemon=True).start()


def late() -> type[Late]:
    return type("LateOne", (Late,), {"ordered": threading.Event(), "go": threading.Event()})


def kill_path(face: Face, events: list[str], prove: Callable[[ProcessIdentity, str], Any] = ProvenProcess) -> KillPath:
    """What it does is told on the bus, as the daemon does it."""
    path = KillPath(prove=prove)
    append = path.told.append

    def report(told: Report) -> None:
        append(told)
        events.append("killed")
        face.face.tell(Record(told, 5.0, "build.slice", SYSTEM_JOB))

    path.guard._report = report
    return path


def heard(it: Peer, member: str) -> list[Any]:
    """All signals of this name from now on; to be asked for after a call of the same peer."""
    told: list[Any] = []
    it.connection.signal_subscribe(None, MANAGER, member, ROOT, None, 0, lambda *each: told.append(each[-1].unpack()))
    return told


def reads(it: Peer, at: int) -> bool:
    """One of several, by its number; whether it is as it has to be."""
    match at % 5:
        case 0:
            return bool(it.get("MemoryMax", BUILD, SLICE))
        case 1:
            return bool(it.manager("ListJobs", "(a{sv})", {}) == ([(SYSTEM_JOB, WORK)],))
        case 2:
            everything = GLib.Variant("(s)", (JOB,))
            return bool(it.call(WORK, PROPERTIES, "GetAll", everything)[0]["Unit"] == SYSTEM_JOB)
        case 3:
            return it.manager("GetSlice", "(sa{sv})", "build", {}) == (BUILD,)
        case _:
            # The history is read in a thread, and asked for on the loop.
            return it.manager("ListActions", "(tua{sv})", 0, 10, {}) == ([],)


def peers(face: Face) -> list[Peer]:
    return [face.peer() for _ in range(CLIENTS)]


def flood(face: Face, between: Callable[[], object] = lambda: None) -> list[bool]:
    """All clients at once, each its calls one after the other."""

    def client(it: Peer) -> list[bool]:
        return [reads(it, at) for at in range(CALLS)]

    asked = [in_thread(partial(client, it)) for it in peers(face)]
    between()
    return [answer for each in asked for answer in each.result(120)]


def test_a_thousand_calls_while_a_victim_takes_its_time(face: Face, victim: subprocess.Popen[bytes]) -> None:
    """All are answered before it ends; then it has, and that is told once."""
    events: list[str] = []
    prove = late()
    path = kill_path(face, events, prove)
    killing = asyncio.run_coroutine_threadsafe(path.end(Offender([victim.pid])), face._loop)
    assert prove.ordered.wait(SECONDS)
    answers = flood(face)
    assert len(answers) == CLIENTS * CALLS
    assert all(answers)
    assert (killing.done(), events, victim.poll()) == (False, [], None)
    prove.go.set()
    assert killing.result(120) is Ended.EXITED
    assert victim.wait() == -signal.SIGKILL
    assert [kill.outcome for kill in path.kills] == [KillOutcome.EXITED]
    assert events == ["killed"]


def test_a_kill_while_everybody_asks_and_waits(face: Face, victim: subprocess.Popen[bytes]) -> None:
    """Each client has a request that the service manager does not answer, and reads on; the kill is not among those who
    wait."""
    events: list[str] = []
    path = kill_path(face, events)
    face.manager.go_on.clear()
    waiting = [in_thread(partial(it.call, ROOT, MANAGER, "SetLimits", LIMITS)) for it in peers(face)]
    assert face.manager.begun.acquire(timeout=SECONDS)
    killing: list[Any] = []

    def kill() -> None:
        killing.append(asyncio.run_coroutine_threadsafe(path.end(Offender([victim.pid])), face._loop))
        assert killing[0].result(120) is Ended.EXITED
        events.append("over")

    answers = flood(face, kill)
    assert len(answers) == CLIENTS * CALLS
    assert all(answers)
    assert victim.wait() == -signal.SIGKILL
    assert events == ["killed", "over"]
    assert not [each for each in waiting if each.done()]
    face.manager.go_on.set()
    assert [each.result(120) for each in waiting] == [()] * CLIENTS
    assert len(face.manager.calls) == CLIENTS


def test_programs_are_told_what_is_no_news_to_a_person(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    """A warning of a memory.high that nobody asked for: a signal, and no bubble."""
    bubbles: list[Record] = []
    notifier = face.face._notifier
    assert notifier is not None
    monkeypatch.setattr(notifier, "tell", bubbles.append)
    warning = Record(HighReport(1.0, 5, 4, ""), 5.0, "build.slice", SYSTEM_JOB)
    context = GLib.MainContext()
    context.push_thread_default()
    try:
        listener = face.peer()
        told = heard(listener, "Warning")
        listener.get("Version")
        for is_for_people in (False, True):
            face.on_loop(_call(partial(face.face.tell, warning, is_for_people=is_for_people)))
            assert len(bubbles) == is_for_people
        listener.get("Version")  # Both were sent before the answer to this.
        while context.iteration(may_block=False):
            pass
        assert [details["memory-current"] for _, details in told] == [5, 5]
    finally:
        context.pop_thread_default()


async def _call(do: Callable[[], object]) -> None:
    do()


def test_each_kill_is_heard_in_the_middle_of_it_all(face: Face) -> None:
    """Five victims, one after the other, while a thousand calls are answered: five signals, in that order."""
    events: list[str] = []
    path = kill_path(face, events)
    context = GLib.MainContext()
    context.push_thread_default()
    try:
        listener = face.peer()
        told = heard(listener, "ProcessKilled")
        listener.get("Version")  # The subscription went out before this.
        with ExitStack() as stack:
            victims = []
            for _ in range(5):
                command = [sys.executable, "-c", CHILD, "plain"]
                child = stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
                stack.callback(child.kill)
                assert child.stdout is not None
                child.stdout.readline()
                victims.append(child)

            async def one_after_the_other() -> list[Ended]:
                return [await path.end(Offender([each.pid])) for each in victims]

            killing: list[Any] = []
            answers = flood(
                face, lambda: killing.append(asyncio.run_coroutine_threadsafe(one_after_the_other(), face._loop))
            )
            assert killing[0].result(120) == [Ended.EXITED] * 5
            assert len(answers) == CLIENTS * CALLS
            assert all(answers)
            assert [each.wait() for each in victims] == [-signal.SIGKILL] * 5

            def all_came() -> bool:
                context.iteration(False)
                listener.get("Version")
                return len(told) >= 5

            Face.until_outside(all_came)
            assert [details["pid"] for _, details in told] == [each.pid for each in victims]
    finally:
        context.pop_thread_default()
