# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who asks: a client of ours on a test's bus."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from slicemgr.bus.client import BusClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.bus.private_bus import PrivateBus

_SECONDS = 60.0
"""Until it is there: eternity on a machine that does something else as well."""


@contextlib.asynccontextmanager
async def connected_client(
    bus: PrivateBus, subscribe: Callable[[BusClient], object] = lambda client: None
) -> AsyncIterator[BusClient]:
    """`subscribe` is called before it connects, as the daemon does it."""
    connected = asyncio.Event()
    client = BusClient(bus.address, loop=asyncio.get_running_loop(), connected=connected.set)
    subscribe(client)
    client.start()
    try:
        async with asyncio.timeout(_SECONDS):
            await connected.wait()
        yield client
    finally:
        client.stop()
