# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who calls, while one of our two connections is not there."""

from __future__ import annotations

from typing import Any

import pytest

from slicemgr.bus import authority
from slicemgr.bus.authority import Authority, Caller
from slicemgr.bus.call import Call
from slicemgr.bus.errors import NO_BUS, NO_REPLY, DeniedError, RemoteError

CALL = Call(":1.7", "/", "i", "m", (), bus_id="b")


class Client:
    """One that is not connected yet."""

    def __init__(self, *errors: str) -> None:
        self._errors = list(errors)

    async def call(self, *_: Any, **__: Any) -> tuple[Any, ...]:
        if self._errors:
            raise RemoteError(self._errors.pop(), "no")
        return ({"UnixUserID": 4711},)


@pytest.mark.asyncio
async def test_a_call_that_is_there_before_us(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a login hook's, by which the bus has started the daemon."""
    monkeypatch.setattr(authority, "CONNECT_SECONDS", 2.0)
    asked = Authority(Client(NO_BUS, NO_BUS))  # type: ignore[arg-type]
    assert await asked.caller(CALL) == Caller(":1.7", 4711, "b")


@pytest.mark.asyncio
@pytest.mark.parametrize("errors", [[NO_REPLY], [NO_BUS] * 1000])
async def test_nobody_says_who_calls(monkeypatch: pytest.MonkeyPatch, errors: list[str]) -> None:
    monkeypatch.setattr(authority, "CONNECT_SECONDS", 0.05)
    with pytest.raises(DeniedError):
        await Authority(Client(*errors)).caller(CALL)  # type: ignore[arg-type]
