# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whose limit it was, by the counters of a tree."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from slicemgr.kernel.cgroupfs import CgroupDir
from slicemgr.kernel.errors import CgroupGoneError
from slicemgr.service.counters import NONE_YET, EventCounters
from tests.cgroupfs.fake_tree import FakeTree

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from slicemgr.model.cgroup import MemoryEvents

SLICE, JOB, OTHER = "/build.slice", "/build.slice/a.scope", "/build.slice/b.scope"


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeTree:
    made = FakeTree(tmp_path, monkeypatch)
    for path in (SLICE, JOB, OTHER):
        made.add(path)
    return made


@pytest.fixture
def counters(tree: FakeTree) -> Iterator[EventCounters]:
    with CgroupDir.open(SLICE, tree.mount) as root:
        found = EventCounters(root)
        yield found
        found.close()


def grow(tree: FakeTree, path: str, **events: int) -> None:
    """Something happens at the limit of this cgroup."""
    for name, count in events.items():
        tree.groups[path].events[name] += count
    tree.sync()


def moved(counters: EventCounters) -> list[str]:
    return [each.path for each in counters.moved()]


@pytest.mark.parametrize("name", ["high", "max", "oom", "oom_kill"])
@pytest.mark.parametrize("path", [SLICE, JOB])
def test_the_level_whose_limit_it_was(tree: FakeTree, counters: EventCounters, path: str, name: str) -> None:
    """Told once: the slice for its own limit, and not for a job's."""
    grow(tree, path, **{name: 1})
    assert moved(counters) == [path]
    assert moved(counters) == []


def test_protection_is_no_limit(tree: FakeTree, counters: EventCounters) -> None:
    """`low`: somebody else was short, and this one gave."""
    grow(tree, JOB, low=1)
    assert moved(counters) == []


def test_what_they_were_before(tree: FakeTree, counters: EventCounters) -> None:
    grow(tree, JOB, high=2)
    counters.moved()
    grow(tree, JOB, high=3)
    (found,) = counters.moved()
    assert found.events.high == 2
    assert found.local_events is not None
    assert found.local_events.high == 2


def test_both_at_once_parents_first(tree: FakeTree, counters: EventCounters) -> None:
    grow(tree, JOB, high=1)
    grow(tree, SLICE, max=1)
    grow(tree, OTHER, oom=1)
    assert moved(counters) == [SLICE, JOB, OTHER]


def test_what_happened_before_us_is_no_news(tree: FakeTree) -> None:
    grow(tree, JOB, oom_kill=3, high=50)
    with CgroupDir.open(SLICE, tree.mount) as root:
        counters = EventCounters(root)
        assert moved(counters) == []
        grow(tree, JOB, oom_kill=1)
        (found,) = counters.moved()
        assert found.events.oom_kill == 3
        counters.close()


def test_a_job_that_began_since(tree: FakeTree, counters: EventCounters) -> None:
    """It began with nothing, so whatever it shows is news."""
    tree.add("/build.slice/new.scope")
    assert moved(counters) == []
    grow(tree, "/build.slice/new.scope", oom_kill=1)
    (found,) = counters.moved()
    assert (found.path, found.events) == ("/build.slice/new.scope", NONE_YET)


def test_a_job_that_ended(tree: FakeTree, counters: EventCounters) -> None:
    """Its descriptors are given back; the others are heard as before."""
    tree.remove(JOB)
    grow(tree, OTHER, high=1)
    assert moved(counters) == [OTHER]
    assert counters.paths() == [SLICE, OTHER]


def test_another_job_of_the_same_name(tree: FakeTree, counters: EventCounters) -> None:
    """A restarted service: its first event is not lost, and it is not measured by the dead one's counters."""
    grow(tree, JOB, oom_kill=1, high=7)
    counters.moved()
    tree.remove(JOB)
    tree.add(JOB)
    grow(tree, JOB, oom_kill=1)
    (found,) = counters.moved()
    assert (found.path, found.events) == (JOB, NONE_YET)


def test_a_kill_whose_cgroup_is_gone(tree: FakeTree, counters: EventCounters) -> None:
    """The only process of a job: systemd has removed its scope before we looked. The slice above has counted it."""
    tree.groups[JOB].events["oom_kill"] += 1
    tree.remove(JOB)
    (found,) = counters.moved()
    assert (found.path, found.events.oom_kill, found.kernel_kills) == (SLICE, 0, 1)
    assert moved(counters) == []


def test_a_kill_is_its_job_s(tree: FakeTree, counters: EventCounters) -> None:
    """While that is there, nobody above is called for it; also when another job has ended meanwhile."""
    grow(tree, OTHER, oom_kill=4)
    assert moved(counters) == [OTHER]
    tree.remove(OTHER)
    grow(tree, JOB, oom_kill=2)
    assert moved(counters) == [JOB]


def test_a_kill_that_the_slice_has_not_counted_yet(tree: FakeTree, counters: EventCounters) -> None:
    """The kernel counts from the cgroup upwards, and we read downwards: told for the job, and not for the slice as well."""
    grow(tree, JOB, max=1, oom_kill=1)
    tree.show(SLICE, "oom_kill", 0)
    assert moved(counters) == [JOB]
    tree.sync()
    assert moved(counters) == []
    # The next one is told as before; also of a job that is gone.
    grow(tree, JOB, oom_kill=1)
    assert moved(counters) == [JOB]
    tree.groups[JOB].events["oom_kill"] += 1
    tree.remove(JOB)
    assert moved(counters) == [SLICE]


def test_kills_seen_by_a_walk_that_breaks_off(
    tree: FakeTree, counters: EventCounters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next walk finds them in the slice alone: no other kill for that."""
    grow(tree, JOB, oom_kill=1)
    grow(tree, OTHER, high=1)
    local_events = CgroupDir.local_events
    failed: list[str] = []

    def fails_once(directory: CgroupDir) -> MemoryEvents | None:
        if directory.path == OTHER and not failed:
            failed.append(directory.path)
            raise OSError("no descriptor")
        return local_events(directory)

    monkeypatch.setattr(CgroupDir, "local_events", fails_once)
    with pytest.raises(OSError, match="no descriptor"):
        counters.moved()
    assert [(each.path, each.kernel_kills) for each in counters.moved()] == [(JOB, 1), (OTHER, 0)]


def test_kills_seen_by_a_walk_that_breaks_off_in_a_job_that_goes(
    tree: FakeTree, counters: EventCounters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its container's is counted as told when the walk comes back, and finds neither of them: so it is told."""
    container, other = f"{JOB}/container", f"{JOB}/other"
    tree.add(container)
    tree.add(other)
    grow(tree, container, oom_kill=1)
    grow(tree, other, high=1)
    children = CgroupDir.children
    failed: list[str] = []

    def fails_once(directory: CgroupDir) -> list[str]:
        if directory.path == other and not failed:
            failed.append(directory.path)
            raise OSError("no descriptor")
        return children(directory)

    monkeypatch.setattr(CgroupDir, "children", fails_once)
    with pytest.raises(OSError, match="no descriptor"):
        counters.moved()
    tree.remove(JOB)
    assert [(each.path, each.kernel_kills) for each in counters.moved()] == [(container, 1)]
    assert moved(counters) == []


def test_a_look_tells_of_the_cgroup_s_own(tree: FakeTree, counters: EventCounters) -> None:
    """And the walk not again; what is not known below us, and what a kernel before 5.2 shows, is left to the walk."""
    grow(tree, JOB, oom_kill=2)
    with CgroupDir.open(JOB, tree.mount) as job:
        local = job.local_events()
    assert counters.kernel_kills_in("/alien.slice/a.scope", local) == 0
    assert counters.kernel_kills_in(JOB, None) == 0
    assert counters.kernel_kills_in(JOB, local) == 2
    assert counters.kernel_kills_in(JOB, local) == 0
    assert [(each.path, each.kernel_kills) for each in counters.moved()] == [(JOB, 0)]
    grow(tree, JOB, oom_kill=1)
    assert [(each.path, each.kernel_kills) for each in counters.moved()] == [(JOB, 1)]


@pytest.mark.parametrize("failing", [JOB, OTHER, f"{JOB}/below"])
def test_a_walk_that_breaks_off(
    tree: FakeTree, counters: EventCounters, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """No descriptor is to be had for a moment: nothing that has moved is lost by that."""
    tree.add(f"{JOB}/below")
    everything = [SLICE, JOB, f"{JOB}/below", OTHER]
    counters.moved()
    for path in everything:
        grow(tree, path, high=1)
    children = CgroupDir.children
    failed: list[str] = []

    def fails_once(directory: CgroupDir) -> list[str]:
        if directory.path == failing and not failed:
            failed.append(directory.path)
            raise OSError("no descriptor")
        return children(directory)

    monkeypatch.setattr(CgroupDir, "children", fails_once)
    with pytest.raises(OSError, match="no descriptor"):
        counters.moved()
    assert sorted(moved(counters)) == sorted(everything)
    assert moved(counters) == []


def test_a_tree_within_a_job(tree: FakeTree, counters: EventCounters) -> None:
    """A container in a scope."""
    tree.add(f"{JOB}/container")
    tree.add(f"{JOB}/container/payload")
    grow(tree, f"{JOB}/container/payload", max=1)
    assert moved(counters) == [f"{JOB}/container/payload"]


def test_a_kernel_without_local_events(tree: FakeTree, tmp_path: Path) -> None:
    """Before 5.2 all levels above have moved too: all of them are looked at."""
    for file in tmp_path.rglob("memory.events.local"):
        file.unlink()
    with CgroupDir.open(SLICE, tree.mount) as root:
        counters = EventCounters(root)
        (tmp_path / "build.slice/a.scope/memory.events").write_text("high 1\n")
        (tmp_path / "build.slice/memory.events").write_text("high 1\n")
        assert moved(counters) == [SLICE, JOB]
        counters.close()


def test_the_root_is_gone(tree: FakeTree, counters: EventCounters) -> None:
    tree.remove(SLICE)
    with pytest.raises(CgroupGoneError):
        counters.moved()


def test_no_memory_controller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing ever moves there."""
    (tmp_path / "build.slice").mkdir()
    made = FakeTree(tmp_path, monkeypatch)
    with CgroupDir.open(SLICE, made.mount) as root:
        assert moved(EventCounters(root)) == []


def test_two_hundred_jobs_and_one_that_moved(tree: FakeTree) -> None:
    """One read each for those that did not; none at all while nothing happens."""
    for at in range(200):
        os.mkdir(f"{tree.mount}/build.slice/{at}.scope")
        tree.groups[f"/build.slice/{at}.scope"] = type(tree.groups[JOB])()
    tree.sync()
    with CgroupDir.open(SLICE, tree.mount) as root:
        counters = EventCounters(root)
        tree.reads.clear()
        assert moved(counters) == []
        assert {path for path, _ in tree.reads} == {SLICE}
        tree.reads.clear()
        grow(tree, "/build.slice/77.scope", high=1)
        assert moved(counters) == ["/build.slice/77.scope"]
        local = [path for path, name in tree.reads if name == "memory.events.local"]
        assert local == [SLICE, "/build.slice/77.scope"]
        assert len([path for path, name in tree.reads if name == "memory.events"]) <= 204
        counters.close()


def test_every_descriptor_is_given_back(tree: FakeTree) -> None:
    before = os.listdir("/proc/self/fd")
    with CgroupDir.open(SLICE, tree.mount) as root:
        counters = EventCounters(root)
        grow(tree, JOB, high=1)
        counters.moved()
        tree.remove(OTHER)
        grow(tree, JOB, high=1)
        counters.moved()
        counters.close()
    assert len(os.listdir("/proc/self/fd")) == len(before)
