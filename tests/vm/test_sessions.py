# SPDX-License-Identifier: LGPL-2.1-or-later
"""Real logins in three dresses: a user unit, XDG autostart, PAM; what becomes of the session, and of its memory."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.vm.bystanders import until
from tests.vm.living import TESTER, as_user
from tests.vm.logins import HOME, MANAGER, cgroup_of, logged_in, of_tester, oom_score_adj, processes, sessions
from tests.vm.systemd import run

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.vm(users=("root",), timeout=240)

PAM = Path("/etc/pam.d/login")
PAM_LINE = "session optional pam_exec.so quiet quiet_log /bin/sh /usr/local/share/slicemgr/slicemgr-session.sh\n"
XSERVER = "/usr/bin/Xvfb :7 -screen 0 640x480x8 -nolisten tcp -extension GLX"
STARTX = f"exec startx ~/.xinitrc -- {XSERVER}"
DESKTOP_UNITS = {
    # As GNOME and Plasma have theirs: a target for the session, its parts as services in session.slice.
    "desk-session.target": "[Unit]\nWants=graphical-session-pre.target desk-x11.service desk-wm.service\n"
    "After=graphical-session-pre.target\nBindsTo=graphical-session.target\n",
    "desk-x11.service": "[Unit]\nAfter=graphical-session-pre.target\nPartOf=graphical-session.target\n"
    f"[Service]\nSlice=session.slice\nExecStart={XSERVER}\n",
    "desk-wm.service": "[Unit]\nAfter=desk-x11.service graphical-session-pre.target\nPartOf=graphical-session.target\n"
    "StartLimitIntervalSec=0\n"
    "[Service]\nSlice=session.slice\nEnvironment=DISPLAY=:7\nRestart=on-failure\nRestartSec=200ms\n"
    "ExecStart=/usr/bin/openbox\n",
}


@contextlib.contextmanager
def system_installed() -> Iterator[None]:
    """With the system's daemon, as an administrator has it."""
    run("slicemgr", "install", "--system")
    try:
        run("systemctl", "start", "slicemgr")
        yield
    finally:
        run("systemctl", "stop", "slicemgr")
        run("slicemgr", "install", "--system", "--uninstall")
        # What the daemon has set holds until the next boot: not for the next test.
        run("systemctl", "revert", "build.slice")


@contextlib.contextmanager
def user_installed() -> Iterator[None]:
    """tester's own, enabled; the daemon is not started by anybody but the hook. With a desktop of units."""
    of_tester("slicemgr", "install")
    try:
        of_tester("systemctl", "--user", "enable", "slicemgr")
        yield
    finally:
        of_tester("systemctl", "--user", "stop", "graphical-session.target", "slicemgr", *DESKTOP_UNITS)
        of_tester("slicemgr", "install", "--uninstall")
        of_tester("systemctl", "--user", "reset-failed", check=False)
        of_tester("systemctl", "--user", "revert", "session.slice", "app.slice", "build.slice", check=False)


@contextlib.contextmanager
def files(**contents: str) -> Iterator[None]:
    """In tester's home, by their paths."""
    paths = {HOME / path: text for path, text in contents.items()}
    for path, text in paths.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    subprocess.run(["chown", "-R", "tester:tester", HOME], check=True)
    try:
        yield
    finally:
        for path in paths:
            path.unlink()


def is_active(unit: str) -> bool:
    command = ["systemctl", "--user", "is-active", "--quiet", unit]
    return subprocess.run(command, **as_user(TESTER)).returncode == 0


def usec(unit: str, name: str) -> int:
    return int(of_tester("systemctl", "--user", "show", "--value", f"--property={name}", unit))


def test_a_desktop_of_units() -> None:
    """The first choice: the hook is a unit, done before the compositor starts; the daemon is started by the bus, and
    all stay where systemd has put them. What is vital is spared, and the slice is kept what it needs."""
    units = {f".config/systemd/user/{name}": text for name, text in DESKTOP_UNITS.items()}
    # `session close` has 5 s, of which an emulated machine's Python takes 2 to 5.
    units[".config/systemd/user/slicemgr-session.service.d/emulated.conf"] = "[Service]\nTimeoutStopSec=60\n"
    with files(**units), user_installed():
        assert not is_active("slicemgr.service")
        with logged_in("systemctl --user start desk-session.target; exec sleep 1000") as login:
            until(lambda: processes("openbox"), "there is a window manager", 60)
            until(lambda: sessions(system=False).keys() == {login.session}, "the daemon is told", 60)
            (wm,) = processes("openbox")
            session = sessions(system=False)[login.session]
            assert session["User"] == TESTER
            assert cgroup_of(session["Leader"]) == login.scope
            assert cgroup_of(wm) == MANAGER / "session.slice/desk-wm.service"
            assert session["Active"] is True
            until(lambda: [wm, "openbox"] in sessions(system=False)[login.session]["Protected"], "it is vital", 60)
            # Before the first window.
            assert usec("slicemgr-session.service", "ActiveEnterTimestampMonotonic") <= usec(
                "desk-wm.service", "ExecMainStartTimestampMonotonic"
            )
            assert "slicemgr" not in of_tester("systemctl", "--user", "list-units", "app-*autostart*")
            low, least = MANAGER / "session.slice/memory.low", MANAGER / "session.slice/memory.min"
            until(lambda: 0 < int(least.read_text()) <= int(low.read_text()), "memory is kept for it", 90)
            known = sessions(system=False)[login.session]
            assert known["WorkingSet"] > 1 << 20
            assert int(low.read_text()) == known["MemoryLow"]
            of_tester("systemctl", "--user", "stop", "graphical-session.target")
            until(lambda: sessions(system=False) == {}, "its end is told")


def test_startx_and_autostart(vm_files: Path) -> None:
    """A plain window manager that reads autostart: the hook puts the whole tree into session.slice, login itself stays.
    The system's daemon lowers the compositor's oom_score_adj, and what it starts has its own."""
    child = "sh -c 'exec sleep 4711' &\n"
    with (
        files(**{".xinitrc": "exec openbox-session >~/openbox.log 2>&1\n", ".config/openbox/autostart": child}),
        system_installed(),
    ):
        with logged_in(STARTX) as login:
            until(lambda: processes("openbox"), "there is a window manager", 60)
            (wm,) = processes("openbox")
            scope = MANAGER / f"session.slice/slicemgr_session-{login.session}.scope"
            try:
                until(lambda: cgroup_of(wm) == scope, "it is put into session.slice", 60)
            finally:
                (vm_files / "openbox.txt").write_text((HOME / "openbox.log").read_text())
            for name in ("xinit", "Xvfb"):
                assert [cgroup_of(each) for each in processes(name)] == [scope], name
            # login is logind's, and with it the session goes on.
            (login_program,) = (int(line) for line in (login.scope / "cgroup.procs").read_text().split())
            assert Path(f"/proc/{login_program}/comm").read_text() == "login\n"
            assert login.show("State") == "active"
            (app,) = [pid for pid in processes("sleep") if b"4711" in Path(f"/proc/{pid}/cmdline").read_bytes()]
            until(lambda: cgroup_of(app) == scope, "what it had started comes with it")
            until(lambda: oom_score_adj(wm) == -500, "the kernel is kept off it", 60)
            until(lambda: oom_score_adj(app) >= 0, "and on what it starts", 60)
            known = sessions(system=True)[login.session]
            assert [wm, "openbox"] in known["Protected"]
            assert known["Leader"] == login_program
            (vm_files / "startx.txt").write_text(run("systemd-cgls", "--no-pager"))
        until(lambda: login.session not in sessions(system=True), "login1 tells of its end")
        until(lambda: not scope.exists(), "nothing is left of it", 60)


def test_autostart_is_skipped_where_the_unit_runs() -> None:
    """By systemd's generator, which makes units of autostart files."""
    with system_installed():
        file = "/etc/xdg/autostart/slicemgr-session.desktop"
        assert Path(file).exists()
        run("mkdir", "-p", "/run/generated")
        generator = "/usr/lib/systemd/user-generators/systemd-xdg-autostart-generator"
        other = Path("/etc/xdg/autostart/other.desktop")
        other.write_text("[Desktop Entry]\nType=Application\nName=other\nExec=sleep 1\n")
        try:
            run(generator, "/run/generated", "/run/generated", "/run/generated")
        finally:
            other.unlink()
        made = {each.name for each in Path("/run/generated").rglob("*.service")}
        assert made == {"app-other@autostart.service"}


@contextlib.contextmanager
def pam_line() -> Iterator[None]:
    before = PAM.read_text()
    PAM.write_text(before + PAM_LINE)
    try:
        yield
    finally:
        PAM.write_text(before)


def test_pam() -> None:
    """The line that docs/sessions.md gives: the login shell is in session.slice, and so is all that it starts."""
    with system_installed(), pam_line(), logged_in("exec sleep 1000") as login:
        scope = MANAGER / f"session.slice/slicemgr_session-{login.session}.scope"
        until(lambda: [cgroup_of(pid) for pid in processes("sleep")] == [scope], "it is in session.slice", 60)
        known = sessions(system=True)[login.session]
        assert (known["User"], known["Type"]) == (TESTER, "tty")
        assert login.show("State") == "active"
        left = [Path(f"/proc/{pid}/comm").read_text() for pid in (login.scope / "cgroup.procs").read_text().split()]
        assert left == ["login\n"]  # Nobody of ours stays there.


@pytest.mark.parametrize("fault", ["it hangs", "it fails", "it is gone"])
def test_a_login_goes_on_without_us(fault: str) -> None:
    """Whatever PAM's hook does."""
    script = Path("/usr/local/share/slicemgr/slicemgr-session.sh")
    with system_installed(), pam_line():
        was = script.read_text()
        program = Path("/usr/local/bin/slicemgr-that-hangs")
        program.write_text(
            "#!/bin/sh\ntrap '' TERM\nwhile :; do sleep 1000; done\n" if fault == "it hangs" else "exit 7\n"
        )
        program.chmod(0o755)
        if fault == "it is gone":
            script.unlink()
        else:
            lines = [
                line if "session --pam" not in line else f"    timeout --kill-after=1 3 {program}"
                for line in was.splitlines()
            ]
            assert was.count("session --pam") == 1
            script.write_text("\n".join([*lines[:-1], lines[-1]]) + "\n")
        try:
            with logged_in("exec sleep 1000") as login:
                assert login.show("State") == "active"
                assert processes("sleep")
        finally:
            program.unlink()
            script.write_text(was)


SLOW = """
import os, time

def fork(fork=os.fork):
    pid = fork()
    if pid == 0:
        time.sleep(4)
    return pid

os.fork = fork
"""


def test_a_hook_that_is_late_goes_on() -> None:
    """A machine so slow that the login does not wait for it: the daemon is told all the same."""
    units = {f".config/systemd/user/{name}": text for name, text in DESKTOP_UNITS.items()}
    units[".config/systemd/user/slicemgr-session.service.d/slow.conf"] = "[Service]\nEnvironment=PYTHONPATH=%h/slow\n"
    units["slow/sitecustomize.py"] = SLOW
    with (
        files(**units),
        user_installed(),
        logged_in("systemctl --user start desk-session.target; exec sleep 1000") as it,
    ):
        until(lambda: sessions(system=False).keys() == {it.session}, "the daemon is told", 90)
        assert cgroup_of(sessions(system=False)[it.session]["Leader"]) == it.scope
        of_tester("systemctl", "--user", "stop", "graphical-session.target")


def test_a_hook_that_hangs_holds_up_no_desktop() -> None:
    """The user unit has 5 s; then the compositor starts without it."""
    drop_in = ".config/systemd/user/slicemgr-session.service.d/hang.conf"
    units = {f".config/systemd/user/{name}": text for name, text in DESKTOP_UNITS.items()}
    units[drop_in] = "[Service]\nExecStart=\nExecStart=-/usr/bin/sleep 1000\n"
    with files(**units), user_installed(), logged_in("systemctl --user start desk-session.target; exec sleep 1000"):
        until(lambda: processes("openbox"), "there is a window manager", 90)
        assert of_tester("systemctl", "--user", "show", "--value", "--property=Result", "slicemgr-session") == "timeout"
