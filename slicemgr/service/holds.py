# SPDX-License-Identifier: LGPL-2.1-or-later
"""What others have asked for until they leave the bus, in the way of power-profiles-daemon; pure."""

import enum
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from slicemgr.bus.errors import DeniedError, InvalidArgumentError, LimitExceededError, NotFoundError
from slicemgr.model.slice import MachineSpec, SliceKind, SliceSpec

MOST_HOLDS: Final = 32
"""Of one caller. A desktop has one or two."""

LONGEST_REASON: Final = 200
"""Characters: a line for people."""

_LAST_COOKIE: Final = (1 << 32) - 1


class HoldKind(enum.Enum):
    """What can be held; the first is stronger."""

    BUILDS_YIELD = "builds-yield"
    BUILDS_GROW = "builds-grow"


@dataclass(frozen=True, slots=True)
class Hold:
    """One wish, and whose."""

    cookie: int
    what: HoldKind
    reason: str
    application_id: str
    holder: str
    """A unique name on the bus."""
    uid: int


class Holds:
    """All that is held now."""

    def __init__(self) -> None:
        self._holds: dict[int, Hold] = {}
        self._last_cookie = 0

    def all(self) -> tuple[Hold, ...]:
        """The oldest first."""
        return tuple(self._holds.values())

    def add(self, what: str, reason: str, application_id: str, *, holder: str, uid: int) -> Hold:
        """Raises InvalidArgumentError, LimitExceededError."""
        try:
            kind = HoldKind(what)
        except ValueError:
            known = " or ".join(each.value for each in HoldKind)
            raise InvalidArgumentError(f"nothing is called '{what}'; try {known}") from None
        if not reason.strip() or len(reason) > LONGEST_REASON or len(application_id) > LONGEST_REASON:
            raise InvalidArgumentError(f"a reason has 1 to {LONGEST_REASON} characters; try 'Presenting'")
        if sum(hold.holder == holder for hold in self._holds.values()) >= MOST_HOLDS:
            raise LimitExceededError(f"{MOST_HOLDS} holds of one caller; try Release")
        self._last_cookie = self._last_cookie % _LAST_COOKIE + 1
        hold = Hold(self._last_cookie, kind, reason, application_id, holder, uid)
        self._holds[hold.cookie] = hold
        return hold

    def release(self, cookie: int, *, holder: str) -> Hold:
        """Raises NotFoundError; DeniedError for another caller's."""
        hold = self._holds.get(cookie)
        if hold is None:
            raise NotFoundError(f"no hold {cookie}; try the property Holds")
        if hold.holder != holder:
            raise DeniedError(f"hold {cookie} is another caller's; try from the connection that asked for it")
        return self._holds.pop(cookie)

    def left(self, holder: str) -> list[Hold]:
        """The holder has left the bus: what ends with that."""
        ended = [hold for hold in self._holds.values() if hold.holder == holder]
        for hold in ended:
            del self._holds[hold.cookie]
        return ended

    def in_force(self, uid: int | None = None) -> HoldKind | None:
        """What holds now for this user's builds, or everybody's."""
        kinds = {hold.what for hold in self._holds.values() if uid is None or hold.uid == uid}
        return next((kind for kind in HoldKind if kind in kinds), None)


def under(
    kind: HoldKind | None, specs: Iterable[SliceSpec], machine: MachineSpec
) -> tuple[tuple[SliceSpec, ...], MachineSpec]:
    """What the configuration comes to while this is held.

    Builds that yield get the least share of the CPU there is (systemd.resource-control(5)), and keep their memory:
    to take it would cost them steps. Builds that grow get what `auto` keeps for the session.
    """
    match kind:
        case HoldKind.BUILDS_YIELD:
            return tuple(
                replace(each, cpu_weight=1) if each.kind is SliceKind.BUILD else each for each in specs
            ), machine
        case HoldKind.BUILDS_GROW:
            return tuple(specs), replace(machine, session_reserve=0)
        case None:
            return tuple(specs), machine
