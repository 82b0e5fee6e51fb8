# SPDX-License-Identifier: LGPL-2.1-or-later
"""What GLib says of a call that failed, by the names that D-Bus has for it."""

from gi.repository import Gio, GLib

from slicemgr.bus.errors import NO_BUS, NO_REPLY, RemoteError


def remote_error(error: GLib.Error) -> RemoteError:
    """By D-Bus's name for it, and without GLib's prefix in the message."""
    name = Gio.DBusError.get_remote_error(error)
    if name is None:
        is_late = error.matches(Gio.io_error_quark(), Gio.IOErrorEnum.TIMED_OUT)
        return RemoteError(NO_REPLY if is_late else NO_BUS, error.message)
    return RemoteError(name, error.message.removeprefix(f"GDBus.Error:{name}: "))
