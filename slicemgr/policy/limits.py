# SPDX-License-Identifier: LGPL-2.1-or-later
"""From what a person asked for to limits in bytes on this machine. Light, see model/quantity.py."""

from __future__ import annotations

from slicemgr.model.quantity import NoLimit, Percent, format_size
from slicemgr.model.spec import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, TypeAlias

    from slicemgr.model.quantity import Amount
    from slicemgr.model.spec import JobSpec

    InBytes: TypeAlias = tuple[int | None, int | None, int | None]
    """high, max and swap_max; None is no limit."""

LEAST_MAX_BYTES: Final = 1 << 20
"""A mistyped unit, not a wish: sleep(1) and sh hold 0.15 MiB on x86-64, python 6.8, and anything that builds something
more than this."""

RESERVE_SHARE: Final = 10
"""A job without a limit of its own leaves a tenth of the machine to the session beyond what that uses now:
enough for a desktop to breathe (1.6 GiB of 16), not so much that a build alone on the machine suffers."""

HIGH_SHARE: Final = 16
HIGH_SHARE_OF_LARGE: Final = 32
HIGH_GAP_BYTES: Final = 512 << 20
"""Where memory.high stands below memory.max: a sixteenth, at most 512 MiB, but never less than a thirty-second.

Above memory.high the kernel puts every task that allocates to sleep, the longer the further above (mm/memcontrol.c,
calculate_high_delay): not at all up to 1.25 %, 58 ms for each 256 KiB at 3 %, 0.27 s at a sixteenth. So a job that runs
away crosses high at full speed, which is an event, and then crawls: at 4 MB/s and less for each of its tasks it does
not reach max, and its OOM killer, before the victim has been chosen. 512 MiB are more than enough for that; but in
64 GiB they are 0.8 %, where nobody is slowed down, so large limits keep their 3 %."""

_PAGE_BYTES: Final = 1 << 16
"""The largest page of any machine: the kernel counts in pages, and what it rounds would not be read back as written."""


def resolve(spec: JobSpec, total_bytes: int, available_bytes: int) -> InBytes:
    """high, max and swap_max of a job in bytes; None is no limit.

    `total_bytes` is the machine's RAM (MemTotal), `available_bytes` what could be had now (MemAvailable).
    Without `max` the job may take what is available less the reserve. Raises SpecError for limits that can't
    be meant.
    """
    limit_max = _memory("--max", spec.max, total_bytes)
    limit_high = _memory("--high", spec.high, total_bytes)
    if spec.max is None:
        limit_max = max(available_bytes - total_bytes // RESERVE_SHARE, LEAST_MAX_BYTES, limit_high or 0)
    if limit_high is not None and limit_max is not None and limit_max < limit_high:
        raise SpecError(
            f"--max {format_size(limit_max)} is below --high {format_size(limit_high)}; "
            f"try --high {format_size(limit_max * 9 // 10)}, or a higher --max"
        )
    if limit_max is not None and limit_max < LEAST_MAX_BYTES:
        # 600 is bytes, and was hardly meant so.
        hint = f"{limit_max}M" if limit_max < 100_000 else "64M"
        raise SpecError(f"--max {format_size(limit_max)} is less than any command needs to start; try --max {hint}")
    return limit_high, limit_max, _swap(spec.swap_max, total_bytes)


def high_below(max_bytes: int) -> int:
    """memory.high for a job whose cgroup has this memory.max, unless somebody asked for another; see HIGH_SHARE."""
    limit = _whole_pages(max_bytes)
    gap = max(min(limit // HIGH_SHARE, HIGH_GAP_BYTES), limit // HIGH_SHARE_OF_LARGE)
    return _whole_pages(limit - gap)


def is_default_high(high_bytes: int | None, max_bytes: int | None) -> bool:
    """Whether nobody asked for this memory.high: it stands where `high_below` puts it, as read from the kernel."""
    return high_bytes is not None and max_bytes is not None and high_bytes == high_below(max_bytes)


def following_high(
    new_max_bytes: int | None, high_bytes: int | None, max_bytes: int | None, *, has_own_high: bool
) -> tuple[int | None] | None:
    """memory.high for a new memory.max that was asked for alone: (bytes,), or (None,) for none; None: it stays.

    It follows if it stood where `high_below` puts it, or would be above the new limit. Else the kernel's OOM killer is
    the first at that limit: it takes the biggest, and asks for no parent. `has_own_high`: one like this gets a
    memory.high with its memory.max, as a build or a job does.
    """
    had_default = is_default_high(high_bytes, max_bytes) or (has_own_high and high_bytes is None and max_bytes is None)
    is_above = high_bytes is not None and new_max_bytes is not None and high_bytes > new_max_bytes
    if not had_default and not is_above:
        return None
    return (None if new_max_bytes is None else high_below(new_max_bytes),)


def quarter_more(high_bytes: int | None, max_bytes: int | None, total_bytes: int) -> tuple[int | None, int | None]:
    """memory.high and memory.max with a quarter more, at most all of the machine's memory; None is no limit."""
    most = None if max_bytes is None else _raised(max_bytes, total_bytes)
    if high_bytes is None:
        return None, most
    if most is not None and is_default_high(high_bytes, max_bytes):
        return max(high_below(most), high_bytes), most
    high = _raised(high_bytes, total_bytes)
    return (high if most is None else min(high, most)), most


def _raised(limit_bytes: int, total_bytes: int) -> int:
    return max(limit_bytes, min(_whole_pages(limit_bytes * 5 // 4), total_bytes))


def _whole_pages(size_bytes: int) -> int:
    return size_bytes - size_bytes % _PAGE_BYTES


def _memory(option: str, amount: Amount | None, total_bytes: int) -> int | None:
    if amount is None or isinstance(amount, NoLimit):
        return None
    size = amount.of(total_bytes) if isinstance(amount, Percent) else amount
    if size > total_bytes:
        raise SpecError(
            f"{option} {format_size(size)} is more than this machine's memory ({format_size(total_bytes)}), "
            f"so it would never act; try {option} 80%"
        )
    if size == 0:
        raise SpecError(f"{option} 0 leaves nothing to run in; try {option} 60%")
    return size


def _swap(amount: Amount | None, total_bytes: int) -> int | None:
    """Swap may be 0 (none at all) and more than RAM; a percentage is one of RAM, as for the other limits."""
    if amount is None or isinstance(amount, NoLimit):
        return None
    return amount.of(total_bytes) if isinstance(amount, Percent) else amount
