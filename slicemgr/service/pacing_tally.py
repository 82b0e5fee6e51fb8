# SPDX-License-Identifier: LGPL-2.1-or-later
"""What pacing has done for a job, counted for the person who waits for it."""

from dataclasses import dataclass
from typing import Final

from slicemgr.model.step import StepSignature
from slicemgr.service.live_step import LiveStep

TOLD: Final = 3
"""Of the fattest steps."""

WAITED_SECONDS: Final = 0.1
"""Less is no wait for a person: between its birth and the next plan everybody stands for a moment."""

_KEPT: Final = 64


@dataclass(frozen=True, slots=True)
class FatStep:
    """One of the steps that held most."""

    kind: str
    signature: StepSignature | None
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class PacingSummary:
    """What pacing has done for one job."""

    steps: int
    """How many were seen."""
    waited: int
    """How many of them have waited."""
    waited_seconds: float
    """All of them together."""
    most_running: int
    """The most that ran at once."""
    stops: int
    """How often one that ran already was stopped."""
    peak_bytes: int
    """The most that the job held of what can't be reclaimed, as the pacer saw it."""
    budget_bytes: int
    """What it might have held when it held that."""
    fattest: tuple[FatStep, ...]
    cpu_seconds: float = 0.0
    """What the pacing itself has cost, from its first look on."""
    may_hold: bool = True
    """False: the configuration lets nobody wait, or nobody would outlive us; the steps were only looked at."""


class PacingTally:
    """Counts for one job."""

    def __init__(self) -> None:
        self.stops = 0
        self._most_running = 0
        self._steps = 0
        self._waited = 0
        self._waited_seconds = 0.0
        self._peak = (0, 0)
        self._fattest: dict[object, FatStep] = {}

    def begun(self) -> None:
        """One more step."""
        self._steps += 1

    def used(self, used_bytes: int, budget_bytes: int, running: int) -> None:
        """What the job holds now, and might; and how many of its steps run."""
        self._most_running = max(self._most_running, running)
        self._peak = max(self._peak, (used_bytes, budget_bytes))

    def ended(self, step: LiveStep, now_seconds: float) -> None:
        """This one is not looked at any more."""
        waited_seconds = step.waiting_seconds(now_seconds)
        if waited_seconds >= WAITED_SECONDS:
            self._waited += 1
            self._waited_seconds += waited_seconds
        key = step.signature or step.identity
        known = self._fattest.get(key)
        if step.peak_bytes and (known is None or known.peak_bytes < step.peak_bytes):
            self._fattest[key] = FatStep(step.kind, step.signature, step.peak_bytes)
            if len(self._fattest) > _KEPT:
                del self._fattest[min(self._fattest, key=lambda each: self._fattest[each].peak_bytes)]

    def summary(self) -> PacingSummary:
        """All of it."""
        fattest = sorted(self._fattest.values(), key=lambda each: -each.peak_bytes)[:TOLD]
        return PacingSummary(
            self._steps,
            self._waited,
            self._waited_seconds,
            self._most_running,
            self.stops,
            *self._peak,
            tuple(fattest),
        )
