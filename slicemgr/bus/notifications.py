# SPDX-License-Identifier: LGPL-2.1-or-later
"""The desktop's notices, on a session bus: org.freedesktop.Notifications (Desktop Notifications Specification).

Whoever has that name is an ordinary program of the person's: it may be missing, slow, replaced by another, or answer
anything. Nothing of that is an error of ours, and what it sends is compared with what it may send.
"""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, Final

from slicemgr.bus.client import BUS, BusClient
from slicemgr.bus.errors import RemoteError
from slicemgr.bus.values import byte
from slicemgr.model.notice import Bubble, Urgency

NAME: Final = "org.freedesktop.Notifications"
PATH: Final = "/org/freedesktop/Notifications"

SECONDS: Final = 2.0
"""For an answer: dunst and GNOME need 2 to 20 ms; a bubble that comes later is none to wait for."""

ACTIONS: Final = "actions"
BODY_MARKUP: Final = "body-markup"

_UNKNOWN: Final = frozenset({BODY_MARKUP})
"""What a server can that does not say: one that shows markup as text shows `&amp;`, one that reads it shows `&`."""

_NO_REPLY: Final = "org.freedesktop.DBus.Error.NoReply"
_BY_PERSON: Final = 2
"""NotificationClosed's reason: dismissed by the user. 1 is expired, 3 is CloseNotification."""

_ICONS: Final[Mapping[Urgency, str]] = {
    Urgency.LOW: "dialog-information",
    Urgency.NORMAL: "dialog-warning",
    Urgency.CRITICAL: "dialog-error",
}
"""Of the Icon Naming Specification, so that every theme has them."""


class Notifications:
    """Whoever shows notices on this bus. Belongs to the loop's thread."""

    def __init__(
        self,
        client: BusClient,
        *,
        invoked: Callable[[int, str], object],
        closed: Callable[[int, bool], object],
        changed: Callable[[], object],
    ) -> None:
        """`invoked`: a bubble's number, and the key of what was pressed. `closed`: its number, whether by the person.

        Both are of any program's bubbles. `changed`: there is another server, or none, and all bubbles are gone.
        """
        self._client = client
        self._invoked = invoked
        self._closed = closed
        self._changed = changed
        self._capabilities: frozenset[str] | None = None
        self._servers = 0

    def begin(self) -> None:
        """Hear of it, for as long as the client lives."""
        self._client.subscribe(NAME, NAME, "ActionInvoked", self._heard_invoked, path=PATH)
        self._client.subscribe(NAME, NAME, "NotificationClosed", self._heard_closed, path=PATH)
        self._client.subscribe(BUS, BUS, "NameOwnerChanged", lambda _path, _names: self.forget(), arg0=NAME)

    def forget(self) -> None:
        """It is another server, or another bus."""
        self._capabilities = None
        self._servers += 1
        self._changed()

    async def show(self, bubble: Bubble, *, replaces: int = 0) -> int:
        """Show it, in the place of another and without a sound if `replaces` is not 0; its number.

        0 if it is not told in time: it may still be shown. Raises RemoteError if there is nobody to show it.
        """
        capabilities = await self._known_capabilities()
        hints: dict[str, Any] = {
            "urgency": byte(bubble.urgency.value),
            "category": "device",
            "desktop-entry": "slicemgr",
            "transient": bubble.is_transient,
            "suppress-sound": replaces != 0,
        }
        actions = [text for action, label in bubble.actions for text in (action.value, label)]
        arguments = (
            "slicemgr", replaces, _ICONS[bubble.urgency], bubble.summary,
            bubble.markup if BODY_MARKUP in capabilities else bubble.body,
            actions if ACTIONS in capabilities else [], hints, -1,
        )  # fmt: skip
        try:
            answer = await self._call("Notify", "(susssasa{sv}i)", arguments)
        except RemoteError as error:
            if error.name == _NO_REPLY:
                return 0
            raise
        match answer:
            case (int(number),) if not isinstance(number, bool) and 0 <= number < 1 << 32:
                return number
            case _:
                return 0

    async def withdraw(self, number: int) -> None:
        """Take a bubble away; one that is gone is fine."""
        with contextlib.suppress(RemoteError):
            await self._call("CloseNotification", "(u)", (number,))

    async def _known_capabilities(self) -> frozenset[str]:
        """Asked once of each server."""
        if self._capabilities is not None:
            return self._capabilities
        asked = self._servers
        try:
            answer = await self._call("GetCapabilities")
        except RemoteError:
            return _UNKNOWN
        match answer:
            case ([*words],):
                capabilities = frozenset(each for each in words if isinstance(each, str))
            case _:
                capabilities = _UNKNOWN
        if asked == self._servers:
            self._capabilities = capabilities
        return capabilities

    async def _call(self, method: str, signature: str = "()", arguments: tuple[Any, ...] = ()) -> tuple[Any, ...]:
        return await self._client.call(NAME, PATH, NAME, method, signature, arguments, seconds=SECONDS)

    def _heard_invoked(self, _path: str, arguments: tuple[Any, ...]) -> None:
        match arguments:
            case (int(number), str(key)):
                self._invoked(number, key)

    def _heard_closed(self, _path: str, arguments: tuple[Any, ...]) -> None:
        match arguments:
            case (int(number), int(reason)):
                self._closed(number, reason == _BY_PERSON)
