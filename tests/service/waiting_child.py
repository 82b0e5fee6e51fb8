# SPDX-License-Identifier: LGPL-2.1-or-later
"""Real processes that wait to be stopped and continued, and say so to their parent: no test has to look twice."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

from slicemgr.kernel import procfs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slicemgr.model.process import ProcessIdentity


class WaitingChild:
    """A child that answers each line; `cat` unless it is told otherwise."""

    def __init__(self, *command: str) -> None:
        self.process = subprocess.Popen(command or ("cat",), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.pid = self.process.pid
        self.answer()  # It has come to what it waits in.
        self.identity: ProcessIdentity = procfs.identity_of(self.pid)

    def answer(self) -> None:
        """Ask it, and wait until it has answered."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == b"\n"

    def send(self, *numbers: int) -> None:
        """As somebody else would."""
        for number in numbers:
            os.kill(self.pid, number)

    def wait_until_stopped(self) -> None:
        """The next stop that has not been waited for."""
        os.waitid(os.P_PID, self.pid, os.WSTOPPED)

    def stop_by_somebody_else(self) -> None:
        """And wait until it stands."""
        self.send(signal.SIGSTOP)
        self.wait_until_stopped()

    def end(self) -> None:
        """It is a zombie from now on."""
        self.send(signal.SIGKILL)
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)

    def be_gone(self) -> None:
        """And collected."""
        self.process.kill()
        self.process.wait()

    @property
    def state(self) -> str:
        """SIGCONT takes a process out of T before kill(2) returns (kernel/signal.c, prepare_signal)."""
        return procfs.read_stat(self.pid).state

    def stands(self) -> bool:
        """Whether it is stopped."""
        return self.state == "T"


@contextmanager
def waiting_child(*command: str) -> Iterator[WaitingChild]:
    """It is gone afterwards."""
    child = WaitingChild(*command)
    try:
        yield child
    finally:
        child.process.kill()
        assert child.process.stdin is not None
        assert child.process.stdout is not None
        # Not communicate(): whom it has left running may have its end of a pipe.
        child.process.stdin.close()
        child.process.stdout.close()
        child.process.wait()


def descriptors() -> set[str]:
    """Ours, to be compared with those of before."""
    return set(os.listdir("/proc/self/fd"))
