# SPDX-License-Identifier: LGPL-2.1-or-later
"""systemd-oomd beside us with Fedora's settings: a build that is paced gives it no reason to kill.

It ends a cgroup below user@.service when that was stalled in full for more than 50 % of 10 s, 20 s long.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.vm.bystanders import Bystanders, until
from tests.vm.guarded import MIB
from tests.vm.living import TESTER, as_user
from tests.vm.logins import MANAGER
from tests.vm.paced import hogs, makefile
from tests.vm.systemd import run

if TYPE_CHECKING:
    from collections.abc import Iterator

USER_UNIT = "user@1000.service"
LIMIT_PERCENT = 50
SETTINGS = Path("/run/systemd/oomd.conf.d/fedora.conf")


@pytest.fixture
def oomd() -> Iterator[None]:
    """As Fedora has it (systemd-oomd-defaults): pressure by user@.service, swap by the root slice."""
    SETTINGS.parent.mkdir(parents=True, exist_ok=True)
    SETTINGS.write_text("[OOM]\nDefaultMemoryPressureDurationSec=20s\n")
    run("systemctl", "start", "systemd-oomd")
    pressure = ("ManagedOOMMemoryPressure=kill", f"ManagedOOMMemoryPressureLimit={LIMIT_PERCENT}%")
    run("systemctl", "set-property", "--runtime", USER_UNIT, *pressure)
    run("systemctl", "set-property", "--runtime", "--", "-.slice", "ManagedOOMSwap=kill")
    try:
        yield
    finally:
        run("systemctl", "set-property", "--runtime", USER_UNIT, "ManagedOOMMemoryPressure=auto")
        run("systemctl", "set-property", "--runtime", "--", "-.slice", "ManagedOOMSwap=auto")
        run("systemctl", "revert", "--", USER_UNIT, "-.slice")
        run("systemctl", "stop", "systemd-oomd.service", "systemd-oomd.socket")
        SETTINGS.unlink()


@contextlib.contextmanager
def folder_of_tester() -> Iterator[Path]:
    """That tester may write to."""
    folder = Path(tempfile.mkdtemp(dir="/var/tmp"))
    try:
        makefile(folder, hogs(13, hold=10))
        for each in (folder, folder / "Makefile"):
            os.chown(each, TESTER, TESTER)
        yield folder
    finally:
        shutil.rmtree(folder)


def full_percent() -> float:
    """Of the last 10 s, as the kernel averages it."""
    line = (MANAGER / "memory.pressure").read_text().splitlines()[1]
    return float(line.split()[1].removeprefix("avg10="))


@pytest.mark.vm(users=("root",), swap="zram", timeout=300)
@pytest.mark.usefixtures("oomd")
def test_systemd_oomd_has_no_reason(vm_files: Path) -> None:
    """Thirteen steps at the limit for a minute; the worst ten seconds are far from what it kills at (4 % of 50 % here)."""
    until(lambda: USER_UNIT in run("oomctl"), "it watches the user's manager")
    people = Bystanders()
    with folder_of_tester() as folder:
        file = folder / "report.json"
        command = ["slicemgr", "run", "--max", "360M", "--json", str(file)]
        command += ["--", "make", "-j13", "-C", str(folder)]
        user = as_user(TESTER)
        user["env"]["XDG_STATE_HOME"] = str(folder)
        pressures = []
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL, **user) as build:
            while build.poll() is None:
                pressures.append(full_percent())
                with contextlib.suppress(subprocess.TimeoutExpired):
                    build.wait(timeout=0.5)
            assert build.stderr is not None
            told = build.stderr.read()
        assert build.returncode == 0, told
        report = json.loads(file.read_text())
    (vm_files / "oomd.txt").write_text(
        f"{told}\nfull avg10 of {USER_UNIT}: at most {max(pressures)} % of {pressures}\n"
    )
    assert report["kills"] == []
    assert report["peak_bytes"] <= 360 * MIB
    assert report["pacing"]["waited"] > 0
    assert report["elapsed_seconds"] > 40
    assert max(pressures) < LIMIT_PERCENT / 2, pressures
    assert "Killed" not in run("journalctl", "--boot", "--no-pager", "--output=cat", "--unit=systemd-oomd")
    people.check()
