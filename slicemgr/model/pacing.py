# SPDX-License-Identifier: LGPL-2.1-or-later
"""How a person wants builds to be paced."""

from dataclasses import dataclass

from slicemgr.model.quantity import Amount


@dataclass(frozen=True, slots=True)
class PacingSpec:
    """As the configuration has it."""

    enabled: bool = True
    never_hold: tuple[str, ...] = ()
    """Shell patterns of names (comm) of processes that never wait: a test suite with a time-out of its own."""
    borrow: Amount = 0
    """What a build may take of the session's reserve when not even one step fits: bytes, or a share of the machine."""


@dataclass(frozen=True, slots=True)
class PacingSettings:
    """For one job on this machine."""

    enabled: bool
    never_hold: tuple[str, ...]
    borrow_bytes: int
    reserve_bytes: int
    """What the machine has to keep available."""
