# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a sample of a group calls for."""

from dataclasses import dataclass

from slicemgr.model.cgroup import CgroupSample, MemoryLimits
from slicemgr.model.decision import Decision, FindVictim, Nothing, Resource, Shortage, Warn

HIGH_SETTLED_PERCENT = 90
"""An episode above memory.high is over once usage is a tenth below it: a build that swings around the limit
is one episode and gives one warning, not one a second."""


@dataclass(frozen=True, slots=True)
class ReactionState:
    """What is remembered from sample to sample."""

    above_high: bool = False
    """In an episode above memory.high, which has been warned of."""


def shortage_in(sample: CgroupSample, limits: MemoryLimits) -> Shortage | None:
    """The hard limit that is passed, memory before swap; being at a limit is not being above it."""
    if limits.max is not None and sample.memory_bytes > limits.max:
        return Shortage(Resource.MEMORY, sample.memory_bytes, limits.max)
    if limits.swap_max is not None and sample.swap_bytes > limits.swap_max:
        return Shortage(Resource.SWAP, sample.swap_bytes, limits.swap_max)
    return None


def react(state: ReactionState, sample: CgroupSample, limits: MemoryLimits) -> tuple[ReactionState, Decision]:
    """One step: a hard limit comes before a warning, a warning is given once an episode."""
    shortage = shortage_in(sample, limits)
    if limits.high is None:
        return state, Nothing() if shortage is None else FindVictim(shortage)
    newly_above = sample.memory_bytes > limits.high and not state.above_high
    settled = sample.memory_bytes * 100 < limits.high * HIGH_SETTLED_PERCENT
    state = ReactionState(above_high=newly_above or (state.above_high and not settled))
    if shortage is not None:
        return state, FindVictim(shortage)
    return state, Warn(sample.memory_bytes, limits.high) if newly_above else Nothing()
