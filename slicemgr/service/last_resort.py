# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is done when not even one step fits beside what the waiting ones hold: borrow, push out, and only then kill.

First what the configuration lets a build take from the session's reserve; then swap, where there is some: what waits is
cold, so the kernel finds it first (memory.reclaim, since 5.19; it works on the whole cgroup, because to name pages of
one process takes CAP_SYS_NICE, process_madvise(2)). Then those with the least work lost end, and come again alone
where a launcher stands before them. Who does not fit even alone ends, and is told of; that one is not tried again.
"""

import contextlib
import select
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from slicemgr.kernel import procfs
from slicemgr.kernel.errors import KernelError
from slicemgr.kernel.hold import HeldProcess
from slicemgr.model.decision import Evidence, Resource
from slicemgr.model.decision import Shortage as LimitShortage
from slicemgr.model.process import ProcessIdentity, ProcessSample
from slicemgr.model.step import StepState
from slicemgr.policy.badness import BadnessScale, badness
from slicemgr.policy.last_resort import least_work_lost
from slicemgr.service.live_step import LiveStep
from slicemgr.service.pacer import Shortage
from slicemgr.service.report import KillOutcome, KillReport, Report
from slicemgr.service.worker import Worker

LEAST_PUSHED_BYTES: Final = 4 << 20
"""Less than this is no help: the swap is full, or nothing cold is left."""

EXIT_SECONDS: Final = 2.0
"""A killed process of 400 MB is gone in 0.17 s."""


class LastResort:
    """Of one job. Only the pacer's thread calls."""

    def __init__(
        self,
        *,
        borrow: Callable[[], int],
        reclaim: Callable[[int], object] | None,
        free_swap: Callable[[], int],
        ancestors_of: Callable[[int], Sequence[int]],
        mark_killed: Callable[[Sequence[int]], None],
        report: Callable[[Report], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`borrow` raises the job's limit as far as the configuration lets it, once, and says by how many bytes.

        `reclaim` pushes so many bytes out of the job; it is called in a thread, may take seconds, be still at it when
        the job is over, and raise KernelError or OSError. None: there is no cgroup to push out of. `mark_killed` is
        told the ancestors of who is about to be killed, for the launcher.
        """
        self._borrow = borrow
        self._reclaim = reclaim
        self._free_swap = free_swap
        self._ancestors_of = ancestors_of
        self._mark_killed = mark_killed
        self._report = report
        self._clock = clock
        self._pusher = Worker("reclaim")
        self._is_pushing = False
        self._last_free_swap: int | None = None
        self._has_borrowed = False
        self._killed: set[ProcessIdentity] = set()
        """Who has not ended by it yet frees nothing: then somebody else has to."""

    def __call__(self, shortage: Shortage) -> None:
        """One thing at a time; the pacer looks what has come of it before it asks again.

        What may be borrowed is at once, before the guard, whose patience is as long as the pacer's, finds a stall.
        """
        if self._is_pushing:
            return
        if not self._has_borrowed and (shortage.is_sure or not shortage.budget.is_shared):
            self._has_borrowed = True
            if self._borrow():
                return
        if not shortage.is_sure:
            return
        if not self._push_out(shortage.short_bytes):
            self._end(shortage)

    def _push_out(self, short_bytes: int) -> bool:
        """False: there is nowhere to push to, or the last time brought nothing."""
        free = self._free_swap()
        brought_nothing = self._last_free_swap is not None and self._last_free_swap - free < LEAST_PUSHED_BYTES
        if self._reclaim is None or free < LEAST_PUSHED_BYTES or brought_nothing:
            self._last_free_swap = None
            return False
        self._last_free_swap = free
        self._is_pushing = True
        reclaim, amount = self._reclaim, max(short_bytes, LEAST_PUSHED_BYTES)

        def push() -> None:
            try:
                reclaim(amount)
            except (KernelError, OSError):
                pass  # An older kernel: the next question finds that nothing has come of it.
            finally:
                self._is_pushing = False

        try:
            self._pusher.do(push)
        except RuntimeError:  # No thread is to be had.
            self._is_pushing = False
            return False
        return True

    def _end(self, shortage: Shortage) -> None:
        now = self._clock()
        steps = {step.order: step for step in shortage.steps.values() if step.identity not in self._killed}
        only_running = [step.order for step in steps.values() if step.state is StepState.RUNNING]
        orders = least_work_lost([step.as_step(now) for step in steps.values()], shortage.short_bytes)
        for order in orders:
            step = steps[order]
            is_too_big = list(orders) == [order] == only_running
            self._kill(step, shortage, steps, is_too_big=is_too_big, now_seconds=now)

    def _kill(
        self,
        step: LiveStep,
        shortage: Shortage,
        steps: Mapping[int, LiveStep],
        *,
        is_too_big: bool,
        now_seconds: float,
    ) -> None:
        pid = step.identity.pid
        try:
            sample = procfs.sample_process(pid)
            if not sample.has_memory:
                return  # It has just ended by itself.
            step.process.check()  # So it was its own sample.
            if not is_too_big:
                with contextlib.suppress(OSError):  # A full file system: then it does not come again.
                    self._mark_killed(self._ancestors_of(pid))
            step.process.kill()
        except (KernelError, OSError):
            return  # It has ended, or is none of ours; the next question finds another one.
        step.is_whole = False
        self._killed.add(step.identity)
        has_exited = _wait_for_exit(step.process)
        others = [each for each in steps.values() if each is not step]
        self._report(
            KillReport(
                at_seconds=now_seconds,
                victim=sample,
                command_line=step.command_line,
                held_bytes=step.held_bytes,
                points=badness(sample, BadnessScale(max(1, shortage.budget.budget_bytes // procfs.PAGE_BYTES))),
                for_parent=None,
                shortage=LimitShortage(
                    Resource.MEMORY,
                    shortage.budget.used_bytes,
                    shortage.budget.budget_bytes,
                    Evidence.ALONE if is_too_big else Evidence.NO_STEP_FITS,
                ),
                runners_up=tuple(_others(others)),
                outcome=KillOutcome.EXITED if has_exited else KillOutcome.STILL_THERE,
                seconds_to_exit=self._clock() - now_seconds,
                usage_after_bytes=max(0, shortage.budget.used_bytes - step.held_bytes),
                was_alone=is_too_big,
                cgroup=step.process.cgroup,
                victim_cgroup=step.process.cgroup,
            )
        )


def _others(steps: Sequence[LiveStep]) -> list[tuple[ProcessSample, int]]:
    """The biggest of them, for the report."""
    found: list[tuple[ProcessSample, int]] = []
    for step in sorted(steps, key=lambda each: -each.held_bytes)[:3]:
        try:
            found.append((procfs.sample_process(step.identity.pid), step.held_bytes))
        except KernelError:
            continue
    return found


def _wait_for_exit(process: HeldProcess) -> bool:
    poll = select.poll()
    poll.register(process.fileno(), select.POLLIN)
    return bool(poll.poll(EXIT_SECONDS * 1000))
