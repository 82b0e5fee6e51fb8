# SPDX-License-Identifier: LGPL-2.1-or-later
"""Requests that change nothing: lists from what is published, explanations and the history from the machine."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from slicemgr.bus.authority import Caller
from slicemgr.bus.call import Call
from slicemgr.bus.errors import InvalidArgumentError, NotFoundError, NotManagedError
from slicemgr.bus.objects import JOB, MANAGER, SLICE, Objects, session_object
from slicemgr.bus.server import Read
from slicemgr.kernel.cgroupfs import cgroup_of
from slicemgr.kernel.pidfd import process_behind
from slicemgr.kernel.procfs import PAGE_BYTES
from slicemgr.model.cgroup import owner_of
from slicemgr.model.process import ProcessSample
from slicemgr.policy.badness import held_pages
from slicemgr.policy.victim import Candidate
from slicemgr.service import targets
from slicemgr.service.action_details import details_of
from slicemgr.service.explanation import Explanation, pid_in
from slicemgr.service.history import History
from slicemgr.service.overview import UnknownTargetError
from slicemgr.service.permits import Permits
from slicemgr.service.published import Moment
from slicemgr.service.record import Record
from slicemgr.service.request_options import options_of
from slicemgr.service.requests import INTERACTIVE, Answer, Methods, may_interact, only_interactive
from slicemgr.service.worker import Worker

MOST_ACTIONS: Final = 1000
"""In one answer: 2 MB of records."""

_USEC: Final = 1_000_000


def reads(moment: Callable[[], Moment]) -> Mapping[tuple[str, str], Read]:
    """What the server's thread answers by itself; `moment` is what was published last, and never changes."""

    def listed(kind: str) -> Read:
        def answer(_objects: Objects, call: Call) -> Answer:
            options_of(call.arguments[0], {})
            now = moment()
            if kind == "sessions":
                return ([(each.id, session_object(each.id)) for each in now.sessions],)
            wanted = [each for each in targets.targets(now) if (each.job is None) == (kind == "slices")]
            return ([(each.unit, each.path) for each in wanted],)

        return answer

    def named(find: Callable[[str, Moment], targets.Target]) -> Read:
        def answer(_objects: Objects, call: Call) -> Answer:
            name, options = call.arguments
            options_of(options, {})
            return (find(name, moment()).path,)

        return answer

    def session(_objects: Objects, call: Call) -> Answer:
        identifier, options = call.arguments
        options_of(options, {})
        if all(each.id != identifier for each in moment().sessions):
            raise NotFoundError(f"no session '{identifier}'; try ListSessions")
        return (session_object(identifier),)

    return {
        (MANAGER, "ListSlices"): listed("slices"),
        (MANAGER, "ListJobs"): listed("jobs"),
        (MANAGER, "ListSessions"): listed("sessions"),
        (MANAGER, "GetSlice"): named(targets.slice_named),
        (MANAGER, "GetJob"): named(targets.job_named),
        (MANAGER, "GetSession"): session,
    }


class ReadRequests:
    """Explain, ListActions, GetJobByPIDFd."""

    def __init__(
        self,
        *,
        moment: Callable[[], Moment],
        explain: Callable[[str], Explanation],
        history: History,
        permits: Permits,
        worker: Worker,
    ) -> None:
        """`explain` judges a cgroup, in `worker`'s thread."""
        self._moment = moment
        self._explain = explain
        self._history = history
        self._permits = permits
        self._worker = worker

    def methods(self) -> Methods:
        """By (interface, method)."""
        return {
            (MANAGER, "Explain"): self._explain_target,
            (SLICE, "Explain"): self._explain_object,
            (JOB, "Explain"): self._explain_object,
            (MANAGER, "ListActions"): self._list_actions,
            (MANAGER, "GetJobByPIDFd"): self._job_by_pidfd,
        }

    async def _explain_target(self, call: Call, caller: Caller) -> Answer:
        name, options = call.arguments
        try:
            pid = pid_in(name)
        except UnknownTargetError as error:
            raise NotFoundError(f"no process {name}; try a smaller number") from error
        cgroup = targets.unit_named(name, self._moment()).cgroup if pid is None else self._managed(cgroup_of(pid))
        return await self._told(cgroup, options, caller)

    async def _explain_object(self, call: Call, caller: Caller) -> Answer:
        return await self._told(targets.by_path(call.path, self._moment()).cgroup, call.arguments[0], caller)

    def _managed(self, cgroup: str) -> str:
        """The job that a cgroup is in, else its slice. Raises NotManagedError."""
        around = targets.around(cgroup, self._moment())
        if around is None:
            raise NotManagedError(f"{cgroup} is in no managed slice: slicemgr never touches it; try ListSlices")
        return around.cgroup

    async def _told(self, cgroup: str, options: Mapping[str, Any], caller: Caller) -> Answer:
        interactive = only_interactive(options)
        await self._permits.inspect(caller, owner_of(cgroup), f"can't explain {cgroup}", interactive=interactive)
        return (explanation_details(await self._worker.ask(partial(self._explain, cgroup))),)

    async def _list_actions(self, call: Call, caller: Caller) -> Answer:
        since_usec, limit, given = call.arguments
        options = options_of(given, {**INTERACTIVE, "all-users": bool})
        if limit > MOST_ACTIONS:
            raise InvalidArgumentError(f"at most {MOST_ACTIONS} actions in one answer; try a later time")
        uid: int | None = None if caller.uid == 0 else caller.uid
        if options.get("all-users"):
            await self._permits.inspect(caller, 0, "can't list all actions", interactive=may_interact(options))
            uid = None

        def wanted(record: Record) -> bool:
            return uid is None or self._moment().standing.user_uid is not None or _owner(record) == uid

        past = await self._worker.ask(
            lambda: self._history.read(
                limit=limit or MOST_ACTIONS, since_wall_seconds=since_usec / _USEC, wanted=wanted
            )
        )
        return ([details_of(record) for record in past.records],)

    async def _job_by_pidfd(self, call: Call, caller: Caller) -> Answer:
        index, options = call.arguments
        options_of(options, {})
        return (targets.job_around(process_behind(call.descriptor(index)).cgroup, self._moment()).path,)


def explanation_details(told: Explanation) -> dict[str, Any]:
    """As org.slicemgr1.Manager.Explain tells it."""
    ranking = told.ranking
    victim = {} if ranking.victim is None else _candidate(ranking.victim)
    if victim:
        victim["command-line"] = list(told.victim_command_line)
    return {
        "control-group": told.path,
        "rule": told.rule.value,
        "limit": told.limit_bytes,
        "limit-of": told.limit_path or "",
        "limit-file": told.limit_file,
        "memory-current": told.usage.current_bytes or 0,
        "victim": victim,
        "instead-of": {} if ranking.for_parent is None else _candidate(ranking.for_parent),
        "runners-up": [_candidate(each) for each in ranking.next_ones],
        "spared": [{**_process(process), "why": why.value} for process, why in ranking.spared],
    }


def _candidate(candidate: Candidate) -> dict[str, Any]:
    return {
        **_process(candidate.process),
        "held": held_pages(candidate.process) * PAGE_BYTES,
        "points": candidate.points,
    }


def _process(process: ProcessSample) -> dict[str, Any]:
    return {"pid": process.pid, "name": process.name}


def _owner(record: Record) -> int:
    return owner_of(getattr(record.report, "victim_cgroup", "") or getattr(record.report, "cgroup", ""))
