# SPDX-License-Identifier: LGPL-2.1-or-later
"""What was learnt of steps, for a pacer that must not fail for it: a broken file costs the knowledge, not the build."""

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from slicemgr.build.learned import LearnedError, LearnedSteps
from slicemgr.model.step import Profile, StepSignature
from slicemgr.service.worker import Worker

FLUSH_SECONDS: Final = 10.0
"""Between two writes: so much is lost if slicemgr is killed."""


class RememberedSteps:
    """The knowledge of one job's pacer; `learn` writes it in a thread of its own, now and then."""

    def __init__(
        self,
        path: str,
        failed: Callable[[LearnedError], None],
        *,
        directory: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`failed` is told the first failure, and there is no second. `directory`: where the build runs; steps that
        were seen near it tell more about new ones than others."""
        self._failed = failed
        self._directory = directory
        self._clock = clock
        self._writer = Worker("steps")
        self._flush_due = clock() + FLUSH_SECONDS
        self._steps = LearnedSteps(path)
        self._has_failed = False
        self._failing = threading.Lock()

    def profile(self, signature: StepSignature) -> Profile | None:
        """Of this very step; None if it is new."""
        try:
            return None if self._has_failed else self._steps.profile(signature)
        except LearnedError as error:
            self._give_up(error)
            return None

    def ended(self, program: str) -> Sequence[Profile]:
        """Of others of this program."""
        try:
            return () if self._has_failed else self._steps.ended(program, self._directory)
        except LearnedError as error:
            self._give_up(error)
            return ()

    def learn(self, signature: StepSignature, profile: Profile) -> None:
        """It has ended, and this is what it was."""
        if self._has_failed:
            return
        self._steps.learn(signature, profile, time.time())
        now = self._clock()
        if now >= self._flush_due:
            self._flush_due = now + FLUSH_SECONDS
            with contextlib.suppress(RuntimeError):  # No thread is to be had: the next time, or at the end.
                self._writer.do(self._flush)

    def close(self) -> None:
        """Write what is left, and let go of the file."""
        self._writer.finish()
        self._flush()
        self._steps.close()

    def _flush(self) -> None:
        try:
            if not self._has_failed:
                self._steps.flush()
        except LearnedError as error:
            self._give_up(error)

    def _give_up(self, error: LearnedError) -> None:
        with self._failing:  # The writer may fail at the same time.
            is_news, self._has_failed = not self._has_failed, True
        if is_news:
            self._failed(error)
