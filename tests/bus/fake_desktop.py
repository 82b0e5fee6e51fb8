# SPDX-License-Identifier: LGPL-2.1-or-later
"""A desktop that shows notices, for tests: org.freedesktop.Notifications in a thread of its own, good or bad."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from typing import Any, Self

from gi.repository import Gio, GLib

from slicemgr.bus.context import GLibThread
from slicemgr.bus.notifications import NAME, PATH

SECONDS = 20.0

INTERFACE = """
<node><interface name="org.freedesktop.Notifications">
  <method name="GetCapabilities"><arg type="{capabilities}" direction="out"/></method>
  <method name="Notify">
    <arg type="s" direction="in"/><arg type="u" direction="in"/><arg type="s" direction="in"/>
    <arg type="s" direction="in"/><arg type="s" direction="in"/><arg type="as" direction="in"/>
    <arg type="a{{sv}}" direction="in"/><arg type="i" direction="in"/><arg type="{number}" direction="out"/>
  </method>
  <method name="CloseNotification"><arg type="u" direction="in"/></method>
</interface></node>
"""

CAPABILITIES = ("body", "body-markup", "actions")


@dataclass(frozen=True, slots=True)
class Notice:
    """A call of Notify."""

    application: str
    replaces: int
    icon: str
    summary: str
    body: str
    actions: list[str]
    hints: dict[str, Any]
    timeout: int
    number: int
    """What it was answered."""
    text: str
    """All of it as GVariant prints it, with its types."""


class FakeDesktop:
    """Belongs to the test's thread; what it is asked is in `notices` and `withdrawn`."""

    def __init__(
        self,
        address: str,
        *,
        capabilities: Any = CAPABILITIES,
        capabilities_type: str = "as",
        number_type: str = "u",
        first_number: int = 1,
    ) -> None:
        """Other types than the specification's make it a hostile one."""
        self.notices: asyncio.Queue[Notice] = asyncio.Queue()
        self.withdrawn: asyncio.Queue[int] = asyncio.Queue()
        self.asked = 0
        """How often it was asked what it can."""
        self.is_mute = False
        """It answers nobody."""
        self._loop = asyncio.get_running_loop()
        self._address = address
        self._capabilities = GLib.Variant(f"({capabilities_type})", (capabilities,))
        self._number_type = number_type
        self._next = first_number
        xml = INTERFACE.format(capabilities=capabilities_type, number=number_type)
        self._info = Gio.DBusNodeInfo.new_for_xml(xml).interfaces[0]
        self._thread = GLibThread("desktop")
        self._unanswered: list[Any] = []
        self._connection: Any = None

    def __enter__(self) -> Self:
        """It has the name when this returns."""
        ready = threading.Event()
        self._thread.start()
        self._thread.do(lambda: self._begin(ready))
        assert ready.wait(SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.do(lambda: self._connection.close_sync(None))
        self._thread.stop()

    async def shown(self) -> Notice:
        """The next."""
        async with asyncio.timeout(SECONDS):
            return await self.notices.get()

    def press(self, number: Any, key: Any, signature: str = "(us)") -> None:
        """The person presses a button."""
        self._emit("ActionInvoked", GLib.Variant(signature, (number, key)))

    def close(self, number: Any, reason: Any, signature: str = "(uu)") -> None:
        """A bubble goes: 1 by itself, 2 by the person, 3 by CloseNotification."""
        self._emit("NotificationClosed", GLib.Variant(signature, (number, reason)))

    def _emit(self, name: str, arguments: Any) -> None:
        self._thread.do(lambda: self._connection.emit_signal(None, PATH, NAME, name, arguments))

    def _begin(self, ready: threading.Event) -> None:
        self._connection = connection(self._address)
        self._connection.register_object(PATH, self._info, self._called, None, None)
        flags = 0x1 | 0x2 | 0x4  # Let others replace us, replace who has it, and do not queue for it.
        self._connection.call_sync(
            "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "RequestName",
            GLib.Variant("(su)", (NAME, flags)), None, 0, 5000, None,
        )  # fmt: skip
        ready.set()

    def _called(
        self, _connection: Any, _sender: str, _path: str, _interface: str, method: str, parameters: Any, answer: Any
    ) -> None:
        match method:
            case "GetCapabilities":
                self.asked += 1
                answered = self._capabilities
            case "Notify":
                values = parameters.unpack()
                number = values[1] or self._next
                self._next = max(self._next, number + 1)
                notice = Notice(*(*values, number, parameters.print_(True)))
                self._loop.call_soon_threadsafe(self.notices.put_nowait, notice)
                answered = GLib.Variant(f"({self._number_type})", (_as(self._number_type, number),))
            case _:
                self._loop.call_soon_threadsafe(self.withdrawn.put_nowait, parameters.unpack()[0])
                answered = None
        if self.is_mute:
            self._unanswered.append(answer)
        else:
            answer.return_value(answered)


_KEPT: list[Any] = []
"""As slicemgr/bus/context.py does, and for its reason."""


def connection(address: str) -> Any:
    """To a bus, with a name of its own."""
    made = Gio.DBusConnection.new_for_address_sync(
        address,
        Gio.DBusConnectionFlags.AUTHENTICATION_CLIENT | Gio.DBusConnectionFlags.MESSAGE_BUS_CONNECTION,
        None,
        None,
    )
    _KEPT.append(made)
    return made


def _as(kind: str, number: int) -> Any:
    return {"u": number, "s": str(number), "i": -number, "b": True}[kind]
