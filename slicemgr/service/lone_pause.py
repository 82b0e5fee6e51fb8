# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pausing a job where no daemon does it: its own `slicemgr run` is sent what ^Z at its terminal would send.

So it stops as a job of its shell: SIGTSTP goes to the command's process group, and when the command has stopped,
`slicemgr run` stops too (service/command.py). All that is promised of ^Z holds: nobody watches meanwhile, `fg` and `bg`
work, and who has left the command's group goes on. The freezer would hold those as well, but who wrote to it is gone a
moment later, and a `slicemgr run` that is killed then would leave a frozen job behind: it has no other process outside
of the job. Of stopped ones the kernel takes care: at the end of `slicemgr run` the command's group is orphaned, and is
sent SIGHUP and SIGCONT at once (setpgid(2); kernel/exit.c, kill_orphaned_pgrp).

It can't be done to a job that has no shell above it (from cron, or when its terminal is gone): the kernel stops nobody
in an orphaned group, since there is nobody to continue it.
"""

import itertools
import os
import time
from collections.abc import Sequence
from typing import Final

from slicemgr.kernel import procfs
from slicemgr.kernel.job_control import ControlledProcess
from slicemgr.model.process import ProcessIdentity
from slicemgr.service.command_lines import read_command_lines
from slicemgr.service.loan import is_orphaned

STOP_SECONDS: Final = 3.0
"""For the command to stop: the kernel holds who is above memory.high for up to 2 s before it obeys."""

LOOK_SECONDS: Final = 0.005

_BEFORE_RUN: Final = 6
"""So many words may stand before `run`: an interpreter, its options, our name."""


class NotPausedError(Exception):
    """It could not be done; one line that ends in what to try."""


def find_run(pid: int) -> ProcessIdentity | None:
    """The `slicemgr run` that this process is, or that it comes from, the nearest; None if there is none.

    Raises ProcessGoneError if there is no such process, NotPermittedError.
    """
    chain: list[ProcessIdentity] = []
    at = pid
    while at > 1 and at not in {each.pid for each in chain}:
        try:
            stat = procfs.read_stat(at)
        except procfs.UNSEEN:
            if not chain:
                raise
            break
        chain.append(ProcessIdentity(at, stat.starttime))
        at = stat.ppid
    lines = read_command_lines([each.pid for each in chain])
    return next((each for each in chain if is_run(lines.get(each.pid, ()))), None)


def is_run(command_line: Sequence[str]) -> bool:
    """Whether a command line is `slicemgr run ...`: a script's, or `python3 -m slicemgr run ...`.

    Whoever calls himself so is sent SIGTSTP, and may do with it as he likes.
    """
    words = [os.path.basename(word) for word in command_line[:_BEFORE_RUN]]
    return any(pair == ("slicemgr", "run") for pair in itertools.pairwise(words))


def pause(run: ProcessIdentity) -> None:
    """Stop it with its command, and wait until it stands; once more does nothing.

    Raises NotPausedError, ProcessGoneError, NotPermittedError, RefusedError.
    """
    with ControlledProcess(run) as process:
        if process.is_stopped():
            return
        if is_orphaned(process.group()):
            raise NotPausedError(
                f"'slicemgr run' (pid {run.pid}) has no shell above it that could continue it; "
                "try 'systemctl --user start slicemgr', whose jobs are frozen"
            )
        process.ask_to_stop()
        deadline = time.monotonic() + STOP_SECONDS
        while not process.is_stopped():
            if time.monotonic() >= deadline:
                process.go_on()  # It is not to stop when nobody expects it any more.
                raise NotPausedError(
                    f"'slicemgr run' (pid {run.pid}) did not stop within {STOP_SECONDS:.0f} s: its command may ignore "
                    "SIGTSTP; try 'systemctl --user start slicemgr', whose jobs are frozen"
                )
            time.sleep(LOOK_SECONDS)


def resume(run: ProcessIdentity) -> bool:
    """Continue it with its command; False if it was not stopped. Raises as `pause`, but for NotPausedError."""
    with ControlledProcess(run) as process:
        if not process.is_stopped():
            return False
        process.go_on()
        return True
