# SPDX-License-Identifier: LGPL-2.1-or-later
"""Work that may block, in daemon threads that stay.

Not the loop's executor: it is joined when the loop ends, with a thread of its own at that, so one call that hangs on a
dead file server, or a process table that is full, would keep slicemgr from ending. And not a thread for each call:
starting one waits until it runs, which among twenty compilers on two cores takes longer than most of the calls.
"""

import asyncio
import concurrent.futures
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import TypeVar

_Answer = TypeVar("_Answer")


class Worker:
    """One thread that makes calls in their order. It starts with the first, so after the command was forked:
    a fork with threads about may leave a lock taken in the child for ever."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def do(self, call: Callable[[], None]) -> None:
        """Queue a call that raises nothing; never waits for it. Raises RuntimeError if no thread is to be had."""
        if self._thread is None:
            thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            thread.start()
            self._thread = thread
        self._calls.put(call)

    def ask(self, call: Callable[[], _Answer]) -> asyncio.Future[_Answer]:
        """Queue a call; the future has its answer or its error. Raises RuntimeError if no thread is to be had."""
        answer: concurrent.futures.Future[_Answer] = concurrent.futures.Future()

        def settle() -> None:
            # RuntimeError: the loop has ended. InvalidStateError: nobody waits any more.
            with contextlib.suppress(RuntimeError, concurrent.futures.InvalidStateError):
                try:
                    result = call()
                except Exception as error:  # noqa: BLE001 - handed over to whoever waits for the future
                    answer.set_exception(error)
                else:
                    answer.set_result(result)

        self.do(settle)
        return asyncio.wrap_future(answer)

    def finish(self) -> None:
        """Wait until all that was queued is done."""
        if self._thread is not None:
            self._calls.put(None)
            self._thread.join()

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
