# SPDX-License-Identifier: LGPL-2.1-or-later
"""A job with a launcher and compilers of a test's own, and a compiler that waits until it is killed or let go."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from typing import TYPE_CHECKING

import psutil

from slicemgr.build.launcher import Launcher

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SYSTEM = "/usr/bin:/bin"
SECONDS = 60

AGAIN = "slicemgr: again: "
WHY = " (it was killed for lack of memory)"

# The first time it is killed as slicemgr would do it: the mark first. Its parent is the shim.
KILLED_ONCE = """#!/bin/sh
echo run >>"$COUNT"
[ -e "$COUNT.killed" ] && exit 0
: >"$COUNT.killed"
: >"$SLICEMGR_JOB/killed/$PPID"
kill -9 $$
"""


class Job:
    """A launcher, with compilers of the test's own before the system's."""

    def __init__(self, folder: Path, *, shell: str = "/bin/sh", excluded: Sequence[str] = ()) -> None:
        self.folder = folder
        self.tools = folder / "some tools"
        self.tools.mkdir(exist_ok=True)
        self.shims = folder / "it's kept"
        self.shell = shell
        self.excluded = excluded
        self.launcher: Launcher | None = None
        self.count = folder / "count"

    def tool(self, name: str, text: str) -> None:
        (self.tools / name).write_text(text)
        (self.tools / name).chmod(0o755)

    def open(self) -> Launcher:
        """The launcher; made when it is first needed, after the tools."""
        if self.launcher is None:
            path = f"{self.tools}:{SYSTEM}"
            self.launcher = Launcher(str(self.folder / "job"), path, self.excluded, shims=str(self.shims))
            for shim in self.shims.glob("*/shim"):
                shim.write_text(shim.read_text().replace("#!/bin/sh", f"#!{self.shell}", 1))
        return self.launcher

    @property
    def bin(self) -> str:
        return self.environment()["PATH"].partition(":")[0]

    def environment(self, **more: str) -> dict[str, str]:
        before = {"PATH": f"{self.tools}:{SYSTEM}", "HOME": str(self.folder), "LC_ALL": "C", "COUNT": str(self.count)}
        before["CCACHE_DIR"] = str(self.folder / "ccache")
        return {**before, **self.open().environment(before), **more}

    def start(self, *command: str, **more: str) -> subprocess.Popen[str]:
        """In a group of its own, as the command of a job is."""
        return subprocess.Popen(
            command, cwd=self.folder, env=self.environment(**more), text=True, process_group=0,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(self, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
        return finished(self.start(*command, **more))

    def outside(self, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
        """As a person would afterwards: nothing of slicemgr is in the environment."""
        environment = {"PATH": SYSTEM, "HOME": str(self.folder), "LC_ALL": "C", **more}
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True)

    def runs(self) -> int:
        return len(self.count.read_text().splitlines()) if self.count.exists() else 0

    def marks(self, kind: str) -> list[str]:
        return sorted(os.listdir(self.folder / "job" / kind))


def finished(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    out, err = process.communicate(timeout=SECONDS)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def above(pid: int) -> list[int]:
    """The ancestors of a process, up to the test."""
    return [parent.pid for parent in psutil.Process(pid).parents() if parent.pid not in {1, os.getpid()}]


def _name(process: psutil.Process) -> str:
    """Empty if it has ended since: other steps do."""
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return ""


class Gate:
    """A header that is a fifo: a compiler waits in its open(2), until somebody has something to write."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "gate.h"
        os.mkfifo(self.path)
        (folder / "x.cc").write_text('#include "gate.h"\nint main() { return 0; }\n')
        (folder / "Makefile").write_text("x.o: x.cc\n\tg++ -c x.cc\n")

    def compiler(self, build: subprocess.Popen[str], name: str = "cc1plus") -> tuple[int, int]:
        """Wait until there is one in the open; its pid, and the other end of its fifo."""
        end = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
        (found,) = [each for each in psutil.Process(build.pid).children(recursive=True) if _name(each) == name]
        return found.pid, end

    def kill(self, build: subprocess.Popen[str], launcher: Launcher | None) -> list[int]:
        """Kill the compiler that waits, marked by `launcher` as a guard would; the ancestors that it had."""
        pid, end = self.compiler(build)
        ancestors = above(pid)
        if launcher is not None:
            launcher.mark_killed(ancestors)
        # Not before it is gone may somebody else find the fifo without a reader.
        pidfd = os.pidfd_open(pid)
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        assert select.select([pidfd], [], [], SECONDS)[0], "it has not ended"
        os.close(pidfd)
        os.close(end)
        return ancestors

    def let_go(self, build: subprocess.Popen[str]) -> None:
        _, end = self.compiler(build)
        os.write(end, b"// nothing\n")
        os.close(end)
