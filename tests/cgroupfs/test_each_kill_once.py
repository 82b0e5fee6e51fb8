# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernel's OOM kills are each told once, wherever the kernel stands in its counting when we read.

Here it counts one file after the other, from the victim's cgroup upwards as memcg_memory_event does, and cgroups go and
come, between any two of our reads.
"""

from __future__ import annotations

import collections
import contextlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from slicemgr.kernel.cgroup_files import CgroupFiles
from slicemgr.kernel.cgroupfs import CgroupDir
from slicemgr.kernel.errors import CgroupGoneError
from slicemgr.model.cgroup import is_below
from slicemgr.service.counters import EventCounters
from tests.cgroupfs.fake_tree import FakeTree

if TYPE_CHECKING:
    from collections.abc import Iterator

SLICE, JOB, INNER, OTHER = "/build.slice", "/build.slice/a.scope", "/build.slice/a.scope/inner", "/build.slice/b.scope"
LOCAL, SUBTREE = "memory.events.local", "memory.events"

Step: TypeAlias = tuple[str, str]
"""Something the kernel or systemd does, and in which cgroup; `read` lets us read a file, and is no step of theirs."""


@dataclass
class Kill:
    """One that the kernel is at."""

    cgroup: str
    files: list[tuple[str, str]]
    """Not counted yet, the victim's own first."""


class CountingKernel:
    """It does one small thing after the other, by a script."""

    def __init__(self, mount: Path, monkeypatch: pytest.MonkeyPatch, script: list[Step]) -> None:
        self.tree = FakeTree(mount, monkeypatch)
        self.killed: collections.Counter[str] = collections.Counter()
        self._script = script
        self._kills: list[Kill] = []
        self._counts: collections.Counter[tuple[str, str]] = collections.Counter()
        for path in (SLICE, JOB, INNER, OTHER):
            self.tree.add(path)
        read = CgroupFiles.read

        def read_then(files: CgroupFiles, name: str, *, in_pieces: bool = False) -> bytes | None:
            self.goes_on()
            return read(files, name, in_pieces=in_pieces)

        monkeypatch.setattr(CgroupFiles, "read", read_then)

    def goes_on(self) -> None:
        """Until we come to read."""
        while self._script and (step := self._script.pop(0))[0] != "read":
            getattr(self, step[0])(step[1])

    def finishes(self) -> None:
        """All that it is at, and nothing new."""
        self._script.clear()
        while self._kills:
            self.count(self._kills[0].cgroup)

    def kill(self, cgroup: str) -> None:
        """Choose a victim there, and begin to count."""
        if cgroup not in self.tree.groups:
            return
        above = [path for path in (INNER, JOB, OTHER, SLICE) if is_below(cgroup, path)]
        self._kills.append(Kill(cgroup, [(cgroup, LOCAL), *((path, SUBTREE) for path in above)]))
        self.killed[cgroup] += 1
        self.count(cgroup)

    def count(self, cgroup: str) -> None:
        """One more file of the oldest kill there."""
        kill = next((each for each in self._kills if each.cgroup == cgroup), None)
        if kill is None:
            return
        path, name = file = kill.files.pop(0)
        self._counts[file] += 1
        Path(self.tree.mount + path, name).write_text(f"oom_kill {self._counts[file]}\n")
        if not kill.files:
            self._kills.remove(kill)

    def remove(self, cgroup: str) -> None:
        """Whom the kernel takes lives until all is counted, and no cgroup goes before."""
        if cgroup in self.tree.groups and not any(is_below(each.cgroup, cgroup) for each in self._kills):
            self.tree.remove(cgroup)
            self._counts = collections.Counter(
                {file: count for file, count in self._counts.items() if not is_below(file[0], cgroup)}
            )

    def make(self, cgroup: str) -> None:
        """Another one of the same name."""
        if cgroup not in self.tree.groups and str(Path(cgroup).parent) in self.tree.groups:
            self.tree.add(cgroup)


class Teller:
    """Walks and looks as a guard does, and adds up what is to be told."""

    def __init__(self, tree: FakeTree) -> None:
        self.told: collections.Counter[str] = collections.Counter()
        self._tree = tree
        self._root = CgroupDir.open(SLICE, tree.mount)
        self._counters = EventCounters(self._root)

    def walk(self) -> None:
        for moved in self._counters.moved():
            self.told[moved.path] += moved.kernel_kills

    def look(self, cgroup: str) -> None:
        with contextlib.suppress(CgroupGoneError), CgroupDir.open(cgroup, self._tree.mount) as directory:
            self.told[cgroup] += self._counters.kernel_kills_in(cgroup, directory.local_events())

    def close(self) -> None:
        self._counters.close()
        self._root.close()


@contextlib.contextmanager
def played(script: list[Step]) -> Iterator[tuple[CountingKernel, Teller]]:
    """It begins after the first walk."""
    with tempfile.TemporaryDirectory() as mount, pytest.MonkeyPatch.context() as monkeypatch:
        kernel = CountingKernel(Path(mount), monkeypatch, [])
        teller = Teller(kernel.tree)
        kernel._script += script
        try:
            yield kernel, teller
        finally:
            teller.close()


ANYWHERE = (SLICE, JOB, INNER, OTHER)
STEPS = st.one_of(
    st.just(("read", "")),
    st.tuples(st.sampled_from(["kill", "count"]), st.sampled_from(ANYWHERE)),
    st.tuples(st.sampled_from(["remove", "make"]), st.sampled_from(ANYWHERE[1:])),
)
DEEDS = st.sampled_from(["", "", *ANYWHERE])
"""A look at one of them; else a walk."""

COUNTED = [("count", JOB)] * 2
READ = ("read", "")


@given(st.lists(STEPS, max_size=60), st.lists(DEEDS, max_size=12))
# A look finds it, and then its cgroup goes, before a walk: it was told for the slice as well.
@example([("kill", JOB), *COUNTED, READ, ("remove", JOB)], [JOB, ""])
# So does another look, while the slice is not counted up yet.
@example([("kill", JOB), READ, READ, *COUNTED, READ, ("remove", JOB)], [JOB, SLICE, ""])
# Two levels go at once.
@example([("kill", INNER), *[("count", INNER)] * 3, READ, ("remove", JOB)], [INNER, ""])
# A walk finds the slice's count, and its job no more.
@example([("kill", JOB), *COUNTED, READ, READ, ("remove", JOB)], [""])
# A look finds one of another cgroup of the same name.
@example([("remove", JOB), ("make", JOB), ("kill", JOB), *COUNTED], [OTHER, JOB, ""])
def test_each_kill_is_told_once(script: list[Step], deeds: list[str]) -> None:
    """By walks and looks in any order; for its own cgroup, or one above it when that has gone."""
    with played(script) as (kernel, teller):
        for cgroup in deeds:
            if cgroup:
                teller.look(cgroup)
            else:
                teller.walk()
        kernel.finishes()
        teller.walk()
        assert teller.told.total() == kernel.killed.total()
        for path in ANYWHERE:
            told, killed = (
                sum(count for each, count in counter.items() if is_below(each, path))
                for counter in (teller.told, kernel.killed)
            )
            assert told <= killed
        teller.walk()
        assert teller.told.total() == kernel.killed.total()
