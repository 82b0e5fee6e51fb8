# SPDX-License-Identifier: LGPL-2.1-or-later
"""How this very slicemgr is started by others: as a command line for a unit, and whether a service may."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import slicemgr
from slicemgr.cli.install_error import InstallError
from slicemgr.cli.printable import printable

_PLAIN: Final = re.compile(r"[\w@%+=:,./-]+")
"""What neither of them takes for more than a letter."""


def own_program(argv0: str, python: str) -> list[str]:
    """How this very slicemgr is started from anywhere. Raises InstallError if it is not."""
    script = Path(argv0).absolute()
    if script.name == "slicemgr" and os.access(script, os.X_OK):
        program = [str(script)]
    else:
        # -P: the service's working directory is a home, and there may be a folder `slicemgr` in it.
        program = [python, "-P", "-m", "slicemgr"]
    environment = {"PATH": os.defpath, "LC_ALL": "C.UTF-8"}
    done = subprocess.run(  # noqa: S603  (ourselves)
        [*program, "--version"], check=False, cwd="/", env=environment, capture_output=True, text=True
    )
    if done.stdout != f"slicemgr {slicemgr.__version__}\n":
        raise InstallError(
            f"'{printable(shlex.join(program))}' does not start outside of this folder; try 'pip install'"
        )
    return program


def command_line(program: Sequence[str]) -> str:
    """As systemd.service(5) and the Desktop Entry Specification ("The Exec key") read one. Raises InstallError."""
    for word in program:
        if not word.isprintable() or set(word) & set("\"'\\$`"):
            raise InstallError(
                f"a unit file can't hold the path '{printable(word)}'; try installing slicemgr elsewhere"
            )
    escaped = [word.replace("%", "%%") for word in program]
    return " ".join(word if _PLAIN.fullmatch(word) else f'"{word}"' for word in escaped)


def refuse_what_the_service_cant_start(program: Sequence[str]) -> None:
    """Raises InstallError: hidden by the unit's sandbox, or another user's, who would be root through it."""
    files = [Path(program[0]), Path(program[0]).resolve(), Path(sys.executable).resolve(), Path(slicemgr.__file__)]
    for file in files:
        if any(file.is_relative_to(hidden) for hidden in ("/home", "/root", "/run/user", "/tmp", "/var/tmp")):  # noqa: S108
            raise InstallError(f"'{file}' is where a system service can't see it; try a venv in /opt")
        for part in (file, *file.parents):
            owner = part.stat()
            if owner.st_uid != 0 or (owner.st_mode & 0o1002) == 0o0002:
                raise InstallError(f"'{part}' is not only root's, and the service runs as root; try a venv in /opt")
