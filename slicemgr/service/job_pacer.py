# SPDX-License-Identifier: LGPL-2.1-or-later
"""Everything that the pacer of one job needs, made for a job where it has been put. Imported in the pacer's thread."""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from slicemgr.build.signature import signature_of
from slicemgr.kernel.births import Births
from slicemgr.kernel.cgroupfs import CgroupDir
from slicemgr.kernel.hold import HeldProcess
from slicemgr.kernel.machine import MachineReader
from slicemgr.model.pacing import PacingSettings
from slicemgr.model.source import JobSource
from slicemgr.model.step import StepState
from slicemgr.service.holding import Outliver
from slicemgr.service.job_budget import Budget, JobBudget
from slicemgr.service.last_resort import LastResort
from slicemgr.service.live_step import LiveStep
from slicemgr.service.pacer import Pacer, Shortage
from slicemgr.service.pacing_tally import PacingSummary
from slicemgr.service.report import Report
from slicemgr.service.step_memory import RememberedSteps
from slicemgr.service.step_watch import StepWatch
from slicemgr.service.token_count import TokenCount, Tokens
from slicemgr.service.tree_use import TreeUse


class Marks(Protocol):
    """See build/launcher.py."""

    def mark_killed(self, ancestor_pids: Sequence[int]) -> None: ...
    def is_again(self, ancestor_pids: Sequence[int]) -> bool: ...
    def set_near(self, is_near: bool) -> None: ...


@dataclass(frozen=True, slots=True)
class PacedJob:
    """The job that is to be paced."""

    pid: int
    """The command; it never waits."""
    cgroup: str | None
    source: JobSource | None
    """Where it is a process tree."""
    limit_bytes: int | None
    """Of a process tree."""
    directory: str
    """Where the command runs."""
    spares: frozenset[int]
    """Pids of ours among its processes."""
    outliver: Outliver | None
    tokens: Tokens | None
    marks: Marks | None
    is_agent: bool
    """The command is a program that a person talks to."""
    ceiling: int | None
    allowance: Callable[[], int | None]
    """What the daemon lets it have."""
    need: Callable[[int, int, bool], None]
    """Tells the daemon: held, wanted, and whether somebody waits."""
    borrow: Callable[[int], bool]
    """Raises its limits by so many bytes."""

    def without_holding(self) -> "PacedJob":
        """To learn from its steps alone."""
        return replace(self, outliver=None, tokens=None)


class JobPacer:
    """The pacer, and what belongs to it. Made, used and finished in one thread."""

    def __init__(
        self,
        job: PacedJob,
        settings: PacingSettings,
        *,
        steps_path: str,
        report: Callable[[Report], None],
        failed: Callable[[Exception], None],
    ) -> None:
        """Raises KernelError if the job can't be read, OSError."""
        self._job = job
        self._is_near = False
        self._began_cpu_seconds = time.thread_time()
        with contextlib.ExitStack() as opened:  # Where one of them fails, the others are closed.
            self._births = Births()
            opened.callback(self._births.close)
            self._machine = MachineReader()
            opened.callback(self._machine.close)
            self._cgroup = None if job.cgroup is None else CgroupDir.open(job.cgroup)
            if self._cgroup is not None:
                opened.callback(self._cgroup.close)
            self._memory = RememberedSteps(steps_path, failed, directory=job.directory)
            opened.callback(self._memory.close)
            cgroup, source = job.cgroup or "", job.source
            place = source if source is not None else self._cgroup
            assert place is not None, "a job is in a cgroup, or a process tree"  # noqa: S101 - for mypy
            self._watch = StepWatch(
                place.members,
                root_pid=job.pid,
                hold=lambda identity: HeldProcess(identity, cgroup),
                sign=signature_of,
                spared=settings.never_hold,
                spares=job.spares,
                root_is_agent=job.is_agent,
            )
            self._tree_use = None if source is None else TreeUse(self._watch, source, job.limit_bytes)
            self._budget = JobBudget(
                job.cgroup,
                reserve_bytes=settings.reserve_bytes,
                limit_bytes=job.limit_bytes,
                held=self._tree_use or (lambda: 0),
                allowance=job.allowance,
            )
            opened.callback(self._budget.close)
            self._closing = opened.pop_all()
        self._last_resort = LastResort(
            borrow=lambda: self._borrow(settings.borrow_bytes),
            reclaim=None if job.cgroup is None else partial(_reclaim, job.cgroup),
            free_swap=lambda: self._machine.reading().swap_free_bytes,
            ancestors_of=self._watch.ancestors_of,
            mark_killed=(lambda ancestors: None) if job.marks is None else job.marks.mark_killed,
            report=report,
        )
        self._tokens = None if job.tokens is None else TokenCount(job.tokens, self._watch, job.pid)
        self.pacer = Pacer(
            self._watch,
            self._births.since_last,
            self._budget.read,
            outliver=job.outliver,
            memory=self._memory,
            runs_again=(lambda ancestors: False) if job.marks is None else job.marks.is_again,
            last_resort=self._short,
            planned=self._planned,
            ceiling=job.ceiling,
        )

    def finish(self, now_seconds: float) -> PacingSummary:
        """Resume all, keep what was learnt, let go of everything."""
        try:
            summary = self.pacer.finish(now_seconds)
            cpu_seconds = time.thread_time() - self._began_cpu_seconds
            return replace(summary, cpu_seconds=cpu_seconds, may_hold=self._job.outliver is not None)
        finally:
            self._closing.close()

    def _short(self, shortage: Shortage) -> None:
        """Nobody is killed for a sum that counts what forked workers share for each of them."""
        if self._tree_use is not None and shortage.is_sure:
            lacking = shortage.short_bytes - self._tree_use.overstated_now()
            if lacking <= 0:
                return
            shortage = replace(shortage, short_bytes=lacking)
        self._last_resort(shortage)

    def _borrow(self, size_bytes: int) -> int:
        if not size_bytes or not self._job.borrow(size_bytes):
            return 0
        self._budget.raise_limit(size_bytes)
        return size_bytes

    def mark_killed(self, pid: int) -> None:
        """A guard is about to kill this one, or has just done so. From any thread."""
        step = self.pacer.steps.get(pid)
        if step is not None:
            step.is_whole = False
        if self._job.marks is not None:
            with contextlib.suppress(OSError):
                self._job.marks.mark_killed(self._watch.ancestors_of(pid))

    def _planned(self, steps: Mapping[int, LiveStep], budget: Budget) -> None:
        waiting = [step for step in steps.values() if step.is_held]
        running = len(steps) - len(waiting)
        new = [step.held_bytes for step in waiting if step.state is StepState.NEW]
        wanted = budget.used_bytes + sum(
            max(0, step.profile.peak_bytes - step.held_bytes)
            for step in steps.values()
            if step.profile is not None and not step.is_held
        )
        if self._job.marks is not None and self._is_near != self.pacer.is_near:
            self._is_near = self.pacer.is_near
            with contextlib.suppress(OSError):
                self._job.marks.set_near(self._is_near)
        self._job.need(budget.used_bytes, wanted, bool(waiting))
        if self._tokens is not None:
            self._tokens.look(running, new, budget.budget_bytes, is_near=self.pacer.is_near)


def _reclaim(cgroup: str, amount: int) -> None:
    """By a descriptor of its own: the pacer may be finished, and its own closed, before this has begun."""
    with CgroupDir.open(cgroup) as opened:
        opened.reclaim(amount)
