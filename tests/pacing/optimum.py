# SPDX-License-Identifier: LGPL-2.1-or-later
"""What others could have reached: the best fixed -jN, a clairvoyant's schedule, and what no schedule can beat."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from random import Random

from tests.pacing.builds import Build, Work

_SLOTS = 800
"""Moments of the grid on which the clairvoyant plans; each slot counts with the most that is held in it."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """make -jN, by itself."""

    jobs: int
    makespan: float
    peak_bytes: float


def fixed(build: Build, jobs: int) -> Fixed:
    """How `make -jN` goes if nobody ever waits; exact: between two ends every step progresses alike."""
    queue = list(build.works)
    running: list[tuple[float, Work]] = []  # (its start in progress, the work)
    now = progress = peak = 0.0
    while queue or running:
        while queue and len(running) < jobs:
            running.append((progress, queue.pop(0)))
        base = build.base_bytes + build.driver_bytes * len(running)
        until = min(start + work.run_seconds for start, work in running)
        moments = {progress, until} | {
            start + at for start, work in running for at, _ in work.course if progress < start + at < until
        }
        peak = max(peak, *(base + sum(held_at(work, moment - start) for start, work in running) for moment in moments))
        share = min(1.0, build.cores / len(running)) if build.cores else 1.0
        now += (until - progress) / share
        progress = until
        running = [(start, work) for start, work in running if start + work.run_seconds > until + 1e-9]
    return Fixed(jobs, now, peak)


def best_fixed(build: Build) -> Fixed:
    """The fastest -jN that fits, N up to the build's own; -j1 if none does."""
    found = [fixed(build, jobs) for jobs in range(1, build.jobs + 1)]
    return min(
        (each for each in found if each.peak_bytes <= build.limit_bytes),
        key=lambda each: each.makespan,
        default=found[0],
    )


def held_at(work: Work, seconds: float) -> float:
    """What it holds after so long a run."""
    for (at, held), (to, then) in zip(work.course, work.course[1:], strict=False):
        if seconds <= to:
            return held + (then - held) * max(0.0, seconds - at) / (to - at) if to > at else then
    return work.course[-1][1]


def lower_bound(build: Build) -> float:
    """No schedule is faster: memory-time over the budget, the longest step, work over the cores."""
    room = build.limit_bytes - build.base_bytes
    bounds = [sum(work.area for work in build.works) / room, max(work.run_seconds for work in build.works)]
    if build.cores:
        bounds.append(sum(work.run_seconds for work in build.works) / build.cores)
    bounds.append(sum(work.run_seconds for work in build.works) / build.jobs)
    return max(bounds)


def clairvoyant(build: Build, shuffles: int = 12) -> float:
    """List scheduling by known courses: each step, in some order, at the first moment at which it fits for its whole
    life. The best of several orders: the optimum's stand-in, which nobody can compute."""
    works = list(build.works)
    orders = [
        works,
        sorted(works, key=lambda work: -work.run_seconds),
        sorted(works, key=lambda work: -work.peak_bytes),
        sorted(works, key=lambda work: -work.area),
        sorted(works, key=lambda work: work.peak_bytes),
    ]
    random = Random(0)
    orders += [random.sample(works, len(works)) for _ in range(shuffles)]
    slot = max(lower_bound(build) * 1.5 / _SLOTS, 1e-3)
    return min(_scheduled(build, order, slot) for order in orders)


def _scheduled(build: Build, order: Sequence[Work], slot: float) -> float:
    usage: list[float] = []
    count: list[int] = []
    most = min(build.jobs, build.cores or build.jobs)
    room = build.limit_bytes - build.base_bytes
    last = 0.0
    for work in order:
        needs = [need + build.driver_bytes for need in _needs(work, slot)]
        start = 0
        while True:
            bad = -1
            for index in range(min(len(needs), len(usage) - start) - 1, -1, -1):
                if usage[start + index] + needs[index] > room or count[start + index] >= most:
                    bad = start + index
                    break
            if bad < 0:
                break
            start += 1
        usage += [0.0] * (start + len(needs) - len(usage))
        count += [0] * (start + len(needs) - len(count))
        for index, need in enumerate(needs):
            usage[start + index] += need
            count[start + index] += 1
        last = max(last, start * slot + work.run_seconds)
    return last


def _needs(work: Work, slot: float) -> list[float]:
    count = max(1, ceil(work.run_seconds / slot - 1e-9))
    needs = [
        max(held_at(work, index * slot), held_at(work, min((index + 1) * slot, work.run_seconds)))
        for index in range(count)
    ]
    for at, held in work.course:
        index = min(int(at / slot), count - 1)
        needs[index] = max(needs[index], held)
    return needs
