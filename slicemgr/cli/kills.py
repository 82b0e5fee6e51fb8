# SPDX-License-Identifier: LGPL-2.1-or-later
"""`slicemgr kills`: what was killed, and why."""

import time
from collections.abc import Sequence
from typing import Final

from slicemgr.cli import asking, reading
from slicemgr.cli.printable import say, shown
from slicemgr.cli.reading import Manager
from slicemgr.cli.report_lines import history_line, is_action
from slicemgr.config.values import parse_duration
from slicemgr.model.quantity import QuantityError
from slicemgr.service.history import History, Past
from slicemgr.service.record import record_to_data

SCHEMA: Final = "slicemgr.kills/1"

_PROG: Final = "slicemgr kills"

_DESCRIPTION: Final = """\
Show which processes were killed, the newest last: when, which, how much it held, why, in place of whom, in which job,
what that brought, and who would have been next. Kills of the kernel's own OOM killer are told as such."""

_EPILOG: Final = """\
DURATION is a number with a unit, or several: 90s, 10min, 2h, 1d 12h, 1w. The history is bounded: it keeps the last
thousand or so.

with --json: {"schema": "slicemgr.kills/1", "kills": [...], "skipped_lines": N, "rest_kept_by"}; each kill is a record
as it stands in the history, schema "slicemgr.record/1"; rest_kept_by is "system" where the system's daemon keeps what
else was done in your slices and does not tell, or null.

The system's history is root's, since command lines can hold secrets. Its daemon tells you of your own slices, and of
all if polkit allows it (org.slicemgr1.inspect): on a terminal it may ask for your password.

example: slicemgr kills --since 2h"""


def main(arguments: Sequence[str]) -> int:
    """Run the verb; returns the exit status."""
    parser = reading.parser("kills", _DESCRIPTION, _EPILOG, "[OPTIONS]")
    parser.add_argument("--since", metavar="DURATION", help="only those of the last DURATION (all)")
    parser.add_argument("-n", dest="count", metavar="N", help="only the last N (all)")
    options = parser.parse_args(arguments)
    since = count = None
    if options.since is not None and (since := duration(options.since)) is None:
        parser.error(f"'{shown(options.since)}' is no duration, such as 2h or 1d")
    if options.count is not None and (count := whole_number(options.count)) is None:
        parser.error(f"'{shown(options.count)}' is no number of kills")
    manager = reading.chosen_manager(options)

    def read() -> str:
        start = None if since is None else time.time() - since
        past, rest = _past(manager, start, count)
        if options.json:
            kills = [record_to_data(record) for record in past.records]
            return reading.as_json(SCHEMA, {"kills": kills, "skipped_lines": past.skipped, "rest_kept_by": rest})
        _tell_skipped(past)
        if not past.records:
            return f"{_nothing(options.since, rest)}\n"
        if rest is not None:
            say(reading.REST_LINE, prog=_PROG)  # Each line on stdout is a kill.
        return "".join(f"{history_line(record)}\n" for record in past.records)

    return reading.run_reading(_PROG, read)


def _past(manager: Manager, start: float | None, count: int | None) -> tuple[Past, str | None]:
    """What there is to tell, and who keeps what there is besides. Raises OSError, RemoteError."""
    try:
        past = History(manager.state_directory).read(limit=count, since_wall_seconds=start, wanted=is_action)
    except PermissionError:
        # The system's is root's; its daemon tells whom polkit allows it.
        address = reading.bus_of_daemon(manager) if manager.uid is None else ""
        told = asking.past_of_daemon(address, start)
        if told is None:
            raise
        return asking.joined(Past((), 0), told, count), None
    whose, daemon = reading.guarding_daemon(manager)
    rest = reading.rest_kept_by(manager, whose)
    if rest is None:
        return past, None
    address = reading.bus_of(manager, whose, daemon)
    whole = asking.with_rest(past, address, limit=count, since_wall_seconds=start)
    return (past, rest) if whole is None else (whole, None)


def duration(text: str) -> float | None:
    """`90s`, `1d 12h` in seconds; None if it is none."""
    try:
        return parse_duration(text)
    except QuantityError:
        return None


def whole_number(text: str) -> int | None:
    """Decimal digits, or None."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def _nothing(since: str | None, rest: str | None) -> str:
    if rest is None:
        return "nothing has been killed yet" if since is None else f"nothing was killed in the last {since}"
    within = "" if since is None else f" of the last {since}"
    return f"your own history has no kills{within}; {reading.REST_LINE}"


def _tell_skipped(past: Past) -> None:
    if past.skipped:
        lines = "a line" if past.skipped == 1 else f"{past.skipped} lines"
        say(f"skipped {lines} of the history: torn, or written by another version", prog=_PROG)
