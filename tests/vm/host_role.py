# SPDX-License-Identifier: LGPL-2.1-or-later
"""pytest's half on the host: sends all selected VM tests into one boot, reports each as if it ran here."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import pytest

from tests.vm import boot
from tests.vm.checkout import ROOT
from tests.vm.image import ImageError, missing_packages
from tests.vm.marking import Request
from tests.vm.protocol import Bye, Event, Finished, Group, Job, Output, Report, Started
from tests.vm.recipe import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Sequence

OUTPUT_CHARACTERS = 3000


@dataclass(frozen=True, slots=True)
class Crash:
    """Where a test failed in the guest; pytest's summary line shows `message`."""

    path: str
    lineno: int
    message: str


@dataclass(frozen=True, slots=True)
class GuestTraceback:
    """A traceback that came as text, in the shape in which pytest prints one of its own."""

    text: str
    reprcrash: Crash

    def toterminal(self, tw: Any) -> None:
        for line in self.text.splitlines():
            tw.line(line, red=line.startswith("E "))

    def __str__(self) -> str:
        return self.text


class HostRole:
    """The plugin that the conftest registers on the host."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.guest: boot.Guest | None = None
        self.scope = contextlib.ExitStack()
        self.reports: dict[str, list[Report]] = {}
        self.finished: set[str] = set()
        self.output = ""
        self.told: set[str] = set()
        self.epitaph: str | None = None
        """Why no more results will come; None while they may."""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """VM tests run last and in the order of the guest, so that each is reported when it is done."""
        items.sort(key=_order)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        """Instead of setup, call and teardown: what the guest said about them."""
        if item.get_closest_marker("vm") is None:
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self.outcome(item):
            item.ihook.pytest_runtest_logreport(report=as_test_report(item, report))
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Hear the guest out for its saved files; after -x or Ctrl-C just end it."""
        stopped = session.shouldfail or session.shouldstop
        while self.guest is not None and self.epitaph is None and not stopped:
            self.hear()
        self.scope.close()

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.guest is not None:
            terminalreporter.write_line(f"guest's console, journal and output: {self.guest.folder}")

    def outcome(self, item: pytest.Item) -> list[Report]:
        """Wait for the reports of one test; make one up if none will come."""
        nodeid = guest_nodeid(item)
        if missing := missing_packages():
            outcome = "failed" if os.environ.get("CI") else "skipped"
            reason = f"no guest without Debian packages: try `apt-get install {' '.join(missing)}`"
            return [Report(nodeid, "setup", outcome, reason, (str(item.path), 0, reason))]
        if self.guest is None and self.epitaph is None:
            self.start(item.session.items)
        while nodeid not in self.finished and self.epitaph is None:
            self.hear()
        if nodeid in self.finished:
            return self.reports[nodeid]
        return [*self.reports.get(nodeid, ()), self.made_up(nodeid)]

    def start(self, items: Sequence[pytest.Item]) -> None:
        """Boot the one guest of this session with all tests that are selected for it."""
        try:
            self.guest = self.scope.enter_context(boot.booted(Job(groups(items))))
        except ImageError as error:
            self.epitaph = str(error)

    def hear(self) -> None:
        """Take in one event of the guest."""
        assert self.guest is not None
        try:
            event = self.guest.next_event()
        except boot.GuestDiedError as error:
            self.epitaph = str(error)
            return
        self.take(event)

    def take(self, event: Event | None) -> None:
        match event:
            case Started():
                self.output = ""
            case Report():
                self.reports.setdefault(event.nodeid, []).append(event)
            case Finished():
                self.finished.add(event.nodeid)
            case Output():
                self.output = (self.output + event.text)[-OUTPUT_CHARACTERS:]
            case Bye():
                self.epitaph = "the guest ran everything else but not this test: look for an import that fails there"
            case None:
                assert self.guest is not None
                self.epitaph = (
                    f"the guest ended in the middle of its work; look into {self.guest.folder}\n"
                    + self.guest.console_tail()
                )

    def made_up(self, nodeid: str) -> Report:
        """The report of a test that the guest never finished."""
        path = nodeid.partition("::")[0]
        epitaph = self.epitaph or ""
        parts = [epitaph, *(report.text for report in self.reports.get(path, ()))]
        if self.output:
            parts += ["--- pytest in the guest printed ---", self.output]
        text = "\n".join(parts)
        message = epitaph.partition("\n")[0]
        if epitaph in self.told:
            text = f"{message}\n(console and output: see the first test that failed of this)"
        self.told.add(epitaph)
        return Report(nodeid, "call", "failed", text, (path, 0, message))


def guest_nodeid(item: pytest.Item) -> str:
    """The id in the guest, whose root is the checkout, whatever pytest's root is here."""
    return f"{item.path.relative_to(ROOT).as_posix()}::{item.nodeid.partition('::')[2]}"


def user_and_request(item: pytest.Item) -> tuple[str, Request]:
    request = Request.from_marks(mark.kwargs for mark in item.iter_markers("vm"))
    return cast("str", cast("Any", item).callspec.params["vm_user"]), request


def _order(item: pytest.Item) -> tuple[int, int]:
    if item.get_closest_marker("vm") is None:
        return (-1, 0)
    user, request = user_and_request(item)
    return request.order(user)


def groups(items: Sequence[pytest.Item]) -> tuple[Group, ...]:
    """The VM tests among `items` by user and swap, in the order in which they stand."""
    found: dict[tuple[str, str | None], list[str]] = {}
    for item in items:
        if item.get_closest_marker("vm") is not None:
            user, request = user_and_request(item)
            found.setdefault((user, request.swap), []).append(guest_nodeid(item))
    return tuple(Group(user, swap, tuple(nodeids)) for (user, swap), nodeids in found.items())


def as_test_report(item: pytest.Item, report: Report) -> pytest.TestReport:
    """pytest's own report, made from the guest's."""
    longrepr: Any = None
    if report.outcome == "skipped" and report.crash is not None:
        path, line, reason = report.crash
        longrepr = (path.replace(CHECKOUT, str(ROOT), 1), line, reason)
    elif report.outcome == "failed" or report.text:
        first = report.text.partition("\n")[0]
        longrepr = GuestTraceback(report.text, Crash(*(report.crash or (str(item.path), 0, first))))
    extra: dict[str, Any] = {} if report.wasxfail is None else {"wasxfail": report.wasxfail}
    return pytest.TestReport(
        nodeid=item.nodeid,
        location=item.location,
        keywords=dict.fromkeys(item.keywords, 1),
        outcome=cast("Literal['passed', 'failed', 'skipped']", report.outcome),
        longrepr=longrepr,
        when=cast("Literal['setup', 'call', 'teardown']", report.when),
        sections=report.sections,
        duration=report.duration_seconds,
        **extra,
    )
