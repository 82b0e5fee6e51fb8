# SPDX-License-Identifier: LGPL-2.1-or-later
"""`slicemgr session`: the login hook. It tells a daemon of a session, and never takes longer than a login may wait."""

import argparse
import contextlib
import os
import select
import signal
import sys
import syslog
import time
from collections.abc import Callable, Iterator, Sequence
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

MOST_SECONDS: Final = 30
"""For what goes on without anybody waiting: a daemon that the bus starts, on a machine that has just booted."""

LEFT_BEHIND_SECONDS: Final = 120
"""For whoever waits for the login shell, and then for the user's daemon; users of a network may hang."""

CALL_SECONDS: Final = 20.0
"""Of these, for a daemon to answer."""


class _RefusedError(Exception):
    """The line that is to be said."""


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
        return _within(deadline, partial(_find_login, deed), is_silent=True)
    if options.deed is None:
        parser.error("no open or close given")
    if os.getuid() == 0:
        say("root has no session.slice; try it as the user who sits there", prog=_PROG)
        return 0
    return _within(deadline, partial(_find_leader, options.deed))


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


def _within(deadline: float, find: Callable[[], Callable[[], object]], *, is_silent: bool = False) -> int:
    """The status of telling what `find` has found, which is what it returns.

    We ourselves find it, because those who have started us may end when we do, and nobody is above a child then. That
    reads /proc; the rest is done in a child that goes on by itself when time is up. A time-out of our own would not do:
    GLib connects without one, and a home on a dead server or a page that comes back from swap wait in the kernel.
    """
    try:
        tell = find()
    except Exception as error:  # noqa: BLE001 - as in the child
        if not is_silent:
            say(_words_of(error), prog=_PROG)
        return ExitCode.OWN_FAILURE
    told, telling = os.pipe()
    try:
        child = os.fork()
    except OSError as error:
        say(f"can't start: {error.strerror}; try again with less running", prog=_PROG)
        return ExitCode.OWN_FAILURE
    if child == 0:
        os.close(told)
        _be_the_child(tell, telling)
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


def _be_the_child(work: Callable[[], object], telling: int) -> NoReturn:
    words = "its process has ended; try again"
    try:
        signal.alarm(MOST_SECONDS)
        _let_go_of_the_callers_files()
        work()
        words = ""
    except Exception as error:  # noqa: BLE001 - our own fault; nobody reads a traceback at login
        words = _words_of(error)
    finally:
        try:
            _hand_over(words, telling)
        finally:
            os._exit(0)


def _hand_over(words: str, telling: int) -> None:
    """To whom waits; or to the journal, if nobody does any more."""
    try:
        os.write(telling, words.encode(errors="replace"))
    except OSError:
        if words:
            syslog.syslog(syslog.LOG_WARNING, f"{_PROG}: {words}")


def _words_of(error: Exception) -> str:
    if isinstance(error, _RefusedError):
        return str(error)
    return one_line(f"{type(error).__name__}: {error}; try 'slicemgr status'")


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


def _find_leader(deed: str) -> Callable[[], object]:
    from slicemgr.service import session_hook

    with _as_refusals():
        leader = session_hook.leader_above(os.getpid(), os.getuid(), os.environ)

    def tell() -> None:
        tell_them = session_hook.open_session if deed == "open" else session_hook.close_session
        with _as_refusals():
            tell_them(leader, os.getuid(), os.environ, seconds=CALL_SECONDS)

    return tell


def _find_login(deed: str) -> Callable[[], object]:
    from slicemgr.service import session_hook, session_usher

    with _as_refusals():
        login = session_hook.login_above(os.getpid())

    def tell() -> None:
        if deed == "open" and os.environ.get("XDG_SESSION_TYPE", "") in session_usher.TEXT:
            _leave_behind(partial(session_usher.usher, login, os.environ))
        with _as_refusals():
            session_hook.tell_the_systems_daemon(deed, login, os.environ, seconds=CALL_SECONDS)

    return tell


@contextlib.contextmanager
def _as_refusals() -> Iterator[None]:
    from slicemgr.service.session_hook import HookError

    try:
        yield
    except HookError as error:
        raise _RefusedError(one_line(str(error))) from error
