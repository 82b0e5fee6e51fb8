# SPDX-License-Identifier: LGPL-2.1-or-later
"""Place, stop, pause, resume: what is asked of whom, in which order, and who is refused before anything is done."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from slicemgr.bus.authority import Caller
from slicemgr.bus.call import Call
from slicemgr.bus.errors import DeniedError, RequestError
from slicemgr.bus.objects import JOB, MANAGER, ROOT, job_object
from slicemgr.kernel.errors import CgroupGoneError, CgroupNotPermittedError, ProcessGoneError
from slicemgr.kernel.pidfd import HandedProcess
from slicemgr.model.process import ProcessIdentity
from slicemgr.placement.backend import PlacementError
from slicemgr.placement.bus_connection import CallTimeoutError, ManagerError
from slicemgr.placement.systemd1 import JobFailedError
from slicemgr.service import job_requests
from slicemgr.service.adoption import Adopted
from slicemgr.service.job_requests import JobRequests
from slicemgr.service.permits import Permits
from slicemgr.service.requests import Requests
from slicemgr.service.worker import Worker
from tests.bus.fake_daemon import KATE, KATE_UNIT, USER_ROOT, moment

if TYPE_CHECKING:
    from slicemgr.service.published import Moment

ME, OTHER = 1000, 1001
NO_LIMIT = (1 << 64) - 1
USERS = moment()
SYSTEMS = moment(user_uid=None)
BUILD, APP = SYSTEMS.slices
OWN_OF_SYSTEM = replace(
    SYSTEMS,
    slices=(replace(BUILD, path="/build.slice", jobs=(replace(BUILD.jobs[0], path=f"/build.slice/{KATE_UNIT}"),)), APP),
)
"""build.slice is the system's own, app.slice a user's."""


class Desk:
    """Requests, and what they do in order."""

    def __init__(self, now: Moment, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: list[Any] = []
        self.process = HandedProcess(ProcessIdentity(4711, 5), frozenset({ME}), f"{USER_ROOT}/x.scope")
        self.polkit_says_no = False
        self.paused: frozenset[str] = frozenset()
        self.fails: Exception | None = None
        self.manager_fails: Exception | None = None
        self._now = now
        monkeypatch.setattr(job_requests, "process_behind", lambda descriptor: self.process)
        monkeypatch.setattr(job_requests, "adopt", self._adopt)
        jobs = JobRequests(
            moment=lambda: now,
            look=self._look,
            with_manager=self._with_manager,
            permits=Permits(user_uid=now.standing.user_uid, ask=self._ask),
            paused=self,  # type: ignore[arg-type]
            worker=Worker("test"),
        )
        self._requests = Requests(self._caller, self._again, jobs.methods())
        self.uid = ME

    async def _caller(self, call: Call) -> Caller:
        return Caller(call.sender, self.uid)

    async def _ask(self, caller: Caller, action: Any, what: str, *, interactive: bool) -> None:
        self.done.append((action.name, interactive))
        if self.polkit_says_no:
            raise DeniedError(f"{what}: no")

    async def _again(self) -> Moment:
        """Whoever is asked for and not known is looked for once more."""
        return self._now

    async def _look(self) -> Moment:
        self.done.append("look")
        return self._now

    def _with_manager(self, call: Any) -> Any:
        if self.manager_fails is not None:
            raise self.manager_fails
        return call(self)

    def begin_stop(self, unit: str) -> None:
        self._do("stop", unit)

    def all(self) -> frozenset[str]:
        """Who is paused."""
        return self.paused

    def set(self, cgroup: str, pause: bool) -> None:
        self._do("pause" if pause else "resume", cgroup)

    def _adopt(self, manager: Any, process: HandedProcess, **others: Any) -> Adopted:
        assert manager is self
        self._do("place", process.identity.pid, others)
        return Adopted("x.scope", "/x.scope", (4711,), 5, "")

    def _do(self, *what: Any) -> None:
        self.done.append(what)
        if self.fails is not None:
            raise self.fails

    def ask(self, method: str, *arguments: Any, path: str = ROOT, interface: str = MANAGER) -> Any:
        call = Call(":1.1", path, interface, method, arguments, (99,))
        return asyncio.run(self._requests(call))

    def refused(self, method: str, *arguments: Any, **others: Any) -> tuple[str, str]:
        with pytest.raises(RequestError) as error:
            self.ask(method, *arguments, **others)
        return type(error.value).__name__.removesuffix("Error"), str(error.value)


def job(method: str, desk: Desk, options: dict[str, Any] | None = None, uid: int = 0) -> Any:
    return desk.ask(method, options or {}, path=job_object(KATE_UNIT, uid), interface=JOB)


PLACED = {"unit": "x.scope", "control-group": "/x.scope", "pids": [4711], "charged-elsewhere": 5}
ALL_LIMITS = {"memory-high": 1 << 20, "memory-max": 1 << 30, "memory-swap-max": NO_LIMIT}


def test_a_process_is_placed_as_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """And seen before the caller hears of it."""
    desk = Desk(USERS, monkeypatch)
    assert desk.ask("PlaceProcess", 0, "app", {"name": "x", "tree": False, **ALL_LIMITS}) == ("x.scope", PLACED)
    limits = {"MemoryHigh": 1 << 20, "MemoryMax": 1 << 30, "MemorySwapMax": None}
    wanted = {"tree": False, "name": "x", "slice_unit": "app.slice", "limits": limits, "is_user": True}
    assert desk.done == [("place", 4711, wanted), "look"]


@pytest.mark.parametrize(("options", "unit"), [({}, "build.slice"), ({"slice": "app"}, "app.slice")])
def test_a_job_goes_to_builds_if_nobody_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], unit: str
) -> None:
    desk = Desk(USERS, monkeypatch)
    assert desk.ask("PlaceJob", 0, options) == (job_object("x.scope"), PLACED)
    wanted = {"tree": True, "name": "", "slice_unit": unit, "limits": {}, "is_user": True}
    assert desk.done == [("place", 4711, wanted), "look"]


@pytest.mark.parametrize(
    ("now", "changes", "arguments", "kind", "words"),
    [
        (USERS, {"pid": 1}, ("build", {}), "Denied", "can't place process 1 in build.slice: it is the service manager; try another process"),
        (USERS, {"pid": os.getpid()}, ("build", {}), "Denied", "it is this daemon, which is to outlive its jobs; try another process"),
        (USERS, {"uids": {0}}, ("build", {}), "Denied", "can't place process 4711 in build.slice: it is not user 1000's in every respect; try the system bus"),
        (USERS, {"uids": {ME, 0}}, ("build", {}), "Denied", "it is not user 1000's in every respect; try the system bus"),
        (USERS, {"uid": OTHER}, ("build", {}), "Denied", "this is the bus of user 1000; try your own"),
        (USERS, {}, ("bild", {}), "NotFound", "no slice 'bild'; try 'build'"),
        (USERS, {}, ("build", {"slice": "x"}), "InvalidArgument", "no option 'slice'"),
        (USERS, {}, ("build", {"tree": 1}), "InvalidArgument", "'tree' is a boolean; try org.slicemgr1.xml"),
        (USERS, {}, ("build", {"memory-max": 5}), "InvalidArgument", "'MemoryMax' is in bytes, and 5 is less than 1 MiB; try more"),
        (USERS, {}, ("build", {"memory-high": 2 << 30, "memory-max": 1 << 30}), "InvalidArgument", "'MemoryHigh' is above 'MemoryMax'; try 15/16 of it"),
        (SYSTEMS, {}, ("build", {}), "NotSupported", "can't place process 4711 in build.slice: it is user 1000's; try that user's session bus"),
    ],
)  # fmt: skip
def test_who_is_not_placed(
    monkeypatch: pytest.MonkeyPatch, now: Moment, changes: dict[str, Any], arguments: Any, kind: str, words: str
) -> None:
    desk = Desk(now, monkeypatch)
    identity = ProcessIdentity(changes.get("pid", 4711), 5)
    desk.process = replace(desk.process, identity=identity, uids=frozenset(changes.get("uids", {ME})))
    desk.uid = changes.get("uid", ME)
    name, text = desk.refused("PlaceProcess", 0, *arguments)
    assert name == kind
    assert words in text
    assert desk.done == []


@pytest.mark.parametrize("says_no", [True, False])
def test_into_the_systems_slices_by_polkits_leave_alone(monkeypatch: pytest.MonkeyPatch, says_no: bool) -> None:
    """One's own process too: whoever is in there lives by root's limits."""
    desk = Desk(OWN_OF_SYSTEM, monkeypatch)
    desk.polkit_says_no = says_no
    if says_no:
        assert desk.refused("PlaceProcess", 0, "build", {"interactive": True})[0] == "Denied"
    else:
        desk.ask("PlaceProcess", 0, "build", {"interactive": True})
    assert desk.done[0] == ("MANAGE", True)
    assert len(desk.done) == (1 if says_no else 3)


def test_a_descriptor_that_did_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(USERS, monkeypatch)
    for index in (1, -1, (1 << 31) - 1):
        assert desk.refused("PlaceJob", index, {})[0] == "InvalidArgument"
    assert desk.done == []


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (ProcessGoneError(4711), "NotFound", "the process has ended; try one that lives"),
        (PlacementError("left process 4711 in /x; try --backend embedded"), "Failed", "left process 4711 in /x; try --backend embedded"),
        (ManagerError("org.freedesktop.DBus.Error.AccessDenied", "no"), "Failed", "systemd says: no; try 'systemctl status'"),
        (CallTimeoutError("no answer within 25 s"), "Failed", "no answer within 25 s; try 'systemctl status'"),
        (JobFailedError("x.scope", "canceled"), "Failed", "starting x.scope ended as 'canceled'; try 'systemctl status'"),
        (OSError(24, "Too many open files"), "Failed", "Too many open files; try again"),
    ],
)  # fmt: skip
def test_what_goes_wrong_is_said(monkeypatch: pytest.MonkeyPatch, error: Exception, kind: str, words: str) -> None:
    """And nothing is told as new."""
    desk = Desk(USERS, monkeypatch)
    desk.fails = error
    assert desk.refused("PlaceProcess", 0, "build", {}) == (kind, words)
    assert "look" not in desk.done


@pytest.mark.parametrize(
    ("method", "done"),
    [
        ("Stop", [("stop", KATE_UNIT)]),
        ("Pause", [("pause", KATE), "look"]),
        ("Resume", [("resume", KATE), "look"]),
    ],
)
def test_a_job_of_ones_own(monkeypatch: pytest.MonkeyPatch, method: str, done: list[Any]) -> None:
    desk = Desk(USERS, monkeypatch)
    assert job(method, desk) == ()
    assert desk.done == done


@pytest.mark.parametrize(
    ("method", "caller", "done"),
    [
        ("Pause", ME, [("MANAGE_OWN_JOBS", False), ("pause", KATE), "look"]),
        ("Resume", ME, [("MANAGE_OWN_JOBS", False), ("resume", KATE), "look"]),
        ("Pause", OTHER, [("MANAGE", False), ("pause", KATE), "look"]),
    ],
)
def test_a_users_job_by_the_system(monkeypatch: pytest.MonkeyPatch, method: str, caller: int, done: list[Any]) -> None:
    desk = Desk(SYSTEMS, monkeypatch)
    desk.uid = caller
    job(method, desk, uid=ME)
    assert desk.done == done


@pytest.mark.parametrize(
    ("now", "method", "uid", "kind", "words"),
    [
        (SYSTEMS, "Stop", ME, "NotSupported", f"can't stop {KATE_UNIT}: it is user 1000's; try that user's session bus"),
        (moment(dry_run=True), "Stop", 0, "NotSupported", f"can't stop {KATE_UNIT}: this daemon is a dry run; try without --dry-run"),
        (moment(dry_run=True), "Pause", 0, "NotSupported", f"can't pause {KATE_UNIT}: this daemon is a dry run; try without --dry-run"),
        (USERS, "Resume", ME, "NotFound", "is gone; try GetManagedObjects"),
    ],
)  # fmt: skip
def test_a_job_that_is_not_touched(
    monkeypatch: pytest.MonkeyPatch, now: Moment, method: str, uid: int, kind: str, words: str
) -> None:
    desk = Desk(now, monkeypatch)
    name, text = desk.refused(method, {}, path=job_object(KATE_UNIT, uid), interface=JOB)
    assert name == kind
    assert words in text
    assert desk.done == []


@pytest.mark.parametrize("method", ["Stop", "Pause", "Resume"])
def test_another_users_job_without_leave(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    desk = Desk(OWN_OF_SYSTEM, monkeypatch)
    desk.polkit_says_no = True
    assert desk.refused(method, {"interactive": False}, path=job_object(KATE_UNIT), interface=JOB)[0] == "Denied"
    assert desk.done == [("MANAGE", False)]


@pytest.mark.parametrize(
    ("error", "kind"), [(CgroupGoneError(KATE), "NotFound"), (CgroupNotPermittedError(KATE, "freeze"), "Denied")]
)
def test_a_job_that_ends_before_it_is_paused(monkeypatch: pytest.MonkeyPatch, error: Exception, kind: str) -> None:
    desk = Desk(USERS, monkeypatch)
    desk.fails = error
    assert desk.refused("Pause", {}, path=job_object(KATE_UNIT), interface=JOB)[0] == kind
    assert desk.done == [("pause", KATE)]
