# SPDX-License-Identifier: LGPL-2.1-or-later
"""Jobs that stand still: what our death would thaw is known before anybody is frozen, and nobody is left behind."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from slicemgr.bus.errors import FailedError
from slicemgr.kernel.cgroupfs import CgroupDir
from slicemgr.kernel.errors import CgroupGoneError, CgroupRefusedError
from slicemgr.service.paused import PausedJobs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SECONDS = 20.0
ONE, TWO, THREE = "/build.slice/1.scope", "/build.slice/2.scope", "/build.slice/3.scope"


class Machine:
    """Jobs that can be frozen, and the order of what was done."""

    def __init__(self, mount: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._mount = mount
        self.events: list[str] = []
        self.refused: set[str] = set()
        self.before_freeze: Callable[[str], object] = lambda _: None
        monkeypatch.setattr(CgroupDir.open.__func__, "__defaults__", (str(mount),))  # type: ignore[attr-defined]
        machine, original = self, CgroupDir.freeze

        def freeze(self: CgroupDir, frozen: bool) -> None:
            machine.before_freeze(self.path)
            if self.path in machine.refused:
                raise CgroupRefusedError(self.path, "freeze", 16)
            original(self, frozen)
            machine.events.append(f"{'freeze' if frozen else 'thaw'} {self.path[-7]}")

        monkeypatch.setattr(CgroupDir, "freeze", freeze)
        self.paused = PausedJobs(changed=self._changed)
        for path in (ONE, TWO, THREE):
            self.make(path)

    def _changed(self, paused: frozenset[str]) -> None:
        self.events.append("told " + "".join(sorted(path[-7] for path in paused)))

    def make(self, path: str) -> None:
        folder = self._mount / path.lstrip("/")
        folder.mkdir(parents=True)
        (folder / "cgroup.freeze").write_text("0")

    def remove(self, path: str) -> None:
        folder = self._mount / path.lstrip("/")
        (folder / "cgroup.freeze").unlink()
        folder.rmdir()

    def frozen(self) -> str:
        files = sorted(self._mount.glob("build.slice/*/cgroup.freeze"))
        return "".join(each.parent.name[0] for each in files if each.read_text() == "1")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_it_is_told_before_it_is_frozen_and_after_it_is_thawed(machine: Machine) -> None:
    """A death in between thaws one too many, never one too few; twice is as once."""
    for pause in (True, True, False, False):
        machine.paused.set(ONE, pause)
    assert machine.events == ["told 1", "freeze 1", "freeze 1", "thaw 1", "told ", "thaw 1"]
    assert (machine.frozen(), machine.paused.all()) == ("", frozenset())


def test_one_that_is_gone_is_nobodys_business(machine: Machine) -> None:
    with pytest.raises(CgroupGoneError):
        machine.paused.set("/build.slice/4.scope", True)
    assert machine.events == []


def test_one_that_cant_be_frozen_is_not_paused(machine: Machine) -> None:
    machine.refused = {ONE}
    with pytest.raises(CgroupRefusedError):
        machine.paused.set(ONE, True)
    assert machine.events == ["told 1", "told "]
    assert machine.paused.all() == frozenset()


def test_one_that_stands_still_already_stays_known(machine: Machine) -> None:
    """The kernel's no to the second order undoes nothing of the first; nor does its no to a resume."""
    machine.paused.set(ONE, True)
    machine.refused = {ONE}
    for pause in (True, False):
        with pytest.raises(CgroupRefusedError):
            machine.paused.set(ONE, pause)
    assert machine.frozen() == "1"
    assert machine.paused.all() == {ONE}


@pytest.mark.parametrize("trouble", ["gone", "refused"])
def test_one_that_cant_be_thawed_keeps_nobody_else_frozen(machine: Machine, trouble: str) -> None:
    for each in (ONE, TWO, THREE):
        machine.paused.set(each, True)
    if trouble == "gone":
        machine.remove(ONE)
    else:
        machine.refused = {ONE}
    machine.paused.thaw_all()
    assert machine.frozen() == ("1" if trouble == "refused" else "")
    assert machine.paused.all() == frozenset()


def test_nobody_is_paused_when_all_were_thawed(machine: Machine) -> None:
    """A request that waited behind a slow one while the daemon ended."""
    machine.paused.set(ONE, True)
    machine.paused.thaw_all()
    with pytest.raises(FailedError, match="the daemon is ending; try again"):
        machine.paused.set(TWO, True)
    machine.paused.set(ONE, False)
    assert (machine.frozen(), machine.paused.all()) == ("", frozenset())


def test_who_ends_is_forgotten(machine: Machine) -> None:
    """And who is no job any more (a reload has dropped its slice) is thawed: nobody could name it to resume it."""
    for each in (ONE, TWO, THREE):
        machine.paused.set(each, True)
    machine.remove(ONE)
    machine.paused.forget_all_but({THREE}, machine.paused.all())
    assert machine.frozen() == "3"
    assert machine.paused.all() == {THREE}


def test_a_look_that_began_before_the_pause_forgets_nobody(machine: Machine) -> None:
    """The job has come, and was paused, while somebody looked: the look does not know it."""
    known = machine.paused.all()
    machine.paused.set(ONE, True)
    machine.paused.forget_all_but((), known)
    assert machine.frozen() == "1"
    assert machine.paused.all() == {ONE}


class Turn:
    """A lock that says when somebody wants it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.wanted = threading.Semaphore(0)

    def __enter__(self) -> None:
        self.wanted.release()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def test_two_threads_lose_none(machine: Machine) -> None:
    """A look forgets one while a request resumes another: none comes back."""
    for each in (ONE, TWO):
        machine.paused.set(each, True)
    machine.remove(ONE)
    machine.paused._turn = turn = Turn()  # type: ignore[assignment]
    begun, go_on = threading.Event(), threading.Event()

    def wait(path: str) -> None:
        begun.set()
        assert go_on.wait(SECONDS)

    machine.before_freeze = wait
    resuming = threading.Thread(target=machine.paused.set, args=(TWO, False), daemon=True)
    resuming.start()
    assert begun.wait(SECONDS)
    forgetting = threading.Thread(target=machine.paused.forget_all_but, args=((TWO,), (ONE,)), daemon=True)
    forgetting.start()
    for _ in range(2):
        assert turn.wanted.acquire(timeout=SECONDS)
    assert machine.paused.all() == {ONE, TWO}
    go_on.set()
    for thread in (resuming, forgetting):
        thread.join(SECONDS)
        assert not thread.is_alive()
    assert machine.paused.all() == frozenset()
