# SPDX-License-Identifier: LGPL-2.1-or-later
"""How several builds share the memory of one slice: max-min fair, and nobody starves.

With a daemon, which knows what each build holds and wants, this is water-filling: all waiting builds rise together, who
needs less than his fair share leaves the rest to the others, and who is above his keeps what his steps have begun to
take, and not more: to stop them half grown would keep that memory from both. He shrinks as they end, for he begins
none. In simulation a newcomer has half of a full slice after 0.5 to 5 s, the longest where steps are long and hold
their peak; also where they are so short that one begins before anybody has heard that another one ended.

Without one each build knows what the others hold, and not whether they wait. So who is above the fair share leaves a
sixteenth of the limit unused; a newcomer grows into that, and the other shrinks by as much, until they are equal. And
what is free is divided, not claimed by all: three that began together took 1.2 of the limit otherwise, in simulation
(tests/pacing/test_sharing.py). Beside builds that hold next to nothing there is nobody to divide with.

All numbers are of what can't be reclaimed. Pure; nothing is remembered.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

ROOM_SHARE: Final = 16
"""A build that does not wait gets a sixteenth above what it wants: with exactly that it would stand at its budget, and
pacing stops steps from 0.99 on."""

BIRTH_SHARE: Final = 64
"""And a sixty-fourth of the limit, for a step that is born between two tellings."""

BEGUN_SHARE: Final = 0.98
"""What has begun is this of what is left to it: above the 0.97 that a build plans, so that it begins nothing more, and
below the 0.99 from which it stops steps (policy/instant.py)."""

BEGUN_FACTOR: Final = 2
"""And counts up to twice what is held: that a build says more of itself is no reason to keep it from another one. In a
guest two builds beside each other stopped 59 and 20 of their steps when only what they held was theirs."""

SPARE_SHARE: Final = 16
"""Of the limit, what a build without a daemon leaves unused while it is above its fair share."""

IDLE_SHARE: Final = 64
"""Who holds less than a sixty-fourth of the limit is a build that does not build: `make` and its shells hold 4 MB. With
every one counted a build beside an idle one got 0.57 of the limit."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What one build holds, and what it could use."""

    held_bytes: int
    wanted_bytes: int
    """The most that what runs now will hold together: its forecast peak."""
    is_waiting: bool
    """It has steps that wait for memory."""


def shares(limit_bytes: int, jobs: Mapping[str, Demand]) -> Mapping[str, int]:
    """What each may hold now; in all not more than the limit.

    Nobody is given less than he holds, unless all together hold more than there is: then the biggest lose first; and
    the same of what they have begun. What nobody asks for is given away too, to the smallest first.
    """
    limit = max(0, limit_bytes)
    held = [min(max(0, each.held_bytes), limit) for each in jobs.values()]
    if sum(held) > limit:
        return dict(zip(jobs, _filled(limit, [0] * len(held), held), strict=True))
    needs = [max(own, _need(each, limit)) for own, each in zip(held, jobs.values(), strict=True)]
    begun = [min(need, _begun(own, each)) for own, each, need in zip(held, jobs.values(), needs, strict=True)]
    if sum(begun) > limit:
        begun = _filled(limit, held, begun)
    given = _filled(limit, begun, needs)
    if given == needs:
        given = _filled(limit, needs, [limit] * len(needs))
    return dict(zip(jobs, given, strict=True))


def lone_share(limit_bytes: int, own_held: int, others_held: Sequence[int], *, newcomers: int = 0) -> int:
    """What a build may hold that is told nothing: it sees what the other builds in its slice hold.

    Below the fair share, all that the others leave. Above it, what it holds and its part of the room that all see, less
    the spare: together they never claim more than that room, though each decides by itself. Never more than there is
    beside the others, but for what it holds already. `newcomers`: so many of the others, those that hold the least,
    have just begun, and count as builds though they hold next to nothing yet.
    """
    limit = max(0, limit_bytes)
    others = sorted(max(0, each) for each in others_held)
    free = max(0, limit - sum(others))
    if not others:
        return free
    active = sum(1 for at, each in enumerate(others) if at < newcomers or each * IDLE_SHARE > limit)
    room = limit - own_held - sum(others) - limit // SPARE_SHARE
    grown = max(0, own_held + room // (1 + active))
    return max(grown, min(free, limit // (1 + active))) if active else grown


def _need(demand: Demand, limit: int) -> int:
    if demand.is_waiting:
        return limit
    wanted = max(0, demand.held_bytes, demand.wanted_bytes)
    return min(limit, wanted + wanted // ROOM_SHARE + limit // BIRTH_SHARE)


def _begun(held: int, demand: Demand) -> int:
    return max(held, min(int(max(0, demand.wanted_bytes) / BEGUN_SHARE), held * BEGUN_FACTOR))


def _filled(limit: int, floors: Sequence[int], caps: Sequence[int]) -> list[int]:
    """Each from its floor to its cap as the water rises, until there is no more; the floors fit.

    The level is found in one walk over all the heights at which somebody begins or stops to rise: two builds take 7 us,
    a thousand 1 ms.
    """
    bends = [(floor, 1) for floor in floors] + [(cap, -1) for cap in caps]
    left, level, rising = limit - sum(floors), 0, 0
    for height, change in sorted(bends):
        if rising * (height - level) > left:
            level += left // rising
            break
        left -= rising * (height - level)
        level, rising = height, rising + change
    return [min(cap, max(floor, level)) for floor, cap in zip(floors, caps, strict=True)]
