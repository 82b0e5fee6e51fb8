# SPDX-License-Identifier: LGPL-2.1-or-later
"""How many requests of one user wait at once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from slicemgr.bus.authority import Caller
from slicemgr.bus.call import Call
from slicemgr.bus.errors import LimitExceededError
from slicemgr.service.requests import MOST_OF_USER, Requests

SECONDS = 20.0


@pytest.mark.asyncio
@pytest.mark.parametrize(("uid", "is_shared", "is_refused"), [(7, True, True), (0, True, False), (7, False, False)])
async def test_one_user_with_many_connections(uid: int, is_shared: bool, is_refused: bool) -> None:
    """None of them has 64; another user is answered all the while, and the first one again afterwards."""
    go_on = asyncio.Event()

    async def caller(call: Call) -> Caller:
        return Caller(call.sender, int(call.sender.partition(".")[0]))

    async def look() -> None:
        return

    async def wait(_call: Call, caller: Caller) -> tuple[Any, ...]:
        if caller.uid == uid:
            await go_on.wait()
        return ()

    requests = Requests(caller, look, {("i", "m"): wait}, is_shared=is_shared)

    def ask(sender: str) -> asyncio.Task[tuple[Any, ...]]:
        return asyncio.ensure_future(requests(Call(sender, "/", "i", "m", ())))

    waiting = [ask(f"{uid}.{number}") for number in range(MOST_OF_USER)]
    await asyncio.sleep(0)
    one_more, other = ask(f"{uid}.x"), ask("8.1")
    async with asyncio.timeout(SECONDS):
        assert await other == ()
        if is_refused:
            with pytest.raises(LimitExceededError):
                await one_more
        go_on.set()
        await asyncio.gather(*waiting, *([] if is_refused else [one_more]))
        assert await ask(f"{uid}.x") == ()
