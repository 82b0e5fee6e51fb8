# SPDX-License-Identifier: LGPL-2.1-or-later
"""Telling, in a thread of its own: a full pipe or a slow terminal must not hold up the guard.

`slicemgr run ... 2>&1 | less` stops reading after a screen. If the guard wrote that line itself, the build
would grow unwatched until somebody pressed the space bar.
"""

from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Self

from slicemgr.service.report import Report
from slicemgr.service.worker import Worker


class Delivery:
    """Hands reports to `tell`, in order, from a thread; a context manager that ends when all is told."""

    def __init__(self, tell: Callable[[Report], None]) -> None:
        self._tell = tell
        self._worker = Worker("delivery")

    def __call__(self, report: Report) -> None:
        """Queue a report; never waits, but where no thread is to be had (a fork bomb took them all)."""
        try:
            self._worker.do(partial(self._tell, report))
        except RuntimeError:
            self._tell(report)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._worker.finish()
