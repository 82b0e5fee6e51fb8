# SPDX-License-Identifier: LGPL-2.1-or-later
"""A real `slicemgr run` as a shell starts it, and its command, which says its pid and then answers."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from slicemgr.kernel import procfs
from tests.cli.slicemgr_command import EMBEDDED, SLICEMGR

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECONDS = 20


class Running:
    """`slicemgr run` in a process group of its own, as a shell starts it; and its command, which has said its pid."""

    def __init__(self, process: subprocess.Popen[str], command: int) -> None:
        self.process = process
        self.command = command
        self.identity = procfs.identity_of(process.pid)

    def say(self, line: str) -> str:
        """To the command, and its answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        assert select.select([self.process.stdout], [], [], SECONDS)[0], "it does not answer"
        return self.process.stdout.readline().strip()

    def states(self) -> tuple[str, str]:
        """Of the two."""
        return procfs.read_stat(self.process.pid).state, procfs.read_stat(self.command).state


def named_program(folder: Path) -> str:
    """`slicemgr` under its own name, for `running`: by that it is known (service/lone_pause.py)."""
    path = folder / "bin" / "slicemgr"
    path.parent.mkdir()
    lines = [
        "import runpy, sys",
        f"sys.argv[0] = {SLICEMGR[-1]!r}",
        "runpy.run_path(sys.argv[0], run_name='__main__')",
    ]
    path.write_text("\n".join(lines))
    return str(path)


ECHO = 'echo $$; while read line; do echo "heard $line"; done'


@contextmanager
def running(program: str, *command: str, session: bool = False) -> Iterator[Running]:
    """With an end of its own at last. `session`: it leads one, so that nobody is above it."""
    process = subprocess.Popen(
        [sys.executable, "-P", program, "run", *EMBEDDED, "--", *(command or ("sh", "-c", ECHO))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=session,
        process_group=None if session else 0,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:
        pid = int(process.stdout.readline())
        try:
            yield Running(process, pid)
        finally:
            for each in (process.pid, pid):
                try:
                    os.kill(each, signal.SIGCONT)
                except ProcessLookupError:
                    continue
            process.stdin.close()
            process.wait(SECONDS)
