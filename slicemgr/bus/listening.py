# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a daemon tells, as it happens: one run of GLib's loop in the calling thread."""

import signal
from collections.abc import Callable
from typing import Any

from gi.repository import GLib

from slicemgr.bus.errors import NO_BUS, RemoteError
from slicemgr.bus.objects import BUS_NAME, MANAGER, ROOT

_BUS = "org.freedesktop.DBus"


class Listening:
    """To one daemon, until there is a reason to end."""

    def __init__(
        self, bus: Any, heard: Callable[[str, tuple[Any, ...]], bool], present: Callable[[bool], bool]
    ) -> None:
        """See Control.listen."""
        self._bus = bus
        self._heard = heard
        self._present = present
        self._loop = GLib.MainLoop()
        self._owner = ""
        self._is_ended = False
        self._error: BaseException | None = None

    def run(self, reader: int, owner: Callable[[], str]) -> None:
        """`owner` asks the bus, which by then has the subscriptions: it does one thing after the other."""
        # Of Python's signals PyGObject's loop hears; GLib's own (unix_signal_add) moved to a module of its own in 2.80.
        handlers = {
            number: signal.signal(number, self._end)
            for number in (signal.SIGINT, signal.SIGTERM)
            if signal.getsignal(number) is not signal.SIG_IGN  # As a shell's `&` starts us: it means it.
        }
        source = GLib.io_add_watch(reader, GLib.PRIORITY_DEFAULT, GLib.IO_ERR | GLib.IO_HUP, self._end)
        self._bus.con.connect("closed", self._closed)
        subscriptions = [
            self._bus.subscribe(
                sender=_BUS, iface=_BUS, signal="NameOwnerChanged", arg0=BUS_NAME, signal_fired=self._name_changed
            ),
            self._bus.subscribe(sender=BUS_NAME, iface=MANAGER, object=ROOT, signal_fired=self._fired),
        ]
        try:
            self._owner = owner()
            self._guarded(lambda: self._present(bool(self._owner)))
            if not self._is_ended:
                self._loop.run()
        finally:
            for each in subscriptions:
                each.unsubscribe()
            GLib.source_remove(source)
            for number, handler in handlers.items():
                signal.signal(number, handler or signal.SIG_DFL)
        if self._error is not None:
            raise self._error

    def _end(self, *_: object) -> bool:
        self._is_ended = True
        # Not at once: before the loop runs that would be lost.
        GLib.idle_add(self._loop.quit, priority=GLib.PRIORITY_HIGH)
        return True  # It is removed at the end of `run`, once.

    def _closed(self, *_: object) -> None:
        if not self._is_ended:
            self._error = RemoteError(NO_BUS, "the bus is gone")
            self._end()

    def _name_changed(self, _sender: str, _path: str, _interface: str, _signal: str, told: tuple[str, ...]) -> None:
        _name, _old, new = told
        was, self._owner = self._owner, new
        if was and was != new:
            self._guarded(lambda: self._present(False))
        if new and was != new:
            self._guarded(lambda: self._present(True))

    def _fired(self, sender: str, _path: str, _interface: str, name: str, arguments: tuple[Any, ...]) -> None:
        # Not all bus libraries see to it that a signal sent to us alone is from who has the name.
        if sender == self._owner:
            self._guarded(lambda: self._heard(name, arguments))

    def _guarded(self, tell: Callable[[], bool]) -> None:
        """What a callback raises GLib would print, and go on."""
        if self._is_ended:
            return
        try:
            goes_on = tell()
        except BaseException as error:  # noqa: BLE001 - it is raised where somebody can catch it
            self._error = error
            goes_on = False
        if not goes_on:
            self._end()
