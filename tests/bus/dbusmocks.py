# SPDX-License-Identifier: LGPL-2.1-or-later
"""python-dbusmock's services on a private bus: what others understand of those whom we talk to."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Self

import pytest
from gi.repository import GLib

from tests.bus.face import Face, Peer, RefusedError

if TYPE_CHECKING:
    from tests.bus.private_bus import PrivateBus

MOCK = "org.freedesktop.DBus.Mock"
BUS, BUS_PATH = "org.freedesktop.DBus", "/org/freedesktop/DBus"

needs_dbusmock = pytest.mark.skipif(
    importlib.util.find_spec("dbusmock") is None or importlib.util.find_spec("dbus") is None,
    reason="python-dbusmock is not here; try: sudo apt install python3-dbusmock",
)


class Mock:
    """One service in a process of its own; it has its name when this returns."""

    def __init__(
        self, bus: PrivateBus, name: str, path: str, interface: str, *, template: str = "", parameters: str = ""
    ) -> None:
        """By a `template` of dbusmock's with these `parameters` (JSON), or with no methods yet."""
        self.name, self.path, self.interface = name, path, interface
        what = ["--template", template] if template else [name, path, interface]
        what += ["--parameters", parameters] if parameters else []
        self._peer = Peer(bus.address)
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "dbusmock", "--system", *what],
            env={**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": bus.address, "DBUS_SESSION_BUS_ADDRESS": bus.address},
            stdout=subprocess.DEVNULL,
        )
        Face.until_outside(self._is_there)

    def _is_there(self) -> bool:
        assert self.process.poll() is None
        arguments = GLib.Variant("(s)", (self.name,))
        return bool(self._peer.call(BUS_PATH, BUS, "NameHasOwner", arguments, to=BUS)[0])

    def mock(self, method: str, signature: str, *arguments: Any, path: str = "") -> tuple[Any, ...]:
        """Tell it what to be."""
        body = GLib.Variant(signature, arguments)
        return self._peer.call(path or self.path, MOCK, method, body, to=self.name)

    def answer(self, method: str, takes: str, gives: str, code: str) -> None:
        """What it says to a method: Python that sets `ret`."""
        self.mock("AddMethod", "(sssss)", self.interface, method, takes, gives, code)

    def calls(self, method: str) -> list[tuple[Any, ...]]:
        """The arguments of each call of a method that `answer` has added, or a template by the same way."""
        return [tuple(arguments) for _, arguments in self.mock("GetMethodCalls", "(s)", method)[0]]

    def end(self) -> None:
        """As a crash; the bus tells who waits for it."""
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        self._peer.leave()


def polkit(bus: PrivateBus, *, template: bool = True) -> Mock:
    """Of dbusmock's own, which never challenges; or without methods."""
    name = "org.freedesktop.PolicyKit1"
    return Mock(
        bus, name, "/org/freedesktop/PolicyKit1/Authority", f"{name}.Authority", template="polkitd" if template else ""
    )


__all__ = ["MOCK", "Mock", "RefusedError", "needs_dbusmock", "polkit"]
