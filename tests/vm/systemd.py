# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a VM test asks of a service manager: run a scope, read a property, find a cgroup."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def memory_stat(cgroup: Path) -> dict[str, int]:
    """As it is now: 6.1 answers with numbers up to 2 s old while somebody else sums them up, which a read makes it wait
    for only after it."""
    for _ in range(2):
        rows = (cgroup / "memory.stat").read_text().splitlines()
        time.sleep(0.05)
    return {name: int(value) for name, value in map(str.split, rows)}


def cgroup_of(pid: int | str = "self") -> Path:
    """The directory of a process's cgroup. One line of the file: `0::/system.slice/dbus.service`."""
    return CGROUPS / Path(f"/proc/{pid}/cgroup").read_text().strip().removeprefix("0::/")


@dataclass(frozen=True, slots=True)
class Systemd:
    """The system's manager, or the user's own."""

    user: bool

    def systemctl(self, *arguments: str) -> str:
        """What `systemctl [--user] ...` prints. Raises CalledProcessError with its complaint."""
        return run("systemctl", *self._whose(), *arguments)

    def run_scope(self, *command: str, **properties: str) -> str:
        """What `command` prints when run in a scope of its own with these unit properties."""
        settings = [f"--property={name}={value}" for name, value in properties.items()]
        return run("systemd-run", *self._whose(), "--scope", "--quiet", "--collect", *settings, *command)

    def _whose(self) -> list[str]:
        return ["--user"] if self.user else []


def run(*command: str) -> str:
    """Standard output of a command that has to succeed; its standard error is in the exception's notes."""
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        error = subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
        error.add_note(done.stderr.strip())
        raise error
    return done.stdout.strip()
