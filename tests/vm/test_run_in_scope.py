# SPDX-License-Identifier: LGPL-2.1-or-later
"""`slicemgr run` where systemd is: the job in a scope of its own, held by the kernel; no daemon in sight."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import HOG

if TYPE_CHECKING:
    from pathlib import Path

    from tests.vm.systemd import Systemd

pytestmark = pytest.mark.vm(users=("tester",))

MIB = 1 << 20


def scope_run(folder: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], Any]:
    """By the name that a person types; what it told, and its JSON."""
    file = folder / "report.json"
    file.unlink(missing_ok=True)
    done = subprocess.run(
        ["slicemgr", "run", "--json", str(file), *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    return done, json.loads(file.read_text()) if file.exists() else None


def test_it_runs_in_a_scope_of_build_slice(tmp_path: Path, vm_user: str) -> None:
    """From its first page on; the limits are the scope's, and the report says where it was."""
    look = 'cut -d: -f3 /proc/self/cgroup; cd "/sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)"; cat memory.high memory.max memory.swap.max'
    done, report = scope_run(tmp_path, "--max", "64M", "--swap-max", "8M", "--name", "my job", "--", "sh", "-c", look)
    assert done.returncode == 0, done.stderr
    cgroup, high, limit, swap = done.stdout.split("\n")[:4]
    assert (int(high), int(limit), int(swap)) == (60 * MIB, 64 * MIB, 8 * MIB)
    above = {"root": "/build.slice/", "tester": "/user.slice/user-1000.slice/user@1000.service/build.slice/"}[vm_user]
    assert cgroup.startswith(above)
    assert report["cgroup"] == cgroup
    assert report["unit"] == cgroup.rpartition("/")[2]
    assert report["unit"].startswith("slicemgr-my\\x20job-")
    assert (report["backend"], report["watched_by"]) == ("systemd", None)
    assert len(done.stderr.splitlines()) == 1


def test_the_peak_is_read_before_the_scope_is_gone(tmp_path: Path) -> None:
    """The manager removes it as soon as it hears of its emptiness: we hear of the exit at the same time."""
    peaks = []
    for _ in range(20):
        _, report = scope_run(tmp_path, "--max", "64M", "--", "true")
        peaks.append(report["peak_bytes"])
    assert all(64 << 10 < peak < 20 * MIB for peak in peaks if peak)
    assert peaks.count(0) <= 2, peaks


def test_a_hog_has_its_peak(tmp_path: Path) -> None:
    """And a guard, which comes after a tenth of a second and finds nothing to do."""
    done, report = scope_run(tmp_path, "--max", "120M", "--", sys.executable, HOG, "--start", "60M", "--hold", "8")
    assert done.returncode == 0, done.stderr
    assert 60 * MIB < report["peak_bytes"] < 120 * MIB
    assert report["watched_by"] == "run"
    assert report["guard_failures"] == []


@pytest.mark.parametrize(("command", "status"), [("exit 7", 7), ("kill -TERM $$", -signal.SIGTERM)])
def test_the_status_is_the_commands(tmp_path: Path, command: str, status: int) -> None:
    """The scope is no service: the command is still our child."""
    assert scope_run(tmp_path, "--", "sh", "-c", command)[0].returncode == status


def test_who_outlives_the_command_stays_in_the_scope(tmp_path: Path, systemd: Systemd) -> None:
    """It is told, and the scope is there until it ends."""
    os.mkfifo(tmp_path / "fifo")
    done, report = scope_run(tmp_path, "--", "sh", "-c", f"setsid cat {tmp_path}/fifo >/dev/null 2>&1 & echo $!")
    pid = int(done.stdout)
    assert [each["pid"] for each in report["left_running"]] == [pid]
    assert "still running, and no longer guarded, though held at its limits" in done.stderr
    assert systemd.systemctl("is-active", report["unit"]) == "active"
    (tmp_path / "fifo").write_text("")


def test_orphans_are_not_ours(tmp_path: Path) -> None:
    """As without slicemgr: they go to the manager, and not through us."""
    os.mkfifo(tmp_path / "fifo")
    orphan = f"(sh -c 'read line < {tmp_path}/fifo; ps -o ppid= -p $$ > {tmp_path}/parent; echo > {tmp_path}/fifo' &)"
    script = f"{orphan}; echo > {tmp_path}/fifo; read line < {tmp_path}/fifo; echo $PPID"
    done, _ = scope_run(tmp_path, "--", "sh", "-c", script)
    assert (tmp_path / "parent").read_text().strip() not in {"", done.stdout.strip()}


def test_limits_that_nobody_holds_are_refused_or_watched(tmp_path: Path, systemd: Systemd, vm_user: str) -> None:
    """`--backend cgroup` from a cgroup that is not ours to divide: an error; `auto` goes by itself to systemd."""
    done, report = scope_run(tmp_path, "--backend", "cgroup", "--max", "64M", "--", "true")
    if done.returncode == 0:  # root may write anywhere.
        assert vm_user == "root"
        assert report["backend"] == "cgroup"
    else:
        assert done.returncode == 125
        assert "; try " in done.stderr
        assert len(done.stderr.splitlines()) == 1
