# SPDX-License-Identifier: LGPL-2.1-or-later
"""Errors by their names on the bus; org.slicemgr1.xml says what they mean."""

from typing import Final

PREFIX: Final = "org.slicemgr1.Error."

NO_BUS: Final = "org.freedesktop.DBus.Error.Disconnected"
"""There is none, or not any more."""
NO_REPLY: Final = "org.freedesktop.DBus.Error.NoReply"
"""Not in time."""
NO_OWNER: Final = frozenset(
    f"org.freedesktop.DBus.Error.{each}" for each in ("ServiceUnknown", "NameHasNoOwner", "Spawn.ServiceNotFound")
)
"""No daemon is there. The second is said where one could be started, and the call asked for that not to be done; the
third where it was to be started, and nobody has enabled it."""
UNKNOWN_OBJECT: Final = "org.freedesktop.DBus.Error.UnknownMethod"
"""No object of that path, or it has no such interface: GDBus tells both so."""


class RequestError(Exception):
    """What a caller is answered: one line for people. The name on the bus is the class's without `Error`."""

    @property
    def name(self) -> str:
        """`org.slicemgr1.Error.NotFound`"""
        return PREFIX + type(self).__name__.removesuffix("Error")


class NotFoundError(RequestError):
    """No such slice, job, session or process."""


class NotManagedError(RequestError):
    """It is there, but in no slice of ours."""


class InvalidArgumentError(RequestError):
    """A value, a key or a name that can't be meant."""


class DeniedError(RequestError):
    """It is somebody else's, or polkit says no."""


class NotSupportedError(RequestError):
    """The machine lacks something."""


class LimitExceededError(RequestError):
    """Too many calls, holds or sessions at once."""


class FailedError(RequestError):
    """The service manager or the kernel refused."""


class RemoteError(Exception):
    """A call of ours was answered with an error, or not in time: `name` is D-Bus's."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message or name)
        self.name = name
