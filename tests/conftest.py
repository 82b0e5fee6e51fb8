# SPDX-License-Identifier: LGPL-2.1-or-later
"""What all tests share: memory hogs that say when they are ready, and the rule that CI skips nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING

import pytest

from tests.bus.private_bus import PrivateBus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from _pytest.terminal import TerminalReporter  # pytest names it itself from 8.2 on, and Debian 12 has 7.2

# Started by nohup or by a shell's `&`, what these ignore is ignored by all children, and their tests wait in vain. A
# handler ends with the exec: so children have the default, and we are deaf as before.
for _number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, lambda _number, _frame: None)

if "SLICEMGR_VM_GUEST" not in os.environ:  # There it takes 3 s to import, and no test needs it.
    from hypothesis import HealthCheck, settings

    settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("busy")

HOG = str(Path(__file__).parent / "hog.py")


class Hog:
    """A running tests/hog.py that has reached its start size, and holds it until it is let go."""

    def __init__(self, *arguments: str) -> None:
        ready, told = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, HOG, "--until-eof", "--ready", str(told), *arguments],
            stdin=subprocess.PIPE,
            pass_fds=[told],
        )
        os.close(told)
        with os.fdopen(ready) as lines:
            told_pid = lines.readline()
        if not told_pid:
            self.stdin.close()
            raise RuntimeError(f"the hog ended with {self.process.wait()} before it was ready: {arguments}")
        self.pid = int(told_pid)
        """Its own pid; the daemonised one's with --daemonise."""

    @property
    def stdin(self) -> IO[bytes]:
        assert self.process.stdin is not None
        return self.process.stdin

    def let_go(self) -> int:
        """End it in peace, and collect it."""
        if not self.stdin.closed:
            self.stdin.close()
        return self.process.wait()


@pytest.fixture(scope="session", autouse=True)
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Children keep there what they learn of builds, and their launchers; their history as well, if they are a user's.

    root's history obeys no variable: see tests/cli/entry_point.py. In the guest there is no home to be spared, and what
    runs there by itself is to find what the tests have left.
    """
    if "SLICEMGR_VM_GUEST" in os.environ:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture
def hog() -> Iterator[Callable[..., Hog]]:
    """Start hogs; all are gone after the test."""
    with ExitStack() as stack:

        def start(*arguments: str) -> Hog:
            started = Hog(*arguments)
            stack.callback(started.let_go)
            return started

        yield start


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[PrivateBus]:
    """A bus of one's own; it runs."""
    made = PrivateBus(tmp_path)
    made.start()
    yield made
    made.kill()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Under CI a skipped test is a test that nobody ran."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter is not None else []
    if skipped and os.environ.get("CI") and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """Say why the run has failed then."""
    skipped = terminalreporter.stats.get("skipped", [])
    if skipped and os.environ.get("CI"):
        terminalreporter.write_line(f"{len(skipped)} skipped under CI, which counts as a failure", red=True)
