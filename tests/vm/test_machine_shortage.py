# SPDX-License-Identifier: LGPL-2.1-or-later
"""The machine itself is short of memory, and nobody at a limit; and the system's daemon, which guards all users."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.vm.desktop_2010 import standing_by
from tests.vm.living import (
    MIB,
    NO_JOB_LIMIT,
    TESTER,
    as_user,
    cgroup_path,
    connections,
    dead,
    held,
    is_gone,
    kernel_kills,
    leak,
    living,
    people,
    quiet,
    scope,
    slice_directory,
    session_of_tester,
    until,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.vm.systemd import Systemd

OTHER = 1001
# One mapping of all memory and swap is refused: vm.overcommit_memory=0 looks at the machine's totals.
UNLIMITED = ("slicemgr", "run", "--max", "max", "--")
JOB_100M = ("slicemgr", "run", "--max", "100M", "--")


def available_bytes() -> int:
    """MemAvailable: kB in /proc/meminfo."""
    rows = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(rows["MemAvailable"].split()[0]) << 10


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
            since = people()
            told = job.told()
            assert dead(since) == ["leak", "slicemgr"]
        assert "killed 'leak'" in told, told
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
        since = people()
        until(lambda: is_gone(app.hog), "the app goes")
        assert dead(since) == sorted(gone)
        until(lambda: len(service.victims()) >= len(gone), "all is told")
        assert service.victims() == gone


@pytest.mark.vm(users=("tester",))
def test_the_protected_are_never_taken(systemd: Systemd, tmp_path: Path) -> None:
    """The shell holds most of the machine, and an app beside it in the same slice goes in its place."""
    with kernel_not_needed(), standing_by(systemd), living(NO_JOB_LIMIT) as service:
        with held(tmp_path, quiet("gimp", "150M"), *scope("app.slice")) as gimp:
            size = available_bytes() - 45 * MIB  # Short from 5 % of 1.4 GiB on, and no shorter than that.
            with held(tmp_path, quiet("gnome-shell", str(size)), *scope("app.slice")) as shell:
                until(lambda: is_gone(gimp.hog), "the app goes")
                until(service.victims, "it is told")
                since = people()
                assert available_bytes() > 100 * MIB
                assert not is_gone(shell.hog)
                assert service.victims() == ["gimp"]
                assert dead(since) == []


# The system's daemon, and users.


@pytest.mark.vm(users=("root",))
def test_the_systems_daemon_guards_root_and_users(systemd: Systemd, tmp_path: Path) -> None:
    """`slicemgr run` of a user finds its socket, and is told of the kill; root's builds are in /build.slice."""
    tmp_path.parent.parent.chmod(0o755)
    for each in (tmp_path.parent, tmp_path):
        each.chmod(0o755)
    with kernel_not_needed(), standing_by(systemd), session_of_tester(), living() as service:
        with held(tmp_path, leak("roots"), *JOB_100M) as job:
            assert cgroup_path(job.hog.pid).startswith("build.slice/slicemgr-")
            since = people()
            assert "killed 'roots'" in job.told()
            assert dead(since) == ["roots", "slicemgr"]
        with held(tmp_path, leak("users"), *JOB_100M, uid=TESTER) as job:
            assert cgroup_path(job.hog.pid).startswith("user.slice/user-1000.slice/user@1000.service/build.slice/")
            until(lambda: connections(service) > 0, "it is registered")
            since = people()
            assert "killed 'users'" in job.told()
            assert dead(since) == ["slicemgr", "users"]
        until(lambda: len(service.victims()) > 1, "both are told")
        assert service.victims() == ["roots", "users"]


@pytest.mark.vm(users=("root",))
def test_a_users_own_daemon_comes_first(systemd: Systemd, tmp_path: Path) -> None:
    """Of two daemons one acts: the system's leaves that user's slices to the user's."""
    tmp_path.parent.parent.chmod(0o755)
    for each in (tmp_path.parent, tmp_path):
        each.chmod(0o755)
    with kernel_not_needed(), session_of_tester(), living() as systems, living(uid=TESTER) as own:
        with held(tmp_path, leak("users"), *JOB_100M, uid=TESTER) as job:
            until(lambda: connections(own) > 0, "it is registered")
            assert connections(systems) == 0
            since = people()
            assert "killed 'users'" in job.told()
            assert dead(since) == ["slicemgr", "users"]
        until(own.victims, "it is told")
        assert (own.victims(), systems.victims()) == (["users"], [])
        own.systemctl("stop", own.unit)
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
