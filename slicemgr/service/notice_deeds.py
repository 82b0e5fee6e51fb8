# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a person can do to a job from its notice: the requests of the bus, by the daemon's own user."""

from collections.abc import Awaitable, Callable

from slicemgr.bus.errors import FailedError
from slicemgr.model.notice import NoticeAction
from slicemgr.policy.limits import quarter_more
from slicemgr.service import targets
from slicemgr.service.job_requests import JobRequests
from slicemgr.service.limit_requests import LimitRequests
from slicemgr.service.notifier import Deed
from slicemgr.service.published import Moment


class NoticeDeeds:
    """By the units of jobs. Each raises RequestError and REFUSALS."""

    def __init__(self, look: Callable[[], Awaitable[Moment]], limits: LimitRequests, jobs: JobRequests) -> None:
        """`look`: the limits and jobs of this moment."""
        self._look = look
        self._limits = limits
        self._jobs = jobs

    def by_action(self) -> dict[NoticeAction, Deed]:
        """For a notifier."""
        return {
            NoticeAction.MORE_MEMORY: self._more_memory,
            NoticeAction.STOP: self._stop,
            NoticeAction.RESUME: self._resume,
        }

    async def _more_memory(self, unit: str) -> None:
        moment = await self._look()
        target = targets.job_named(unit, moment)
        usage = None if target.job is None else target.job.usage
        before = (None, None) if usage is None else (usage.high_bytes, usage.max_bytes)
        limits = {
            name: limit
            for name, old, limit in zip(
                ("MemoryHigh", "MemoryMax"), before, quarter_more(*before, moment.machine.total_bytes), strict=True
            )
            if limit is not None and limit != old
        }
        if not limits:
            raise FailedError(f"{unit} may have all of the machine's memory already; try fewer steps at once")
        await self._limits.apply(target, limits)

    async def _stop(self, unit: str) -> None:
        await self._jobs.stop(targets.job_named(unit, await self._look()))

    async def _resume(self, unit: str) -> None:
        await self._jobs.pause(targets.job_named(unit, await self._look()), pause=False)
