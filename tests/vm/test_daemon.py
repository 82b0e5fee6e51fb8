# SPDX-License-Identifier: LGPL-2.1-or-later
"""The daemon in the guest: who dies at each kind of shortage, and that nobody else does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import HOG
from tests.vm.systemd import CGROUPS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.vm.systemd import Systemd

MIB = 1 << 20


class Running:
    """A daemon of this user, started by hand, and what it has told."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process = process
        self.log = log

    def history(self) -> list[dict[str, Any]]:
        """Its records."""
        home = Path.home() / ".local/state/slicemgr" if os.getuid() else Path("/var/lib/slicemgr")
        file = home / "history.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def until(condition: Any, seconds: float = 30.0) -> None:
    """Wait for something that a foreign process does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


@contextmanager
def daemon(vm_user: str, folder: Path, *options: str) -> Iterator[Running]:
    """`slicemgr daemon`, ready."""
    log = folder / "daemon.log"
    socket = Path(f"/run/user/{os.getuid()}/slicemgr/control" if os.getuid() else "/run/slicemgr/control")
    with log.open("w") as file:
        process = subprocess.Popen(["slicemgr", "daemon", *options], stderr=file, text=True)
    try:
        until(lambda: socket.exists() or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        yield Running(process, log)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        sys.stderr.write(log.read_text())


def test_a_leak_is_ended_by_the_daemon(vm_user: str, tmp_path: Path) -> None:
    """In a job of its own, below memory.max, and the kernel was not needed."""
    with daemon(vm_user, tmp_path) as running:
        leak = [sys.executable, HOG, "--grow", "300M", "--rate", "60M", "--hold", "2", "--comm", "leak"]
        done = subprocess.run(["slicemgr", "run", "--max", "100M", "--", *leak], capture_output=True, text=True)
        assert done.returncode == 128 + signal.SIGKILL or done.returncode == -signal.SIGKILL, done.stderr
        assert "killed 'leak'" in done.stderr, done.stderr
        (record,) = running.history()
        assert record["report"]["victim"]["name"] == "leak"
