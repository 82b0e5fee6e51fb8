# SPDX-License-Identifier: LGPL-2.1-or-later
"""`slicemgr run` where a cgroup holds the job: who guards it, what is told of it, and what if it is not held."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from slicemgr.policy.limits import high_below
from slicemgr.service.record import report_to_line
from slicemgr.service.report import HighReport, KernelKillReport
from tests.cli.in_a_cgroup import CGROUP
from tests.cli.placed_run import MIB, ROOT, WHILE_READING, Daemon, Place

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

SEEN_BY_RUN = "the job holds 3.0M, 1.0M above memory.high 2.0M; the kernel slows it down"
SEEN_BY_DAEMON = "the job holds 5.0M, 1.0M above memory.high 4.0M; the kernel slows it down"


def test_a_short_command_is_only_held(place: Place) -> None:
    """Nobody guards it: the kernel holds it, and tells its peak."""
    done, report = place.run("--max", "64M", "--", "sh", "-c", "exit 3", guard_after=60)
    assert done.returncode == 3
    (line,) = place.said(done)
    assert line.startswith("'sh' exited with 3 after ")
    assert line.endswith("; nothing killed; peak 7.0M of 64.0M")
    assert (report["backend"], report["cgroup"], report["unit"]) == ("systemd", CGROUP, "slicemgr-nobody-1.scope")
    assert report["watched_by"] is None
    assert report["peak_bytes"] == 7 * MIB
    assert report["limits"] == {"memory_high": 60 * MIB, "memory_max": 64 * MIB, "memory_swap_max": None}


@pytest.mark.parametrize(
    ("options", "high", "limit"),
    [
        (["--max", "64M"], 60 * MIB, 64 * MIB),
        (["--max", "64M", "--high", "32M"], 32 * MIB, 64 * MIB),
        (["--max", "64M", "--high", "max"], None, 64 * MIB),
        (["--max", "max"], None, None),
        (["--max", "max", "--high", "32M"], 32 * MIB, None),
    ],
    ids=str,
)
def test_what_the_backend_is_asked_for(place: Place, options: list[str], high: int | None, limit: int | None) -> None:
    """memory.high is a little below max, unless somebody said something else."""
    place.run(*options, "--name", "n", "--slice", "ci", "--swap-max", "8M", "--", "true", "x", guard_after=60)
    asked = json.loads(place.asked.read_text())
    assert (asked["memory_high"], asked["memory_max"], asked["memory_swap_max"]) == (high, limit, 8 * MIB)
    assert (asked["name"], asked["slice_name"], asked["command"]) == ("n", "ci.slice", ["true", "x"])
    assert high != 60 * MIB or high == high_below(64 * MIB)


def test_a_longer_one_gets_a_guard(place: Place) -> None:
    """In this process, since no daemon answers: the command ends when the guard has looked."""
    done, report = place.run(*WHILE_READING, str(place.fifo))
    assert (done.returncode, done.stdout) == (0, "seen by run\n")
    assert place.said(done)[0] == SEEN_BY_RUN
    assert (report["watched_by"], report["looks"], report["high_episodes"]) == ("run", 1, 1)


def test_a_guard_that_has_ended_is_no_failure(place: Place) -> None:
    """Its cgroup was gone first, as it is when the last process exits."""
    done, report = place.run(*WHILE_READING, str(place.fifo), guard_ends=True)
    assert done.returncode == 0
    assert report["guard_failures"] == []


def test_a_guard_that_fails_takes_nobody_with_it(place: Place) -> None:
    """It is said what still holds the job."""
    fifo = str(place.fifo)
    script = 'until grep -q "guard failed" "$1"; do :; done; echo went on'
    with (place.files / "stderr").open("w") as told:
        command = ["-m", "tests.cli.in_a_cgroup"]
        settings = {
            "cgroups": str(place.cgroups),
            "fifo": fifo,
            "asked": str(place.asked),
            "daemons": [],
            "state": str(place.state),
            "guard_fails": True,
        }
        done = subprocess.run(
            [sys.executable, *command, json.dumps(settings), "--", "sh", "-c", script, "sh", told.name],
            stdout=subprocess.PIPE, stderr=told, text=True, timeout=60, cwd=ROOT,
        )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "went on\n")
    first, last = Path(told.name).read_text().splitlines()
    assert first == (
        "slicemgr: the guard failed (OSError: no such guard): the command goes on held at its limits by the kernel alone; "
        "please report this"
    )
    assert "; nothing killed; peak 7.0M" in last


def test_a_daemon_tells_what_it_does(place: Place, daemon: Callable[..., Daemon]) -> None:
    """While the command runs, and once more after its end: then it is at rest."""

    def serve(connection: socket.socket) -> None:
        connection.sendall(b"ok\n" + report_to_line(HighReport(1.0, 5 * MIB, 4 * MIB, CGROUP))[:10])
        connection.sendall(
            report_to_line(HighReport(1.0, 5 * MIB, 4 * MIB, CGROUP))[10:] + b'{"kind": "of tomorrow"}\n'
        )
        place.fifo.write_text("seen by the daemon\n")
        assert connection.recv(1) == b""  # The command has ended.
        connection.sendall(report_to_line(KernelKillReport(2.0, CGROUP, 1, ((7, "late"),))))

    guarding = daemon(serve)
    place.write(peak=7 * MIB, oom_kill=1, populated=0)
    done, report = place.run(*WHILE_READING, str(place.fifo))
    assert guarding.heard == [f"watch {CGROUP}\n".encode()]
    assert done.stdout == "seen by the daemon\n"
    high, kernel, end = place.said(done)
    assert high == SEEN_BY_DAEMON
    assert kernel.startswith("the kernel was first: its OOM killer ended 'late' (pid 7); try ")
    assert "; the kernel killed 1; to keep all, " in end
    assert (report["watched_by"], report["looks"]) == ("daemon", 0)
    assert report["kernel_kills"] == [{"cgroup": CGROUP, "count": 1, "victims": [{"pid": 7, "comm": "late"}]}]


@pytest.mark.parametrize(
    "answer", [b"error it is in no slice of mine\n", b"", b"ok\n"], ids=["refuses", "hangs up", "dies"]
)
def test_without_the_daemon_run_guards_by_itself(place: Place, daemon: Callable[..., Daemon], answer: bytes) -> None:
    """It refuses, or ends: at once, or while it watches."""
    daemon(lambda connection: connection.sendall(answer))
    done, report = place.run(*WHILE_READING, str(place.fifo))
    assert (done.returncode, done.stdout) == (0, "seen by run\n")
    assert (report["watched_by"], report["looks"]) == ("run", 1)


def test_a_daemon_that_does_not_answer(place: Place, daemon: Callable[..., Daemon]) -> None:
    """Stopped, or stuck: it is given a moment, then it is hung up on."""
    daemon(assert_hung_up)
    done, report = place.run(*WHILE_READING, str(place.fifo), answer=0.05)
    assert done.stdout == "seen by run\n"
    assert report["watched_by"] == "run"


def assert_hung_up(connection: socket.socket) -> None:
    assert connection.recv(1) == b""


def test_what_the_kernel_killed_unseen(place: Place) -> None:
    """Before anybody was there to guard: the counter of the cgroup tells."""
    script = 'printf "oom_kill 2\\n" > "$0/memory.events"; echo 67108864 > "$0/memory.peak"; kill -KILL $$'
    done, report = place.run("--max", "64M", "--", "sh", "-c", script, str(place.files), guard_after=60)
    assert done.returncode == -signal.SIGKILL
    kernel, end = place.said(done)
    assert (
        kernel == "the kernel was first: its OOM killer ended 2 of the job; try a higher --max, or fewer steps at once"
    )
    assert end.endswith(
        "; the kernel killed 2; to keep all, try fewer steps at once or a higher limit; peak 64.0M of 64.0M"
    )
    assert report["kernel_kills"] == [{"cgroup": CGROUP, "count": 2, "victims": []}]


def test_a_cgroup_that_is_gone_tells_nothing(place: Place) -> None:
    """No figure is made up."""
    for file in place.files.iterdir():
        file.unlink()
    done, report = place.run("--max", "64M", "--", "true", guard_after=60)
    (line,) = place.said(done)
    assert line.endswith("; nothing killed; peak not known")
    assert report["peak_bytes"] == 0


WHY_NOT = "systemd did not set memory.max of it; try Delegate=memory"


def test_limits_that_are_not_held_are_an_error_if_the_backend_was_asked_for(place: Place) -> None:
    """Nothing is run."""
    trace = place.files / "trace"
    done, report = place.run("--backend", "systemd", "--", "touch", str(trace), why_not=WHY_NOT)
    assert (done.returncode, done.stderr) == (125, f"slicemgr run: {WHY_NOT}\n")
    assert report is None
    assert not trace.exists()


def test_limits_that_are_not_held_are_watched(place: Place) -> None:
    """By `auto`: it is said, and the job is guarded as a process tree."""
    done, report = place.run("--max", "64M", "--", "sh", "-c", "exit 4", why_not=WHY_NOT)
    assert done.returncode == 4
    assert place.said(done)[0] == f"not in a cgroup, only watched: {WHY_NOT}"
    assert (report["backend"], report["cgroup"], report["unit"]) == ("embedded", None, None)
    assert report["limits"]["memory_high"] is None  # Nobody slows it down, so nobody is to be warned.


def test_priorities_are_left_alone(place: Place) -> None:
    """The kernel holds the job, however late we look."""
    done, _ = place.run("--", "sh", "-c", "nice; ps -o nice= -p $PPID", guard_after=60)
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert [int(word) for word in done.stdout.split()] == [own, own]
