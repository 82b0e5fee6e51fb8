# SPDX-License-Identifier: LGPL-2.1-or-later
"""How a job has ended. Light, see model/quantity.py; service/report.py has what happened on the way."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from slicemgr.model.process import ProcessSample
    from slicemgr.placement.backend import JobHandle
    from slicemgr.policy.limits import InBytes
    from slicemgr.service.pacing_tally import PacingSummary


class JobReport:
    """The end of a job."""

    __slots__ = (
        "backend",
        "cgroup",
        "daemon_refusal",
        "elapsed_seconds",
        "exit_code",
        "exit_signal",
        "left_out",
        "left_running",
        "limits",
        "looks",
        "pacing",
        "passed_over",
        "peak_bytes",
        "unit",
        "was_told_to_end",
        "watched_by",
        "watching_cpu_seconds",
    )

    def __init__(self, handle: JobHandle, limits: InBytes, wait_status: int) -> None:
        code = os.waitstatus_to_exitcode(wait_status)
        self.backend = handle.backend
        self.cgroup = handle.cgroup
        """As /proc/PID/cgroup names it; None for a process tree."""
        self.unit = handle.unit
        """The scope; None unless systemd holds the job."""
        self.passed_over = handle.passed_over
        """(backend, reason) of each one that would have been better, and could not be had."""
        self.left_out = handle.left_out
        """Unit properties that this systemd does not know."""
        self.limits = limits
        """high, max and swap_max in bytes, as they were in force; None is no limit."""
        self.exit_code = code if code >= 0 else None
        """None if a signal ended the command."""
        self.exit_signal = -code if code < 0 else None
        self.was_told_to_end = False
        """A signal that ends a build has come to slicemgr: a person wants no more of it."""
        self.elapsed_seconds = 0.0
        self.peak_bytes = 0
        """0 if nobody has seen it."""
        self.looks = 0
        """How often our own guard measured the job."""
        self.pacing: PacingSummary | None = None
        """What its pacer has done; None if it had none."""
        self.watched_by: str | None = None
        """`daemon`, `run` (slicemgr run itself), or None: it ended before anybody was needed."""
        self.daemon_refusal = ""
        """Why the first daemon does not guard the job, in its words; empty if another took it, or none is there."""
        self.watching_cpu_seconds = 0.0
        """CPU time of slicemgr run itself."""
        self.left_running: tuple[ProcessSample, ...] = ()
        """Processes that outlived the command and are guarded no longer."""
