# SPDX-License-Identifier: LGPL-2.1-or-later
"""The login hook as login, pam_exec or a window manager calls it: what it says, its status, and how long it takes."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import time
from functools import partial
from typing import TYPE_CHECKING

import pytest

from slicemgr.cli import session as session_verb
from tests.cli.slicemgr_command import slicemgr

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

LATE = "slicemgr session: not done in time, and goes on by itself; try 'slicemgr status'\n"

# Who we are and who leads is told; all else is as it is.
CODE = """
import os, sys
sys.path.insert(0, sys.argv[1])
from slicemgr import cli
from slicemgr.cli import session
from slicemgr.kernel import procfs
from slicemgr.service import session_hook
from slicemgr.service.session_leader import Leader

uid, what, limit = sys.argv[2:5]
os.getuid = lambda: int(uid)
session.LIMIT_SECONDS = float(limit)
us, hook = os.getppid(), os.pidfd_open(os.getpid())
session_hook.find_leader = lambda *_: {
    "units": lambda: Leader(procfs.identity_of(us), "2", True), "session": lambda: Leader(procfs.identity_of(us), "2", False),
    "none": lambda: None, "fault": lambda: 1 / 0,
}.get(what, lambda: None)()
session.syslog.syslog = lambda _, words: open(os.environ["JOURNAL"], "w").write(words)
if what == "late fault":
    session_hook.open_session = lambda *_, **__: late() or 1 / 0
session_hook.login_program = lambda pid: procfs.identity_of(us)
session_hook.bus_address = lambda uid, environment: environment.get("DBUS_SESSION_BUS_ADDRESS") or os.environ["BUS"]
session_hook.connect = lambda uid, **_: hang()

def late():
    import select
    select.select([hook], [], [])

def hang():
    import signal
    signal.pause()

raise SystemExit(cli.main(sys.argv[5:]))
"""


def hook(
    *arguments: str, uid: int = 4711, what: str = "session", limit: float = 1.5, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CODE, ROOT, str(uid), what, str(limit), "session", *arguments],
        env={"PATH": os.environ["PATH"], "BUS": "unix:path=/nowhere", "XDG_SESSION_ID": "2", **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def silent_bus(tmp_path: Path) -> Iterator[str]:
    """It lets everybody in, and says nothing: a bus daemon that stands still."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "bus"))
        listening.listen()
        yield f"unix:path={tmp_path}/bus"


@pytest.mark.parametrize(
    ("arguments", "settings", "status", "stderr"),
    [
        (["open"], {"what": "units"}, 0, ""),
        (["close"], {"what": "units"}, 0, ""),
        (["close"], {"what": "session"}, 0, ""),
        (["open"], {"what": "none"}, 125, "this is no session; try it from within one, as from ~/.xinitrc or XDG autostart"),
        (["open"], {"what": "fault"}, 125, "ZeroDivisionError: division by zero; try 'slicemgr status'"),
        (["open"], {"uid": 0}, 0, "root has no session.slice; try it as the user who sits there"),
        ([], {}, 2, "no open or close given; try 'slicemgr session --help'"),
        (["begin"], {}, 2, "argument open|close: invalid choice: 'begin' (choose from 'open', 'close'); try 'slicemgr session --help'"),
    ],
)  # fmt: skip
def test_what_it_says(arguments: list[str], settings: Mapping[str, object], status: int, stderr: str) -> None:
    done = hook(*arguments, **settings)  # type: ignore[arg-type]
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr == (f"slicemgr session: {stderr}\n" if stderr else "")


@pytest.mark.parametrize(
    ("arguments", "uid", "environment"),
    [
        (["--pam"], 0, {"PAM_TYPE": "open_session", "PAM_USER": "root"}),
        (["--pam"], 0, {"PAM_TYPE": "close_session", "PAM_USER": "root"}),
        (["--pam"], 0, {"PAM_TYPE": "open_session"}),
        (["--pam"], 0, {"PAM_TYPE": "open_session", "PAM_USER": "\udcff"}),
        (["--pam"], 0, {"PAM_TYPE": "auth"}),
        (["--pam"], 0, {}),
        (["--pam"], 4711, {"PAM_TYPE": "open_session", "PAM_USER": "root"}),
        (["open", "--pam"], 0, {"PAM_TYPE": "open_session", "PAM_USER": "root"}),
        (["--pam", "--frob"], 0, {"PAM_TYPE": "open_session"}),
        (["--pam", "begin"], 0, {"PAM_TYPE": "open_session"}),
        (["--pam", "--help"], 0, {}),
        (["--pam"], 0, {"PAM_TYPE": "open_session", "PAM_USER": "root", "XDG_SESSION_ID": "x" * 9999}),
    ],
)
def test_with_pam_it_is_always_0(arguments: list[str], uid: int, environment: Mapping[str, str]) -> None:
    """No login ends here."""
    done = hook(*arguments, uid=uid, what="fault", **environment)  # type: ignore[arg-type]
    assert done.returncode == 0, done.stderr


def test_a_bus_that_stands_still(silent_bus: str) -> None:
    """GLib connects without a time-out, so it is ours; and nobody is left who holds the caller's pipes."""
    started = time.monotonic()
    done = hook("open", limit=0.4, DBUS_SESSION_BUS_ADDRESS=silent_bus)
    assert (done.returncode, done.stderr) == (0, LATE)
    done = hook("--pam", uid=0, limit=0.4, BUS=silent_bus, PAM_TYPE="open_session", PAM_USER="root")
    assert done.returncode == 0
    assert time.monotonic() - started < 20  # Not for ever: the two seconds are the next test's.


def test_what_goes_wrong_later_is_in_the_journal(tmp_path: Path) -> None:
    """The login has gone on, and its terminal is somebody else's."""
    os.mkfifo(tmp_path / "journal")
    reader = os.open(tmp_path / "journal", os.O_RDONLY | os.O_NONBLOCK)
    done = hook("open", limit=0.4, what="late fault", JOURNAL=str(tmp_path / "journal"))
    assert (done.returncode, done.stderr) == (0, LATE)
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    assert poll.poll(60_000)
    assert os.read(reader, 999) == b"slicemgr session: ZeroDivisionError: division by zero; try 'slicemgr status'"
    os.close(reader)


def test_who_is_left_behind_is_not_waited_for(tmp_path: Path) -> None:
    """The usher stays until there is a login shell, and that comes when the hook has ended."""
    shell, ended = tmp_path / "shell", tmp_path / "ended"

    def usher() -> None:
        while not shell.exists():
            time.sleep(0.01)
        ended.touch()

    deadline = time.monotonic() + 20
    assert session_verb._within(deadline, lambda: partial(session_verb._leave_behind, usher), is_silent=True) == 0
    in_time = time.monotonic() < deadline
    shell.touch()
    while not ended.exists():
        time.sleep(0.01)
    assert in_time


def test_two_seconds_at_most() -> None:
    """With a half of one for the interpreter, which takes 0.1 s here and 0.4 s in an emulated guest."""
    assert session_verb.LIMIT_SECONDS <= 1.5
    assert session_verb.CALL_SECONDS < session_verb.MOST_SECONDS


def test_a_service_manager_that_stands_still() -> None:
    done = hook("open", limit=0.4)
    assert (done.returncode, done.stderr) == (0, LATE)


def test_no_process_for_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def none() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", none)
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    assert session_verb.main(["open"]) == 125
    assert capsys.readouterr().err == (
        "slicemgr session: can't start: Resource temporarily unavailable; try again with less running\n"
    )
    monkeypatch.setattr(os, "getuid", lambda: 0)
    monkeypatch.setenv("PAM_TYPE", "open_session")
    assert session_verb.main(["--pam"]) == 0


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-", ">/dev/full 2>&1"])
def test_without_somebody_to_talk_to(closed: str) -> None:
    """As a login program may call it."""
    code = f'"{sys.executable}" -P -c "import sys; sys.path.insert(0, sys.argv.pop()); from slicemgr.cli import main; sys.exit(main())" session --pam "{ROOT}" {closed}'
    done = subprocess.run(["sh", "-c", code], env={"PATH": os.environ["PATH"]}, timeout=60)
    assert done.returncode == 0


def test_help() -> None:
    told = slicemgr("session", "--help")
    assert told.status == 0
    assert "XDG_SESSION_ID" in told.stdout
    assert "with --pam always" in told.stdout
