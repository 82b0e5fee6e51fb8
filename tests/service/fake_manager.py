# SPDX-License-Identifier: LGPL-2.1-or-later
"""A thread on a unix socket that speaks D-Bus as a service manager does on its private socket."""

from __future__ import annotations

import os
import socket
import struct
import threading
from typing import TYPE_CHECKING, Any

from slicemgr.placement.bus_wire import pack, unpack

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Answer = Callable[["FakeManager", socket.socket, "Call"], None]

JOB = "/org/freedesktop/systemd1/job/7"


class Call:
    """A method call as it came in."""

    def __init__(self, serial: int, fields: dict[int, Any], body: bytes) -> None:
        self.serial = serial
        self.path: str = fields[1]
        self.member: str = fields[3]
        self.values = unpack(fields.get(8, ""), body)


def message(
    kind: int, serial: int, fields: list[tuple[int, tuple[str, Any]]], signature: str = "", values: Any = ()
) -> bytes:
    """One message of the fake's."""
    body = pack(signature, values)
    if signature:
        fields = [*fields, (8, ("g", signature))]
    header = pack("yyyyuua(yv)", (ord("l"), kind, 1, 1, len(body), serial, fields))
    return header + bytes(-len(header) % 8) + body


def reply(call: Call, signature: str = "", *values: Any) -> bytes:
    """A method's return."""
    return message(2, 100, [(5, ("u", call.serial))], signature, values)


def error(call: Call, name: str, text: str) -> bytes:
    """A method's error."""
    return message(3, 100, [(4, ("s", name)), (5, ("u", call.serial))], "s", (text,))


def job_removed(result: str, job: str = JOB) -> bytes:
    """The manager's signal that a job is over."""
    fields = [
        (1, ("o", "/org/freedesktop/systemd1")),
        (2, ("s", "org.freedesktop.systemd1.Manager")),
        (3, ("s", "JobRemoved")),
    ]
    return message(4, 101, fields, "uoss", (7, job, "x.scope", result))


class FakeManager:
    """Accepts one connection after the other; `answer` gets each call and sends bytes."""

    def __init__(self, path: Path, answer: Answer, *, greeting: bytes | None = None) -> None:
        self.calls: list[Call] = []
        self.failure: BaseException | None = None
        self._answer = answer
        self._greeting = b"OK 0123456789abcdef\r\n" if greeting is None else greeting
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Stop, and raise what went wrong in the thread."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listening.close()
        if self.failure is not None:
            raise self.failure

    def _serve(self) -> None:
        while True:
            try:
                peer = self._listening.accept()[0]
            except OSError:
                return
            try:
                with peer:
                    self._speak(peer)
            except (EOFError, BrokenPipeError, ConnectionResetError):
                continue
            except BaseException as failure:  # noqa: BLE001  # raised in `end`
                self.failure = failure
                return

    def _speak(self, peer: socket.socket) -> None:
        uid = str(os.geteuid()).encode().hex().encode()
        expected = b"\0AUTH EXTERNAL " + uid + b"\r\nBEGIN\r\n"
        assert _exactly(peer, len(expected)) == expected
        peer.sendall(self._greeting)
        while True:
            fixed = _exactly(peer, 16)
            order, kind, _, version, body_bytes, serial, fields_bytes = struct.unpack("<BBBBIII", fixed)
            assert (order, kind, version) == (ord("l"), 1, 1)
            rest = _exactly(peer, fields_bytes + -fields_bytes % 8)
            fields = {code: value for code, (_, value) in unpack("yyyyuua(yv)", fixed + rest[:fields_bytes])[6]}
            call = Call(serial, fields, _exactly(peer, body_bytes))
            self.calls.append(call)
            self._answer(self, peer, call)


def _exactly(peer: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = peer.recv(count - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data
