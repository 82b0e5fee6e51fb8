# SPDX-License-Identifier: LGPL-2.1-or-later
"""Waiting for changes of cgroup files and for exits, with no wake-up when nothing happens.

A cgroup file is always readable: asyncio's own epoll called back 16,903 times in 50 ms. What tells of a change is
EPOLLPRI, which asyncio can't ask for. So one epoll set within the loop's: `loop.add_reader(watch.fileno(),
watch.dispatch)`. Pressure triggers must not go in here: a nested epoll takes their events away (10 wake-ups, 0 events).
"""

import contextlib
import os
import select
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

_LONGEST_READ: Final = 4096

_MOST_AT_ONCE: Final = 64
"""Events for one call of `dispatch`; the rest stay pending, and the loop calls again."""

Callback = Callable[[], object]


class CgroupWatch:
    """One epoll set of cgroup files and pidfds, each with a callback. Runs nothing by itself.

    The descriptors are the caller's: take them out before closing them. Those of files have to be opened for this
    alone (`CgroupDir.open_file`), because reading a file anywhere on the same descriptor takes its notification.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._files: dict[int, Callback] = {}
        self._pidfds: dict[int, Callback] = {}

    def fileno(self) -> int:
        """Readable whenever `dispatch` has something to do."""
        return self._epoll.fileno()

    def add_file(self, descriptor: int, callback: Callback) -> None:
        """Call back after changes of memory.events or cgroup.events; not for what has happened before this call.

        The kernel notifies at most a hundred times a second, so compare counters and do not count calls. Removing a
        cgroup notifies nobody; if it is found out here, there is one more call, and that was the last.
        Raises OSError.
        """
        self._rearm(descriptor)
        self._epoll.register(descriptor, select.EPOLLPRI)
        self._files[descriptor] = callback

    def add_pidfd(self, descriptor: int, callback: Callback) -> None:
        """Call back once when the process has exited; the descriptor is out then. Raises OSError."""
        self._epoll.register(descriptor, select.EPOLLIN)
        self._pidfds[descriptor] = callback

    def remove(self, descriptor: int) -> None:
        """Call back no more, not even for what is pending. One that isn't in is no failure."""
        self._files.pop(descriptor, None)
        self._pidfds.pop(descriptor, None)
        with contextlib.suppress(OSError):  # ENOENT: not in. EBADF: closed, which took it out.
            self._epoll.unregister(descriptor)

    def dispatch(self) -> None:
        """Call back for all that has happened. Never waits. What a callback raises comes out; nothing is lost by it."""
        for descriptor, _ in self._epoll.poll(0, _MOST_AT_ONCE):
            # A callback before may have taken this one out.
            if (callback := self._files.get(descriptor)) is not None:
                # EPOLLERR stands beside every EPOLLPRI of such a file, and means nothing.
                try:
                    self._rearm(descriptor)
                except OSError:
                    # ENODEV: the cgroup is gone, and its file would be reported for ever.
                    self.remove(descriptor)
                callback()
            elif (callback := self._pidfds.get(descriptor)) is not None:
                self.remove(descriptor)
                callback()

    @staticmethod
    def _rearm(descriptor: int) -> None:
        """Reading is what makes the next change an event. Before the callback, so that nothing falls in between."""
        os.pread(descriptor, _LONGEST_READ, 0)

    def close(self) -> None:
        """Close the set; the descriptors in it stay open."""
        self._files.clear()
        self._pidfds.clear()
        self._epoll.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
