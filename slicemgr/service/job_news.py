# SPDX-License-Identifier: LGPL-2.1-or-later
"""What happens to a job, on its way to the person and to the history. Light, see model/quantity.py."""

from __future__ import annotations

from slicemgr.service.telling import Telling

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from slicemgr.service.report import Report
    from slicemgr.service.worker import Worker


class JobNews:
    """The reports of one job. From any thread; nobody waits here before `finish`."""

    def __init__(self, tell: Callable[[Report], None], state: str, slice_name: str) -> None:
        """`tell` is called in a thread of its own; `state` is the directory of the history."""
        self.job = ""
        """Its unit, or its name, for the history; known once it is placed."""
        self._state = state
        self._slice_name = slice_name
        self._telling = Telling(tell)
        self._remembering = Telling(self._remember)
        self._refusing: Worker | None = None
        self._kernel_kills = 0
        self._victims: set[int] = set()

    def our_own(self, report: Report) -> None:
        """To the person, and to our history, which no daemon writes for us: nobody watches, or the system's does."""
        self._count(report)
        self._telling(report)
        self._remembering(report)

    def of_daemon(self, report: Report) -> None:
        """To the person; in our history it is already."""
        self._count(report)
        self._telling(report)

    def no_daemon_took_it(self, tell: Callable[[], None]) -> None:
        """To the person, once, and to nobody's history: nothing was done. In a thread as well, since it may wait."""
        from slicemgr.service.worker import Worker

        self._refusing = Worker("refusal")
        try:
            self._refusing.do(tell)
        except RuntimeError:  # No thread is to be had, as in delivery.py.
            tell()

    def tell_untold(self, cgroup: str, oom_kills: int | None, *, is_written: bool) -> None:
        """What the kernel has killed in a job that ended before its guard was there, or without one.

        `oom_kills`: how many in all, as its memory.events says; None if that could not be read. `is_written`: a daemon
        has watched the job that writes our history.
        """
        if oom_kills is None or oom_kills <= self._kernel_kills:
            return
        from slicemgr.service.leftover import untold_kernel_kills

        report = untold_kernel_kills(cgroup, oom_kills - self._kernel_kills, self._victims)
        if report is not None:
            (self.of_daemon if is_written else self.our_own)(report)

    def finish(self) -> None:
        """Wait until all is told and written."""
        if self._refusing is not None:
            self._refusing.finish()
        self._telling.finish()
        self._remembering.finish()

    def _count(self, report: Report) -> None:
        from slicemgr.service.report import KernelKillReport, KillReport

        if isinstance(report, KernelKillReport):
            self._kernel_kills += report.count
        elif isinstance(report, KillReport):
            self._victims.add(report.victim.pid)

    def _remember(self, report: Report) -> None:
        from slicemgr.service.history import remember

        remember(self._state, report, slice_name=self._slice_name, job=self.job)
