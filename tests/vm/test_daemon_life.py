# SPDX-License-Identifier: LGPL-2.1-or-later
"""The daemon as a service: how it starts, is told to read again, ends, and what is left when it is killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.vm.desktop_2010 import standing_by
from tests.vm.living import (
    MIB,
    Service,
    connections,
    dead,
    held,
    is_gone,
    leak,
    living,
    people,
    prepared,
    quiet,
    scope,
    slice_directory,
    start,
    until,
    until_registered,
)
from tests.vm.systemd import cgroup_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.vm.systemd import Systemd

BUILD_400M = '[slice.build]\nmemory_max = "400M"\n'
JOB_100M = ("slicemgr", "run", "--max", "100M", "--")


def build_file(name: str) -> str:
    """One file of build.slice."""
    return (slice_directory("build.slice") / name).read_text().strip()


def test_it_is_ready_and_ends_in_order(systemd: Systemd, tmp_path: Path) -> None:
    """READY and STATUS, one daemon at a time, and after SIGTERM neither a failure nor a socket."""
    words = tmp_path / "last-words"
    last_words = f"/bin/sh -c 'echo $SERVICE_RESULT $EXIT_CODE $EXIT_STATUS >{words}'"
    with standing_by(systemd), living(BUILD_400M, ExecStopPost=last_words) as service:
        assert service.show("ActiveState") == "active"
        assert service.show("StatusText").startswith("guarding build.slice")
        assert service.socket.is_socket()
        since = people()
        second = subprocess.run(["slicemgr", "daemon"], capture_output=True, text=True, timeout=60)
        assert (second.returncode, second.stderr.count("\n")) == (125, 1), second.stderr
        assert f"another daemon listens on {service.socket}; try " in second.stderr
        assert dead(since) == []
        os.kill(service.pid, signal.SIGTERM)
        until(lambda: words.exists() and words.read_text().endswith("\n"), "it ends")
        assert words.read_text() == "success exited 0\n"
        assert not service.socket.exists()
        assert dead(since) == ["slicemgr", "slicemgr"]  # It and its guardian.
        assert build_file("memory.high") != "max"  # It has ended in order: its slices stay as configured.


@pytest.mark.vm(users=("tester",))
def test_a_daemon_that_hangs_is_started_anew(systemd: Systemd) -> None:
    """By the manager's watchdog: until then it has heard from it."""
    properties = {"WatchdogSec": "4", "Restart": "on-failure", "RestartSec": "100ms", "TimeoutAbortSec": "2"}
    with standing_by(systemd), living(**properties) as service:
        since, first = people(), service.pid
        os.kill(first, signal.SIGSTOP)
        until(lambda: service.show("NRestarts") == "1" and service.show("ActiveState") == "active", "it is back")
        assert service.pid != first
        assert dead(since) == ["slicemgr", "slicemgr"]


def test_hang_up_reads_the_configuration_again(systemd: Systemd) -> None:
    """The new one if it can be meant; or else the old one stays, and STATUS says so."""
    with standing_by(systemd), living(BUILD_400M) as service:
        since = people()
        assert build_file("memory.max") == str(400 * MIB)
        service.configure('[slice.build]\nmemory_max = "300M"\n')
        os.kill(service.pid, signal.SIGHUP)
        until(lambda: build_file("memory.max") == str(300 * MIB), "the new limit")
        assert int(build_file("memory.high")) == 300 * MIB * 15 // 16
        service.configure('[slice.build]\nmemory_mx = "200M"\n')
        os.kill(service.pid, signal.SIGHUP)
        until(lambda: "kept the old configuration" in service.show("StatusText"), "it is told")
        assert f"{service.config}:2" in service.show("StatusText")
        assert "memory_max" in service.show("StatusText")
        assert build_file("memory.max") == str(300 * MIB)
        assert service.show("ActiveState") == "active"
        service.configure('[slice.build]\nmemory_max = "200M"\n')
        os.kill(service.pid, signal.SIGHUP)
        until(lambda: service.show("StatusText").startswith("guarding"), "all is well again")
        assert build_file("memory.max") == str(200 * MIB)
        assert dead(since) == []


@pytest.mark.vm(users=("tester",))
def test_a_dry_run_names_and_spares(systemd: Systemd, tmp_path: Path) -> None:
    """The leak stays where the kernel holds it."""
    with standing_by(systemd), living("", "--dry-run") as service, held(tmp_path, leak(), *JOB_100M):
        since = people()
        until(service.victims, "somebody is named")
        assert service.victims() == ["leak"]
        assert service.history()[-1]["report"]["outcome"] == "dry-run"
        assert dead(since) == []


@pytest.mark.parametrize("manager", ["reached", "unreached"])
def test_it_needs_no_bus(systemd: Systemd, tmp_path: Path, manager: str) -> None:
    """The manager's private socket is enough; and without that too the slices are taken as they are."""
    if systemd.user:
        runtime = tmp_path / "run"
        (runtime / "systemd").mkdir(parents=True)
        if manager == "reached":
            (runtime / "systemd/private").symlink_to(f"/run/user/{os.getuid()}/systemd/private")
        blind = f"XDG_RUNTIME_DIR={runtime} DBUS_SESSION_BUS_ADDRESS=unix:path=/nonexistent"
        properties = {"Environment": blind}
    else:
        paths = "/run/dbus/system_bus_socket" + (" /run/systemd/private" if manager == "unreached" else "")
        properties = {"InaccessiblePaths": paths}
    with standing_by(systemd), living(BUILD_400M, **properties) as service:
        since = people()
        limit = build_file("memory.max") if slice_directory("build.slice").exists() else "max"
        assert limit == (str(400 * MIB) if manager == "reached" else "max")
        with held(tmp_path, leak(), *scope("build.slice", MemoryHigh="90M", MemoryMax="100M")) as job:
            until(lambda: is_gone(job.hog), "the leak is ended")
        until(service.victims, "it is told")
        assert service.victims() == ["leak"]
        assert dead(since) == []


@pytest.mark.vm(users=("tester",))
def test_the_slices_are_as_configured(systemd: Systemd) -> None:
    """For the manager and for the kernel."""
    config = (
        '[slice.build]\nmemory_max = "400M"\nmemory_high = "300M"\ntasks_max = 500\ncpu_weight = 30\n'
        '[slice.app]\nmemory_low = "100M"\n'
        '[slice.session]\nmemory_low = "120M"\nmemory_min = "16M"\ncpu_weight = 300\n'
    )
    wanted = {
        "build.slice": {
            ("MemoryMax", "memory.max"): 400 * MIB,
            ("MemoryHigh", "memory.high"): 300 * MIB,
            ("TasksMax", "pids.max"): 500,
            ("CPUWeight", "cpu.weight"): 30,
        },
        "app.slice": {("MemoryLow", "memory.low"): 100 * MIB},
        "session.slice": {
            ("MemoryLow", "memory.low"): 120 * MIB,
            ("MemoryMin", "memory.min"): 16 * MIB,
            ("CPUWeight", "cpu.weight"): 300,
        },
    }
    with standing_by(systemd):
        since = people()
        with living(config):
            for unit, properties in wanted.items():
                for (name, file), value in properties.items():
                    shown = systemd.systemctl("show", "--value", f"--property={name}", unit)
                    held_by_kernel = (slice_directory(unit) / file).read_text().strip()
                    assert (unit, name, shown, held_by_kernel) == (unit, name, str(value), str(value))
        assert dead(since) == []


def test_jobs_from_before_its_start_are_guarded(systemd: Systemd, tmp_path: Path) -> None:
    """Both the one that is at a stand already, which calls nobody any more, and the one that leaks later."""
    limits = {"MemoryHigh": "60M", "MemoryMax": "64M", "MemorySwapMax": "0"}
    stalled, later = leak("stalled", rate="200M"), leak("later", start="20M", rate="3M")
    with (
        standing_by(systemd),
        prepared() as service,
        held(tmp_path, stalled, *scope("build.slice", **limits)) as first,
        held(tmp_path, later, *scope("build.slice", **limits)) as second,
        held(tmp_path, quiet("quiet", "20M"), *scope("build.slice", **limits)),
    ):
        at_stand = cgroup_of(first.hog.pid)
        until(lambda: int((at_stand / "memory.current").read_text()) >= 60 * MIB, "it is at its limit")
        since = people()
        start(service)
        until(lambda: is_gone(first.hog), "the old stall is ended")
        until(lambda: is_gone(second.hog), "the later one too")
        assert dead(since) == ["later", "stalled"]
        until(lambda: len(service.victims()) > 1, "both are told")
        assert service.victims() == ["stalled", "later"]


def stalled_for_a_dead_daemon(service: Service, folder: Path, *, also_run: bool) -> tuple[list[str], str]:
    """SIGKILL for the daemon while a job of `slicemgr run` is at a stand that nobody ends; who died, what run told."""
    with held(folder, leak(rate="40M"), *JOB_100M) as job:
        until_registered(service, job)
        since, daemon = people(), service.pid
        os.kill(daemon, signal.SIGSTOP)  # So that it does not act before its end.
        cgroup = cgroup_of(job.hog.pid)
        until(lambda: "high 0" not in (cgroup / "memory.events").read_text().split("\n"), "it is at memory.high")
        if also_run:
            os.kill(job.process.pid, signal.SIGKILL)
        os.kill(daemon, signal.SIGKILL)
        if service.show("Restart") == "no":
            until(lambda: build_file("memory.high") == "max", "the guardian lifts it")
        if also_run and service.show("Restart") == "no":
            until(lambda: service.show("ActiveState") == "failed", "it is dead")
            assert "frozen 0" in (cgroup / "cgroup.events").read_text()
            return dead(since), ""
        told = "" if also_run else job.told()
        until(lambda: is_gone(job.hog), "the stall is ended")
        return dead(since), told


def test_run_takes_over_from_a_killed_daemon(systemd: Systemd, tmp_path: Path) -> None:
    """It had only waited: now it guards its job itself."""
    with standing_by(systemd), living(BUILD_400M) as service:
        assert connections(service) == 0
        assert build_file("memory.high") == str(375 * MIB)
        died, told = stalled_for_a_dead_daemon(service, tmp_path, also_run=False)
        assert died == ["leak", "slicemgr", "slicemgr", "slicemgr"]  # With it the daemon, its guardian, and run.
        assert "killed 'leak'" in told
        assert build_file("memory.max") == str(400 * MIB)  # The wall stays.


@pytest.mark.vm(users=("root",))
def test_a_killed_daemon_comes_back_and_guards(systemd: Systemd, tmp_path: Path) -> None:
    """Nobody else was left: run was killed with it."""
    with standing_by(systemd), living(BUILD_400M, Restart="on-failure", RestartSec="200ms") as service:
        died, _ = stalled_for_a_dead_daemon(service, tmp_path, also_run=True)
        assert died == ["leak", "slicemgr", "slicemgr", "slicemgr"]
        until(lambda: service.victims() == ["leak"], "it is told")
        assert service.show("NRestarts") == "1"
        assert build_file("memory.high") == str(375 * MIB)


@pytest.mark.vm(users=("tester",))
def test_nobody_left_leaves_no_slice_throttled(systemd: Systemd, tmp_path: Path) -> None:
    """The daemon and run are killed and nobody comes back: what was set for a guard is lifted from the slice."""
    with standing_by(systemd), living(BUILD_400M) as service:
        died, _ = stalled_for_a_dead_daemon(service, tmp_path, also_run=True)
        assert died == ["slicemgr", "slicemgr", "slicemgr"]
        assert build_file("memory.high") == "max"
        assert build_file("memory.max") == str(400 * MIB)


def voluntary_switches(pid: int) -> int:
    """How often its threads have gone to sleep by themselves: as often they had been woken."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    lines = [line for task in tasks for line in (task / "status").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))


def rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def sleepers(count: int) -> Iterator[list[int]]:
    """Jobs as `slicemgr run` makes them, without its own process for each, which would be 10 MiB: their pids."""
    from slicemgr.placement import systemd as placement
    from slicemgr.placement.systemd1 import connect

    manager = connect(os.getuid())
    processes = [subprocess.Popen(["sleep", "inf"]) for _ in range(count)]
    try:
        for each in processes:
            placement.open_job(
                manager,
                each.pid,
                name="sleeper",
                slice_name="build.slice",
                command=["sleep", "inf"],
                memory_high=8 * MIB,
                memory_max=9 * MIB,
                is_user=os.getuid() != 0,
            )
        yield [each.pid for each in processes]
    finally:
        for each in processes:
            each.kill()
            each.wait()
        manager.close()


@pytest.mark.vm(users=("tester",), timeout=240)
def test_one_of_two_hundred(systemd: Systemd, tmp_path: Path) -> None:
    """The one that leaks; and the rest costs the daemon some descriptors and, when all is calm, no time."""
    with standing_by(systemd), living() as service:
        pid = service.pid
        rss_before = rss_bytes(pid)
        with sleepers(200) as pids, held(tmp_path, leak(rate="60M"), *JOB_100M) as job:
            listed = json.loads(subprocess.run(["slicemgr", "list", "--json"], capture_output=True).stdout)["jobs"]
            assert {each["pid"] for each in listed} == {*pids, job.hog.pid}
            since = people()
            assert "killed 'leak'" in job.told()
            assert dead(since) == ["leak", "slicemgr"]
            assert len(os.listdir(f"/proc/{pid}/fd")) < 2 * 200 + 64
            assert rss_bytes(pid) - rss_before < 24 * MIB
            idle = signal.sigtimedwait([signal.SIGUSR2], 2)  # The episode's last looks.
            before = voluntary_switches(pid)
            idle = signal.sigtimedwait([signal.SIGUSR2], 10)
            assert idle is None
            woken = voluntary_switches(pid) - before
            print(f"woken {woken} times in 10 s, {len(os.listdir(f'/proc/{pid}/fd'))} descriptors,", end=" ")
            print(f"{(rss_bytes(pid) - rss_before) >> 10} KiB more than before the jobs")
            assert woken <= 10
        with held(tmp_path, leak(rate="60M"), *JOB_100M) as job:
            assert "killed 'leak'" in job.told()
        assert len(os.listdir(f"/proc/{pid}/fd")) < 64  # Those of cgroups that are gone are closed.
        assert rss_bytes(pid) - rss_before < 24 * MIB
