# SPDX-License-Identifier: LGPL-2.1-or-later
"""What `@pytest.mark.vm(...)` asks for: who runs the test, with which swap, for how long."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

USERS = ("root", "tester")
SWAPS = (None, "disk", "zram")


class MarkerError(Exception):
    """A marker that cannot be followed; the message names what is allowed."""


@dataclass(frozen=True, slots=True)
class Request:
    """The arguments of the marker, with their defaults."""

    users: tuple[str, ...] = USERS
    swap: str | None = None
    timeout: float = 120.0
    """Seconds for each of setup, call and teardown. Plain tests need below 1 s; a build under emulation, 30."""

    @classmethod
    def from_marks(cls, nearest_first: Iterable[Mapping[str, Any]]) -> Request:
        """Merge the keyword arguments of all markers on a test: those of the nearest win."""
        merged: dict[str, Any] = {}
        for keywords in nearest_first:
            merged = {**keywords, **merged}
        known = {field.name for field in fields(cls)}
        if unknown := set(merged) - known:
            raise MarkerError(f"mark vm has no {sorted(unknown)}: use {sorted(known)}")
        request = cls(**{**merged, "users": tuple(merged.get("users", USERS))})
        if bad := set(request.users) - set(USERS) or ({request.swap} - set(SWAPS)):
            raise MarkerError(f"mark vm: {bad} is neither a user of {USERS} nor a swap of {SWAPS}: choose one")
        return request

    def order(self, user: str) -> tuple[int, int]:
        """Where the test's group stands in a boot: plain first, so a swap left on cannot disturb it."""
        return SWAPS.index(self.swap), USERS.index(user)
