# SPDX-License-Identifier: LGPL-2.1-or-later
"""The machine's own memory at one instant."""

from dataclasses import dataclass

from slicemgr.model.cgroup import Pressure


@dataclass(frozen=True, slots=True)
class MachineReading:
    """RAM, swap and pressure of the whole machine, in bytes; None where the kernel does not tell."""

    taken_seconds: float
    """Monotonic clock."""
    total_bytes: int
    available_bytes: int | None
    """MemAvailable: what can be had without swapping (since 3.14)."""
    swap_total_bytes: int
    """All swap, zram by its nominal size."""
    swap_free_bytes: int
    """All swap; on zram free space is not free memory: what goes there takes RAM."""
    zram_size_bytes: int
    """The part of `swap_total_bytes` that is zram."""
    zram_used_bytes: int
    """What has been swapped to zram, uncompressed."""
    zram_memory_bytes: int | None
    """The RAM that zram takes for it."""
    pressure: Pressure | None
    """/proc/pressure/memory."""
