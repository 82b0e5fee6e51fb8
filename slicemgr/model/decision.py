# SPDX-License-Identifier: LGPL-2.1-or-later
"""What policy can decide, as data that can be told before it is done."""

import enum
from dataclasses import dataclass
from typing import TypeAlias


class Resource(enum.Enum):
    """What ran out, by the name of the limit."""

    MEMORY = "memory.max"
    SWAP = "memory.swap.max"


@dataclass(frozen=True, slots=True)
class Shortage:
    """A limit that has been passed."""

    resource: Resource
    usage_bytes: int
    limit_bytes: int


@dataclass(frozen=True, slots=True)
class Nothing:
    """All is well."""


@dataclass(frozen=True, slots=True)
class Warn:
    """Above memory.high for the first time in this episode."""

    usage_bytes: int
    high_bytes: int


@dataclass(frozen=True, slots=True)
class FindVictim:
    """Above a hard limit: one process has to go."""

    shortage: Shortage


Decision: TypeAlias = Nothing | Warn | FindVictim
