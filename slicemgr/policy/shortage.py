# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether a limit is passed, and whether a shortage that was found is there yet."""

from typing import Final

from slicemgr.model.cgroup import MemoryLimits
from slicemgr.model.decision import Evidence, Resource, Shortage
from slicemgr.policy.evidence import Situation

NEAR_PERCENT: Final = 97
"""Of the limit, for who is near it: page cache that was just taken leaves a gap of its own."""


def passed(situation: Situation, limits: MemoryLimits) -> Shortage | None:
    """The hard limit that is passed, memory before swap; being at a limit is not being above it."""
    if limits.max is not None and situation.usage_bytes > limits.max:
        return Shortage(Resource.MEMORY, situation.usage_bytes, limits.max)
    if limits.swap_max is not None and situation.swap_bytes > limits.swap_max:
        return Shortage(Resource.SWAP, situation.swap_bytes, limits.swap_max)
    return None


def still_short(shortage: Shortage, situation: Situation) -> bool:
    """The look before the shot: whether a shortage that was found is there yet."""
    if shortage.evidence in {Evidence.UNRECLAIMABLE, Evidence.SWAP_FULL}:
        return situation.stuck_bytes >= shortage.limit_bytes
    if shortage.evidence is Evidence.THRASHING:
        return situation.usage_bytes * 100 >= shortage.limit_bytes * NEAR_PERCENT
    usage = situation.swap_bytes if shortage.resource is Resource.SWAP else situation.usage_bytes
    return usage > shortage.limit_bytes
