# SPDX-License-Identifier: LGPL-2.1-or-later
"""One job from start to end: a command, whoever guards it, and the report when both are done.

Light, see model/quantity.py: what `slicemgr run -- true` needs is here; everything else is imported by who needs it.
In a cgroup the kernel holds the job at its limit, so its guard may come a little later, or be a daemon's; a process
tree is held by nobody, so its guard is there before the command is let go.
"""

from __future__ import annotations

import time

from slicemgr.kernel.errors import CgroupGoneError
from slicemgr.kernel.job_figures import JobFigures
from slicemgr.model.quantity import NoLimit
from slicemgr.placement.backend import CGROUPS
from slicemgr.policy.limits import high_below
from slicemgr.service.daemon_link import DaemonLink
from slicemgr.service.guardian import keeper
from slicemgr.service.job_news import JobNews
from slicemgr.service.job_pacing import JobPacing
from slicemgr.service.job_report import JobReport
from slicemgr.service.precedence import go_before
from slicemgr.service.waiting import Waiting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Final

    from slicemgr.model.source import JobSource
    from slicemgr.model.spec import JobSpec, PacingRequest
    from slicemgr.placement.backend import JobHandle
    from slicemgr.placement.choose import Choice
    from slicemgr.policy.limits import InBytes
    from slicemgr.service.command import Command
    from slicemgr.service.guard_thread import GuardThread, Watcher
    from slicemgr.service.guardian import Guardian
    from slicemgr.service.report import Report
    from slicemgr.service.tree_guard import TreeGuard

GUARD_AFTER_SECONDS: Final = 0.1
"""A job in a cgroup without a daemon has a guard of its own from then on. To import it takes 60 ms of a core, which a
command of a few milliseconds shall not pay; and to fill a limit of 1 GiB takes a command longer than that (0.25 s at
4 GiB/s). Who is faster is throttled at memory.high, and held at memory.max by the kernel."""


class LimitsNotHeldError(Exception):
    """The job was placed, and the kernel does not hold the limits asked for; the command was not run.

    One line that ends in what to try.
    """


class Job:
    """One job on its way from the request to the report."""

    def __init__(
        self,
        spec: JobSpec,
        limits: InBytes,
        *,
        environment: Mapping[str, str],
        pacing: PacingRequest,
        machine_total_bytes: int,
        daemons: Sequence[tuple[str, str]] = (),
        state: str,
        tell: Callable[[Report], None],
        refused: Callable[[str], None] = lambda why: None,
    ) -> None:
        """`limits`: high, max and swap_max as asked for. `environment`: the command's, but for what pacing adds.

        `daemons`: where one may listen, and the directory of the history that it keeps, the best first. `state`: the
        directory of our history, which is ours to write while no daemon does. `tell` is called in a thread of its own,
        and so is `refused`: with the words of the first daemon that would not guard the job, if none does.
        """
        self._spec = spec
        self._limits = limits
        self._environment = environment
        self._request = pacing
        self._machine_total_bytes = machine_total_bytes
        self._daemons = list(daemons)
        self._state = state
        self._refused = refused
        self._refusal = ""
        self._let_go_seconds = 0.0
        self._waiting = Waiting()
        self._news = JobNews(tell, state, spec.slice_name)
        self._command: Command
        self._keeper: Guardian | None = None
        self._guard: GuardThread | None = None
        self._tree_guard: TreeGuard | None = None
        self._links: list[DaemonLink] = []
        self._is_written = False

    def run(self, choice: Choice, *, placed: Callable[[JobHandle], None]) -> JobReport:
        """Run the command to its end under its limits. `placed` is called once, before it is let go.

        A guard that fails takes nobody with it: the command goes on, and it is said that nobody watches. Raises
        CommandError if the command can't be executed, ForkError if no process can be made, NoBackendError and
        LimitsNotHeldError if it can't be placed as asked.
        """
        pacing = self._pacing = JobPacing(
            self._request, self._spec.command, self._environment, report=self._news.our_own
        )
        try:
            self._command = pacing.make_command(self._waiting)
        except BaseException:
            pacing.finish()
            raise
        handle: JobHandle | None = None
        try:
            self._keeper = keeper()
            self._handle = handle = self._place(choice)
            _require_limits(handle)
            placed(handle)
        except BaseException:
            pacing.finish()
            self._let_keeper_go()
            self._command.give_up()
            if handle is not None:
                handle.release()  # Not before: a cgroup with somebody in it can't be removed (40 of 40 were not).
            raise
        try:
            source = handle.source
            return self._run_in_cgroup() if source is None else self._run_in_tree(source)
        finally:
            pacing.finish()
            self._news.finish()
            self._let_keeper_go()
            handle.release()

    def _place(self, choice: Choice) -> JobHandle:
        spec, (high, limit, swap) = self._spec, self._limits
        if high is None and limit is not None and not isinstance(spec.high, NoLimit):
            high = high_below(limit)
        handle = choice.open_job(
            self._command.pid,
            name=spec.name,
            slice_name=spec.slice_name,
            command=spec.command,
            memory_high=high,
            memory_max=limit,
            memory_swap_max=swap,
            beside=() if self._keeper is None else (self._keeper.pid,),
        )
        self._news.job = handle.unit or spec.name
        if self._keeper is not None and handle.cgroup is not None:
            self._keeper.watch([handle.cgroup])
        if handle.source is None:
            self._limits = high, limit, swap
        return handle

    def _run_in_tree(self, source: JobSource) -> JobReport:
        go_before(self._command.pid)
        guard = self._started_guard()
        if guard is not None:
            guard.wait_until_made()
            # Its first look comes after the exec: until then it would see a copy of ourselves.
            self._waiting.call_later(0.0, guard.begin)
        try:
            job = self._run_command()
        finally:
            self._finish_guard()
        job.peak_bytes = 0 if self._tree_guard is None else self._tree_guard.peak_bytes
        return self._completed(job, source.members)

    def _run_in_cgroup(self) -> JobReport:
        cgroup = self._handle.cgroup or ""
        figures = JobFigures(CGROUPS + cgroup)
        try:
            # When the command is on its way, and not before: to it we are only a delay.
            self._waiting.call_later(0.0, self._find_guard)
            job = self._run_command()
            # Without a keeper at once: the cgroup goes with its last process.
            job.peak_bytes = figures.peak_bytes() or 0
            oom_kills = figures.oom_kills()
            # A kill takes its time to be decided and done: of a short job at no limit there is nothing more to hear.
            has_news = self._elapsed() > GUARD_AFTER_SECONDS or job.exit_signal is not None or figures.has_met_a_limit()
            self._finish_guard()
            job.watched_by = "daemon" if self._was_watched() else None
            for link in self._links:
                link.finish(linger=has_news)
            job.daemon_refusal = self._refusal
            self._news.tell_untold(cgroup, oom_kills, is_written=self._is_written and self._was_watched())
            return self._completed(job, lambda: self._members_of(cgroup, figures))
        finally:
            figures.close()

    def _run_command(self) -> JobReport:
        self._let_go_seconds = time.monotonic()
        guard = lambda: self._tree_guard  # noqa: E731
        self._pacing.start(self._handle, self._command.pid, self._waiting, self._keeper, self._limits[1], guard)
        status = self._command.run()
        job = JobReport(self._handle, self._limits, status)
        job.elapsed_seconds = self._elapsed()
        job.pacing = self._pacing.finish()
        job.was_told_to_end = self._pacing.was_told_to_end
        return job

    def _completed(self, job: JobReport, members: Callable[[], Iterable[int]]) -> JobReport:
        if self._guard is not None and self._guard.watcher is not None:
            job.watched_by = "run"
            job.looks = self._guard.watcher.looks
        job.watching_cpu_seconds = time.process_time()
        if members():
            from slicemgr.service.leftover import left_running

            job.left_running = left_running(members, ended_by_signal=job.exit_signal is not None)
        return job

    def _elapsed(self) -> float:
        return time.monotonic() - self._let_go_seconds

    def _members_of(self, cgroup: str, figures: JobFigures) -> Iterable[int]:
        if not figures.has_others_than(0 if self._keeper is None else self._keeper.pid):
            return ()
        from slicemgr.service.leftover import members_of

        return members_of(cgroup) - {0 if self._keeper is None else self._keeper.pid}

    def _let_keeper_go(self) -> None:
        """It lifts memory.high of what the command has left behind, which nobody guards any more, and ends."""
        if self._keeper is not None:
            self._keeper.lift()
            self._keeper = None

    # Who guards a job that is in a cgroup.

    def _find_guard(self) -> None:
        """A daemon, the first that answers; or else ourselves, if the command takes its time."""
        while self._daemons:
            path, state = self._daemons.pop(0)
            is_written = state == self._state
            # A user's jobs are in the history of the system's daemon too, which is root's: so in ours as well.
            tell = self._news.of_daemon if is_written else self._news.our_own
            report = self._pacing.noting_kills(tell)
            link = DaemonLink(self._waiting, report, lost=self._find_guard, budget=self._pacing.allow)
            if link.open(path, self._handle.cgroup or ""):
                self._links.append(link)
                self._is_written = is_written
                self._pacing.need = link.need
                return
        refusals = [link.refusal for link in self._links if link.refusal]
        if refusals and not self._was_watched():
            self._refusal = refusals[0]
            self._news.no_daemon_took_it(lambda: self._refused(self._refusal))
        self._waiting.call_later(GUARD_AFTER_SECONDS - self._elapsed(), self._guard_it)

    def _was_watched(self) -> bool:
        return any(link.has_watched for link in self._links)

    def _guard_it(self) -> None:
        if not self._command.has_ended and (guard := self._started_guard()) is not None:
            guard.begin()

    def _started_guard(self) -> GuardThread | None:
        from slicemgr.service.guard_thread import GuardThread

        try:
            self._guard = GuardThread(self._make_guard, self._guard_failed)
        except RuntimeError as error:
            self._guard_failed(error)
        return self._guard

    def _make_guard(self) -> Watcher:
        """In the guard's thread."""
        from slicemgr.model.cgroup import MemoryLimits
        from slicemgr.service import job_guard

        handle = self._handle
        if handle.source is None:
            is_new = not self._was_watched()
            return job_guard.cgroup_guard(
                handle.cgroup or "", self._news.our_own, self._pacing.mark_killed, is_new=is_new
            )
        limits = MemoryLimits(*self._limits)
        self._tree_guard = job_guard.tree_guard(
            handle.source, limits, self._machine_total_bytes, self._news.our_own, self._pacing.mark_killed
        )
        return self._tree_guard

    def _guard_failed(self, error: BaseException) -> None:
        if isinstance(error, CgroupGoneError):
            return  # The job has just ended, and its guard was still on its way.
        from slicemgr.service.report import GuardFailedReport

        self._news.our_own(GuardFailedReport(f"{type(error).__name__}: {error}"))

    def _finish_guard(self) -> None:
        if self._guard is not None:
            self._guard.finish()


def _require_limits(handle: JobHandle) -> None:
    if handle.source is None and not handle.limits_in_force:
        raise LimitsNotHeldError(handle.why_not)
