# SPDX-License-Identifier: LGPL-2.1-or-later
"""Raising a job's limits while it runs, on a tree of plain files, by a fake manager, and by its own guard."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, cast

import pytest

from slicemgr.kernel.cgroupfs import CgroupDir
from slicemgr.placement.backend import JobHandle
from slicemgr.placement.bus_connection import ManagerError, NoManagerError
from slicemgr.placement.bus_wire import BusError
from slicemgr.policy.limits import high_below
from slicemgr.service import borrowing
from slicemgr.service.borrowing import raise_limits
from tests.cgroupfs.fake_tree import MIB, FakeTree
from tests.service.waiting_child import descriptors

if TYPE_CHECKING:
    from pathlib import Path

    from slicemgr.service.tree_guard import TreeGuard

SCOPE = "/build.slice/a.scope"


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeTree:
    made = FakeTree(tmp_path, monkeypatch)
    made.add("/build.slice")
    opened = functools.partial(CgroupDir.open, mount=str(tmp_path))
    monkeypatch.setattr(CgroupDir, "open", opened)
    return made


def _limits(tree: FakeTree) -> tuple[str, str]:
    """memory.high and memory.max as they stand in the files."""
    high, most = ((tree.mount_file(SCOPE[1:]) / name).read_text().strip() for name in ("memory.high", "memory.max"))
    return high, most


HANDLE = JobHandle("cgroup", None, cgroup=SCOPE)


def test_both_are_raised(tree: FakeTree) -> None:
    """memory.high stays as far below as it is by default."""
    tree.add(SCOPE, high=high_below(1000 * MIB), max=1000 * MIB)
    before = descriptors()
    assert raise_limits(HANDLE, None, 200 * MIB)
    assert _limits(tree) == (str(high_below(1200 * MIB)), str(1200 * MIB))
    assert descriptors() == before


@pytest.mark.parametrize("high", [500 * MIB, None])
def test_what_somebody_asked_for_stays(tree: FakeTree, high: int | None) -> None:
    """Another memory.high than by default was meant so."""
    tree.add(SCOPE, high=high, max=1000 * MIB)
    assert raise_limits(HANDLE, None, 200 * MIB)
    assert _limits(tree) == ("max" if high is None else str(high), str(1200 * MIB))


def test_no_limit(tree: FakeTree) -> None:
    """Then there is nothing to be raised, and nothing to be had by it."""
    tree.add(SCOPE, high=500 * MIB, max=None)
    assert not raise_limits(HANDLE, None, 200 * MIB)
    assert _limits(tree) == (str(500 * MIB), "max")


def test_the_job_has_ended(tree: FakeTree) -> None:
    before = descriptors()
    assert not raise_limits(HANDLE, None, 200 * MIB)
    assert descriptors() == before


def test_not_ours_to_raise(tree: FakeTree, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.add(SCOPE, high=None, max=1000 * MIB)

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(CgroupDir, "set_limit", refuse)
    assert not raise_limits(HANDLE, None, 200 * MIB)


class FakeManager:
    """In place of systemd."""

    def __init__(self, fails: Exception | None = None) -> None:
        self.fails = fails
        self.told: list[tuple[str, dict[str, int]]] = []
        self.is_closed = False

    def set_unit_properties(self, unit: str, properties: dict[str, int]) -> None:
        if self.fails is not None:
            raise self.fails
        self.told.append((unit, properties))

    def close(self) -> None:
        self.is_closed = True


def _by_manager(monkeypatch: pytest.MonkeyPatch, fails: Exception | None = None) -> FakeManager:
    manager = FakeManager(fails)
    monkeypatch.setattr(borrowing, "connect", lambda uid: manager)
    return manager


UNIT = JobHandle("systemd", None, cgroup=SCOPE, unit="a.scope")


def test_a_unit_s_are_raised_by_its_manager(tree: FakeTree, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would write its own over what stands in the files alone."""
    manager = _by_manager(monkeypatch)
    tree.add(SCOPE, high=high_below(1000 * MIB), max=1000 * MIB)
    before = _limits(tree)
    assert raise_limits(UNIT, None, 200 * MIB)
    assert manager.told == [("a.scope", {"MemoryMax": 1200 * MIB, "MemoryHigh": high_below(1200 * MIB)})]
    assert manager.is_closed
    assert _limits(tree) == before


@pytest.mark.parametrize(
    "error", [ManagerError("org.freedesktop.DBus.Error.AccessDenied", "no"), BusError("no"), OSError("no")]
)
def test_the_manager_declines(tree: FakeTree, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    manager = _by_manager(monkeypatch, error)
    tree.add(SCOPE, high=None, max=1000 * MIB)
    assert not raise_limits(UNIT, None, 200 * MIB)
    assert manager.is_closed


def test_the_manager_is_not_there(tree: FakeTree, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.add(SCOPE, high=None, max=1000 * MIB)

    def connect(uid: int) -> FakeManager:
        raise NoManagerError("nobody answers")

    monkeypatch.setattr(borrowing, "connect", connect)
    assert not raise_limits(UNIT, None, 200 * MIB)


class FakeGuard:
    """In place of the guard of a process tree."""

    def __init__(self, has_limit: bool) -> None:
        self.has_limit = has_limit
        self.raised: list[int] = []

    def raise_limit(self, size_bytes: int) -> bool:
        self.raised.append(size_bytes)
        return self.has_limit


@pytest.mark.parametrize("has_limit", [False, True])
def test_a_process_tree(has_limit: bool) -> None:
    """Its own guard is the limit."""
    guard = FakeGuard(has_limit)
    assert raise_limits(JobHandle("embedded", None), cast("TreeGuard", guard), 5) == has_limit
    assert guard.raised == [5]


def test_a_process_tree_that_nobody_guards() -> None:
    assert not raise_limits(JobHandle("embedded", None), None, 5)
