# SPDX-License-Identifier: LGPL-2.1-or-later
"""`slicemgr run`: a command under memory limits. Light until the command has ended, see model/quantity.py."""

from __future__ import annotations

import errno
import os

from slicemgr.cli.exit_codes import ExitCode
from slicemgr.cli.printable import one_line, printable, say
from slicemgr.cli.run_options import read_options
from slicemgr.cli.run_report import ReportFile, RunReport
from slicemgr.kernel.errors import KernelError
from slicemgr.kernel.meminfo import read_total_and_available
from slicemgr.kernel.signals import signal
from slicemgr.kernel.spawn import CommandError, ForkError
from slicemgr.model.quantity import QuantityError, parse_amount
from slicemgr.model.spec import JobSpec, PacingRequest, SpecError, slice_unit_name
from slicemgr.placement.choose import NoBackendError, choose
from slicemgr.policy import limits
from slicemgr.service.job import Job, LimitsNotHeldError
from slicemgr.service.places import control_socket, state_directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from slicemgr.cli.run_options import RunOptions
    from slicemgr.model.quantity import Amount
    from slicemgr.placement.backend import JobHandle
    from slicemgr.placement.choose import Choice
    from slicemgr.policy.limits import InBytes
    from slicemgr.service.job_report import JobReport

_PROG = "slicemgr run"

_SLICES = {"build": "build", "agent": "build-agent"}
"""Where a command of this profile is put, unless --slice says."""

_MOST_RETRIES = 100


def main(arguments: Sequence[str]) -> int:
    """Run the verb; returns the exit status, or dies by the signal that the command died by."""
    options = read_options(arguments)
    if options is None:
        from slicemgr.cli.run_parser import parse

        options = parse(arguments)
    try:
        spec, retries = _spec(options), _retries(options)
        pacing = _pacing(options, may_run_again=retries > 0)
        total, available = read_total_and_available()
        resolved = limits.resolve(spec, total, available)
    except (SpecError, QuantityError) as error:
        return _fail(ExitCode.USAGE, printable(str(error)))
    except (OSError, KernelError) as error:
        return _fail(ExitCode.OWN_FAILURE, f"can't read the machine's memory: {error}; try mount -t proc proc /proc")
    try:
        json_file = None if options.json is None else ReportFile(options.json)
    except OSError as error:
        path = printable(options.json or "")
        return _fail(ExitCode.USAGE, f"can't write --json '{path}': {error.strerror}; try another path")
    report = RunReport(spec)
    status = _run(spec, pacing, resolved, total, options.backend, report)
    while retries > 0 and not isinstance(status, ExitCode) and (ceiling := report.to_run_again(status, pacing.ceiling)):
        retries, pacing = retries - 1, pacing.with_ceiling(ceiling)
        status = _run(spec, pacing, resolved, total, options.backend, report)
    if isinstance(status, ExitCode):
        if json_file is not None:
            json_file.forget()
        return status
    report.end(status)
    if json_file is not None:
        try:
            json_file.write(report.as_data(status))
        except OSError as error:
            say(f"can't write the report for --json: {error.strerror}, ignoring")
    return _end_like(status)


def _run(
    spec: JobSpec, pacing: PacingRequest, resolved: InBytes, machine_total_bytes: int, backend: str, report: RunReport
) -> JobReport | ExitCode:
    """The job and its reports; an exit code if the command was not run."""

    def run(choice: Choice, why_embedded: str = "") -> JobReport:
        def placed(handle: JobHandle) -> None:
            report.placed(handle)
            passed_over = why_embedded or (handle.passed_over[0][1] if handle.passed_over else "")
            if handle.source is not None and passed_over:
                say(f"not in a cgroup, only watched: {passed_over}")

        job = Job(
            spec,
            resolved,
            environment=dict(os.environ),
            pacing=pacing,
            machine_total_bytes=machine_total_bytes,
            daemons=_daemons(),
            state=state_directory(os.getuid() or None, os.environ),
            tell=report.tell,
            refused=report.no_daemon_took_it,
        )
        return job.run(choice, placed=placed)

    try:
        try:
            return run(_chosen(backend, needs_memory=resolved != (None, None, None)))
        except LimitsNotHeldError as error:
            if backend != "auto":
                raise
            return run(_chosen("embedded"), why_embedded=str(error))
    except (NoBackendError, LimitsNotHeldError) as error:
        return _fail(ExitCode.OWN_FAILURE, str(error))
    except CommandError as error:
        return _fail(*_why_not_executed(spec.command[0], error))
    except ForkError as error:
        name = printable(spec.command[0])
        return _fail(ExitCode.OWN_FAILURE, f"can't start '{name}': {error.strerror}; try again with less running")


def _chosen(backend: str, *, needs_memory: bool = True) -> Choice:
    return choose(
        backend,
        uid=os.getuid(),
        runtime_dir=os.environ.get("XDG_RUNTIME_DIR"),
        session_bus=os.environ.get("DBUS_SESSION_BUS_ADDRESS"),
        needs_memory=needs_memory,
    )


def _daemons() -> list[tuple[str, str]]:
    """Where one may listen, and its history: the user's own, then the machine's, which guards users' slices as well."""
    managers = [None] if os.getuid() == 0 else [os.getuid(), None]
    return [(control_socket(uid, os.environ), state_directory(uid, os.environ)) for uid in managers]


def _spec(options: RunOptions) -> JobSpec:
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command or not command[0]:
        raise SpecError("no command given; try 'slicemgr run --max 2G -- make -j20'")
    return JobSpec(
        command=tuple(command),
        name=options.name or os.path.basename(command[0]) or command[0],
        slice_name=slice_unit_name(options.slice or _SLICES[options.profile]),
        high=_amount("--high", options.high),
        max=_amount("--max", options.max),
        swap_max=_amount("--swap-max", options.swap_max),
    )


def _pacing(options: RunOptions, *, may_run_again: bool) -> PacingRequest:
    for pattern in options.never_hold or ():
        if not pattern or "/" in pattern:
            raise SpecError(f"--never-hold '{pattern}' is no name of a process; try one as ps shows it, or '*_test'")
    return PacingRequest(
        is_on=options.pacing,
        never_hold=tuple(options.never_hold or ()),
        has_tokens=options.tokens,
        relaunches=options.relaunch,
        is_agent=options.profile == "agent",
        may_run_again=may_run_again,
    )


def _retries(options: RunOptions) -> int:
    text = "0" if options.retry is None else options.retry
    if not (text.isascii() and text.isdigit() and len(text) < 4 and int(text) <= _MOST_RETRIES):
        raise SpecError(f"--retry '{text}' is no number of times; try --retry 2")
    if int(text) and not options.pacing:
        raise SpecError("--retry runs fewer steps at once, and --no-pacing lets all run; try without --no-pacing")
    return int(text)


def _amount(option: str, text: str | None) -> Amount | None:
    if text is None:
        return None
    try:
        return parse_amount(text)
    except QuantityError as error:
        raise QuantityError(f"{option}: {error}") from error


def _fail(code: ExitCode, message: str) -> ExitCode:
    say(one_line(message), prog=_PROG)
    return code


def _why_not_executed(command: str, error: CommandError) -> tuple[ExitCode, str]:
    name = printable(command)
    if error.errno in {errno.ENOENT, errno.ENOTDIR}:
        import shutil

        if shutil.which(command):
            return ExitCode.NOT_FOUND, f"the interpreter of '{name}' is not found; try 'head -1 {name}'"
        return ExitCode.NOT_FOUND, f"command '{name}' not found; try 'command -v {name}', or its full path"
    hint = "'ls -l' on it" if error.errno == errno.EACCES else "it without slicemgr"
    return ExitCode.NOT_EXECUTABLE, f"can't execute '{name}': {error.strerror}; try {hint}"


def _end_like(job: JobReport) -> int:
    """Exit as the command did: a shell, make or CI has to see the same signal."""
    if job.exit_signal is None:
        return job.exit_code or 0
    import resource

    # The command may have left a core; ours would only hide it.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:  # noqa: SIM105 - see model/quantity.py
        signal.signal(job.exit_signal, signal.SIG_DFL)
    except OSError:
        pass  # SIGKILL has no other action, and 32 and 33 are the C library's own.
    os.kill(os.getpid(), job.exit_signal)
    # Not reached, but for a signal that is blocked from outside: then as a shell would tell it.
    return 128 + job.exit_signal
