# SPDX-License-Identifier: LGPL-2.1-or-later
"""What was done, as the a{sv} of the D-Bus interface: in ListActions, and in the signals that tell of it."""

from collections.abc import Mapping
from typing import Any, Final

from slicemgr.kernel.procfs import PAGE_BYTES
from slicemgr.model.process import ProcessSample
from slicemgr.policy.badness import held_pages
from slicemgr.service.record import Record, record_to_line, report_to_data
from slicemgr.service.report import HighReport, KernelKillReport, KillReport, NoVictimReport, Report

_USEC: Final = 1_000_000


def details_of(record: Record) -> dict[str, Any]:
    """One record, with all of it as JSON beside what everybody asks for."""
    return {
        **about(record),
        "time-usec": int(record.wall_seconds * _USEC),
        "json": record_to_line(record).decode("ascii").rstrip("\n"),
    }


def about(record: Record) -> dict[str, Any]:
    """Without the JSON: for a signal."""
    return {
        "kind": str(report_to_data(record.report)["kind"]),
        "slice": record.slice,
        "job": record.job,
        **_details(record.report),
    }


def _details(report: Report) -> Mapping[str, Any]:
    match report:
        case KillReport():
            return _kill(report)
        case KernelKillReport():
            return {
                "by": "kernel",
                "control-group": report.cgroup,
                "count": report.count,
                "victims": [{"pid": pid, "name": name} for pid, name in report.victims],
            }
        case HighReport():
            return {
                "control-group": report.cgroup,
                "memory-current": report.usage_bytes,
                "memory-high": report.high_bytes,
            }
        case NoVictimReport():
            return {
                "control-group": report.cgroup,
                "memory-current": report.shortage.usage_bytes,
                "limit": report.shortage.limit_bytes,
                "reason": report.shortage.resource.value,
                "out-of-reach": report.out_of_reach,
                "spared": [{**_process(process), "why": why.value} for process, why in report.spared],
            }
        case _:
            return {}


def _kill(report: KillReport) -> Mapping[str, Any]:
    return {
        "by": "slicemgr",
        **_process(report.victim),
        "command-line": list(report.command_line),
        "held": report.held_bytes,
        "points": report.points,
        "reason": report.shortage.resource.value,
        "evidence": report.shortage.evidence.value,
        "rule": report.rule.value,
        "outcome": report.outcome.value,
        "instead-of": {} if report.for_parent is None else _with_size(report.for_parent),
        "runners-up": [{**_process(process), "held": held} for process, held in report.runners_up],
        "memory-before": report.shortage.usage_bytes,
        "memory-after": report.usage_after_bytes,
        "limit": report.shortage.limit_bytes,
        "control-group": report.victim_cgroup or report.cgroup,
    }


def _with_size(process: ProcessSample) -> dict[str, Any]:
    return {**_process(process), "held": held_pages(process) * PAGE_BYTES}


def _process(process: ProcessSample) -> dict[str, Any]:
    return {"pid": process.pid, "name": process.name}
