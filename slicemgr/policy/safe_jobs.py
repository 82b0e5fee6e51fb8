# SPDX-License-Identifier: LGPL-2.1-or-later
"""How many steps of a build may run at once so that they fit, whichever those are: a number for `make -j`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

UNKNOWN_BYTES: Final = 512 << 20
"""For a step of a project of which nothing is known. g++ takes 100 to 300 MB for most files of C++ projects with heavy
headers, and some files take 1 GB; ld takes what its inputs have. Other projects that were learnt may only raise it:
somebody's scripts tell nothing about a compiler."""


@dataclass(frozen=True, slots=True)
class Headroom:
    """What may still be taken before one limit is reached."""

    bytes_left: int
    what: str
    """The limit, for people: `memory.max of build.slice`."""


def tightest(rooms: Iterable[Headroom]) -> Headroom:
    """The one that is reached first; of two the earlier. There has to be one."""
    return min(rooms, key=lambda room: room.bytes_left)


def unknown_bytes(elsewhere: Sequence[int]) -> int:
    """What to expect of a step where nothing was learnt; `elsewhere`: the highest peaks of all other projects."""
    return max(UNKNOWN_BYTES, sum(elsewhere) // len(elsewhere) if elsewhere else 0)


def held_bytes(count: int, peaks: Sequence[int], each_unknown_bytes: int) -> int:
    """The most that so many steps hold at once: the biggest that are known, and then of average size."""
    known = sorted(peaks, reverse=True)[:count]
    average = sum(peaks) // len(peaks) if peaks else each_unknown_bytes
    return sum(known) + average * (count - len(known))


def safe_jobs(cores: int, room_bytes: int, peaks: Sequence[int], each_unknown_bytes: int = UNKNOWN_BYTES) -> int:
    """The most steps at once, at least one and no more than there are cores.

    Not the room divided by the average: the big ones may run together. Nor divided by the biggest: one linker of 4 GB
    among a thousand compilers of 100 MB would make all of them run alone.
    """
    jobs = 1
    while jobs < cores and held_bytes(jobs + 1, peaks, each_unknown_bytes) <= room_bytes:
        jobs += 1
    return jobs
