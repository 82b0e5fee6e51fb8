# SPDX-License-Identifier: LGPL-2.1-or-later
"""The words of `slicemgr run` for what happens to a job, and the same as JSON. Heavy: imported when there is news."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

from slicemgr import __version__
from slicemgr.cli.pacing_lines import pacing_as_data
from slicemgr.cli.printable import encodable, printable, printable_command
from slicemgr.cli.report_lines import OUT_OF_REACH_HINT
from slicemgr.cli.run_report import above, signal_name
from slicemgr.kernel.procfs import PAGE_BYTES
from slicemgr.model.decision import Evidence, Resource, Shortage
from slicemgr.model.quantity import format_duration, format_size
from slicemgr.model.slice import VictimRule
from slicemgr.policy.limits import high_below
from slicemgr.service.report import (
    GuardFailedReport,
    HighReport,
    KernelKillReport,
    KillOutcome,
    KillReport,
    NoVictimReport,
    PacingFailedReport,
    Report,
    SignalRefusedReport,
)

if TYPE_CHECKING:
    from slicemgr.cli.run_report import RunReport
    from slicemgr.model.process import ProcessSample
    from slicemgr.service.job_report import JobReport

SCHEMA: Final = "slicemgr.run/1"
"""Grows by new keys only; a key that changes its meaning makes it /2."""

Data: TypeAlias = Mapping[str, object]

_OPTIONS: Final[Mapping[Resource, str]] = {
    Resource.MEMORY: "--max",
    Resource.SWAP: "--swap-max",
    Resource.HIGH: "--high",
    Resource.MACHINE: "MemAvailable",
}

_OF_PACING: Final = frozenset({Evidence.NO_STEP_FITS, Evidence.ALONE})
"""Found by the pacer, whose limit is the job's budget (service/job_budget.py)."""


def line(report: Report, run: RunReport) -> str:
    """One line for one thing that happened."""
    match report:
        case KillReport():
            return _kill_line(report, run)
        case HighReport():
            high = above(report.usage_bytes, report.high_bytes, _limit(Resource.HIGH, run))
            slowed = (
                "the kernel slows it down" if run.cgroup else "without a cgroup it can't be slowed down, only watched"
            )
            return f"{_holder(report.cgroup, run)} holds {high}; {slowed}"
        case NoVictimReport(out_of_reach=True):
            why = _why(report.shortage, report.cgroup, run, "holds")
            return f"{why}, in files that no process's end frees; {OUT_OF_REACH_HINT}"
        case NoVictimReport():
            spared = "; ".join(f"{_who(process)} is {why.value}" for process, why in report.spared[:3])
            return f"{_why(report.shortage, report.cgroup, run, 'holds')}, and nothing in it can be killed" + (
                f": {spared}" if spared else ""
            )
        case KernelKillReport():
            names = ", ".join(f"'{printable(name)}' (pid {pid})" for pid, name in report.victims)
            return (
                f"the kernel was first: its OOM killer ended {names or f'{report.count} of the job'}; "
                "try a higher --max, or fewer steps at once"
            )
        case PacingFailedReport():
            return f"pacing: {printable(report.error)}"
        case SignalRefusedReport():
            return (
                f"can't pass {signal_name(report.number)} on: the command is another user's by now; "
                f"try sudo kill with its own pid"
            )
        case GuardFailedReport():
            goes_on = "held at its limits by the kernel alone" if run.cgroup else "unguarded"
            return f"the guard failed ({printable(report.error)}): the command goes on {goes_on}; please report this"


def kills_in_words(events: Sequence[Report]) -> str:
    """For the summary: who was killed, by us and by the kernel."""
    killed = Counter(printable(kill.victim.name) for kill in _kills(events) if kill.killed)
    parts = []
    if killed:
        names = ", ".join(f"'{name}'" if count == 1 else f"{count} '{name}'" for name, count in killed.most_common())
        parts.append(f"killed {names}")
    by_kernel = sum(event.count for event in events if isinstance(event, KernelKillReport))
    if by_kernel:
        parts.append(f"the kernel killed {by_kernel}")
    if not parts:
        return "nothing killed"
    return f"{', '.join(parts)}; to keep all, try fewer steps at once or a higher limit"


def has_ended_already(report: Report, events: Sequence[Report]) -> bool:
    """Whether it tells of a process that is known to have been ended: the guard and the pacer, each in a thread of its
    own, may both have come to the same one, while it was on its way out."""
    return (
        isinstance(report, KillReport)
        and report.killed
        and any(
            isinstance(event, KillReport)
            and event.outcome is KillOutcome.EXITED
            and event.victim.identity == report.victim.identity
            for event in events
        )
    )


def has_killed(events: Sequence[Report]) -> bool:
    """Whether a process was ended for lack of memory, by us or by the kernel."""
    return any(
        isinstance(event, KernelKillReport) or (isinstance(event, KillReport) and event.killed) for event in events
    )


def last_lines(run: RunReport, job: JobReport) -> Iterator[str]:
    """What is to be said after the summary."""
    if not run.cgroup and any(isinstance(event, GuardFailedReport) for event in run.events):
        yield "nobody watched it to its end: the peak is what was seen until then"
    if job.left_running:
        who = ", ".join(_who(process) for process in job.left_running[:5])
        more = "" if len(job.left_running) <= 5 else f" and {len(job.left_running) - 5} more"
        held = ", though held at its limits" if job.cgroup else ""
        yield f"still running, and no longer guarded{held}: {who}{more}"


def as_data(run: RunReport, job: JobReport) -> Data:
    """The whole story."""
    high, limit, swap = job.limits
    ending = {"status": job.exit_code} if job.exit_signal is None else {"signal": signal_name(job.exit_signal)}
    kills = _kills(run.events)
    return {
        "schema": SCHEMA,
        "slicemgr": __version__,
        "name": encodable(run.spec.name),
        "slice": run.spec.slice_name,
        "backend": job.backend,
        "cgroup": None if job.cgroup is None else encodable(job.cgroup),
        "unit": job.unit,
        "passed_over": [{"backend": backend, "reason": reason} for backend, reason in job.passed_over],
        "left_out_properties": list(job.left_out),
        "watched_by": job.watched_by,
        "daemon_refusal": encodable(job.daemon_refusal) if job.daemon_refusal else None,
        "command": [encodable(argument) for argument in run.spec.command],
        "limits": {"memory_high": high, "memory_max": limit, "memory_swap_max": swap},
        "exit": ending,
        "elapsed_seconds": round(job.elapsed_seconds, 3),
        "peak_bytes": job.peak_bytes,
        "pacing": None if job.pacing is None else pacing_as_data(job.pacing),
        "looks": job.looks,
        "watching_cpu_seconds": round(job.watching_cpu_seconds, 3),
        "kills": [_kill_as_data(kill, run) for kill in kills if kill.killed],
        "failed_kills": [_kill_as_data(kill, run) for kill in kills if not kill.killed],
        "kernel_kills": [_kernel_kill_as_data(event) for event in run.events if isinstance(event, KernelKillReport)],
        "high_episodes": sum(isinstance(event, HighReport) for event in run.events),
        "without_victim": sum(isinstance(event, NoVictimReport) for event in run.events),
        "guard_failures": [event.error for event in run.events if isinstance(event, GuardFailedReport)],
        "pacing_failures": [event.error for event in run.events if isinstance(event, PacingFailedReport)],
        "left_running": [_process_as_data(process) for process in job.left_running],
    }


def _kills(events: Sequence[Report]) -> list[KillReport]:
    return [event for event in events if isinstance(event, KillReport)]


def _kill_line(kill: KillReport, run: RunReport) -> str:
    """Who, pid, how much it held, why, who was next, and what it was doing."""
    why = _why(kill.shortage, kill.cgroup, run, "held")
    in_place = "" if kill.for_parent is None else f" in place of its parent {_who(kill.for_parent)}"
    who = f"{_who(kill.victim)}, which held {format_size(kill.held_bytes)},{in_place}".rstrip(",")
    if not kill.killed:
        return f"did not kill {who}: {kill.outcome.value}; {why}"
    if kill.outcome is not KillOutcome.EXITED:
        killed = "sent SIGKILL in vain to"
    elif kill.rule is VictimRule.WHOLE_JOB:
        killed = "killed the whole job of"
    else:
        killed = "ended (SIGTERM first)" if kill.asked_to_end else "killed"
    if kill.shortage.evidence is Evidence.ALONE:
        after = _more_for_one(kill.shortage, run)
    elif kill.was_alone:
        after = "it was alone"
        if _is_own(kill.cgroup, run) and kill.shortage.resource is not Resource.MACHINE:
            option = _limit(kill.shortage.resource, run)
            option = "--max" if option == "memory.high" else option
            after = f"it was the whole job: try {option} {format_size(_enough_for(kill.shortage.usage_bytes))} or more"
    elif kill.runners_up:
        nearest, held = kill.runners_up[0]
        after = f"if that is not enough, next is {_who(nearest)} with {format_size(held)}"
    else:
        after = "nothing else in it can be killed"
    doing = f"; it ran: {printable_command(kill.command_line)}" if kill.command_line else ""
    return f"{killed} {who}: {why}; {after}{doing}"


def _why(shortage: Shortage, cgroup: str, run: RunReport, verb: str) -> str:
    """`the job held 1.0G, 14.2M above --max 1.0G`, and what convinced us that waiting does not help."""
    usage, limit = shortage.usage_bytes, shortage.limit_bytes
    if shortage.resource is Resource.MACHINE:
        return f"the machine had {format_size(usage)} available, of at least {format_size(limit)}"
    name = _limit(shortage.resource, run) if _is_own(cgroup, run) else shortage.resource.value
    if shortage.evidence in _OF_PACING and limit != run.spec.max:
        # What pacing has to keep below is often less: of memory.high, of the slice, of the machine.
        how = f"{format_size(usage)} of the {format_size(limit)} that it may hold"
    elif usage > limit:
        how = above(usage, limit, name)
    else:  # In a cgroup the kernel lets nobody above max: who stands still there is a little below.
        how = f"{format_size(usage)} of {name} {format_size(limit)}"
    text = f"{_holder(cgroup, run)} {verb} {how}"
    if shortage.evidence is not Evidence.PASSED:
        text += f", and {shortage.evidence.value}"
    if shortage.stalled_seconds > 0:
        text += f", at a stand for {format_duration(shortage.stalled_seconds)}"
    return text


def _limit(resource: Resource, run: RunReport) -> str:
    """The limit by the name that the person gave it; memory.high has one only if it was asked for."""
    if resource is Resource.HIGH and run.cgroup and run.spec.high is None:
        return "memory.high"
    return _OPTIONS[resource]


def _is_own(cgroup: str, run: RunReport) -> bool:
    """Whether this is about the job's own limits: not about those of a slice above it, or of a cgroup inside it."""
    return cgroup in {"", run.cgroup}


def _holder(cgroup: str, run: RunReport) -> str:
    return "the job" if _is_own(cgroup, run) else printable(cgroup.rpartition("/")[2])


def _enough_for(usage_bytes: int) -> int:
    """A round limit above this usage: half as much again, in whole 8 MiB."""
    step = 8 << 20
    return -(-usage_bytes * 3 // 2 // step) * step


def _more_for_one(shortage: Shortage, run: RunReport) -> str:
    """What to try for a step that needs more than there is for the whole job."""
    asked, limit = run.spec.max, shortage.limit_bytes
    if type(asked) is int and limit < high_below(asked):
        return "there is less for the job than its --max: try again with less else running"
    return f"try --max {format_size(_enough_for(max(shortage.usage_bytes, limit)))} or more"


def _who(process: ProcessSample) -> str:
    return f"'{printable(process.name)}' (pid {process.pid})"


def _kill_as_data(kill: KillReport, run: RunReport) -> Data:
    return {
        **_process_as_data(kill.victim),
        "command_line": [encodable(argument) for argument in kill.command_line],
        "held_bytes": kill.held_bytes,
        "rss_bytes": kill.victim.rss_pages * PAGE_BYTES,
        "points": kill.points,
        "for_parent": None if kill.for_parent is None else _process_as_data(kill.for_parent),
        "cgroup": encodable(kill.cgroup),
        "rule": kill.rule.value,
        "reason": kill.shortage.resource.value,
        "evidence": kill.shortage.evidence.name.lower(),
        "stalled_seconds": round(kill.shortage.stalled_seconds, 3),
        "usage_bytes": kill.shortage.usage_bytes,
        "limit_bytes": kill.shortage.limit_bytes,
        "usage_after_bytes": kill.usage_after_bytes,
        "outcome": kill.outcome.value,
        "at_seconds": round(kill.at_seconds - run.started, 3),
        "seconds_to_exit": round(kill.seconds_to_exit, 4),
        "runners_up": [{**_process_as_data(each), "held_bytes": held} for each, held in kill.runners_up],
    }


def _kernel_kill_as_data(event: KernelKillReport) -> Data:
    victims = [{"pid": pid, "comm": encodable(name)} for pid, name in event.victims]
    return {"cgroup": encodable(event.cgroup), "count": event.count, "victims": victims}


def _process_as_data(process: ProcessSample) -> Data:
    return {"pid": process.pid, "start_ticks": process.identity.start_ticks, "comm": encodable(process.name)}
