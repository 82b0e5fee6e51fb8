# SPDX-License-Identifier: LGPL-2.1-or-later
"""One job after the other: who places jobs with the same manager waits for its turn before it connects.

A manager sends its signals, some 20 for each unit, to everybody who is connected to its private socket. So 200 jobs
that were started at once made it write 800,000 messages, of which each job needed one: docs/measurements.md.
"""

from __future__ import annotations

import fcntl
import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

PATIENCE_SECONDS: Final = 30.0
"""Then it is tried out of turn, which is slow where many wait, and right: who is at its turn may have been stopped."""

FIRST_PAUSE_SECONDS: Final = 0.001
LONGEST_PAUSE_SECONDS: Final = 0.1
"""A placement takes some milliseconds, and nobody tells when it is done: flock(2) waits, but without a time-out. Two
hundred that look every 0.1 s are 2,000 looks a second; whoever waits for few of them looks sooner."""


class Turn:
    """A lock where only those may open it who wait for each other: anybody else could make them wait. It ends with us
    at the latest."""

    __slots__ = ("_descriptor",)

    def __init__(
        self,
        path: str,
        *,
        is_directory: bool = True,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        """Wait for it, for PATIENCE_SECONDS at most. `path` is a directory that is there, or a file that may be made.

        Where it can't be opened, nobody waits.
        """
        self._descriptor: int | None = None
        how = os.O_RDONLY | os.O_DIRECTORY if is_directory else os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        try:
            self._descriptor = os.open(path, how | os.O_CLOEXEC, 0o600)
        except OSError:
            return
        deadline, pause = clock() + PATIENCE_SECONDS, FIRST_PAUSE_SECONDS
        while not _locked(self._descriptor) and clock() < deadline:
            sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def end(self) -> None:
        """Let the next one go on, though a child may have inherited the descriptor."""
        if self._descriptor is not None:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            os.close(self._descriptor)
            self._descriptor = None


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # A file system without locks: nobody waits.
        return True
    return True
