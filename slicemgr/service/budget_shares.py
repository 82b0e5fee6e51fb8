# SPDX-License-Identifier: LGPL-2.1-or-later
"""How much each of the builds in a slice may hold, as the daemon tells them through the control socket.

They say what they want; what they hold is read here, from their cgroups: a client may be anybody, and by saying that it
holds everything it would take the share of all others. By what it says it gets a waiting build's fair share at most.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Generic, TypeVar

from slicemgr.kernel.cgroupfs import MOUNT
from slicemgr.kernel.errors import KernelError
from slicemgr.model.cgroup import owner_of
from slicemgr.policy.sharing import Demand, shares
from slicemgr.service.slice_room import SliceRoom, is_job

STALE_SECONDS: Final = 6.0
"""After which a need that nobody has repeated counts no more: three times NEED_AGAIN_SECONDS (daemon_link.py). Who was
stopped with ^Z has what he holds, and the others have the rest."""

NEWS_SHARE: Final = 100
"""A hundredth more or less is told."""

MOST_JOBS: Final = 64
"""Of one user's that get a share; those that come later see by themselves what is left. Anybody may name cgroups, and
each of them is looked at."""

LONGEST_LINE: Final = 80
"""Bytes: `need` and three numbers of at most 20 digits."""

_MOST: Final = 1 << 62

_Client = TypeVar("_Client")


class NeedLines:
    """`need HELD WANTED WAITING` lines, cut out of what one client sends; what is none is dropped."""

    def __init__(self) -> None:
        self._begun = b""
        self._is_dropping = False

    def last_in(self, piece: bytes) -> Demand | None:
        """The newest need that this piece completes: older ones are no news any more."""
        *lines, begun = piece.split(b"\n")
        if lines:
            lines[0] = b"" if self._is_dropping else self._begun + lines[0]
            self._is_dropping, self._begun = False, b""
        self._begun += begun[: LONGEST_LINE + 1]
        if len(self._begun) > LONGEST_LINE:
            self._is_dropping, self._begun = True, b""
        for line in reversed(lines):
            need = parse_need(line)
            if need is not None:
                return need
        return None


def parse_need(line: bytes) -> Demand | None:
    """`need 104857600 209715200 1`; None for anything else, and for what no machine has."""
    if len(line) > LONGEST_LINE:
        return None
    words = line.split(b" ")
    if len(words) != 4 or words[0] != b"need" or words[3] not in {b"0", b"1"}:
        return None
    if not all(word.isdigit() for word in words[1:]):  # Python's int() takes `1_0` and `-1` too.
        return None
    held, wanted = int(words[1]), int(words[2])
    if max(held, wanted) > _MOST:
        return None
    return Demand(held, wanted, is_waiting=words[3] == b"1")


@dataclass(slots=True)
class _Told:
    """One client."""

    cgroup: str
    need: Demand
    heard_seconds: float
    allowance: int | None = None
    """What it was told last; None too if that is nothing."""


class BudgetShares(Generic[_Client]):
    """Of all slices. Belongs to the loop's thread; a round over a slice with four jobs takes as long as a look of
    job_budget.py: 0.15 ms, and 0.6 on a machine that is full (tests/bench/budget.py)."""

    def __init__(self, mount: str = MOUNT, clock: Callable[[], float] = time.monotonic) -> None:
        """`mount` is where cgroup v2 is."""
        self._mount = mount
        self._clock = clock
        self._clients: dict[_Client, _Told] = {}
        self._rooms: dict[str, SliceRoom] = {}

    @property
    def are_there_any(self) -> bool:
        """Whether anybody has told a need."""
        return bool(self._clients)

    def need(self, client: _Client, cgroup: str, need: Demand) -> bool:
        """It has said this of its job; False if that can have no share."""
        slice_path, name = os.path.split(cgroup)
        if not is_job(name) or slice_path in {"", "/"}:
            return False
        told = self._clients.get(client)
        if told is None:
            owner = owner_of(cgroup)
            if sum(owner_of(each.cgroup) == owner for each in self._clients.values()) >= MOST_JOBS:
                return False
            self._clients[client] = _Told(cgroup, need, self._clock())
        else:
            told.need, told.heard_seconds = need, self._clock()
        return True

    def forget(self, client: _Client) -> bool:
        """It has hung up; whether others may have more now."""
        if self._clients.pop(client, None) is None:
            return False
        needed = {os.path.dirname(each.cgroup) for each in self._clients.values()}
        for path in self._rooms.keys() - needed:
            self._rooms.pop(path).close()
        return True

    def news(self) -> list[tuple[_Client, int | None]]:
        """Who is to be told what; None: there is no limit in its slice."""
        allowed: dict[str, int | None] = {}
        for path in {os.path.dirname(each.cgroup) for each in self._clients.values()}:
            allowed |= self._allowed_in(path)
        return [
            (client, allowed[each.cgroup])
            for client, each in self._clients.items()
            if each.cgroup in allowed and _is_news(each.allowance, allowed[each.cgroup])
        ]

    def told(self, client: _Client, allowance: int | None) -> None:
        """It was told this."""
        if client in self._clients:
            self._clients[client].allowance = allowance

    def _allowed_in(self, path: str) -> dict[str, int | None]:
        """By the cgroups of the jobs in this slice; nobody who is gone."""
        # Of two clients of one job the one that spoke last is right.
        spoken = sorted(self._clients.values(), key=lambda each: each.heard_seconds)
        jobs = {os.path.basename(each.cgroup): each for each in spoken if os.path.dirname(each.cgroup) == path}
        slice_room = self._rooms.setdefault(path, SliceRoom(path, self._mount))
        try:
            room = slice_room.look(jobs)
        except KernelError:
            return {}
        if room.limit_bytes is None:
            return {each.cgroup: None for each in jobs.values()}
        demands = {name: self._demand(jobs[name], held, slice_room, name) for name, held in room.held.items()}
        return {jobs[name].cgroup: share for name, share in shares(room.limit_bytes, demands).items()}

    def _demand(self, job: _Told, held: int, slice_room: SliceRoom, name: str) -> Demand:
        if self._clock() - job.heard_seconds > STALE_SECONDS or slice_room.is_frozen(name):
            return Demand(held, held, is_waiting=False)
        return replace(job.need, held_bytes=held)

    def close(self) -> None:
        """Let go of all descriptors."""
        for room in self._rooms.values():
            room.close()
        self._rooms.clear()
        self._clients.clear()


def _is_news(told: int | None, now: int | None) -> bool:
    if told is None or now is None:
        return told is not now
    return abs(now - told) * NEWS_SHARE > told
