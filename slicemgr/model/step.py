# SPDX-License-Identifier: LGPL-2.1-or-later
"""A step of a build: one process that computes (a compiler, a linker), what is known of it, and what it does now."""

import enum
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StepSignature:
    """By what a step is recognised when the build runs again."""

    program: str
    """The file name of what is executed, without its directory; `cc1plus -E` is another program than `cc1plus`."""
    what: str
    """What it makes or reads, as its command line names it: an output, a crate, a source; or all its arguments."""
    directory: str
    """Where it runs."""


@dataclass(frozen=True, slots=True)
class Profile:
    """How a step takes memory while it runs: it rises to its peak, stays there, and ends.

    Times are of running: what it waited for us is not in them.
    """

    peak_bytes: int
    """The most that it held of what can't be reclaimed."""
    rise_seconds: float
    """From its start until it held that."""
    run_seconds: float
    """From its start to its end; not below `rise_seconds`."""


class StepState(enum.Enum):
    """What a step does."""

    NEW = "held at birth"
    RUNNING = "running"
    WAITING = "stopped by us"


@dataclass(frozen=True, slots=True)
class Step:
    """One step at one instant."""

    order: int
    """Its number by age: a lower one is older, and no two are alike."""
    state: StepState
    held_bytes: int
    """What it holds now of what can't be reclaimed."""
    ran_seconds: float = 0.0
    """How long it has run, without what it waited."""
    growth_bytes_per_second: float = 0.0
    """Measured over the last looks while it ran; 0 for who has not run yet."""
    still_seconds: float = 0.0
    """For how long of its running it has not grown."""
    kind: str = ""
    """The program: steps of one kind tell about each other."""
    profile: Profile | None = None
    """What was learnt of it before, if it was."""
    since_seconds: float = 0.0
    """For how long it has been in this state."""
    may_wait: bool = True
    """False for who must not be stopped (any more): it has children, reads the terminal, or was excluded."""
    alone: bool = False
    """It was killed for lack of memory and comes again: it runs when no other step does, and no other one begins
    meanwhile."""
