# SPDX-License-Identifier: LGPL-2.1-or-later
"""Everybody who lives in the guest, and what became of them; for tests that end somebody."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.vm.desktop_2010 import everybody, who_died

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.vm.desktop_2010 import Person

_COME_AND_GO = frozenset(
    {"systemd-userwor", "(sd-close)", "(udev-worker)", "systemd-timedat", "systemd-hostnam", "dunst"}
)
"""systemd's own, which end when they are idle; and dunst, which the bus starts for a notice of the daemon's, and which
ends when it finds no display."""


def until(condition: Callable[[], object], what: str, seconds: float = 40.0) -> None:
    """Wait for something that a foreign process does."""
    began = time.monotonic()
    deadline = began + seconds
    while not condition():
        now = time.monotonic()
        assert now < deadline, f"it did not happen: {what}"
        # A look by a command takes a second of an emulated core, which who is waited for needs as well.
        time.sleep(max(0.05, now - began))
        began = time.monotonic()


def whole_lines(text: str) -> list[str]:
    """Of a file that somebody is writing: of its last line only a half may be there."""
    return [line for line in text.splitlines(keepends=True) if line.endswith("\n")]


def people() -> frozenset[Person]:
    """Everybody who does not end by himself: no kernel threads, no workers that come and go, and nobody just gone."""
    return frozenset(each for each in everybody() if each.comm not in _COME_AND_GO and _is_somebody(each.pid))


def dead(since: frozenset[Person]) -> list[str]:
    """Names of those of `since` that are gone, sorted; our own, who end with what they do, are told apart by the tests."""
    return [comm for comm in who_died(since) if not comm.startswith("slicemgr")]


def kernel_kills() -> int:
    """What the kernel's OOM killer has taken since the boot, for a cgroup or for the machine."""
    rows = dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    return int(rows["oom_kill"])


class Bystanders:
    """All who live now, and may not die."""

    def __init__(self) -> None:
        self._people = people()
        self._kernel_kills = kernel_kills()
        self.expected_kernel_kills = 0

    def check(self) -> None:
        """AssertionError if one of them died, or the kernel took somebody unexpected."""
        assert who_died(self._people) == []
        assert kernel_kills() - self._kernel_kills == self.expected_kernel_kills


def _is_somebody(pid: int) -> bool:
    try:
        ppid = int(Path(f"/proc/{pid}/stat").read_text(errors="surrogateescape").rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return False
    return 2 not in {pid, ppid}
