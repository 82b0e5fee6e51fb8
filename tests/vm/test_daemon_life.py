# SPDX-License-Identifier: LGPL-2.1-or-later
"""The daemon as a service: how it starts, is told to read again, ends, and what is left when it is killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.vm.bystanders import dead, people, until
from tests.vm.desktop_2010 import standing_by
from tests.vm.living import (
    MIB,
    Job,
    Service,
    connections,
    held,
    is_gone,
    leak,
    living,
    prepared,
    quiet,
    scope,
    slice_directory,
    start,
    until_registered,
)
from tests.vm.systemd import cgroup_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.vm.systemd import Systemd

BUILD_400M = '[slice.build]\nmemory_max = "400M"\n'
SCOPE_ROOMY = {"MemoryHigh": "90M", "MemoryMax": "200M"}
pytestmark = pytest.mark.vm(users=("tester",))

JOB_100M = ("slicemgr", "run", "--no-pacing", "--max", "100M", "--")
JOB_ROOMY = ("slicemgr", "run", "--no-pacing", "--high", "60M", "--max", "200M", "--")
"""Far enough between the two for who crawls there while nobody guards: 40 % of 6 MiB were used up, on an idle host."""


def build_file(name: str) -> str:
    """One file of build.slice."""
    return (slice_directory("build.slice") / name).read_text().strip()


def test_it_is_ready_and_ends_in_order(systemd: Systemd, tmp_path: Path) -> None:
    """READY and STATUS, one daemon at a time, and after SIGTERM neither a failure nor a socket."""
    words = tmp_path / "last-words"
    last_words = f"/bin/sh -c 'echo $SERVICE_RESULT $EXIT_CODE $EXIT_STATUS >{words}'"
    with standing_by(systemd), living(BUILD_400M, properties={"ExecStopPost": last_words}) as service:
        assert service.show("ActiveState") == "active"
        assert service.show("StatusText").startswith("guarding build.slice")
        assert service.socket.is_socket()
        # Who stays connected to the manager is sent the signals of all units, and nobody would read them.
        home = f"/run/user/{service.uid}" if service.uid else "/run"
        until(lambda: connections(Path(home) / "systemd/private") == 0, "it has hung up on its manager")
        since = people()
        second = subprocess.run(["slicemgr", "daemon"], capture_output=True, text=True, timeout=60)
        assert (second.returncode, second.stderr.count("\n")) == (125, 1), second.stderr
        assert f"another daemon listens on {service.socket}; try " in second.stderr
        assert dead(since) == []
        os.kill(service.pid, signal.SIGTERM)
        until(lambda: words.exists() and words.read_text().endswith("\n"), "it ends")
        assert words.read_text() == "success exited 0\n"
        assert not service.socket.exists()
        assert dead(since) == []
        assert build_file("memory.high") == "max"  # Nobody is left who would end a stall there.
        assert build_file("memory.max") == str(400 * MIB)


def test_a_daemon_that_hangs_is_started_anew(systemd: Systemd) -> None:
    """By the manager's watchdog: until then it has heard from it."""
    properties = {"WatchdogSec": "4", "Restart": "on-failure", "RestartSec": "100ms", "TimeoutAbortSec": "2"}
    with standing_by(systemd), living(properties=properties) as service:
        since, first = people(), service.pid
        os.kill(first, signal.SIGSTOP)
        until(lambda: service.show("NRestarts") != "0" and service.show("ActiveState") == "active", "it is back")
        assert service.pid != first
        assert dead(since) == []


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


def test_a_dry_run_names_and_spares(systemd: Systemd, tmp_path: Path) -> None:
    """The leak stays where the kernel holds it; `slicemgr run` is not relieved of its job, and no limit is set."""
    with standing_by(systemd), living(BUILD_400M, "--dry-run") as service:
        with held(tmp_path, leak(), *scope("build.slice", SCOPE_ROOMY)):
            since = people()
            until(service.victims, "somebody is named")
            assert service.victims() == ["leak"]
            assert service.history()[-1]["report"]["outcome"] == "dry-run"
            assert dead(since) == []
            assert build_file("memory.max") == build_file("memory.high") == "max"
        with held(tmp_path, leak("mine"), *JOB_100M) as job:
            since = people() | {job.hog}
            assert "killed 'mine'" in job.told()
            assert dead(since) == ["mine"]


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
    with standing_by(systemd), living(BUILD_400M, properties=properties) as service:
        since = people()
        limit = build_file("memory.max") if slice_directory("build.slice").exists() else "max"
        assert limit == (str(400 * MIB) if manager == "reached" else "max")
        with held(tmp_path, leak(), *scope("build.slice", SCOPE_ROOMY)) as job:
            until(lambda: is_gone(job.hog), "the leak is ended")
        until(service.victims, "it is told")
        assert service.victims() == ["leak"]
        assert dead(since) == []


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
    limits = {"MemoryHigh": "60M", "MemoryMax": "128M", "MemorySwapMax": "0"}
    stalled, later = leak("stalled", rate="200M"), leak("later", start="20M", rate="3M")
    with (
        standing_by(systemd),
        prepared() as service,
        held(tmp_path, stalled, *scope("build.slice", limits)) as first,
        held(tmp_path, later, *scope("build.slice", limits)) as second,
        held(tmp_path, quiet("quiet", "20M"), *scope("build.slice", limits)),
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


@contextlib.contextmanager
def stalled(service: Service, job: Job) -> Iterator[None]:
    """The daemon is killed at the end of the block, with the job at a stand that it has not ended."""
    os.kill(service.pid, signal.SIGSTOP)
    os.kill(job.hog.pid, signal.SIGCONT)
    events = cgroup_of(job.hog.pid) / "memory.events"
    until(lambda: "high 0" not in events.read_text().split("\n"), "it is at memory.high")
    daemon = service.pid
    yield
    os.kill(daemon, signal.SIGKILL)


def test_run_takes_over_from_a_killed_daemon(systemd: Systemd, tmp_path: Path) -> None:
    """It had only waited: now it guards its job itself."""
    with standing_by(systemd), living(BUILD_400M) as service, held(tmp_path, leak(rate="40M"), *JOB_ROOMY) as job:
        os.kill(job.hog.pid, signal.SIGSTOP)  # Until all who watch it are where they have to be.
        until_registered(service, job)
        assert build_file("memory.high") == str(375 * MIB)
        since = people()
        with stalled(service, job):
            pass
        assert "killed 'leak'" in job.told()
        assert build_file("memory.max") == str(400 * MIB)  # The wall stays.
        assert dead(since) == ["leak"]


@pytest.mark.vm(users=("root",))
def test_a_killed_daemon_comes_back_and_guards(systemd: Systemd, tmp_path: Path) -> None:
    """It finds the stall that its predecessor has left, and sets again what was lifted meanwhile."""
    restart = {"Restart": "on-failure", "RestartSec": "200ms"}
    with standing_by(systemd), living(BUILD_400M, properties=restart) as service:
        with held(tmp_path, leak(rate="40M"), *scope("build.slice", SCOPE_ROOMY)) as job:
            os.kill(job.hog.pid, signal.SIGSTOP)
            since = people()
            with stalled(service, job):
                pass
            until(lambda: is_gone(job.hog), "the stall is ended")
            until(service.victims, "it is told")
            assert (service.victims(), dead(since)) == (["leak"], ["leak"])
        assert service.show("NRestarts") == "1"
        assert build_file("memory.high") == str(375 * MIB)


def test_nobody_left_leaves_nothing_throttled(systemd: Systemd, tmp_path: Path) -> None:
    """The daemon and run are killed, and nobody comes back: nothing crawls; memory.max, and the kernel, are left."""
    with standing_by(systemd), living(BUILD_400M) as service, held(tmp_path, leak(rate="40M"), *JOB_ROOMY) as job:
        os.kill(job.hog.pid, signal.SIGSTOP)
        until_registered(service, job)
        since = people()
        own_high = cgroup_of(job.hog.pid) / "memory.high"
        with stalled(service, job):
            # In this order, and when it is over: a process group that loses its last tie to its session with a stopped
            # member in it is sent SIGHUP (setpgid(2)).
            os.kill(job.process.pid, signal.SIGKILL)
            job.process.wait()  # Without a time-out, with which it looks every 50 ms: nothing slows the hog any more.
            os.kill(job.hog.pid, signal.SIGSTOP)
        until(lambda: build_file("memory.high") == "max", "the guardian lifts it")
        until(lambda: own_high.read_text() == "max\n", "run's guardian lifts it")
        assert build_file("memory.max") == str(400 * MIB)
        os.kill(job.hog.pid, signal.SIGCONT)
        until(lambda: is_gone(job.hog), "the kernel ends it at memory.max")
        assert dead(since) == ["leak"]
        assert service.victims() == []
        # With its last job gone, and with the next one, systemd writes the slice's numbers anew: its own.
        until(
            lambda: systemd.systemctl("show", "--value", "--property=MemoryHigh", "build.slice") == "infinity",
            "it knows",
        )
        with held(tmp_path, quiet("next", "10M"), *scope("build.slice")):
            assert build_file("memory.high") == "max"
            assert build_file("memory.max") == str(400 * MIB)
