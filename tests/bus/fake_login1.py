# SPDX-License-Identifier: LGPL-2.1-or-later
"""A small logind on a private bus: sessions that come, go, and change."""

from __future__ import annotations

import contextlib
import queue
from typing import TYPE_CHECKING, Any

from gi.repository import Gio, GLib

from slicemgr.bus.context import GLibThread

if TYPE_CHECKING:
    from collections.abc import Callable

NAME, PATH = "org.freedesktop.login1", "/org/freedesktop/login1"
MANAGER, SESSION = f"{NAME}.Manager", f"{NAME}.Session"

XML = """
<node>
  <interface name="org.freedesktop.login1.Manager">
    <method name="ListSessions"><arg type="a(susso)" direction="out"/></method>
  </interface>
  <interface name="org.freedesktop.login1.Session">
    <property name="Id" type="s" access="read"/>
    <property name="User" type="(uo)" access="read"/>
    <property name="Leader" type="u" access="read"/>
    <property name="Scope" type="s" access="read"/>
    <property name="Type" type="s" access="read"/>
    <property name="Class" type="s" access="read"/>
    <property name="Desktop" type="s" access="read"/>
    <property name="Active" type="b" access="read"/>
    <property name="State" type="s" access="read"/>
    <property name="IdleHint" type="b" access="read"/>
  </interface>
</node>
"""
SIGNATURES = {
    "Id": "s", "User": "(uo)", "Leader": "u", "Scope": "s", "Type": "s", "Class": "s", "Desktop": "s", "Active": "b",
    "State": "s", "IdleHint": "b",
}  # fmt: skip


def path_of(session: str) -> str:
    return f"{PATH}/session/_{ord(session[0]):02x}{session[1:]}"


class FakeLogin1:
    """Has its name from the beginning; every call returns when it is done and its signal is on the way."""

    def __init__(self, address: str) -> None:
        self.sessions: dict[str, dict[str, Any]] = {}
        self._numbers: dict[str, int] = {}
        self._infos = Gio.DBusNodeInfo.new_for_xml(XML).interfaces
        self._thread = GLibThread("fake-login1")
        self._thread.start()
        self._connection = self._do(lambda: self._connect(address))

    def stop(self) -> None:
        """It leaves the bus."""
        with contextlib.suppress(GLib.Error):  # The bus is gone.
            self._connection.close_sync(None)
        self._thread.stop()

    def add(self, session: str, **properties: Any) -> None:
        """One more: an X11 session of uid 1000's, in front."""
        self.sessions[session] = {
            "Id": session, "User": (1000, f"{PATH}/user/_1000"), "Leader": 4711, "Scope": f"session-{session}.scope",
            "Type": "x11", "Class": "user", "Desktop": "i3", "Active": True, "State": "active", "IdleHint": False,
            **properties,
        }  # fmt: skip
        self._do(lambda: self._register(session))
        self._emit(PATH, MANAGER, "SessionNew", GLib.Variant("(so)", (session, path_of(session))))

    def remove(self, session: str) -> None:
        """It has ended."""
        del self.sessions[session]
        self._do(lambda: self._connection.unregister_object(self._numbers.pop(session)))
        self._emit(PATH, MANAGER, "SessionRemoved", GLib.Variant("(so)", (session, path_of(session))))

    def change(self, session: str, *, invalidate: bool = False, **properties: Any) -> None:
        """Some of its properties; told with their values, or as invalid."""
        self.sessions[session].update(properties)
        values = {} if invalidate else {name: self._value(session, name) for name in properties}
        told = GLib.Variant("(sa{sv}as)", (SESSION, values, list(properties) if invalidate else []))
        self._emit(path_of(session), "org.freedesktop.DBus.Properties", "PropertiesChanged", told)

    def _do(self, call: Callable[[], Any]) -> Any:
        """In the thread."""
        answer: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread.do(lambda: answer.put(call()))
        return answer.get(timeout=20)

    def _connect(self, address: str) -> Any:
        flags = Gio.DBusConnectionFlags
        connection = Gio.DBusConnection.new_for_address_sync(
            address, flags.AUTHENTICATION_CLIENT | flags.MESSAGE_BUS_CONNECTION, None, None
        )
        connection.set_exit_on_close(False)
        connection.register_object(PATH, self._infos[0], self._called, None, None)
        connection.call_sync(
            "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "RequestName",
            GLib.Variant("(su)", (NAME, 0)), None, 0, 5000, None,
        )  # fmt: skip
        return connection

    def _register(self, session: str) -> None:
        def get(_connection: Any, _sender: str, _path: str, _interface: str, name: str) -> Any:
            return self._value(session, name)

        self._numbers[session] = self._connection.register_object(path_of(session), self._infos[1], None, get, None)

    def _value(self, session: str, name: str) -> Any:
        return GLib.Variant(SIGNATURES[name], self.sessions[session][name])

    def _called(
        self, _c: Any, _sender: str, _path: str, _interface: str, _method: str, _p: Any, invocation: Any
    ) -> None:
        rows = [(name, each["User"][0], "tester", "seat0", path_of(name)) for name, each in self.sessions.items()]
        invocation.return_value(GLib.Variant("(a(susso))", (rows,)))

    def _emit(self, path: str, interface: str, name: str, told: Any) -> None:
        self._do(lambda: self._connection.emit_signal(None, path, interface, name, told))
