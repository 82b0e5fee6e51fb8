# SPDX-License-Identifier: LGPL-2.1-or-later
"""Waiting for descriptors and for times, in the main thread and without asyncio, whose import takes 25 ms.

It serves a command that mostly ends before anything else happens; what is more than waiting (the guard) has an asyncio
loop, in a thread of its own.
"""

from __future__ import annotations

import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Waiting:
    """poll(2) with callbacks, which run in the thread that waits."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._readers: dict[int, Callable[[], None]] = {}
        self._calls: list[tuple[float, Callable[[], None]]] = []

    def add_reader(self, descriptor: int, callback: Callable[[], None]) -> None:
        """Call back whenever the descriptor can be read, or its other end is closed."""
        self._readers[descriptor] = callback
        self._poll.register(descriptor, select.POLLIN)

    def remove_reader(self, descriptor: int) -> None:
        """Before the descriptor is closed."""
        del self._readers[descriptor]
        self._poll.unregister(descriptor)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call back once, after this time."""
        self._calls.append((time.monotonic() + seconds, callback))

    def wait(self) -> None:
        """Wait until something happens, and make the calls for it."""
        timeout = None
        if self._calls:
            first = min(due for due, _ in self._calls)
            # Rounded up: a poll that returns a moment too early would be made a hundred times in that moment.
            timeout = max(0, int((first - time.monotonic()) * 1000 + 0.999))
        for descriptor, _ in self._poll.poll(timeout):
            callback = self._readers.get(descriptor)
            if callback is not None:  # One before it in this round may have removed it.
                callback()
        now = time.monotonic()
        due_calls = [call for call in self._calls if call[0] <= now]
        self._calls = [call for call in self._calls if call[0] > now]
        for _, call in due_calls:
            call()
