# SPDX-License-Identifier: LGPL-2.1-or-later
"""The words of `slicemgr run` for what pacing has done, and the same as JSON. Heavy: imported when it has done some."""

from slicemgr.cli.printable import encodable, printable
from slicemgr.model.quantity import format_duration, format_size
from slicemgr.service.pacing_tally import FatStep, PacingSummary


def pacing_in_words(summary: PacingSummary) -> str:
    """`14 steps waited, 1 min 32 s in all`; empty if nobody waited."""
    if not summary.waited:
        return ""
    steps = "1 step waited" if summary.waited == 1 else f"{summary.waited} steps waited"
    return f"{steps}, {format_duration(summary.waited_seconds)} in all"


def fattest_in_words(summary: PacingSummary) -> str:
    """`fattest steps: 198.2M cc1plus big.cc, ...`; empty if nobody waited: then nobody cares."""
    if not summary.waited or not summary.fattest:
        return ""
    return "fattest steps: " + ", ".join(f"{format_size(each.peak_bytes)} {_name(each)}" for each in summary.fattest)


def pacing_as_data(summary: PacingSummary) -> dict[str, object]:
    """For --json."""
    return {
        "steps": summary.steps,
        "waited": summary.waited,
        "waited_seconds": round(summary.waited_seconds, 3),
        "stops": summary.stops,
        "most_running": summary.most_running,
        "peak_bytes": summary.peak_bytes,
        "budget_bytes": summary.budget_bytes,
        "cpu_seconds": round(summary.cpu_seconds, 3),
        "fattest": [
            {
                "comm": encodable(each.kind),
                "what": None if each.signature is None else encodable(each.signature.what),
                "directory": None if each.signature is None else encodable(each.signature.directory),
                "peak_bytes": each.peak_bytes,
            }
            for each in summary.fattest
        ],
    }


_LONGEST = 40
"""Characters of what a step makes: the end of a path tells more than its beginning."""


def _name(step: FatStep) -> str:
    what = "" if step.signature is None else printable(step.signature.what)
    shown = what if len(what) <= _LONGEST else f"…{what[1 - _LONGEST :]}"
    return f"{printable(step.kind)} {shown}".rstrip()
