# SPDX-License-Identifier: LGPL-2.1-or-later
"""A cgroup tree of plain files, and processes that stand still in it."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import ExitStack
    from pathlib import Path

USER_ROOT = "/user.slice/user-1000.slice/user@1000.service"
MIB = 1 << 20

CALM = "some avg10={:.2f} avg60=0.00 avg300=0.00 total=0\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"


class FakeCgroups:
    """Directories with the files that the kernel would show; `mount` is what to look at."""

    def __init__(self, mount: Path) -> None:
        self.mount = str(mount)
        self._mount = mount
        mount.mkdir(exist_ok=True)
        (mount / "cgroup.controllers").write_text("cpu memory pids\n")

    def add(
        self,
        path: str,
        *,
        current: int = 0,
        high: int | None = None,
        max: int | None = None,  # noqa: A002
        swap: int = 0,
        stalled: float = 0.0,
        pids: Sequence[int] = (),
    ) -> Path:
        """A cgroup, and all above it that are not there yet."""
        directory = self._mount / path.lstrip("/")
        for each in reversed([directory, *directory.parents]):
            if self._mount in each.parents and not each.exists():
                each.mkdir()
                (each / "cgroup.procs").write_text("")
        files = {
            "memory.current": str(current),
            "memory.high": "max" if high is None else str(high),
            "memory.max": "max" if max is None else str(max),
            "memory.swap.current": str(swap),
            "memory.swap.max": "max",
            "memory.pressure": CALM.format(stalled).rstrip("\n"),
            "cgroup.procs": "\n".join(str(pid) for pid in pids),
        }
        for name, text in files.items():
            (directory / name).write_text(f"{text}\n" if text else "")
        return directory


_FAMILY = """
import os, sys
children = []
for size in map(int, sys.argv[2:]):
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        with open("/proc/self/comm", "wb") as comm:
            comm.write(b"cc1plus")
        block = b"x" * (size << 20)
        os.write(told, b".")
        sys.stdin.buffer.read()
        os._exit(0)
    os.read(ready, 1)
    children.append(pid)
with open("/proc/self/comm", "wb") as comm:
    comm.write(os.fsencode(sys.argv[1]))
print(*children, flush=True)
sys.stdin.buffer.read()
"""


class Family:
    """A real parent of this name, with real children `cc1plus` that hold so many MiB each; gone with its stack."""

    def __init__(self, stack: ExitStack, *sizes: int, name: str = "make") -> None:
        self.process = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-c", _FAMILY, name, *map(str, sizes)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        stack.callback(self.process.stdin.close)  # All of them read it to its end.
        self.pid = self.process.pid
        self.children = [int(pid) for pid in self.process.stdout.readline().split()]

    def __iter__(self) -> Iterator[int]:
        return iter([self.pid, *self.children])
