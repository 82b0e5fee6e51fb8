# SPDX-License-Identifier: LGPL-2.1-or-later
"""An explanation as the system's daemon tells it over its bus (Manager.Explain in bus/org.slicemgr1.xml): less than
what the files tell, since it is for those who can't read them. And what a cgroup is called."""

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from slicemgr.cli.printable import printable, printable_command
from slicemgr.cli.table import table
from slicemgr.model.quantity import format_size
from slicemgr.service.overview import is_job_scope, job_name

_Told: TypeAlias = Mapping[str, Any]

_UNTOLD: Final = ("start_ticks", "rss_bytes", "swap_bytes", "oom_score_adj")
"""Of a process: the daemon keeps to what was asked."""
_UNTOLD_USAGE: Final = (
    "memory_swap_current", "memory_high", "memory_max", "memory_swap_max", "stalled_percent", "processes",
)  # fmt: skip


def called(path: str) -> str:
    """`job 'kate'`, or `build.slice`."""
    unit = path.rpartition("/")[2]
    return f"job '{printable(job_name(unit))}'" if is_job_scope(unit) else short(path)


def short(path: str) -> str:
    """`build.slice`, or the scope."""
    return printable(path.rpartition("/")[2] or "/")


def as_lines(told: _Told, width: int | None) -> list[str]:
    """For people."""
    place = called(str(told.get("control-group", "")))
    victim, runners_up, spared = told.get("victim"), told.get("runners-up", ()), told.get("spared", ())
    if victim:
        parent = told.get("instead-of")
        why = f"it goes in place of its parent {_who(parent)}" if parent else "it has the most points"
        lines = [f"if {place} ran out of memory now, {_who(victim)} would go: {why}"]
    else:
        lines = [f"{'nobody can be killed' if spared else 'there is nobody'} in {place}"]
    if victim and victim.get("command-line"):
        lines.append(f"it runs: {printable_command(victim['command-line'])}")
    limit_of = str(told.get("limit-of", ""))
    file = printable(str(told.get("limit-file", "")))
    whose = f"{file} of {called(limit_of)}" if limit_of else "the machine's memory"
    lines += [
        "",
        f"rule: {printable(str(told.get('rule', '')))}; measured against {_size(told, 'limit')}, {whose}",
        f"it uses {_size(told, 'memory-current')}, as the system's daemon says",
    ]
    rows = [_row("victim", victim)] if victim else []
    rows += [_row(f"then {at}", each) for at, each in enumerate(runners_up, start=2)]
    if rows:
        lines += ["", *table([("", "POINTS", "HOLDS", "PID", "NAME"), *rows], right=range(1, 4), width=width)]
    else:
        lines.append("")
    return lines + [f"never   {_who(each)}: it is {printable(str(each.get('why', '')))}" for each in spared]


def as_data(told: _Told) -> dict[str, object]:
    """For --json, under the keys of an explanation from files; what is not told is not in it."""
    victim, parent = told.get("victim"), told.get("instead-of")
    return {
        "rule": told.get("rule"),
        "limit": {
            "bytes": told.get("limit"),
            "file": told.get("limit-file") or None,
            "cgroup": told.get("limit-of") or None,
        },
        "usage": {**dict.fromkeys(_UNTOLD_USAGE), "memory_current": told.get("memory-current")},
        "victim": {**_candidate(victim), "command_line": list(victim.get("command-line", ()))} if victim else None,
        "for_parent": _candidate(parent) if parent else None,
        "next": [_candidate(each) for each in told.get("runners-up", ())],
        "spared": [{**_process(each), "why": each.get("why")} for each in told.get("spared", ())],
    }


def _row(place: str, process: _Told) -> tuple[str, ...]:
    name = printable(str(process.get("name", "")))
    return (place, str(process.get("points", 0)), _size(process, "held"), str(process.get("pid", 0)), name)


def _candidate(process: _Told) -> dict[str, object]:
    rest = dict.fromkeys(_UNTOLD[1:])
    return {**_process(process), "points": process.get("points"), "held_bytes": process.get("held"), **rest}


def _process(process: _Told) -> dict[str, object]:
    return {"pid": process.get("pid"), "start_ticks": None, "comm": process.get("name")}


def _who(process: _Told) -> str:
    return f"'{printable(str(process.get('name', '')))}' (pid {process.get('pid', 0)})"


def _size(told: _Told, key: str) -> str:
    value = told.get(key, 0)
    return format_size(value if isinstance(value, int) else 0)
