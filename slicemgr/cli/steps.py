# SPDX-License-Identifier: LGPL-2.1-or-later
"""`slicemgr steps`: the fattest steps of builds, as they were learnt."""

import os
import time
from collections.abc import Sequence
from typing import Final

from slicemgr.build.learned import FILE_NAME, LearnedError, LearnedStep, LearnedSteps
from slicemgr.cli import reading
from slicemgr.cli.exit_codes import ExitCode
from slicemgr.cli.kills import whole_number
from slicemgr.cli.printable import encodable, printable, say, shown
from slicemgr.cli.report_lines import ago
from slicemgr.cli.table import cut, table
from slicemgr.model.quantity import format_duration, format_size

SCHEMA: Final = "slicemgr.steps/1"

_PROG: Final = "slicemgr steps"

_LIMIT: Final = 20

_LONGEST_WHAT: Final = 48
"""Columns on a terminal: the directory is to be seen, too."""

_DESCRIPTION: Final = """\
Show the steps of builds that held the most memory, the fattest first: how much that was, for how long they ran, what
they made, by which program, and where. With DIRECTORY only those that ran there or below it."""

_EPILOG: Final = """\
They are learnt by 'slicemgr run', by program, output and directory, and kept for half a year after they were seen last.
PEAK is of what can't be reclaimed: it rises at once when a step was bigger, and falls slowly. TIME is without what the
step waited. The next build of the same starts with this knowledge.

with --json: {"schema": "slicemgr.steps/1", "steps": [...]}, or with --forget {"schema", "forgotten": N}; of each step
"peak" in bytes, "rise_seconds" until it held that, "run_seconds", "program", "what", "directory", "runs", and
"last_seen", seconds since 1970.

example: slicemgr steps ~/src/kate"""


def main(arguments: Sequence[str]) -> int:
    """Run the verb; returns the exit status."""
    parser = reading.parser("steps", _DESCRIPTION, _EPILOG, "[OPTIONS] [DIRECTORY]")
    parser.add_argument("directory", nargs="?", metavar="DIRECTORY", help="only those that ran there or below (all)")
    parser.add_argument("--limit", metavar="N", help=f"show so many ({_LIMIT})")
    parser.add_argument("--forget", action="store_true", help="forget them instead, all of them")
    options = parser.parse_args(arguments)
    limit = _LIMIT if options.limit is None else whole_number(options.limit)
    if limit is None:
        parser.error(f"'{shown(options.limit)}' is no number of steps")
    if options.directory == "":
        parser.error("'' is no directory")
    directory = None if options.directory is None else os.path.realpath(options.directory)
    path = os.path.join(reading.steps_directory_of(options), FILE_NAME)

    def read() -> str:
        with LearnedSteps(path) as learned:
            if options.forget:
                return _forgotten(learned.forget(directory), as_json=options.json)
            steps = learned.fattest(limit, directory)
        if options.json:
            return reading.as_json(SCHEMA, {"steps": [_data(step) for step in steps]})
        return _for_people(steps, directory)

    try:
        return reading.run_reading(_PROG, read)
    except LearnedError as error:
        say(printable(str(error)), prog=_PROG)
        return ExitCode.OWN_FAILURE


def _forgotten(count: int, *, as_json: bool) -> str:
    if as_json:
        return reading.as_json(SCHEMA, {"forgotten": count})
    return f"forgot {count} step{'' if count == 1 else 's'}\n"


def _data(step: LearnedStep) -> dict[str, object]:
    return {
        "peak": step.profile.peak_bytes,
        "rise_seconds": round(step.profile.rise_seconds, 3),
        "run_seconds": round(step.profile.run_seconds, 3),
        "program": encodable(step.signature.program),
        "what": encodable(step.signature.what),
        "directory": encodable(step.signature.directory),
        "runs": step.runs,
        "last_seen": round(step.last_seen_seconds, 3),
    }


def _for_people(steps: Sequence[LearnedStep], directory: str | None) -> str:
    if not steps:
        where = "" if directory is None else f" in '{printable(directory)}'"
        return f"no step has been learnt{where} yet; try 'slicemgr run -- make -j20'\n"
    width = reading.terminal_width()
    now = time.time()
    rows = [("PEAK", "TIME", "RUNS", "SEEN", "PROGRAM", "WHAT", "DIRECTORY")]
    for step in steps:
        signature = step.signature
        what = printable(signature.what) or "-"
        rows.append(
            (
                format_size(step.profile.peak_bytes),
                format_duration(step.profile.run_seconds),
                str(step.runs),
                ago(now - step.last_seen_seconds),
                printable(signature.program) or "-",
                what if width is None else cut(what, _LONGEST_WHAT),
                printable(signature.directory) or "-",
            )
        )
    return "".join(f"{line}\n" for line in table(rows, right={0, 1, 2, 3}, width=width))
