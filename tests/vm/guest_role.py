# SPDX-License-Identifier: LGPL-2.1-or-later
"""pytest's half inside the guest: runs the selected tests, each under a limit, and tells what happens.

Has to work with Debian 12's pytest 7.2.1.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.vm.marking import Request
from tests.vm.protocol import Event, Finished, Report, Started, encode

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path
    from types import FrameType

GRACE_SECONDS = 15
"""Between the alarm, which only Python code hears, and the end of a process that did not hear it."""


class GuestRole:
    """The plugin that the conftest registers in the guest."""

    def __init__(self, run: Path) -> None:
        self.selection: set[str] = set(json.loads((run / "selection.json").read_text()))
        self.events = os.open(run / "events", os.O_WRONLY | os.O_CLOEXEC)
        self.stacks = (run / "stacks").open("w")
        signal.signal(signal.SIGALRM, _ring)

    def send(self, event: Event) -> None:
        """Write one line; a FIFO takes more than 4096 bytes in pieces."""
        data = encode(event)
        while data:
            data = data[os.write(self.events, data) :]

    def pytest_unconfigure(self) -> None:
        self.stacks.close()
        os.close(self.events)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        dropped = [item for item in items if item.nodeid not in self.selection]
        items[:] = [item for item in items if item.nodeid in self.selection]
        config.hook.pytest_deselected(items=dropped)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.send(Report(report.nodeid, "collect", "failed", report.longreprtext))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> None:
        three_phases = 3 * (limit_seconds(item) + GRACE_SECONDS) + 30
        self.send(Started(item.nodeid, three_phases))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.send(as_report(report))

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self.send(Finished(nodeid))

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, None, None]:
        with self.limited(item):
            yield

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, None, None]:
        with self.limited(item):
            yield

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, None, None]:
        with self.limited(item):
            yield

    @contextlib.contextmanager
    def limited(self, item: pytest.Item) -> Iterator[None]:
        """Fail what runs longer than the test's limit; end pytest with all stacks if it cannot be failed.

        The alarm's exception needs the interpreter: a pydbus call without timeout never gives it back.
        """
        seconds = limit_seconds(item)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        faulthandler.dump_traceback_later(seconds + GRACE_SECONDS, exit=True, file=self.stacks)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            faulthandler.cancel_dump_traceback_later()


def _ring(_signal: int, _frame: FrameType | None) -> None:
    __tracebackhide__ = True
    pytest.fail("ran into its time limit: if it has to take so long, try @pytest.mark.vm(timeout=...)")


def limit_seconds(item: pytest.Item) -> float:
    return Request.from_marks(mark.kwargs for mark in item.iter_markers("vm")).timeout


def as_report(report: pytest.TestReport) -> Report:
    """What of a report crosses the line: text and numbers, nothing that needs pytest's classes to be read."""
    longrepr: Any = report.longrepr
    crash: tuple[str, int, str] | None = None
    text = report.longreprtext
    if isinstance(longrepr, tuple):
        crash = (str(longrepr[0]), int(longrepr[1]), str(longrepr[2]))
        text = crash[2]
    elif where := getattr(longrepr, "reprcrash", None):
        crash = (str(where.path), int(where.lineno), str(where.message))
    return Report(
        nodeid=report.nodeid,
        when=report.when,
        outcome=report.outcome,
        text=text,
        crash=crash,
        sections=tuple((name, content) for name, content in report.sections),
        duration_seconds=report.duration,
        wasxfail=getattr(report, "wasxfail", None),
    )
