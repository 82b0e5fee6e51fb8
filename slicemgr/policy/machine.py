# SPDX-License-Identifier: LGPL-2.1-or-later
"""When the machine itself is short of memory, and which slice has to give first.

No cgroup is at its limit then, so nobody calls; and the kernel's OOM killer would take the biggest process of all.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from slicemgr.model.decision import Evidence, Resource, Shortage
from slicemgr.model.machine import MachineReading
from slicemgr.model.slice import SliceKind

FULL_SHARE: Final = 0.4
PATIENCE_SECONDS: Final = 1.0
"""Swap that is not full yet doesn't help where all tasks wait for it: four tenths of a second in which nobody ran."""

ASSUMED_GROWTH_BYTES_PER_SECOND: Final = 2 << 30
"""One process touches 1-2 GB/s."""
GROWTH_WITH_TRIGGER: Final = 1 / 4
"""Of that, where a pressure trigger calls as soon as somebody waits for memory: on a machine of 1.5 GiB the idle daemon
woke up 22 times in ten seconds without this."""
SHORTEST_INTERVAL_SECONDS: Final = 0.1
LONGEST_INTERVAL_SECONDS: Final = 10.0
"""MemAvailable sends no events. Six readings a minute are no load; a trigger on the machine's pressure is beside it."""

ASSUMED_COMPRESSION: Final = 1 / 3
MEASURED_FROM_BYTES: Final = 16 << 20
"""What zram takes of RAM for each byte that it stores, until there is enough in it to measure (zram.rst: "about 2:1";
lzo-rle and zstd reach three on desktops)."""

LEAST_WORTH_SHARE: Final = 1 / 100
"""A slice that holds less than a hundredth of the machine is not what ails it."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """MachineSpec in bytes on this machine."""

    available_bytes: int
    swap_free_bytes: int


@dataclass(frozen=True, slots=True)
class MachineState:
    """What is remembered from reading to reading."""

    low_since_seconds: float | None = None
    full_usec_then: int = 0


@dataclass(frozen=True, slots=True)
class SliceStanding:
    """A managed slice in a shortage of the machine."""

    cgroup: str
    kind: SliceKind
    held_bytes: int
    """What only ending its processes frees."""
    share_bytes: int
    """What it may hold even then."""


_ORDER: Final = {SliceKind.BUILD: 0, SliceKind.APP: 1, SliceKind.SESSION: 2}


def swap_room_bytes(reading: MachineReading) -> int:
    """How much memory swapping could still free: free swap, less what zram would take of RAM to hold it."""
    zram_free = max(0, min(reading.zram_size_bytes - reading.zram_used_bytes, reading.swap_free_bytes))
    if reading.zram_memory_bytes is not None and reading.zram_used_bytes >= MEASURED_FROM_BYTES:
        taken = min(1.0, reading.zram_memory_bytes / reading.zram_used_bytes)
    else:
        taken = ASSUMED_COMPRESSION
    return reading.swap_free_bytes - zram_free + int(zram_free * (1 - taken))


def judge(state: MachineState, reading: MachineReading, thresholds: Thresholds) -> tuple[MachineState, Shortage | None]:
    """One reading: short if little is available, and swap is full or everybody waits for it."""
    if reading.available_bytes is None or reading.available_bytes >= thresholds.available_bytes:
        return MachineState(), None
    full = reading.pressure.full if reading.pressure is not None else None
    full_usec = 0 if full is None else full.total_usec
    if state.low_since_seconds is None:
        state = MachineState(reading.taken_seconds, full_usec)
    low_for = reading.taken_seconds - (state.low_since_seconds or 0.0)
    no_swap = swap_room_bytes(reading) <= thresholds.swap_free_bytes
    waiting = low_for >= PATIENCE_SECONDS and full_usec - state.full_usec_then >= low_for * FULL_SHARE * 1e6
    if not (no_swap or waiting):
        # Measured anew: a machine that was low for an hour without waiting would else be judged by that hour.
        return (MachineState(reading.taken_seconds, full_usec) if low_for >= PATIENCE_SECONDS else state), None
    shortage = Shortage(
        Resource.MACHINE, reading.available_bytes, thresholds.available_bytes, Evidence.MACHINE, low_for
    )
    return state, shortage


def next_reading_seconds(reading: MachineReading, thresholds: Thresholds, *, is_called: bool) -> float:
    """Until the machine could be short, at the growth that is assumed. `is_called`: a pressure trigger calls."""
    if reading.available_bytes is None:
        return LONGEST_INTERVAL_SECONDS
    headroom = reading.available_bytes - thresholds.available_bytes
    growth = ASSUMED_GROWTH_BYTES_PER_SECOND * (GROWTH_WITH_TRIGGER if is_called else 1)
    seconds = headroom / growth
    return min(max(seconds, SHORTEST_INTERVAL_SECONDS), LONGEST_INTERVAL_SECONDS)


def in_order(slices: Iterable[SliceStanding], total_bytes: int) -> list[SliceStanding]:
    """Who has to give first: builds before apps before sessions, among these the one most above its share."""
    worth = [
        each
        for each in slices
        if each.held_bytes > each.share_bytes and each.held_bytes >= total_bytes * LEAST_WORTH_SHARE
    ]
    return sorted(worth, key=lambda each: (_ORDER[each.kind], each.share_bytes - each.held_bytes, each.cgroup))
