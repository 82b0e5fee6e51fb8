# SPDX-License-Identifier: LGPL-2.1-or-later
"""A cgroup tree of plain files that adds up as the kernel's does, and guards that run on it by a script."""

from __future__ import annotations

import asyncio
import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from slicemgr.kernel import procfs
from slicemgr.kernel.cgroup_files import CgroupFiles
from slicemgr.kernel.errors import CgroupGoneError, ProcessGoneError
from slicemgr.model.process import ProcessTable
from slicemgr.service.report import KillReport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    import pytest

    from slicemgr.model.process import ProcessIdentity, ProcessSample
    from slicemgr.service.report import Report

MIB: Final = 1 << 20
HIGH: Final = 100 * MIB
MAX: Final = 120 * MIB
TURNS: Final = 8
"""Of the loop: an exit that can be seen is seen within so many, before the next thing happens."""
_EVENTS: Final = ("low", "high", "max", "oom", "oom_kill", "oom_group_kill")


@dataclass
class Group:
    """What a cgroup holds itself, without those below it."""

    anon: int = 0
    file: int = 0
    high: int | None = None
    max: int | None = None
    swap: int = 0
    swap_max: int | None = 0
    pids: list[int] = field(default_factory=list)
    events: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_EVENTS, 0))
    """At its own limits."""
    gone: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_EVENTS, 0))
    """Of children that are no more: in the hierarchical file alone."""
    stalled_usec: int = 0
    """All its tasks waited so long."""


class FakeTree:
    """Change `groups`, then `sync`."""

    def __init__(self, mount: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.mount = str(mount)
        self.groups: dict[str, Group] = {}
        self.reads: list[tuple[str, str]] = []
        """(path, file) of all that was read."""
        self._mount = mount
        self._written: dict[Path, str] = {}
        self._behave(monkeypatch)

    def _behave(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An open file of a removed cgroup gives ENODEV; one of another file system lives on."""
        original = CgroupFiles.read

        def read(directory: CgroupFiles, name: str, *, in_pieces: bool = False) -> bytes | None:
            self.reads.append((directory.path, name))
            if directory.is_gone():
                raise CgroupGoneError(directory.path)
            return original(directory, name, in_pieces=in_pieces)

        monkeypatch.setattr(CgroupFiles, "read", read)

    def add(self, path: str, **fields: Any) -> Group:
        """A cgroup; its parents have to be there."""
        (self._mount / path.lstrip("/")).mkdir()
        group = self.groups[path] = Group(**fields)
        self.sync()
        return group

    def mount_file(self, name: str) -> Path:
        """A file of the root, which has none of its own here."""
        return self._mount / name

    def remove(self, path: str) -> None:
        """It and all below it; what they held goes, the counters of those above stay."""
        lost = [each for each in self.groups if each == path or each.startswith(path + "/")]
        parent = self.groups.get(os.path.dirname(path))
        for each in lost:
            group = self.groups.pop(each)
            if parent is not None:
                for name, count in group.events.items():
                    parent.gone[name] += count
        shutil.rmtree(self._mount / path.lstrip("/"))
        self._written = {file: text for file, text in self._written.items() if file.exists()}
        self.sync()

    def sync(self) -> None:
        """Write what has changed."""
        for path in self.groups:
            for name, text in self._files_of(path):
                file = self._mount / path.lstrip("/") / name
                if self._written.get(file) != text:
                    file.write_text(text)
                    self._written[file] = text

    def show(self, path: str, name: str, count: int) -> None:
        """An event as a reader finds it who comes before the kernel has counted this level up; until `sync`."""
        file = self._mount / path.lstrip("/") / "memory.events"
        rows = dict(line.split() for line in self._written.pop(file).splitlines())
        file.write_text("".join(f"{key} {count if key == name else value}\n" for key, value in rows.items()))

    def _files_of(self, path: str) -> Iterator[tuple[str, str]]:
        own = self.groups[path]
        below = [group for each, group in self.groups.items() if each == path or each.startswith(path + "/")]
        events = {name: sum(each.events[name] + each.gone[name] for each in below) for name in _EVENTS}
        anon, file = sum(each.anon for each in below), sum(each.file for each in below)
        stalled = max(each.stalled_usec for each in below)
        line = f"avg10=0.00 avg60=0.00 avg300=0.00 total={stalled}"
        yield "memory.current", f"{anon + file}\n"
        yield "memory.swap.current", f"{sum(each.swap for each in below)}\n"
        yield "memory.swap.max", f"{'max' if own.swap_max is None else own.swap_max}\n"
        yield "memory.high", f"{'max' if own.high is None else own.high}\n"
        yield "memory.max", f"{'max' if own.max is None else own.max}\n"
        yield "memory.stat", f"anon {anon}\nfile {file}\nshmem 0\nkernel 0\nslab_reclaimable 0\n"
        yield "memory.events", "".join(f"{name} {count}\n" for name, count in events.items())
        yield "memory.events.local", "".join(f"{name} {count}\n" for name, count in own.events.items())
        yield "memory.pressure", f"some {line}\nfull {line}\n"
        yield "cgroup.procs", "".join(f"{pid}\n" for pid in own.pids)
        yield "cgroup.kill", ""


class ScriptIsOverError(Exception):
    """Nothing more happens: the way out of a guard that watches for ever."""


class Script:
    """The time, and what happens in it: each wait of a guard is the next step."""

    def __init__(self, *steps: Callable[[], object]) -> None:
        self.now = 100.0
        self.waits: list[float | None] = []
        """How long each wait was to be; None: until called."""
        self._steps = list(steps)

    def clock(self) -> float:
        return self.now

    async def wait(self, called: asyncio.Event, seconds: float | None) -> None:
        for _ in range(TURNS):
            await asyncio.sleep(0)
        self.waits.append(seconds)
        if not self._steps:
            raise ScriptIsOverError
        self._steps.pop(0)()

    def then(self, *steps: Callable[[], object]) -> None:
        """More of it."""
        self._steps += steps


class Calls:
    """Who is told of changes; the script tells nobody, it waits."""

    def __init__(self) -> None:
        self.files: list[int] = []

    def add_file(self, descriptor: int, callback: Callable[[], None]) -> None:
        self.files.append(descriptor)

    def remove(self, descriptor: int) -> None:
        self.files.remove(descriptor)


class Victims:
    """Processes that exist in the tree alone; who is killed leaves it, with what it held."""

    def __init__(self, tree: FakeTree, monkeypatch: pytest.MonkeyPatch, processes: Iterable[ProcessSample]) -> None:
        self.tree = tree
        self.processes = {each.pid: each for each in processes}
        self.killed: list[int] = []
        self.told: list[Report] = []
        self.survives: set[int] = set()
        """Who does not end by SIGKILL; or not before `exit`."""
        self._dying: dict[int, FakeVictim] = {}
        monkeypatch.setattr(procfs, "snapshot", self.snapshot)

    def snapshot(self, pids: Iterable[int]) -> ProcessTable:
        return ProcessTable(self.processes[pid] for pid in pids if pid in self.processes)

    @property
    def kills(self) -> list[tuple[int, str]]:
        """(pid, offending cgroup) of each report."""
        return [(each.victim.pid, each.cgroup) for each in self.told if isinstance(each, KillReport)]

    def exit(self, pid: int) -> None:
        """One that was slow to end."""
        self._dying.pop(pid).exit()

    def cgroup_of(self, pid: int) -> str:
        return next((path for path, group in self.tree.groups.items() if pid in group.pids), "")

    @contextmanager
    def prove(self, identity: ProcessIdentity, cgroup: str) -> Iterator[FakeVictim]:
        lives = self.cgroup_of(identity.pid)
        if lives != cgroup and not lives.startswith(cgroup.rstrip("/") + "/"):
            raise ProcessGoneError(identity.pid)
        victim = FakeVictim(self, identity, lives)
        try:
            yield victim
        finally:
            victim.close()


class FakeVictim:
    """A pipe in place of a pidfd: readable once the writer is closed."""

    def __init__(self, victims: Victims, identity: ProcessIdentity, cgroup: str) -> None:
        self.cgroup = cgroup
        self._victims = victims
        self._pid = identity.pid
        self._exit, self._writer = os.pipe()

    def fileno(self) -> int:
        return self._exit

    def ask_to_end(self) -> None:
        raise AssertionError("no slice here has a grace time")

    def kill(self) -> None:
        self._victims.killed.append(self._pid)
        if self._pid in self._victims.survives:
            self._victims._dying[self._pid] = self
        else:
            self.exit()

    def exit(self) -> None:
        os.close(self._writer)
        self._writer = -1
        held_bytes = self._victims.processes.pop(self._pid).rss_pages * procfs.PAGE_BYTES
        group = self._victims.tree.groups.get(self.cgroup)
        if group is not None and self._pid in group.pids:
            group.pids.remove(self._pid)
            group.anon -= held_bytes
            self._victims.tree.sync()

    def close(self) -> None:
        os.close(self._exit)
        if self._writer >= 0:
            os.close(self._writer)
