# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command lines of a job's processes, learnt before they are needed.

A report should say which file the killed compiler was at. After the kill its arguments are gone with its
memory, and before the kill reading them may wait for the victim's address space. So they are read ahead, by a
thread, when a job comes near its limit; who is killed sooner is reported by its name alone.
"""

import asyncio
from collections.abc import Callable
from typing import TypeAlias

from slicemgr.model.process import ProcessIdentity, ProcessSample, ProcessTable

_Key: TypeAlias = tuple[ProcessIdentity, str]


class CommandLines:
    """What each process of a job was started as."""

    def __init__(self, snapshot: Callable[[], ProcessTable], read: Callable[[int], tuple[str, ...]]) -> None:
        self._snapshot = snapshot
        self._read = read
        self._known: dict[_Key, tuple[str, ...]] = {}
        self._learning: asyncio.Future[None] | None = None

    def learn(self) -> None:
        """Begin to read what is not known yet; returns at once, and does nothing while a reading is under way."""
        if self._learning is None or self._learning.done():
            self._learning = asyncio.get_running_loop().run_in_executor(None, self._learn)

    def of(self, process: ProcessSample) -> tuple[str, ...]:
        """The arguments, or nothing if they are not known. Never reads."""
        return self._known.get(_key(process), ())

    def _learn(self) -> None:
        # A new dictionary takes the place of the old by one assignment, so no lock is needed, and the
        # processes that have ended are forgotten.
        self._known = {
            _key(process): self._known.get(_key(process)) or self._read(process.pid) for process in self._snapshot()
        }


def _key(process: ProcessSample) -> _Key:
    """The name is part of it: it changes at the exec, and with it the arguments."""
    return process.identity, process.name
