# SPDX-License-Identifier: LGPL-2.1-or-later
"""The pipe to the guardian: two threads write to it, and somebody may have stopped who reads it."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING

from slicemgr.service import guardian as guardian_module
from slicemgr.service.guardian import Guardian

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

LONG = [f"/{'a' * 100}{at}.slice" for at in range(2000)]
"""More than the pipe has room for, so it is written in pieces."""


def test_one_that_is_stopped_outlives_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So nobody is held any more, and the pacer waits for it once, not for ever and not each time."""
    monkeypatch.setattr(guardian_module, "READS_SECONDS", 0.01)
    guardian = Guardian(mount=str(tmp_path))
    os.kill(guardian.pid, signal.SIGSTOP)
    told = 0
    while guardian.hold(4711, told):
        told += 1
    assert told > 1000
    assert not guardian.is_there()
    os.kill(guardian.pid, signal.SIGCONT)
    assert not guardian.hold(4711, 1), "it may have got half a line"
    guardian.lift()


def test_what_two_threads_say_is_not_mixed(tmp_path: Path) -> None:
    """A list that has to wait for room stays whole, whatever is said of steps meanwhile."""
    told = tmp_path / "told"
    guardian = Guardian(mount=str(tmp_path), also=lambda cgroups: told.write_text("\n".join(cgroups)))
    for _ in range(10):
        os.kill(guardian.pid, signal.SIGSTOP)
        watcher = threading.Thread(target=guardian.watch, args=[LONG])
        watcher.start()
        # The pipe is full amid a line now, or will be.
        holders = [threading.Thread(target=guardian.hold, args=[1 << 30, number]) for number in range(20)]
        for each in holders:
            each.start()
        os.kill(guardian.pid, signal.SIGCONT)
        for each in [watcher, *holders]:
            each.join()
    guardian.lift()
    assert told.read_text().split("\n") == LONG
