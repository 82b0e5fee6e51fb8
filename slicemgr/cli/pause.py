# SPDX-License-Identifier: LGPL-2.1-or-later
"""`slicemgr pause` and `slicemgr resume`: a whole job stands still and goes on, by the daemon or else as with ^Z."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from slicemgr.bus.errors import RemoteError
from slicemgr.cli import asking, bus_errors, reading
from slicemgr.cli.exit_codes import ExitCode
from slicemgr.cli.printable import one_line, print_out, printable, say, shown
from slicemgr.kernel import procfs
from slicemgr.kernel.cgroupfs import cgroup_of
from slicemgr.kernel.errors import KernelError, NotPermittedError, NotSupportedError, ProcessGoneError
from slicemgr.kernel.kill import RefusedError
from slicemgr.model.cgroup import is_below
from slicemgr.model.process import ProcessIdentity
from slicemgr.service import lone_pause
from slicemgr.service.explanation import AmbiguousTargetError, pid_in
from slicemgr.service.lone_pause import NotPausedError
from slicemgr.service.overview import (
    JobOverview,
    SliceOverview,
    UnknownTargetError,
    find_slice,
    nearest_name,
)

_DESCRIPTIONS: Final = {
    "pause": """\
Let a whole job stand still until 'slicemgr resume': it keeps its memory, and takes no CPU time. The daemon freezes it;
without a daemon its 'slicemgr run' is stopped with its command, as ^Z at its terminal does.""",
    "resume": """\
Let a job go on that 'slicemgr pause' has paused, or ^Z.""",
}

_EPILOG: Final = """\
JOB is its name or its scope, as 'slicemgr list' shows them, or the pid of one of its processes. A job without a cgroup
of its own has no name that others know: for that give a pid, for example that of its 'slicemgr run'.

Nothing stays paused when a slicemgr ends that has paused it, however it ends: the daemon's jobs are thawed, and the
kernel continues, with a SIGHUP, the command of a stopped 'slicemgr run' that is killed. Other users' jobs are for who
polkit allows it (org.slicemgr1.manage): on a terminal it may ask for your password.

exit status: 0, also if it was so already; 2 if there is no such job; 125 if it could not be done.

example: slicemgr {verb} make"""


class _IsSliceError(Exception):
    """The name is a slice's."""


@dataclass(frozen=True, slots=True)
class _Meant:
    """A job, by its cgroup; or one without, by a pid in it."""

    job: JobOverview | None
    pid: int | None

    @property
    def called(self) -> str:
        """For people."""
        return f"job '{printable(self.job.name)}'" if self.job is not None else f"the job of process {self.pid}"


def main(arguments: Sequence[str]) -> int:
    """Run `pause`; returns the exit status."""
    return order("pause", arguments)


def order(verb: str, arguments: Sequence[str]) -> int:
    """Run `pause` or `resume`; returns the exit status."""
    prog = f"slicemgr {verb}"
    parser = reading.parser(verb, _DESCRIPTIONS[verb], _EPILOG.format(verb=verb), "[OPTIONS] JOB", with_json=False)
    parser.add_argument("--no-ask-password", action="store_true", help="polkit is not to ask for a password")
    parser.add_argument("target", metavar="JOB", help="its name, its scope, or a pid")
    options = parser.parse_args(arguments)
    target: str = options.target
    manager = reading.chosen_manager(options)
    whose, daemon = reading.guarding_daemon(manager)
    address = reading.bus_of(manager, whose, daemon)
    try:
        meant = _meant(target, _slices(manager))
        _do(verb, meant, address, manager, may_ask=not options.no_ask_password)
    except UnknownTargetError as error:
        hint = f"'{prog} {error.nearest}'" if error.nearest else "a name that 'slicemgr list' shows, or a pid"
        return reading.refuse(prog, f"no job '{shown(error.name)}'", hint)
    except AmbiguousTargetError as error:
        units = " or ".join(f"'{printable(unit)}'" for unit in error.units[:3])
        return reading.refuse(prog, f"several jobs are called '{shown(error.name)}'", units)
    except _IsSliceError:
        return reading.refuse(prog, f"'{shown(target)}' is a slice", "one of its jobs, which 'slicemgr list' shows")
    except ProcessGoneError as error:
        return reading.refuse(prog, f"there is no process {error.pid}", "a name that 'slicemgr list' shows")
    except RemoteError as error:
        say(bus_errors.line_for(error, whose), prog=prog)
        return bus_errors.exit_code_for(error)
    except NotPausedError as error:
        say(one_line(str(error)), prog=prog)
        return ExitCode.OWN_FAILURE
    except (NotPermittedError, RefusedError) as error:
        say(f"{one_line(str(error))}; try it as root", prog=prog)
        return ExitCode.OWN_FAILURE
    except (KernelError, OSError) as error:
        say(f"{one_line(str(error))}; try again, and report it if it stays", prog=prog)
        return ExitCode.OWN_FAILURE
    return print_out(f"{meant.called} {'is paused' if verb == 'pause' else 'goes on'}\n", prog)


def _do(verb: str, meant: _Meant, address: str, manager: reading.Manager, *, may_ask: bool) -> None:
    """By the daemon if it knows the job; what was stopped without one is continued without one."""
    is_done = bool(address) and meant.job is not None and _by_daemon(verb, meant.job.unit, address, manager, may_ask)
    if verb == "pause":
        if not is_done:
            lone_pause.pause(_run_of(meant))
        return
    try:
        lone_pause.resume(_run_of(meant))
    except (NotPausedError, ProcessGoneError, NotPermittedError):
        if not is_done:
            raise


def _by_daemon(verb: str, unit: str, address: str, manager: reading.Manager, may_ask: bool) -> bool:
    """False if there is none on its bus. Raises RemoteError."""
    is_system = address == manager.system_bus_address
    try:
        with asking.connect(address) as control:
            found = control.job(unit)
            with asking.asking_person(on_system_bus=is_system, is_wanted=may_ask) as interactive:
                control.pause(found, pause=verb == "pause", interactive=interactive)
    except RemoteError as error:
        if error.name in bus_errors.ABSENT:
            return False
        raise
    return True


def _run_of(meant: _Meant) -> ProcessIdentity:
    """Its `slicemgr run`. Raises NotPausedError, ProcessGoneError, NotPermittedError."""
    pid = meant.pid if meant.job is None else meant.job.leader_pid
    run = None if pid is None else lone_pause.find_run(pid)
    if run is None:
        why = "its command has ended" if pid is None else "no 'slicemgr run' has started it"
        if meant.job is None:
            raise NotPausedError(f"process {pid} is in no job; try a name that 'slicemgr list' shows")
        raise NotPausedError(
            f"{meant.called} needs a daemon to freeze it: {why}; try 'systemctl --user start slicemgr'"
        )
    return run


def _slices(manager: reading.Manager) -> tuple[SliceOverview, ...]:
    """None where there is no cgroup v2: then a job has only its pid."""
    try:
        return reading.look_around(manager)
    except NotSupportedError:
        return ()


def _meant(target: str, slices: Sequence[SliceOverview]) -> _Meant:
    """Raises UnknownTargetError, AmbiguousTargetError, _IsSliceError; for a pid ProcessGoneError, NotPermittedError."""
    jobs = [job for each in slices for job in each.jobs]
    pid = pid_in(target)
    if pid is not None:
        return _Meant(_job_of(pid, jobs), pid)
    found = [job for job in jobs if target in {job.unit, job.name, job.path}]
    if len(found) > 1:
        raise AmbiguousTargetError(target, tuple(job.unit for job in found))
    if found:
        return _Meant(found[0], None)
    try:
        find_slice(target, slices)
    except UnknownTargetError:
        nearest = nearest_name(target, slices, with_jobs=True)
        raise UnknownTargetError(target, nearest if nearest in {job.name for job in jobs} else "") from None
    raise _IsSliceError


def _job_of(pid: int, jobs: Sequence[JobOverview]) -> JobOverview | None:
    """The job that a process is in, or that it has started as its `slicemgr run`. Raises ProcessGoneError."""
    procfs.read_stat(pid)
    try:
        cgroup = cgroup_of(pid)
    except NotSupportedError:
        return None
    for job in jobs:
        if is_below(cgroup, job.path) or (job.leader_pid is not None and _parent_of(job.leader_pid) == pid):
            return job
    return None


def _parent_of(pid: int) -> int | None:
    try:
        return procfs.read_stat(pid).ppid
    except procfs.UNSEEN:
        return None
