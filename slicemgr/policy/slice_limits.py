# SPDX-License-Identifier: LGPL-2.1-or-later
"""From a configured slice to bytes on this machine."""

from dataclasses import dataclass
from typing import Final

from slicemgr.model.quantity import Amount, NoLimit, Percent
from slicemgr.model.slice import Auto, MachineSpec, SliceAmount, SliceKind, SliceSpec
from slicemgr.policy.limits import high_below
from slicemgr.policy.machine import Thresholds

RESERVE_SHARE: Final = 1 / 10
RESERVE_LEAST_BYTES: Final = 2 << 30
RESERVE_MOST_SHARE: Final = 1 / 4
"""`auto` for the session's reserve: a tenth of the machine, but 2 GiB for a desktop with a browser, but never more than
a quarter: 0.5 GiB of 2, 2 of 16, 6.4 of 64."""


@dataclass(frozen=True, slots=True)
class SliceLimits:
    """The properties of a slice in bytes; None is not ours to set, NO_LIMIT is none at all."""

    memory_high: int | NoLimit | None
    memory_max: int | NoLimit | None
    memory_swap_max: int | NoLimit | None
    memory_low: int | NoLimit | None
    memory_min: int | NoLimit | None
    tasks_max: Amount | None
    cpu_weight: int | None
    io_weight: int | None

    @property
    def share_bytes(self) -> int:
        """What the slice may hold even when the machine is short."""
        return max(_or_nothing(self.memory_low), _or_nothing(self.memory_min))


def session_reserve_bytes(machine: MachineSpec, total_bytes: int) -> int:
    """What `auto` leaves to the session."""
    reserve = machine.session_reserve
    if isinstance(reserve, Auto):
        reserve = int(max(total_bytes * RESERVE_SHARE, min(RESERVE_LEAST_BYTES, total_bytes * RESERVE_MOST_SHARE)))
    return min(amount_bytes(reserve, total_bytes), total_bytes)


def resolve_slice(spec: SliceSpec, machine: MachineSpec, total_bytes: int) -> SliceLimits:
    """The limits of a slice. A build slice that has a memory.max, and no memory.high of its own, gets one below that.

    Without it the kernel's OOM killer would be the first to know: it takes the biggest, and asks for no parent.
    """
    auto = total_bytes - session_reserve_bytes(machine, total_bytes)

    def limit(amount: SliceAmount | None) -> int | NoLimit | None:
        if amount is None or isinstance(amount, NoLimit):
            return amount
        return auto if isinstance(amount, Auto) else amount_bytes(amount, total_bytes)

    high, highest = limit(spec.memory_high), limit(spec.memory_max)
    if high is None and spec.kind is SliceKind.BUILD and isinstance(highest, int):
        high = high_below(highest)
    return SliceLimits(
        memory_high=high,
        memory_max=highest,
        memory_swap_max=limit(spec.memory_swap_max),
        memory_low=limit(spec.memory_low),
        memory_min=limit(spec.memory_min),
        tasks_max=spec.tasks_max,
        cpu_weight=spec.cpu_weight,
        io_weight=spec.io_weight,
    )


def thresholds(machine: MachineSpec, total_bytes: int, swap_total_bytes: int) -> Thresholds:
    """When this machine is short."""
    return Thresholds(
        available_bytes=amount_bytes(machine.memory_available, total_bytes),
        swap_free_bytes=amount_bytes(machine.swap_free, swap_total_bytes),
    )


def amount_bytes(amount: Amount, total_bytes: int) -> int:
    """A size, or a share of a total; without limit it is the total."""
    if isinstance(amount, NoLimit):
        return total_bytes
    return amount.of(total_bytes) if isinstance(amount, Percent) else amount


def _or_nothing(amount: int | NoLimit | None) -> int:
    return amount if isinstance(amount, int) else 0
