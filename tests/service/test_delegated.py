# SPDX-License-Identifier: LGPL-2.1-or-later
"""The backend of plain cgroups, on directories: who is moved, who is moved back, and what is left."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from slicemgr.placement import choose, delegated
from slicemgr.placement.backend import PlacementError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

OWN = os.getpid()
HELD, KEEPER, STRANGER = 4_000_001, 4_000_002, 4_000_003


class Parent:
    """A cgroup that is ours, with processes in it; what is written is noted, and moves nobody."""

    def __init__(self, path: Path, *members: int) -> None:
        self.path = path
        (path / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in members))
        (path / "cgroup.controllers").write_text("cpu memory pids\n")
        (path / "cgroup.subtree_control").write_text("\n")
        self.written: list[tuple[str, str]] = []
        self.refuses: Callable[[str], bool] = lambda _: False

    def write(self, file: str, text: str) -> None:
        name = os.path.relpath(file, self.path)
        if self.refuses(name):
            raise OSError(16, "Device or resource busy")
        self.written.append((name, text))

    def open_job(self, **asked: Any) -> Any:
        return delegated.open_job(HELD, name="n", parents=[str(self.path)], **asked)

    @property
    def below(self) -> list[str]:
        return [each.name for each in self.path.iterdir() if each.is_dir()]


@pytest.fixture
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Parent]:
    def make(*members: int) -> Parent:
        made = Parent(tmp_path, *members)
        monkeypatch.setattr(delegated, "write_text", made.write)
        return made

    return make


LEAF, JOB = f"slicemgr-self-{OWN}", f"slicemgr-n-{HELD}"


def test_the_keeper_is_no_stranger(parent: Callable[..., Parent]) -> None:
    """It stands where we do and goes into the leaf with us; back at the end we go alone, for its pid may be anybody's."""
    here = parent(OWN, HELD, KEEPER)
    handle = here.open_job(beside=[KEEPER])
    moved = {(f"{LEAF}/cgroup.procs", str(pid)) for pid in (OWN, HELD, KEEPER)}
    assert set(here.written[:3]) == moved
    assert here.written[3:] == [("cgroup.subtree_control", "+memory"), (f"{JOB}/cgroup.procs", str(HELD))]
    assert sorted(here.below) == sorted([LEAF, JOB])
    here.written.clear()
    handle.release()
    assert here.written == [("cgroup.subtree_control", "-memory"), ("cgroup.procs", str(OWN))]
    assert here.below == []


def test_who_was_moved_goes_back_where_the_job_can_t_be_made(parent: Callable[..., Parent]) -> None:
    """All of them: they live, and the next backend shall find them where they were."""
    here = parent(OWN, HELD, KEEPER)
    here.refuses = lambda name: name == f"{JOB}/cgroup.procs"
    with pytest.raises(PlacementError, match="busy; try "):
        here.open_job(beside=[KEEPER])
    assert here.written[4] == ("cgroup.subtree_control", "-memory")
    assert set(here.written[5:]) == {("cgroup.procs", str(pid)) for pid in (OWN, HELD, KEEPER)}
    assert here.below == []


def test_a_stranger_stays_where_it_is(parent: Callable[..., Parent]) -> None:
    """It is not ours to move."""
    here = parent(OWN, HELD, KEEPER, STRANGER)
    with pytest.raises(PlacementError, match=rf"^1 other process \(pid {STRANGER}\) in .*; try "):
        here.open_job(beside=[KEEPER])
    assert here.written == []
    assert here.below == []


def test_the_choice_hands_on_what_it_knows(
    parent: Callable[..., Parent], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a job may be put is asked once, before it is held: it may be a call to the manager. And so is the keeper."""
    here = parent(OWN, HELD, KEEPER)
    asked: list[str] = []

    def parents(own: str) -> list[str]:
        asked.append(own)
        return [str(tmp_path)]

    monkeypatch.setattr(choose, "CGROUPS", str(tmp_path))
    monkeypatch.setattr(choose, "cgroup_of", lambda _: "/own")
    monkeypatch.setattr(delegated, "writable_parents", parents)
    found = choose.choose("cgroup", uid=1000)
    handle = found.open_job(HELD, name="n", slice_name="build.slice", command=["n"], beside=[KEEPER])
    assert handle.backend == "cgroup"
    assert asked == ["/own"]
    handle.release()
    assert here.below == []
