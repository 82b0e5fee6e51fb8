# SPDX-License-Identifier: LGPL-2.1-or-later
"""A method call that came in, and its answer."""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from slicemgr.bus.errors import FailedError, InvalidArgumentError, RequestError
from slicemgr.bus.values import pack, text

_LOG: Final = logging.getLogger(__name__)

LONGEST_ERROR: Final = 500
"""Characters. What somebody has asked for is in it, and may be longer."""


@dataclass(frozen=True, slots=True)
class Call:
    """A method call, its arguments unpacked."""

    sender: str
    """The caller's unique name."""
    path: str
    interface: str
    method: str
    arguments: tuple[Any, ...]
    descriptors: tuple[int, ...] = ()
    """What came with it; open until it is answered. An argument of type h is an index of these."""
    bus_id: str = ""
    """Of the bus daemon that it came from: a restarted one begins anew with its unique names."""

    def descriptor(self, index: int) -> int:
        """Raises InvalidArgumentError."""
        if not 0 <= index < len(self.descriptors):
            raise InvalidArgumentError("no file descriptor came with the call; try to pass a pidfd")
        return self.descriptors[index]


class Answer:
    """To one call, exactly once; from any thread."""

    def __init__(self, invocation: Any, signature: str, call: Call, done: Callable[[str], None]) -> None:
        self._invocation = invocation
        self._signature = signature
        self._call = call
        self._done = done
        self.is_counted = False

    def settle(self, values: Callable[[], Any]) -> None:
        """With what it gives (a tuple, or that packed), or with the error that it raises."""
        try:
            told = values()
            packed = pack(self._signature, told) if isinstance(told, tuple) else told
        except RequestError as error:
            self.refuse(error)
        except KeyError as error:
            # The object was there when the call came in.
            self.refuse(FailedError(f"KeyError: {error}; try again"))
        except Exception as error:  # noqa: BLE001 - a fault of ours: the caller is not left waiting, and we go on
            _LOG.error("%s.%s", self._call.interface, self._call.method, exc_info=True)
            self.refuse(FailedError(f"{type(error).__name__}: {error}; try again"))
        else:
            self._end(lambda: self._invocation.return_value(packed))

    def refuse(self, error: RequestError) -> None:
        """With an error."""
        self._end(lambda: self._invocation.return_dbus_error(error.name, one_line(str(error))))

    def _end(self, send: Callable[[], None]) -> None:
        # Before it is sent: who has the answer finds nothing open any more.
        for descriptor in self._call.descriptors:
            os.close(descriptor)
        try:
            send()
        finally:
            if self.is_counted:
                self._done(self._call.sender)


def one_line(message: str) -> str:
    """What a caller shows to people: names of cgroups and processes are any bytes, and in it as they are."""
    whole = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text(message))
    return whole if len(whole) <= LONGEST_ERROR else f"{whole[: LONGEST_ERROR - 1]}…"
