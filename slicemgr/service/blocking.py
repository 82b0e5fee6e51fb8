# SPDX-License-Identifier: LGPL-2.1-or-later
"""Kernel calls that may block, each in a daemon thread of its own.

Not the loop's executor: it is joined when the loop ends, with a thread of its own at that, so one call that hangs on a
dead file server, or a process table that is full, would keep slicemgr from ending.
"""

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

_Answer = TypeVar("_Answer")


def in_thread(call: Callable[[], _Answer]) -> asyncio.Future[_Answer]:
    """Make the call in a thread; the future has its answer or its error.

    Raises RuntimeError if no thread is to be had.
    """
    answer: concurrent.futures.Future[_Answer] = concurrent.futures.Future()

    def run() -> None:
        # RuntimeError: the loop has ended. InvalidStateError: nobody waits any more.
        with contextlib.suppress(RuntimeError, concurrent.futures.InvalidStateError):
            try:
                result = call()
            except Exception as error:  # noqa: BLE001 - handed over to whoever waits for the future
                answer.set_exception(error)
            else:
                answer.set_result(result)

    threading.Thread(target=run, name="blocking", daemon=True).start()
    return asyncio.wrap_future(answer)
