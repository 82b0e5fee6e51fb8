# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run the command line as a person does: the installed entry point in a process of its own."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SLICEMGR = [sys.executable, "-P", str(Path(__file__).parent / "entry_point.py")]
EMBEDDED = ["--backend", "embedded"]
"""What the tests of a process tree ask for: on a machine with systemd the job would be put into a scope."""
UNPACED = [*EMBEDDED, "--no-pacing"]
"""What the tests of its guard ask for: paced, the steps would wait for each other, and it had nothing to do."""
HOG = str(Path(__file__).parent.parent / "hog.py")


@dataclass(frozen=True, slots=True)
class Ended:
    """What a shell would see."""

    status: int
    """Negative: minus the signal that slicemgr died by."""
    stdout: str
    stderr: str

    @property
    def lines(self) -> list[str]:
        return self.stderr.splitlines()


def slicemgr(*arguments: str, stdin: str = "", cwd: Path | None = None) -> Ended:
    """Run it to its end; a minute is for a hang, nothing here takes two seconds."""
    done = subprocess.run(
        [*SLICEMGR, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=cwd,
        errors="surrogateescape",
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def run(*command: str, limits: Sequence[str] = (), stdin: str = "") -> Ended:
    """`slicemgr run LIMITS -- COMMAND` on a process tree."""
    return slicemgr("run", *EMBEDDED, *limits, "--", *command, stdin=stdin)


def run_unpaced(*command: str, limits: Sequence[str] = (), stdin: str = "") -> Ended:
    """The same, but that nobody waits: who is too much is killed."""
    return run(*command, limits=["--no-pacing", *limits], stdin=stdin)


def hog(*arguments: str) -> list[str]:
    """The command line of a memory hog."""
    return [sys.executable, HOG, *arguments]


def report(path: Path) -> Any:
    """What --json wrote."""
    return json.loads(path.read_text())
