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
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TypeAlias

import pytest

from slicemgr.kernel import procfs
from slicemgr.kernel.formats import ProcStat
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

    def __init__(self, processes: Mapping[int, ProcStat]) -> None:
        self._names = {os.pidfd_open(pid): (pid, stat.comm) for pid, stat in processes.items()}

    def wait(self) -> None:
        """Until the last has ended."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        poll = select.poll()
        for pidfd in self._names:
            poll.register(pidfd, select.POLLIN)
        while self._names:
            ended = poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
            assert ended, f"left behind: {sorted(self._names.values())}"
            for pidfd, _ in ended:
                poll.unregister(pidfd)
                os.close(pidfd)
                del self._names[pidfd]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_to_slicemgr_ends_all(crowded: Crowds, number: signal.Signals) -> None:
    """The build, and those that stand too.

    make ends by the signal (with 1 for SIGQUIT, which would leave its core), or with 2 if it hears first that its
    children are gone: without slicemgr as well, 7 times of 8 for SIGTERM.
    """
    crowd = crowded("make")
    job = Watched(crowd.run.processes())
    os.kill(crowd.run.pid, number)
    job.wait()
    assert crowd.run.end() in {-number if number != signal.SIGQUIT else 1, 2}, crowd.run.told
    assert crowd.run.data["kills"] == []
    assert crowd.run.data["left_running"] == []


def test_a_signal_to_make_alone(crowded: Crowds) -> None:
    """It passes SIGTERM on to its children: those that stand hear it as well."""
    crowd = crowded("make")
    job = Watched(crowd.run.processes())
    (make,) = crowd.run.named("make")
    os.kill(make, signal.SIGTERM)
    job.wait()
    assert crowd.run.end() in {-signal.SIGTERM, 2}, crowd.run.told
    assert crowd.run.data["kills"] == []


def test_a_signal_to_one_that_stands(crowded: Crowds) -> None:
    """Somebody ends one step: it goes on to hear that, and the other one waits on."""
    crowd = crowded("sh")
    one, other = sorted(crowd.run.standing())
    ended = Watched({one: crowd.run.processes()[one]})
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
    job = Watched(below(on_terminal.pid))
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
