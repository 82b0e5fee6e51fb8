# SPDX-License-Identifier: LGPL-2.1-or-later
"""Our name on a bus: asked for until we have it, and again when it was taken from us. Lives in a GLibThread."""

from collections.abc import Callable
from typing import Any, Final

from gi.repository import Gio, GLib

from slicemgr.bus.context import FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS, GLibThread
from slicemgr.bus.glib_errors import remote_error

_BUS: Final = "org.freedesktop.DBus"
_BUS_PATH: Final = "/org/freedesktop/DBus"
_CALL_MILLISECONDS: Final = 5000
"""For the bus daemon to answer."""

_OURS: Final = frozenset({1, 4})
"""RequestName's answers: we are its owner, and we were it already. 2 is: in the queue (D-Bus Specification)."""


class OwnName:
    """One well-known name, over all connections."""

    def __init__(self, thread: GLibThread, name: str, tell: Callable[[str], object]) -> None:
        """`tell` is called in the thread: "" when we have it, and why not otherwise; not twice the same."""
        self._thread = thread
        self._name = name
        self._tell = tell
        self._told: str | None = None
        self._bus: Any = None
        self._retry_seconds = FIRST_RETRY_SECONDS

    def up(self, bus: Any) -> None:
        """Ask for it on this connection; never waits. Who comes after its owner is told when that leaves."""
        self._bus = bus
        self._retry_seconds = FIRST_RETRY_SECONDS
        for signal, told in (("NameAcquired", self._acquired), ("NameLost", self._lost)):
            bus.subscribe(sender=_BUS, iface=_BUS, signal=signal, arg0=self._name, signal_fired=told)
        self._request(bus)

    def down(self) -> None:
        """The connection is gone, and with it the name."""
        self._bus = None
        self._say("the bus is gone")

    def _request(self, bus: Any) -> None:
        if bus is not self._bus:
            return  # It was to be asked again, and the connection is gone meanwhile.

        def answered(connection: Any, result: Any) -> None:
            try:
                (reply,) = connection.call_finish(result).unpack()
            except GLib.Error as error:
                self._refused(bus, error)
            else:
                self._answered(bus, reply)

        # Not bus.request_name(): it waits, and without a time-out.
        bus.con.call(
            _BUS, _BUS_PATH, _BUS, "RequestName", GLib.Variant("(su)", (self._name, 0)), GLib.VariantType.new("(u)"),
            Gio.DBusCallFlags.NONE, _CALL_MILLISECONDS, None, answered,
        )  # fmt: skip

    def _answered(self, bus: Any, reply: int) -> None:
        if bus is self._bus:
            self._say("" if reply in _OURS else f"{self._name} is another daemon's on this bus")

    def _refused(self, bus: Any, error: GLib.Error) -> None:
        """No policy lets us have it: that may be installed yet, and then a reload of the bus is not told to us."""
        if bus is not self._bus:
            return
        self._say(f"the bus does not give us the name {self._name} ({remote_error(error)}); try 'slicemgr install'")
        self._thread.do(lambda: self._request(bus), self._retry_seconds)
        self._retry_seconds = min(self._retry_seconds * 2, LONGEST_RETRY_SECONDS)

    def _acquired(self, *_: object) -> None:
        self._say("")

    def _lost(self, *_: object) -> None:
        """Somebody has it in our place. When they leave it is ours again, if we stand in the queue."""
        self._say(f"{self._name} is another daemon's on this bus")
        self._request(self._bus)

    def _say(self, state: str) -> None:
        if state != self._told:
            self._told = state
            self._tell(state)
