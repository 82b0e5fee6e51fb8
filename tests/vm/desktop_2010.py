# SPDX-License-Identifier: LGPL-2.1-or-later
"""The session of the 2010 report as a bystander: whoever else is killed, nobody of these may be.

The tree is that of the post "Improving OOM killer" to linux-kernel, 1 February 2010: kdeinit with ksmserver and
kwin below it, and a konsole that has forked away to init. The kernel of that time killed kdeinit or ksmserver.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from tests.vm.systemd import cgroup_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.vm.systemd import Systemd

Tree: TypeAlias = tuple[str, int, list["Tree"]]
"""comm, MiB of its own, children."""

KDEINIT: Tree = ("kdeinit", 12, [("ksmserver", 24, [("kwin", 20, [])]), ("plasmashell", 28, []), ("kded", 6, [])])
KONSOLE: Tree = ("konsole", 10, [("bash", 2, [])])
FIREFOX: Tree = ("firefox", 28, [("Web Content", 20, [])])

ROOMS = {"session": (KDEINIT,), "app": (KONSOLE, FIREFOX)}
"""Trees by slice, each in a scope of its own: 150 MiB in all."""

SLICES = {"session": "session-test.slice", "app": "app-test.slice"}
"""root's: the system's manager has no session of its own, so these stand in. tester's are the real ones."""


@dataclass(frozen=True, slots=True)
class Person:
    """A process, for as long as it is the same one."""

    pid: int
    start_ticks: int
    """Field 22 of /proc/PID/stat: a pid alone may be another process by now."""
    comm: str


def person(pid: int) -> tuple[Person, str] | None:
    """Who has this pid, with the letter of its state; None if nobody has."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="surrogateescape")
    except (FileNotFoundError, ProcessLookupError):
        return None
    before, _, after = text.rpartition(")")
    fields = after.split()
    return Person(pid, int(fields[19]), before.partition("(")[2]), fields[0]


def everybody() -> frozenset[Person]:
    """All processes of the machine that are no zombies, kernel threads included."""
    found = (person(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return frozenset(each for each, state in filter(None, found) if state not in "ZX")


def who_died(since: frozenset[Person]) -> list[str]:
    """Names of those of `since` that are gone now, sorted; a name that a process has changed is no death."""
    now = {(each.pid, each.start_ticks) for each in everybody()}
    return sorted(each.comm for each in since if (each.pid, each.start_ticks) not in now)


@dataclass(frozen=True, slots=True)
class Desktop:
    """The running session."""

    members: tuple[Person, ...]
    cgroups: tuple[Path, ...]
    """Of its scopes."""

    def pid(self, comm: str) -> int:
        """Of the member of this name."""
        (pid,) = (each.pid for each in self.members if each.comm == comm)
        return pid

    def complaints(self) -> list[str]:
        """What has happened to it that must not, one line each; nothing if all is well."""
        told = []
        for member in self.members:
            match person(member.pid):
                case (Person(start_ticks=ticks), state) if ticks == member.start_ticks and state not in "ZX":
                    if state in "Tt":
                        told.append(f"{member.comm} ({member.pid}) is stopped")
                case _:
                    told.append(f"{member.comm} ({member.pid}) died")
        for cgroup in self.cgroups:
            for file, row in (("memory.events", "oom_kill"), ("cgroup.events", "frozen")):
                try:
                    rows = dict(line.split() for line in (cgroup / file).read_text().splitlines())
                except OSError as error:
                    if error.errno not in {errno.ENOENT, errno.ENODEV}:
                        raise
                    continue  # Its members died, and have been told of.
                if rows.get(row, "0") != "0":
                    told.append(f"{cgroup.name}: {file} says {row} {rows[row]}")
        return told

    def end(self) -> None:
        """Kill those that are left: the stopped do not hear that stdin has ended."""
        for member in self.members:
            if (found := person(member.pid)) is not None and found[0].start_ticks == member.start_ticks:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(member.pid, signal.SIGKILL)

    def last_words(self, process: subprocess.Popen[bytes]) -> list[str]:
        """Tell a tree to end; complaints of members that had been stopped and then let go on."""
        output, _ = process.communicate()
        names = {member.pid: member.comm for member in self.members}
        words = [line.split() for line in output.decode().splitlines()]
        return [f"{names[int(pid)]} ({pid}) was stopped, and {word}" for word, pid in words]


@contextlib.contextmanager
def pidfd(pid: int) -> Iterator[int]:
    """A descriptor that is readable when the process has ended."""
    fd = os.pidfd_open(pid)
    try:
        yield fd
    finally:
        os.close(fd)


def slice_of(room: str, systemd: Systemd) -> str:
    return f"{room}.slice" if systemd.user else SLICES[room]


def started(tree: Tree, slice_name: str, systemd: Systemd) -> subprocess.Popen[bytes]:
    """Let a tree start in a scope of its own in this slice."""
    place = [f"--slice={slice_name}", "--property=OOMPolicy=continue", *(["--user"] if systemd.user else [])]
    member = [sys.executable, "-m", "tests.vm.desktop_member", json.dumps(tree)]
    return subprocess.Popen(
        ["systemd-run", "--scope", "--quiet", "--collect", *place, *member],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def size_of(tree: Tree) -> int:
    return 1 + sum(size_of(child) for child in tree[2])


@contextlib.contextmanager
def standing_by(systemd: Systemd) -> Iterator[Desktop]:
    """The session runs while the block does; AssertionError at its end if anything was done to any member of it."""
    with contextlib.ExitStack() as stack:
        rooms = []
        for room, trees in ROOMS.items():
            for tree in trees:
                process = stack.enter_context(started(tree, slice_of(room, systemd), systemd))
                assert process.stdin is not None
                stack.callback(process.stdin.close)
                rooms.append((tree, process))
        members: list[Person] = []
        cgroups = []
        for tree, process in rooms:
            assert process.stdout is not None
            pids = [int(process.stdout.readline().removeprefix(b"ready ")) for _ in range(size_of(tree))]
            members += [found[0] for pid in pids if (found := person(pid))]
            cgroups.append(cgroup_of(pids[0]))
        desktop = Desktop(tuple(members), tuple(cgroups))
        ends = [stack.enter_context(pidfd(each.pid)) for each in members]
        try:
            yield desktop
        finally:
            complaints = desktop.complaints()
            if complaints:
                desktop.end()
            for _, process in rooms:
                complaints += desktop.last_words(process)
            for end in ends:
                select.select([end], [], [])
    assert not complaints, "the session was harmed: " + "; ".join(complaints)
