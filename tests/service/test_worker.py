# SPDX-License-Identifier: LGPL-2.1-or-later
"""Work in threads."""

import asyncio
import threading

import pytest

from slicemgr.service.worker import Worker


@pytest.mark.asyncio
async def test_answers_and_errors_come_back() -> None:
    """From one other thread, into this loop."""
    worker = Worker("test")
    first, second = await worker.ask(threading.get_ident), await worker.ask(threading.get_ident)
    assert first == second != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        await worker.ask(lambda: 1 // 0)
    worker.finish()


def test_calls_are_made_in_their_order_and_all_of_them() -> None:
    """Before `finish` returns."""
    worker, done = Worker("test"), list[int]()
    for number in range(100):
        worker.do(lambda number=number: done.append(number))  # type: ignore[misc]
    worker.finish()
    assert done == list(range(100))


def test_there_is_no_thread_before_there_is_work() -> None:
    """A fork comes first."""
    before = threading.active_count()
    Worker("test").finish()
    assert threading.active_count() == before


def test_a_call_that_hangs_does_not_keep_the_loop_from_ending() -> None:
    """And when it ends after the loop it complains to nobody."""
    hang, worker = threading.Event(), Worker("test")

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(worker.ask(hang.wait), 0)

    asyncio.run(main())
    hang.set()
    worker.finish()
