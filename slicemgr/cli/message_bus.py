# SPDX-License-Identifier: LGPL-2.1-or-later
"""The one thing that `slicemgr install` asks of a message bus."""

import errno
import os
from collections.abc import Mapping

from slicemgr.placement.bus_connection import (
    BUS_NAME,
    BUS_PATH,
    BusError,
    Connection,
    NoManagerError,
    first_unix_socket,
)
from slicemgr.service.places import bus_address

_SECONDS = 5.0
"""dbus-daemon did it in 8 ms, busctl included."""


class MessageBusError(Exception):
    """It did not; says why, and what to try."""


def reload_bus(environment: Mapping[str, str], *, user: bool) -> str:
    """Let the bus read its policies and services again; returns a line that says so, or "" where no bus runs.

    dbus-daemon and dbus-broker watch the folders that were there when they last read them, and a home rarely had
    ~/.local/share/dbus-1/services. And nobody hears when they have noticed: ReloadConfig answers when it is done.
    Raises MessageBusError.
    """
    name = "session" if user else "system"
    socket = first_unix_socket(bus_address(os.geteuid() if user else None, environment))
    if socket is None:
        return ""
    try:
        connection = Connection(socket, is_bus=True, seconds=_SECONDS)
        try:
            connection.call(BUS_NAME, BUS_PATH, BUS_NAME, "ReloadConfig")
        finally:
            connection.close()
    except BusError as error:
        if isinstance(error, NoManagerError) and error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ECONNREFUSED}:
            return ""
        flag = " --user" if user else ""
        hint = f"'systemctl{flag} reload dbus', or log in again" if user else "'systemctl reload dbus'"
        raise MessageBusError(f"the {name} bus did not read its files again: {error}; try {hint}") from error
    return f"told the {name} bus to read its files again"
