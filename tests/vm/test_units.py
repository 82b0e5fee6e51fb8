# SPDX-License-Identifier: LGPL-2.1-or-later
"""The unit files, in a real manager."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from slicemgr.kernel import procfs
from tests.vm.systemd import run

if TYPE_CHECKING:
    from tests.vm.systemd import Systemd

UNITS = Path(__file__).parent.parent.parent / "units/user"


@pytest.mark.vm(users=("tester",))
def test_a_build_in_its_slice(systemd: Systemd) -> None:
    """As the file itself says: the scope is in build.slice, which has its limit, and slicemgr runs in it."""
    folder = Path.home() / ".config/systemd/user"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(UNITS / "build.slice", folder)
    assert run("systemd-analyze", "--user", "verify", str(folder / "build.slice")) == ""
    systemd.systemctl("daemon-reload")
    command = ["slicemgr", "run", "--max", "60%", "--", "cat", "/proc/self/cgroup"]
    told = run(
        "systemd-run", "--user", "--scope", "--quiet", "--slice=build.slice", "-pOOMPolicy=continue", "--", *command
    )
    assert "/user@1000.service/build.slice/run-" in told
    limit = int(systemd.systemctl("show", "--property=MemoryMax", "--value", "build.slice"))
    assert limit == pytest.approx(procfs.machine_memory().total * 0.8, rel=0.01)
