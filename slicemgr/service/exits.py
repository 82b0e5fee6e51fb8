# SPDX-License-Identifier: LGPL-2.1-or-later
"""Waiting for processes to exit, by their pidfds and never by asking again and again."""

import asyncio
import os
import time
from collections.abc import Iterable

from slicemgr.model.process import ProcessIdentity


async def readable_within(descriptor: int, timeout_seconds: float) -> bool:
    """Whether the descriptor becomes readable in time: the exit of a process, on its pidfd (pidfd_open(2))."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(descriptor, readable.set)
    try:
        await asyncio.wait_for(readable.wait(), timeout_seconds)
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(descriptor)
    return True


async def all_exited_within(identities: Iterable[ProcessIdentity], timeout_seconds: float) -> None:
    """Wait until all of them have exited, or the time is up."""
    deadline = time.monotonic() + timeout_seconds
    for identity in identities:
        try:
            pidfd = os.pidfd_open(identity.pid)
        except OSError:
            continue  # Gone already.
        try:
            await readable_within(pidfd, max(0.0, deadline - time.monotonic()))
        finally:
            os.close(pidfd)
