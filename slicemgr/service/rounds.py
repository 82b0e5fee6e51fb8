# SPDX-License-Identifier: LGPL-2.1-or-later
"""The time between two rounds of a guard."""

import asyncio
import contextlib
from typing import Final

SHORTEST_ROUND_SECONDS: Final = 0.02
"""The kernel tells of a file up to a hundred times a second (CGROUP_FILE_NOTIFY_MIN_INTV); a cgroup that trims its
page cache keeps that up for hours, and half of it is soon enough."""


class Rounds:
    """Until called or for so long, and never less than the shortest."""

    def __init__(self) -> None:
        self._ended_seconds = -SHORTEST_ROUND_SECONDS

    async def __call__(self, called: asyncio.Event, seconds: float | None) -> None:
        """Sleep until `called`, or for `seconds`."""
        # Not wait_for: until 3.12 it swallows a cancellation that comes together with the call, and the guard of a job
        # that has just been killed would be waited for in vain.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await called.wait()
        loop = asyncio.get_running_loop()
        early = self._ended_seconds + SHORTEST_ROUND_SECONDS - loop.time()
        if early > 0:
            await asyncio.sleep(early)
        self._ended_seconds = loop.time()
