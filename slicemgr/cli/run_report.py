# SPDX-License-Identifier: LGPL-2.1-or-later
"""What `slicemgr run` tells: a line on stderr for each thing that happens, one at the end, and all as JSON.

Light, see model/quantity.py: of most commands nothing is to be told but the line at the end. The words for all the
rest stand in run_lines.py.
"""

from __future__ import annotations

import os
import time

from slicemgr.cli.printable import printable, say
from slicemgr.kernel.signals import signal
from slicemgr.model.quantity import format_duration, format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from slicemgr.cli.run_lines import Data
    from slicemgr.model.spec import JobSpec
    from slicemgr.placement.backend import JobHandle
    from slicemgr.service.job_report import JobReport
    from slicemgr.service.report import Report


_ENDS_A_BUILD = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)


class RunReport:
    """Collects what happened to one job, and tells it as it happens."""

    def __init__(self, spec: JobSpec) -> None:
        self.spec = spec
        self.started = time.monotonic()
        self.cgroup = ""
        """Where the job is; empty for a process tree."""
        self.events: list[Report] = []
        self._retried = 0
        """How many of them belong to runs before this one."""

    def placed(self, handle: JobHandle) -> None:
        """Where the job has been put, before its command is let go."""
        self.cgroup = handle.cgroup or ""

    def tell(self, report: Report) -> None:
        """One line on stderr; runs in the delivery thread."""
        from slicemgr.cli.run_lines import has_ended_already, line

        if has_ended_already(report, self.events):
            return
        self.events.append(report)
        say(line(report, self))

    def no_daemon_took_it(self, why: str) -> None:
        """The first daemon's words for it, on one line; runs in a thread of its own."""
        hint = "" if "; try " in why else "; try 'slicemgr status'"
        say(f"no daemon guards this job, so 'slicemgr run' does: {printable(why)}{hint}")

    def end(self, job: JobReport) -> None:
        """The summary line, and one more if somebody was left behind."""
        if job.exit_signal is None:
            ended = f"exited with {job.exit_code}"
        else:
            ended = f"ended by {signal_name(job.exit_signal)}"
        kills = "nothing killed"
        if self.events:
            from slicemgr.cli.run_lines import kills_in_words

            kills = kills_in_words(self.events)
        paced = fattest = ""
        if job.pacing is not None and job.pacing.waited:
            from slicemgr.cli.pacing_lines import fattest_in_words, pacing_in_words

            paced, fattest = pacing_in_words(job.pacing), fattest_in_words(job.pacing)
        name, duration = printable(self.spec.name), format_duration(job.elapsed_seconds)
        told = (f"'{name}' {ended} after {duration}", kills, paced, self._peak_in_words(job), fattest)
        say("; ".join(each for each in told if each))
        if self.events or job.left_running:
            from slicemgr.cli.run_lines import last_lines

            for each in last_lines(self, job):
                say(each)

    def to_run_again(self, job: JobReport, ceiling: int | None) -> int | None:
        """How many steps may run at once if the command is run again, and says so; None if that would be no use.

        It has to have failed, by itself and not by a person's signal, after one of its processes was killed for lack
        of memory.
        """
        events, self._retried = self.events[self._retried :], len(self.events)
        # A command that reads from the terminal has it, and hears of ^C alone: a shell's status tells of that.
        by_a_person = job.was_told_to_end or (job.exit_code or 0) - 128 in _ENDS_A_BUILD
        if not job.exit_code or not events or by_a_person:
            return None
        from slicemgr.cli.run_lines import has_killed

        if not has_killed(events):
            return None
        ended = f"'{printable(self.spec.name)}' exited with {job.exit_code}"
        if job.pacing is not None and not job.pacing.may_hold:
            say(f"{ended}; not again, as none of its steps would wait; try slicemgr config pacing")
            return None
        before = ceiling or (job.pacing.most_running if job.pacing is not None else 0)
        fewer = max(1, before // 2)
        say(f"{ended}; again, with at most {fewer} at once")
        return fewer

    def as_data(self, job: JobReport) -> Data:
        """The whole story for --json."""
        from slicemgr.cli.run_lines import as_data

        return as_data(self, job)

    def _peak_in_words(self, job: JobReport) -> str:
        peak, limit = job.peak_bytes, job.limits[1]
        if peak == 0:
            # A command of a few milliseconds ends before it is looked at; a kernel before 5.19 has no memory.peak.
            return "peak not known" if job.cgroup else "too short to measure"
        if limit is None:
            return f"peak {format_size(peak)}"
        if peak > limit:
            return f"peak {above(peak, limit, '--max')}"
        automatic = " (automatic: free memory less a tenth)" if self.spec.max is None else ""
        return f"peak {format_size(peak)} of {format_size(limit)}{automatic}"


class ReportFile:
    """The file of --json: proven to be writable before anything starts, left as it was until there is a report."""

    def __init__(self, path: str) -> None:
        """Raises OSError; for a pipe that nobody reads as well (ENXIO)."""
        self._path = path
        self._is_new = not os.path.lexists(path)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
        os.set_blocking(self._descriptor, True)

    def write(self, data: Data) -> None:
        """Put the report in place of what the file had. Raises OSError."""
        import json
        import stat

        text = (json.dumps(data, indent=2) + "\n").encode()
        with open(self._descriptor, "wb") as file:
            file.write(text)
            if stat.S_ISREG(os.fstat(self._descriptor).st_mode):  # Nothing else has anything left over.
                file.truncate()

    def forget(self) -> None:
        """There will be no report: leave no empty file behind."""
        os.close(self._descriptor)
        if self._is_new:
            os.unlink(self._path)


def above(usage_bytes: int, limit_bytes: int, limit: str) -> str:
    """`1.0G, 14.2M above --max 1.0G`: one decimal alone would not tell them apart."""
    much = format_size(usage_bytes - limit_bytes)
    return f"{format_size(usage_bytes)}, {much} above {limit} {format_size(limit_bytes)}"


def signal_name(number: int) -> str:
    """`SIGTERM`; `signal 35` for one without a name."""
    from signal import Signals

    try:
        return Signals(number).name
    except ValueError:
        return f"signal {number}"
