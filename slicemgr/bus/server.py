# SPDX-License-Identifier: LGPL-2.1-or-later
"""Thread "bus-server": publishes the objects, and answers; see bus/__init__.py for who waits for whom."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final

from gi.repository import GLib
from pydbus import generic
from pydbus.exitable import ExitableWithAliases
from pydbus.registration import ObjectRegistration

from slicemgr.bus.call import Answer, Call
from slicemgr.bus.context import GLibThread, Reconnecting
from slicemgr.bus.errors import FailedError, LimitExceededError, RequestError
from slicemgr.bus.interface import InterfaceTable
from slicemgr.bus.objects import BUS_NAME, ROOT, Added, Changed, Difference, Objects, Removed, differences
from slicemgr.bus.own_name import OwnName
from slicemgr.bus.values import pack

_LOG: Final = logging.getLogger(__name__)

FRESH_SECONDS: Final = 1.0
"""A read is answered from what is known if that is not older than this ..."""
PATIENCE_SECONDS: Final = 0.5
"""... and waits at most so long for it to be looked up anew: nobody waits for a machine that stands still."""

MOST_CALLS: Final = 64
"""Unanswered ones of one client; the next is refused. The system bus lets it have 128."""

MOST_BYTES: Final = 1 << 16
"""Of a call's arguments: a bus carries 128 MiB, and to read them, or to find the known name that is nearest, would
keep all others waiting. A Protect of 253 processes, as many descriptors as a message may have, is 1 kB."""

_PROPERTIES: Final = "org.freedesktop.DBus.Properties"
_OBJECT_MANAGER: Final = "org.freedesktop.DBus.ObjectManager"
_ENDING: Final = "the daemon is ending; try again"

Read = Callable[[Objects, Call], tuple[Any, ...] | GLib.Variant]
"""Answers from the published objects alone, or has packed it already. Raises RequestError."""


class BusServer:
    """Our name on a bus, and all objects below it. Every method may be called from any thread, and never waits."""

    def __init__(
        self,
        address: str,
        *,
        loop: asyncio.AbstractEventLoop,
        handle: Callable[[Call], Awaitable[tuple[Any, ...]]],
        reads: Mapping[tuple[str, str], Read],
        refresh: Callable[[], object],
        tell: Callable[[str], object],
    ) -> None:
        """`handle` runs on the loop and answers what `reads`, by (interface, method), does not.

        `refresh` is called on the loop when somebody reads what is older than FRESH_SECONDS, and is to publish anew.
        `tell` is called in our thread: "" when we have our name, and why not otherwise.
        """
        self._loop = loop
        self._handle = handle
        self._reads = reads
        self._refresh = refresh
        self._table = InterfaceTable()
        self._objects: Objects = {}
        self._tree: GLib.Variant | None = None
        self._published_at = float("-inf")
        self._waiting: list[Callable[[], None]] = []
        self._open_calls: dict[str, int] = {}
        self._bus: Any = None
        self._registered: dict[str, tuple[_Wrapper, ObjectRegistration]] = {}
        self._thread = GLibThread("bus-server")
        self._connection = Reconnecting(self._thread, address, up=self._up, down=self._down)
        # That a bus goes which we have left ourselves is no news.
        self._name = OwnName(self._thread, BUS_NAME, lambda state: None if self._is_ending else tell(state))
        self._is_ending = False

    def start(self) -> None:
        """Raises RuntimeError if no thread is to be had."""
        self._thread.start()
        self._thread.do(self._connection.connect)

    def stop(self) -> None:
        """Give the name back. Waits for the thread, but not for a bus that stands still."""
        self._is_ending = True
        self._thread.do(self._connection.close)
        self._thread.stop()

    def publish(self, objects: Objects) -> None:
        """These from now on; what differs is told."""
        self._thread.do(lambda: self._apply(objects))

    def emit(self, path: str, interface: str, name: str, *arguments: Any, destination: str | None = None) -> None:
        """A signal, after all that was published before."""
        self._thread.do(lambda: self._send(path, interface, name, arguments, destination))

    # In the thread.

    def _up(self, bus: Any) -> None:
        self._bus = bus
        for path in self._objects:
            self._register(path)
        self._name.up(bus)

    def _down(self) -> None:
        for path in list(self._registered):
            self._unregister(path)
        self._bus = None
        self._open_calls.clear()
        self._name.down()

    def _apply(self, objects: Objects) -> None:
        before, self._objects, self._tree = self._objects, objects, None
        self._published_at = time.monotonic()
        if self._bus is not None:
            for difference in differences(before, objects, self._table.silent):
                self._tell_difference(difference)
        self._flush()

    def _tell_difference(self, difference: Difference) -> None:
        match difference:
            case Removed(path, interfaces):
                self._unregister(path)
                if _is_managed(path):
                    self._send(ROOT, _OBJECT_MANAGER, "InterfacesRemoved", (path, list(interfaces)))
            case Added(path):
                self._register(path)
                if _is_managed(path):
                    self._send(ROOT, _OBJECT_MANAGER, "InterfacesAdded", (path, self._packed(path)))
            case Changed(path, interface, properties):
                packed = {name: self._property(interface, name, value) for name, value in properties.items()}
                signal = GLib.Variant("(sa{sv}as)", (interface, packed, []))
                self._emit(path, _PROPERTIES, "PropertiesChanged", signal, None)

    def _register(self, path: str) -> None:
        interfaces = list(self._objects[path])
        if path == ROOT:
            interfaces.append(_OBJECT_MANAGER)
        wrapper = _Wrapper(self._called)
        infos = [self._table.infos[each] for each in interfaces]
        self._registered[path] = wrapper, ObjectRegistration(self._bus, path, infos, wrapper, own_wrapper=True)

    def _unregister(self, path: str) -> None:
        if path in self._registered:
            _, registration = self._registered.pop(path)
            registration.unregister()

    def _send(
        self, path: str, interface: str, name: str, arguments: tuple[Any, ...], destination: str | None = None
    ) -> None:
        self._emit(path, interface, name, pack(self._table.signals[interface, name], arguments), destination)

    def _emit(self, path: str, interface: str, name: str, packed: GLib.Variant, destination: str | None) -> None:
        if self._bus is not None:
            with contextlib.suppress(GLib.Error):  # The connection is being closed.
                self._bus.con.emit_signal(destination, path, interface, name, packed)

    def _called(
        self, connection: Any, sender: str, path: str, interface: str, method: str, parameters: Any, invocation: Any
    ) -> None:
        """GDBus has compared the arguments' types with the interface."""
        listed = invocation.get_message().get_unix_fd_list()
        descriptors = () if listed is None else tuple(listed.steal_fds())
        is_too_long = parameters.get_size() > MOST_BYTES
        arguments = () if is_too_long else parameters.unpack()
        call = Call(sender, path, interface, method, arguments, descriptors, connection.get_guid())
        answer = Answer(invocation, self._signature(call), call, self._done)
        if is_too_long:
            answer.refuse(LimitExceededError(f"the arguments are longer than {MOST_BYTES} bytes; try fewer"))
            return
        if self._open_calls.get(sender, 0) >= MOST_CALLS:
            answer.refuse(LimitExceededError(f"{MOST_CALLS} calls wait for an answer already; try one after the other"))
            return
        self._open_calls[sender] = self._open_calls.get(sender, 0) + 1
        answer.is_counted = True
        read = self._read_of(call)
        if read is not None:
            self._when_fresh(lambda: answer.settle(lambda: read(self._objects, call)))
        else:
            self._ask_loop(call, answer)

    def _ask_loop(self, call: Call, answer: Answer) -> None:
        work = self._answer(call, answer)
        try:
            asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError:  # The loop has ended.
            work.close()
            answer.refuse(FailedError(_ENDING))

    def _read_of(self, call: Call) -> Read | None:
        if call.interface == _PROPERTIES and call.method in {"Get", "GetAll"}:
            return self._get if call.method == "Get" else self._get_all
        if call.interface == _OBJECT_MANAGER:
            return self._get_managed_objects
        return self._reads.get((call.interface, call.method))

    def _when_fresh(self, answer: Callable[[], None]) -> None:
        if time.monotonic() - self._published_at < FRESH_SECONDS:
            answer()
            return
        self._waiting.append(answer)
        if len(self._waiting) == 1:
            self._thread.do(self._flush, PATIENCE_SECONDS)
            with contextlib.suppress(RuntimeError):  # The loop has ended.
                self._loop.call_soon_threadsafe(self._refresh)

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        for answer in waiting:
            answer()

    def _get(self, objects: Objects, call: Call) -> tuple[Any, ...]:
        interface, name = call.arguments
        return (self._property(interface, name, objects[call.path][interface][name]),)

    def _get_all(self, objects: Objects, call: Call) -> tuple[Any, ...]:
        (interface,) = call.arguments
        properties = objects[call.path].get(interface, {})
        return ({name: self._property(interface, name, value) for name, value in properties.items()},)

    def _get_managed_objects(self, objects: Objects, _call: Call) -> GLib.Variant:
        """Packed once: with 1000 jobs that takes 0.3 s, and anybody may ask without end."""
        if self._tree is None:
            tree = {path: self._packed(path) for path in objects if _is_managed(path)}
            self._tree = pack("(a{oa{sa{sv}}})", (tree,))
        return self._tree

    def _packed(self, path: str) -> dict[str, dict[str, GLib.Variant]]:
        return {
            interface: {name: self._property(interface, name, value) for name, value in properties.items()}
            for interface, properties in self._objects[path].items()
        }

    def _property(self, interface: str, name: str, value: Any) -> GLib.Variant:
        return pack(self._table.properties[interface, name], value)

    def _signature(self, call: Call) -> str:
        if call.interface == _PROPERTIES:
            return {"Get": "(v)", "GetAll": "(a{sv})", "Set": "()"}[call.method]
        return self._table.methods[call.interface, call.method].answer_signature

    def _done(self, sender: str) -> None:
        """From any thread."""
        self._thread.do(lambda: self._forget(sender))

    def _forget(self, sender: str) -> None:
        left = self._open_calls.get(sender, 0) - 1
        if left > 0:
            self._open_calls[sender] = left
        else:
            self._open_calls.pop(sender, None)

    # On the loop.

    async def _answer(self, call: Call, answer: "Answer") -> None:
        """Sent in the thread, after what was published before: nobody is told of an object that is not there."""
        try:
            values = await self._handle(call)
        except RequestError as error:
            self._thread.do(partial(answer.refuse, error))
        except Exception as error:  # noqa: BLE001 - a fault of ours: the caller is not left waiting, and we go on
            _LOG.exception("%s.%s", call.interface, call.method)
            fault = FailedError(f"{type(error).__name__}: {error}; try 'slicemgr status'")
            self._thread.do(partial(answer.refuse, fault))
        except BaseException:
            answer.refuse(FailedError(_ENDING))
            raise
        else:
            self._thread.do(partial(answer.settle, lambda: values))


def _is_managed(path: str) -> bool:
    """Below the object manager; its own object is not (D-Bus Specification)."""
    return path.startswith(f"{ROOT}/")


class _Wrapper(ExitableWithAliases("unwrap")):  # type: ignore[misc]
    """What pydbus registers for an object, in place of its ObjectWrapper, which would wait for each answer."""

    __slots__ = ("call_method",)

    SignalEmitted = generic.signal()

    def __init__(self, call_method: Callable[..., None]) -> None:
        self.call_method = call_method
