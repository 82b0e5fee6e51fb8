# SPDX-License-Identifier: LGPL-2.1-or-later
"""org.freedesktop.login1: the sessions that there are, new ones, those that have gone, and which is in front.

org.freedesktop.login1(5). logind tells of a session when it is there, and has no more to say of its processes than the
leader and the scope: that is what the registry of sessions goes by (service/session_registry.py).
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from slicemgr.bus.client import BUS, BusClient
from slicemgr.bus.errors import NO_REPLY, RemoteError

LOGIN1: Final = "org.freedesktop.login1"
PATH: Final = "/org/freedesktop/login1"
MANAGER: Final = "org.freedesktop.login1.Manager"
SESSION: Final = "org.freedesktop.login1.Session"
_PROPERTIES: Final = "org.freedesktop.DBus.Properties"

AGAIN_SECONDS: Final = 1.0
"""After an answer that has not come in time."""

_OF_INTEREST: Final = frozenset({"Active", "State", "Type", "Class", "Desktop", "Leader", "Scope"})
"""IdleHint and LockedHint change all day long."""


@dataclass(frozen=True, slots=True)
class LoginSession:
    """One session, by the names of its properties."""

    id: str
    uid: int
    leader_pid: int
    """Who has opened it: login, sshd, gdm-session-worker; mostly root's."""
    scope: str
    """`session-2.scope`; empty before it is made."""
    type: str
    """x11, wayland, tty, mir, unspecified."""
    kind: str
    """login1's Class: user, greeter, lock-screen, background, manager."""
    desktop: str
    is_active: bool
    """It is in front of its seat. A session without a seat (ssh) always is."""


class Login1:
    """Those of one machine. Belongs to the loop's thread; `client` is on the system bus, and somebody else's."""

    def __init__(self, client: BusClient, changed: Callable[[], object]) -> None:
        """`changed` is called whenever `sessions` is another mapping."""
        self._client = client
        self._changed = changed
        self._wake = asyncio.Event()
        self._is_all_wanted = False
        self._wanted: set[str] = set()
        self._there: set[str] = set()
        """Paths of sessions that have not been removed since."""
        self._known: dict[str, LoginSession] = {}
        """By path."""
        self.sessions: Mapping[str, LoginSession] = {}
        """By id; never changed, but another one when something has."""

    def subscribe(self) -> None:
        """For all connections of the client: once, before it is started."""
        self._client.subscribe(LOGIN1, MANAGER, "SessionNew", lambda _path, told: self._new(told[1]))
        self._client.subscribe(LOGIN1, MANAGER, "SessionRemoved", lambda _path, told: self._removed(told[1]))
        self._client.subscribe(LOGIN1, _PROPERTIES, "PropertiesChanged", self._property_changed, arg0=SESSION)
        self._client.subscribe(BUS, BUS, "NameOwnerChanged", lambda _path, _told: self.look_again(), arg0=LOGIN1)

    def look_again(self) -> None:
        """There is another bus, or another logind: what was known is stale."""
        self._is_all_wanted = True
        self._wake.set()

    async def follow(self) -> None:
        """For as long as somebody wants to know. Without login1 there are no sessions."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if not await self._read():
                await asyncio.sleep(AGAIN_SECONDS)
                self._wake.set()

    async def _read(self) -> bool:
        """False: logind has not answered in time, as on a machine that stands still; what was known holds."""
        if self._is_all_wanted:
            self._is_all_wanted = False
            try:
                self._there = await self._list()
            except RemoteError:
                self._is_all_wanted = True
                return False
            self._wanted |= self._there
            self._known = {path: each for path, each in self._known.items() if path in self._there}
        late: set[str] = set()
        while self._wanted:
            path = self._wanted.pop()
            try:
                found = await self._session(path)
            except RemoteError:
                late.add(path)
                continue
            # It may have been removed while we waited.
            if found is not None and path in self._there:
                self._known[path] = found
            else:
                self._known.pop(path, None)
        self._publish()
        self._wanted |= late
        return not late

    async def _list(self) -> set[str]:
        try:
            (rows,) = await self._client.call(LOGIN1, PATH, MANAGER, "ListSessions")
        except RemoteError as error:
            _raise_if_late(error)
            return set()
        return {row[4] for row in rows}

    async def _session(self, path: str) -> LoginSession | None:
        try:
            (told,) = await self._client.call(LOGIN1, path, _PROPERTIES, "GetAll", "(s)", (SESSION,))
            return _session(told)
        except RemoteError as error:
            _raise_if_late(error)
            return None
        except KeyError:
            return None

    def _new(self, path: str) -> None:
        self._there.add(path)
        self._wanted.add(path)
        self._wake.set()

    def _removed(self, path: str) -> None:
        self._there.discard(path)
        if self._known.pop(path, None) is not None:
            self._publish()

    def _property_changed(self, path: str, told: tuple[Any, ...]) -> None:
        _, changed, invalidated = told
        if path in self._there and _OF_INTEREST & {*changed, *invalidated}:
            self._wanted.add(path)
            self._wake.set()

    def _publish(self) -> None:
        sessions = {each.id: each for each in self._known.values()}
        if sessions != self.sessions:
            self.sessions = sessions
            self._changed()


def _raise_if_late(error: RemoteError) -> None:
    """All else is an answer: no such session, nobody there; of a bus that comes back `look_again` is told."""
    if error.name == NO_REPLY:
        raise error


def _session(told: Mapping[str, Any]) -> LoginSession:
    """Raises KeyError: this is no session."""
    return LoginSession(
        id=told["Id"],
        uid=told["User"][0],
        leader_pid=told["Leader"],
        scope=told.get("Scope", ""),
        type=told.get("Type", ""),
        kind=told.get("Class", ""),
        desktop=told.get("Desktop", ""),
        # One that is closing is in front of nobody.
        is_active=told["Active"] and told.get("State") != "closing",
    )
