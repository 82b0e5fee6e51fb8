# SPDX-License-Identifier: LGPL-2.1-or-later
"""The few things that `slicemgr install` asks of systemctl."""

import os
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from slicemgr.cli.printable import printable

_SECONDS = 60
"""A reload of a system manager under emulation took 2 s; `disable --now` waits up to TimeoutStopSec= of the unit."""


class SystemctlError(Exception):
    """It was not done; says why, and what to try."""

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(f"{what}; try {hint}")
        self.what = what
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Systemctl:
    """A running service manager."""

    command: tuple[str, ...]
    environment: dict[str, str]

    @classmethod
    def find(cls, *, user: bool) -> Self | None:
        """The manager that runs here, or None."""
        program = shutil.which("systemctl")
        environment = dict(os.environ)
        if program is None:
            return None
        if not user:
            # As sd_booted(3) sees it.
            return cls((program,), environment) if Path("/run/systemd/system").is_dir() else None
        # After `su` the variable is missing, and systemctl needs it.
        folder = environment.setdefault("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}")
        try:
            alive = stat.S_ISSOCK(Path(folder, "systemd/private").stat().st_mode)
        except OSError:
            return None
        return cls((program, "--user"), environment) if alive else None

    def __str__(self) -> str:
        return " ".join(("systemctl", *self.command[1:]))

    def tell(self, *arguments: str) -> str:
        """Do it; returns a line that says so. Raises SystemctlError."""
        self._run(*arguments)
        return f"ran {self} {' '.join(arguments)}"

    def unit_file(self, unit: str) -> str:
        """Which file the manager has for a unit; nothing if it has none. Raises SystemctlError."""
        return self._run("show", "--property=FragmentPath", "--value", unit)

    def active_state(self, unit: str) -> str:
        """`active`, `inactive` (also for no such unit), `failed` and others; nothing if the manager does not tell."""
        try:
            return self._run("show", "--property=ActiveState", "--value", unit)
        except SystemctlError:
            return ""

    def _run(self, *arguments: str) -> str:
        """What it prints."""
        line = f"{self} {' '.join(arguments)}"
        try:
            done = subprocess.run(  # noqa: S603  (the words are ours)
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
            raise SystemctlError(f"'{line}' does not end", f"'{self} list-jobs', then again") from None
        except OSError as error:  # The exec, which subprocess has the errno of.
            program = printable(self.command[0])
            raise SystemctlError(f"'{program}' can't be executed: {error.strerror}", f"'file {program}'") from None
        if done.returncode != 0:
            why = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise SystemctlError(f"'{line}' failed: {printable(why)}", f"'{line}' by hand")
        return done.stdout.strip()
