# SPDX-License-Identifier: LGPL-2.1-or-later
"""`slicemgr session`: the login hook. It tells a daemon of a session, and never takes longer than a login may wait."""

import argparse
import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NoReturn

from slicemgr.cli import OneLineParser
from slicemgr.cli.exit_codes import ExitCode
from slicemgr.cli.printable import one_line, say

_PROG: Final = "slicemgr session"

_DESCRIPTION: Final = """\
The login hook: tell slicemgr of a desktop session that begins or ends. A session that no systemd unit runs (startx, a
plain window manager) is put into session.slice with all that it has started; GNOME and Plasma stay where systemd has
put them. Without a daemon it asks the service manager itself."""

_EPILOG: Final = """\
Call it from within the session, when the display server runs: from ~/.xinitrc, XDG autostart, or a user unit that is
bound to graphical-session.target. All of it goes by the environment: XDG_SESSION_ID, XDG_SESSION_TYPE,
XDG_CURRENT_DESKTOP, XDG_RUNTIME_DIR and DBUS_SESSION_BUS_ADDRESS; with --pam PAM_TYPE and PAM_USER, as pam_exec sets
them, and then the system's daemon is told. It takes two seconds at most: what is not done by then goes on beside the
login.

exit status: 0, with --pam always; 2 for a usage error; 125 if somebody refuses.

example: slicemgr session open"""

LIMIT_SECONDS: Final = 1.5
"""For all of it; the interpreter has taken some time already, and a login waits two seconds at most."""

CLOSING_SECONDS: Final = 4.0
"""The same at the end of a session: what goes on by itself then is ended with the unit."""

MOST_SECONDS: Final = 30
"""For what goes on without anybody waiting: a daemon that the bus starts, on a machine that has just booted."""

LEFT_BEHIND_SECONDS: Final = 120
"""For whoever waits for the login shell, and then for the user's daemon; users of a network may hang."""

CALL_SECONDS: Final = 20.0
"""Of these, for a daemon to answer."""


def main(arguments: Sequence[str]) -> int:
    """Run the verb; returns the exit status."""
    if "--pam" not in arguments:
        return _main(arguments)
    # Whatever goes wrong: who fails here locks somebody out.
    with contextlib.suppress(SystemExit, Exception):
        _main(arguments)
    return 0


def _main(arguments: Sequence[str]) -> int:
    deadline = time.monotonic() + LIMIT_SECONDS
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.pam:
        deed = {"open_session": "open", "close_session": "close"}.get(os.environ.get("PAM_TYPE", ""), "")
        if not deed or os.getuid() != 0:
            return 0
        return _within(deadline, partial(_tell_the_systems, deed, os.getpid()), is_silent=True)
    if options.deed is None:
        parser.error("no open or close given")
    if os.getuid() == 0:
        say("root has no session.slice; try it as the user who sits there", prog=_PROG)
        return 0
    if options.deed == "close":
        deadline += CLOSING_SECONDS - LIMIT_SECONDS
    return _within(deadline, partial(_tell_the_users, options.deed, os.getpid()))


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog=_PROG,
        usage="slicemgr session open|close\n       slicemgr session --pam",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument("--pam", action="store_true", help="called by pam_exec: PAM_TYPE says what for; always exits 0")
    parser.add_argument("deed", nargs="?", choices=("open", "close"), metavar="open|close", help=argparse.SUPPRESS)
    return parser


def _within(deadline: float, work: Callable[[], str], *, is_silent: bool = False) -> int:
    """The status of `work`, done in a child that goes on by itself when time is up. It returns what is to be said.

    A time-out of our own is not enough: GLib connects without one, and a home on a dead server or a page that comes
    back from swap wait in the kernel. The parent has nothing to wait for but a pipe.
    """
    told, telling = os.pipe()
    try:
        child = os.fork()
    except OSError as error:
        say(f"can't start: {error.strerror}; try again with less running", prog=_PROG)
        return ExitCode.OWN_FAILURE
    if child == 0:
        os.close(told)
        _be_the_child(work, telling)
    os.close(telling)
    words = _read_until(deadline, told)
    if words is None:
        if not is_silent:
            say("not done in time, and goes on by itself; try 'slicemgr status'", prog=_PROG)
        return 0
    if words and not is_silent:
        say(words, prog=_PROG)
    return ExitCode.OWN_FAILURE if words else 0


def _read_until(deadline: float, told: int) -> str | None:
    """All that the child says; None if it has not ended by then."""
    poll = select.poll()
    poll.register(told, select.POLLIN)
    words = b""
    while poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        read = os.read(told, 4096)
        if not read:
            return words.decode(errors="replace")
        words += read
    return None


def _be_the_child(work: Callable[[], str], telling: int) -> NoReturn:
    words = "its process has ended; try again"
    try:
        signal.alarm(MOST_SECONDS)
        _let_go_of_the_callers_files()
        words = work()
    except Exception as error:  # noqa: BLE001 - our own fault; nobody reads a traceback at login
        words = one_line(f"{type(error).__name__}: {error}; try 'slicemgr status'")
    finally:
        with contextlib.suppress(OSError):  # The parent is gone.
            os.write(telling, words.encode(errors="replace"))
        os._exit(0)


def _leave_behind(work: Callable[[], object]) -> None:
    """In a process that nobody waits for, and no end of ours or of a terminal's ends."""
    with contextlib.suppress(OSError):
        if os.fork() == 0:
            try:
                os.setsid()
                os.closerange(3, 4096)  # Above all the pipe that the hook waits for: a login would wait for it as well.
                signal.alarm(LEFT_BEHIND_SECONDS)
                with contextlib.suppress(Exception):  # Nobody is there to be told.
                    work()
            finally:
                os._exit(0)


def _let_go_of_the_callers_files() -> None:
    """pam_exec reads what we write up to its last writer: a child that hangs must not be one."""
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115


def _tell_the_users(deed: str, pid: int) -> str:
    from slicemgr.service import session_hook

    tell = session_hook.open_session if deed == "open" else session_hook.close_session
    try:
        tell(pid, os.getuid(), os.environ, seconds=CALL_SECONDS)
    except session_hook.HookError as error:
        return one_line(str(error))
    return ""


def _tell_the_systems(deed: str, pid: int) -> str:
    from slicemgr.service import session_hook, session_usher

    try:
        login = session_hook.login_above(pid)
        if deed == "open" and os.environ.get("XDG_SESSION_TYPE", "") in session_usher.TEXT:
            _leave_behind(partial(session_usher.usher, login, os.environ))
        session_hook.tell_the_systems_daemon(deed, login, os.environ, seconds=CALL_SECONDS)
    except session_hook.HookError as error:
        return one_line(str(error))
    return ""
