# SPDX-License-Identifier: LGPL-2.1-or-later
"""Thread "bus-client": outgoing calls, each with a time-out, and all subscriptions; see bus/__init__.py."""

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Final

from gi.repository import Gio, GLib

from slicemgr.bus.context import GLibThread, Reconnecting
from slicemgr.bus.errors import NO_BUS, RemoteError
from slicemgr.bus.glib_errors import remote_error
from slicemgr.bus.values import pack

CALL_SECONDS: Final = 5.0
"""For an answer. pydbus' own default is for ever."""

BUS: Final = "org.freedesktop.DBus"
BUS_PATH: Final = "/org/freedesktop/DBus"

Told = Callable[[str, tuple[Any, ...]], object]
"""Of a signal: the path of its object, and its arguments."""


class BusClient:
    """Calls others on one bus, and hears their signals. Belongs to the loop's thread."""

    def __init__(self, address: str, *, loop: asyncio.AbstractEventLoop, connected: Callable[[], object]) -> None:
        """`connected` is called on the loop whenever there is a new connection: what was known is stale then."""
        self._loop = loop
        self._connected = connected
        self._bus: Any = None
        self._subscriptions: dict[int, Callable[[Any], Any]] = {}
        self._subscribed: dict[int, Any] = {}
        self._numbers = itertools.count()
        self._thread = GLibThread("bus-client")
        self._connection = Reconnecting(self._thread, address, up=self._up, down=self._down)

    def start(self) -> None:
        """Raises RuntimeError if no thread is to be had."""
        self._thread.start()
        self._thread.do(self._connection.connect)

    def stop(self) -> None:
        """Waits for the thread, but not for a bus that takes a connection and says nothing."""
        self._thread.do(self._connection.close)
        self._thread.stop()

    async def call(
        self,
        destination: str,
        path: str,
        interface: str,
        method: str,
        signature: str = "()",
        arguments: Sequence[Any] = (),
        seconds: float = CALL_SECONDS,
        bus_id: str = "",
    ) -> tuple[Any, ...]:
        """The answer, unpacked. Raises RemoteError, also when there is no bus or no answer in time.

        `bus_id`: only of this bus daemon; a restarted one gives the same unique names to others.
        """
        answer: asyncio.Future[tuple[Any, ...]] = self._loop.create_future()
        packed = pack(signature, tuple(arguments))

        def settle(outcome: tuple[Any, ...] | RemoteError) -> None:
            if not answer.done():
                if isinstance(outcome, RemoteError):
                    answer.set_exception(outcome)
                else:
                    answer.set_result(outcome)

        def answered(connection: Any, result: Any) -> None:
            try:
                self._tell_loop(settle, connection.call_finish(result).unpack())
            except GLib.Error as error:
                self._tell_loop(settle, remote_error(error))

        def send() -> None:
            if self._bus is None:
                self._tell_loop(settle, RemoteError(NO_BUS, "there is no bus"))
                return
            if bus_id and self._bus.con.get_guid() != bus_id:
                self._tell_loop(settle, RemoteError(NO_BUS, "the bus is another one by now"))
                return
            self._bus.con.call(
                destination, path, interface, method, packed, None, Gio.DBusCallFlags.NONE,
                int(seconds * 1000), None, answered,
            )  # fmt: skip

        self._thread.do(send)
        return await answer

    def subscribe(
        self, sender: str, interface: str, member: str, told: Told, *, path: str | None = None, arg0: str | None = None
    ) -> Callable[[], None]:
        """`told` on the loop for each such signal, over all connections. Returns what ends it."""
        number = next(self._numbers)

        def fired(_sender: str, path: str, _interface: str, _signal: str, arguments: tuple[Any, ...]) -> None:
            self._tell_loop(told, path, arguments)

        def subscription(bus: Any) -> Any:
            return bus.subscribe(
                sender=sender, iface=interface, signal=member, object=path, arg0=arg0, signal_fired=fired
            )

        def begin() -> None:
            self._subscriptions[number] = subscription
            if self._bus is not None:
                self._subscribed[number] = subscription(self._bus)

        def end() -> None:
            self._subscriptions.pop(number, None)
            known = self._subscribed.pop(number, None)
            if known is not None:
                known.unsubscribe()

        self._thread.do(begin)
        return lambda: self._thread.do(end)

    def _up(self, bus: Any) -> None:
        self._bus = bus
        self._subscribed = {number: begin(bus) for number, begin in self._subscriptions.items()}
        self._tell_loop(self._connected)

    def _down(self) -> None:
        self._bus = None
        self._subscribed.clear()  # They went with their connection.

    def _tell_loop(self, call: Callable[..., object], *arguments: Any) -> None:
        with contextlib.suppress(RuntimeError):  # It has ended.
            self._loop.call_soon_threadsafe(call, *arguments)
