# SPDX-License-Identifier: LGPL-2.1-or-later
"""What happened, as frozen records; who tells it to whom is `delivery`'s and the caller's business."""

import enum
from dataclasses import dataclass
from typing import TypeAlias

from slicemgr.model.decision import Shortage
from slicemgr.model.process import ProcessSample
from slicemgr.model.slice import VictimRule
from slicemgr.policy.badness import Unkillable


class KillOutcome(enum.Enum):
    """How a kill ended."""

    EXITED = "exited"
    STILL_THERE = "still there after its time-out"
    NOT_PERMITTED = "not permitted"
    REFUSED = "protected itself before the kill"
    ASKED = "asked to end, and then no longer in the way"
    DRY_RUN = "a dry run kills nobody"


@dataclass(frozen=True, slots=True)
class KillReport:
    """One victim, and everything that a person asks about it afterwards."""

    at_seconds: float
    """Monotonic clock, at the decision."""
    victim: ProcessSample
    command_line: tuple[str, ...]
    """Empty if it was not learnt in time."""
    held_bytes: int
    """What of it counted against the limit: anonymous and shared memory, swap and page tables."""
    points: int
    """Badness in pages."""
    for_parent: ProcessSample | None
    """The process with the highest badness, if the victim went in its place."""
    shortage: Shortage
    runners_up: tuple[tuple[ProcessSample, int], ...]
    """Who would have been next, with what it held in bytes."""
    outcome: KillOutcome
    seconds_to_exit: float
    """From the decision to the exit that was seen."""
    usage_after_bytes: int
    """What the job held after the exit, at most."""
    was_alone: bool
    """It was the only process of the job."""
    cgroup: str = ""
    """The offending cgroup, as /proc/PID/cgroup names it; empty where the job is a process tree."""
    victim_cgroup: str = ""
    """Where the victim lived: the offending cgroup or one below it."""
    rule: VictimRule = VictimRule.HIGHEST_BADNESS_CHILD
    asked_to_end: bool = False
    """SIGTERM was sent first, and the grace time kept."""

    @property
    def killed(self) -> bool:
        """Whether we have ended it, or tried to: by SIGKILL, or by the SIGTERM before it."""
        return self.outcome in {KillOutcome.EXITED, KillOutcome.STILL_THERE}


@dataclass(frozen=True, slots=True)
class HighReport:
    """The job went above memory.high."""

    at_seconds: float
    usage_bytes: int
    high_bytes: int
    cgroup: str = ""


@dataclass(frozen=True, slots=True)
class KernelKillReport:
    """The kernel's OOM killer was first: oom_kill grew, and not by us."""

    at_seconds: float
    cgroup: str
    count: int
    victims: tuple[tuple[int, str], ...]
    """(pid, comm) as far as the kernel's log tells them."""


@dataclass(frozen=True, slots=True)
class NoVictimReport:
    """The job is above a limit, and no process of it can be taken."""

    at_seconds: float
    shortage: Shortage
    spared: tuple[tuple[ProcessSample, Unkillable], ...]
    cgroup: str = ""
    out_of_reach: bool = False
    """There are processes, but not even the end of all would be enough: what is held is in files of a tmpfs."""


@dataclass(frozen=True, slots=True)
class GuardFailedReport:
    """A fault of ours: the job goes on unguarded."""

    error: str


@dataclass(frozen=True, slots=True)
class PacingFailedReport:
    """Pacing, or a part of it, is not to be had; the job goes on without."""

    error: str
    """One line that ends in what to try."""


@dataclass(frozen=True, slots=True)
class SignalRefusedReport:
    """A signal that we were sent and may not pass on: the command is another user's by now (sudo)."""

    number: int


Report: TypeAlias = (
    KillReport
    | HighReport
    | KernelKillReport
    | NoVictimReport
    | GuardFailedReport
    | PacingFailedReport
    | SignalRefusedReport
)
