# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whatever ends while steps stand still, a scope, a service, slicemgr itself: nobody is left standing."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.vm.bystanders import Bystanders, until
from tests.vm.guarded import build_slice, end_begun_jobs
from tests.vm.paced import Paced, hogs, makefile, once_paced, state_of, stopped
from tests.vm.systemd import CGROUPS, run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.vm.systemd import Systemd

pytestmark = pytest.mark.vm(users=("tester",), timeout=240)

MOMENTS = 5
LEFT_STANDING_SECONDS = 1.0


@pytest.fixture(autouse=True)
def unknown_builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing has been learnt before a test."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture(autouse=True)
def bystanders() -> Iterator[Bystanders]:
    """Everybody who lives when a test begins lives when it ends."""
    all_of_them = Bystanders()
    yield all_of_them
    end_begun_jobs()
    for scope in scopes():
        end_all(scope)
    all_of_them.check()


def scopes() -> list[Path]:
    """Of the builds that live."""
    return list((CGROUPS / build_slice()[1:]).glob("slicemgr-*.scope"))


def end_all(cgroup: Path) -> None:
    """Everybody in it, at once."""
    with contextlib.suppress(OSError):
        (cgroup / "cgroup.kill").write_text("1")
    until(lambda: not cgroup.exists(), f"{cgroup.name} is gone")


def pids_in(cgroup: Path) -> list[int]:
    try:
        return [int(pid) for pid in (cgroup / "cgroup.procs").read_text().split()]
    except OSError:
        return []


def children(pid: int) -> list[int]:
    """Of all its threads."""
    files = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for file in files for child in file.read_text().split()]


def comm_of(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def build(folder: Path, *, hold: float = 60.0) -> tuple[str, ...]:
    """Ten steps of 65 MB under 360M, all at once, for make below a shell gets no tokens: five fit."""
    makefile(folder, hogs(10, hold=hold))
    return ("--max", "360M", *once_paced(f"exec make -k -j10 -C {folder}"))


@contextlib.contextmanager
def held(folder: Path) -> Iterator[tuple[Paced, Path]]:
    """A build of which some steps run and some stand, for a minute; and its scope."""
    job = Paced(folder, *build(folder))
    until(scopes, "it has a scope")
    (scope,) = scopes()
    until(lambda: len(stopped(scope)) >= 3, "three steps stand")
    yield job, scope


def test_the_stop_of_its_scope(systemd: Systemd, tmp_path: Path) -> None:
    """systemd sends a SIGTERM and a SIGCONT, and nobody is stopped again: no need to wait for its SIGKILL."""
    with held(tmp_path) as (job, scope):
        pids = pids_in(scope)
        # Returns when the scope is gone; TimeoutStopSec= of a scope is 90 s.
        began = time.monotonic()
        systemd.systemctl("stop", scope.name)
        assert time.monotonic() - began < 45
        ended = job.end()
        assert ended.told.status != 0
        assert {state_of(pid) for pid in pids} <= {"X"}
        assert ended.told.kills == []


def test_the_end_of_the_session_that_it_runs_in(systemd: Systemd, tmp_path: Path) -> None:
    """At a logout slicemgr hears SIGTERM and SIGHUP like all of the session: it takes its build with it."""
    whose = ["--user"] if systemd.user else []
    settings = ["--property=SendSIGHUP=yes", f"--setenv=XDG_STATE_HOME={tmp_path}/state"]
    unit = "slicemgr-test-session.service"
    command = ["slicemgr", "run", *build(tmp_path)]
    run("systemd-run", *whose, f"--unit={unit}", "--collect", "--quiet", *settings, "--", *command)
    until(scopes, "it has a scope")
    (scope,) = scopes()
    until(lambda: len(stopped(scope)) >= 3, "three steps stand")
    pids = pids_in(scope)
    began = time.monotonic()
    systemd.systemctl("stop", unit)
    assert time.monotonic() - began < 45
    until(lambda: not scope.exists(), "its scope is gone")
    assert {state_of(pid) for pid in pids} <= {"X"}


def test_a_sigkill_of_slicemgr_at_any_moment(tmp_path: Path, vm_files: Path) -> None:
    """Within a second nobody stands: the guardian, which is in the scope, resumes them."""
    dice = random.Random(5)
    lags = []
    for moment in range(MOMENTS):
        folder = tmp_path / str(moment)
        folder.mkdir()
        job = Paced(folder, *build(folder))
        until(scopes, "it has a scope")
        (scope,) = scopes()
        steps = dice.randrange(2, 16)
        deadline = time.monotonic() + 30
        while len(pids_in(scope)) < steps and not len(stopped(scope)) >= 3:
            assert time.monotonic() < deadline
        for _ in range(dice.randrange(200)):
            pids_in(scope)
        job.job.process.kill()
        killed = seen = time.monotonic()
        while (now := time.monotonic()) < killed + LEFT_STANDING_SECONDS:
            if stopped(scope):
                seen = now
        left = stopped(scope)
        lags.append(round(seen - killed, 3))
        end_all(scope)  # Who is in it holds its pipes.
        job.job.begun.remove(job.job)
        job.job.process.communicate()
        assert left == [], (moment, lags)
    (vm_files / "sigkill.txt").write_text(f"seconds until nobody stood: {lags}\n")


def test_a_sigkill_of_the_guardian(tmp_path: Path) -> None:
    """Nobody would resume the steps after our death: so nobody stands from now on, and the build comes to an end."""
    job = Paced(tmp_path, *build(tmp_path, hold=2.0))
    until(scopes, "it has a scope")
    (scope,) = scopes()
    until(lambda: len(stopped(scope)) >= 3, "three steps stand")
    (keeper,) = [pid for pid in children(job.job.process.pid) if comm_of(pid) == "slicemgr-keeper"]
    os.kill(keeper, signal.SIGKILL)
    ended = job.end()
    assert ended.told.report["left_running"] == []
    until(lambda: not scope.exists(), "all have ended")
