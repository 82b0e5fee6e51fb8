# SPDX-License-Identifier: LGPL-2.1-or-later
"""From what a person asked for to limits in bytes on this machine."""

from slicemgr.model.cgroup import MemoryLimits
from slicemgr.model.quantity import Amount, NoLimit, Percent, format_size
from slicemgr.model.spec import JobSpec, SpecError

LEAST_MAX_BYTES = 1 << 20
"""A mistyped unit, not a wish: sleep(1) and sh hold 0.15 MiB on x86-64, python 6.8, and anything that builds something
more than this."""

RESERVE_SHARE = 10
"""A job without a limit of its own leaves a tenth of the machine to the session beyond what that uses now:
enough for a desktop to breathe (1.6 GiB of 16), not so much that a build alone on the machine suffers."""


def resolve(spec: JobSpec, total_bytes: int, available_bytes: int) -> MemoryLimits:
    """The limits of a job in bytes.

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
    return MemoryLimits(high=limit_high, max=limit_max, swap_max=_swap(spec.swap_max, total_bytes))


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
