# SPDX-License-Identifier: LGPL-2.1-or-later
"""`slicemgr jobs`: how many steps of a build fit into memory at once, for `make -j$(slicemgr jobs)`."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from slicemgr.build.learned import FILE_NAME, LearnedError, LearnedSteps
from slicemgr.cli import reading
from slicemgr.cli.exit_codes import ExitCode
from slicemgr.cli.printable import encodable, one_line, printable, say, shown
from slicemgr.kernel.meminfo import read_total_and_available
from slicemgr.model.quantity import QuantityError, format_size, parse_amount
from slicemgr.model.spec import JobSpec, SpecError
from slicemgr.policy.limits import high_below, resolve
from slicemgr.policy.safe_jobs import Headroom, held_bytes, safe_jobs, tightest, unknown_bytes
from slicemgr.service.free_memory import cgroup_rooms, machine_room

SCHEMA: Final = "slicemgr.jobs/1"

_PROG: Final = "slicemgr jobs"

_MOST_PEAKS: Final = 1000
"""More than any machine has cores, and enough for an average of a project that was never built here."""

_DESCRIPTION: Final = """\
Print how many steps of a build may run at once so that they fit into memory, whichever those are: at most one for each
core. It goes by what 'slicemgr run' has learnt of the steps in DIRECTORY and below it (the current one)."""

_EPILOG: Final = """\
SIZE is bytes, or has a suffix of 1024s (600M, 1.5G); PCT is a percentage of the machine's memory (60%). With --max it
is for a job of that limit; always within what is free on the machine, less a tenth, and below the limits of the cgroup
that this runs in and of all above it. Page cache is no obstacle. A step that nothing is known of counts as 512M, or as
the average of the fattest that were learnt elsewhere if that is more.

Alone on standard output is the number; why it is that is said on a terminal, or with --explain.

with --json: {"schema": "slicemgr.jobs/1", "jobs", "cores", "directory", "room", "bound_by", "limits", "known_steps",
"each_unknown", "held"}; sizes in bytes. "limits" is all that was looked at, "room" and "bound_by" are of the tightest;
"held" is what so many of the fattest hold together.

example: make -j$(slicemgr jobs)
         slicemgr run --max 4G -- ninja -j$(slicemgr jobs --max 4G)"""


@dataclass(frozen=True, slots=True)
class _Answer:
    jobs: int
    cores: int
    directory: str
    rooms: tuple[Headroom, ...]
    peaks: tuple[int, ...]
    each_unknown_bytes: int

    @property
    def held_bytes(self) -> int:
        return held_bytes(self.jobs, self.peaks, self.each_unknown_bytes)


def main(arguments: Sequence[str]) -> int:
    """Run the verb; returns the exit status."""
    parser = reading.parser("jobs", _DESCRIPTION, _EPILOG, "[OPTIONS] [DIRECTORY]")
    parser.add_argument("directory", nargs="?", metavar="DIRECTORY", help="where the build runs (here)")
    parser.add_argument("--max", metavar="SIZE|PCT", help="for 'slicemgr run --max SIZE|PCT'")
    parser.add_argument("--explain", action="store_true", help="say why on stderr, also if that is no terminal")
    options = parser.parse_args(arguments)
    directory = "." if options.directory is None else options.directory
    if not os.path.isdir(directory):
        return reading.refuse(_PROG, f"'{shown(directory)}' is no directory", "the one in which the build runs")
    total, available = read_total_and_available()
    try:
        own = _own_room(options.max, total, available)
    except (QuantityError, SpecError) as error:
        say(one_line(str(error)), prog=_PROG)
        return ExitCode.USAGE
    path = os.path.join(reading.steps_directory_of(options), FILE_NAME)

    def read() -> str:
        rooms = (*own, machine_room(total, available), *cgroup_rooms(os.getpid()))
        answer = _answer(path, os.path.realpath(directory), rooms)
        if options.json:
            return reading.as_json(SCHEMA, _data(answer))
        if options.explain or sys.stderr.isatty():
            say(_why(answer), prog=_PROG)
        return f"{answer.jobs}\n"

    return reading.run_reading(_PROG, read)


def _own_room(text: str | None, total_bytes: int, available_bytes: int) -> tuple[Headroom, ...]:
    """What a job with this limit may take before its memory.high. Raises QuantityError, SpecError, as `run` would."""
    if text is None:
        return ()
    try:
        spec = JobSpec(("make",), "make", max=parse_amount(text))
    except QuantityError as error:
        raise QuantityError(f"--max: {error}") from error
    limit = resolve(spec, total_bytes, available_bytes)[1]
    return () if limit is None else (Headroom(high_below(limit), f"--max {format_size(limit)}"),)


def _answer(path: str, directory: str, rooms: tuple[Headroom, ...]) -> _Answer:
    """A store that can't be read is no reason to give no number: then nothing is known."""
    cores = len(os.sched_getaffinity(0))
    peaks: tuple[int, ...] = ()
    elsewhere: tuple[int, ...] = ()
    try:
        with LearnedSteps(path) as learned:
            peaks = tuple(step.profile.peak_bytes for step in learned.fattest(_MOST_PEAKS, directory))
            if not peaks:
                elsewhere = tuple(step.profile.peak_bytes for step in learned.fattest(_MOST_PEAKS))
    except LearnedError as error:
        say(printable(str(error)), prog=_PROG)
    each_unknown = unknown_bytes(elsewhere)
    jobs = safe_jobs(cores, tightest(rooms).bytes_left, peaks, each_unknown)
    return _Answer(jobs, cores, directory, rooms, peaks, each_unknown)


def _why(answer: _Answer) -> str:
    room = tightest(answer.rooms)
    cores = f"{answer.jobs} of {answer.cores} cores" if answer.jobs < answer.cores else f"all {answer.cores} cores"
    free = f"{format_size(max(0, room.bytes_left))} to take ({printable(room.what)})"
    where = f"'{printable(answer.directory)}'"
    if not answer.peaks:
        return f"{cores}: {free}; nothing is known of steps in {where}: {format_size(answer.each_unknown_bytes)} each"
    steps = "the fattest step" if answer.jobs == 1 else f"the {answer.jobs} fattest steps"
    holds = "holds" if answer.jobs == 1 else "hold"
    return f"{cores}: {free}; {steps} in {where} {holds} {format_size(answer.held_bytes)}"


def _data(answer: _Answer) -> dict[str, object]:
    room = tightest(answer.rooms)
    return {
        "jobs": answer.jobs,
        "cores": answer.cores,
        "directory": encodable(answer.directory),
        "room": room.bytes_left,
        "bound_by": encodable(room.what),
        "limits": [{"what": encodable(each.what), "room": each.bytes_left} for each in answer.rooms],
        "known_steps": len(answer.peaks),
        "each_unknown": answer.each_unknown_bytes,
        "held": answer.held_bytes,
    }
