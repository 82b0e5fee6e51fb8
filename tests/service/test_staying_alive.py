# SPDX-License-Identifier: LGPL-2.1-or-later
"""Our own process when memory is short, tried in children: what they do to themselves stays with them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PREAMBLE = "import resource; from pathlib import Path; from slicemgr.kernel.staying_alive import *; "


def child(code: str) -> list[str]:
    """What it prints."""
    done = subprocess.run([sys.executable, "-c", PREAMBLE + code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_locked_or_told_why() -> None:
    """VmLck says the same as we do."""
    verdict, locked = child(
        "print(lock_memory().name); "
        "print([line.split()[1] for line in Path('/proc/self/status').read_text().splitlines() if 'VmLck' in line][0])"
    )
    assert verdict in {"LOCKED", "LIMITED", "REFUSED"}
    assert (int(locked) > 0) == (verdict == "LOCKED")


@pytest.mark.parametrize("limit", [0, 1 << 20])
def test_a_limit_that_would_end_us_is_left_alone(limit: int) -> None:
    """Below it every later mmap would fail: so nothing is locked, and memory can be had afterwards."""
    code = (
        f"resource.setrlimit(resource.RLIMIT_MEMLOCK, ({limit}, {limit})); "
        # With CAP_SYS_RESOURCE the limit could be raised again.
        "from slicemgr.kernel import staying_alive; staying_alive.resource.setrlimit = refuse; "
        "print(lock_memory().name); print(len(bytearray(64 << 20)))"
    )
    refusing = "def refuse(*_):\n    raise PermissionError\n"
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + "\n" + refusing + code], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["LIMITED", str(64 << 20)], done.stderr


def test_oom_score_adj_goes_down_or_stays() -> None:
    """It answers what the kernel says afterwards, and never raises it."""
    first, second, kernel = child(
        "print(lower_oom_score_adj(-900)); print(lower_oom_score_adj(500)); "
        "print(Path('/proc/self/oom_score_adj').read_text())"
    )
    assert first == second == kernel
    assert int(first) == -900 or int(first) == int(Path("/proc/self/oom_score_adj").read_text())


def test_as_many_files_as_the_hard_limit_allows() -> None:
    """From 64 up to 256."""
    assert child(
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 256)); print(raise_open_files(), *resource.getrlimit(7))"
    ) == ["256", "256", "256"]
