# SPDX-License-Identifier: LGPL-2.1-or-later
"""A running process tree put into a scope: who is moved, who is proven to be there, and who is not."""

from __future__ import annotations

import os
import select
import signal
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from slicemgr.kernel import procfs
from slicemgr.kernel.errors import ProcessGoneError
from slicemgr.kernel.pidfd import HandedProcess, process_behind
from slicemgr.kernel.proctree import ProcessTree
from slicemgr.model.process import ProcessIdentity
from slicemgr.placement import systemd
from slicemgr.placement.backend import PlacementError
from slicemgr.placement.bus_connection import ManagerError
from slicemgr.placement.systemd1 import PROCESS_UNKNOWN, JobFailedError
from slicemgr.service import adoption
from slicemgr.service.adoption import adopt, adopt_session, why_not_to_move
from tests.service.fake_cgroups import Family

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from slicemgr.kernel.formats import ProcStat

SECONDS = 20
ELSEWHERE = "/user.slice/elsewhere.scope"
UNKNOWN = ManagerError(PROCESS_UNKNOWN, "Process with ID 7 does not exist.")
REFUSED = ManagerError("org.freedesktop.DBus.Error.AccessDenied", "no")


class Manager:
    """Moves whom it is told to, in a table, as systemd: a list in which one has ended moves nobody."""

    def __init__(self) -> None:
        self.places: dict[int, str] = {}
        self.calls: list[tuple[str, list[int]]] = []
        self.properties: Mapping[str, Any] = {}
        self.fails: Exception | None = None
        self.refuses: set[int] = set()
        """Pids that are not to be had, or have ended."""
        self.error = UNKNOWN
        self.meanwhile: list[Callable[[], object]] = []
        """What happens after each call, the first one first."""
        self.leaves: set[int] = set()
        """Whom it says that it has moved, and has not."""

    def cgroup_of(self, pid: int) -> str:
        procfs.read_stat(pid)  # Raises ProcessGoneError.
        return self.places.get(pid, ELSEWHERE)

    def start_transient_unit(self, unit: str, properties: Mapping[str, Any]) -> tuple[str, ...]:
        self.properties = properties
        self._move(unit, properties["PIDs"])
        return ()

    def attach_processes(self, unit: str, pids: Sequence[int]) -> None:
        self._move(unit, pids)

    def _move(self, unit: str, pids: Sequence[int]) -> None:
        self.calls.append((unit, list(pids)))
        try:
            if self.fails is not None:
                raise self.fails
            if self.refuses.intersection(pids):
                raise self.error
            for pid in pids:
                if pid not in self.leaves:
                    self.places[pid] = f"/build.slice/{unit}"
        finally:
            if self.meanwhile:
                self.meanwhile.pop(0)()


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> Manager:
    made = Manager()
    for module in (systemd, adoption):
        monkeypatch.setattr(module, "cgroup_of", made.cgroup_of)
    return made


@pytest.fixture
def family() -> Iterator[Family]:
    with ExitStack() as stack:
        yield Family(stack, 1, 1)


def behind(pid: int) -> HandedProcess:
    descriptor = os.pidfd_open(pid)
    try:
        return process_behind(descriptor)
    finally:
        os.close(descriptor)


def moved(manager: Manager, process: HandedProcess, *, tree: bool = True, **others: Any) -> adoption.Adopted:
    arguments = {"name": "", "slice_unit": "build.slice", "limits": {}, "is_user": True, **others}
    return adopt(manager, process, tree=tree, **arguments)  # type: ignore[arg-type]


def test_a_tree_goes_in_one(manager: Manager, family: Family) -> None:
    told = moved(manager, behind(family.pid), limits={"MemoryMax": 5 << 30, "MemoryHigh": None})
    assert told.unit.startswith("slicemgr-python")
    assert told.unit.endswith(f"-{family.pid}.scope")
    assert told.cgroup == f"/build.slice/{told.unit}"
    assert told.pids == tuple(sorted(family))
    assert told.charged_elsewhere_bytes > 2 << 20
    assert manager.calls == [(told.unit, [family.pid, *sorted(family.children)])]
    assert manager.properties["MemoryMax"] == 5 << 30
    assert "MemoryHigh" not in manager.properties
    assert manager.properties["Slice"] == "build.slice"


def test_one_process_alone(manager: Manager, family: Family) -> None:
    told = moved(manager, behind(family.pid), tree=False, name="mine")
    assert (told.unit, told.pids) == (f"slicemgr-mine-{family.pid}.scope", (family.pid,))
    assert manager.calls == [(told.unit, [family.pid])]


def test_a_session_goes_to_its_slice(manager: Manager, family: Family) -> None:
    told = adopt_session(manager, behind(family.pid), unit="slicemgr_session-2.scope")  # type: ignore[arg-type]
    assert (told.unit, told.pids) == ("slicemgr_session-2.scope", tuple(sorted(family)))
    assert manager.properties["Slice"] == "session.slice"


def test_who_is_forked_meanwhile_follows(manager: Manager, family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was no descendant yet when they were listed."""
    hidden = {family.children[1]}
    original = ProcessTree.members
    monkeypatch.setattr(ProcessTree, "members", lambda self: original(self) - hidden)
    manager.meanwhile = [hidden.clear]
    told = moved(manager, behind(family.pid))
    assert told.pids == tuple(sorted(family))
    assert [pids for _, pids in manager.calls] == [[family.pid, family.children[0]], [family.children[1]]]


def test_one_of_the_list_has_ended(manager: Manager, family: Family) -> None:
    """systemd moves nobody then: those that live are listed again."""
    ended = family.children[0]
    manager.refuses = {ended}
    manager.meanwhile = [lambda: end(ended)]
    told = moved(manager, behind(family.pid))
    assert told.pids == (family.pid, family.children[1])
    assert [len(pids) for _, pids in manager.calls] == [3, 2]


def test_one_always_has_ended(manager: Manager, family: Family) -> None:
    """In a build: then it goes alone, and whoever can be had follows, one by one."""
    never = family.children[0]
    manager.refuses = {never}
    told = moved(manager, behind(family.pid))
    assert told.pids == (family.pid, family.children[1])
    assert never not in manager.places
    assert manager.properties["PIDs"] == [family.pid]


def test_one_that_may_not_be_moved_stays(manager: Manager, family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scope is there by then: to say that nothing was done would be wrong."""
    hidden = {family.children[1]}
    original = ProcessTree.members
    monkeypatch.setattr(ProcessTree, "members", lambda self: original(self) - hidden)
    manager.meanwhile = [hidden.clear]
    manager.refuses, manager.error = set(hidden), REFUSED
    told = moved(manager, behind(family.pid))
    assert told.pids == (family.pid, family.children[0])


def end(child: int) -> None:
    """Returns when it has; it stays as a zombie, because its parent does not look."""
    descriptor = os.pidfd_open(child)
    os.kill(child, signal.SIGKILL)
    exited = select.poll()
    exited.register(descriptor, select.POLLIN)
    assert exited.poll(SECONDS * 1000)
    os.close(descriptor)


def test_who_ends_right_after_it_was_moved_is_not_reported(manager: Manager, family: Family) -> None:
    ended = family.children[0]
    manager.meanwhile = [lambda: end(ended)]
    assert moved(manager, behind(family.pid)).pids == (family.pid, family.children[1])


def test_whom_it_says_it_has_moved_and_has_not(manager: Manager, family: Family) -> None:
    """Proven by /proc/PID/cgroup, not by the answer."""
    manager.leaves = {family.children[0]}
    assert moved(manager, behind(family.pid)).pids == (family.pid, family.children[1])


def test_the_process_itself_was_not_moved(manager: Manager, family: Family) -> None:
    manager.leaves = {family.pid}
    with pytest.raises(PlacementError, match="left process"):
        moved(manager, behind(family.pid), tree=False)


def test_another_one_has_its_number_before(manager: Manager, family: Family) -> None:
    """A request waits for a person's password, or behind another one: the number may be a stranger's by then."""
    process = behind(family.pid)
    earlier = ProcessIdentity(family.pid, process.identity.start_ticks - 1)
    with pytest.raises(ProcessGoneError):
        moved(manager, replace(process, identity=earlier))
    assert manager.calls == []


def test_another_one_has_its_number_afterwards(
    manager: Manager, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is in the scope under a number that was meant is not reported as moved."""
    replaced, original = family.children[0], procfs.read_stat
    has_been: list[int] = []

    def read_stat(pid: int) -> ProcStat:
        found = original(pid)
        return replace(found, starttime=found.starttime + 1) if pid in has_been else found

    monkeypatch.setattr(procfs, "read_stat", read_stat)
    monkeypatch.setattr(ProcessTree, "members", lambda self: set() if has_been else {*family.children})
    manager.meanwhile = [lambda: has_been.append(replaced)]
    assert moved(manager, behind(family.pid)).pids == (family.pid, family.children[1])


@pytest.mark.parametrize("error", [REFUSED, JobFailedError("x.scope", "failed"), OSError(5, "Input/output error")])
def test_a_refusal_moves_nobody(manager: Manager, family: Family, error: Exception) -> None:
    manager.fails = error
    with pytest.raises(type(error)):
        moved(manager, behind(family.pid))
    assert len(manager.calls) == 1
    assert manager.places == {}


def test_it_ends_while_it_is_placed(manager: Manager, family: Family) -> None:
    process = behind(family.pid)
    manager.fails = UNKNOWN
    stdin = family.process.stdin
    assert stdin is not None

    def ended() -> None:
        stdin.close()
        family.process.wait()

    manager.meanwhile = [ended]
    with pytest.raises(ProcessGoneError):
        moved(manager, process)
    assert len(manager.calls) == 1


def test_others_children_stay(manager: Manager, family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """sudo in a build: not ours, and systemd would refuse it."""
    other, original = family.children[0], procfs.read_uids
    monkeypatch.setattr(procfs, "read_uids", lambda pid: frozenset({4711}) if pid == other else original(pid))
    assert moved(manager, behind(family.pid)).pids == (family.pid, family.children[1])
    assert other not in manager.places


def test_we_stay_where_we_are(manager: Manager, family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell that has started us is placed with its descendants, and we are one."""
    monkeypatch.setattr(ProcessTree, "members", lambda self: {*family.children, os.getpid()})
    assert moved(manager, behind(family.pid)).pids == tuple(sorted(family))
    assert os.getpid() not in manager.places


@pytest.mark.parametrize(
    ("pid", "why"),
    [(1, "it is the service manager"), (os.getpid(), "it is this daemon, which is to outlive its jobs"), (0, "")],
)
def test_who_is_never_moved(pid: int, why: str) -> None:
    process = HandedProcess(ProcessIdentity(pid or os.getpid() + 1, 1), frozenset({0}), "/")
    assert why_not_to_move(process) == why
