# SPDX-License-Identifier: LGPL-2.1-or-later
"""examples/desktop as processes, and what a daemon was asked by them."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from slicemgr.bus.call import Call
    from tests.bus.fake_daemon import FakeDaemon

EXAMPLES = Path(__file__).parents[2] / "examples/desktop"
PYTHON = (sys.executable, str(EXAMPLES / "desktop.py"))
SHELL = (str(EXAMPLES / "desktop.sh"),)
NO_BUS = "unix:path=/nonexistent/bus"
SECONDS = 30.0
"""For a hang: nothing here takes one."""


class Started:
    """A process that is ended when it hangs."""

    def __init__(self, address: str, *command: str) -> None:
        self.process = subprocess.Popen(
            command,
            env={**os.environ, "DBUS_SESSION_BUS_ADDRESS": address},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._late = threading.Timer(SECONDS, self._kill)
        self._late.start()

    def line(self) -> str:
        """The next one on standard output."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def lines(self, count: int) -> set[str]:
        """The next ones, in any order."""
        return {self.line() for _ in range(count)}

    def end(self, given: str = "") -> tuple[int, str, str]:
        """(status, the rest of what it said, and of its errors) once it has read this."""
        said, wrong = self.process.communicate(given)
        return self.process.returncode, said, wrong

    def _kill(self) -> None:
        """With what it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._late.cancel()
        self._kill()
        self.process.communicate()


def run(address: str, *command: str) -> tuple[int, str, str]:
    with Started(address, *command) as started:
        return started.end()


def one_line(wrong: str) -> str:
    """An error: one line that ends in what to try."""
    assert wrong.endswith("\n")
    assert wrong.count("\n") == 1
    assert "; try " in wrong
    return wrong.rstrip("\n")


class Asked:
    """What a daemon was asked, as it comes."""

    def __init__(self, daemon: FakeDaemon, **answers: tuple[Any, ...]) -> None:
        self.calls: queue.Queue[Call] = queue.Queue()
        for method, answer in answers.items():
            daemon.answers[method] = partial(self._note, answer)

    def _note(self, answer: tuple[Any, ...], call: Call) -> tuple[Any, ...]:
        self.calls.put(call)
        return answer

    def next(self) -> Call:
        return self.calls.get(timeout=SECONDS)
