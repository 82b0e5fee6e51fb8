# SPDX-License-Identifier: LGPL-2.1-or-later
"""Jobs that stand still because somebody has asked for it; no end of ours leaves one behind."""

import contextlib
import threading
from collections.abc import Callable, Collection

from slicemgr.bus.errors import FailedError
from slicemgr.kernel.cgroupfs import CgroupDir
from slicemgr.kernel.errors import KernelError


class PausedJobs:
    """By cgroup.freeze, which all of a job obeys at once, new children too; SIGSTOP would be seen by their parents.

    From any thread: a request pauses while a look at the machine forgets, and our end thaws while a request waits.
    """

    def __init__(self, *, changed: Callable[[frozenset[str]], object]) -> None:
        """`changed` is told all of them before one is paused, and after one is no more: it sees to it that our death
        thaws them."""
        self._paused: frozenset[str] = frozenset()
        self._changed = changed
        self._turn = threading.Lock()
        self._is_over = False

    def all(self) -> frozenset[str]:
        """Their cgroups."""
        return self._paused

    def set(self, cgroup: str, pause: bool) -> None:
        """Pause or resume it. Raises CgroupGoneError, CgroupNotPermittedError, CgroupRefusedError; FailedError when
        all were thawed: nobody would undo it."""
        with self._turn, CgroupDir.open(cgroup) as directory:
            before = self._paused
            if pause:
                if self._is_over:
                    raise FailedError("the daemon is ending; try again")
                self._tell(before | {cgroup})
            try:
                directory.freeze(pause)
            except BaseException:
                self._tell(before)  # What was paused before still is.
                raise
            if not pause:
                self._tell(before - {cgroup})

    def forget_all_but(self, jobs: Collection[str], known: Collection[str]) -> None:
        """Those of `known` that are no jobs (any more) have ended, or nobody can name them to resume them: thawed.

        `known` are of a time before `jobs` were looked for: who was paused since may be newer than that look.
        """
        for cgroup in frozenset(known) - frozenset(jobs):
            with self._turn:
                if cgroup in self._paused:
                    _thaw(cgroup)
                    self._tell(self._paused - {cgroup})

    def thaw_all(self) -> None:
        """At our own end: nobody is paused from now on."""
        with self._turn:
            self._is_over = True
            for cgroup in self._paused:
                _thaw(cgroup)
            self._tell(frozenset())

    def _tell(self, paused: frozenset[str]) -> None:
        if paused != self._paused:
            self._paused = paused
            self._changed(paused)


def _thaw(cgroup: str) -> None:
    """As far as it goes: one that is gone, or no longer ours, keeps nobody else frozen."""
    with contextlib.suppress(KernelError, OSError), CgroupDir.open(cgroup) as directory:
        directory.freeze(False)
