# SPDX-License-Identifier: LGPL-2.1-or-later
"""`slicemgr set`: other limits for a slice or a job, by the daemon that guards it."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from slicemgr.bus.errors import RemoteError
from slicemgr.bus.objects import JOB, NO_LIMIT, SLICE
from slicemgr.cli import asking, bus_errors, reading
from slicemgr.cli.exit_codes import ExitCode
from slicemgr.cli.limit_settings import LIMITS, Limit, Setting, SettingError, followed_by_high, settings_of
from slicemgr.cli.printable import one_line, print_out, printable, say
from slicemgr.kernel.cgroup_formats import parse_single
from slicemgr.kernel.cgroupfs import CgroupDir
from slicemgr.kernel.errors import KernelError
from slicemgr.kernel.meminfo import read_total_and_available
from slicemgr.model.slice import SliceKind

if TYPE_CHECKING:
    from slicemgr.bus.control import Control, Found

_PROG: Final = "slicemgr set"

_DESCRIPTION: Final = """\
Set limits of a slice, or of a job in one, until the next boot, or until the daemon applies the configuration again
(when it is started, or told to read it). It is the daemon that sets them: there has to be one."""

_EPILOG: Final = f"""\
KEY is {", ".join(each.key for each in LIMITS[:4])}, {", ".join(each.key for each in LIMITS[4:])},
or systemd's name for it (MemoryMax). VALUE is as in the configuration: a size (8G, 600M, bytes), a share of the
machine's memory (60%), 'max' for no limit; of tasks a number or a share, of a weight 1 to 10000. What was set is told,
one line each, with what it was before. memory_high goes with memory_max where it stands right below it.

The system's slices are for who polkit allows it (org.slicemgr1.manage): on a terminal it may ask for your password.

exit status: 0; 2 if there is no such slice or job, or a value can't be meant; 125 if it could not be set.

example: slicemgr set build memory_max=60% cpu_weight=20"""


def main(arguments: Sequence[str]) -> int:
    """Run the verb; returns the exit status."""
    parser = reading.parser("set", _DESCRIPTION, _EPILOG, "[OPTIONS] SLICE|JOB KEY=VALUE...", with_json=False)
    parser.add_argument("--no-ask-password", action="store_true", help="polkit is not to ask for a password")
    parser.add_argument("target", metavar="SLICE|JOB", help="what is to have other limits")
    parser.add_argument("settings", metavar="KEY=VALUE", nargs="+", help="a limit, and what it is to be")
    options = parser.parse_args(arguments)
    target: str = options.target
    if "=" in target:
        parser.error("no SLICE|JOB given")
    if not options.settings:
        parser.error("no KEY=VALUE given")
    manager = reading.chosen_manager(options)
    try:
        settings = settings_of(options.settings, read_total_and_available()[0], _tasks)
        with asking.connect(manager.bus_address) as control:
            found = control.find(target)
            told = _set(control, found, _completed(settings, found), manager, may_ask=not options.no_ask_password)
    except SettingError as error:
        say(one_line(str(error)), prog=_PROG)
        return ExitCode.USAGE
    except RemoteError as error:
        say(bus_errors.line_for(error, manager.word), prog=_PROG)
        return bus_errors.exit_code_for(error)
    except (KernelError, OSError) as error:
        say(f"{printable(str(error))}; try again, and report it if it stays", prog=_PROG)
        return ExitCode.OWN_FAILURE
    return print_out("".join(f"{line}\n" for line in told), _PROG)


def _set(
    control: "Control", found: "Found", settings: Sequence[Setting], manager: reading.Manager, *, may_ask: bool
) -> list[str]:
    """Set them all at once. A line for each. Raises RemoteError, KernelError."""
    before = _in_force(str(found.properties.get("ControlGroup", "")), manager.mount)
    limits = {each.limit.unit_property: NO_LIMIT if each.value is None else each.value for each in settings}
    with asking.asking_person(on_system_bus=manager.uid is None, is_wanted=may_ask) as interactive:
        control.set_limits(found, limits, interactive=interactive)
    return [_line(found, each, before) for each in settings]


def _completed(settings: Sequence[Setting], found: "Found") -> Sequence[Setting]:
    """With what follows from them."""
    properties = found.properties
    return followed_by_high(
        settings,
        _limit(properties.get("MemoryHigh", NO_LIMIT)),
        _limit(properties.get("MemoryMax", NO_LIMIT)),
        has_own_high=found.interface == JOB or properties.get("Kind") == SliceKind.BUILD.value,
    )


def _line(found: "Found", setting: Setting, before: Mapping[str, int | None] | None) -> str:
    limit = setting.limit
    name = str(found.properties.get("Unit" if found.interface == SLICE else "Name", ""))
    called = printable(name) if found.interface == SLICE else f"job '{printable(name)}'"
    old = f" {limit.show(before[limit.key])}" if before is not None and limit.key in before else ""
    line = f"{called}: {limit.key}{old} -> {limit.show(setting.value)}"
    if before is None:
        return f"{line}, as soon as something runs in it"
    return line if limit.key in before else f"{line}, but its cgroup has no {limit.file}"


def _in_force(path: str, mount: str) -> Mapping[str, int | None] | None:
    """What holds now, by our keys, as far as there are files for it; None where there is no such cgroup."""
    try:
        with CgroupDir.open(path, mount) as cgroup:
            texts = [(limit, cgroup.read(limit.file)) for limit in LIMITS]
    except KernelError:
        return None
    return {limit.key: _value(limit, text) for limit, text in texts if text is not None}


def _value(limit: Limit, text: bytes) -> int | None:
    """io.weight: `default 100`, and a line for each device that has another. Raises FormatError."""
    return parse_single(text.partition(b"\n")[0].removeprefix(b"default "), limit.file)


def _limit(value: int) -> int | None:
    return None if value == NO_LIMIT else value


def _tasks() -> int:
    from slicemgr.service.slices import tasks_of_the_system

    return tasks_of_the_system()
