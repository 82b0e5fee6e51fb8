# SPDX-License-Identifier: LGPL-2.1-or-later
"""What happens to a job, as the notices know it: from a record, and from one moment to the next; pure."""

import os.path
from collections.abc import Iterator
from dataclasses import dataclass

from slicemgr.policy.notice_texts import AtLimit, Gone, Subject
from slicemgr.policy.notices import Ended, Event, Left, Paused, Resumed, Slowed, StandsStill
from slicemgr.service.overview import JobOverview, is_job_scope, job_name
from slicemgr.service.published import Moment
from slicemgr.service.record import Record
from slicemgr.service.report import HighReport, KernelKillReport, KillReport, NoVictimReport, Report


@dataclass(frozen=True, slots=True)
class Happened:
    """To one job, or to all of a slice."""

    unit: str
    """The job's, or the slice's."""
    subject: Subject
    event: Event

    @property
    def is_news(self) -> bool:
        """Whether it is worth a bubble where there is none."""
        return not isinstance(self.event, Resumed | Left)


def of_record(record: Record) -> Iterator[Happened]:
    """None for what only concerns ourselves, or was not done."""
    unit = record.job or record.slice
    event = _event(record.report, record.job)
    if unit and event is not None:
        yield Happened(unit, _subject(record.slice, record.job), event)


def of_step(before: Moment, after: Moment) -> Iterator[Happened]:
    """Jobs that were paused, resumed, or have ended."""
    there = _jobs(after)
    for cgroup in sorted((after.paused - before.paused) & there.keys()):
        unit, subject, job = there[cgroup]
        yield Happened(unit, subject, Paused(job.usage.current_bytes or 0))
    for cgroup, (unit, subject, _) in _jobs(before).items():
        if cgroup not in there:
            yield Happened(unit, subject, Left())
        elif cgroup in before.paused - after.paused:
            yield Happened(unit, subject, Resumed())


def _jobs(moment: Moment) -> dict[str, tuple[str, Subject, JobOverview]]:
    """By cgroup."""
    return {job.path: (job.unit, _subject(each.unit, job.unit), job) for each in moment.slices for job in each.jobs}


def _subject(slice_unit: str, job: str) -> Subject:
    name = job_name(job).removesuffix(".scope").removesuffix(".service")
    return Subject(slice_unit.removesuffix(".slice"), name, is_ours=is_job_scope(job))


def _event(report: Report, job: str) -> Event | None:
    match report:
        case KillReport() if report.killed:
            gone = Gone(report.victim.name, report.held_bytes)
            return Ended((gone,), 1, AtLimit(report.shortage, _is_own(report.cgroup, job)))
        case KernelKillReport():
            names = tuple(Gone(name) for _, name in report.victims)
            limit = AtLimit(None, _is_own(report.cgroup, job))
            return Ended(names, max(report.count, len(names)), limit, by_kernel=True)
        case HighReport():
            return Slowed(report.usage_bytes, report.high_bytes, _is_own(report.cgroup, job))
        case NoVictimReport():
            return StandsStill(AtLimit(report.shortage, _is_own(report.cgroup, job)), report.out_of_reach)
        case _:
            return None


def _is_own(cgroup: str, job: str) -> bool:
    """Whether the limit at this cgroup is the job's."""
    return bool(job) and os.path.basename(cgroup) == job
