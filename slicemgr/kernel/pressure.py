# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pressure triggers: the kernel says when tasks have waited for memory for longer than wanted.

Documentation/accounting/psi.rst. Only poll(2) hands their events over: a nested epoll swallowed 10 of 10, because
asking a trigger takes its event. So they are polled in a thread of their own.
"""

import collections
import contextlib
import enum
import errno
import functools
import os
import select
import threading
from collections.abc import Callable
from typing import Final, TypeAlias

from slicemgr.kernel.cgroup_files import CgroupFiles
from slicemgr.kernel.errors import CgroupGoneError, NotSupportedError

MACHINE: Final = "/proc/pressure/memory"

UNPRIVILEGED_WINDOW_USEC: Final = 2_000_000
"""Without CAP_SYS_RESOURCE a window has to be a multiple of this: the averages are made every 2 s, and such a trigger
needs no kernel thread of its own (kernel commit d82caa273565; Debian's 6.1 has it)."""
LONGEST_WINDOW_USEC: Final = 10_000_000

_POLLING: Final = "reading memory.pressure every second"

Place: TypeAlias = str | CgroupFiles
"""A file such as /proc/pressure/memory, or the cgroup whose memory.pressure is meant."""


class StallKind(enum.Enum):
    """Which line of the pressure file."""

    SOME = "some"
    FULL = "full"


class PressureTrigger:
    """One trigger, armed. Closing the descriptor disarms it."""

    def __init__(self, place: Place, kind: StallKind, stall_usec: int, window_usec: int) -> None:
        """Arm it: `stall_usec` of waiting within `window_usec`. Raises OSError, and CgroupGoneError for a cgroup."""
        self.window_usec = window_usec
        self.stall_usec = stall_usec
        self.descriptor = _open(place)
        try:
            # The NUL: /proc/pressure/memory cuts off the last byte, whatever it is; a cgroup's file does not mind.
            os.write(self.descriptor, b"%s %d %d\0" % (kind.value.encode(), stall_usec, window_usec))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Disarm it."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def open_trigger(place: Place, kind: StallKind, stall_usec: int, window_usec: int) -> PressureTrigger:
    """A trigger as wished, or with the next longer window that is a multiple of 2 s, and the same share of it.

    With privileges any window of 500 ms to 10 s is granted. The window that it got is in the value.
    Raises NotSupportedError where the kernel grants none, and then somebody has to read the file; CgroupGoneError.
    """
    try:
        try:
            return PressureTrigger(place, kind, stall_usec, window_usec)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        longer = -(-window_usec // UNPRIVILEGED_WINDOW_USEC) * UNPRIVILEGED_WINDOW_USEC
        longer = min(longer, LONGEST_WINDOW_USEC)
        return PressureTrigger(place, kind, stall_usec * longer // window_usec, longer)
    except OSError as error:
        raise _unsupported(place, error) from error


def _open(place: Place) -> int:
    flags = os.O_RDWR | os.O_NONBLOCK
    if isinstance(place, str):
        return os.open(place, flags)
    try:
        return os.open("memory.pressure", flags, dir_fd=place.fileno())
    except OSError as error:
        if error.errno == errno.ENODEV or (error.errno == errno.ENOENT and place.is_gone()):
            raise CgroupGoneError(place.path) from error
        raise


def _unsupported(place: Place, error: OSError) -> NotSupportedError:
    where = place if isinstance(place, str) else f"{place.path}/memory.pressure"
    if error.errno in {errno.ENOENT, errno.EOPNOTSUPP}:
        return NotSupportedError(
            f"the kernel has no pressure file {where}", f"`psi=1` on its command line, or {_POLLING}"
        )
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return NotSupportedError(f"not permitted to set a trigger on {where}", _POLLING)
    return NotSupportedError(f"the kernel refused a trigger on {where} ({os.strerror(error.errno or 0)})", _POLLING)


class PressureThread:
    """Polls triggers in the daemon thread "psi", and calls back on the loop that it was given.

    `add`, `remove` and `close` belong to the loop's thread. The thread starts with the first trigger: a fork with
    threads about may leave a lock taken in the child.
    """

    def __init__(self, post: Callable[[Callable[[], object]], object]) -> None:
        """`post` is `loop.call_soon_threadsafe`."""
        self._post = post
        self._stalls: dict[PressureTrigger, Callable[[], object]] = {}
        self._ends: dict[PressureTrigger, Callable[[], object]] = {}
        self._orders: collections.deque[tuple[PressureTrigger, bool] | None] = collections.deque()
        self._wake, self._told = -1, -1
        self._thread: threading.Thread | None = None

    def add(self, trigger: PressureTrigger, stalled: Callable[[], object], gone: Callable[[], object]) -> None:
        """Call `stalled` at each event, at most once per window; `gone` once when the cgroup has been removed.

        The trigger is the thread's own from here on: it closes it. Raises OSError or RuntimeError if there is no
        pipe or no thread to be had; the trigger is closed then.
        """
        try:
            self._start()
        except BaseException:
            trigger.close()
            raise
        self._stalls[trigger] = stalled
        self._ends[trigger] = gone
        self._order((trigger, True))

    def remove(self, trigger: PressureTrigger) -> None:
        """Disarm it; it calls back no more. One that isn't in is no failure."""
        if self._stalls.pop(trigger, None) is not None:
            del self._ends[trigger]
            self._order((trigger, False))

    def close(self) -> None:
        """Disarm all, and end the thread. A second time does nothing."""
        self._stalls.clear()
        self._ends.clear()
        if self._thread is not None:
            self._order(None)
            self._thread.join()
            self._thread = None
            os.close(self._wake)
            os.close(self._told)

    def _start(self) -> None:
        if self._thread is not None:
            return
        self._told, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(self._told, False)
        thread = threading.Thread(target=self._run, name="psi", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            os.close(self._wake)
            os.close(self._told)
            raise
        self._thread = thread

    def _order(self, order: tuple[PressureTrigger, bool] | None) -> None:
        self._orders.append(order)
        with contextlib.suppress(BlockingIOError):  # Full of wake-ups already.
            os.write(self._wake, b"\0")

    # In the thread.

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._told, select.POLLIN)
        triggers: dict[int, PressureTrigger] = {}
        try:
            while self._obey(poll, triggers):
                for descriptor, events in poll.poll():
                    trigger = triggers.get(descriptor)
                    if trigger is None:
                        continue
                    if events & (select.POLLERR | select.POLLNVAL):
                        self._drop(poll, triggers, trigger)
                        self._post(functools.partial(self._tell_end, trigger))
                    elif events & select.POLLPRI:
                        self._post(functools.partial(self._tell_stall, trigger))
        except RuntimeError:  # The loop has been closed: nobody is left to be told.
            pass
        finally:
            for trigger in (*triggers.values(), *(order[0] for order in self._orders if order is not None)):
                trigger.close()

    def _obey(self, poll: select.poll, triggers: dict[int, PressureTrigger]) -> bool:
        """Do what `add`, `remove` and `close` have ordered; False is the end."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._told, 4096)
        while self._orders:
            order = self._orders.popleft()
            if order is None:
                return False
            trigger, wanted = order
            if wanted:
                triggers[trigger.descriptor] = trigger
                poll.register(trigger.descriptor, select.POLLPRI)
            else:
                self._drop(poll, triggers, trigger)
        return True

    @staticmethod
    def _drop(poll: select.poll, triggers: dict[int, PressureTrigger], trigger: PressureTrigger) -> None:
        if triggers.pop(trigger.descriptor, None) is not None:
            poll.unregister(trigger.descriptor)
            trigger.close()

    # Posted to the loop: what has been removed since is not told any more.

    def _tell_stall(self, trigger: PressureTrigger) -> None:
        stalled = self._stalls.get(trigger)
        if stalled is not None:
            stalled()

    def _tell_end(self, trigger: PressureTrigger) -> None:
        gone = self._ends.pop(trigger, None)
        self._stalls.pop(trigger, None)
        if gone is not None:
            gone()
