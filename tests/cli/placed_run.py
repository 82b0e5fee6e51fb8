# SPDX-License-Identifier: LGPL-2.1-or-later
"""What one `slicemgr run` in a cgroup of nobody's needs (in_a_cgroup.py), and daemons that do as they are told."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slicemgr.service.history import History
from tests.cli.in_a_cgroup import CGROUP

if TYPE_CHECKING:
    from collections.abc import Callable

    from slicemgr.service.report import Report

ROOT = Path(__file__).parent.parent.parent
MIB = 1 << 20
WHILE_READING = ["sh", "-c", 'read word < "$0"; echo "$word"']


class Place:
    """A directory with what one run needs: the files of a cgroup, a FIFO, a socket for a daemon."""

    def __init__(self, folder: Path) -> None:
        self.files = folder / "cgroups" / CGROUP.lstrip("/")
        self.files.mkdir(parents=True)
        self.write(peak=7 * MIB, oom_kill=0, populated=0)
        self.fifo = folder / "fifo"
        os.mkfifo(self.fifo)
        self.socket = folder / "control"
        """Of the user's own daemon."""
        self.system_socket = folder / "system"
        self.state = folder / "state"
        self.json = folder / "report.json"
        self.asked = folder / "asked"
        self.cgroups = folder / "cgroups"

    def write(self, *, peak: int, oom_kill: int, populated: int) -> None:
        (self.files / "memory.peak").write_text(f"{peak}\n")
        (self.files / "memory.events").write_text(f"low 0\nhigh 9\noom 1\noom_kill {oom_kill}\n")
        (self.files / "cgroup.events").write_text(f"populated {populated}\nfrozen 0\n")

    def run(self, *arguments: str, **settings: Any) -> tuple[subprocess.CompletedProcess[str], Any]:
        """To its end; what it told, and its JSON if there is one."""
        chosen = {
            "cgroups": str(self.cgroups), "fifo": str(self.fifo), "asked": str(self.asked),
            "daemons": [
                ("/nowhere/control", str(self.state)), (str(self.socket), str(self.state)),
                (str(self.system_socket), "/var/lib/slicemgr"),
            ],
            "state": str(self.state), **settings,
        }  # fmt: skip
        command = ["-m", "tests.cli.in_a_cgroup", json.dumps(chosen), "--json", str(self.json), *arguments]
        done = subprocess.run(
            [sys.executable, *command], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60, cwd=ROOT
        )
        return done, json.loads(self.json.read_text()) if self.json.exists() else None

    def remembered(self) -> list[Report]:
        """What is in the user's history now."""
        return [record.report for record in self.history().read().records]

    def history(self) -> History:
        return History(str(self.state))

    def said(self, done: subprocess.CompletedProcess[str]) -> list[str]:
        return [line.removeprefix("slicemgr: ") for line in done.stderr.splitlines()]


class Daemon:
    """Listens at a socket, and does as it is told with one connection."""

    def __init__(self, path: Path, serve: Callable[[socket.socket], None]) -> None:
        self.heard: list[bytes] = []
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen()
        self._serve = serve
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        connection, _ = self._listening.accept()
        with connection:
            self.heard.append(connection.makefile("rb").readline())
            self._serve(connection)

    def close(self) -> None:
        self._thread.join()
        self._listening.close()
