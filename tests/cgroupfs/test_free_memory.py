# SPDX-License-Identifier: LGPL-2.1-or-later
"""What may still be taken below the limits of a cgroup and of all above it, on fake trees."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from slicemgr.policy.safe_jobs import Headroom
from slicemgr.service.free_memory import cgroup_rooms, machine_room, rooms_above

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

GIB = 1 << 30


def add(
    mount: Path,
    path: str,
    anon: int,
    *,
    high: int | None = None,
    max: int | None = None,  # noqa: A002
    file: int = 0,
) -> None:
    """A cgroup, and its parents."""
    directory = mount / path
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "memory.high").write_text(f"{'max' if high is None else high}\n")
    (directory / "memory.max").write_text(f"{'max' if max is None else max}\n")
    (directory / "memory.stat").write_text(
        f"anon {anon}\nfile {file}\nshmem 7\nkernel 100\nslab_reclaimable 60\nsock 0\n"
    )


def test_each_limit_on_the_way_up(tmp_path: Path) -> None:
    """The lower one of each cgroup, less what can't be reclaimed there; page cache is no obstacle."""
    add(tmp_path, "user.slice", 3 * GIB, max=8 * GIB, file=5 * GIB)
    add(tmp_path, "user.slice/user-7.slice", 2 * GIB)
    add(tmp_path, "user.slice/user-7.slice/build.slice", GIB, high=3 * GIB, max=4 * GIB, file=2 * GIB)
    add(tmp_path, "user.slice/user-7.slice/app.slice", GIB, max=5)
    assert list(rooms_above("/user.slice/user-7.slice/build.slice", str(tmp_path))) == [
        Headroom(2 * GIB - 47, "memory.high of build.slice"),
        Headroom(5 * GIB - 47, "memory.max of user.slice"),
    ]


def test_a_container_has_the_limit_at_its_root(tmp_path: Path) -> None:
    """Its own cgroup is called `/` there; the root of a machine has no such files."""
    assert list(rooms_above("/", str(tmp_path))) == []
    add(tmp_path, ".", GIB, max=2 * GIB)
    assert list(rooms_above("/", str(tmp_path))) == [Headroom(GIB - 47, "memory.max of this cgroup namespace")]
    assert list(rooms_above("/gone/by/now", str(tmp_path))) == [
        Headroom(GIB - 47, "memory.max of this cgroup namespace")
    ]


def test_outside_of_the_container_there_is_nothing_to_see(tmp_path: Path) -> None:
    """cgroup_namespaces(7) shows such a cgroup with dots."""
    assert list(rooms_above("/../../other", str(tmp_path))) == []


def test_what_is_above_its_limit_has_no_room(tmp_path: Path) -> None:
    """A limit may be set below what is held."""
    add(tmp_path, "a", 3 * GIB, high=GIB)
    (room,) = rooms_above("/a", str(tmp_path))
    assert room.bytes_left < -GIB


def test_our_own_cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found where cgroup v2 is mounted; without it there is no limit to obey."""
    add(tmp_path, "a", 0, max=GIB)
    monkeypatch.setattr("slicemgr.service.free_memory.cgroup_of", lambda pid: "/a")
    monkeypatch.setattr("slicemgr.service.free_memory.find_mount", lambda: (str(tmp_path), ()))
    assert cgroup_rooms(os.getpid()) == [Headroom(GIB - 47, "memory.max of a")]
    monkeypatch.setattr("slicemgr.service.free_memory.find_mount", lambda: (None, ()))
    assert cgroup_rooms(os.getpid()) == []


def test_this_very_machine() -> None:
    """Whatever it is: no error."""
    for room in cgroup_rooms(os.getpid()):
        assert room.what.startswith("memory.")


def test_the_machine_keeps_a_tenth() -> None:
    """As for a job without a limit of its own."""
    assert machine_room(10 * GIB, 4 * GIB) == Headroom(3 * GIB, "this machine, less a tenth")
