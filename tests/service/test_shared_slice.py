# SPDX-License-Identifier: LGPL-2.1-or-later
"""Two jobs, a daemon in a process of its own, and what each may hold: also when the daemon is killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from slicemgr.service import daemon_link
from slicemgr.service.daemon_link import DaemonLink
from slicemgr.service.job_budget import NEWCOMER_SECONDS, Budget, JobBudget
from slicemgr.service.waiting import Waiting
from tests.cgroupfs.fake_tree import MIB, FakeTree

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent.parent
SLICE = "/build.slice"
JOBS = [f"{SLICE}/slicemgr-{name}-7.scope" for name in ("first", "second")]


class Job:
    """One `slicemgr run`, as far as it shares."""

    def __init__(self, cgroup: str, mount: str, meminfo: Path) -> None:
        self.cgroup = cgroup
        self.waiting = Waiting()
        self.allowance: int | None = None
        self.lost = False
        self.link = DaemonLink(self.waiting, lambda report: None, self._lose, budget=self._allow)
        self.budget = JobBudget(
            cgroup, reserve_bytes=0, allowance=lambda: self.allowance, mount=mount, meminfo=str(meminfo)
        )
        self.budget.read(0.0)

    def _allow(self, allowance: int | None) -> None:
        self.allowance = allowance

    def _lose(self) -> None:
        self.lost = True

    def watched(self, path: str) -> None:
        assert self.link.open(path, self.cgroup)
        while not self.link.is_watching:
            self.waiting.wait()

    def told(self, mib: int | None) -> None:
        """Wait until it has heard this."""
        while self.allowance != (None if mib is None else mib * MIB):
            self.waiting.wait()

    def may_hold(self) -> tuple[int, bool]:
        """In MiB, long after it has begun; and whether others hold some of it."""
        budget: Budget = self.budget.read(NEWCOMER_SECONDS + 1)
        return budget.budget_bytes // MIB, budget.is_shared

    def close(self) -> None:
        self.link.finish(linger=False)
        self.budget.close()


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeTree:
    (tmp_path / "mount").mkdir()
    made = FakeTree(tmp_path / "mount", monkeypatch)
    made.add(SLICE, max=1000 * MIB)
    for path in JOBS:
        made.add(path)
    return made


@pytest.fixture
def daemon(tree: FakeTree, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.service.sharing_daemon", tree.mount, str(tmp_path / "s/control")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "listening\n"
        yield process
        process.kill()


def test_a_daemon_and_none(
    daemon: subprocess.Popen[str], tree: FakeTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the daemon each has the half. When it is killed what they hold is divided, with half of the rest for each."""
    monkeypatch.setattr(daemon_link, "NEED_SECONDS", 0.0)
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemTotal: {1 << 30} kB\nMemAvailable: {1 << 30} kB\n")
    first, second = jobs = [Job(path, tree.mount, meminfo) for path in JOBS]
    for job in jobs:
        job.watched(str(tmp_path / "s/control"))
    first.link.need(0, 0, True)
    first.told(1000)
    second.link.need(0, 0, True)
    first.told(500)
    second.told(500)
    assert [job.may_hold() for job in jobs] == [(500, True), (500, True)]
    tree.groups[JOBS[0]].anon = 700 * MIB
    tree.sync()
    second.link.need(1, 1, True)
    first.told(700)
    second.told(300)
    daemon.kill()
    for job in jobs:
        job.told(None)
        assert job.lost
    # The second one holds nothing yet, and counts all the same: else the first would take all but the spare.
    assert [job.may_hold()[0] for job in jobs] == [818, 300]
    tree.groups[JOBS[1]].anon = 250 * MIB
    tree.sync()
    assert [job.budget.read(NEWCOMER_SECONDS + 2).budget_bytes // MIB for job in jobs] == [693, 300]
    for job in jobs:
        job.close()
