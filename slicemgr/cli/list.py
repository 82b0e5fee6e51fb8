# SPDX-License-Identifier: LGPL-2.1-or-later
"""`slicemgr list`: the jobs that run, one a line."""

import sys
from collections.abc import Mapping, Sequence
from typing import Final

from slicemgr.cli import asking, reading
from slicemgr.cli.printable import encodable, printable, printable_command
from slicemgr.cli.reading import Manager
from slicemgr.cli.table import table
from slicemgr.model.quantity import format_duration, format_size
from slicemgr.service.overview import JobOverview, SliceOverview

SCHEMA: Final = "slicemgr.list/1"

_DESCRIPTION: Final = """\
Show the jobs that 'slicemgr run' has started and that still run, one a line: those of the slices' own manager, with
or without a daemon. A job without a cgroup of its own (see 'slicemgr run --help') is known to nobody else."""

_EPILOG: Final = """\
On a terminal there is a heading, sizes are rounded, and lines are cut to its width. Elsewhere, for scripts, there is
no heading, and each line has nine fields with a tab between: name, slice, unit, pid of the command (empty when it has
ended before what it started), bytes used, memory.max in bytes ('max' for none), processes, age in seconds, and the
command line. Tabs, newlines and backslashes in names are escaped as in C.

with --json: {"schema": "slicemgr.list/1", "jobs": [...]}; of each job "paused" is what the daemon says on its bus, or
null where none does."""


def main(arguments: Sequence[str]) -> int:
    """Run the verb; returns the exit status."""
    options = reading.parser("list", _DESCRIPTION, _EPILOG, "[OPTIONS]").parse_args(arguments)
    manager = reading.chosen_manager(options)

    def read() -> str:
        slices = reading.look_around(manager)
        if not (options.json or sys.stdout.isatty()):
            return _for_scripts(slices)
        told = asking.told_by(reading.bus_of_daemon(manager)) if any(each.jobs for each in slices) else None
        paused = {} if told is None else told.paused
        if options.json:
            jobs = [job_data(job, each, paused.get(job.path)) for each in slices for job in each.jobs]
            return reading.as_json(SCHEMA, {"jobs": jobs})
        return _for_people(slices, manager, paused)

    return reading.run_reading("slicemgr list", read)


def job_data(job: JobOverview, where: SliceOverview, paused: bool | None) -> dict[str, object]:
    """A job for --json. `paused`: None if nobody says."""
    return {
        "name": encodable(job.name),
        "slice": where.unit,
        "unit": encodable(job.unit),
        "cgroup": encodable(job.path),
        "pid": job.leader_pid,
        "command_line": reading.texts(job.command_line),
        "age_seconds": None if job.age_seconds is None else round(job.age_seconds, 3),
        "paused": paused,
        **reading.usage_data(job.usage),
    }


def size(number: int | None) -> str:
    """`612.3M`; a dash where there is no figure, or no limit."""
    return "-" if number is None else format_size(number)


def _for_scripts(slices: Sequence[SliceOverview]) -> str:
    return "".join("\t".join(_fields(job, each)) + "\n" for each in slices for job in each.jobs)


def _fields(job: JobOverview, where: SliceOverview) -> tuple[str, ...]:
    usage = job.usage
    return (
        printable(job.name),
        printable(where.unit),
        printable(job.unit),
        "" if job.leader_pid is None else str(job.leader_pid),
        "" if usage.current_bytes is None else str(usage.current_bytes),
        "max" if usage.max_bytes is None else str(usage.max_bytes),
        str(usage.members),
        "" if job.age_seconds is None else f"{job.age_seconds:.0f}",
        printable_command(job.command_line, longest=4096),
    )


def _for_people(slices: Sequence[SliceOverview], manager: Manager, paused: Mapping[str, bool]) -> str:
    rows = [("NAME", "SLICE", "PID", "USES", "MAX", "PROCS", "AGE", "COMMAND")]
    for each in slices:
        rows += [
            (
                printable(job.name) + (" (paused)" if paused.get(job.path) else ""),
                reading.slice_name(each, manager),
                "-" if job.leader_pid is None else str(job.leader_pid),
                size(job.usage.current_bytes),
                size(job.usage.max_bytes),
                str(job.usage.members),
                "-" if job.age_seconds is None else format_duration(job.age_seconds),
                printable_command(job.command_line),
            )
            for job in each.jobs
        ]
    if len(rows) == 1:
        return "no jobs\n"
    lines = table(rows, right={2, 3, 4, 5, 6}, width=reading.terminal_width())
    return "".join(f"{line}\n" for line in lines)
