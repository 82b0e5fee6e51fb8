# SPDX-License-Identifier: LGPL-2.1-or-later
"""One line for each thing that is in the history: who, how much, why, in whose place, and what it brought."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from slicemgr.cli.printable import printable, printable_command
from slicemgr.model.decision import Evidence, Resource, Shortage
from slicemgr.model.process import ProcessSample
from slicemgr.model.quantity import format_duration, format_size
from slicemgr.model.slice import VictimRule
from slicemgr.service.overview import job_name
from slicemgr.service.record import Record
from slicemgr.service.report import (
    GuardFailedReport,
    HighReport,
    KernelKillReport,
    KillOutcome,
    KillReport,
    NoVictimReport,
    PacingFailedReport,
)

OUT_OF_REACH_HINT: Final = "try to remove what it wrote to /dev/shm or /tmp, or give it a higher limit"

_NOT_ENDED: Final = {
    KillOutcome.ASKED: "it was asked to end, and then no longer in the way",
    KillOutcome.STILL_THERE: "it was still there after its time-out",
    KillOutcome.NOT_PERMITTED: "that was not permitted",
    KillOutcome.REFUSED: "it protected itself just before",
    KillOutcome.DRY_RUN: "a dry run kills nobody",
}


def is_action(record: Record) -> bool:
    """Whether it tells of a process that went, or should have: what `kills` shows."""
    return isinstance(record.report, KillReport | KernelKillReport | NoVictimReport | GuardFailedReport)


def history_line(record: Record) -> str:
    """When, and the whole story."""
    return f"{calendar(record.wall_seconds)}  {_story(record)}"


def short_story(record: Record) -> str:
    """The beginning of it."""
    report = record.report
    match report:
        case KillReport():
            return f"{_did(report)} {who(report.victim)}, {format_size(report.held_bytes)}{_whose(record)}"
        case KernelKillReport():
            return f"the kernel killed {_kernel_victims(report)}{_whose(record)}"
        case _:
            return _story(record)


def calendar(wall_seconds: float) -> str:
    """`2026-11-23 08:11:25`, in the time of the place."""
    try:
        return datetime.fromtimestamp(wall_seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return "at an unknown time"


def ago(seconds: float) -> str:
    """`12 s ago`, `4 min ago`, `3 h ago`, `2 d ago`."""
    if seconds < 0:
        return "in the future"  # The clock was set back since.
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def who(process: ProcessSample) -> str:
    """`'cc1plus' (pid 4711)`."""
    return f"'{printable(process.name)}' (pid {process.pid})"


def _story(record: Record) -> str:
    report = record.report
    match report:
        case KillReport():
            return _kill(report, record)
        case KernelKillReport():
            return f"the kernel was first{_whose(record)}: its OOM killer ended {_kernel_victims(report)}"
        case NoVictimReport(out_of_reach=True):
            why = f"{_why(report.shortage)}, in files that no process's end frees"
            return f"killed nobody more{_whose(record)}: {why}; {OUT_OF_REACH_HINT}"
        case NoVictimReport():
            spared = "; ".join(f"{who(process)} is {why.value}" for process, why in report.spared[:3])
            none = "nothing in it could be killed" + (f": {spared}" if spared else "")
            return f"killed nobody{_whose(record)}: {_why(report.shortage)}, and {none}"
        case PacingFailedReport():
            return f"steps were not paced, or not as well{_whose(record)}: {printable(report.error)}"
        case GuardFailedReport():
            return f"the guard failed{_whose(record)}: {printable(report.error)}"
        case HighReport():
            above = format_size(report.usage_bytes - report.high_bytes)
            return f"slowed down{_whose(record)}: {above} above memory.high {format_size(report.high_bytes)}"
        case _:
            return f"signal {report.number} was not passed on{_whose(record)}: the command is another user's"


def _kill(report: KillReport, record: Record) -> str:
    parts = [f"{_did(report)} {_victim(report)}{_in_place(report)}{_whose(record)}: {_why(report.shortage)}"]
    if report.outcome is KillOutcome.EXITED:
        parts.append(_brought(report))
    else:
        parts.append(_NOT_ENDED[report.outcome])
    if report.shortage.evidence is not Evidence.ALONE:  # Then the others wait, and are in nobody's way.
        parts.append(_next(report.runners_up) if not report.was_alone else "it was alone")
    if report.command_line:
        parts.append(f"it ran: {printable_command(report.command_line)}")
    return "; ".join(parts)


def _brought(report: KillReport) -> str:
    after = f"in {format_duration(report.seconds_to_exit)}"
    freed = report.shortage.freed_bytes(report.usage_after_bytes)
    return f"freed {format_size(freed)} {after}" if freed > 0 else f"gone {after}, and nothing was freed"


def _did(report: KillReport) -> str:
    if report.outcome is KillOutcome.DRY_RUN:
        return "would have killed"
    if not report.killed:
        return "did not kill"
    if report.outcome is KillOutcome.STILL_THERE:
        return "sent SIGKILL in vain to"
    if report.rule is VictimRule.WHOLE_JOB:
        return "killed the whole job of"
    return "ended (SIGTERM first)" if report.asked_to_end else "killed"


def _victim(report: KillReport) -> str:
    return f"{who(report.victim)}, which held {format_size(report.held_bytes)}"


def _in_place(report: KillReport) -> str:
    return "" if report.for_parent is None else f", in place of its parent {who(report.for_parent)}"


def _whose(record: Record) -> str:
    place = printable(record.slice.removesuffix(".slice"))
    if record.job:
        return f", in job '{printable(job_name(record.job))}'" + (f" of {place}" if place else "")
    return f", in {place}" if place else ""


def _why(shortage: Shortage) -> str:
    if shortage.resource is Resource.MACHINE:
        left, least = format_size(shortage.usage_bytes), format_size(shortage.limit_bytes)
        text = f"the machine had {left} available of at least {least}"
    else:
        used, limit = format_size(shortage.usage_bytes), format_size(shortage.limit_bytes)
        text = f"{used} used of {shortage.resource.value} {limit}"
    if shortage.evidence not in {Evidence.PASSED, Evidence.MACHINE}:
        text += f", and {shortage.evidence.value}"
    if shortage.stalled_seconds > 0:
        text += f", at a stand for {format_duration(shortage.stalled_seconds)}"
    return text


def _next(runners_up: Sequence[tuple[ProcessSample, int]]) -> str:
    if not runners_up:
        return "nobody else could have been killed"
    process, held = runners_up[0]
    return f"next was {who(process)} with {format_size(held)}"


def _kernel_victims(report: KernelKillReport) -> str:
    names = ", ".join(f"'{printable(name)}' (pid {pid})" for pid, name in report.victims)
    more = report.count - len(report.victims)
    if not names:
        return f"{report.count} process" + ("" if report.count == 1 else "es")
    return names + (f" and {more} more" if more > 0 else "")
