# SPDX-License-Identifier: LGPL-2.1-or-later
"""Requests about sessions: RegisterSession, Protect, Unregister."""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final

from slicemgr.bus.authority import Caller
from slicemgr.bus.call import Call
from slicemgr.bus.errors import DeniedError, NotSupportedError
from slicemgr.bus.objects import MANAGER, SESSION, session_object
from slicemgr.kernel.pidfd import HandedProcess, process_behind
from slicemgr.model.cgroup import is_below
from slicemgr.placement.systemd1 import Manager
from slicemgr.service.adoption import Adopted, adopt_session, why_not_to_move
from slicemgr.service.overview import user_root
from slicemgr.service.permits import Permits
from slicemgr.service.published import Moment
from slicemgr.service.request_options import options_of
from slicemgr.service.requests import INTERACTIVE, Answer, Methods, may_interact, only_interactive
from slicemgr.service.session_registry import SessionRegistry
from slicemgr.service.sessions import SESSION_SLICE, session_id, session_unit
from slicemgr.service.worker import Worker

_OPTIONS: Final[Mapping[str, type]] = {
    **INTERACTIVE,
    "id": str,
    "desktop": str,
    "type": str,
    "user": int,
    "place": bool,
}


class SessionRequests:
    """Of one daemon."""

    def __init__(
        self,
        *,
        registry: SessionRegistry,
        moment: Callable[[], Moment],
        look: Callable[[], Awaitable[Moment]],
        with_manager: Callable[[Callable[[Manager], Any]], Any],
        permits: Permits,
        worker: Worker,
    ) -> None:
        """`look` publishes anew; `with_manager` connects to the service manager, in `worker`'s thread."""
        self._registry = registry
        self._moment = moment
        self._look = look
        self._with_manager = with_manager
        self._permits = permits
        self._worker = worker

    def methods(self) -> Methods:
        """By (interface, method)."""
        return {
            (MANAGER, "RegisterSession"): self._register,
            (SESSION, "Protect"): self._protect,
            (SESSION, "Unregister"): self._unregister,
        }

    async def _register(self, call: Call, caller: Caller) -> Answer:
        index, given = call.arguments
        options = options_of(given, _OPTIONS)
        pidfd = call.descriptor(index)
        process = process_behind(pidfd)
        what = f"can't register process {process.identity.pid}"
        if why_not := why_not_to_move(process):
            raise DeniedError(f"{what}: {why_not}; try the session's leader")
        uid = self._owner(process, options, caller, what)
        await self._permits.manage(caller, uid, what, interactive=may_interact(options))
        is_to_be_placed = self._is_to_be_placed(process, options, what)
        identifier = session_id(options.get("id", ""), process.identity.pid)
        is_new = not self._registry.is_known(identifier)
        session = self._registry.register(
            process,
            pidfd,
            identifier=identifier,
            uid=uid,
            kind=options.get("type", ""),
            desktop=options.get("desktop", ""),
        )
        if is_to_be_placed and session.id == identifier:
            try:
                adopted = await self._worker.ask(partial(self._place, process, identifier))
            except BaseException:
                if is_new and self._registry.is_known(identifier):
                    self._registry.unregister(identifier)
                raise
            self._registry.put_into(identifier, adopted.cgroup)
        await self._look()
        return (session_object(session.id),)

    def _owner(self, process: HandedProcess, options: Mapping[str, Any], caller: Caller, what: str) -> int:
        """Whose session it is. Raises DeniedError."""
        own = self._moment().standing.user_uid
        if own is not None:
            if not process.belongs_to(own):
                raise DeniedError(
                    f"{what}: it is not user {own}'s in every respect; try a process of the session's own"
                )
            return own
        if "user" in options and caller.uid == 0:
            # A login program is root's, and its session a user's.
            return int(options["user"])
        if not process.belongs_to(caller.uid):
            raise DeniedError(f"{what}: it is not user {caller.uid}'s in every respect; try as root")
        return caller.uid

    def _is_to_be_placed(self, process: HandedProcess, options: Mapping[str, Any], what: str) -> bool:
        """One that the user's manager runs stays where it is. Raises NotSupportedError: nobody here could."""
        own, wanted = self._moment().standing.user_uid, options.get("place")
        if own is None:
            if wanted:
                raise NotSupportedError(f"{what} in a user's {SESSION_SLICE}; try that user's session bus")
            return False
        return wanted is not False and not is_below(process.cgroup, user_root(own))

    def _place(self, process: HandedProcess, identifier: str) -> Adopted:
        """In the worker's thread."""
        adopted: Adopted = self._with_manager(partial(adopt_session, process=process, unit=session_unit(identifier)))
        return adopted

    async def _protect(self, call: Call, caller: Caller) -> Answer:
        indices, given = call.arguments
        interactive = only_interactive(given)
        session = self._registry.at(call.path)
        what = f"can't protect processes of session {session.id}"
        await self._permits.manage(caller, session.uid, what, interactive=interactive)
        processes = [process_behind(call.descriptor(index)) for index in indices]
        for each in processes:
            if not each.belongs_to(session.uid):
                raise DeniedError(f"{what}: process {each.identity.pid} is not its user's; try others")
        self._registry.protect(session.id, [each.identity for each in processes])
        await self._look()
        return ()

    async def _unregister(self, call: Call, caller: Caller) -> Answer:
        interactive = only_interactive(call.arguments[0])
        session = self._registry.at(call.path)
        what = f"can't unregister session {session.id}"
        await self._permits.manage(caller, session.uid, what, interactive=interactive)
        self._registry.unregister(session.id)
        await self._look()
        return ()
