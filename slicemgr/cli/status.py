# SPDX-License-Identifier: LGPL-2.1-or-later
"""`slicemgr status`: who guards, what the machine has left, the slices, their jobs, and the last things done."""

import time
from collections.abc import Sequence
from functools import partial
from typing import Final

from slicemgr.cli import asking, reading
from slicemgr.cli.asking import Told
from slicemgr.cli.list import job_data, size
from slicemgr.cli.printable import printable, printable_command, say, shown
from slicemgr.cli.reading import DaemonState, Manager
from slicemgr.cli.report_lines import ago, is_action, short_story
from slicemgr.cli.table import cut, table
from slicemgr.kernel.errors import NotSupportedError
from slicemgr.kernel.machine import machine_reading
from slicemgr.kernel.procfs import UNSEEN, footprint
from slicemgr.model.machine import MachineReading
from slicemgr.model.quantity import format_duration
from slicemgr.service.history import History, Past
from slicemgr.service.overview import JobOverview, SliceOverview, UnknownTargetError, Usage, find_slice
from slicemgr.service.record import Record, record_to_data

SCHEMA: Final = "slicemgr.status/1"

LAST_ACTIONS: Final = 3

_PROG: Final = "slicemgr status"

_DESCRIPTION: Final = """\
Show who guards, what memory the machine has left, the managed slices with the jobs in them, and what was killed last.
With SLICE only that one. It reads files of the kernel; no daemon is needed for it. What only a daemon knows is shown if
there is one, and answers at once on its bus."""

_EPILOG: Final = """\
USES is memory.current, page cache included; HIGH and MAX are memory.high and memory.max, '-' is no limit. STALL is how
much of the last ten seconds at least one process waited for memory (memory.pressure, some avg10).

with --json: {"schema": "slicemgr.status/1", "manager", "daemon", "machine", "slices", "last_actions",
"history_problem", "slices_problem", "rest_kept_by", "told_by_daemon"}; sizes in bytes. history_problem is why the last
actions can't be read, or null; slices_problem is why the slices can't be, as without cgroup v2, or null;
rest_kept_by is "system" where the system's daemon keeps what else was done in your slices and does not tell, or null.
told_by_daemon is {"version", "dry_run", "pressure_level", "degraded_reasons", "holds"}, or null where no daemon
answers on its bus; "pressure_level" of a slice and "paused" of a job are from it too.

example: slicemgr status build"""


def main(arguments: Sequence[str]) -> int:
    """Run the verb; returns the exit status."""
    parser = reading.parser("status", _DESCRIPTION, _EPILOG, "[OPTIONS] [SLICE]")
    parser.add_argument("slice", nargs="?", metavar="SLICE", help="only this slice")
    options = parser.parse_args(arguments)
    manager = reading.chosen_manager(options)
    try:
        return reading.run_reading(_PROG, lambda: _read(manager, options.slice, as_json=options.json))
    except UnknownTargetError as error:
        hint = f"'slicemgr status {error.nearest}'" if error.nearest else "'slicemgr status'"
        return reading.refuse(_PROG, f"no slice '{shown(error.name)}'", hint)


def _read(manager: Manager, only: str | None, *, as_json: bool) -> str:
    try:
        slices, slices_problem = reading.look_around(manager), ""
    except NotSupportedError as error:  # As without cgroup v2: of all but the slices there is still something to tell.
        if only is not None:
            raise
        slices, slices_problem = (), printable(str(error))
        say(slices_problem, prog=_PROG)
    if only is not None:
        slices = (find_slice(only, slices),)
    machine = machine_reading()
    whose, daemon = reading.guarding_daemon(manager)
    told = asking.told_by(reading.bus_of(manager, whose, daemon))
    names = None if only is None else frozenset(each.unit for each in slices)
    rest = reading.rest_kept_by(manager, whose)
    try:
        past, history_problem = _last_actions(manager, names), ""
        if rest is not None and told is not None:
            wanted = partial(_is_wanted, names)
            whole = asking.with_rest(past, manager.system_bus_address, limit=LAST_ACTIONS, newest=50, wanted=wanted)
            past, rest = (past, rest) if whole is None else (whole, None)
    except OSError as error:
        past, history_problem = Past((), 0), error.strerror or str(error)
    if as_json:
        problems = {"history_problem": history_problem or None, "slices_problem": slices_problem or None}
        data = _data(manager, whose, daemon, machine, slices, past, told)
        return reading.as_json(SCHEMA, {**data, **problems, "rest_kept_by": rest})
    width = reading.terminal_width()
    lines = [
        _who_guards(manager, whose, daemon) + (": a dry run, it ends nobody" if told and told.is_dry_run else ""),
        _machine_line(machine),
        *_told_lines(told, slices, manager),
        "",
        *([] if slices_problem else [*_slice_lines(slices, manager, width, told), ""]),
        *_action_lines(past, history_problem, rest),
    ]
    return "".join(f"{line if width is None else cut(line, width)}\n" for line in lines)


def _last_actions(manager: Manager, names: frozenset[str] | None) -> Past:
    """Raises OSError."""
    return History(manager.state_directory).read(limit=LAST_ACTIONS, wanted=partial(_is_wanted, names))


def _is_wanted(names: frozenset[str] | None, record: Record) -> bool:
    return is_action(record) and (names is None or record.slice in names)


def _told_lines(told: Told | None, slices: Sequence[SliceOverview], manager: Manager) -> list[str]:
    """What only the daemon knows, if there is something of it."""
    if told is None:
        return []
    levels = [(told.levels.get(each.path, "none"), reading.slice_name(each, manager)) for each in slices]
    pressed = ", ".join(f"{printable(level)} in {name}" for level, name in levels if level != "none")
    lines = [f"memory pressure: {pressed}"] if pressed else []
    for hold in told.holds:
        what, reason, who = (printable(str(hold.get(key, ""))) for key in ("what", "reason", "application-id"))
        lines.append(f"held: {what}, for '{reason}'" + (f", by {who}" if who else ""))
    return lines + [f"not in force: {printable(each)}" for each in told.degraded]


def _who_guards(manager: Manager, whose: str, daemon: DaemonState) -> str:
    if daemon.listens:
        return f"guarded by the {whose} daemon, pid {daemon.pid}{_cost_of(daemon.pid)}"
    if daemon.problem:
        return f"the {manager.word} daemon can't be asked: {daemon.problem}"
    start = "systemctl start slicemgr" if manager.uid is None else "systemctl --user start slicemgr"
    return f"no {manager.word} daemon: each job guards itself; try '{start}'"


def _cost_of(pid: int | None) -> str:
    """What the daemon takes for itself: it is a fair question to somebody who counts other people's memory."""
    try:
        cost = footprint(pid or 0)
    except UNSEEN:
        return ""
    cpu, age = format_duration(cost.cpu_seconds), format_duration(cost.age_seconds)
    return f", {size(cost.rss_bytes)}, {cpu} of CPU time in {age}"


def _machine_line(machine: MachineReading) -> str:
    line = f"memory: {size(machine.available_bytes)} available of {size(machine.total_bytes)}"
    if machine.swap_total_bytes == 0:
        return f"{line}; no swap"
    used = machine.swap_total_bytes - machine.swap_free_bytes
    line += f"; swap: {size(used)} used of {size(machine.swap_total_bytes)}"
    if machine.zram_used_bytes and machine.zram_memory_bytes is not None:
        line += f" (zram takes {size(machine.zram_memory_bytes)} for {size(machine.zram_used_bytes)})"
    return line


def _slice_lines(slices: Sequence[SliceOverview], manager: Manager, width: int | None, told: Told | None) -> list[str]:
    """A row for each slice and job, and below a job's row what it is."""
    paused = {} if told is None else told.paused
    rows: list[tuple[str, ...]] = [("SLICE, JOB", "USES", "HIGH", "MAX", "SWAP", "STALL", "PROCS")]
    below: dict[int, str] = {}
    for each in slices:
        name = reading.slice_name(each, manager)
        if each.kind is None:
            name += " (not configured)"
        rows.append((name, *_figures(each.usage)))
        for job in each.jobs:
            rows.append((f"  {cut(printable(job.name), 28)}", *_figures(job.usage)))
            below[len(rows) - 1] = _job_line(job, "paused; " if paused.get(job.path) else "")
    lines = []
    for at, line in enumerate(table(rows, right=range(1, 7), width=width)):
        lines.append(line)
        if at in below:
            lines.append(below[at])
    return lines


def _figures(usage: Usage | None) -> tuple[str, ...]:
    if usage is None:
        return ("-", "-", "-", "-", "-", "none")
    stalled = "-" if usage.stalled_percent is None else f"{usage.stalled_percent:.0f}%"
    sizes = (usage.current_bytes, usage.high_bytes, usage.max_bytes, usage.swap_bytes)
    return (*(size(each) for each in sizes), stalled, str(usage.members))


def _job_line(job: JobOverview, state: str) -> str:
    age = "" if job.age_seconds is None else f"for {format_duration(job.age_seconds)}"
    if job.leader_pid is None:
        return f"    {state}{age or 'ending'}; its command has ended"
    doing = f": {printable_command(job.command_line)}" if job.command_line else ""
    return f"    {state}{age}, pid {job.leader_pid}{doing}"


def _action_lines(past: Past, problem: str, rest: str | None) -> list[str]:
    rest_lines = [] if rest is None else [reading.REST_LINE]
    if problem:
        return [f"what was done last can't be read: {problem}", *rest_lines]
    if not past.records:
        return [
            "nothing has been killed yet" if rest is None else f"your own history has no kills; {reading.REST_LINE}"
        ]
    now = time.time()
    stories = [("", ago(now - record.wall_seconds), short_story(record)) for record in past.records]
    return ["last actions ('slicemgr kills' tells why):", *table(stories, right={1}), *rest_lines]


def _data(
    manager: Manager,
    whose: str,
    daemon: DaemonState,
    machine: MachineReading,
    slices: Sequence[SliceOverview],
    past: Past,
    told: Told | None,
) -> dict[str, object]:
    return {
        "manager": manager.word,
        "daemon": {"manager": whose, "listens": daemon.listens, "pid": daemon.pid, "problem": daemon.problem},
        "machine": {
            "memory_total": machine.total_bytes,
            "memory_available": machine.available_bytes,
            "swap_total": machine.swap_total_bytes,
            "swap_free": machine.swap_free_bytes,
            "zram_used": machine.zram_used_bytes,
            "zram_memory": machine.zram_memory_bytes,
            "stalled_percent": None if machine.pressure is None else machine.pressure.some.avg10,
        },
        "slices": [_slice_data(each, told) for each in slices],
        "last_actions": [record_to_data(record) for record in past.records],
        "told_by_daemon": None if told is None else _told_data(told),
    }


def _told_data(told: Told) -> dict[str, object]:
    return {
        "version": told.version,
        "dry_run": told.is_dry_run,
        "pressure_level": told.pressure_level,
        "degraded_reasons": list(told.degraded),
        "holds": [{key.replace("-", "_"): value for key, value in hold.items()} for hold in told.holds],
    }


def _slice_data(each: SliceOverview, told: Told | None) -> dict[str, object]:
    levels, paused = ({}, {}) if told is None else (told.levels, told.paused)
    return {
        "unit": each.unit,
        "cgroup": each.path,
        "kind": None if each.kind is None else each.kind.value,
        "exists": each.usage is not None,
        **({} if each.usage is None else reading.usage_data(each.usage)),
        "pressure_level": levels.get(each.path),
        "jobs": [job_data(job, each, paused.get(job.path)) for job in each.jobs],
    }
