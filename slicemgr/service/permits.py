# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who may do what to whom over the bus: one's own by uid, the rest by polkit."""

from collections.abc import Awaitable
from typing import Protocol

from slicemgr.bus.authority import Action, Caller
from slicemgr.bus.errors import DeniedError


class Ask(Protocol):
    """polkit, as Authority.require."""

    def __call__(self, caller: Caller, action: Action, what: str, *, interactive: bool) -> Awaitable[None]:
        """Raises DeniedError."""


class Permits:
    """For one bus."""

    def __init__(self, *, user_uid: int | None, ask: Ask) -> None:
        """`user_uid`: whose session bus it is; None: the system bus, where polkit is asked."""
        self._user_uid = user_uid
        self._ask = ask

    async def manage(self, caller: Caller, owner_uid: int, what: str, *, interactive: bool = False) -> None:
        """Set, place, stop. Raises DeniedError."""
        await self._require(caller, owner_uid, what, Action.MANAGE_OWN_JOBS, Action.MANAGE, interactive)

    async def inspect(self, caller: Caller, owner_uid: int, what: str, *, interactive: bool = False) -> None:
        """Be told of processes. One's own need nothing. Raises DeniedError."""
        await self._require(caller, owner_uid, what, None, Action.INSPECT, interactive)

    async def _require(
        self, caller: Caller, owner_uid: int, what: str, own: Action | None, others: Action, interactive: bool
    ) -> None:
        if self._user_uid is not None:
            # Nobody else gets onto a session bus but root.
            if caller.uid not in {0, self._user_uid}:
                raise DeniedError(f"{what}: this is the bus of user {self._user_uid}; try your own")
            if owner_uid != self._user_uid:
                raise DeniedError(f"{what}: it is user {owner_uid}'s; try the system bus")
            return
        action = own if owner_uid == caller.uid else others
        if action is not None:
            await self._ask(caller, action, what, interactive=interactive)
