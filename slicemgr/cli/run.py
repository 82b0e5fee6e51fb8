# SPDX-License-Identifier: LGPL-2.1-or-later
"""`slicemgr run`: a command under memory limits."""

import argparse
import asyncio
import contextlib
import errno
import os
import resource
import shutil
import signal
from collections.abc import Sequence

from slicemgr.cli import OneLineParser
from slicemgr.cli.exit_codes import ExitCode
from slicemgr.cli.printable import printable, say
from slicemgr.cli.run_report import ReportFile, RunReport
from slicemgr.kernel import procfs
from slicemgr.kernel.procfs import MachineMemory
from slicemgr.kernel.spawn import CommandError, ForkError
from slicemgr.model.cgroup import MemoryLimits
from slicemgr.model.quantity import Amount, QuantityError, parse_amount
from slicemgr.model.spec import JobSpec, SpecError, slice_unit_name
from slicemgr.placement import embedded
from slicemgr.policy import limits
from slicemgr.service.delivery import Delivery
from slicemgr.service.job import run_job
from slicemgr.service.report import JobReport

_PROG = "slicemgr run"

_DESCRIPTION = """\
Run COMMAND, and watch the memory of everything that it starts. When all of that together holds more than --max,
one process of it is killed: the biggest, or, if that has children, the biggest of them (so make lives and one
compiler goes). Then slicemgr looks again. Terminal, input, environment, signals and exit status are the command's;
its priority is a little below slicemgr's, so that the looks come in time."""

_EPILOG = """\
SIZE is in bytes, or with a suffix of 1024s: 600M, 1.5G. PCT is a share of the machine's memory: 60%. 'max' is
no limit. Without --max the command may take what is free now, less a tenth of the machine. What counts is memory
that only ending a process frees: page cache does not count, and what several processes share counts once.

exit status: the command's own, and its signal if one ended it; 125 if slicemgr failed, 126 if the command
can't be executed, 127 if it is not found, 2 for a usage error.

example: slicemgr run --max 2G -- make -j20"""


def main(arguments: Sequence[str]) -> int:
    """Run the verb; returns the exit status, or dies by the signal that the command died by."""
    options = _parser().parse_args(arguments)
    try:
        spec = _spec(options)
        machine = procfs.machine_memory()
        resolved = limits.resolve(spec, machine.total, machine.available)
    except (SpecError, QuantityError) as error:
        return _fail(ExitCode.USAGE, str(error))
    except OSError as error:
        return _fail(ExitCode.OWN_FAILURE, f"can't read the machine's memory: {error}; try mount -t proc proc /proc")
    try:
        json_file = None if options.json is None else ReportFile(options.json)
    except OSError as error:
        path = printable(options.json)
        return _fail(ExitCode.USAGE, f"can't write --json '{path}': {error.strerror}; try another path")
    status = _run(spec, resolved, machine, json_file)
    if isinstance(status, JobReport):
        return _end_like(status)
    if json_file is not None:
        json_file.forget()
    return status


def _run(
    spec: JobSpec, resolved: MemoryLimits, machine: MachineMemory, json_file: ReportFile | None
) -> JobReport | ExitCode:
    """The job and its reports; an exit code if the command was not run."""
    name = printable(spec.command[0])
    try:
        handle = embedded.open_job()
    except OSError as error:
        return _fail(ExitCode.OWN_FAILURE, f"can't guard a job: {error.strerror}; try a kernel from 5.3 on")
    report = RunReport(spec, resolved)
    try:
        with Delivery(report.tell) as deliver:
            job = asyncio.run(run_job(spec, resolved, handle, machine_total_bytes=machine.total, report=deliver))
    except CommandError as error:
        return _fail(*_why_not_executed(spec.command[0], error))
    except ForkError as error:
        return _fail(ExitCode.OWN_FAILURE, f"can't start '{name}': {error.strerror}; try again with less running")
    report.end(job)
    if json_file is not None:
        try:
            json_file.write(report.as_data(job))
        except OSError as error:
            say(f"can't write the report for --json: {error.strerror}, ignoring")
    return job


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog=_PROG,
        usage="slicemgr run [OPTIONS] -- COMMAND [ARGUMENT ...]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--max", metavar="SIZE|PCT", help="hard limit: above it one process is killed")
    parser.add_argument("--high", metavar="SIZE|PCT", help="soft limit: above it you are warned")
    parser.add_argument(
        "--swap-max", metavar="SIZE", help="hard limit on swapped memory: above it one process is killed"
    )
    parser.add_argument(
        "--slice", metavar="NAME", default="build", help="name of its slice in reports; no cgroup is made (build)"
    )
    parser.add_argument("--name", metavar="NAME", help="the job's name in reports (the command's)")
    parser.add_argument("--json", metavar="FILE", help="write what happened to FILE as well, as JSON")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND", help="what to run")
    return parser


def _spec(options: argparse.Namespace) -> JobSpec:
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command or not command[0]:
        raise SpecError("no command given; try 'slicemgr run --max 2G -- make -j20'")
    return JobSpec(
        command=tuple(command),
        name=options.name or os.path.basename(command[0]) or command[0],
        slice_name=slice_unit_name(options.slice),
        high=_amount("--high", options.high),
        max=_amount("--max", options.max),
        swap_max=_amount("--swap-max", options.swap_max),
    )


def _amount(option: str, text: str | None) -> Amount | None:
    if text is None:
        return None
    try:
        return parse_amount(text)
    except QuantityError as error:
        raise QuantityError(f"{option}: {error}") from error


def _fail(code: ExitCode, message: str) -> ExitCode:
    say(message, prog=_PROG)
    return code


def _why_not_executed(command: str, error: CommandError) -> tuple[ExitCode, str]:
    name = printable(command)
    if error.errno in {errno.ENOENT, errno.ENOTDIR}:
        if shutil.which(command):
            return ExitCode.NOT_FOUND, f"the interpreter of '{name}' is not found; try 'head -1 {name}'"
        return ExitCode.NOT_FOUND, f"command '{name}' not found; try 'command -v {name}', or its full path"
    hint = "'ls -l' on it" if error.errno == errno.EACCES else "it without slicemgr"
    return ExitCode.NOT_EXECUTABLE, f"can't execute '{name}': {error.strerror}; try {hint}"


def _end_like(job: JobReport) -> int:
    """Exit as the command did: a shell, make or CI has to see the same signal."""
    if job.exit_signal is None:
        return job.exit_code or 0
    # The command may have left a core; ours would only hide it.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):  # SIGKILL has no other action, and 32 and 33 are the C library's own.
        signal.signal(job.exit_signal, signal.SIG_DFL)
    os.kill(os.getpid(), job.exit_signal)
    # Not reached, but for a signal that is blocked from outside: then as a shell would tell it.
    return 128 + job.exit_signal
