# SPDX-License-Identifier: LGPL-2.1-or-later
"""Telling, in a thread of its own: a full pipe or a slow terminal must not hold up the guard.

`slicemgr run ... 2>&1 | less` stops reading after a screen. If the guard wrote that line itself, the build
would grow unwatched until somebody pressed the space bar.
"""

import queue
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from slicemgr.service.report import Report


class Delivery:
    """Hands reports to `tell`, in order, from a thread; a context manager that ends when all is told.

    The thread starts with the first report, so after the command was forked: a fork with threads about may leave a lock
    taken in the child for ever.
    """

    def __init__(self, tell: Callable[[Report], None]) -> None:
        self._tell = tell
        self._reports: queue.SimpleQueue[Report | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def __call__(self, report: Report) -> None:
        """Queue a report; never waits, but where no thread is to be had (a fork bomb took them all)."""
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="delivery", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                self._tell(report)
                return
            self._thread = thread
        self._reports.put(report)

    def _run(self) -> None:
        while (report := self._reports.get()) is not None:
            self._tell(report)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is not None:
            self._reports.put(None)
            self._thread.join()
