# SPDX-License-Identifier: LGPL-2.1-or-later
"""The D-Bus API of real daemons on real buses: of the user's on the session bus, of the system's on the system bus."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.vm.bystanders import dead, people, until
from tests.vm.desktop_2010 import standing_by
from tests.vm.living import TESTER, as_user, cgroup_path, held, is_gone, leak, living, quiet, scope
from tests.vm.systemd import run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.vm.systemd import Systemd

MIB = 1 << 20
NAME, ROOT = "org.slicemgr1", "/org/slicemgr1"
MANAGER = f"{NAME}.Manager"
BUILD = f"{ROOT}/slices/build_2eslice"
BUILD_400M = '[slice.build]\nmemory_max = "400M"\n'
JOB_100M = ("slicemgr", "run", "--no-pacing", "--max", "100M", "--")


def busctl(*arguments: str, uid: int | None = None) -> subprocess.CompletedProcess[str]:
    """On the bus of the daemon that this user's test has: the session bus, for root the system bus."""
    which = "--system" if os.getuid() == 0 else "--user"
    whose = {} if uid is None else as_user(uid)
    return subprocess.run(["busctl", which, "--json=short", *arguments], capture_output=True, text=True, **whose)


def get(path: str, interface: str, name: str) -> Any:
    done = busctl("get-property", NAME, path, f"{NAME}.{interface}", name)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["data"]


def call(path: str, interface: str, method: str, *arguments: str, uid: int | None = None) -> Any:
    done = busctl("call", NAME, path, f"{NAME}.{interface}", method, *arguments, uid=uid)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["data"] if done.stdout else None


def is_there() -> bool:
    return busctl("get-property", NAME, ROOT, MANAGER, "Version").returncode == 0


@pytest.fixture(scope="module", autouse=True)
def policies() -> Iterator[None]:
    """The system bus lets nobody be org.slicemgr1 whom no policy allows it. Once for all: it takes ten seconds."""
    if os.getuid() != 0:
        yield
        return
    run("slicemgr", "install", "--system")
    yield
    run("slicemgr", "install", "--system", "--uninstall")


def test_a_job_from_its_start_to_its_kill(systemd: Systemd, tmp_path: Path) -> None:
    """It is an object while it lives; its limits can be set; who would go is told, and who went."""
    with standing_by(systemd), living(BUILD_400M) as service:
        until(is_there, "it is on the bus")
        assert get(ROOT, "Manager", "Scope") == ("user" if systemd.user else "system")
        assert get(BUILD, "Slice", "MemoryMax") == 400 * MIB
        with held(tmp_path, leak(rate="20M"), *JOB_100M) as job:
            os.kill(job.hog.pid, 19)
            until(lambda: call(ROOT, "Manager", "ListJobs", "a{sv}", "0")[0], "it is listed")
            ((unit, path),) = call(ROOT, "Manager", "ListJobs", "a{sv}", "0")[0]
            assert unit in cgroup_path(job.hog.pid)
            until(lambda: get(path, "Job", "Leader") == job.hog.pid, "who leads it is known")
            assert get(path, "Job", "MemoryMax") == 100 * MIB
            call(path, "Job", "SetLimits", "a{sv}a{sv}", "1", "MemoryMax", "t", str(80 * MIB), "0")
            assert get(path, "Job", "MemoryMax") == 80 * MIB
            (told,) = call(path, "Job", "Explain", "a{sv}", "0")
            assert told["victim"]["data"]["pid"]["data"] == job.hog.pid
            since = people()
            os.kill(job.hog.pid, 18)
            until(lambda: is_gone(job.hog), "the leak is ended")
            assert dead(since) == ["leak"]
        until(service.victims, "it is told")
        until(lambda: call(ROOT, "Manager", "ListJobs", "a{sv}", "0") == [[]], "the job is gone")
        (actions,) = call(ROOT, "Manager", "ListActions", "tua{sv}", "0", "0", "0")
        kills = [each for each in actions if each["kind"]["data"] == "kill"]
        assert [each["name"]["data"] for each in kills][-1] == "leak"


def test_paused_and_left_behind(systemd: Systemd, tmp_path: Path) -> None:
    """A job stands still and goes on; and a daemon that is SIGKILLed leaves none standing."""
    with standing_by(systemd), living(BUILD_400M) as service, held(tmp_path, quiet("still", "10M"), *JOB_100M) as job:
        until(is_there, "it is on the bus")
        until(lambda: call(ROOT, "Manager", "ListJobs", "a{sv}", "0")[0], "it is listed")
        ((_, path),) = call(ROOT, "Manager", "ListJobs", "a{sv}", "0")[0]
        events = f"/sys/fs/cgroup/{cgroup_path(job.hog.pid)}/cgroup.events"

        def is_frozen() -> bool:
            with open(events) as file:
                return "frozen 1" in file.read()

        call(path, "Job", "Pause", "a{sv}", "0")
        until(is_frozen, "it stands still")
        assert get(path, "Job", "Paused") is True
        call(path, "Job", "Resume", "a{sv}", "0")
        until(lambda: not is_frozen(), "it goes on")
        assert get(path, "Job", "Paused") is False
        call(path, "Job", "Pause", "a{sv}", "0")
        until(is_frozen, "it stands still")
        os.kill(service.pid, 9)
        until(lambda: not is_frozen(), "the guardian thaws it")


@pytest.mark.vm(users=("tester",))
def test_processes_are_moved(systemd: Systemd, tmp_path: Path) -> None:
    """A tree that runs already, its limits with it; another user's is refused."""
    with standing_by(systemd), living(BUILD_400M):
        until(is_there, "it is on the bus")
        with held(tmp_path, quiet("tree", "20M"), *scope("app.slice")) as job:
            script = (
                "import os, sys\n"
                "from gi.repository import Gio, GLib\n"
                "bus = Gio.bus_get_sync(Gio.BusType.SESSION)\n"
                "fds = Gio.UnixFDList.new()\n"
                "fds.append(os.pidfd_open(int(sys.argv[1])))\n"
                f"arguments = GLib.Variant('(hsa{{sv}})', (0, 'build.slice', {{'memory-max': GLib.Variant('t', {90 * MIB})}}))\n"
                f"answer, _ = bus.call_with_unix_fd_list_sync('{NAME}', '{ROOT}', '{MANAGER}', 'PlaceProcess', arguments, None, 0, 30000, fds, None)\n"
                "print(answer.unpack())\n"
            )
            done = subprocess.run(["python3", "-c", script, str(job.hog.pid)], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            unit, placed = eval(done.stdout)  # noqa: S307 - our own client's
            assert cgroup_path(job.hog.pid).endswith(f"build.slice/{unit}")
            assert placed["pids"] == [job.hog.pid]
            assert placed["charged-elsewhere"] > 20 * MIB
            with open(f"/sys/fs/cgroup/{cgroup_path(job.hog.pid)}/memory.max") as file:
                assert int(file.read()) == 90 * MIB
            done = subprocess.run(["python3", "-c", script, "1"], capture_output=True, text=True)
            assert "org.slicemgr1.Error.Denied" in done.stderr


@pytest.mark.vm(users=("root",))
def test_a_stranger_is_refused(systemd: Systemd, tmp_path: Path) -> None:
    """On the system bus, by polkit and by the bus's own policy."""
    with standing_by(systemd), living(BUILD_400M):
        until(is_there, "it is on the bus")
        for method, arguments in (
            ("SetLimits", ("sa{sv}a{sv}", "build.slice", "1", "MemoryMax", "t", str(80 * MIB), "0")),
            ("Explain", ("sa{sv}", "build.slice", "0")),
            ("Reload", ("a{sv}", "0")),
        ):
            done = busctl("call", NAME, ROOT, MANAGER, method, *arguments, uid=TESTER)
            assert done.returncode != 0, method
            assert "polkit does not allow" in done.stderr, done.stderr
        assert get(BUILD, "Slice", "MemoryMax") == 400 * MIB


def test_the_command_line(systemd: Systemd, tmp_path: Path, vm_files: Path, vm_user: str) -> None:
    """`set` changes what holds, `monitor` tells what happens, and the reading verbs tell the same without a daemon."""
    whose = "--user" if systemd.user else "--system"
    with standing_by(systemd), living(BUILD_400M) as service:
        until(is_there, "it is on the bus")
        told = tmp_path / "monitor"
        with told.open("w") as file:
            monitor = subprocess.Popen(["slicemgr", "monitor", whose, "--json"], stdout=file)
        try:
            until(lambda: "DaemonAdded" in told.read_text(), "it listens", 60)
            assert run("slicemgr", "set", whose, "build", "memory_max=300M").splitlines() == [
                "build.slice: memory_max 400.0M -> 300.0M",
                "build.slice: memory_high 375.0M -> 281.2M",
            ]
            assert get(BUILD, "Slice", "MemoryMax") == 300 * MIB
            with held(tmp_path, leak(rate="20M"), *JOB_100M) as job:
                os.kill(job.hog.pid, 19)
                until(lambda: '"JobAdded"' in told.read_text(), "its beginning is told")
                unit = cgroup_path(job.hog.pid).rpartition("/")[2]
                run("slicemgr", "set", whose, unit, "memory_max=80M")
                listed = json.loads(run("slicemgr", "list", whose, "--json"))
                assert [each["unit"] for each in listed["jobs"]] == [unit]
                explained = json.loads(run("slicemgr", "explain", whose, "--json", unit))
                assert explained["victim"]["pid"] == job.hog.pid
                os.kill(job.hog.pid, 18)
                until(lambda: is_gone(job.hog), "the leak is ended")
            until(lambda: '"JobRemoved"' in told.read_text(), "its end is told")
            until(service.victims, "it is in the history")
        finally:
            monitor.send_signal(2)
            assert monitor.wait(60) == 0
            (vm_files / f"monitor-{vm_user}.jsonl").write_text(told.read_text())
        heard = [json.loads(line) for line in told.read_text().splitlines()]
        kinds = [each["signal"] for each in heard if each["signal"] != "PressureLevelChanged"]
        assert kinds[:4] == ["DaemonAdded", "LimitsChanged", "JobAdded", "LimitsChanged"]
        assert kinds[4:] == ["Warning", "ProcessKilled", "JobRemoved"]
        (kill,) = (each["details"] for each in heard if each["signal"] == "ProcessKilled")
        assert (kill["name"], kill["by"], kill["limit"]) == ("leak", "slicemgr", 75 * MIB)
        assert "leak" in run("slicemgr", "kills", whose)
        assert json.loads(run("slicemgr", "status", whose, "--json"))
    assert "leak" in run("slicemgr", "kills", whose)
    assert json.loads(run("slicemgr", "status", whose, "--json"))
