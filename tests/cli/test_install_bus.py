# SPDX-License-Identifier: LGPL-2.1-or-later
"""`slicemgr install`: the D-Bus and session files, and a real bus that is told of them."""

from __future__ import annotations

import configparser
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from slicemgr.placement.bus_connection import BUS_NAME, BUS_PATH, Connection
from tests.cli.test_install import SYSTEM_FILES, USER_FILES, files_below, install

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
OURS = "org.slicemgr1"
TOLD = "told the session bus to read its files again\n"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An empty one."""
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture
def session_bus(tmp_path: Path, home: Path) -> Iterator[Path]:
    """The socket of a bus that was started in this home, before there was anything in it."""
    address = tmp_path / "bus"
    command = ["dbus-daemon", "--session", "--nofork", "--print-address", f"--address=unix:path={address}"]
    # Where $HOME is, it asks the user database.
    environment = {**os.environ, "XDG_DATA_HOME": str(home / ".local/share")}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as bus:
        assert bus.stdout is not None
        try:
            assert bus.stdout.readline().startswith("unix:path=")
            yield address
        finally:
            bus.kill()


def activatable(session_bus: Path) -> bool:
    with contextlib.closing(Connection(str(session_bus), is_bus=True, seconds=10)) as connection:
        (names,) = connection.call(BUS_NAME, BUS_PATH, BUS_NAME, "ListActivatableNames")
    return OURS in names


def test_the_bus_knows_at_once(home: Path, session_bus: Path) -> None:
    """In and out, though the folder of its services was not there when it was started; --dry-run tells it nothing."""
    settings = {"DBUS_SESSION_BUS_ADDRESS": f"unix:path={session_bus},guid=0"}
    told = install(home, "--user", "--dry-run", settings=settings)
    assert (told.status, told.stderr, TOLD in told.stdout) == (0, "", False)
    assert not activatable(session_bus)
    told = install(home, "--user", settings=settings)
    assert (told.status, told.stderr, TOLD in told.stdout) == (0, "", True)
    assert activatable(session_bus)
    told = install(home, "--user", "--uninstall", settings=settings)
    assert (told.status, told.stderr, TOLD in told.stdout) == (0, "", True)
    assert not activatable(session_bus)
    assert list(home.iterdir()) == []


def test_the_bus_of_the_runtime_directory(home: Path, session_bus: Path) -> None:
    """Where the variable is missing, as after `su`; below --destdir nobody is told."""
    settings = {"XDG_RUNTIME_DIR": str(session_bus.parent)}
    assert TOLD not in install(home, "--user", "--destdir", str(home / "stage"), settings=settings).stdout
    assert TOLD in install(home, "--user", settings=settings).stdout
    assert activatable(session_bus)


def test_a_bus_that_hangs_up(tmp_path: Path, home: Path) -> None:
    """One line that says what to try, and everything else is done: it will read the files when it starts."""
    address = tmp_path / "bus"
    with socket.socket(socket.AF_UNIX) as ear:
        ear.bind(str(address))
        ear.listen()

        def hang_up() -> None:
            for _ in range(2):
                ear.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        for arguments, files in (
            ((), USER_FILES | {".local/state/slicemgr/installed.json"}),
            (("--uninstall",), set()),
        ):
            settings = {"DBUS_SESSION_BUS_ADDRESS": f"unix:path={address}"}
            told = install(home, "--user", *arguments, settings=settings)
            assert told.status == 0
            (line,) = told.stderr.splitlines()
            assert line.startswith("slicemgr install: the session bus did not read its files again: ")
            assert line.endswith("; try 'systemctl --user reload dbus', or log in again")
            assert files_below(home) == files
        thread.join()


@pytest.mark.parametrize("address", ["unix:path=/nonexistent/bus", "tcp:host=a", "unix:path={}/stale"])
def test_no_bus_is_no_news(tmp_path: Path, home: Path, address: str) -> None:
    """It has nothing to be told; a socket that nobody listens at is left by a bus that was killed."""
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "stale"))
    told = install(home, "--user", settings={"DBUS_SESSION_BUS_ADDRESS": address.format(tmp_path)})
    assert (told.status, told.stderr) == (0, "")
    assert " bus " not in told.stdout


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A slicemgr at a path that every one of the formats has to quote; it notes how it was called, and by whose words."""
    script = tmp_path / "a 100% venv; (new)" / "slicemgr"
    script.parent.mkdir()
    script.write_text(
        f"#!{sys.executable}\n"
        "import json, os, sys, time\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "if sys.argv[1] == 'session':\n"
        f"    print(json.dumps([sys.argv[1:], dict(os.environ)]), file=open({str(tmp_path / 'called')!r}, 'w'))\n"
        f"    time.sleep(100 if os.path.exists({str(tmp_path / 'hang')!r}) else 0)\n"
        "    sys.exit(3)\n"
        "from slicemgr.cli import main\n"
        "sys.exit(main())\n"
    )
    script.chmod(0o755)
    return script


def test_each_format_has_the_command_line_in_its_own_way(tmp_path: Path, home: Path, program: Path) -> None:
    """systemd.service(5) and the Desktop Entry Specification: in double quotes, and a per cent sign is two."""
    quoted = f'"{tmp_path}/a 100%% venv; (new)/slicemgr"'
    told = install(home, "--user", command=[str(program)])
    assert told.status == 0, told.stderr
    data = home / ".local/share"
    unit = (data / "systemd/user/slicemgr-session.service").read_text()
    assert f"\nExecStart=-{quoted} session open\n" in unit
    assert f"\nExecStop=-{quoted} session close\n" in unit
    entry = configparser.ConfigParser(interpolation=None, delimiters=("=",))
    entry.read(data / "slicemgr/slicemgr-session.desktop")
    assert entry["Desktop Entry"]["Exec"] == f"timeout --kill-after=2 5 {quoted} session open"
    for file in files_below(home):
        assert b"@SLICEMGR@" not in (home / file).read_bytes(), file


def test_a_path_that_no_unit_can_hold(tmp_path: Path, home: Path, program: Path) -> None:
    """Nothing is written."""
    odd = tmp_path / "a`b" / "slicemgr"
    odd.parent.mkdir()
    shutil.copy(program, odd)
    told = install(home, "--user", command=[str(odd)])
    assert told.status == 125
    assert (
        told.stderr == f"slicemgr install: a unit file can't hold the path '{odd}'; try installing slicemgr elsewhere\n"
    )
    assert files_below(home) == set()


@pytest.fixture
def pam_hook(tmp_path: Path, program: Path) -> Path:
    """As it is installed."""
    told = install(None, "--system", "--destdir", str(tmp_path / "stage"), command=[str(program)])
    assert told.status == 0, told.stderr
    return tmp_path / "stage/usr/local/share/slicemgr/slicemgr-session.sh"


def of_pam(hook: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["/bin/sh", hook], env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("kind", ["open_session", "close_session"])
def test_what_pam_runs(tmp_path: Path, pam_hook: Path, kind: str) -> None:
    """It never fails, and nothing of what a user may have put into the environment gets into a process of root's."""
    session = {
        "PAM_TYPE": kind,
        "PAM_USER": "anna",
        "PAM_SERVICE": "login",
        "XDG_SESSION_ID": "2",
        "XDG_SESSION_TYPE": "tty",
    }
    done = of_pam(pam_hook, PYTHONPATH="/home/anna", PATH="/home/anna/bin", **session)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    arguments, environment = json.loads((tmp_path / "called").read_text())
    assert arguments == ["session", "--pam"]
    assert {name: environment[name] for name in session} == session
    assert set(environment) - set(session) <= {"PATH", "LC_ALL", "PWD", "SHLVL", "_"}
    assert "anna" not in environment["PATH"]


def test_pam_asks_for_other_things_too(tmp_path: Path, pam_hook: Path) -> None:
    """Which are none of ours: `auth`, if somebody has put the line there."""
    for environment in ({"PAM_TYPE": "auth"}, {}):
        done = of_pam(pam_hook, **environment)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (tmp_path / "called").exists()


def test_a_login_goes_on_without_us(tmp_path: Path, pam_hook: Path) -> None:
    """After 3 s, if slicemgr hangs; at once, if it is gone."""
    (tmp_path / "hang").touch()
    before = time.monotonic()
    assert of_pam(pam_hook, PAM_TYPE="open_session").returncode == 0
    assert (tmp_path / "called").exists()
    assert time.monotonic() - before < 10
    shutil.rmtree(tmp_path / "a 100% venv; (new)")
    assert of_pam(pam_hook, PAM_TYPE="open_session").returncode == 0


def test_links_of_systemctl_enable(home: Path, tmp_path: Path) -> None:
    """Those that would point nowhere go; those of a unit of the person's own stay."""
    assert install(home, "--user").status == 0
    config, data = home / ".config/systemd/user", home / ".local/share/systemd/user"
    links = {
        "default.target.wants/slicemgr.service": data / "slicemgr.service",
        "dbus-org.slicemgr1.service": data / "slicemgr.service",
        "graphical-session.target.wants/slicemgr-session.service": data / "slicemgr-session.service",
        "graphical-session-pre.target.wants/slicemgr-session.service": tmp_path / "mine.service",
    }
    (tmp_path / "mine.service").write_text("[Service]\n")
    other = config / "default.target.wants/other.service"
    for name, target in links.items():
        (config / name).parent.mkdir(parents=True, exist_ok=True)
        (config / name).symlink_to(target)
    other.symlink_to(tmp_path / "mine.service")
    assert install(home, "--user", "--uninstall").status == 0
    left = {path.relative_to(config).as_posix() for path in config.rglob("*")}
    mine = "graphical-session-pre.target.wants"
    assert left == {
        mine,
        f"{mine}/slicemgr-session.service",
        "default.target.wants",
        "default.target.wants/other.service",
    }


def test_nothing_below_etc_but_the_autostart_file() -> None:
    """/etc is the administrator's; that no desktop looks for autostart files elsewhere is why there is one. No PAM."""
    assert {file for file in SYSTEM_FILES if file.startswith("etc/")} == {"etc/xdg/autostart/slicemgr-session.desktop"}
    assert not {file for file in USER_FILES if not file.startswith(".local/")}
