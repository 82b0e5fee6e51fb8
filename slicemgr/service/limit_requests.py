# SPDX-License-Identifier: LGPL-2.1-or-later
"""Requests that change what slices and jobs may use: limits, holds, and the configuration read again."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from slicemgr.bus.authority import Caller
from slicemgr.bus.call import Call
from slicemgr.bus.errors import DeniedError, FailedError, NotSupportedError
from slicemgr.bus.objects import JOB, MANAGER, NO_LIMIT, SLICE
from slicemgr.model.slice import SliceKind
from slicemgr.placement.systemd1 import Manager
from slicemgr.policy.limits import following_high
from slicemgr.service import targets
from slicemgr.service.holds import Hold, Holds
from slicemgr.service.permits import Permits
from slicemgr.service.published import Moment
from slicemgr.service.request_options import limit_or_none, limits_of
from slicemgr.service.requests import Answer, Methods, only_interactive
from slicemgr.service.worker import Worker


class LimitRequests:
    """SetLimits; Hold, Release; Reload."""

    def __init__(
        self,
        *,
        moment: Callable[[], Moment],
        with_manager: Callable[[Callable[[Manager], Any]], Any],
        limits_changed: Callable[[targets.Target, Mapping[str, int]], Awaitable[None]],
        holds: Holds,
        holds_changed: Callable[[], Awaitable[None]],
        released: Callable[[Hold], object],
        is_here: Callable[[Caller], Awaitable[bool]],
        reload: Callable[[], Awaitable[str]],
        permits: Permits,
        worker: Worker,
    ) -> None:
        """`is_here`: whether a caller's end is yet to be told to `left`; `reload` answers why the old configuration was
        kept, or nothing."""
        self._moment = moment
        self._with_manager = with_manager
        self._limits_changed = limits_changed
        self._holds = holds
        self._holds_changed = holds_changed
        self._released = released
        self._is_here = is_here
        self._reload = reload
        self._permits = permits
        self._worker = worker

    def methods(self) -> Methods:
        """By (interface, method)."""
        return {
            (MANAGER, "SetLimits"): self._set_limits_of_unit,
            (SLICE, "SetLimits"): self._set_limits_of_object,
            (JOB, "SetLimits"): self._set_limits_of_object,
            (MANAGER, "Hold"): self._hold,
            (MANAGER, "Release"): self._release,
            (MANAGER, "Reload"): self._read_again,
        }

    async def _set_limits_of_unit(self, call: Call, caller: Caller) -> Answer:
        unit, limits, options = call.arguments
        return await self._set_limits(targets.unit_named(unit, self._moment()), limits, options, caller)

    async def _set_limits_of_object(self, call: Call, caller: Caller) -> Answer:
        limits, options = call.arguments
        return await self._set_limits(targets.by_path(call.path, self._moment()), limits, options, caller)

    async def _set_limits(
        self, target: targets.Target, given: Mapping[str, Any], options: Mapping[str, Any], caller: Caller
    ) -> Answer:
        limits, interactive = limits_of(given), only_interactive(options)
        what = f"can't set limits of {target.unit}"
        if target.uid:
            raise NotSupportedError(f"{what}: it is user {target.uid}'s; try that user's session bus")
        await self._permits.manage(caller, self._own_uid(), what, interactive=interactive)
        await self.apply(target, _with_high(limits, target))
        return ()

    async def apply(self, target: targets.Target, limits: Mapping[str, int]) -> None:
        """Set them, and tell of it: for whoever may. Raises NotSupportedError in a dry run, and REFUSALS."""
        await self._worker.ask(
            lambda: self._with_manager(lambda manager: manager.set_unit_properties(target.unit, limits))
        )
        await self._limits_changed(target, limits)

    async def _hold(self, call: Call, caller: Caller) -> Answer:
        what, reason, application_id, options = call.arguments
        interactive = only_interactive(options)
        await self._permits.manage(caller, self._own_uid(), f"can't hold {what}", interactive=interactive)
        hold = self._holds.add(what, reason, application_id, holder=caller.name, uid=caller.uid)
        if not await self._is_here(caller):
            # They left before there was a hold to end.
            await self.left(caller.name)
            raise DeniedError(f"can't hold {what}: the caller has left the bus; try again")
        await self._holds_changed()
        return (hold.cookie,)

    async def _release(self, call: Call, caller: Caller) -> Answer:
        hold = self._holds.release(call.arguments[0], holder=caller.name)
        await self._holds_changed()
        self._released(hold)
        return ()

    async def left(self, sender: str) -> None:
        """Somebody has left the bus: what they held is no more."""
        if self._holds.left(sender):
            await self._holds_changed()

    async def _read_again(self, call: Call, caller: Caller) -> Answer:
        interactive = only_interactive(call.arguments[0])
        await self._permits.manage(caller, self._own_uid(), "can't reload", interactive=interactive)
        why_not = await self._reload()
        if why_not:
            raise FailedError(f"kept the old configuration: {why_not}")
        return ()

    def _own_uid(self) -> int:
        return self._moment().standing.user_uid or 0


def _with_high(limits: Mapping[str, int], target: targets.Target) -> Mapping[str, int]:
    """And the memory.high that goes with a new memory.max."""
    if "MemoryMax" not in limits or "MemoryHigh" in limits:
        return limits
    usage = target.slice.usage if target.job is None else target.job.usage
    high, highest = (None, None) if usage is None else (usage.high_bytes, usage.max_bytes)
    has_own_high = target.job is not None or target.slice.kind is SliceKind.BUILD
    follows = following_high(limit_or_none(limits["MemoryMax"]), high, highest, has_own_high=has_own_high)
    if follows is None:
        return limits
    return {**limits, "MemoryHigh": NO_LIMIT if follows[0] is None else follows[0]}
