# SPDX-License-Identifier: LGPL-2.1-or-later
"""The signals of a daemon (bus/org.slicemgr1.xml), as a line for people each, and as data. Knows no GLib."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

from slicemgr.bus.objects import NO_LIMIT, ROOT
from slicemgr.cli.limit_settings import LIMITS
from slicemgr.cli.printable import printable, printable_command
from slicemgr.model.decision import Resource
from slicemgr.model.object_path import name_of
from slicemgr.model.quantity import format_size
from slicemgr.service.overview import is_job_scope, job_name
from slicemgr.service.report import KillOutcome

ARGUMENTS: Final[Mapping[str, tuple[str, ...]]] = {
    "JobAdded": ("unit", "job"),
    "JobRemoved": ("unit", "job"),
    "SessionAdded": ("id", "session"),
    "SessionRemoved": ("id", "session"),
    "Warning": ("object", "details"),
    "ProcessKilled": ("object", "details"),
    "NobodyToEnd": ("object", "details"),
    "JobPaused": ("job", "details"),
    "JobResumed": ("job", "details"),
    "LimitsChanged": ("object", "limits"),
    "PressureLevelChanged": ("slice", "level"),
    "HoldReleased": ("cookie",),
}
"""Their names, as the interface has them. What is not here is of a daemon that is newer."""

Details: TypeAlias = Mapping[str, Any]


def signal_data(name: str, arguments: Sequence[Any]) -> dict[str, Any]:
    """For --json: the arguments by their names; those of an unknown signal as a list."""
    names = ARGUMENTS.get(name)
    if names is None or len(names) != len(arguments):
        return {"signal": name, "arguments": list(arguments)}
    return {"signal": name, **dict(zip(names, arguments, strict=True))}


def signal_line(name: str, arguments: Sequence[Any]) -> str:
    """`job 'make' has begun`; a signal that is not known by its name alone."""
    names = ARGUMENTS.get(name)
    if names is None or len(names) != len(arguments):
        return f"{printable(name)}: a signal of a newer daemon"
    told = dict(zip(names, arguments, strict=True))
    match name:
        case "JobAdded" | "JobRemoved":
            return f"{_called(told['job'])} has {'begun' if name == 'JobAdded' else 'ended'}"
        case "SessionAdded" | "SessionRemoved":
            return f"session '{printable(told['id'])}' has {'begun' if name == 'SessionAdded' else 'ended'}"
        case "JobPaused" | "JobResumed":
            return f"{_called(told['job'])} {'is paused' if name == 'JobPaused' else 'goes on'}"
        case "LimitsChanged":
            return f"{_called(told['object'])} has other limits: {_limits(told['limits'])}"
        case "PressureLevelChanged":
            return f"{_called(told['slice'])}: memory pressure is {printable(told['level'])}"
        case "Warning":
            return _warning(told["object"], told["details"])
        case "ProcessKilled":
            return _kill(told["object"], told["details"])
        case "NobodyToEnd":
            return _nobody(told["object"], told["details"])
        case _:
            return f"hold {told['cookie']} is no more"


def _called(path: str) -> str:
    """`job 'make'`, `build`, `build (uid 1000)`."""
    *above, last = path.removeprefix(f"{ROOT}/").split("/")
    unit = name_of(last)
    name = f"job '{printable(job_name(unit))}'" if is_job_scope(unit) else printable(unit.removesuffix(".slice"))
    owner = above[1].removeprefix("u") if len(above) > 1 and above[0] == "users" else ""
    return f"{name} (uid {printable(owner)})" if owner else name


def _place(path: str, details: Details) -> str:
    """The same; where that object is only the daemon itself, because nobody manages the cgroup, the cgroup."""
    return printable(str(details.get("control-group", "the machine"))) if path == ROOT else _called(path)


def _limits(limits: Mapping[str, int]) -> str:
    by_property = {each.unit_property: each for each in LIMITS}
    texts = []
    for name, value in limits.items():
        limit = by_property.get(name)
        known = None if value == NO_LIMIT else value
        texts.append(f"{printable(name)} {value}" if limit is None else f"{limit.key} {limit.show(known)}")
    return ", ".join(texts)


def _warning(path: str, details: Details) -> str:
    used, high = format_size(_number(details, "memory-current")), format_size(_number(details, "memory-high"))
    place = _place(path, details)
    return f"{place} holds {used}, which is above memory.high {high}: if that stays so, somebody will be ended"


def _kill(path: str, details: Details) -> str:
    if details.get("by") == "kernel":
        victims = ", ".join(_who(each) for each in details.get("victims", ()))
        left = _number(details, "count") - len(details.get("victims", ()))
        more = f"{left} process" + ("" if left == 1 else "es") if left > 0 else ""
        return (
            f"the kernel was first, in {_place(path, details)}: it killed {' and '.join(filter(None, (victims, more)))}"
        )
    in_vain = details.get("outcome") == KillOutcome.STILL_THERE.value
    did = "sent SIGKILL in vain to" if in_vain else "killed"
    parts = [f"{did} {_who(details)}, which held {format_size(_number(details, 'held'))}"]
    if parent := details.get("instead-of"):
        parts[0] += f", in place of its parent {_who(parent)}"
    parts[0] += f", in {_place(path, details)}: {_shortage(details)}"
    runners_up = details.get("runners-up", ())
    if runners_up:
        next_one = runners_up[0]
        parts.append(f"next was {_who(next_one)} with {format_size(_number(next_one, 'held'))}")
    else:
        parts.append("nobody else could have been killed")
    if command_line := details.get("command-line"):
        parts.append(f"it ran: {printable_command(command_line)}")
    return "; ".join(parts)


def _shortage(details: Details) -> str:
    used, limit = format_size(_number(details, "memory-before")), format_size(_number(details, "limit"))
    reason = str(details.get("reason", ""))
    if reason == Resource.MACHINE.value:
        return f"the machine had {used} available of at least {limit}"
    evidence = details.get("evidence")
    return f"{used} used of {printable(reason)} {limit}" + (f", and {printable(evidence)}" if evidence else "")


def _nobody(path: str, details: Details) -> str:
    spared = "; ".join(
        f"{_who(each)} is {printable(str(each.get('why', '')))}" for each in details.get("spared", ())[:3]
    )
    if details.get("out-of-reach"):
        spared = "what it holds is in files that no process's end frees"
    return f"{_place(path, details)} is at its limit, and nobody in it can be ended" + (f": {spared}" if spared else "")


def _who(process: Details) -> str:
    return f"'{printable(str(process.get('name', '')))}' (pid {_number(process, 'pid')})"


def _number(details: Details, key: str) -> int:
    value = details.get(key, 0)
    return value if isinstance(value, int) else 0
