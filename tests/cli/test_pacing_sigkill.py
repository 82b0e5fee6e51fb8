# SPDX-License-Identifier: LGPL-2.1-or-later
"""A SIGKILLed `slicemgr run` leaves nobody stopped: the guardian resumes whom it held."""

import os
import random
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

from slicemgr.kernel import procfs
from slicemgr.kernel.procfs import UNSEEN
from tests.cli.slicemgr_command import SLICEMGR

ROOT = Path(__file__).parent.parent.parent
ROUNDS = 100
WAIT_SECONDS = 60.0


def states(session: int) -> dict[int, str]:
    """Who of this session lives, and how each stands; slicemgr itself left out."""
    found = {pid: stat for pid, stat in procfs.processes().items() if stat.session == session}
    return {pid: stat.state for pid, stat in found.items() if stat.state not in "ZX" and stat.comm != b"slicemgr"}


def pause(seconds: float) -> None:
    """Not for anything to have happened: between two looks at what is awaited."""
    select.select([], [], [], seconds)


def until_somebody_stands(process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while "T" not in states(process.pid).values():
        assert process.poll() is None, "the build has ended, and nobody had to wait"
        assert time.monotonic() < deadline, "nobody was ever stopped"
        pause(0.005)


def test_at_any_moment(tmp_path: Path) -> None:
    """A hundred times, some of them while steps are just being stopped or let go: within a second nobody stands."""
    chance = random.Random(2010)
    # Who takes 40 MB at once may be above the limit, and be killed, before anybody can stand.
    step = f"{sys.executable} -IS {ROOT}/tests/hog.py --start 10M --grow 30M --rate 60M --hold 30"
    names = " ".join(f"s{number}" for number in range(6))
    (tmp_path / "Makefile").write_text(f"all: {names}\n{names}:\n\t@{step}\n.PHONY: all {names}\n")
    command = [*SLICEMGR, "run", "--backend", "embedded", "--max", "100M", "--", "make", "-j6"]
    latest = 0.0
    for _ in range(ROUNDS):
        process = subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            until_somebody_stands(process)
            pause(chance.random() * 0.3)
            process.send_signal(signal.SIGKILL)
            process.wait()
            died = time.monotonic()
            while "T" in states(process.pid).values():
                assert time.monotonic() - died < WAIT_SECONDS, states(process.pid)
                pause(0.002)
            latest = max(latest, time.monotonic() - died)
        finally:
            for pid in states(process.pid):
                try:
                    os.kill(pid, signal.SIGKILL)
                except (ProcessLookupError, *UNSEEN):
                    continue
            process.kill()
            process.wait()
    print(f"the last one went on {latest:.3f} s after the death")
