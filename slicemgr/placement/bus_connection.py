# SPDX-License-Identifier: LGPL-2.1-or-later
"""One D-Bus connection on a raw unix socket: it calls methods, one at a time, and keeps the signals in between.

`_socket` is the C half of `socket`: 0.7 ms to import where `socket` is 5 (enum, selectors and io come with it).
Blocking, with a time-out on everything; not for use by two threads at once.
"""

from __future__ import annotations

import _socket
import os
import struct
import sys
import time

from slicemgr.placement.bus_wire import BusError, FormatError, pack, unpack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Final

__all__ = ["BusError", "CallTimeoutError", "Connection", "ManagerError", "Message", "NoManagerError"]

LONGEST_MESSAGE: Final = 16 << 20
"""Bytes. The specification allows 128 MiB; the list of 10,000 units is 3."""

MOST_SIGNALS: Final = 1000
"""Signals kept while a call waits for its answer; a manager sends some 20 for each unit that it starts."""

CALL_SECONDS: Final = 90.0
"""For an answer. Not the 25 of libdbus: a manager that places 200 jobs at once has the last one wait that long."""

_METHOD_CALL: Final = 1
_METHOD_RETURN: Final = 2
_ERROR: Final = 3
_SIGNAL: Final = 4
# Header fields of the specification, "Header Fields".
_PATH, _INTERFACE, _MEMBER, _ERROR_NAME, _REPLY_SERIAL, _DESTINATION, _SIGNATURE = 1, 2, 3, 4, 5, 6, 8
_FIELD_SIGNATURES: Final = {1: "o", 2: "s", 3: "s", 4: "s", 5: "u", 6: "s", 7: "s", 8: "g", 9: "u"}
_FIXED_HEADER_BYTES: Final = 16
_LONGEST_GREETING: Final = 4096

BUS_NAME: Final = "org.freedesktop.DBus"
BUS_PATH: Final = "/org/freedesktop/DBus"


class NoManagerError(BusError):
    """There is nobody to talk to, or the connection broke. `errno` is that of the call that failed, 0 if none did."""

    def __init__(self, message: str, errno: int = 0) -> None:
        super().__init__(message)
        self.errno = errno


class CallTimeoutError(BusError):
    """No answer within the time."""


class ManagerError(BusError):
    """The other end answered with an error: `name` is D-Bus's, `message` is for people."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message or name)
        self.name = name
        self.message = message


class Message:
    """What came in: the header taken apart, the body as it was."""

    __slots__ = ("body", "fields", "kind", "order", "serial")

    def __init__(self, kind: int, serial: int, fields: dict[int, Any], body: bytes, order: str) -> None:
        self.kind = kind
        self.serial = serial
        self.fields = fields
        self.body = body
        self.order = order

    @property
    def member(self) -> str:
        """`JobRemoved`; empty for answers."""
        return str(self.fields.get(_MEMBER, ""))

    def values(self) -> tuple[Any, ...]:
        """The body. Raises FormatError."""
        return unpack(self.fields.get(_SIGNATURE, ""), self.body, order=self.order)


class Connection:
    """A connection to a bus, or to a peer directly (a manager's private socket)."""

    def __init__(
        self, address: str | bytes, *, is_bus: bool, seconds: float = CALL_SECONDS, signals_with: bytes = b""
    ) -> None:
        """Connect, and send who we are; the answer is read by the first call, so that the peer works meanwhile.

        `address` is the path of a socket, or an abstract name that starts with a zero byte. Signals are dropped unread
        if their header does not contain `signals_with`. Raises NoManagerError.
        """
        self.is_bus = is_bus
        self._signals_with = signals_with
        self.signals: list[Message] = []
        self._serial = 0
        self._pending = bytearray()
        self._seconds = seconds
        self._greeted = False
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        self._socket.settimeout(seconds)
        try:
            self._socket.connect(address)
            # EXTERNAL: the kernel tells the peer our uid, and we say the same one, in hex (of its decimal digits).
            # BEGIN in the same breath, as sd-bus does: sent later, systemd may read it together with our first
            # message, and then lets that lie until something else arrives (seen in 252: no answer for 25 s).
            who = str(os.geteuid()).encode().hex().encode()
            self._socket.sendall(b"\0AUTH EXTERNAL " + who + b"\r\nBEGIN\r\n")
        except OSError as error:
            self._socket.close()
            raise NoManagerError(error.strerror or "no answer", error.errno or 0) from error

    def peer_pid(self) -> int:
        """Who listens there, in our PID namespace; 0 if it is not in it (unix(7), SO_PEERCRED). Raises OSError."""
        credentials = self._socket.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)
        return int.from_bytes(credentials[:4], sys.byteorder)

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def call(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        values: Sequence[Any] = (),
        *,
        seconds: float | None = None,
    ) -> tuple[Any, ...]:
        """Call a method and wait for its answer.

        Raises ManagerError (the answer is an error), CallTimeoutError, NoManagerError, FormatError.
        """
        deadline = time.monotonic() + (self._seconds if seconds is None else seconds)
        serial = self._send(destination, path, interface, member, signature, values, deadline)
        while True:
            message = self._next_message(deadline)
            if message.kind == _SIGNAL:
                if len(self.signals) >= MOST_SIGNALS:
                    del self.signals[0]
                self.signals.append(message)
            elif message.fields.get(_REPLY_SERIAL) == serial:
                if message.kind == _METHOD_RETURN:
                    return message.values()
                if message.kind == _ERROR:
                    said = message.values()
                    text = said[0] if said and isinstance(said[0], str) else ""
                    raise ManagerError(str(message.fields.get(_ERROR_NAME, "")), text)

    def next_signal(self, deadline: float) -> Message:
        """The oldest signal, waiting for one until the deadline (monotonic). Raises as `call`."""
        while not self.signals:
            message = self._next_message(deadline)
            if message.kind == _SIGNAL:
                return message
        return self.signals.pop(0)

    def _send(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str,
        values: Sequence[Any],
        deadline: float,
    ) -> int:
        if not self._greeted:
            self._greeted = True
            self._finish_greeting(deadline)
        self._serial += 1
        body = pack(signature, values)
        fields = [(_PATH, ("o", path)), (_INTERFACE, ("s", interface)), (_MEMBER, ("s", member))]
        if self.is_bus:
            fields.append((_DESTINATION, ("s", destination)))
        if signature:
            fields.append((_SIGNATURE, ("g", signature)))
        header = pack("yyyyuua(yv)", (ord("l"), _METHOD_CALL, 0, 1, len(body), self._serial, fields))
        self._transmit(header + bytes(-len(header) % 8) + body, deadline)
        return self._serial

    def _finish_greeting(self, deadline: float) -> None:
        while b"\r\n" not in self._pending:
            if len(self._pending) > _LONGEST_GREETING:
                raise FormatError("a greeting without an end")
            self._receive(_LONGEST_GREETING, deadline)
        answer, _, rest = bytes(self._pending).partition(b"\r\n")
        if not answer.startswith(b"OK"):
            raise NoManagerError("it does not accept this user")
        self._pending = bytearray(rest)
        if self.is_bus:
            self.call(BUS_NAME, BUS_PATH, BUS_NAME, "Hello", seconds=_left(deadline))

    def _next_message(self, deadline: float) -> Message:
        while True:
            self._fill(_FIXED_HEADER_BYTES, deadline)
            order = {ord("l"): "<", ord("B"): ">"}.get(self._pending[0])
            if order is None:
                raise FormatError("a message in no byte order")
            _, kind, _, version, body_bytes, serial, fields_bytes = struct.unpack_from(order + "BBBBIII", self._pending)
            if version != 1 or not serial:
                raise FormatError(f"a message of version {version} with serial {serial}")
            header_bytes = _FIXED_HEADER_BYTES + fields_bytes
            body_at = header_bytes + -header_bytes % 8
            if body_at + body_bytes > LONGEST_MESSAGE:
                raise FormatError(f"a message of {body_at + body_bytes} bytes")
            self._fill(body_at + body_bytes, deadline)
            header, body = bytes(self._pending[:header_bytes]), bytes(self._pending[body_at : body_at + body_bytes])
            del self._pending[: body_at + body_bytes]
            # A private socket brings the signals of all units: for each of 200 jobs at once some 2,000, and one of use.
            # Dropped by a look at their bytes they are 2 ms, taken apart 59.
            if kind != _SIGNAL or self._signals_with in header:
                return Message(kind, serial, _header_fields(header, order), body, order)

    def _fill(self, count: int, deadline: float) -> None:
        while len(self._pending) < count:
            self._receive(max(count - len(self._pending), 4096), deadline)

    def _receive(self, count: int, deadline: float) -> None:
        try:
            self._socket.settimeout(_left(deadline))
            data = self._socket.recv(min(count, 1 << 20))
        except TimeoutError as error:
            raise CallTimeoutError("it did not answer in time") from error
        except OSError as error:
            raise NoManagerError(error.strerror or "connection lost", error.errno or 0) from error
        if not data:
            raise NoManagerError("it hung up")
        self._pending += data

    def _transmit(self, data: bytes, deadline: float) -> None:
        try:
            self._socket.settimeout(_left(deadline))
            self._socket.sendall(data)
        except TimeoutError as error:
            raise CallTimeoutError("it did not read in time") from error
        except OSError as error:
            raise NoManagerError(error.strerror or "connection lost", error.errno or 0) from error


def first_unix_socket(addresses: str | None) -> str | None:
    """The first unix socket of a list of D-Bus addresses: `unix:path=/run/user/1000/bus,guid=...;...`."""
    for address in (addresses or "").split(";"):
        transport, _, settings = address.partition(":")
        for setting in settings.split(","):
            key, _, value = setting.partition("=")
            if transport == "unix" and key in {"path", "abstract"} and value and "%" not in value:
                return value if key == "path" else f"\0{value}"
    return None


def _header_fields(header: bytes, order: str) -> dict[int, Any]:
    """The fields by their number. Raises FormatError for a known one of a wrong type."""
    fields = {}
    for code, (signature, value) in unpack("yyyyuua(yv)", header, order=order)[6]:
        if signature != _FIELD_SIGNATURES.get(code, signature):
            raise FormatError(f"header field {code} of type '{signature}'")
        fields[code] = value
    return fields


def _left(deadline: float) -> float:
    """Seconds until then. Raises CallTimeoutError when there are none: a time-out of 0 would not block at all."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise CallTimeoutError("it did not answer in time")
    return left
