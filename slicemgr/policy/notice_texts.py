# SPDX-License-Identifier: LGPL-2.1-or-later
"""The words of a notice: who, why, how much, and what to do. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from slicemgr.model.decision import Evidence, Resource, Shortage
from slicemgr.model.notice import Bubble, NoticeAction, Urgency
from slicemgr.model.quantity import format_size

NAMED: Final = 5
"""Processes by name: two lines of a bubble."""

_LONGEST_NAME: Final = 40
"""Characters of a job's name: a summary is one line. (A process has 15 bytes.)"""

_SLICES: Final = {"build": "the builds", "app": "the apps", "session": "the session"}
_NOUNS: Final = {"build": "build", "app": "app"}


@dataclass(frozen=True, slots=True)
class Gone:
    """A process that was ended."""

    name: str
    """As it called itself: any text."""
    held_bytes: int | None = None
    """What of it counted against the limit; None where only the kernel knows."""


@dataclass(frozen=True, slots=True)
class AtLimit:
    """Why somebody was ended, or should have been."""

    shortage: Shortage | None
    """None: the kernel's OOM killer was first, and says no more."""
    is_own: bool
    """The limit was the job's own, not that of a slice around it."""


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom a notice is about: a job, or all of a slice."""

    slice: str
    """Its name, `build`."""
    job: str = ""
    """Its name, any text; empty: the slice."""
    is_ours: bool = False
    """It is a job that we can stop, resume, and set limits of."""

    @property
    def noun(self) -> str:
        """What people call such a job."""
        return _NOUNS.get(self.slice.partition("-")[0], "job")

    @property
    def phrase(self) -> str:
        """`build "make"`, `the apps`, `slice "agent"`."""
        if self.job:
            return f'{self.noun} "{plain(self.job)}"'
        return _SLICES.get(self.slice, f'slice "{plain(self.slice)}"')


@dataclass(frozen=True, slots=True)
class Sums:
    """What has happened since a bubble began."""

    ended: int = 0
    """Processes."""
    by_kernel: int = 0
    """Of these, those that its OOM killer took."""
    held_bytes: int = 0
    """By all of them, as far as it is known."""
    latest: tuple[Gone, ...] = ()
    """The newest first, at most NAMED."""
    limit: AtLimit | None = None
    """Why the last of them was ended."""
    slowed: tuple[int, int] | None = None
    """Used bytes, and memory.high."""
    slowed_by_own: bool = False
    stands_still: AtLimit | None = None
    out_of_reach: bool = False
    paused_bytes: int | None = None
    """What the job holds while it is paused; None: it is not."""
    has_left: bool = False
    """The job is no more."""


def bubble_of(subject: Subject, sums: Sums) -> Bubble | None:
    """None if there is nothing to tell."""
    phrase = subject.phrase
    urgency, is_transient = Urgency.NORMAL, False
    if sums.stands_still is not None:
        urgency = Urgency.CRITICAL
        summary = f"Nothing{' more' if sums.ended else ''} can be ended in {phrase}"
    elif sums.ended:
        summary = f"{_count(sums.ended)} ended in {phrase}"
    elif sums.paused_bytes is not None:
        urgency = Urgency.LOW
        summary = f"{phrase[:1].upper()}{phrase[1:]} is paused"
    elif sums.slowed is not None:
        is_transient = True
        summary = f"Memory is short in {phrase}"
    else:
        return None
    return Bubble(summary, "\n".join(_body(subject, sums)), urgency, tuple(_actions(subject, sums)), is_transient)


def plain(name: str) -> str:
    """The name with everything that is not plainly visible replaced (controls, bidirectional marks, stray bytes), and
    not longer than that."""
    cut = name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in cut) or "?"


def _body(subject: Subject, sums: Sums) -> Iterator[str]:
    if sums.ended:
        yield _who(sums)
    if sums.stands_still is not None:
        yield _why(sums.stands_still)
        if sums.out_of_reach:
            yield "It is in files that no process's end frees. Remove what it wrote to /dev/shm or /tmp."
        else:
            yield "None of its processes may be ended. Stop it, or give it a higher limit."
        return
    if sums.limit is not None:
        yield _why(sums.limit)
        if sums.paused_bytes is None:
            yield _advice(subject, sums.limit)
    if sums.paused_bytes is not None:
        yield f"It keeps {format_size(sums.paused_bytes)}, and goes on when it is resumed."
    elif sums.slowed is not None and not sums.ended:
        used, high = sums.slowed
        whose = "It" if sums.slowed_by_own else "The slice"
        yield f"{whose} uses {format_size(used)}, above {format_size(high)} (memory.high), and is slowed down."
        yield "If that goes on, one process is ended."


def _who(sums: Sums) -> str:
    """`meinproc5 (120.3M), cc1plus (80.0M) and 1 more; 260.3M in all, 1 by the kernel.`"""
    names = [
        plain(each.name) if each.held_bytes is None else f"{plain(each.name)} ({format_size(each.held_bytes)})"
        for each in sums.latest
    ]
    unnamed = sums.ended - len(names)
    listed = ", ".join(names)
    if unnamed > 0:
        listed += f" and {unnamed} more" if names else _count(unnamed)
    parts = []
    if sums.held_bytes and sums.ended > 1:
        parts.append(f"{format_size(sums.held_bytes)} in all")
    if sums.by_kernel:
        parts.append(("" if sums.by_kernel == sums.ended else f"{sums.by_kernel} ") + "by the kernel")
    return f"{listed}; {', '.join(parts)}." if parts else f"{listed}."


def _count(processes: int) -> str:
    return "1 process" if processes == 1 else f"{processes} processes"


def _why(limit: AtLimit) -> str:
    shortage = limit.shortage
    if shortage is None:
        return f"The kernel's OOM killer was first, at {'its limit' if limit.is_own else 'the limit of the slice'}."
    used, allowed = format_size(shortage.usage_bytes), format_size(shortage.limit_bytes)
    if shortage.resource is Resource.MACHINE:
        return f"The machine had {used} available, of at least {allowed}."
    text = f"{'It' if limit.is_own else 'The slice'} used {used} of its limit of {allowed} ({shortage.resource.value})"
    if shortage.evidence not in {Evidence.PASSED, Evidence.MACHINE}:
        text += f", and {shortage.evidence.value}"
    return f"{text}."


def _advice(subject: Subject, limit: AtLimit) -> str:
    fewer = "close what is not needed" if subject.slice in {"app", "session"} else "fewer steps at once"
    if limit.shortage is not None and limit.shortage.resource is Resource.MACHINE:
        return f"To keep all: {fewer}."
    if not limit.is_own:
        return f'To keep all: {fewer}, or a higher memory_max of "{plain(subject.slice)}" in slicemgr.toml.'
    return f"To keep all: {fewer}, or a higher limit."


def _actions(subject: Subject, sums: Sums) -> Iterator[tuple[NoticeAction, str]]:
    if not subject.is_ours or sums.has_left:
        return
    if sums.paused_bytes is not None:
        yield NoticeAction.RESUME, f"Resume the {subject.noun}"
    elif _would_help(sums):
        yield NoticeAction.MORE_MEMORY, "A quarter more memory"
    yield NoticeAction.STOP, f"Stop the {subject.noun}"


def _would_help(sums: Sums) -> bool:
    """Whether the job lacks what its own limits keep from it, and not what the slice or the machine has not."""
    limit = sums.stands_still or sums.limit
    if limit is None:
        return sums.slowed is not None and sums.slowed_by_own
    resource = Resource.MEMORY if limit.shortage is None else limit.shortage.resource
    return limit.is_own and resource in {Resource.MEMORY, Resource.HIGH}
