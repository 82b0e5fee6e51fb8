# SPDX-License-Identifier: LGPL-2.1-or-later
"""What `slicemgr run` tells: a line on stderr for each thing that happens, one at the end, and all as JSON."""

import json
import os
import signal
import stat
import time
from collections import Counter
from collections.abc import Mapping
from typing import Final, TypeAlias

from slicemgr import __version__
from slicemgr.cli.printable import encodable, printable, printable_command, say
from slicemgr.kernel.procfs import PAGE_BYTES
from slicemgr.model.cgroup import MemoryLimits
from slicemgr.model.decision import Resource
from slicemgr.model.process import ProcessSample
from slicemgr.model.quantity import format_duration, format_size
from slicemgr.model.spec import JobSpec
from slicemgr.service.report import (
    GuardFailedReport,
    HighReport,
    JobReport,
    KernelKillReport,
    KillOutcome,
    KillReport,
    NoVictimReport,
    Report,
    SignalRefusedReport,
)

SCHEMA: Final = "slicemgr.run/1"
"""Grows by new keys only; a key that changes its meaning makes it /2."""

Data: TypeAlias = Mapping[str, object]

_OPTION: Final = {
    Resource.MEMORY: "--max",
    Resource.SWAP: "--swap-max",
    Resource.HIGH: "--high",
    Resource.MACHINE: "the machine's memory",
}


class RunReport:
    """Collects what happened to one job, and tells it as it happens."""

    def __init__(self, spec: JobSpec, limits: MemoryLimits) -> None:
        self._spec = spec
        self._limits = limits
        self._started = time.monotonic()
        self._events: list[Report] = []

    def tell(self, report: Report) -> None:
        """One line on stderr; runs in the delivery thread."""
        self._events.append(report)
        say(_line(report))

    def end(self, job: JobReport) -> None:
        """The summary line, and one more if somebody was left behind."""
        ended = (
            f"exited with {job.exit_code}" if job.exit_signal is None else f"ended by {_signal_name(job.exit_signal)}"
        )
        # A command of a few milliseconds ends before it is looked at.
        peak = "too short to measure" if job.peak_bytes == 0 else f"peak {self._beside_limit(job.peak_bytes)}"
        say(
            f"'{printable(self._spec.name)}' {ended} after {format_duration(job.elapsed_seconds)}; "
            f"{peak}; {self._kills_in_words()}"
        )
        if any(isinstance(event, GuardFailedReport) for event in self._events):
            say("nobody watched it to its end: the peak is what was seen until then")
        if job.left_running:
            who = ", ".join(_who(process) for process in job.left_running[:5])
            more = "" if len(job.left_running) <= 5 else f" and {len(job.left_running) - 5} more"
            say(f"still running, and no longer guarded: {who}{more}")

    def as_data(self, job: JobReport) -> Data:
        """The whole story for --json."""
        ending = {"status": job.exit_code} if job.exit_signal is None else {"signal": _signal_name(job.exit_signal)}
        return {
            "schema": SCHEMA,
            "slicemgr": __version__,
            "name": encodable(self._spec.name),
            "slice": self._spec.slice_name,
            "backend": job.backend,
            "command": [encodable(argument) for argument in self._spec.command],
            "limits": {
                "memory_high": self._limits.high,
                "memory_max": self._limits.max,
                "memory_swap_max": self._limits.swap_max,
            },
            "exit": ending,
            "elapsed_seconds": round(job.elapsed_seconds, 3),
            "peak_bytes": job.peak_bytes,
            "looks": job.looks,
            "watching_cpu_seconds": round(job.watching_cpu_seconds, 3),
            "kills": [self._kill_as_data(kill) for kill in self._kills() if kill.killed],
            "failed_kills": [self._kill_as_data(kill) for kill in self._kills() if not kill.killed],
            "high_episodes": sum(isinstance(event, HighReport) for event in self._events),
            "without_victim": sum(isinstance(event, NoVictimReport) for event in self._events),
            "guard_failures": [event.error for event in self._events if isinstance(event, GuardFailedReport)],
            "left_running": [_process_as_data(process) for process in job.left_running],
        }

    def _beside_limit(self, peak_bytes: int) -> str:
        if self._limits.max is None:
            return format_size(peak_bytes)
        if peak_bytes > self._limits.max:
            return _above(peak_bytes, self._limits.max, "--max")
        automatic = " (automatic: free memory less a tenth)" if self._spec.max is None else ""
        return f"{format_size(peak_bytes)} of {format_size(self._limits.max)}{automatic}"

    def _kills(self) -> list[KillReport]:
        return [event for event in self._events if isinstance(event, KillReport)]

    def _kills_in_words(self) -> str:
        killed = Counter(printable(kill.victim.name) for kill in self._kills() if kill.killed)
        if not killed:
            return "nothing killed"
        names = ", ".join(f"'{name}'" if count == 1 else f"{count} '{name}'" for name, count in killed.most_common())
        return f"killed {names}; to keep all, try fewer steps at once or a higher limit"

    def _kill_as_data(self, kill: KillReport) -> Data:
        return {
            **_process_as_data(kill.victim),
            "command_line": [encodable(argument) for argument in kill.command_line],
            "held_bytes": kill.held_bytes,
            "rss_bytes": kill.victim.rss_pages * PAGE_BYTES,
            "points": kill.points,
            "for_parent": None if kill.for_parent is None else _process_as_data(kill.for_parent),
            "reason": kill.shortage.resource.value,
            "usage_bytes": kill.shortage.usage_bytes,
            "limit_bytes": kill.shortage.limit_bytes,
            "usage_after_bytes": kill.usage_after_bytes,
            "outcome": kill.outcome.value,
            "at_seconds": round(kill.at_seconds - self._started, 3),
            "seconds_to_exit": round(kill.seconds_to_exit, 4),
            "runners_up": [{**_process_as_data(each), "held_bytes": held} for each, held in kill.runners_up],
        }


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


def _line(report: Report) -> str:
    match report:
        case KillReport():
            return _kill_line(report)
        case HighReport():
            return (
                f"the job holds {_above(report.usage_bytes, report.high_bytes, '--high')}; "
                "without a cgroup it can't be slowed down, only watched"
            )
        case NoVictimReport():
            option = _OPTION[report.shortage.resource]
            spared = "; ".join(f"{_who(process)} is {why.value}" for process, why in report.spared[:3])
            return (
                f"the job holds {_above(report.shortage.usage_bytes, report.shortage.limit_bytes, option)}, "
                "and nothing in it can be killed" + (f": {spared}" if spared else "")
            )
        case KernelKillReport():
            names = ", ".join(f"'{printable(name)}' (pid {pid})" for pid, name in report.victims)
            return (
                f"the kernel was first: its OOM killer ended {names or f'{report.count} of the job'}; "
                "try a higher --max, or fewer steps at once"
            )
        case SignalRefusedReport():
            return (
                f"can't pass {_signal_name(report.number)} on: the command is another user's by now; "
                f"try sudo kill with its own pid"
            )
        case GuardFailedReport():
            return f"the guard failed ({printable(report.error)}): the command goes on unguarded; please report this"


def _kill_line(kill: KillReport) -> str:
    """Who, pid, how much it held, why, who was next, and what it was doing."""
    option, shortage = _OPTION[kill.shortage.resource], kill.shortage
    why = f"the job held {_above(shortage.usage_bytes, shortage.limit_bytes, option)}"
    in_place = "" if kill.for_parent is None else f" in place of its parent {_who(kill.for_parent)}"
    who = f"{_who(kill.victim)}, which held {format_size(kill.held_bytes)},{in_place}".rstrip(",")
    if not kill.killed:
        return f"did not kill {who}: {kill.outcome.value}; {why}"
    killed = "killed" if kill.outcome is KillOutcome.EXITED else "sent SIGKILL in vain to"
    if kill.was_alone:
        after = f"it was the whole job: try {option} {format_size(_enough_for(shortage.usage_bytes))} or more"
    elif kill.runners_up:
        nearest, held = kill.runners_up[0]
        after = f"if that is not enough, next is {_who(nearest)} with {format_size(held)}"
    else:
        after = "nothing else in it can be killed"
    doing = f"; it ran: {printable_command(kill.command_line)}" if kill.command_line else ""
    return f"{killed} {who}: {why}; {after}{doing}"


def _above(usage_bytes: int, limit_bytes: int, option: str) -> str:
    """`1.0G, 14.2M above --max 1.0G`: one decimal alone would not tell them apart."""
    above = format_size(usage_bytes - limit_bytes)
    return f"{format_size(usage_bytes)}, {above} above {option} {format_size(limit_bytes)}"


def _enough_for(usage_bytes: int) -> int:
    """A round limit above this usage: half as much again, in whole 8 MiB."""
    step = 8 << 20
    return -(-usage_bytes * 3 // 2 // step) * step


def _who(process: ProcessSample) -> str:
    return f"'{printable(process.name)}' (pid {process.pid})"


def _process_as_data(process: ProcessSample) -> Data:
    return {"pid": process.pid, "start_ticks": process.identity.start_ticks, "comm": encodable(process.name)}


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
