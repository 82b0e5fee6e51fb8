# SPDX-License-Identifier: LGPL-2.1-or-later
"""What others ask over the bus, and who answers it: reads of the published objects, and methods of the loop's."""

import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, Final, Protocol, TypeAlias

from slicemgr.bus.authority import Caller
from slicemgr.bus.call import Call
from slicemgr.bus.errors import (
    DeniedError,
    FailedError,
    LimitExceededError,
    NotFoundError,
    NotManagedError,
    NotSupportedError,
    RequestError,
)
from slicemgr.bus.objects import MANAGER
from slicemgr.kernel import errors as kernel
from slicemgr.placement.backend import PlacementError
from slicemgr.placement.bus_connection import BusError, ManagerError
from slicemgr.placement.systemd1 import JobFailedError
from slicemgr.service.request_options import options_of

Answer: TypeAlias = tuple[Any, ...]
Method: TypeAlias = Callable[[Call, Caller], Awaitable[Answer]]
Methods: TypeAlias = Mapping[tuple[str, str], Method]
"""(interface, method) -> who answers."""

INTERACTIVE: Final[Mapping[str, type]] = {"interactive": bool}
"""An option of all methods that polkit may be asked about: whether it may ask the person."""

MOST_OF_USER: Final = 128
"""Unanswered calls of one user, on a bus that others are on too; as many as the system bus lets one connection have."""

REFUSALS: Final = (kernel.KernelError, PlacementError, BusError, JobFailedError, OSError)
"""What a request may meet with, and `request_error` has words for."""


class Callers(Protocol):
    """As Authority.caller."""

    def __call__(self, call: Call) -> Awaitable[Caller]:
        """Raises DeniedError."""


class Requests:
    """Everything that is answered on the loop."""

    def __init__(
        self, caller: Callers, look: Callable[[], Awaitable[object]], *parts: Methods, is_shared: bool = False
    ) -> None:
        """`look` publishes what is there now. `is_shared`: by users, of whom none is to keep the others waiting."""
        self._caller = caller
        self._is_shared = is_shared
        self._open: Counter[int] = Counter()
        """Calls that wait for an answer, by uid."""
        self._look = look
        self._methods = {name: method for part in parts for name, method in part.items()}

    def names(self) -> frozenset[tuple[str, str]]:
        """What can be asked."""
        return frozenset(self._methods)

    async def __call__(self, call: Call) -> Answer:
        """Raises RequestError."""
        method = self._methods.get((call.interface, call.method))
        if method is None:
            raise NotSupportedError(f"{call.interface} has no {call.method}; try org.slicemgr1.xml")
        caller = await self._caller(call)
        with self._counted(caller):
            try:
                try:
                    return await method(call, caller)
                except (NotFoundError, NotManagedError):
                    # Who is asked for may be newer than our last look, and nothing has been done yet.
                    await self._look()
                    return await method(call, caller)
            except RequestError:
                raise
            except REFUSALS as error:
                raise request_error(error) from error

    @contextlib.contextmanager
    def _counted(self, caller: Caller) -> Iterator[None]:
        """Each holds descriptors and its place in a queue, and a user may have 256 connections."""
        if self._is_shared and caller.uid != 0 and self._open[caller.uid] >= MOST_OF_USER:
            raise LimitExceededError(f"{MOST_OF_USER} calls of user {caller.uid} wait for an answer; try again")
        self._open[caller.uid] += 1
        try:
            yield
        finally:
            self._open[caller.uid] -= 1
            if not self._open[caller.uid]:
                del self._open[caller.uid]


def request_error(error: Exception) -> RequestError:
    """What a caller is told of the kernel's or the service manager's refusal."""
    match error:
        case kernel.ProcessGoneError():
            return NotFoundError("the process has ended; try one that lives")
        case kernel.CgroupGoneError():
            return NotFoundError(f"{error}; try ListJobs")
        case kernel.NotPermittedError() | kernel.CgroupNotPermittedError():
            return DeniedError(f"{error}; try the daemon of its owner")
        case kernel.NotSupportedError():
            return NotSupportedError(str(error))
        case PlacementError():
            return FailedError(str(error))
        case ManagerError():
            return FailedError(f"systemd says: {error}; try 'systemctl status'")
        case OSError():
            return FailedError(f"{error.strerror or error}; try again")
        case _:
            return FailedError(f"{error}; try 'systemctl status'")


def may_interact(options: Mapping[str, Any]) -> bool:
    """Of options that were read with INTERACTIVE among the known ones."""
    return bool(options.get("interactive", False))


def only_interactive(given: Mapping[str, Any]) -> bool:
    """Of a method that has no other options. Raises InvalidArgumentError."""
    return may_interact(options_of(given, INTERACTIVE))


def manager_method(name: str) -> tuple[str, str]:
    """A method of org.slicemgr1.Manager."""
    return MANAGER, name
