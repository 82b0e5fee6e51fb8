# SPDX-License-Identifier: LGPL-2.1-or-later
"""How closely a process tree has to be looked at: how precisely, and how soon again.

A tree without a cgroup sends no events, so it has to be read. Reading costs; not reading lets it overshoot.
"""

from dataclasses import dataclass

from slicemgr.model.cgroup import CgroupSample, Measure, MemoryLimits

SHORTEST_INTERVAL_SECONDS = 0.005
"""At the limit: one process touches pages at 1-2 GB/s here, so up to 10 MB between two looks."""

LONGEST_INTERVAL_SECONDS = 0.5
"""Far from the limit: a look at 20 processes costs about 1 ms, so 0.2 % of a core, and the peak that is told
afterwards lacks at most what lived for less than this."""

ASSUMED_GROWTH_BYTES_PER_SECOND = 256 << 20
"""No tree is trusted to stay quiet: growth that has not been seen yet is taken for this much. Twice as much doubled
the cost of watching a build at 83 % of its limit (2.5 % of a core, not 1.3 %); between a quarter and four times of it
the overshoot of a build at its limit was the same, 1 to 4 %."""

GROWTH_HALF_LIFE_SECONDS = 2.0
"""Growth comes in bursts, one a build step: the last one is remembered for about the length of a step."""

LOOKS_BEFORE_THE_LIMIT = 2
"""The limit can't be reached at the expected growth before the second look from now."""

GREATEST_SHARE = 1 / 8
"""Of one core for reading, whatever the growth: a thousand forked processes take 0.3 s to measure by PSS."""

NEAR_THE_LIMIT = 1 / 2
"""Where RSS alone no longer says that all is well. RSS lacks page tables: 0.2 to 0.5 % of it for compilers, and as
much again for a process that touches one page in every 2 MiB (with 3/4 here one held 119 MiB under a limit of 90)."""


@dataclass(frozen=True, slots=True)
class Pace:
    """What is remembered from look to look."""

    resident_bytes: int = 0
    at_seconds: float = 0.0
    growth_bytes_per_second: float = 0.0
    """Fast up, slowly down."""


def tighter_measure(
    sample: CgroupSample, limits: MemoryLimits, *, highest_bound_bytes: int, above_high: bool
) -> Measure | None:
    """The measure that has to be taken because this sample leaves something open, or None.

    Open is whether the group is above a limit, and whether this is a new peak. Each measure is an upper bound
    of the next, so a bound below the limit ends the matter; and a new peak is looked for where the bound,
    UNRECLAIMABLE, is higher than it has ever been (`highest_bound_bytes`).
    """
    concerns = [limits.max, None if above_high else limits.high]
    lowest = min((limit for limit in concerns if limit is not None), default=None)
    if sample.measure is Measure.RESIDENT:
        near = lowest is not None and sample.memory_bytes > lowest * NEAR_THE_LIMIT
        if near or limits.swap_max is not None or sample.memory_bytes > highest_bound_bytes:
            return Measure.UNRECLAIMABLE
    if sample.measure is Measure.UNRECLAIMABLE:
        above = lowest is not None and sample.memory_bytes > lowest
        above_swap = limits.swap_max is not None and sample.swap_bytes > limits.swap_max
        if above or above_swap or sample.memory_bytes > highest_bound_bytes:
            return Measure.PROPORTIONAL
    return None


def next_look(pace: Pace, sample: CgroupSample, limits: MemoryLimits) -> tuple[Pace, float]:
    """When to look again, in seconds from this sample.

    Time to the limit at the growth that is to be expected, divided by LOOKS_BEFORE_THE_LIMIT, within bounds.
    """
    elapsed = sample.taken_seconds - pace.at_seconds
    remembered = pace.growth_bytes_per_second * 0.5 ** (max(elapsed, 0.0) / GROWTH_HALF_LIFE_SECONDS)
    seen = (sample.resident_bytes - pace.resident_bytes) / elapsed if elapsed > 0 and pace.at_seconds else 0.0
    growth = max(remembered, seen, 0.0)
    pace = Pace(sample.resident_bytes, sample.taken_seconds, growth)

    # Above memory.high nothing more is to be hit there; below it, its warning should be in time as well.
    high = limits.high if limits.high is not None and sample.memory_bytes <= limits.high else None
    usages = ((limits.max, sample.memory_bytes), (high, sample.memory_bytes), (limits.swap_max, sample.swap_bytes))
    headrooms = [limit - usage for limit, usage in usages if limit is not None]
    if not headrooms:
        return pace, LONGEST_INTERVAL_SECONDS
    expected = max(growth, ASSUMED_GROWTH_BYTES_PER_SECOND)
    interval = max(min(headrooms), 0) / expected / LOOKS_BEFORE_THE_LIMIT
    shortest = max(SHORTEST_INTERVAL_SECONDS, sample.cost_seconds / GREATEST_SHARE)
    return pace, min(max(interval, shortest), max(LONGEST_INTERVAL_SECONDS, shortest))
