# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guard in a thread of its own, with an asyncio loop of its own.

The main thread waits for the command, and hears signals at once, whatever the guard is at. The guard's modules are
imported in its thread, asyncio among them: 60 ms that the main thread does not wait for unless it has to. But not
`threading`: it takes whoever imports it for the main thread.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable


class Watcher(Protocol):
    """What runs in the thread."""

    @property
    def looks(self) -> int:
        """How often it has looked."""

    async def watch(self) -> None:
        """Look and act until cancelled; or return, when there is nothing left to watch."""

    async def at_rest(self) -> None:
        """Wait for the end of a kill that is under way."""


class GuardThread:
    """Makes one watcher, runs it from `begin` to `finish`."""

    def __init__(self, make: Callable[[], Watcher], failed: Callable[[BaseException], None]) -> None:
        """`make` is called in the thread, by its loop; `failed` too, with what went wrong.

        Raises RuntimeError if no thread is to be had.
        """
        self._make = make
        self._failed = failed
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news: asyncio.Event | None = None
        self._lock = threading.Lock()
        self._made = threading.Event()
        self._is_begun = False
        self._is_finishing = False
        self.watcher: Watcher | None = None
        """What it runs; None while it is being made, or if it could not be."""
        self._thread = threading.Thread(target=self._run, name="guard", daemon=True)
        self._thread.start()

    def wait_until_made(self) -> None:
        """Wait until the watcher is there, or has failed to be."""
        self._made.wait()

    def begin(self) -> None:
        """Let it look, as soon as it is there."""
        self._is_begun = True
        self._wake()

    def finish(self) -> None:
        """Let a kill end that is under way, then end; what is still being imported is not waited for."""
        self._is_finishing = True
        if self._wake() or self._made.is_set():
            self._thread.join()

    def _wake(self) -> bool:
        """Have the loop look at what is wanted of it; False if there is none yet."""
        with self._lock:
            if self._loop is None or self._news is None:
                return False
            with contextlib.suppress(RuntimeError):  # It has ended by itself.
                self._loop.call_soon_threadsafe(self._news.set)
            return True

    def _run(self) -> None:
        try:
            import asyncio

            asyncio.run(self._watch())
        except Exception as error:  # noqa: BLE001 - told to a person; the command goes on
            if not self._is_finishing or self._made.is_set():
                self._failed(error)
        finally:
            self._made.set()

    async def _watch(self) -> None:
        import asyncio

        watcher = self._make()
        with self._lock:
            self.watcher = watcher
            self._news = news = asyncio.Event()
            self._loop = asyncio.get_running_loop()
        self._made.set()
        watching: asyncio.Task[None] | None = None
        while not self._is_finishing:
            if self._is_begun and watching is None:
                watching = asyncio.create_task(watcher.watch(), name="guard")
                watching.add_done_callback(lambda _: news.set())
            if watching is not None and watching.done():
                break
            await news.wait()
            news.clear()
        if watching is not None:
            if not watching.done():
                await watcher.at_rest()
                watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
