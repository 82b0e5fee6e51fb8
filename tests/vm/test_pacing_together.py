# SPDX-License-Identifier: LGPL-2.1-or-later
"""Several builds in one slice that is too small for both, with the user's daemon and without; a pause; an agent."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.vm.bystanders import Bystanders, until
from tests.vm.guarded import MIB, DaemonService, RunItself, build_slice, end_begun_jobs
from tests.vm.living import living
from tests.vm.paced import Paced, hogs, makefile, once_paced, state_of, stopped
from tests.vm.systemd import CGROUPS, Systemd, run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.vm(users=("tester",), timeout=240)

GUARDS = [RunItself.name, DaemonService.name]


@pytest.fixture(autouse=True)
def unknown_builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing has been learnt before a test."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture(autouse=True)
def bystanders() -> Iterator[Bystanders]:
    """Everybody who lives when a test begins lives when it ends, and the kernel kills nobody."""
    all_of_them = Bystanders()
    yield all_of_them
    end_begun_jobs()
    all_of_them.check()


@contextlib.contextmanager
def limited(guard: str, folder: Path, systemd: Systemd, size: str) -> Iterator[DaemonService | None]:
    """build.slice may hold so much: a daemon sees to it, or somebody has set it."""
    if guard == DaemonService.name:
        daemon = DaemonService(folder)
        with daemon.running(), daemon.configured(f'[slice.build]\nmemory_max = "{size}"'):
            yield daemon
        return
    systemd.systemctl("set-property", "--runtime", "build.slice", f"MemoryMax={size}")
    try:
        yield None
    finally:
        systemd.systemctl("set-property", "--runtime", "build.slice", "MemoryMax=infinity")
        systemd.systemctl("revert", "build.slice")


def build(folder: Path, steps: int) -> tuple[str, ...]:
    """Its steps write into a file when they end."""
    folder.mkdir()
    recipes = hogs(steps)
    done = "cut -d' ' -f1 /proc/uptime >> done"
    makefile(folder, {name: f"{recipe} && {done}" for name, recipe in recipes.items()})
    (folder / "done").touch()
    return ("--max", "440M", "--", "make", f"-j{steps}", "-C", str(folder))


def done(folder: Path) -> list[float]:
    """When the steps ended, since the boot."""
    return [float(line) for line in (folder / "done").read_text().split()]


@pytest.mark.parametrize("guard", GUARDS)
def test_two_builds_share_a_slice(guard: str, systemd: Systemd, tmp_path: Path, vm_files: Path) -> None:
    """Both end, nobody is killed, and who comes later does not wait until the first is through."""
    one, two = tmp_path / "one", tmp_path / "two"
    with limited(guard, tmp_path, systemd, "480M"):
        first = Paced(tmp_path, *build(one, 14))
        until(lambda: done(one), "the first has done something")
        second = Paced(tmp_path, *build(two, 6))
        ended = [second.end(), first.end()]
    for at, each in enumerate(ended):
        each.note(vm_files, f"of two {['second', 'first'][at]}, {guard}")
        each.well(440 * MIB)
        assert each.told.report["watched_by"] == guard
    assert done(two)[0] < done(one)[-1]


def test_a_paused_build_goes_on(systemd: Systemd, tmp_path: Path) -> None:
    """All of it stands still, those that wait and those that do not; then it ends as ever."""
    folder = tmp_path / "build"
    with limited(DaemonService.name, tmp_path, systemd, "600M"):
        job = Paced(tmp_path, *build(folder, 10))
        until(lambda: done(folder), "it has done something")
        (scope,) = (CGROUPS / build_slice()[1:]).glob("slicemgr-*.scope")
        run("slicemgr", "pause", scope.name)
        until(lambda: "frozen 1" in (scope / "cgroup.events").read_text(), "it stands still")
        before = len(done(folder))
        with contextlib.suppress(AssertionError):
            until(lambda: len(done(folder)) > before, "nobody goes on", 3)
        assert len(done(folder)) == before < 10
        run("slicemgr", "resume", scope.name)
        ended = job.end()
    ended.well(440 * MIB)
    assert len(done(folder)) == 10


@pytest.mark.parametrize("guard", GUARDS)
def test_what_an_agent_starts_waits(guard: str, systemd: Systemd, tmp_path: Path) -> None:
    """And it never does itself; its slice is its own, and guarded like the other."""
    steps = " & ".join(hogs(10).values())
    agent = once_paced(f"echo $$ > {tmp_path}/pid; {steps} & wait")
    with limited(guard, tmp_path, systemd, "600M"):
        job = Paced(tmp_path, "--profile", "agent", "--max", "360M", *agent)
        until((tmp_path / "pid").exists, "the agent runs")
        until((tmp_path / "pid").read_text, "and has told its pid")
        pid, states = int((tmp_path / "pid").read_text()), []

        def has_ended() -> bool:
            states.append(state_of(pid))
            return states[-1] == "X"

        until(has_ended, "the agent ends", 100)
        ended = job.end()
    ended.well(360 * MIB)
    assert "T" not in states
    assert ended.pacing["waited"] > 0
    assert "/build-agent.slice/" in ended.told.report["cgroup"]
    assert ended.told.report["watched_by"] == guard


def test_the_daemon_dies_amid_a_build(tmp_path: Path) -> None:
    """It is paced by `slicemgr run`, which goes on by itself; a slice's limit is still there."""
    folder = tmp_path / "build"
    with living() as service:
        job = Paced(tmp_path, *build(folder, 10))
        until(lambda: done(folder), "it has done something")
        (scope,) = (CGROUPS / build_slice()[1:]).glob("slicemgr-*.scope")
        until(lambda: stopped(scope), "somebody stands")
        os.kill(service.pid, signal.SIGKILL)
        ended = job.end()
    ended.well(440 * MIB)
    assert len(done(folder)) == 10
