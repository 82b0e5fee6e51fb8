# SPDX-License-Identifier: LGPL-2.1-or-later
"""How many job tokens a make has, by what its build does now; and those of clients that were killed come back."""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

from slicemgr.build.steps import is_driver
from slicemgr.kernel import procfs
from slicemgr.kernel.errors import KernelError
from slicemgr.policy.tokens import Holder, Missing, allowed, lost_tokens, most_held
from slicemgr.service.step_watch import StepWatch

LOST_LOOK_SECONDS: Final = 2.0
"""Between two looks for lost tokens: 40 us for each process, and only when more are out than there are steps."""

_MAKES: Final = frozenset({"make", "gmake", "remake"})
_KEEPERS: Final = frozenset({"cargo"})
"""They keep tokens between their jobs, so nothing is to be taken for lost beside them."""
_CLIENTS: Final = frozenset({"ninja", "ninja-build", "samu"})
"""They start others as shells do, and take a token for each (ninja since 1.13)."""


class Tokens(Protocol):
    """See build/jobserver.py."""

    @property
    def ceiling(self) -> int: ...
    @property
    def outstanding(self) -> int: ...
    def allow(self, running: int) -> None: ...
    def give_back(self, lost: int) -> None: ...


class TokenCount:
    """Of one job. Only the pacer's thread calls."""

    def __init__(
        self, tokens: Tokens, watch: StepWatch, root_pid: int, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._tokens = tokens
        self._watch = watch
        self._root_pid = root_pid
        self._clock = clock
        self._cores = len(os.sched_getaffinity(0))
        self._missing: Missing | None = None
        self._lost_due = 0.0

    def look(self, running: int, new_bytes: Sequence[int], budget_bytes: int, *, is_near: bool) -> None:
        """`running`: steps that compute; `new_bytes`: what each holds that is held since its birth."""
        if not is_near:
            self._tokens.allow(self._tokens.ceiling)
        else:
            steps = self._watch.steps.values()
            self._tokens.allow(
                allowed(
                    running,
                    len(new_bytes),
                    sum(new_bytes),
                    budget_bytes,
                    self._tokens.ceiling,
                    is_cold=all(step.profile is None for step in steps) and not self._watch.has_ended,
                    cores=self._cores,
                )
            )
        now = self._clock()
        if now >= self._lost_due:
            self._lost_due = now + LOST_LOOK_SECONDS / 2
            self._look_for_lost(now)

    def _look_for_lost(self, now_seconds: float) -> None:
        outstanding = self._tokens.outstanding
        if outstanding <= len(self._watch.steps):
            self._missing = None
            return
        members = self._holders((*self._watch.others, *self._watch.steps))
        if members is None:
            self._missing = None
            return
        self._missing, lost = lost_tokens(self._missing, outstanding, most_held(members, self._root_pid), now_seconds)
        if lost:
            self._tokens.give_back(lost)

    @staticmethod
    def _holders(pids: Iterable[int]) -> list[Holder] | None:
        found: list[Holder] = []
        for pid in pids:
            try:
                stat = procfs.read_stat(pid)
            except KernelError:
                continue
            name = os.fsdecode(stat.comm)
            if name in _KEEPERS:
                return None
            is_make = name in _MAKES
            is_other = is_driver(name) and not is_make and name not in _CLIENTS
            found.append(Holder(pid, stat.ppid, stat.threads, is_make=is_make, is_driver=is_other))
        return found
