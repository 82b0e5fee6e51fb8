# SPDX-License-Identifier: LGPL-2.1-or-later
"""A paced `slicemgr run`, as the tests of pacing see it: its steps, who of them stands, and what is told at the end."""

import json
import os
import select
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from slicemgr.kernel import procfs
from slicemgr.kernel.formats import ProcStat
from tests.cli.slicemgr_command import EMBEDDED, HOG, SLICEMGR

MIB = 1 << 20
PYTHON = "/usr/bin/python3"
"""Not the tests' own: that one reads its packages' start files first, 0.1 s of a core."""
PATIENCE_SECONDS = 90
"""For a hang; on a machine with eight test runs at once a step takes ten times as long as alone."""


def step(*arguments: str, program: str = PYTHON) -> str:
    """A step of chosen size as a shell writes it: tests/hog.py."""
    return shlex.join([program, "-IS", HOG, *arguments])


def named_python(directory: Path, name: str) -> str:
    """An interpreter whose processes have this name from their exec on."""
    link = directory / name
    if not link.is_symlink():
        link.symlink_to(PYTHON)
    return str(link)


def until(holds: Callable[[], object], what: str, seconds: float = PATIENCE_SECONDS) -> float:
    """Look again and again until it holds; the answer is how many seconds it took."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < seconds, f"it never came that {what}"
        select.select([], [], [], 0.002)
    return time.monotonic() - began


class PacedRun:
    """One `slicemgr run` in a session of its own."""

    def __init__(
        self,
        directory: Path,
        *command: str,
        limit: str,
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """In this directory, with its own memory of steps there."""
        self._json = directory / "report.json"
        self._json.unlink(missing_ok=True)
        self.process = subprocess.Popen(
            [*SLICEMGR, "run", *EMBEDDED, "--max", limit, "--json", str(self._json), *options, "--", *command],
            cwd=directory,
            env={**os.environ, "XDG_STATE_HOME": str(directory / "state"), **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.told = ""
        """What the command and slicemgr have said, after `end`."""

    @property
    def pid(self) -> int:
        """slicemgr's own."""
        return self.process.pid

    def end(self) -> int:
        """Wait for it. The status; negative: minus the signal that it has died by."""
        out, _ = self.process.communicate(timeout=PATIENCE_SECONDS)
        self.told = out.decode(errors="replace")
        return self.process.returncode

    @property
    def data(self) -> Any:
        """What --json wrote."""
        return json.loads(self._json.read_text())

    def processes(self) -> dict[int, ProcStat]:
        """All of its session but slicemgr itself, by pid; who has left that is not seen, as the guardian."""
        found = procfs.processes()
        return {pid: stat for pid, stat in found.items() if stat.session == self.pid != pid and stat.state not in "ZX"}

    def named(self, name: str) -> dict[int, ProcStat]:
        """Those of its processes."""
        return {pid: stat for pid, stat in self.processes().items() if stat.comm == name.encode()}

    def all_below(self) -> dict[int, ProcStat]:
        """Its descendants, whatever session they are in."""
        return below(self.pid)

    def standing(self) -> list[int]:
        """The pids of those that are stopped."""
        return [pid for pid, stat in self.processes().items() if stat.state == "T"]

    def guardian(self) -> int:
        """The pid of who outlives it."""
        found = procfs.processes().items()
        (pid,) = (pid for pid, stat in found if stat.ppid == self.pid and stat.comm == b"slicemgr-keeper")
        return pid

    def close(self) -> None:
        """Nothing of it is left after this."""
        self.process.kill()
        while members := self.processes():  # Again: one may just have forked.
            for pid in members:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


def below(pid: int) -> dict[int, ProcStat]:
    """All descendants."""
    found = procfs.processes()
    family = {pid}
    while more := {each for each, stat in found.items() if stat.ppid in family} - family:
        family |= more
    return {each: stat for each, stat in found.items() if each in family and each != pid}


def is_watched_by(pacer: int, pid: int) -> bool:
    """Whether the pacer of this slicemgr has that process by its pidfd: it is a step by now."""
    return any(_is_pidfd_of(pid, entry) for entry in Path(f"/proc/{pacer}/fdinfo").iterdir())


def _is_pidfd_of(pid: int, entry: Path) -> bool:
    try:
        return f"\nPid:\t{pid}\n" in entry.read_text()
    except OSError:  # Closed just now.
        return False


class CrowdedBuild:
    """A build with one big step that stays until it is let go, so that all who come after it have to wait.

    The big one does not begin before the pacer is there: who is big already when the pacer comes may be one of those
    that wait. And the others begin a second later: who has just grown so fast is expected to grow on, and waits.
    """

    LIMIT: Final = "400M"

    def __init__(self, directory: Path, later: Mapping[str, str], *, by: str = "sh", rest: str = "") -> None:
        """Write it down. `later`: by name, shell commands that are begun when the big one has its memory; `rest`: run
        after them, by `sh` alone. `by`: `sh` or `make`, whose children the steps are themselves."""
        for name in ("ready", "gate", "gate.canary"):
            os.mkfifo(directory / name)
        # The build opens these for reading alone, so what is closed here ends them.
        self._gates = {name: os.open(directory / name, os.O_RDWR | os.O_CLOEXEC) for name in ("gate", "gate.canary")}
        canary = step("--until-eof", program=named_python(directory, "canary")) + " <gate.canary"
        big = (
            step("--start", "325M", "--until-eof", "--work", "--ready", "ready", program=named_python(directory, "big"))
            + " <gate"
        )
        if by == "make":
            recipes = "".join(f"{name}: ready\n\t@exec {command}\n" for name, command in later.items())
            first = f"canary:\n\t@{canary}\nbig: canary\n\t@exec {big}\nready: canary\n\t@read line <ready; sleep 1\n"
            every = " ".join(["canary", "big", "ready", *later])
            (directory / "Makefile").write_text(f"all: {every}\n{first}{recipes}.PHONY: {every}\n")
            self.command = ["make", "-j20"]
        else:
            begun = "".join(f'{command} & all="$all $!"\n' for command in later.values())
            first = f"{canary} || exit 8\n{big} & all=$!\nread line <ready; sleep 1\n"
            last = "for each in $all; do wait $each || exit 3; done\n"
            (directory / "build.sh").write_text(first + begun + rest + last)
            self.command = ["sh", "build.sh"]

    def begin(self) -> None:
        """The pacer, if there is one, is there."""
        self._open("gate.canary")

    def let_go(self) -> None:
        """The big one ends."""
        self._open("gate")

    def close(self) -> None:
        """Nobody waits for us after this."""
        self.begin()
        self.let_go()

    def _open(self, name: str) -> None:
        if name in self._gates:
            os.close(self._gates.pop(name))


class CrowdedRun(CrowdedBuild):
    """Such a build, paced."""

    def __init__(
        self, directory: Path, later: Mapping[str, str], *, by: str = "sh", options: Sequence[str] = (), rest: str = ""
    ) -> None:
        """It has begun, and the pacer is there."""
        super().__init__(directory, later, by=by, rest=rest)
        self.run = PacedRun(directory, *self.command, limit=self.LIMIT, options=options)
        until(lambda: self.run.named("canary"), "the canary has begun")
        (pid,) = self.run.named("canary")
        until(lambda: is_watched_by(self.run.pid, pid), "the pacer knows a step")
        self.begin()

    def close(self) -> None:
        """Nothing of it is left after this."""
        super().close()
        self.run.close()
