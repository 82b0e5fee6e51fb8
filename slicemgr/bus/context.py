# SPDX-License-Identifier: LGPL-2.1-or-later
"""A thread with a GLib main loop of its own, and a connection to a bus that comes back."""

import threading
from collections.abc import Callable
from typing import Any, Final

import pydbus
from gi.repository import Gio, GLib, GObject

FIRST_RETRY_SECONDS: Final = 0.2
LONGEST_RETRY_SECONDS: Final = 5.0
"""A bus daemon that is restarted is there again after 0.2 s; where there is none, looking costs 40 us."""

STOP_SECONDS: Final = 1.0
"""For a thread of ours to end; there are three, and the unit has 10 s (TimeoutStopSec=)."""

TYPES: Final = (
    GLib.Error, GLib.MainContext, GLib.MainLoop, GLib.Variant, GLib.VariantBuilder, GLib.VariantType,
    GObject.Closure, Gio.AsyncResult, Gio.Cancellable, Gio.DBusAuthObserver, Gio.DBusCallFlags, Gio.DBusConnection,
    Gio.DBusConnectionFlags, Gio.DBusError, Gio.DBusMessage, Gio.DBusMethodInvocation, Gio.DBusNodeInfo,
    Gio.DBusPropertyInfo, Gio.IOErrorEnum, Gio.Task, Gio.UnixFDList,
)  # fmt: skip
"""All that our threads use, made before there are any. PyGObject makes a type when it is asked for first, without a
lock: two threads made two GLib.VariantType, of which the one refuses the other's (a daemon stayed without its name)."""

_KEPT: Final[list[object]] = []
"""Connections that were lost, for ever: some kilobytes for each time that a bus is restarted.

Python's collector may drop the last reference to one in any thread, with the GIL held. GDBus then waits for a lock of
all its connections, which its own thread holds while it takes a reference to another one, for a message that came in;
and PyGObject makes that wait for the GIL. All of the process stands still (seen with GLib 2.74 and PyGObject 3.42)."""


class GLibThread:
    """Runs what it is told in one thread, in order, beside GLib's own events."""

    def __init__(self, name: str) -> None:
        self._context = GLib.MainContext()
        self._loop = GLib.MainLoop(self._context)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Raises RuntimeError if no thread is to be had."""
        self._thread.start()

    def do(self, call: Callable[[], object], after_seconds: float = 0.0) -> None:
        """From any thread; never waits."""
        source = GLib.timeout_source_new(int(after_seconds * 1000)) if after_seconds else GLib.idle_source_new()
        source.set_priority(GLib.PRIORITY_DEFAULT)  # Idle sources come last: a flood of calls would starve them.

        def once(*_: object) -> bool:
            call()
            return False

        source.set_callback(once)
        source.attach(self._context)

    def stop(self) -> None:
        """When all that was told before is done. Waits for it, but not for a bus that stands still: nobody can end that
        wait of GLib's, and a daemon that is ending has more to put in order."""
        if self._thread.is_alive():
            self.do(self._loop.quit)
            self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        self._context.push_thread_default()
        try:
            self._loop.run()
        finally:
            self._context.pop_thread_default()


class Reconnecting:
    """One connection to a bus, made in a GLibThread, and made anew whenever it is lost. Belongs to that thread."""

    def __init__(
        self, thread: GLibThread, address: str, *, up: Callable[[Any], None], down: Callable[[], None]
    ) -> None:
        """`up` is handed pydbus' bus, and may raise GLib.Error, which is as if there were none; `down` follows each up.

        Both are called in the thread.
        """
        self._thread = thread
        self._address = address
        self._up = up
        self._down = down
        self._retry_seconds = FIRST_RETRY_SECONDS
        self._bus: Any = None
        self._is_closed = False

    def connect(self) -> None:
        """In the thread: now, or as soon as there is a bus."""
        if self._is_closed:
            return
        try:
            # Not pydbus.SystemBus(): that is the process's own, which GLib ends when the bus goes.
            bus = pydbus.connect(self._address)
        except GLib.Error:
            self._later()
            return
        _KEPT.append(bus.con)
        bus.con.connect("closed", self._closed)
        self._bus = bus
        try:
            self._up(bus)
        except GLib.Error:
            self._lose()
            self._later()
            return
        self._retry_seconds = FIRST_RETRY_SECONDS

    def close(self) -> None:
        """In the thread."""
        self._is_closed = True
        self._lose()

    def _closed(self, *_: object) -> None:
        if self._bus is not None:
            self._bus = None
            self._down()
            self._later()

    def _lose(self) -> None:
        bus, self._bus = self._bus, None
        if bus is not None:
            self._down()
            bus.con.close(None, None)

    def _later(self) -> None:
        if not self._is_closed:
            self._thread.do(self.connect, self._retry_seconds)
            self._retry_seconds = min(self._retry_seconds * 2, LONGEST_RETRY_SECONDS)
