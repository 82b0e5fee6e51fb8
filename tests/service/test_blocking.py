# SPDX-License-Identifier: LGPL-2.1-or-later
"""Blocking calls in threads."""

import asyncio
import threading

import pytest

from slicemgr.service.blocking import in_thread


@pytest.mark.asyncio
async def test_answers_and_errors_come_back() -> None:
    """From another thread, into this loop."""
    assert await in_thread(threading.get_ident) != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        await in_thread(lambda: 1 // 0)


def test_a_call_that_hangs_does_not_keep_the_loop_from_ending() -> None:
    """And one that ends after it complains to nobody."""
    hang = threading.Event()

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(in_thread(hang.wait), 0)

    asyncio.run(main())
    threads = [each for each in threading.enumerate() if each.name == "blocking"]
    hang.set()
    for each in threads:
        each.join(timeout=20)
    assert threads
