# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a slice is to be: limits, shares, and the rule by which it gives up a process. The names are systemd's."""

import enum
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TypeAlias

from slicemgr.model.cgroup import is_below
from slicemgr.model.quantity import Amount


class SliceKind(enum.Enum):
    """What lives in a slice; when the machine itself runs out, builds go before apps, and apps before sessions."""

    BUILD = "build"
    APP = "app"
    SESSION = "session"


class VictimRule(enum.Enum):
    """Who goes when a slice or a job in it runs out."""

    HIGHEST_BADNESS_CHILD = "highest-badness-child"
    """The highest badness, or its highest-badness child: make lives, a compiler goes. See policy/victim.py."""
    HIGHEST_BADNESS = "highest-badness"
    """The highest badness itself, as the kernel since 2019."""
    WHOLE_JOB = "whole-job"
    """Everything in the job that holds the highest badness: half a database is worth nothing."""


class Auto(enum.Enum):
    """The word `auto`: the machine's memory less the session's reserve (policy/limits.py)."""

    AUTO = "auto"


SliceAmount: TypeAlias = Amount | Auto


@dataclass(frozen=True, slots=True)
class SliceSpec:
    """One slice as the configuration asks for it; None leaves a property as systemd has it."""

    unit: str
    """`build.slice`"""
    kind: SliceKind
    memory_high: SliceAmount | None = None
    memory_max: SliceAmount | None = None
    memory_swap_max: SliceAmount | None = None
    memory_low: SliceAmount | None = None
    memory_min: SliceAmount | None = None
    tasks_max: Amount | None = None
    """A number of tasks, or a share of the system's own maximum."""
    cpu_weight: int | None = None
    """1 to 10000, 100 is everybody's (systemd.resource-control(5))."""
    io_weight: int | None = None
    victim: VictimRule = VictimRule.HIGHEST_BADNESS_CHILD
    grace_seconds: float = 0.0
    """Between SIGTERM and SIGKILL; 0: SIGKILL at once."""
    protect: tuple[str, ...] = ()
    """Shell patterns of process names (comm) or unit names whose processes are never taken from this slice."""


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """When the machine itself is short, and what is kept for the session."""

    memory_available: Amount
    """Short if less than this is available (MemAvailable) ..."""
    swap_free: Amount
    """... and less than this share of the swap is free, or there is none."""
    session_reserve: SliceAmount
    """What `auto` leaves to the session."""
    vital_oom_score_adj: int
    """What the system's daemon sets for the vital processes of a session, -999 to 0; 0: they are left as they are."""


def slice_path(root: str, unit: str) -> str:
    """Where a slice of this manager is: `app-ci.slice` is in `app.slice` (systemd.slice(5))."""
    parts = unit.removesuffix(".slice").split("-")
    levels = ("-".join(parts[: end + 1]) + ".slice" for end in range(len(parts)))
    return "/".join((root.rstrip("/"), *levels))


def with_inner_protection(specs: Iterable[SliceSpec]) -> tuple[SliceSpec, ...]:
    """Who is spared in a slice is spared also when a slice around it is the one that is short."""
    every = tuple(specs)
    paths = [slice_path("", spec.unit) for spec in every]
    return tuple(
        replace(
            spec,
            protect=tuple(
                {
                    pattern: None
                    for inner, below in zip(every, paths, strict=True)
                    if is_below(below, path)
                    for pattern in inner.protect
                }
            ),
        )
        for spec, path in zip(every, paths, strict=True)
    )
