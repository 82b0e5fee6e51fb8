# SPDX-License-Identifier: LGPL-2.1-or-later
"""The machine as a whole: it is short and nobody at a limit, one daemon guards all users, and two hundred jobs run."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from slicemgr.policy.machine import ASSUMED_GROWTH_BYTES_PER_SECOND
from tests.vm.bystanders import dead, kernel_kills, people, until
from tests.vm.desktop_2010 import standing_by
from tests.vm.living import (
    MIB,
    NO_JOB_LIMIT,
    TESTER,
    as_user,
    ask,
    cgroup_path,
    connections,
    held,
    is_gone,
    leak,
    living,
    quiet,
    sandbox,
    scope,
    session_of_tester,
    slice_directory,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.vm.systemd import Systemd

OTHER = 1001
# One mapping of all memory and swap is refused: vm.overcommit_memory=0 looks at the machine's totals.
UNLIMITED = ("slicemgr", "run", "--no-pacing", "--max", "max", "--")
JOB_100M = ("slicemgr", "run", "--no-pacing", "--max", "100M", "--")


def meminfo_bytes(row: str) -> int:
    """Of /proc/meminfo, which has kB."""
    rows = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(rows[row].split()[0]) << 10


@contextlib.contextmanager
def kernel_not_needed() -> Iterator[None]:
    """The kernel's OOM killer has taken nobody, neither for a cgroup nor for the machine."""
    before = kernel_kills()
    yield
    assert kernel_kills() == before


def the_leak_is_ended(systemd: Systemd, folder: Path, grow: str, rate: str) -> None:
    with kernel_not_needed(), standing_by(systemd), living(NO_JOB_LIMIT) as service:
        assert (slice_directory("build.slice") / "memory.max").read_text() == "max\n"
        with held(folder, leak(grow=grow, rate=rate), *UNLIMITED) as job:
            since = people() | {job.hog}
            told = job.told()
            assert dead(since) == ["leak"]
        assert "killed 'leak'" in told, told
        until(service.victims, "it is told")
        (record,) = (each for each in service.history() if each["report"]["kind"] == "kill")
        assert record["report"]["shortage"]["resource"] == "machine"
        assert record["slice"] == "build.slice"


@pytest.mark.parametrize("rate", ["200M", "0"], ids=["200M/s", "at full speed"])
def test_a_leak_without_a_limit_goes_before_the_machine(systemd: Systemd, tmp_path: Path, rate: str) -> None:
    """Without swap."""
    the_leak_is_ended(systemd, tmp_path, "1400M", rate)


@pytest.mark.vm(swap="zram", users=("tester",), timeout=240)
def test_a_leak_fills_zram_and_goes(systemd: Systemd, tmp_path: Path) -> None:
    """Swap that is in memory itself is no way out."""
    the_leak_is_ended(systemd, tmp_path, "2100M", "200M")


@pytest.mark.vm(users=("tester",))
@pytest.mark.parametrize(
    ("build", "gone"),
    [
        pytest.param("4M", ["app-leak"], id="a build that is not worth it"),
        pytest.param("150M", ["build", "app-leak"], id="a build that is"),
    ],
)
def test_an_app_leaks_beside_a_build(systemd: Systemd, tmp_path: Path, build: str, gone: list[str]) -> None:
    """Builds before apps, but for those whose end would not be felt."""
    with (
        kernel_not_needed(),
        standing_by(systemd),
        living(NO_JOB_LIMIT) as service,
        held(tmp_path, quiet("build", build), *scope("build.slice")),
        held(tmp_path, leak("app-leak", grow="1400M", rate="150M"), *scope("app.slice")) as app,
    ):
        since = people() | {app.hog}
        until(lambda: is_gone(app.hog), "the app goes")
        assert dead(since) == sorted(gone)
        until(lambda: len(service.victims()) >= len(gone), "all is told")
        assert service.victims() == gone


@pytest.mark.vm(users=("tester",))
def test_the_protected_are_never_taken(systemd: Systemd, tmp_path: Path) -> None:
    """The shell holds most of the machine, and an app beside it in the same slice goes in its place."""
    with (
        kernel_not_needed(),
        standing_by(systemd),
        living(NO_JOB_LIMIT) as service,
        held(tmp_path, quiet("gimp", "150M"), *scope("app.slice")) as gimp,
    ):
        since = people()
        size = meminfo_bytes("MemAvailable") - 45 * MIB  # Short from 5 % of 1.4 GiB on, and no shorter than that.
        with held(tmp_path, quiet("gnome-shell", str(size)), *scope("app.slice")) as shell:
            until(lambda: is_gone(gimp.hog), "the app goes")
            until(service.victims, "it is told")
            assert not is_gone(shell.hog)
            assert dead(since) == ["gimp"] == service.victims()
            assert meminfo_bytes("MemAvailable") > 100 * MIB


# The system's daemon, and users.


def open_to_all(folder: Path) -> None:
    """pytest keeps its folders to itself."""
    for each in (folder, folder.parent, folder.parent.parent):
        each.chmod(0o755)


@pytest.mark.vm(users=("root",))
def test_the_systems_daemon_guards_root_and_users(systemd: Systemd, tmp_path: Path) -> None:
    """`slicemgr run` of a user finds its socket, and is told of the kill; root's builds are in /build.slice."""
    open_to_all(tmp_path)
    with kernel_not_needed(), standing_by(systemd), session_of_tester(), living() as service:
        with held(tmp_path, leak("roots"), *JOB_100M) as job:
            assert cgroup_path(job.hog.pid).startswith("build.slice/slicemgr-")
            since = people() | {job.hog}
            assert "killed 'roots'" in job.told()
            assert dead(since) == ["roots"]
        with held(tmp_path, leak("users"), *JOB_100M, uid=TESTER) as job:
            assert cgroup_path(job.hog.pid).startswith("user.slice/user-1000.slice/user@1000.service/build.slice/")
            until(lambda: connections(service.socket) > 0, "it is registered")
            since = people() | {job.hog}
            assert "killed 'users'" in job.told()
            assert dead(since) == ["users"]
        until(lambda: len(service.victims()) > 1, "both are told")
        assert service.victims() == ["roots", "users"]


@pytest.mark.vm(users=("root",))
def test_a_users_own_daemon_comes_first(systemd: Systemd, tmp_path: Path) -> None:
    """Of two daemons one acts: the system's, hardened as by its unit, leaves that user's slices to the user's."""
    open_to_all(tmp_path)
    hardened = sandbox()
    assert {"ProtectHome", "ProtectSystem", "PrivateMounts"} <= hardened.keys()
    with (
        kernel_not_needed(),
        session_of_tester(),
        living(properties=hardened) as systems,
        living(uid=TESTER) as own,
    ):
        with held(tmp_path, leak("users"), *JOB_100M, uid=TESTER) as job:
            until(lambda: connections(own.socket) > 0, "it is registered")
            assert connections(systems.socket) == 0
            since = people() | {job.hog}
            assert "killed 'users'" in job.told()
            assert dead(since) == ["users"]
        until(own.victims, "it is told")
        assert (own.victims(), systems.victims()) == (["users"], [])
        own.systemctl("stop", own.unit)
        testers = "/user.slice/user-1000.slice/user@1000.service/build.slice/slicemgr-x-1.scope"
        until(lambda: ask(systems, testers) == "ok\n", "the system's knows that the other is gone")
        with held(tmp_path, leak("again"), *JOB_100M, uid=TESTER) as job:
            assert "killed 'again'" in job.told()
        until(systems.victims, "it is told")
        assert systems.victims() == ["again"]


@pytest.mark.vm(users=("root",))
def test_a_stranger_is_told_nothing(systemd: Systemd) -> None:
    """Another user's cgroup is not watched for them; one error line."""
    program = (
        "import socket, sys\n"
        "connection = socket.socket(socket.AF_UNIX)\n"
        "connection.connect('/run/slicemgr/control')\n"
        "connection.sendall(sys.argv[1].encode() + b'\\n')\n"
        "print(connection.makefile().readline(), end='')\n"
    )
    testers = "/user.slice/user-1000.slice/user@1000.service/build.slice/slicemgr-x-1.scope"
    with standing_by(systemd), living():
        since = people()
        answers = [
            subprocess.run(
                [sys.executable, "-c", program, f"watch {cgroup}"],
                capture_output=True,
                text=True,
                timeout=30,
                **as_user(uid),
            ).stdout
            for uid, cgroup in ((TESTER, testers), (OTHER, testers), (OTHER, "/build.slice"), (OTHER, "/init.scope"))
        ]
        assert answers[0] == "ok\n"
        assert answers[1].startswith("error ")
        assert "another user's" in answers[1]
        assert answers[2].startswith("error ")
        assert "another user's" in answers[2]
        assert answers[3].startswith("error ")
        assert "in no managed slice; try" in answers[3]
        assert dead(since) == []


# Many jobs.


def voluntary_switches(pid: int) -> int:
    """How often its threads have gone to sleep by themselves: as often they had been woken."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    lines = [line for task in tasks for line in (task / "status").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))


def woken_within(pid: int, seconds: float) -> int:
    """How often it is woken in the time that comes."""
    before = voluntary_switches(pid)
    signal.sigtimedwait([signal.SIGUSR2], seconds)
    return voluntary_switches(pid) - before


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
    with standing_by(systemd), living() as service, contextlib.ExitStack() as stack:
        pid = service.pid
        rss_before, descriptors_before = rss_bytes(pid), len(os.listdir(f"/proc/{pid}/fd"))
        with sleepers(199) as pids, held(tmp_path, quiet("quiet", "10M"), *JOB_100M) as also:
            listed = json.loads(subprocess.run(["slicemgr", "list", "--json"], capture_output=True).stdout)["jobs"]
            assert {each["pid"] for each in listed} == {*pids, also.hog.pid}
            job = stack.enter_context(held(tmp_path, leak(), *JOB_100M))
            since = people() | {job.hog}
            assert "killed 'leak'" in job.told()
            assert dead(since) == ["leak"]
            assert len(os.listdir(f"/proc/{pid}/fd")) < 2 * 200 + 100
            assert rss_bytes(pid) - rss_before < 24 * MIB
            # The episode's last looks, and two hundred jobs to be published: on a busy host its threads hand the
            # interpreter's lock to each other for ten seconds and more, thousands of times.
            until(lambda: woken_within(pid, 2) < 50, "it is calm", 90)
            woken = woken_within(pid, 10)
            print(f"woken {woken} times in 10 s, {len(os.listdir(f'/proc/{pid}/fd'))} descriptors,", end=" ")
            print(f"{(rss_bytes(pid) - rss_before) >> 10} KiB more than before the jobs")
            # The reading of the machine wakes it, the oftener the less there is, and each time for two sleeps; no job does.
            seconds = (
                meminfo_bytes("MemAvailable") - meminfo_bytes("MemTotal") // 20
            ) / ASSUMED_GROWTH_BYTES_PER_SECOND
            assert woken <= 2 * 10 / min(seconds, 10) * 1.2 + 10
        with held(tmp_path, leak(rate="60M"), *JOB_100M) as job:
            assert "killed 'leak'" in job.told()
        # Those of cgroups that are gone are closed.
        assert len(os.listdir(f"/proc/{pid}/fd")) < descriptors_before + 30
        assert rss_bytes(pid) - rss_before < 24 * MIB
