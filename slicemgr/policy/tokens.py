# SPDX-License-Identifier: LGPL-2.1-or-later
"""How many jobs a make may have at once, and which of its job tokens are lost. Light, see model/quantity.py.

That everything fits is not decided here: steps are held at birth, and policy/pacing.py lets them go. But what is held
at birth is there, with the sh and the gcc that started it, and twenty of those take from the budget what a running one
could use. So a make gets tokens for what runs, and for a few more that the plan can choose from.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Final

FIRST_TOKENS: Final = 3
"""Jobs that a make may have before anybody looks: importing the pacer takes 60 to 100 ms, in which three compilers have
read their headers, and twenty would hold the budget of a small slice between them."""

LEAST_WAITING: Final = 2
"""The plan can choose only from what is there; and when a step ends the next one is born already, and
need not be forked, executed and found first. (Argued, not measured.)"""

WAITING_SHARE: Final = 0.05
"""Of the budget, for what waits at birth: the build is to lose no more than that to being paced. (Chosen, not
measured.)"""

ASSUMED_BIRTH_BYTES: Final = 12 << 20
"""Of one step held at birth and its drivers, until one was measured. sh, g++ and cc1plus of four headers had 0.4 MB of
anonymous memory stopped at once, 4 MB stopped after 50 ms, and 6 to 25 MB of RSS, most of it program text that all
share: the middle, as it may be either that is counted."""

LOST_AFTER_SECONDS: Final = 1.0
"""A client has a token for a moment before it has started the job, and after it has ended. Chosen long against
that, not measured: a wrong guess is a job too many until the token is back, a late one a job too few for a second."""


def allowed(
    running_steps: int,
    waiting_new: int,
    waiting_bytes_at_birth: int,
    budget_bytes: int,
    ceiling: int,
    *,
    is_cold: bool,
    cores: int,
) -> int:
    """How many jobs may have a place now; from 1 to `ceiling`, the N of -jN.

    `running_steps`: that compute; also jobs that are no steps, if they take long (a download, a sub-make that reads),
    or they would keep places from steps. `waiting_new`: held at birth, with `waiting_bytes_at_birth` together, their
    drivers included. Steps that were stopped later are in neither: their jobs have places, and what they hold is to go
    first. `is_cold`: of the build's steps no size is known yet; then no more come than the plan would begin.
    """
    if waiting_new > 0 and waiting_bytes_at_birth > 0:
        birth_bytes = waiting_bytes_at_birth / waiting_new
    else:
        birth_bytes = float(ASSUMED_BIRTH_BYTES)
    fitting = int(budget_bytes * WAITING_SHARE / birth_bytes)
    if is_cold:
        waiting = max(LEAST_WAITING, FIRST_TOKENS - running_steps)
    else:
        waiting = max(LEAST_WAITING, fitting, cores - running_steps)
    return max(1, min(running_steps + waiting, ceiling))


class Holder:
    """A process of a build, as far as it may have tokens. A value: never changed."""

    __slots__ = ("is_driver", "is_make", "parent", "pid", "threads")

    def __init__(
        self, pid: int, parent: int, threads: int = 1, *, is_make: bool = False, is_driver: bool = False
    ) -> None:
        """`is_driver`: a shell or a driver of compilers, which only hands on its parent's place; no make."""
        self.pid = pid
        self.parent = parent
        self.threads = threads
        self.is_make = is_make
        self.is_driver = is_driver


def most_held(members: Iterable[Holder], root: int) -> int:
    """How many tokens these can have at most; `root` is the command itself.

    A client has one for each job that it has started, and a job is a child of it: a sub-make, or a shell that starts
    gcc that starts cc1, which is one job and not three. make has one less, as its first job is its own place; not every
    client is that frugal. Threads may be jobs as well (rustc), each beyond the first; and whose parent is gone may be a
    job of somebody we do not know.

    A program that keeps tokens between its jobs may have more: cargo does, and `make -l` while the load is too high.
    Where one lives nothing is to be taken for lost.
    """
    table = {member.pid: member for member in members}
    jobs = dict.fromkeys(table, 0)
    bound = 0
    for member in table.values():
        bound += member.threads - 1
        if member.parent in jobs:
            jobs[member.parent] += 1
        elif member.pid != root:
            bound += 1
    for pid, member in table.items():
        if not member.is_driver:
            bound += max(0, jobs[pid] - 1) if member.is_make else jobs[pid]
    return bound


class Missing:
    """Tokens that nobody can have, for how long. A value: never changed."""

    __slots__ = ("least", "since_seconds")

    def __init__(self, least: int, since_seconds: float) -> None:
        self.least = least
        """So many all the time since then."""
        self.since_seconds = since_seconds


def lost_tokens(before: Missing | None, outstanding: int, bound: int, now_seconds: float) -> tuple[Missing | None, int]:
    """What to remember until the next look, and how many tokens come back now.

    Of a killed client nobody brings them back. `outstanding`, counted before the processes, beyond `bound` (at most so
    many can have one, see `most_held`), and all the time for LOST_AFTER_SECONDS: so many are lost.
    """
    excess = outstanding - bound
    if excess <= 0:
        return None, 0
    if before is None:
        return Missing(excess, now_seconds), 0
    least = min(before.least, excess)
    if now_seconds - before.since_seconds > LOST_AFTER_SECONDS:
        return None, least
    return Missing(least, before.since_seconds), 0
