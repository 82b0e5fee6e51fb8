# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is done when not even one step fits: in this order, to real children, and never to anybody else."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, cast

import pytest

from slicemgr.kernel import kill
from slicemgr.kernel.errors import CgroupRefusedError, NotPermittedError, ProcessGoneError
from slicemgr.kernel.hold import HeldProcess
from slicemgr.model.decision import Evidence
from slicemgr.model.process import ProcessIdentity
from slicemgr.model.step import StepState
from slicemgr.service import last_resort as last_resort_module
from slicemgr.service.job_budget import Budget
from slicemgr.service.last_resort import LEAST_PUSHED_BYTES, LastResort
from slicemgr.service.live_step import LiveStep
from slicemgr.service.pacer import Shortage
from slicemgr.service.report import KillOutcome, KillReport
from slicemgr.service.worker import Worker
from tests.service.step_samples import MIB, FakeFiles
from tests.service.waiting_child import WaitingChild, waiting_child

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from slicemgr.kernel.step_files import StepFiles
    from slicemgr.service.report import Report

GIB = 1 << 30


class RealStep(LiveStep):
    """A real child that holds what the test says."""

    def __init__(
        self, order: int, child: WaitingChild, mib: int, *, ran: float, is_running: bool, cgroup: str = ""
    ) -> None:
        self.child = child
        files = FakeFiles()
        files.bytes = mib * MIB
        super().__init__(
            order, child.identity, "cat", HeldProcess(child.identity, cgroup), cast("StepFiles", files), 0.0
        )
        self.enter(StepState.RUNNING, 0.0)
        self.measure(0.0)
        self.ran_seconds = ran
        if not is_running:
            assert self.process.stop()
            child.wait_until_stopped()
            self.is_held = True
            self.enter(StepState.WAITING, ran)

    @property
    def lives(self) -> bool:
        """Nobody has killed it."""
        return os.waitid(os.P_PID, self.child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


class Cgroup:
    """What may be pushed out of it, and how often that was tried."""

    def __init__(self, raises: Exception | None = None) -> None:
        self.asked: list[int] = []
        self.raises = raises
        self.may_end = threading.Event()
        self.may_end.set()

    def reclaim(self, amount: int) -> bool:
        self.asked.append(amount)
        self.may_end.wait()
        if self.raises is not None:
            raise self.raises
        return True


class Job:
    """Its steps, and all that may be done for it."""

    def __init__(self, stack: ExitStack) -> None:
        self.stack = stack
        self.done: list[str] = []
        self.reports: list[Report] = []
        self.marked: list[Sequence[int]] = []
        self.borrowed = 0
        self.swap: list[int] = [0]
        self.cgroup: Cgroup | None = None
        self.steps: list[RealStep] = []
        self.mark: Callable[[Sequence[int]], None] = self._mark
        self.now = 100.0
        self.resort: LastResort | None = None

    def step(self, mib: int, *, ran: float = 1.0, is_running: bool = False, cgroup: str = "") -> RealStep:
        """One more, with a child of its own."""
        child = self.stack.enter_context(waiting_child())
        step = RealStep(len(self.steps), child, mib, ran=ran, is_running=is_running, cgroup=cgroup)
        self.stack.callback(step.close)
        self.steps.append(step)
        return step

    def _borrow(self) -> int:
        self.done.append("borrow")
        return self.borrowed

    def _mark(self, ancestors: Sequence[int]) -> None:
        self.done.append(f"mark {'dead' if not all(step.lives for step in self.steps) else 'living'}")
        self.marked.append(ancestors)

    def _report(self, report: Report) -> None:
        self.done.append("report")
        self.reports.append(report)

    def _free_swap(self) -> int:
        return self.swap.pop(0) if len(self.swap) > 1 else self.swap[0]

    def short_of(self, mib: int, *, is_sure: bool = True) -> None:
        """The pacer says so."""
        if self.resort is None:
            self.resort = LastResort(
                borrow=self._borrow,
                reclaim=None if self.cgroup is None else self.cgroup.reclaim,
                free_swap=self._free_swap,
                ancestors_of=lambda pid: [pid + 1, 7],
                mark_killed=lambda ancestors: self.mark(ancestors),  # noqa: PLW0108 - what stands there then
                report=self._report,
                clock=lambda: self.now,
            )
        living = {step.identity.pid: step for step in self.steps}
        self.resort(Shortage(living, mib * MIB, Budget(GIB, GIB - MIB), is_sure=is_sure))

    def pushed(self) -> None:
        """Wait until what was begun to be pushed out is."""
        assert self.resort is not None
        self.resort._pusher.finish()
        self.resort._pusher = Worker("reclaim")

    @property
    def killed(self) -> list[int]:
        """By age."""
        return [step.order for step in self.steps if not step.lives]

    def report(self) -> KillReport:
        """The only one."""
        (report,) = self.reports
        assert isinstance(report, KillReport)
        return report


@pytest.fixture
def job() -> Iterator[Job]:
    with ExitStack() as stack:
        yield Job(stack)


def test_first_it_borrows(job: Job) -> None:
    """Once; what comes of it is seen before anything else is done."""
    job.borrowed = MIB
    job.step(100, is_running=True)
    job.step(50)
    job.short_of(10)
    assert (job.done, job.killed) == (["borrow"], [])
    job.short_of(10)
    assert job.done.count("borrow") == 1
    assert job.killed == [1]


def test_it_borrows_before_it_is_sure(job: Job) -> None:
    """Nobody is killed for a moment; and it does so once."""
    job.short_of(100, is_sure=False)
    job.short_of(100, is_sure=False)
    assert (job.done, job.killed) == (["borrow"], [])


def test_nothing_may_be_borrowed(job: Job) -> None:
    """Then the next thing is done at once."""
    job.step(100, is_running=True)
    job.step(50)
    job.short_of(10)
    assert job.done == ["borrow", "mark living", "report"]


def test_then_it_pushes_out_while_that_helps(job: Job) -> None:
    """And only then somebody ends."""
    job.cgroup = Cgroup()
    job.swap = [1000 * MIB, 900 * MIB, 800 * MIB, 799 * MIB]
    job.step(100, is_running=True)
    job.step(50)
    for _ in range(3):
        job.short_of(10)
        job.pushed()
        assert job.killed == []
    assert job.cgroup.asked == [10 * MIB] * 3
    job.short_of(10)
    assert job.killed == [1]


@pytest.mark.parametrize("free", [0, LEAST_PUSHED_BYTES - 1])
def test_no_swap(job: Job, free: int) -> None:
    job.cgroup = Cgroup()
    job.swap = [free]
    job.step(100, is_running=True)
    job.step(50)
    job.short_of(10)
    assert job.cgroup.asked == []
    assert job.killed == [1]


def test_while_it_pushes_nothing_else_is_done(job: Job) -> None:
    """It takes seconds where the swap is slow."""
    job.cgroup = Cgroup()
    job.swap = [1000 * MIB]
    job.cgroup.may_end.clear()
    job.step(100, is_running=True)
    job.step(50)
    for _ in range(5):
        job.short_of(1)
    job.cgroup.may_end.set()
    job.pushed()
    assert job.cgroup.asked == [LEAST_PUSHED_BYTES]
    assert job.killed == []


@pytest.mark.parametrize("error", [CgroupRefusedError("/a", "reclaim memory of", 95), OSError(2, "no such file")])
def test_a_kernel_that_cant(job: Job, error: Exception) -> None:
    """Before 5.19: nothing comes of it, so that the next question ends somebody."""
    job.cgroup = Cgroup(error)
    job.swap = [1000 * MIB]
    job.step(100, is_running=True)
    job.step(50)
    job.short_of(10)
    job.pushed()
    assert job.killed == []
    job.short_of(10)
    assert job.killed == [1]


def test_no_thread_is_to_be_had(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full process table: then it can't push, and somebody ends."""

    def fail(worker: Worker, call: Callable[[], None]) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(Worker, "do", fail)
    job.cgroup = Cgroup()
    job.swap = [1000 * MIB]
    job.step(100, is_running=True)
    job.step(50)
    job.short_of(10)
    assert job.killed == [1]


@pytest.mark.parametrize(
    ("waiting", "short", "killed"),
    [
        # The least work lost of those that suffice.
        ([(50, 9.0), (50, 1.0), (50, 5.0)], 40, [2]),
        ([(50, 9.0), (10, 1.0), (50, 5.0)], 40, [3]),
        ([(50, 9.0), (50, 1.0), (50, 5.0)], 90, [2, 3]),
        ([(50, 9.0), (50, 1.0), (50, 5.0)], 150, [1, 2, 3]),
        # Not even all of them suffice: it does not fit alone, and their end would help nobody.
        ([(50, 9.0), (50, 1.0)], 101, [0]),
        ([], 1, [0]),
        ([(50, 1.0)], 0, []),
    ],
)
def test_who_ends(job: Job, waiting: list[tuple[int, float]], short: int, killed: list[int]) -> None:
    """Stopped or not: SIGKILL waits for nobody."""
    job.step(100, is_running=True)
    for mib, ran in waiting:
        job.step(mib, ran=ran)
    job.short_of(short)
    assert job.killed == killed
    assert [step.order for step in job.steps if not step.is_whole] == killed
    assert len(job.reports) == len(killed)
    for step in job.steps:
        if step.order in killed:
            assert step.child.process.wait() == -signal.SIGKILL


def test_the_launcher_is_told_first(job: Job) -> None:
    """It looks when its child has ended: then the mark has to be there."""
    job.step(100, is_running=True)
    victim = job.step(50)
    job.short_of(10)
    assert job.done == ["borrow", "mark living", "report"]
    assert job.marked == [[victim.identity.pid + 1, 7]]
    report = job.report()
    assert report.victim.identity == victim.identity
    assert report.shortage.evidence is Evidence.NO_STEP_FITS
    assert report.outcome is KillOutcome.EXITED
    assert (report.was_alone, report.held_bytes) == (False, 50 * MIB)
    assert [sample.pid for sample, _ in report.runners_up] == [job.steps[0].identity.pid]


def test_one_that_is_too_big_does_not_come_again(job: Job) -> None:
    """It would not fit the next time either."""
    job.step(900, is_running=True)
    job.short_of(500)
    assert job.marked == []
    report = job.report()
    assert report.shortage.evidence is Evidence.ALONE
    assert report.was_alone
    assert job.killed == [0]


def test_beside_another_that_runs_it_is_not_too_big(job: Job) -> None:
    """One that could not be stopped runs too; who ends for another comes again."""
    job.step(100, is_running=True)
    job.step(50, is_running=True)
    job.short_of(10)
    assert job.killed == [1]
    assert job.report().shortage.evidence is Evidence.NO_STEP_FITS
    assert len(job.marked) == 1


def test_marks_that_cant_be_made(job: Job) -> None:
    """It ends all the same, or the build would stand for ever."""

    def fail(ancestors: Sequence[int]) -> None:
        raise OSError(28, "No space left on device")

    job.mark = fail
    job.step(100, is_running=True)
    job.step(50)
    job.short_of(10)
    assert job.killed == [1]
    assert len(job.reports) == 1


def test_it_has_ended_by_itself(job: Job) -> None:
    """Nobody else is killed for it in this moment, and nobody is said to have been."""
    job.step(100, is_running=True)
    for end in (WaitingChild.end, WaitingChild.be_gone):
        victim = job.step(50)
        end(victim.child)
        job.short_of(10)
        assert job.reports == []
        job.steps.remove(victim)
    assert job.killed == []


def test_the_number_is_another_one_s(job: Job) -> None:
    """Whoever it is, it is not killed; and neither is it marked as if it had been."""
    job.step(100, is_running=True)
    victim = job.step(50)
    victim.child.be_gone()
    stranger = job.stack.enter_context(waiting_child())
    victim.identity = victim.process.identity = ProcessIdentity(stranger.pid, victim.identity.start_ticks - 1)
    job.short_of(10)
    assert (job.reports, job.marked) == ([], [])
    stranger.answer()
    with pytest.raises(ProcessGoneError):
        HeldProcess(victim.identity)


def test_it_has_left_the_job(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Moved elsewhere since it was looked at, it is another job's."""
    place = "/build.slice/a.scope"
    monkeypatch.setattr(kill, "cgroup_of", lambda pid: place)
    job.step(100, is_running=True, cgroup="/build.slice/a.scope")
    job.step(50, cgroup="/build.slice/a.scope")
    place = "/user.slice"
    job.short_of(10)
    assert job.killed == []
    assert job.reports == []


def test_not_ours_to_kill(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """sudo's child."""
    job.step(100, is_running=True)
    victim = job.step(50)

    def refuse() -> None:
        raise NotPermittedError(victim.identity.pid, "signal")

    monkeypatch.setattr(victim.process, "kill", refuse)
    job.short_of(10)
    assert job.reports == []
    assert victim.is_whole


def test_one_that_does_not_end(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no signal reaches it, on a dead file server: it frees nothing, so the next one has to; and it is told
    once."""
    monkeypatch.setattr(last_resort_module, "EXIT_SECONDS", 0.0)
    job.step(100, is_running=True)
    job.step(60, ran=9.0)
    stuck = job.step(50, ran=1.0)
    monkeypatch.setattr(stuck.process, "kill", lambda: None)
    job.short_of(10)
    assert job.report().outcome is KillOutcome.STILL_THERE
    job.short_of(10)
    assert [cast("KillReport", each).victim.identity for each in job.reports] == [
        stuck.identity,
        job.steps[1].identity,
    ]
