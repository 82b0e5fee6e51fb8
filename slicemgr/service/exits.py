# SPDX-License-Identifier: LGPL-2.1-or-later
"""Waiting for processes to exit, by their pidfds and never by asking again and again."""

import asyncio


async def readable_within(descriptor: int, timeout_seconds: float) -> bool:
    """Whether the descriptor becomes readable in time: the exit of a process, on its pidfd (pidfd_open(2))."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(descriptor, readable.set)
    try:
        async with asyncio.timeout(timeout_seconds):
            await readable.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(descriptor)
    return True
