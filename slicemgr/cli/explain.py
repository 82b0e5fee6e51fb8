# SPDX-License-Identifier: LGPL-2.1-or-later
"""`slicemgr explain`: who would die now, and why; who next; and why the others not."""

import os
from collections.abc import Mapping, Sequence
from typing import Final

from slicemgr.cli import asking, reading
from slicemgr.cli.explain_told import as_data, as_lines, called, short
from slicemgr.cli.printable import encodable, printable, printable_command, shown
from slicemgr.cli.reading import Manager
from slicemgr.cli.report_lines import who
from slicemgr.cli.table import table
from slicemgr.kernel import procfs
from slicemgr.kernel.cgroupfs import cgroup_of
from slicemgr.kernel.errors import CgroupGoneError, CgroupNotPermittedError, NotPermittedError, ProcessGoneError
from slicemgr.kernel.machine import machine_reading
from slicemgr.kernel.procfs import PAGE_BYTES
from slicemgr.model.process import ProcessSample
from slicemgr.model.quantity import format_duration, format_size
from slicemgr.model.slice import VictimRule
from slicemgr.policy.badness import held_pages
from slicemgr.policy.ranking import Ranking
from slicemgr.policy.victim import Candidate
from slicemgr.service.explanation import (
    AmbiguousTargetError,
    Explanation,
    explain,
    find,
    is_managed,
    pid_in,
    spec_for,
)
from slicemgr.service.overview import SYSTEM_ROOT, UnknownTargetError, user_root

SCHEMA: Final = "slicemgr.explain/1"

SHOWN_NEXT: Final = 5
SHOWN_SPARED: Final = 8

_PROG: Final = "slicemgr explain"

_JUDGED: Final = ("rule", "grace_seconds", "limit", "usage", "victim", "for_parent", "next", "later", "spared")
"""The keys of --json that only a judgement can fill."""

_DESCRIPTION: Final = """\
Show which process would be killed now if this slice or job ran out of memory, by which rule, with how many points; who
would be next; and who never, and why. It is the guard's own code at work, with nobody killed. For a PID its job is
judged, or else its slice."""

_EPILOG: Final = """\
POINTS are pages: resident memory, swap and page tables, and a thousandth of the limit for each point of oom_score_adj
beyond what most of them have. HOLDS is without mapped files, which the kernel can drop.

with --json: {"schema": "slicemgr.explain/1", "cgroup", "managed", "rule", "grace_seconds", "limit", "usage", "victim",
"for_parent", "next", "later", "spared"}; sizes in bytes, points in pages. All keys are always there: what is not known,
because the cgroup is in no managed slice or is not there, is null.

example: slicemgr explain build"""


def main(arguments: Sequence[str]) -> int:
    """Run the verb; returns the exit status."""
    parser = reading.parser("explain", _DESCRIPTION, _EPILOG, "[OPTIONS] SLICE|JOB|PID")
    parser.add_argument("target", metavar="SLICE|JOB|PID", help="what is to be judged")
    options = parser.parse_args(arguments)
    manager = reading.chosen_manager(options)
    try:
        return reading.run_reading(_PROG, lambda: _read_or_ask(manager, options.target, as_json=options.json))
    except UnknownTargetError as error:
        hint = f"'slicemgr explain {error.nearest}'" if error.nearest else "a name that 'slicemgr status' shows"
        return reading.refuse(_PROG, f"no slice, job or process '{shown(error.name)}'", hint)
    except AmbiguousTargetError as error:
        units = " or ".join(f"'{printable(unit)}'" for unit in error.units[:3])
        return reading.refuse(_PROG, f"several jobs are called '{shown(error.name)}'", units)
    except ProcessGoneError as error:
        return reading.refuse(_PROG, f"there is no process {error.pid}", "a name that 'slicemgr status' shows")


def _read_or_ask(manager: Manager, target: str, *, as_json: bool) -> str:
    """Where others' processes are hidden from us (hidepid), the system's daemon sees them. Raises RemoteError too."""
    try:
        return _read(manager, target, as_json=as_json)
    except (NotPermittedError, CgroupNotPermittedError, ProcessGoneError):
        told = asking.explanation_of_daemon(manager.system_bus_address, target) if _are_hidden() else None
        if told is None:
            raise
    if as_json:
        return reading.as_json(
            SCHEMA, {**_data_without(str(told.get("control-group", "")), managed=True), **as_data(told)}
        )
    return "".join(f"{line}\n" for line in as_lines(told, reading.terminal_width()))


def _are_hidden() -> bool:
    """Whether we see our own processes only. Everybody sees pid 1 elsewhere."""
    try:
        procfs.read_stat(1)
    except procfs.UNSEEN:
        return True
    return False


def _read(manager: Manager, target: str, *, as_json: bool) -> str:
    pid = pid_in(target)
    if pid is not None:
        manager = _manager_around(pid, manager)
    slices = reading.look_around(manager)
    path = find(target, slices)
    if not is_managed(path, slices):
        if as_json:
            return reading.as_json(SCHEMA, _data_without(path, managed=False))
        if pid is not None:
            return f"process {pid} is in {printable(path)}, which is in no managed slice: slicemgr never touches it\n"
        return f"{short(path)} is in no configuration: only the jobs in it are guarded, each by itself\n"
    uid = reading.uid_of_manager(path)
    spec = spec_for(path, SYSTEM_ROOT if uid is None else user_root(uid), manager.specs)
    try:
        explanation = explain(
            path,
            spec,
            ourselves=_guard_and_ancestors(manager),
            machine_total_bytes=machine_reading().total_bytes,
            mount=manager.mount,
            next_ones=SHOWN_NEXT,
            asking_pid=os.getpid(),
        )
    except CgroupGoneError:
        if as_json:
            return reading.as_json(SCHEMA, _data_without(path, managed=True))
        return f"nobody: {called(path)} is not there, because nothing runs in it\n"
    if uid != os.geteuid() and _seen(explanation.ranking) < explanation.usage.members and _are_hidden():
        raise CgroupNotPermittedError(path, "see all processes of")
    if as_json:
        return reading.as_json(SCHEMA, _data(explanation))
    return "".join(f"{line}\n" for line in _lines(explanation))


def _manager_around(pid: int, manager: Manager) -> Manager:
    """A user who asks for a process of nobody's or another's: the system's, which sees all. Raises ProcessGoneError."""
    uid = reading.uid_of_manager(cgroup_of(pid))
    return manager if uid == manager.uid or manager.uid is None else reading.manager_of(None, os.environ)


def _guard_and_ancestors(manager: Manager) -> frozenset[int]:
    """Whom the guard spares for its own sake; the guard of a lone job is not in that job."""
    _, daemon = reading.guarding_daemon(manager)
    return frozenset() if daemon.pid is None else procfs.ancestors_of(daemon.pid)


def _seen(ranking: Ranking) -> int:
    return (ranking.victim is not None) + len(ranking.next_ones) + ranking.later + len(ranking.spared)


def _lines(told: Explanation) -> list[str]:
    place = called(told.path)
    ranking = told.ranking
    if ranking.victim is None:
        none = "nobody can be killed" if ranking.spared else "there is nobody"
        first = f"{none} in {place}"
    else:
        first = f"if {place} ran out of memory now, {who(ranking.victim.process)} would go: {_why(told, ranking)}"
    lines = [first]
    if told.victim_command_line:
        lines.append(f"it runs: {printable_command(told.victim_command_line)}")
    lines += ["", _rule_line(told), _usage_line(told), *_note(told)]
    rows = _rows(ranking)
    if rows:
        heading = ("", "POINTS", "HOLDS", "SWAP", "ADJ", "PID", "NAME")
        lines += ["", *table([heading, *rows], right=range(1, 6), width=reading.terminal_width())]
    else:
        lines.append("")
    if ranking.later:
        lines.append(f"later   {ranking.later} more")
    return lines + _spared_lines(ranking)


def _why(told: Explanation, ranking: Ranking) -> str:
    """One sentence for the rule's answer."""
    if ranking.for_parent is not None:
        parent = who(ranking.for_parent.process)
        return f"{parent} has the most points, and of its children this one has the most, so the parent lives"
    if told.rule is VictimRule.WHOLE_JOB:
        return "it has the most points, and its whole job goes with it"
    if told.rule is VictimRule.HIGHEST_BADNESS_CHILD:
        return "it has the most points, and no child to go in its place"
    return "it has the most points"


def _rule_line(told: Explanation) -> str:
    whose = "the machine's memory" if told.limit_path is None else f"{told.limit_file} of {called(told.limit_path)}"
    asked = f", SIGTERM {format_duration(told.grace_seconds)} before SIGKILL" if told.grace_seconds else ""
    return f"rule: {told.rule.value}{asked}; measured against {format_size(told.limit_bytes)}, {whose}"


def _usage_line(told: Explanation) -> str:
    usage = told.usage
    used = "an unknown amount" if usage.current_bytes is None else format_size(usage.current_bytes)
    swap = f", {format_size(usage.swap_bytes)} in swap" if usage.swap_bytes else ""
    processes = "1 process" if usage.members == 1 else f"{usage.members} processes"
    return f"it uses {used}{swap}, in {processes}"


def _note(told: Explanation) -> list[str]:
    """The limit that is reached first decides among whom one is chosen."""
    if told.limit_path in {None, told.path}:
        return []
    above = short(told.limit_path or "")
    return [f"but the limit of {above} is the tighter one, and all in that are judged; try 'slicemgr explain {above}'"]


def _rows(ranking: Ranking) -> list[tuple[str, ...]]:
    rows = []
    if ranking.victim is not None:
        rows.append(_row("victim", ranking.victim))
    rows += [_row(f"then {at}", each) for at, each in enumerate(ranking.next_ones, start=2)]
    return rows


def _row(place: str, candidate: Candidate) -> tuple[str, ...]:
    process = candidate.process
    return (
        place,
        str(candidate.points),
        format_size(held_pages(process) * PAGE_BYTES),
        format_size(process.swap_pages * PAGE_BYTES),
        str(process.oom_score_adj),
        str(process.pid),
        printable(process.name),
    )


def _spared_lines(ranking: Ranking) -> list[str]:
    lines = [f"never   {who(process)}: it is {why.value}" for process, why in ranking.spared[:SHOWN_SPARED]]
    left = len(ranking.spared) - SHOWN_SPARED
    return [*lines, f"never   {left} more; --json has all"] if left > 0 else lines


def _data_without(path: str, *, managed: bool) -> Mapping[str, object]:
    """The same keys where nobody is judged: who reads them by name meets none that is missing."""
    return {"cgroup": encodable(path), "managed": managed, **dict.fromkeys(_JUDGED)}


def _data(told: Explanation) -> Mapping[str, object]:
    ranking = told.ranking
    return {
        "cgroup": encodable(told.path),
        "managed": True,
        "rule": told.rule.value,
        "grace_seconds": told.grace_seconds,
        "limit": {
            "bytes": told.limit_bytes,
            "file": told.limit_file or None,
            "cgroup": None if told.limit_path is None else encodable(told.limit_path),
        },
        "usage": reading.usage_data(told.usage),
        "victim": None
        if ranking.victim is None
        else {**_candidate_data(ranking.victim), "command_line": reading.texts(told.victim_command_line)},
        "for_parent": None if ranking.for_parent is None else _candidate_data(ranking.for_parent),
        "next": [_candidate_data(each) for each in ranking.next_ones],
        "later": ranking.later,
        "spared": [{**_process_data(process), "why": why.value} for process, why in ranking.spared],
    }


def _candidate_data(candidate: Candidate) -> dict[str, object]:
    process = candidate.process
    return {
        **_process_data(process),
        "points": candidate.points,
        "held_bytes": held_pages(process) * PAGE_BYTES,
        "rss_bytes": process.rss_pages * PAGE_BYTES,
        "swap_bytes": process.swap_pages * PAGE_BYTES,
        "oom_score_adj": process.oom_score_adj,
    }


def _process_data(process: ProcessSample) -> dict[str, object]:
    return {"pid": process.pid, "start_ticks": process.identity.start_ticks, "comm": encodable(process.name)}
