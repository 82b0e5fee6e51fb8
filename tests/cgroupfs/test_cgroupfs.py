# SPDX-License-Identifier: LGPL-2.1-or-later
"""CgroupDir on a tree of plain files: what is there, what is not, what goes, and what is refused."""

from __future__ import annotations

import errno
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from slicemgr.kernel import cgroupfs
from slicemgr.kernel.cgroup_reader import CgroupReader
from slicemgr.kernel.cgroupfs import CgroupDir, cgroup_of
from slicemgr.kernel.errors import (
    CgroupGoneError,
    CgroupNotPermittedError,
    CgroupRefusedError,
    FormatError,
    NotSupportedError,
)
from slicemgr.model.cgroup import MemoryEvents, MemoryStat, Pressure, Stall
from tests.cgroupfs.tree import Tree, grow

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STALL = "avg10=1.50 avg60=0.00 avg300=0.00 total=7"
JOB: Tree = {
    "memory.current": "1000\n",
    "memory.events": "low 0\nhigh 2\nmax 0\noom 0\noom_kill 0\n",
    "cgroup.procs": "11\n12\n",
    "cgroup.events": "populated 1\nfrozen 0\n",
}
TREE: Tree = {
    "cgroup.procs": "1\n",
    "build.slice": {
        "cgroup.procs": "",
        "cgroup.events": "populated 1\nfrozen 0\n",
        "b.scope": {**JOB, "worker": {"cgroup.procs": "13\n11\n"}},
        "a.scope": {**JOB, "cgroup.procs": "21\n"},
    },
    "session.slice": {"cgroup.procs": "31\n"},
}

# file, contents, reader, what it says; and what it says without the file
READERS: list[tuple[str, str, Callable[[CgroupReader], Any], Any, Any]] = [
    ("memory.current", "4096\n", CgroupReader.memory_current, 4096, None),
    ("memory.high", "max\n", CgroupReader.memory_high, None, None),
    ("memory.high", "8192\n", CgroupReader.memory_high, 8192, None),
    ("memory.max", "8192\n", CgroupReader.memory_max, 8192, None),
    ("memory.low", "0\n", CgroupReader.memory_low, 0, None),
    ("memory.min", "0\n", CgroupReader.memory_min, 0, None),
    ("memory.swap.current", "5\n", CgroupReader.swap_current, 5, None),
    ("memory.swap.high", "6\n", CgroupReader.swap_high, 6, None),
    ("memory.swap.max", "7\n", CgroupReader.swap_max, 7, None),
    ("memory.peak", "9\n", CgroupReader.peak, 9, None),
    ("memory.oom.group", "1\n", CgroupReader.oom_group, True, None),
    ("memory.oom.group", "0\n", CgroupReader.oom_group, False, None),
    ("memory.events", "high 2\n", CgroupReader.events, MemoryEvents(high=2), None),
    ("memory.events.local", "oom_kill 3\n", CgroupReader.local_events, MemoryEvents(oom_kill=3), None),
    ("memory.stat", "anon 4\n", CgroupReader.stat, MemoryStat(anon=4), None),
    ("memory.pressure", f"some {STALL}\n", CgroupReader.pressure, Pressure(Stall(1.5, 0.0, 0.0, 7), None), None),
    ("pids.events", "max 3\n", CgroupReader.pids_events, 3, None),
    ("cpu.stat", "usage_usec 5\n", CgroupReader.cpu_usage_usec, 5, None),
    ("cgroup.controllers", "memory pids\n", CgroupReader.controllers, {"memory", "pids"}, None),
    ("cgroup.subtree_control", "\n", CgroupReader.subtree_control, frozenset(), None),
    ("cgroup.events", "populated 0\nfrozen 1\n", CgroupReader.is_populated, False, True),
    ("cgroup.events", "populated 0\nfrozen 1\n", CgroupReader.is_frozen, True, False),
    ("cgroup.procs", "12\n0\n", CgroupReader.processes, [12], []),
]

WORDS = {"cgroup.controllers", "cgroup.subtree_control"}
"""Any word is a controller."""


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def mount(tmp_path: Path) -> Path:
    return grow(tmp_path / "cgroup", TREE)


@pytest.mark.parametrize(("name", "text", "read", "value", "absent"), READERS)
def test_a_reader(
    tmp_path: Path, name: str, text: str, read: Callable[[CgroupReader], Any], value: Any, absent: Any
) -> None:
    """With its file, without it, and with another's contents."""
    with CgroupDir.open("/", str(grow(tmp_path, {}))) as cgroup:
        assert read(cgroup) == absent
        (tmp_path / name).write_text(text)
        assert read(cgroup) == value


@pytest.mark.parametrize(("name", "read"), [(row[0], row[2]) for row in READERS if row[0] not in WORDS])
def test_a_reader_refuses(tmp_path: Path, name: str, read: Callable[[CgroupReader], Any]) -> None:
    """What no kernel writes."""
    (tmp_path / name).write_text("?\n")
    with CgroupDir.open("/", str(tmp_path)) as cgroup, pytest.raises(FormatError):
        read(cgroup)


def test_a_file_is_opened_once(mount: Path) -> None:
    """As many descriptors as the docstring says, what changes is read anew, and close leaves none."""
    before = descriptors()
    cgroup = CgroupDir.open("/build.slice/a.scope", str(mount))
    assert descriptors() == before + 1
    for text in ("1000\n", "2000\n"):
        (mount / "build.slice/a.scope/memory.current").write_text(text)
        assert cgroup.memory_current() == int(text)
    assert descriptors() == before + 2
    for name, text, *_ in READERS:
        (mount / "build.slice/a.scope" / name).write_text(text)
    cgroup.reading()
    assert descriptors() == before + 8
    for *_, read, _, _ in READERS:
        read(cgroup)
    assert descriptors() == before + 21
    cgroup.close()
    cgroup.close()
    assert descriptors() == before


def test_a_reading(mount: Path) -> None:
    """One instant, by the clock that it is given; what is missing is None or empty."""
    with CgroupDir.open("/build.slice/a.scope", str(mount)) as cgroup:
        reading = cgroup.reading(lambda: 12.5)
    assert (reading.taken_seconds, reading.current_bytes, reading.events.high) == (12.5, 1000, 2)
    assert reading.stat == MemoryStat()
    assert {reading.swap_bytes, reading.local_events, reading.pressure, reading.cpu_usage_usec} == {None}
    with (
        CgroupDir.open("/session.slice", str(mount)) as cgroup,
        pytest.raises(
            NotSupportedError, match=r"^cgroup /session\.slice has no memory\.current; try `cgroup_enable=memory`"
        ),
    ):
        cgroup.reading()


@pytest.mark.parametrize("path", ["/build.slice", "build.slice", "/build.slice/", "//build.slice"])
def test_a_path(mount: Path, path: str) -> None:
    """As /proc/PID/cgroup has it, however it is written."""
    with CgroupDir.open(path, str(mount)) as cgroup:
        assert cgroup.path == "/build.slice"
        assert os.fstat(cgroup.fileno()).st_ino == (mount / "build.slice").stat().st_ino
        with cgroup.child("a.scope") as child:
            assert child.path == "/build.slice/a.scope"


def test_paths_that_lead_nowhere(mount: Path) -> None:
    """Gone, a link, a file, and out of the tree."""
    (mount / "link").symlink_to("build.slice")
    for path in ("/nobody.slice", "/nobody.slice/a", "/cgroup.procs", "/link"):
        with pytest.raises((CgroupGoneError, CgroupRefusedError)):
            CgroupDir.open(path, str(mount))
    with pytest.raises(NotSupportedError, match="outside of this container; try"):
        CgroupDir.open("/../build.slice", str(mount))


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a"])
def test_a_child_is_a_child(mount: Path, name: str) -> None:
    """No way out by a name."""
    with CgroupDir.open("/build.slice", str(mount)) as cgroup:
        for use in (cgroup.child, cgroup.make_child, cgroup.remove_child, lambda name: cgroup.set_limit(name, 1)):
            with pytest.raises(ValueError, match="not a name within a cgroup"):
                use(name)


def test_the_tree_is_walked_parents_first(mount: Path) -> None:
    """In one order, with one descriptor at a time, none left, and the first stays open."""
    before = descriptors()
    with CgroupDir.open("/build.slice", str(mount)) as cgroup:
        assert cgroup.children() == ["a.scope", "b.scope"]
        seen = []
        for found in cgroup.walk():
            assert descriptors() - before <= 2
            seen.append(found.path.removeprefix("/build.slice"))
        assert seen == ["", "/a.scope", "/b.scope", "/b.scope/worker"]
        assert not cgroup.is_gone()
        assert cgroup.members() == {11, 12, 13, 21}
    assert descriptors() == before
    with CgroupDir.open("/", str(mount)) as root:
        assert [found.path for found in root.walk()][:2] == ["/", "/build.slice"]
        assert root.child("build.slice").path == "/build.slice"


def test_what_vanishes_while_walking_is_left_out(mount: Path) -> None:
    """A job that ends under the walk, before and after it has been opened."""
    with CgroupDir.open("/build.slice", str(mount)) as cgroup:
        seen = []
        for found in cgroup.walk():
            seen.append(found.path)
            if found.path.endswith("a.scope"):
                shutil.rmtree(mount / "build.slice/a.scope")
                assert found.children() == []
                shutil.rmtree(mount / "build.slice/b.scope")
        assert seen == ["/build.slice", "/build.slice/a.scope"]


def test_a_nest_of_any_depth_is_walked(tmp_path: Path) -> None:
    """Anybody may nest deeper than Python's stack and our descriptors go."""
    nest = [tmp_path / "/".join("n" * depth) for depth in range(1, 1501)]
    try:
        for folder in nest:
            folder.mkdir()
        with CgroupDir.open("/", str(tmp_path)) as cgroup:
            assert sum(1 for _ in cgroup.walk()) == 1501
    finally:  # shutil.rmtree, as pytest uses it, has the limit that walk has not.
        for folder in reversed(nest):
            folder.rmdir()


def test_a_removed_cgroup_is_gone(mount: Path) -> None:
    """A namesake is not it."""
    with CgroupDir.open("/build.slice/a.scope", str(mount)) as cgroup:
        shutil.rmtree(mount / "build.slice/a.scope")
        grow(mount / "build.slice/a.scope", JOB)
        for use in (
            cgroup.memory_current,
            cgroup.reading,
            cgroup.members,
            cgroup.kill_all,
            lambda: cgroup.open_file("memory.events"),
            lambda: cgroup.set_limit("memory.max", 1),
            lambda: cgroup.child("worker"),
            lambda: cgroup.make_child("worker"),
        ):
            with pytest.raises(CgroupGoneError, match=r"^cgroup /build\.slice/a\.scope(/worker)? is gone$"):
                use()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_not_permitted(mount: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Root may all in a tree of plain files, so the kernel's answer is put in its mouth."""

    def refuse(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    with CgroupDir.open("/build.slice/a.scope", str(mount)) as cgroup:
        cgroup.memory_current()
        for call in ("open", "mkdir", "rmdir"):
            monkeypatch.setattr(os, call, refuse)
        for use, operation in (
            (cgroup.events, "read memory.events of"),
            (cgroup.kill_all, "kill everything in"),
            (lambda: cgroup.set_limit("memory.max", 1), "set memory.max of"),
            (lambda: cgroup.add(5), "move process 5 to"),
            (lambda: cgroup.reclaim(5), "reclaim memory of"),
            (lambda: cgroup.make_child("x"), "make x in"),
            (lambda: cgroup.remove_child("x"), "remove x in"),
        ):
            with pytest.raises(CgroupNotPermittedError) as refused:
                use()
            assert str(refused.value) == f"not permitted to {operation} cgroup /build.slice/a.scope"
        monkeypatch.undo()


@pytest.mark.parametrize(
    ("name", "do", "text"),
    [
        ("memory.max", lambda cgroup: cgroup.set_limit("memory.max", 5), "5"),
        ("memory.high", lambda cgroup: cgroup.set_limit("memory.high", None), "max"),
        ("cgroup.freeze", lambda cgroup: cgroup.freeze(True), "1"),
        ("cgroup.freeze", lambda cgroup: cgroup.freeze(False), "0"),
        ("cgroup.kill", lambda cgroup: cgroup.kill_all(), "1"),
        ("memory.reclaim", lambda cgroup: cgroup.reclaim(4096), "4096"),
        ("cgroup.procs", lambda cgroup: cgroup.add(17), "17"),
        ("cgroup.subtree_control", lambda cgroup: cgroup.enable({"pids", "memory"}), "+memory +pids"),
    ],
)
def test_a_writer(tmp_path: Path, name: str, do: Callable[[CgroupDir], object], text: str) -> None:
    """What is written, and that a missing file is said to be missing and not made."""
    with CgroupDir.open("/", str(tmp_path)) as cgroup:
        with pytest.raises(NotSupportedError, match=f"has no {name}; try a newer kernel"):
            do(cgroup)
        assert list(tmp_path.iterdir()) == []
        (tmp_path / name).write_text("what was there before")
        do(cgroup)
        assert (tmp_path / name).read_text() == text


def test_children_come_and_go(mount: Path) -> None:
    """An existing name is refused: it may be somebody's. Removing what is gone is no failure."""
    with CgroupDir.open("/session.slice", str(mount)) as cgroup:
        with cgroup.make_child("job") as child:
            assert child.path == "/session.slice/job"
        with pytest.raises(CgroupRefusedError) as refused:
            cgroup.make_child("job")
        assert refused.value.errno == errno.EEXIST
        cgroup.remove_child("job")
        cgroup.remove_child("job")
        assert cgroup.children() == []


def test_a_process_without_cgroup_v2(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tree of version 1."""
    monkeypatch.setattr(cgroupfs, "read_process_file", lambda pid, name: b"4:memory:/a\n1:cpu:/\n")
    with pytest.raises(NotSupportedError, match=r"process 7 is in no cgroup v2; try `systemd\.unified"):
        cgroup_of(7)
