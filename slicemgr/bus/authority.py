# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who calls, by the bus's own credentials, and whether polkit lets them."""

import asyncio
import enum
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final

from slicemgr.bus.call import Call
from slicemgr.bus.client import BUS, BUS_PATH, BusClient
from slicemgr.bus.errors import NO_BUS, DeniedError, RemoteError

MOST_CALLERS: Final = 1024
"""Remembered at once. A unique name is never given out again while its bus lives, so what was asked once holds."""

CONNECT_SECONDS: Final = 5.0
"""As long as a connection waits for the next attempt (context.py)."""

ASK_SECONDS: Final = 120.0
"""For a person to type a password."""

QUIET_SECONDS: Final = 5.0
"""For polkit's rules to be gone through; nobody is asked."""

POLKIT: Final = "org.freedesktop.PolicyKit1"
_POLKIT_PATH: Final = "/org/freedesktop/PolicyKit1/Authority"
_ALLOW_INTERACTION: Final = 1
"""CheckAuthorizationFlags.AllowUserInteraction: an agent of the person's may ask for a password."""


class Action(enum.Enum):
    """polkit's, by units/bus/org.slicemgr1.policy."""

    MANAGE_OWN_JOBS = "org.slicemgr1.manage-own-jobs"
    MANAGE = "org.slicemgr1.manage"
    INSPECT = "org.slicemgr1.inspect"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is at the other end of a unique name."""

    name: str
    uid: int
    bus_id: str = ""
    """Whose name that is: another bus daemon gives it to somebody else."""


class Authority:
    """For one bus. Belongs to the loop's thread."""

    def __init__(self, client: BusClient) -> None:
        self._client = client
        self._callers: OrderedDict[tuple[str, str], Caller] = OrderedDict()

    async def caller(self, call: Call) -> Caller:
        """Raises DeniedError if the bus does not know (it has left already), or is not the one the call came from."""
        known = self._callers.get((call.bus_id, call.sender))
        if known is None:
            try:
                told = await self._credentials(call)
                known = Caller(call.sender, int(told["UnixUserID"]), call.bus_id)
            except (RemoteError, KeyError) as error:
                raise DeniedError(f"the bus does not say who calls ({error}); try again") from error
            self._callers[call.bus_id, call.sender] = known
            if len(self._callers) > MOST_CALLERS:
                self._callers.popitem(last=False)
        return known

    async def _credentials(self, call: Call) -> Any:
        """Our two connections come back one after the other: a call may be there before we can ask who it is."""
        deadline = time.monotonic() + CONNECT_SECONDS
        while True:
            try:
                return await self._ask_bus("GetConnectionCredentials", call.sender, call.bus_id)
            except RemoteError as error:
                if error.name != NO_BUS or time.monotonic() >= deadline:
                    raise
            await asyncio.sleep(CONNECT_SECONDS / 50)

    async def is_here(self, caller: Caller) -> bool:
        """Whether they are still on the bus; if so, their end is yet to be told (NameOwnerChanged)."""
        try:
            return bool(await self._ask_bus("NameHasOwner", caller.name, caller.bus_id))
        except RemoteError:
            return False

    async def _ask_bus(self, method: str, name: str, bus_id: str) -> Any:
        (told,) = await self._client.call(BUS, BUS_PATH, BUS, method, "(s)", (name,), bus_id=bus_id)
        return told

    async def require(self, caller: Caller, action: Action, what: str, *, interactive: bool) -> None:
        """Root may all. Raises DeniedError if polkit says no, or is not there to say yes."""
        if caller.uid == 0:
            return
        subject = ("system-bus-name", {"name": caller.name})
        flags = _ALLOW_INTERACTION if interactive else 0
        try:
            answer = await self._client.call(
                POLKIT, _POLKIT_PATH, f"{POLKIT}.Authority", "CheckAuthorization",
                "((sa{sv})sa{ss}us)", (subject, action.value, {}, flags, ""),
                seconds=ASK_SECONDS if interactive else QUIET_SECONDS, bus_id=caller.bus_id,
            )  # fmt: skip
        except RemoteError as error:
            raise DeniedError(f"{what}: polkit does not answer ({error}); try as root") from error
        match answer:
            case ((bool(allowed), bool(challenge), dict()),):
                pass
            case _:
                raise DeniedError(f"{what}: polkit answers what it never says; try as root")
        if not allowed:
            hint = "the option `interactive`, or as root" if challenge else "as root"
            raise DeniedError(f"{what}: polkit does not allow {action.value}; try {hint}")
