# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a session needs to stay quick, from what it holds over time, and what is kept for it: MemoryLow, MemoryMin.

Quick to rise and slow to fall: what was used a minute ago will be used again, and a page that went for a compiler comes
back through the disk. What is measured while the session is pushed out says nothing about its needs, so then the
estimate only rises.
"""

from dataclasses import dataclass
from typing import Final

HALF_LIFE_SECONDS: Final = 600.0
"""After which half of what is not used any more is given up. A meeting, or a meal, is longer than that; then the
session has to read some of its cache again, once."""

STALLED_PERCENT: Final = 5.0
"""Of the last ten seconds (memory.pressure, some avg10): from here on somebody waits for pages of his own to come back,
and what is there is less than what is needed. The same number begins the level `low` (policy/pressure_level.py)."""

STEP_BYTES: Final = 16 << 20
"""Sizes are whole steps: nothing that is measured is more exact."""

HEADROOM: Final = 8
"""An eighth above what was measured: what the next window takes."""

LEAST_LOW_BYTES: Final = 64 << 20
"""A bare window manager with its X server has 60 to 100 MB."""

LOW_MOST_SHARE: Final = 5
"""A fifth of the machine: the slices above (units/system) have so much, and the kernel hands out no more than that. And
what is kept for a session is what builds can't have."""

MIN_SHARE: Final = 4
MIN_MOST_SHARE: Final = 50
"""A quarter of it for memory.min, and a fiftieth of the machine: pointer and keyboard go on. Above that it is `low`,
which never makes the kernel kill anybody."""

TELL_SECONDS: Final = 180.0
"""Between two numbers for systemd, which writes a file in /run for each and loads the unit anew."""

NEWS_SHARE: Final = 8
"""A change of less than an eighth is none: what is kept is capped by what is used anyway."""


@dataclass(frozen=True, slots=True)
class SessionSample:
    """A session's cgroup at one instant."""

    taken_seconds: float
    """Monotonic clock."""
    unreclaimable_bytes: int
    """Anonymous memory and shmem."""
    active_file_bytes: int
    """Page cache that was used at least twice of late."""
    inactive_file_bytes: int
    """The rest of it."""
    stalled_percent: float
    """Of the last ten seconds in which somebody waited for memory."""
    is_active: bool
    """It is in front of the person."""


@dataclass(frozen=True, slots=True)
class WorkingSet:
    """The estimate."""

    size_bytes: int
    taken_seconds: float
    """When it was made."""


@dataclass(frozen=True, slots=True)
class Caps:
    """What there is to keep from."""

    total_bytes: int
    """The machine's memory."""
    reserve_bytes: int
    """What the configuration leaves to sessions (machine.session_reserve)."""


@dataclass(frozen=True, slots=True)
class Protection:
    """What is kept for a session; `min_bytes` is part of `low_bytes`."""

    low_bytes: int = 0
    min_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Told:
    """What systemd was told last."""

    protection: Protection
    told_seconds: float


def next_working_set(before: WorkingSet | None, sample: SessionSample) -> WorkingSet:
    """The estimate after one more sample.

    Anonymous memory, shmem and the page cache that is in use. While somebody waits, all of the page cache: what comes
    back begins on the inactive list (mm/workingset.c), and has proven that it was needed.
    """
    is_stalled = sample.stalled_percent >= STALLED_PERCENT
    seen = sample.unreclaimable_bytes + sample.active_file_bytes + (sample.inactive_file_bytes if is_stalled else 0)
    if before is None or seen >= before.size_bytes:
        return WorkingSet(seen, sample.taken_seconds)
    if is_stalled or not sample.is_active:
        return WorkingSet(before.size_bytes, sample.taken_seconds)
    passed = max(0.0, sample.taken_seconds - before.taken_seconds)
    left = (before.size_bytes - seen) * 0.5 ** (passed / HALF_LIFE_SECONDS)
    return WorkingSet(seen + int(left), sample.taken_seconds)


def protection(working_set: WorkingSet, caps: Caps) -> Protection:
    """What to keep for it. The estimate may be a leak's: the caps hold."""
    most = min(caps.total_bytes // LOW_MOST_SHARE, caps.reserve_bytes)
    wanted = max(working_set.size_bytes + working_set.size_bytes // HEADROOM, LEAST_LOW_BYTES)
    low = min(-(-wanted // STEP_BYTES), most // STEP_BYTES) * STEP_BYTES
    least = min(low // MIN_SHARE, caps.total_bytes // MIN_MOST_SHARE)
    return Protection(low, least // STEP_BYTES * STEP_BYTES)


def is_news(told: Told | None, wanted: Protection, now_seconds: float) -> bool:
    """Whether systemd is to be told: seldom, and only what makes a difference."""
    if told is None:
        return True
    if now_seconds - told.told_seconds < TELL_SECONDS or wanted == told.protection:
        return False
    before = told.protection
    return any(
        abs(now - then) * NEWS_SHARE >= max(then, STEP_BYTES)
        for now, then in ((wanted.low_bytes, before.low_bytes), (wanted.min_bytes, before.min_bytes))
    )
