# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pacing as a job sees it: what its command is given for it before the exec, and the pacer from then to its end.

Light, see model/quantity.py: of a command that is no build, and ends before PACER_AFTER_SECONDS, nothing is looked at.
Whatever fails here costs the pacing, or a part of it, and not the command.
"""

from __future__ import annotations

import os
import time

from slicemgr.build.steps import is_driver
from slicemgr.service.command import Command
from slicemgr.service.places import job_directory, launcher_directory, steps_directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Final

    from slicemgr.build.jobserver import Jobserver
    from slicemgr.build.launcher import Launcher
    from slicemgr.model.spec import PacingRequest
    from slicemgr.placement.backend import JobHandle
    from slicemgr.service.guardian import Guardian
    from slicemgr.service.job_pacer import JobPacer
    from slicemgr.service.pacer_thread import PacerThread
    from slicemgr.service.pacing_tally import PacingSummary
    from slicemgr.service.report import Report
    from slicemgr.service.tree_guard import TreeGuard
    from slicemgr.service.waiting import Waiting

PACER_AFTER_SECONDS: Final = 0.1
"""For what does not look like a build; a build has a pacer as soon as it is imported (60 ms)."""


class JobPacing:
    """Of one job."""

    def __init__(
        self,
        request: PacingRequest,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        report: Callable[[Report], None],
    ) -> None:
        """Before the fork. `environment` is the command's, but for what is changed here."""
        self.command = tuple(command)
        """To be run instead: make without its -j, whose number is the ceiling of its tokens now."""
        self.changed: dict[str, str] = {}
        """What the command gets into its environment."""
        self.allowance: int | None = None
        """What the daemon lets it hold, as it said last. From any thread."""
        self.was_told_to_end = False
        """By a signal that came to us: what comes after it is no fault of the command's."""
        self.need: Callable[[int, int, bool], None] = lambda held, wanted, waits: None
        """Tells the daemon."""
        self._request = request
        self._environment = environment
        self._state = steps_directory(os.getuid(), environment)
        self._report = report
        self._jobserver: Jobserver | None = None
        self._launcher: Launcher | None = None
        self._thread: PacerThread | None = None
        self._waiting: Waiting | None = None
        self._summary: PacingSummary | None = None
        self._is_over = False
        name = os.path.basename(command[0])
        self._is_build = request.is_on and (is_driver(name) or "/" in command[0])
        if self._is_build:
            self._launch_by(job_directory(os.getuid(), environment, f"{os.getpid()}-{time.monotonic_ns()}"))
            self._take_tokens()

    def make_command(self, waiting: Waiting) -> Command:
        """Fork it, with all that was prepared. Raises ForkError."""
        return Command(
            self.command,
            self.changed.get("PATH") or self._environment.get("PATH", os.defpath),
            waiting,
            self._report,
            changed=self.changed,
            in_child=None if self._jobserver is None else self._jobserver.be_inherited,
            heard=self._heard,
            hears_keyboard=self._request.may_run_again,
        )

    def _launch_by(self, directory: str) -> None:
        if not self._request.relaunches:
            return
        from slicemgr.build.launcher import Launcher

        try:
            os.makedirs(os.path.dirname(directory), 0o700, exist_ok=True)
            shims = launcher_directory(os.getuid(), self._environment)
            os.makedirs(shims, exist_ok=True)
            self._launcher = Launcher(directory, self._environment.get("PATH", os.defpath), shims=shims)
        except OSError:  # A home that can't be written to: a step that is killed stays so.
            return
        self.changed.update(self._launcher.environment(self._environment))

    def _take_tokens(self) -> None:
        if not self._request.has_tokens:
            return
        from slicemgr.build.jobserver import Jobserver
        from slicemgr.build.make_command import make_command, takes_tokens
        from slicemgr.policy.tokens import FIRST_TOKENS

        made = make_command(self.command, self._environment)
        path = self._environment.get("PATH", os.defpath)
        if made is None or not takes_tokens(self.command[0], path):
            return
        try:
            self._jobserver = jobserver = Jobserver(made.ceiling)
        except OSError:  # No descriptors: then make does it by itself.
            return
        jobserver.allow(FIRST_TOKENS)
        self.command = made.arguments
        self.changed["MAKEFLAGS"] = jobserver.makeflags(self._environment.get("MAKEFLAGS", ""))

    def start(
        self,
        handle: JobHandle,
        pid: int,
        waiting: Waiting,
        keeper: Guardian | None,
        limit_bytes: int | None,
        tree_guard: Callable[[], TreeGuard | None],
    ) -> None:
        """The command is about to be let go. `limit_bytes` is a process tree's, `tree_guard` who watches it."""
        if not self._request.is_on:
            return

        def make() -> JobPacer:
            return self._made(handle, pid, keeper, limit_bytes, tree_guard)

        def begin() -> None:
            if self._is_over:
                return
            from slicemgr.service.pacer_thread import PacerThread

            try:
                self._thread = PacerThread(make, self._failed)
            except (RuntimeError, OSError) as error:
                self._failed(error)

        if self._jobserver is not None:
            self._waiting = waiting
            waiting.add_reader(self._jobserver.fileno(), self._jobserver.relay)
        waiting.call_later(0.0 if self._is_build else PACER_AFTER_SECONDS, begin)

    def _made(
        self,
        handle: JobHandle,
        pid: int,
        keeper: Guardian | None,
        limit_bytes: int | None,
        tree_guard: Callable[[], TreeGuard | None],
    ) -> JobPacer:
        """In the pacer's thread."""
        from slicemgr.build.learned import FILE_NAME
        from slicemgr.service.borrowing import raise_limits
        from slicemgr.service.job_pacer import JobPacer, PacedJob
        from slicemgr.service.pacing_settings import settings_for
        from slicemgr.service.report import PacingFailedReport

        job = PacedJob(
            pid=pid,
            cgroup=handle.cgroup,
            source=handle.source,
            limit_bytes=limit_bytes,
            directory=os.getcwd(),
            spares=frozenset() if keeper is None else frozenset({keeper.pid}),
            outliver=keeper,
            tokens=self._jobserver,
            marks=self._launcher,
            is_agent=self._request.is_agent,
            ceiling=self._request.ceiling,
            allowance=lambda: self.allowance,
            need=self._tell_need,
            borrow=lambda size: raise_limits(handle, tree_guard(), size),
        )
        settings = settings_for(self._environment, self._request.never_hold)
        if not settings.enabled:
            job = job.without_holding()
            if self._jobserver is not None:  # Nobody counts its tokens: make has as many as it was asked for.
                self._jobserver.allow(self._jobserver.ceiling)
        return JobPacer(
            job,
            settings,
            steps_path=f"{self._state}/{FILE_NAME}",
            report=self._report,
            failed=lambda error: self._report(PacingFailedReport(str(error))),
        )

    def allow(self, allowance_bytes: int | None) -> None:
        """The daemon has said what the job may hold; None: it says nothing any more."""
        self.allowance = allowance_bytes

    def noting_kills(self, tell: Callable[[Report], None]) -> Callable[[Report], None]:
        """`tell`, for the reports of a daemon: whom it has killed runs again, too."""

        def told(report: Report) -> None:
            from slicemgr.service.report import KillReport

            if isinstance(report, KillReport) and report.killed:
                self.mark_killed(report.victim.pid)
            tell(report)

        return told

    def mark_killed(self, pid: int) -> None:
        """A guard is about to kill this one, or has just done so. From any thread."""
        if self._is_over:
            return
        if self._thread is not None:
            self._thread.mark_killed(pid)
        if self._launcher is not None:
            # Whoever is killed in the first moments, or was just born, is not known to the pacer.
            try:
                self._launcher.mark_killed(_ancestors(pid))
            except OSError:
                return

    def _tell_need(self, held_bytes: int, wanted_bytes: int, waits: bool) -> None:
        self.need(held_bytes, wanted_bytes, waits)

    def _failed(self, error: BaseException) -> None:
        from slicemgr.kernel.errors import CgroupGoneError
        from slicemgr.service.report import PacingFailedReport

        if self._jobserver is not None:
            self._jobserver.allow(self._jobserver.ceiling)
        if not isinstance(error, CgroupGoneError):  # Else the job has just ended.
            what = f"{type(error).__name__}: {error}"
            self._report(PacingFailedReport(f"{what}; its steps don't wait now; try --no-pacing, and report this"))

    def _heard(self, number: int) -> None:
        """This signal goes to the command's group; for SIGCONT, it has just gone there."""
        from slicemgr.kernel.signals import signal

        if number in {signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP}:
            self.was_told_to_end = True
            if self._thread is not None:
                self._thread.end_soon()
        elif number == signal.SIGCONT and self._thread is not None:
            self._thread.hold_again()

    def finish(self) -> PacingSummary | None:
        """The command has ended, or was not run: everybody goes on, and what was made for it goes. Also twice."""
        if self._is_over:
            return self._summary
        self._is_over = True
        if self._thread is not None:
            self._thread.finish()
            self._summary = self._thread.summary
        if self._jobserver is not None:
            if self._waiting is not None:
                self._waiting.remove_reader(self._jobserver.fileno())
            self._jobserver.close()
        if self._launcher is not None:
            try:  # noqa: SIM105 - see model/quantity.py
                self._launcher.close()
            except OSError:
                pass  # Who was left running has put a mark there.
        return self._summary


def _ancestors(pid: int) -> list[int]:
    """Its parent, that one's, and so on, as far as they are below us; none if it has ended."""
    from slicemgr.kernel import procfs
    from slicemgr.kernel.errors import KernelError

    chain: list[int] = []
    try:
        while (pid := procfs.read_stat(pid).ppid) > 1 and pid != os.getpid():
            chain.append(pid)
    except KernelError:
        return chain
    return chain
