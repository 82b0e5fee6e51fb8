# SPDX-License-Identifier: LGPL-2.1-or-later
"""The few things that `slicemgr install` asks of systemctl."""

import os
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from slicemgr.cli.printable import printable, say

_SECONDS = 60
"""A reload of a system manager under emulation took 2 s; `disable --now` waits up to TimeoutStopSec= of the unit."""


@dataclass(frozen=True, slots=True)
class Systemctl:
    """A running service manager. What it refuses is said, and survived: the files are in place all the same."""

    command: tuple[str, ...]
    environment: dict[str, str]
    prog: str

    @classmethod
    def find(cls, *, user: bool, prog: str) -> Self | None:
        """The manager that runs here, or None."""
        program = shutil.which("systemctl")
        environment = dict(os.environ)
        if program is None:
            return None
        if not user:
            # As sd_booted(3) sees it.
            return cls((program,), environment, prog) if Path("/run/systemd/system").is_dir() else None
        # After `su` the variable is missing, and systemctl needs it.
        folder = environment.setdefault("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}")
        try:
            alive = stat.S_ISSOCK(Path(folder, "systemd/private").stat().st_mode)
        except OSError:
            return None
        return cls((program, "--user"), environment, prog) if alive else None

    def __str__(self) -> str:
        return " ".join(("systemctl", *self.command[1:]))

    def tell(self, *arguments: str) -> bool:
        """Do it, and say so."""
        done = self._run(*arguments)
        line = f"{self} {' '.join(arguments)}"
        if done is not None and done.returncode == 0:
            print(f"ran {line}")
            return True
        why = "no answer" if done is None else (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        say(f"'{line}' failed: {printable(why)}; try it again by hand", prog=self.prog)
        return False

    def unit_file(self, unit: str) -> str:
        """Which file the manager has for a unit; nothing if it has none."""
        done = self._run("show", "--property=FragmentPath", "--value", unit)
        return "" if done is None else done.stdout.strip()

    def is_active(self, unit: str) -> bool:
        """Does it run?"""
        done = self._run("is-active", "--quiet", unit)
        return done is not None and done.returncode == 0

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str] | None:
        try:
            return subprocess.run(  # noqa: S603  (the words are ours)
                [*self.command, "--no-ask-password", *arguments],
                check=False,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="backslashreplace",
                timeout=_SECONDS,
            )
        except subprocess.TimeoutExpired:
            return None
