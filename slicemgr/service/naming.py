# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command lines of a job's processes, learnt before they are needed.

A report should say which file the killed compiler was at. After the kill its arguments are gone with its
memory, and before the kill reading them may wait for the victim's address space. So they are read ahead, by a
thread, when a job comes near its limit; who is killed sooner is reported by its name alone.
"""

import os
from collections.abc import Callable, Iterable
from typing import Final, TypeAlias

from slicemgr.kernel import procfs
from slicemgr.kernel.errors import KernelError
from slicemgr.model.process import ProcessIdentity, ProcessSample
from slicemgr.service.worker import Worker

_Key: TypeAlias = tuple[ProcessIdentity, str]
"""The name is part of it: it changes at the exec, and with it the arguments."""

INTERVAL_SECONDS: Final = 0.1
"""Listing 55 processes takes 2 ms, so 2 % of a core near the limit; who lived for less was no victim yet."""


class CommandLines:
    """What each process of a job was started as."""

    def __init__(self, members: Callable[[], Iterable[int]]) -> None:
        self._members = members
        self._known: dict[_Key, tuple[str, ...]] = {}
        self._learnt_seconds = -INTERVAL_SECONDS
        self._worker = Worker("command-lines")
        self._is_learning = False

    def learn(self, now_seconds: float) -> None:
        """Begin to read what is not known yet; returns at once. Does nothing if that was just done, or goes on."""
        if self._is_learning or now_seconds - self._learnt_seconds < INTERVAL_SECONDS:
            return
        self._learnt_seconds = now_seconds
        self._is_learning = True
        try:
            self._worker.do(self._learn)
        except RuntimeError:  # No thread is to be had: the names alone must do.
            self._is_learning = False

    def of(self, process: ProcessSample) -> tuple[str, ...]:
        """The arguments, or nothing if they are not known. Never reads."""
        return self._known.get((process.identity, process.name), ())

    def _learn(self) -> None:
        """What can't be read now (no descriptor, no memory) is read in the next round; until then the old ones hold."""
        try:
            # One assignment, so no lock is needed; who has ended is forgotten with the old dictionary.
            self._known = self._read()
        except (OSError, MemoryError, KernelError):
            return
        finally:
            self._is_learning = False

    def _read(self) -> dict[_Key, tuple[str, ...]]:
        known: dict[_Key, tuple[str, ...]] = {}
        for pid in self._members():
            try:
                stat = procfs.read_stat(pid)
                key = ProcessIdentity(pid, stat.starttime), os.fsdecode(stat.comm)
                known[key] = self._known.get(key) or procfs.command_line(pid)
            except KernelError:  # It has ended, or is hidden from us; one that we can't read keeps us from no other.
                continue
        return known
