# SPDX-License-Identifier: LGPL-2.1-or-later
"""Requests that put processes somewhere, and that stop, pause and resume a job."""

import contextlib
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final

from slicemgr.bus.authority import Caller
from slicemgr.bus.call import Call
from slicemgr.bus.errors import DeniedError, NotSupportedError
from slicemgr.bus.objects import JOB, MANAGER, job_object
from slicemgr.kernel.errors import CgroupGoneError
from slicemgr.kernel.pidfd import HandedProcess, process_behind
from slicemgr.placement.systemd1 import Manager
from slicemgr.policy.limits import high_below
from slicemgr.service import targets
from slicemgr.service.adoption import Adopted, adopt, why_not_to_move
from slicemgr.service.paused import PausedJobs
from slicemgr.service.permits import Permits
from slicemgr.service.published import Moment
from slicemgr.service.request_options import limit_or_none, limits_of, options_of
from slicemgr.service.requests import INTERACTIVE, Answer, Methods, may_interact, only_interactive
from slicemgr.service.worker import Worker

_LIMITS: Final[Mapping[str, str]] = {
    "memory-high": "MemoryHigh",
    "memory-max": "MemoryMax",
    "memory-swap-max": "MemorySwapMax",
}

_OPTIONS: Final[Mapping[str, type]] = {**INTERACTIVE, "name": str, **dict.fromkeys(_LIMITS, int)}


class JobRequests:
    """PlaceProcess, PlaceJob; Stop, Pause, Resume."""

    def __init__(
        self,
        *,
        moment: Callable[[], Moment],
        look: Callable[[], Awaitable[Moment]],
        with_manager: Callable[[Callable[[Manager], Any]], Any],
        permits: Permits,
        paused: PausedJobs,
        worker: Worker,
    ) -> None:
        """`look` publishes anew; `with_manager` calls with a connection to the service manager, in `worker`'s thread.

        Raises nothing; `with_manager` raises NotSupportedError in a dry run.
        """
        self._moment = moment
        self._look = look
        self._with_manager = with_manager
        self._permits = permits
        self._paused = paused
        self._worker = worker

    def methods(self) -> Methods:
        """By (interface, method)."""
        return {
            (MANAGER, "PlaceProcess"): self._place_process,
            (MANAGER, "PlaceJob"): self._place_job,
            (JOB, "Stop"): self._stop,
            (JOB, "Pause"): partial(self._pause, True),
            (JOB, "Resume"): partial(self._pause, False),
        }

    async def _place_process(self, call: Call, caller: Caller) -> Answer:
        index, slice_name, given = call.arguments
        options = options_of(given, {**_OPTIONS, "tree": bool})
        adopted = await self._place(call, caller, index, slice_name, options, tree=options.get("tree", True))
        return adopted.unit, _placed(adopted)

    async def _place_job(self, call: Call, caller: Caller) -> Answer:
        index, given = call.arguments
        options = options_of(given, {**_OPTIONS, "slice": str})
        adopted = await self._place(call, caller, index, options.get("slice", "build.slice"), options, tree=True)
        return job_object(adopted.unit), _placed(adopted)

    async def _place(
        self, call: Call, caller: Caller, index: int, slice_name: str, options: Mapping[str, Any], *, tree: bool
    ) -> Adopted:
        wanted = {_LIMITS[key]: value for key, value in options.items() if key in _LIMITS}
        if wanted:
            limits_of(wanted)
        most = limit_or_none(wanted.get("MemoryMax"))
        if most is not None:
            wanted.setdefault("MemoryHigh", high_below(most))
        target = targets.slice_named(slice_name, self._moment())
        process = process_behind(call.descriptor(index))
        await self._may_place(process, target, caller, interactive=may_interact(options))
        adopted: Adopted = await self._worker.ask(
            lambda: self._with_manager(
                lambda manager: adopt(
                    manager,
                    process,
                    tree=tree,
                    name=options.get("name", ""),
                    slice_unit=target.unit,
                    limits={key: limit_or_none(value) for key, value in wanted.items()},
                    is_user=self._moment().standing.user_uid is not None,
                )
            )
        )
        await self._look()
        return adopted

    async def _may_place(
        self, process: HandedProcess, target: targets.Target, caller: Caller, *, interactive: bool
    ) -> None:
        what = f"can't place process {process.identity.pid} in {target.unit}"
        if why_not := why_not_to_move(process):
            raise DeniedError(f"{what}: {why_not}; try another process")
        if target.uid:
            raise NotSupportedError(f"{what}: it is user {target.uid}'s; try that user's session bus")
        own = self._moment().standing.user_uid
        if own is not None and not process.belongs_to(own):
            raise DeniedError(f"{what}: it is not user {own}'s in every respect; try the system bus")
        # The slice is the manager's own, so root's on the system bus: a process of one's own may not simply go there.
        await self._permits.manage(caller, 0 if own is None else own, what, interactive=interactive)

    async def _stop(self, call: Call, caller: Caller) -> Answer:
        await self.stop(await self._own_job(call, caller, "stop"))
        return ()

    async def stop(self, target: targets.Target) -> None:
        """For whoever may. Raises NotSupportedError in a dry run, and REFUSALS."""
        await self._worker.ask(lambda: self._with_manager(lambda manager: manager.begin_stop(target.unit)))
        if target.cgroup in self._paused.all():
            # Nobody hears a SIGTERM while he is frozen, and systemd does not know that he is.
            with contextlib.suppress(CgroupGoneError):
                await self._worker.ask(partial(self._paused.set, target.cgroup, False))

    async def _pause(self, pause: bool, call: Call, caller: Caller) -> Answer:
        await self.pause(await self._own_job(call, caller, "pause" if pause else "resume"), pause=pause)
        return ()

    async def pause(self, target: targets.Target, *, pause: bool) -> None:
        """Or resume it: for whoever may. Raises REFUSALS."""
        await self._worker.ask(partial(self._paused.set, target.cgroup, pause))
        await self._look()

    async def _own_job(self, call: Call, caller: Caller, deed: str) -> targets.Target:
        target = targets.by_path(call.path, self._moment())
        what = f"can't {deed} {target.unit}"
        interactive = only_interactive(call.arguments[0])
        if self._moment().standing.dry_run:
            raise NotSupportedError(f"{what}: this daemon is a dry run; try without --dry-run")
        if target.uid and deed == "stop":
            raise NotSupportedError(f"{what}: it is user {target.uid}'s; try that user's session bus")
        own = self._moment().standing.user_uid
        await self._permits.manage(caller, target.uid if own is None else own, what, interactive=interactive)
        return target


def _placed(adopted: Adopted) -> dict[str, Any]:
    told: dict[str, Any] = {
        "unit": adopted.unit,
        "control-group": adopted.cgroup,
        "pids": list(adopted.pids),
        "charged-elsewhere": adopted.charged_elsewhere_bytes,
    }
    if adopted.why_not:
        told["not-in-force"] = adopted.why_not
    return told
