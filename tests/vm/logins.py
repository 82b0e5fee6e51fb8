# SPDX-License-Identifier: LGPL-2.1-or-later
"""Real logins: getty on a virtual terminal, login through PAM, the user's shell, and what its profile starts."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.vm.bystanders import until
from tests.vm.living import TESTER, as_user
from tests.vm.systemd import CGROUPS, run

if TYPE_CHECKING:
    from collections.abc import Iterator

VT_ACTIVATE = 0x5606
"""linux/vt.h: which terminal is in front of the person, and so whose session is active."""

HOME = Path("/home/tester")
MANAGER = CGROUPS / f"user.slice/user-{TESTER}.slice/user@{TESTER}.service"


@dataclass
class Login:
    """One that has happened."""

    terminal: int
    session: str
    seconds: float
    """From the start of getty to the first line of the profile."""

    def show(self, name: str) -> str:
        """Of login1's."""
        return run("loginctl", "show-session", self.session, "--value", f"--property={name}")

    @property
    def scope(self) -> Path:
        """logind's own."""
        return CGROUPS / f"user.slice/user-{TESTER}.slice/session-{self.session}.scope"


def in_front(terminal: int) -> None:
    """As Ctrl-Alt-F2 does."""
    with open("/dev/tty0") as console:
        fcntl.ioctl(console, VT_ACTIVATE, terminal)


@contextlib.contextmanager
def logged_in(profile: str, *, terminal: int = 2, in_front_of_person: bool = True) -> Iterator[Login]:
    """tester, with this ~/.bash_profile (what it starts, it should exec or wait for); logged out afterwards."""
    told = HOME / "login.told"
    told.unlink(missing_ok=True)
    file = HOME / ".bash_profile"
    file.write_text(
        f'date +%s.%N > {told}.new; echo "$XDG_SESSION_ID" >> {told}.new; mv {told}.new {told}\n{profile}\n'
    )
    drop_in = Path(f"/run/systemd/system/getty@tty{terminal}.service.d/autologin.conf")
    drop_in.parent.mkdir(parents=True, exist_ok=True)
    # Restart=no: who logs out stays out.
    command = "-/sbin/agetty --autologin tester --noclear %I linux"
    drop_in.write_text(f"[Service]\nRestart=no\nExecStart=\nExecStart={command}\n")
    run("systemctl", "daemon-reload")
    if in_front_of_person:
        in_front(terminal)
    os.chown(HOME, TESTER, TESTER)
    started = time.time()
    try:
        run("systemctl", "start", f"getty@tty{terminal}.service")
        until(told.exists, "the login shell reads its profile", 60)
        at, session = told.read_text().split()
        yield Login(terminal, session, float(at) - started)
    finally:
        run("systemctl", "stop", f"getty@tty{terminal}.service")
        subprocess.run(["loginctl", "terminate-session", told.read_text().split()[1]], capture_output=True)
        in_front(1)
        file.unlink()
        drop_in.unlink()
        run("systemctl", "daemon-reload")


def of_tester(*command: str, check: bool = True) -> str:
    """What a command of tester's says, from outside of any session."""
    done = subprocess.run(command, capture_output=True, text=True, **as_user(TESTER))
    assert done.returncode == 0 or not check, done.stderr
    return str(done.stdout).strip()


def sessions(*, system: bool) -> dict[str, dict[str, Any]]:
    """As the daemon of this bus has them, by login1's ids; none where there is no daemon."""
    whose = "--system" if system else "--user"
    command = ("busctl", whose, "--json=short", "--auto-start=no", "call", "org.slicemgr1")
    manager = ("org.freedesktop.DBus.ObjectManager", "GetManagedObjects")
    told = of_tester(*command, "/org/slicemgr1", *manager, check=False)
    if not told:
        return {}
    (objects,) = json.loads(told)["data"]
    found = (each["org.slicemgr1.Session"] for each in objects.values() if "org.slicemgr1.Session" in each)
    return {each["Id"]["data"]: {name: value["data"] for name, value in each.items()} for each in found}


def processes(name: str) -> list[int]:
    """tester's, of this name."""
    done = subprocess.run(["pgrep", "--exact", "--euid", str(TESTER), name], capture_output=True, text=True)
    return [int(line) for line in done.stdout.split()]


def cgroup_of(pid: int) -> Path:
    line = Path(f"/proc/{pid}/cgroup").read_text()
    return CGROUPS / line.strip().removeprefix("0::/")


def oom_score_adj(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())
