# SPDX-License-Identifier: LGPL-2.1-or-later
"""How a build ends, or is interrupted, while some of its steps stand: as without slicemgr, and nobody is left behind.

A stopped process hears no signal but SIGKILL and SIGCONT, so whoever ends a build has to let it go on first. A SIGKILL
of slicemgr itself: test_pacing_sigkill.py.
"""

import os
import re
import select
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TypeAlias

import pytest

from slicemgr.kernel import procfs
from tests.cli.paced_run import (
    PATIENCE_SECONDS,
    CrowdedBuild,
    CrowdedRun,
    below,
    is_watched_by,
    named_python,
    step,
    until,
)
from tests.cli.slicemgr_command import EMBEDDED, SLICEMGR
from tests.cli.test_terminal import CTRL_C, CTRL_Z, PROMPT, Terminal, terminal

__all__ = ["terminal"]

Crowds: TypeAlias = Callable[..., CrowdedRun]


def late(directory: Path) -> dict[str, str]:
    """Two steps that have to wait."""
    command = step("--start", "15M", "--hold", "0.2", program=named_python(directory, "late")) + " </dev/null"
    return {"one": command, "two": command}


@pytest.fixture
def crowded(tmp_path: Path) -> Iterator[Crowds]:
    """Start a build in which two stand."""
    with ExitStack() as stack:

        def start(by: str) -> CrowdedRun:
            crowd = CrowdedRun(tmp_path, late(tmp_path), by=by)
            stack.callback(crowd.close)
            until(lambda: len(crowd.run.standing()) == 2, "both stand")
            return crowd

        yield start


class Watched:
    """Processes that are to end; a pid that is used again is not taken for one of them."""

    def __init__(self, pids: list[int]) -> None:
        self._pidfds = [os.pidfd_open(pid) for pid in pids]

    def wait(self) -> None:
        """Until the last has ended."""
        poll = select.poll()
        for pidfd in self._pidfds:
            poll.register(pidfd, select.POLLIN)
        for pidfd in self._pidfds:
            while not any(pidfd == ready for ready, _ in poll.poll(0)):
                assert poll.poll(PATIENCE_SECONDS * 1000), "somebody was left behind"
            poll.unregister(pidfd)
            os.close(pidfd)


def plain_status(directory: Path, number: int, *, whole_group: bool) -> int:
    """How such a build ends without slicemgr, by this signal to all of it or to `make` alone."""
    build = CrowdedBuild(directory, late(directory), by="make")
    with subprocess.Popen(build.command, cwd=directory, start_new_session=True, stderr=subprocess.DEVNULL) as make:
        build.begin()
        until(lambda: any(stat.comm == b"late" for stat in below(make.pid).values()), "all have begun")
        (os.killpg if whole_group else os.kill)(make.pid, number)
        status = make.wait(timeout=PATIENCE_SECONDS)
        build.close()
        return status


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_to_slicemgr_ends_all(tmp_path: Path, crowded: Crowds, number: signal.Signals) -> None:
    """The build, those that stand too; and the status is make's own."""
    crowd = crowded("make")
    job = Watched(list(crowd.run.processes()))
    os.kill(crowd.run.pid, number)
    job.wait()
    status = crowd.run.end()
    plain = tmp_path / "plain"
    plain.mkdir()
    assert status == plain_status(plain, number, whole_group=True), crowd.run.told
    assert crowd.run.data["kills"] == []
    assert crowd.run.data["left_running"] == []


def test_a_signal_to_make_alone(tmp_path: Path, crowded: Crowds) -> None:
    """It passes SIGTERM on to its children: those that stand hear it as well."""
    crowd = crowded("make")
    job = Watched(list(crowd.run.processes()))
    (make,) = crowd.run.named("make")
    os.kill(make, signal.SIGTERM)
    job.wait()
    status = crowd.run.end()
    plain = tmp_path / "plain"
    plain.mkdir()
    assert status == plain_status(plain, signal.SIGTERM, whole_group=False), crowd.run.told
    assert crowd.run.data["kills"] == []


def test_a_signal_to_one_that_stands(crowded: Crowds) -> None:
    """Somebody ends one step: it goes on to hear that, and the other one waits on."""
    crowd = crowded("sh")
    one, other = sorted(crowd.run.standing())
    ended = Watched([one])
    os.kill(one, signal.SIGTERM)
    ended.wait()
    assert crowd.run.standing() == [other]
    crowd.let_go()
    assert crowd.run.end() == 3, crowd.run.told
    assert crowd.run.data["kills"] == []


def test_the_guardian_is_killed(crowded: Crowds) -> None:
    """Nobody would resume the steps after our death any more: so nobody stands, and the build ends."""
    crowd = crowded("sh")
    os.kill(crowd.run.guardian(), signal.SIGKILL)
    until(lambda: not crowd.run.standing(), "nobody stands")
    crowd.let_go()
    assert crowd.run.end() == 0, crowd.run.told
    assert crowd.run.data["kills"] == []


class OnTerminal:
    """A crowded build on a terminal, with two that stand."""

    def __init__(self, terminal: Terminal, directory: Path) -> None:
        self.terminal = terminal
        self.build = CrowdedBuild(directory, late(directory), by="make")
        self._report = directory / "report.json"
        slicemgr = shlex.join([*SLICEMGR, "run", *EMBEDDED, "--max", self.build.LIMIT, "--json", str(self._report)])
        terminal.enter(f"export XDG_STATE_HOME={directory}/state; cd {directory}")
        terminal.expect(PROMPT)
        terminal.enter(f"{slicemgr} -- {shlex.join(self.build.command)}")
        until(self._named("canary"), "the canary has begun")
        self.pid = self._slicemgr_above(*self._named("canary")())
        until(lambda: is_watched_by(self.pid, *self._named("canary")()), "the pacer knows a step")
        self.build.begin()
        self.until_two_stand()

    def _named(self, name: str) -> Callable[[], list[int]]:
        """Only ours have this directory."""
        return lambda: [
            pid
            for pid, stat in procfs.processes().items()
            if stat.comm == name.encode() and str(self._report.parent) in " ".join(procfs.command_line(pid))
        ]

    def _slicemgr_above(self, pid: int) -> int:
        while str(self._report) not in procfs.command_line(pid):
            pid = procfs.read_stat(pid).ppid
        return pid

    def standing(self) -> list[int]:
        """All that are stopped."""
        return sorted(pid for pid, stat in below(self.pid).items() if stat.state == "T")

    def until_two_stand(self) -> None:
        """And nobody else."""
        until(lambda: self.standing() == sorted(self._named("late")()) != [], "both stand, and they alone")
        assert len(self.standing()) == 2

    def close(self) -> None:
        """Nothing of it is left after this."""
        self.build.close()
        for pid in [*below(self.pid), self.pid] if str(self._report) in _command_line(self.pid) else []:
            os.kill(pid, signal.SIGKILL)


def _command_line(pid: int) -> tuple[str, ...]:
    try:
        return procfs.command_line(pid)
    except procfs.UNSEEN:
        return ()


@pytest.fixture
def on_terminal(terminal: Terminal, tmp_path: Path) -> Iterator[OnTerminal]:
    made = OnTerminal(terminal, tmp_path)
    yield made
    made.close()


def test_control_c_while_steps_stand(on_terminal: OnTerminal) -> None:
    """All of it ends, and the shell sees what it would see."""
    job = Watched(list(below(on_terminal.pid)))
    on_terminal.terminal.type(CTRL_C)
    job.wait()
    on_terminal.terminal.expect("slicemgr: 'make' ended by SIGINT")
    on_terminal.terminal.expect(PROMPT)
    on_terminal.terminal.enter("echo status=$?")
    on_terminal.terminal.expect("^status=130")


def test_control_z_and_fg_while_steps_stand(on_terminal: OnTerminal) -> None:
    """After `fg` those that stood stand again, until there is room; twice, and then the build ends."""
    for _ in range(2):
        on_terminal.terminal.type(CTRL_Z)
        on_terminal.terminal.expect(r"^\[1\]\+ +Stopped")
        on_terminal.terminal.expect(PROMPT)
        until(lambda: procfs.read_stat(on_terminal.pid).state == "T", "slicemgr has stopped")
        on_terminal.terminal.enter("fg")
        on_terminal.until_two_stand()
    on_terminal.build.let_go()
    on_terminal.terminal.expect("slicemgr: 'make' exited with 0")
    assert re.search("; nothing killed; ", on_terminal.terminal.screen)
    on_terminal.terminal.expect(PROMPT)
