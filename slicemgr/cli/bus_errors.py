# SPDX-License-Identifier: LGPL-2.1-or-later
"""What came of asking a daemon over its bus, as one line for people that ends in what to try. Knows no GLib."""

from collections.abc import Mapping
from typing import Final

from slicemgr.bus.errors import NO_BUS, NO_OWNER, NO_REPLY, PREFIX, RemoteError
from slicemgr.cli.exit_codes import ExitCode
from slicemgr.cli.printable import one_line

NO_GLIB: Final = "slicemgr.NoGLib"
"""As the name of a RemoteError: Python lacks what D-Bus is spoken with."""

ABSENT: Final = frozenset({NO_GLIB, NO_BUS, *NO_OWNER})
"""Nobody is there who could be asked."""

_USAGE: Final = frozenset({f"{PREFIX}NotFound", f"{PREFIX}InvalidArgument", f"{PREFIX}NotManaged"})

_UNKNOWN: Final = "org.freedesktop.DBus.Error.Unknown"
"""UnknownMethod, UnknownInterface, UnknownObject, UnknownProperty: a daemon of another version."""

_HINTS: Final[Mapping[str, str]] = {
    "ListSlices": "'slicemgr status'",
    "ListJobs": "'slicemgr list'",
    "GetManagedObjects": "'slicemgr status'",
    "the option `interactive`, or as root": "in a terminal, where you can be asked for a password, or with sudo",
    "as root": "with sudo",
    "that user's session bus": "'slicemgr set --user' as that user",
}
"""What a daemon advises programs to try -> what a person can type."""

_START: Final[Mapping[str, str]] = {
    "user": "'systemctl --user start slicemgr'",
    "system": "'sudo systemctl start slicemgr'",
}
_STATUS: Final[Mapping[str, str]] = {
    "user": "'systemctl --user status slicemgr'",
    "system": "'systemctl status slicemgr'",
}
_BUS: Final[Mapping[str, str]] = {"user": "session bus", "system": "system bus"}
_NO_BUS: Final[Mapping[str, str]] = {
    "user": "from within your session, or --system",
    "system": "'systemctl status dbus'",
}


def line_for(error: RemoteError, whose: str) -> str:
    """`whose` daemon was asked: user or system."""
    message = one_line(str(error))
    if error.name.startswith(PREFIX):
        return _of_daemon(message)
    if error.name in NO_OWNER:
        return no_daemon_line(whose)
    if error.name == NO_GLIB:
        return f"Python can't speak D-Bus here ({message}); try installing python3-gi and python3-pydbus"
    if error.name == NO_BUS:
        return f"there is no {_BUS[whose]} ({message}); try {_NO_BUS[whose]}"
    if error.name == NO_REPLY:
        return f"the {whose} daemon does not answer; try again, and {_STATUS[whose]} if it stays so"
    if error.name.startswith(_UNKNOWN):
        restart = _START[whose].replace("start", "restart", 1)
        return f"the {whose} daemon is of another version ({message}); try {restart}"
    if error.name.endswith(".AccessDenied"):
        return f"the {_BUS[whose]} lets you not ask the {whose} daemon that ({message}); try with sudo"
    return f"the {whose} daemon could not be asked ({message}); try {_STATUS[whose]}"


def no_daemon_line(whose: str, meanwhile: str = "") -> str:
    """`meanwhile` is what is done about it."""
    return f"there is no {whose} daemon on the {_BUS[whose]}{meanwhile}; try {_START[whose]}"


def exit_code_for(error: RemoteError) -> ExitCode:
    """What can't be meant is a usage error, though only the daemon could tell."""
    return ExitCode.USAGE if error.name in _USAGE else ExitCode.OWN_FAILURE


def _of_daemon(message: str) -> str:
    """It ends in what to try."""
    problem, separator, hint = message.rpartition("; try ")
    if not separator:
        return f"{message}; try 'slicemgr status'"
    return f"{problem}; try {_HINTS.get(hint, hint)}"
