# SPDX-License-Identifier: LGPL-2.1-or-later
"""`slicemgr monitor`: what a daemon tells, as it happens."""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from slicemgr.bus.errors import RemoteError
from slicemgr.cli import asking, bus_errors, reading
from slicemgr.cli.exit_codes import ExitCode
from slicemgr.cli.printable import say, write_out
from slicemgr.cli.report_lines import calendar
from slicemgr.cli.signal_lines import signal_data, signal_line

SCHEMA: Final = "slicemgr.monitor/1"

_PROG: Final = "slicemgr monitor"

_DESCRIPTION: Final = """\
Show what a daemon tells on its bus, one line each as it happens: jobs that begin and end, are paused and go on,
warnings before a kill, who was killed and why, limits that were changed, and levels of memory pressure. ^C ends it."""

_EPILOG: Final = """\
It waits for a daemon that is not there yet, or that is started anew, and says so on stderr. The system's daemon tells
everybody of all users' jobs, and nobody of command lines.

with --json: one object a line, {"schema": "slicemgr.monitor/1", "wall_seconds", "signal"} with the name of the signal,
and its arguments by their names, as in org.slicemgr1.xml: "object", "unit", "job", "slice", "session", "id",
"details", "limits", "level". "DaemonAdded" and "DaemonRemoved" tell whether there is one, the first of all.

exit status: 0 when it was told to end, or nobody reads it any more; 125 if there is no bus, or it goes.

example: slicemgr monitor --json | jq -r 'select(.signal == "ProcessKilled").details.name'"""


def main(arguments: Sequence[str]) -> int:
    """Run the verb until it is told to end; returns the exit status."""
    options = reading.parser("monitor", _DESCRIPTION, _EPILOG, "[OPTIONS]").parse_args(arguments)
    manager = reading.chosen_manager(options)
    showing = _Showing(manager, as_json=options.json)
    try:
        with asking.connect(manager.bus_address) as control:
            control.listen(heard=showing.heard, present=showing.present, reader=sys.stdout.fileno())
    except RemoteError as error:
        say(bus_errors.line_for(error, manager.word), prog=_PROG)
        return bus_errors.exit_code_for(error)
    return showing.status


class _Showing:
    """What is heard, to standard output."""

    def __init__(self, manager: reading.Manager, *, as_json: bool) -> None:
        self._manager = manager
        self._as_json = as_json
        self._has_been_there = False
        self.status: int = 0

    def heard(self, name: str, arguments: tuple[Any, ...]) -> bool:
        """Whether to go on."""
        if self._as_json:
            return self._write_json(signal_data(name, arguments))
        return self._write(f"{calendar(time.time())}  {signal_line(name, arguments)}\n")

    def present(self, is_there: bool) -> bool:
        """Whether to go on."""
        say(self._presence(is_there), prog=_PROG)
        self._has_been_there |= is_there
        return not self._as_json or self._write_json({"signal": "DaemonAdded" if is_there else "DaemonRemoved"})

    def _presence(self, is_there: bool) -> str:
        word = self._manager.word
        if is_there:
            return f"listening to the {word} daemon" + (", which is there again" if self._has_been_there else "")
        if self._has_been_there:
            return f"the {word} daemon has gone, waiting for it"
        line = bus_errors.no_daemon_line(word, ", waiting for one")
        whose, _ = reading.guarding_daemon(self._manager)
        return line if whose == word else f"{line}, or 'slicemgr monitor --system' for the one that guards you"

    def _write_json(self, data: Mapping[str, Any]) -> bool:
        line = json.dumps({"schema": SCHEMA, "wall_seconds": round(time.time(), 6), **data})
        return self._write(f"{line}\n")

    def _write(self, line: str) -> bool:
        error = write_out(line)
        if error is not None and not isinstance(error, BrokenPipeError):
            say(f"can't write: {error.strerror}; try another place", prog=_PROG)
            self.status = ExitCode.OWN_FAILURE
        return error is None
