# SPDX-License-Identifier: LGPL-2.1-or-later
"""Delivery that is imported when there is something to deliver. Light, see model/quantity.py."""

from __future__ import annotations

import _thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from slicemgr.service.delivery import Delivery
    from slicemgr.service.report import Report


class Telling:
    """Hands reports to `tell` in a thread of its own (service/delivery.py), which starts with the first of them."""

    def __init__(self, tell: Callable[[Report], None]) -> None:
        self._tell = tell
        self._lock = _thread.allocate_lock()
        self._delivery: Delivery | None = None

    def __call__(self, report: Report) -> None:
        """From any thread."""
        with self._lock:
            if self._delivery is None:
                from slicemgr.service.delivery import Delivery

                self._delivery = Delivery(self._tell).__enter__()
            self._delivery(report)

    def finish(self) -> None:
        """Wait until all is told."""
        if self._delivery is not None:
            self._delivery.__exit__(None, None, None)
