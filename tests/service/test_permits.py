# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who may do what to whom, before polkit has a say: a table."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from slicemgr.bus.authority import Action, Caller
from slicemgr.bus.errors import DeniedError
from slicemgr.service.permits import Permits

ME, OTHER = 1000, 1001
OWN, MANAGE, INSPECT = Action.MANAGE_OWN_JOBS, Action.MANAGE, Action.INSPECT

NOT_YOURS = f"can't: this is the bus of user {ME}; try your own"
NOT_HERE = f"can't: it is user {OTHER}'s; try the system bus"
ROOTS = "can't: it is user 0's; try the system bus"


def outcome(user_uid: int | None, caller: int, owner: int, deed: str, *, interactive: bool = False) -> Any:
    """The action that polkit is asked about and whether it may ask back, None if nobody is asked; or the refusal."""
    asked: list[tuple[Action, bool]] = []

    async def ask(caller: Caller, action: Action, what: str, *, interactive: bool) -> None:
        asked.append((action, interactive))

    permits = Permits(user_uid=user_uid, ask=ask)
    try:
        asyncio.run(getattr(permits, deed)(Caller(":1.1", caller), owner, "can't", interactive=interactive))
    except DeniedError as error:
        assert asked == []
        return str(error)
    assert len(asked) < 2
    return asked[0] if asked else None


@pytest.mark.parametrize(
    ("user_uid", "caller", "owner", "manage", "inspect"),
    [
        # On a session bus: one's own, without a question, by oneself or by root.
        (ME, ME, ME, None, None),
        (ME, 0, ME, None, None),
        (ME, OTHER, ME, NOT_YOURS, NOT_YOURS),
        (ME, OTHER, OTHER, NOT_YOURS, NOT_YOURS),
        (ME, ME, OTHER, NOT_HERE, NOT_HERE),
        (ME, 0, OTHER, NOT_HERE, NOT_HERE),
        (ME, ME, 0, ROOTS, ROOTS),
        # On the system bus: polkit's word, but to be told of one's own.
        (None, ME, ME, (OWN, False), None),
        (None, ME, OTHER, (MANAGE, False), (INSPECT, False)),
        (None, ME, 0, (MANAGE, False), (INSPECT, False)),
        (None, 0, 0, (OWN, False), None),
        (None, 0, ME, (MANAGE, False), (INSPECT, False)),
    ],
)
def test_who_may(user_uid: int | None, caller: int, owner: int, manage: Any, inspect: Any) -> None:
    assert outcome(user_uid, caller, owner, "manage") == manage
    assert outcome(user_uid, caller, owner, "inspect") == inspect


def test_whether_the_person_may_be_asked() -> None:
    assert outcome(None, ME, OTHER, "manage", interactive=True) == (MANAGE, True)
    assert outcome(None, ME, OTHER, "inspect", interactive=True) == (INSPECT, True)
