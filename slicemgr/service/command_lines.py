# SPDX-License-Identifier: LGPL-2.1-or-later
"""The arguments of processes that may stand still: nobody waits for them."""

import contextlib
import threading
from collections.abc import Mapping, Sequence
from typing import Final

from slicemgr.kernel import procfs

COMMAND_LINES_SECONDS: Final = 0.5
"""All of them together take 30 us each. Who has not answered after this time stands still, and is shown by its name."""

_READING: Final = threading.Lock()
"""Command lines are read by one thread at a time: who stands still in one look does so in all that follow, and each
would leave a thread behind."""


def read_command_lines(pids: Sequence[int]) -> Mapping[int, tuple[str, ...]]:
    """The arguments of these processes, as far as they can be had within COMMAND_LINES_SECONDS."""
    known: dict[int, tuple[str, ...]] = {}

    def read() -> None:
        try:
            for pid in pids:
                with contextlib.suppress(*procfs.UNSEEN):
                    known[pid] = procfs.command_line(pid)
        finally:
            _READING.release()

    if not _READING.acquire(timeout=COMMAND_LINES_SECONDS):
        return {}
    reader = threading.Thread(target=read, name="command-lines", daemon=True)
    try:
        reader.start()
    except RuntimeError:  # No thread is to be had.
        _READING.release()
        return {}
    reader.join(COMMAND_LINES_SECONDS)
    return dict(known)
