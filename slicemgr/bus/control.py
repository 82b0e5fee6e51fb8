# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the command line asks of a daemon, and hears from it: a client in one thread, which waits for each answer.

It is for a process that does one thing and ends. In a daemon nobody waits: there client.py is. No call but a login's
starts a daemon (the bus would), because somebody who looks does not mean to change anything.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from gi.repository import Gio, GLib
from pydbus.bus import Bus

from slicemgr.bus.errors import NO_OWNER, NO_REPLY, PREFIX, RemoteError
from slicemgr.bus.glib_errors import remote_error
from slicemgr.bus.listening import Listening
from slicemgr.bus.objects import BUS_NAME, JOB, MANAGER, ROOT, SESSION, SLICE, Objects, session_object
from slicemgr.bus.values import pack

CALL_SECONDS: Final = 5.0
"""For an answer. pydbus' own default is for ever."""

SETTING_SECONDS: Final = 30.0
"""For the daemon to have the service manager set something, on a machine that may be short of memory."""

PERSON_SECONDS: Final = 130.0
"""For an answer before which polkit may ask a person: longer than the daemon waits for polkit (ASK_SECONDS there)."""

_NOT_FOUND: Final = f"{PREFIX}NotFound"
_BUS: Final = "org.freedesktop.DBus"
_BUS_PATH: Final = "/org/freedesktop/DBus"
_PROPERTIES: Final = "org.freedesktop.DBus.Properties"
_OBJECT_MANAGER: Final = "org.freedesktop.DBus.ObjectManager"
_CONNECTION_FLAGS: Final = (
    Gio.DBusConnectionFlags.AUTHENTICATION_CLIENT | Gio.DBusConnectionFlags.MESSAGE_BUS_CONNECTION
)


@dataclass(frozen=True, slots=True)
class Found:
    """A slice or a job that was asked for by its name."""

    path: str
    interface: str
    properties: Mapping[str, Any]


class Control:
    """org.slicemgr1 on one bus. Every method raises RemoteError, by D-Bus's name for what went wrong."""

    def __init__(self, connection: Any, seconds: float) -> None:
        self._bus = Bus(connection)
        self._seconds = seconds

    @classmethod
    def connect(cls, address: str, seconds: float = CALL_SECONDS) -> Self:
        """To a bus, on which there need not be a daemon. `seconds` are for this, and for each answer afterwards."""
        return cls(_connection(address, seconds), seconds)

    def close(self) -> None:
        """Hang up."""
        with contextlib.suppress(GLib.Error):  # The bus has gone.
            self._bus.con.close_sync(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(
        self,
        method: str,
        signature: str = "()",
        arguments: Sequence[Any] = (),
        *,
        path: str = ROOT,
        interface: str = MANAGER,
        seconds: float | None = None,
    ) -> tuple[Any, ...]:
        """The answer, unpacked."""
        return self._call(BUS_NAME, path, interface, method, signature, arguments, seconds)

    def properties(self, path: str = ROOT, interface: str = MANAGER) -> Mapping[str, Any]:
        """All of an object's, by their names."""
        (properties,) = self.call("GetAll", "(s)", (interface,), path=path, interface=_PROPERTIES)
        known: Mapping[str, Any] = properties
        return known

    def tree(self) -> Objects:
        """All slices, jobs and sessions with their properties."""
        (objects,) = self.call("GetManagedObjects", interface=_OBJECT_MANAGER)
        tree: Objects = objects
        return tree

    def find(self, name: str) -> Found:
        """A slice, or else a job, by its name or its unit."""
        for method, interface in (("GetSlice", SLICE), ("GetJob", JOB)):
            try:
                (path,) = self.call(method, "(sa{sv})", (name, {}))
            except RemoteError as error:
                if error.name != _NOT_FOUND:
                    raise
                why_not = str(error)
            else:
                return Found(path, interface, self.properties(path, interface))
        # The hint of GetJob thinks of slices too.
        raise RemoteError(_NOT_FOUND, why_not.replace("no job ", "no slice or job ", 1))

    def job(self, name: str) -> Found:
        """A job, by its name or its unit."""
        (path,) = self.call("GetJob", "(sa{sv})", (name, {}))
        return Found(path, JOB, self.properties(path, JOB))

    def pause(self, found: Found, *, pause: bool, interactive: bool) -> None:
        """Or resume it."""
        seconds = _patience(interactive)
        method = "Pause" if pause else "Resume"
        self.call(method, "(a{sv})", (_options(interactive),), path=found.path, interface=JOB, seconds=seconds)

    def set_limits(self, found: Found, limits: Mapping[str, int], *, interactive: bool) -> None:
        """By systemd's names. `interactive`: polkit may ask the person."""
        arguments = (limits, _options(interactive))
        seconds = PERSON_SECONDS if interactive else SETTING_SECONDS
        self.call("SetLimits", "(a{sv}a{sv})", arguments, path=found.path, interface=found.interface, seconds=seconds)

    def explain(self, target: str, *, interactive: bool) -> Mapping[str, Any]:
        """Who would be ended now in a slice, a job, or the job of a pid."""
        arguments = (target, _options(interactive))
        (told,) = self.call("Explain", "(sa{sv})", arguments, seconds=_patience(interactive))
        explanation: Mapping[str, Any] = told
        return explanation

    def actions(self, since_usec: int, limit: int, *, of_all: bool, interactive: bool) -> Sequence[Mapping[str, Any]]:
        """What was done, the oldest first: to oneself, or `of_all` users, which polkit has to allow."""
        options = {**_options(interactive), **({"all-users": True} if of_all else {})}
        (told,) = self.call("ListActions", "(tua{sv})", (since_usec, limit, options), seconds=_patience(interactive))
        actions: Sequence[Mapping[str, Any]] = told
        return actions

    def register_session(self, pidfd: int, options: Mapping[str, Any], *, may_start: bool) -> str:
        """The object of the session whose leader this is. `may_start`: the bus may start a daemon for it."""
        descriptors = Gio.UnixFDList.new()
        arguments = (descriptors.append(pidfd), dict(options))
        (path,) = self._call(
            BUS_NAME, ROOT, MANAGER, "RegisterSession", "(ha{sv})", arguments, None,
            descriptors=descriptors, may_start=may_start,
        )  # fmt: skip
        return str(path)

    def unregister_session(self, identifier: str) -> None:
        """It has ended, or is about to."""
        self.call("Unregister", "(a{sv})", ({},), path=session_object(identifier), interface=SESSION)

    def listen(
        self,
        *,
        heard: Callable[[str, tuple[Any, ...]], bool],
        present: Callable[[bool], bool],
        reader: int,
    ) -> None:
        """Each of the manager's signals to `heard`, with its arguments, until there is a reason to end.

        `present` is told whether there is a daemon: first of all, and whenever that changes. Both answer whether to go
        on. SIGINT and SIGTERM are reasons to end, and so is it when nobody reads the other end of `reader`, a
        descriptor. What they raise is raised here. Raises RemoteError when the bus is gone.
        """
        Listening(self._bus, heard, present).run(reader, self._owner)

    def _owner(self) -> str:
        """The unique name of the daemon, or nothing."""
        try:
            (owner,) = self._call(_BUS, _BUS_PATH, _BUS, "GetNameOwner", "(s)", (BUS_NAME,), None)
        except RemoteError as error:
            if error.name in NO_OWNER:
                return ""
            raise
        return str(owner)

    def _call(
        self,
        destination: str,
        path: str,
        interface: str,
        method: str,
        signature: str,
        arguments: Sequence[Any],
        seconds: float | None,
        *,
        descriptors: Any = None,
        may_start: bool = False,
    ) -> tuple[Any, ...]:
        patience = self._seconds if seconds is None else seconds
        flags = Gio.DBusCallFlags.NONE if may_start else Gio.DBusCallFlags.NO_AUTO_START
        try:
            answer, _ = self._bus.con.call_with_unix_fd_list_sync(
                destination, path, interface, method, pack(signature, tuple(arguments)), None,
                flags, int(patience * 1000), descriptors, None,
            )  # fmt: skip
        except GLib.Error as error:
            raise remote_error(error) from None
        unpacked: tuple[Any, ...] = answer.unpack()
        return unpacked


def _connection(address: str, seconds: float) -> Any:
    """As pydbus.connect(), which waits for ever for a bus that does not say hello. Raises RemoteError."""
    loop = GLib.MainLoop()
    cancellable = Gio.Cancellable()
    outcome: list[Any] = []

    def done(_source: Any, result: Any) -> None:
        try:
            outcome.append(Gio.DBusConnection.new_for_address_finish(result))
        except GLib.Error as error:
            outcome.append(remote_error(error))
        loop.quit()

    def late() -> bool:
        cancellable.cancel()
        loop.quit()
        return True

    source = GLib.timeout_add(int(seconds * 1000), late)
    Gio.DBusConnection.new_for_address(address, _CONNECTION_FLAGS, None, cancellable, done)
    loop.run()
    GLib.source_remove(source)
    if not outcome:
        raise RemoteError(NO_REPLY, "the bus does not answer")
    if isinstance(outcome[0], RemoteError):
        raise outcome[0]
    return outcome[0]


def _options(interactive: bool) -> Mapping[str, Any]:
    return {"interactive": True} if interactive else {}


def _patience(interactive: bool) -> float:
    return PERSON_SECONDS if interactive else CALL_SECONDS
