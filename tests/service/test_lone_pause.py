# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pausing a job without a daemon, with real ones: as ^Z stops them, and nothing is left behind."""

from __future__ import annotations

import os
import select
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from slicemgr.kernel import procfs
from slicemgr.kernel.errors import ProcessGoneError
from slicemgr.service import lone_pause
from slicemgr.service.lone_pause import NotPausedError, find_run, is_run, pause, resume
from tests.service.running_job import ECHO, SECONDS, named_program, running

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def program(tmp_path: Path) -> str:
    return named_program(tmp_path)


def wait_for_exit(pidfd: int) -> bool:
    return bool(select.select([pidfd], [], [], SECONDS)[0])


def test_the_command_stops_and_goes_on(program: str) -> None:
    """And `slicemgr run` with it; twice is as once."""
    with running(program) as job:
        assert job.say("one") == "heard one"
        for _ in range(2):
            pause(job.identity)
            assert job.states() == ("T", "T")
        assert resume(job.identity)
        assert job.say("two") == "heard two"
        assert not resume(job.identity)
        pause(job.identity)
        assert resume(job.identity)
        assert job.say("three") == "heard three"
        assert job.process.stdin is not None
        job.process.stdin.close()
        assert job.process.wait(SECONDS) == 0


def test_its_children_stop_too(program: str) -> None:
    """All of the command's process group: the compilers of a make."""
    script = "sh -c 'echo $$; exec sleep 1000' & wait"
    with running(program, "sh", "-c", f"{script}; exit 3") as job:
        pause(job.identity)
        group = [pid for pid, stat in procfs.processes().items() if stat.pgrp == os.getpgid(job.command)]
        assert job.command in group
        assert len(group) == 2
        while {procfs.read_stat(pid).state for pid in group} != {"T"}:
            os.sched_yield()  # Each obeys as soon as it runs again.
        os.kill(job.command, signal.SIGKILL)
        resume(job.identity)
        assert job.process.wait(SECONDS) == 3


def test_a_run_that_is_killed_leaves_nothing_stopped(program: str) -> None:
    """The kernel continues its command, and hangs up on it: ten times, at a moment after the pause."""
    for _ in range(10):
        with running(program) as job:
            pidfd = os.pidfd_open(job.command)
            try:
                pause(job.identity)
                job.process.kill()
                assert wait_for_exit(pidfd)
            finally:
                os.close(pidfd)
            job.process.wait(SECONDS)


def test_a_command_that_survives_the_hang_up_goes_on(program: str) -> None:
    """With nohup, or a daemon: not stopped either."""
    with running(program, "sh", "-c", f"trap '' HUP; {ECHO}") as job:
        pause(job.identity)
        job.process.kill()
        job.process.wait(SECONDS)
        assert job.say("still there") == "heard still there"


def test_nobody_could_continue_it(program: str) -> None:
    """A leader of a session has no shell above it: it is said at once, and the command does not even blink."""
    with running(program, session=True) as job:
        with pytest.raises(NotPausedError, match=r"has no shell above it that could continue it; try "):
            pause(job.identity)
        assert "T" not in job.states()
        assert job.say("one") == "heard one"


def test_a_command_that_does_not_stop(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ignores SIGTSTP: it is said, and it goes on."""
    monkeypatch.setattr(lone_pause, "STOP_SECONDS", 0.05)
    with running(program, "sh", "-c", f"trap '' TSTP; {ECHO}") as job:
        with pytest.raises(NotPausedError, match=r"did not stop within 0 s: .*; try "):
            pause(job.identity)
        assert job.say("one") == "heard one"


LATER = """
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTSTP])
print(os.getpid(), flush=True)
line = input()
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTSTP])
print("heard", line, flush=True)
input()
"""


def test_a_command_that_would_stop_later(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """When nobody expects it any more it does not."""
    monkeypatch.setattr(lone_pause, "STOP_SECONDS", 0.05)
    with running(program, sys.executable, "-c", LATER) as job:
        with pytest.raises(NotPausedError):
            pause(job.identity)
        assert job.say("one") == "heard one"


def test_one_that_has_ended(program: str) -> None:
    """Its number may be anybody's by now."""
    with running(program) as job:
        pass
    with pytest.raises(ProcessGoneError):
        pause(job.identity)
    with pytest.raises(ProcessGoneError):
        resume(job.identity)
    with pytest.raises(ProcessGoneError):
        find_run(job.process.pid)


def test_whose_run_it_is(program: str) -> None:
    """Of a member, of the command and its own; the nearest, and nobody's."""
    script = "sh -c 'echo $$; read line; exit 0'; exit 0"
    with running(program, "sh", "-c", script) as job:
        member = job.command
        assert procfs.read_stat(procfs.read_stat(member).ppid).ppid == job.process.pid
        for pid in (member, procfs.read_stat(member).ppid, job.process.pid):
            assert find_run(pid) == job.identity
    assert find_run(os.getpid()) is None
    assert find_run(1) is None


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (["/usr/bin/python3", "/usr/local/bin/slicemgr", "run", "--", "make"], True),
        (["/usr/bin/python3", "-sP", "/opt/x/bin/slicemgr", "run", "make"], True),
        (["python3", "-m", "slicemgr", "run", "true"], True),
        (["slicemgr", "run", "true"], True),
        (["/usr/bin/python3", "/usr/local/bin/slicemgr", "daemon"], False),
        (["/usr/bin/python3", "/usr/local/bin/slicemgr", "pause", "run"], False),
        (["make", "run"], False),
        (["vi", "slicemgr"], False),
        (["sh", "-c", "slicemgr run make"], False),
        (["a", "b", "c", "d", "e", "f", "slicemgr", "run"], False),
        ([""], False),
        ([], False),
    ],
)
def test_a_command_line(line: list[str], told: bool) -> None:
    assert is_run(line) is told
