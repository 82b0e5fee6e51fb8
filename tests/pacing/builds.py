# SPDX-License-Identifier: LGPL-2.1-or-later
"""Builds to simulate: each step as it truly is, memory over the time that it runs.

The synthetic ones are those of the project's first sketch and of the issue; the recorded ones are in
tests/data/builds, see its README.
"""

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from random import Random

MB = 1_000_000
MIB = 1 << 20
GIB = 1 << 30
RECORDED = Path(__file__).parent.parent / "data" / "builds"


@dataclass(frozen=True, slots=True)
class Work:
    """One step: what it holds at each moment of its running."""

    kind: str
    course: tuple[tuple[float, float], ...]
    """(seconds of running, bytes), lines between; the last one is its end."""

    @property
    def run_seconds(self) -> float:
        """From its start to its end, undisturbed."""
        return self.course[-1][0]

    @property
    def peak_bytes(self) -> float:
        """The most that it ever holds."""
        return max(held for _, held in self.course)

    @property
    def area(self) -> float:
        """Bytes times seconds."""
        return sum((to - at) * (a + b) / 2 for (at, a), (to, b) in zip(self.course, self.course[1:], strict=False))

    def scaled(self, memory: float, time: float) -> "Work":
        """The same at another size and speed."""
        return replace(self, course=tuple((at * time, held * memory) for at, held in self.course))


def rising(
    kind: str, first: float, rate: float, peak: float, hold: float, drop_to: float = 0.0, drop_seconds: float = 0.0
) -> Work:
    """Grows at `rate` bytes per second to its peak, stays there, and may hold less for some time before its end."""
    rise = max(1e-3, (peak - first) / rate)
    course = [(0.0, first), (rise, peak), (rise + hold, peak)]
    if drop_seconds:
        course += [(rise + hold + 1e-3, drop_to), (rise + hold + drop_seconds, drop_to)]
    return Work(kind, tuple(course))


@dataclass(frozen=True, slots=True)
class Build:
    """What a build tool starts, in this order, and where."""

    name: str
    works: tuple[Work, ...]
    limit_bytes: float
    jobs: int = 20
    """The N of -jN that it was started with."""
    cores: int | None = None
    """None: each step has a core of its own, or mostly waits."""
    base_bytes: float = 10 * MB
    """make, its shells."""
    driver_bytes: float = 0.5 * MB
    """For each step that is alive: its sh and its gcc."""

    def varied(self, seed: int, share: float = 0.02) -> "Build":
        """The same build again: each step a little different in size and time."""
        random = Random(seed)
        works = tuple(
            work.scaled(random.uniform(1 - share, 1 + share), random.uniform(1 - share, 1 + share))
            for work in self.works
        )
        return replace(self, works=works)

    def can_finish(self) -> bool:
        """Whether any order fits: each step alone, beside all that are held at their births."""
        held = self.base_bytes + min(self.jobs, len(self.works)) * (self.driver_bytes + BIRTH_BYTES)
        return max(work.peak_bytes for work in self.works) + held <= self.limit_bytes


BIRTH_BYTES = 5 * MB
"""What a compiler holds that is stopped some ms after its exec: an assumption."""


def _shuffled(works: Sequence[Work], random: Random) -> tuple[Work, ...]:
    return tuple(random.sample(list(works), len(works)))


def equal(seed: int = 1, count: int = 24, limit: float = 1100 * MB, **options: int | None) -> Build:
    """The first row of the sketch: 120-200 MB at 10 MB/s, 6 s at the peak."""
    random = Random(seed)
    works = [rising("cc1plus", 5 * MB, 10 * MB, random.uniform(120, 200) * MB, 6.0) for _ in range(count)]
    return Build(f"equal-{seed}", tuple(works), limit, **options)  # type: ignore[arg-type]


def issue(seed: int = 1) -> Build:
    """The issue's own: 24 steps of 120-200 MB, -j20, 1 GiB; as slow as those of the sketch."""
    return replace(equal(seed), name=f"issue-{seed}", limit_bytes=GIB)


def quick(seed: int = 1) -> Build:
    """The same sizes at the speed of a first prototype's steps in a guest: 40 MB/s, 3 s at the peak."""
    random = Random(seed)
    works = [rising("hog", 5 * MB, 40 * MB, random.uniform(120, 200) * MB, 3.0) for _ in range(24)]
    return Build(f"quick-{seed}", tuple(works), GIB)


def mixed(seed: int = 1, count: int = 24, limit: float = 1000 * MB, **options: int | None) -> Build:
    """The second row: 30-400 MB, 10-100 MB/s."""
    random = Random(seed)
    works = [
        rising("cc1plus", 5 * MB, random.uniform(10, 100) * MB, random.uniform(30, 400) * MB, random.uniform(1.0, 8.0))
        for _ in range(count)
    ]
    return Build(f"mixed-{seed}", tuple(works), limit, **options)  # type: ignore[arg-type]


def fast(seed: int = 1, count: int = 24, limit: float = 1000 * MB) -> Build:
    """The third row: 100-300 MB, fast growth, a short hold."""
    random = Random(seed)
    works = [
        rising("cc1plus", 5 * MB, random.uniform(60, 150) * MB, random.uniform(100, 300) * MB, random.uniform(0.5, 2.5))
        for _ in range(count)
    ]
    return Build(f"fast-{seed}", tuple(works), limit)


def linkers(seed: int = 1) -> Build:
    """Small compilers, and some linkers four times as big at the end of each dozen; they drop before they end."""
    random = Random(seed)
    works: list[Work] = []
    for _ in range(3):
        works += [
            rising(
                "cc1plus", 5 * MB, random.uniform(30, 80) * MB, random.uniform(60, 130) * MB, random.uniform(0.5, 3.0)
            )
            for _ in range(12)
        ]
        works.append(rising("ld", 4 * MB, 200 * MB, random.uniform(350, 500) * MB, random.uniform(1, 2), 200 * MB, 0.7))
    return Build(f"linkers-{seed}", tuple(works), 900 * MB)


def giant(seed: int = 1) -> Build:
    """One step takes nearly the whole budget and comes anywhere among small ones."""
    random = Random(seed)
    works = [
        rising("cc1plus", 5 * MB, random.uniform(20, 60) * MB, random.uniform(40, 120) * MB, random.uniform(0.5, 3.0))
        for _ in range(23)
    ]
    works.append(rising("lto1", 5 * MB, 60 * MB, 600 * MB, 3.0))
    return Build(f"giant-{seed}", _shuffled(works, random), 800 * MB)


def roomy(seed: int = 1) -> Build:
    """`make -j20` of small compilers on a machine of 20 GiB: nothing to do."""
    random = Random(seed)
    works = [
        rising("cc1plus", 5 * MB, random.uniform(30, 150) * MB, random.uniform(60, 400) * MB, random.uniform(0.3, 2.0))
        for _ in range(80)
    ]
    return Build(f"roomy-{seed}", tuple(works), 20 * GIB)


def laptop(seed: int = 1) -> Build:
    """`make -j8` of small compilers under 4 GiB: it always fits, and guesses of a sixth of that do not."""
    random = Random(seed)
    works = [
        rising("cc1plus", 5 * MB, random.uniform(50, 150) * MB, random.uniform(60, 200) * MB, random.uniform(0.3, 1.5))
        for _ in range(80)
    ]
    return Build(f"laptop-{seed}", tuple(works), 4 * GIB, jobs=8)


def contended(seed: int = 1) -> Build:
    """Mixed steps on four cores."""
    random = Random(seed)
    works = [
        rising("cc1plus", 5 * MB, random.uniform(30, 150) * MB, random.uniform(60, 350) * MB, random.uniform(0.5, 2.5))
        for _ in range(30)
    ]
    return Build(f"four-cores-{seed}", tuple(works), 700 * MB, jobs=12, cores=4)


def manuals(seed: int = 1) -> Build:
    """The KDE manuals of the 2010 report at -j20 under 400 MB; a seed is an order."""
    return Build(f"manuals-{seed}", _shuffled(recorded("manuals"), Random(seed)), 400 * MB)


def cxx(seed: int = 1) -> Build:
    """g++ on heavy headers at -j20 under 800 MB."""
    return Build(f"cxx-{seed}", _shuffled(recorded("cxx"), Random(seed)), 800 * MB)


@cache
def recorded(name: str) -> tuple[Work, ...]:
    """The steps of a real build, each with its course."""
    with gzip.open(RECORDED / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return tuple(Work(row["kind"], tuple((at, held) for at, held in row["course"])) for row in rows)


SYNTHETIC = {
    each.__name__: each for each in (equal, issue, quick, mixed, fast, linkers, giant, contended, roomy, laptop)
}
RECORDED_BUILDS = {each.__name__: each for each in (manuals, cxx)}
BUILDS = SYNTHETIC | RECORDED_BUILDS
