# SPDX-License-Identifier: LGPL-2.1-or-later
"""What policy can decide, as data that can be told before it is done."""

import enum
from dataclasses import dataclass
from typing import TypeAlias


class Resource(enum.Enum):
    """What ran out, by the name of the limit."""

    MEMORY = "memory.max"
    SWAP = "memory.swap.max"
    HIGH = "memory.high"
    MACHINE = "MemAvailable"
    """The machine's own memory: what is available, not a limit of a slice."""


class Evidence(enum.Enum):
    """What convinced us that waiting does not help; the values are ends of the sentence 'and ...'."""

    PASSED = "it is above the limit"
    UNRECLAIMABLE = "nearly all of it can't be reclaimed"
    SWAP_FULL = "there is no swap left to take it"
    THRASHING = "what is reclaimed is needed again at once"
    MACHINE = "the machine has no memory left"
    NO_STEP_FITS = "not even one step fits beside what those that wait hold"
    ALONE = "it does not fit even alone"


@dataclass(frozen=True, slots=True)
class Shortage:
    """A limit that has been passed, or at which a cgroup stands still."""

    resource: Resource
    usage_bytes: int
    """What is used of it; of the machine, what is still available."""
    limit_bytes: int
    evidence: Evidence = Evidence.PASSED
    stalled_seconds: float = 0.0
    """How long it had stood still at the decision."""

    def freed_bytes(self, usage_after_bytes: int) -> int:
        """What has been gained since the decision."""
        gained = self.usage_bytes - usage_after_bytes
        return -gained if self.resource is Resource.MACHINE else gained


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


@dataclass(frozen=True, slots=True)
class KernelWasFirst:
    """The kernel's OOM killer took members by itself: nothing is left to do but to tell it."""

    count: int


Decision: TypeAlias = Nothing | Warn | FindVictim | KernelWasFirst
