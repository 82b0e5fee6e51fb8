# SPDX-License-Identifier: LGPL-2.1-or-later
"""What counts as memory? Four answers for the same process trees, and what each answer costs.

    python3 -m tests.bench.accounting                  # the cases of `CASES`, as Markdown tables
    python3 -m tests.bench.accounting -- make -j8      # one command

A first run of each case takes all four readings; further runs follow it with the ladder that slicemgr climbs:
the RSS sum of statm always, status when that is over the limit, smaps_rollup when status is over it as well.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from tests.bench.proc_readings import (
    Reading,
    become_subreaper,
    checkout,
    descendants,
    own_pss_bytes,
    read,
    stack_base,
    statm_rss_bytes,
    status_bytes,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SURVEY_SECONDS = 0.1
"""A survey of 60 processes costs some 20 ms, so one every 100 ms leaves the build its two cores."""

LADDER_SECONDS = 0.01

GONE = (FileNotFoundError, ProcessLookupError, IndexError)
"""A process in its last moments: no file, ESRCH, or a file that is empty."""

MIB = 1 << 20

HOG = [sys.executable, "tests/hog.py"]
MAKE = ["make", "-s", "-C"]
CASES = {
    "kde-docs -j20": [*MAKE, "examples/kde-docs", "-j20"],
    "cxx -j8": [*MAKE, "examples/cxx", "-j8"],
    "cxx -j20": [*MAKE, "examples/cxx", "-j20"],
    "100M shared by 20 forks": [*HOG, "--start", "100M", "--fork-share", "20", "--hold", "3"],
    "200M shmem in 5 processes": [*HOG, "--shmem", "200M", "--fork-share", "4", "--hold", "3"],
    "300M of a mapped file": [*HOG, "--file", "300M", "@OUT@/file", "--hold", "3"],
}


@dataclass(frozen=True, slots=True)
class Sample:
    """A whole tree at one instant."""

    readings: tuple[Reading, ...]

    def total(self, name: str) -> int:
        return sum(getattr(reading, name) for reading in self.readings)


@dataclass(frozen=True, slots=True)
class Climb:
    """What the ladder did over one run: polls that ended on each rung, and its CPU time against the run's."""

    polls: tuple[int, int, int]
    gaps_ms: list[float]
    """From the end of one poll to the end of the next, ascending: 10 unless the poll had to wait for a CPU."""

    cpu_seconds: float
    elapsed_seconds: float


def ticks(command: list[str], period_seconds: float) -> Iterator[list[int]]:
    """Start COMMAND afresh; yield the pids of its tree every period until it has ended."""
    with tempfile.TemporaryDirectory(prefix="accounting-") as out:
        argv = [word.replace("@OUT@", out) for word in command]
        env = {**os.environ, "OUT": out}  # the examples' makefiles build below OUT
        quiet = subprocess.DEVNULL
        with subprocess.Popen(argv, cwd=checkout(), env=env, stdout=quiet, stderr=quiet) as process:
            due = time.monotonic()
            while process.poll() is None:
                yield descendants(os.getpid())
                due = max(due + period_seconds, time.monotonic())
                time.sleep(max(0.0, due - time.monotonic()))
            if process.returncode:
                sys.exit(f"accounting: {' '.join(argv)} ended with {process.returncode}")


def survey(command: list[str]) -> list[Sample]:
    samples = []
    for pids in ticks(command, SURVEY_SECONDS):
        readings = [reading for pid in pids if (reading := read(pid)) is not None]
        if readings:
            samples.append(Sample(tuple(readings)))
    return samples


def total(reading: Callable[[int], int], pids: list[int]) -> int:
    result = 0
    for pid in pids:
        with contextlib.suppress(*GONE):
            result += reading(pid)
    return result


def kin_only(pids: list[int]) -> int:
    """d, but with smaps_rollup only where pages can be shared at all; for the others d is b."""
    families: dict[int, list[int]] = {}
    for pid in pids:
        with contextlib.suppress(*GONE):
            families.setdefault(stack_base(pid), []).append(pid)
    result = 0
    for family in families.values():
        for pid in family:
            with contextlib.suppress(*GONE):
                status = status_bytes(pid)
                if len(family) > 1 or status.get(b"RssShmem"):
                    result += own_pss_bytes(pid) + status.get(b"VmPTE", 0)
                else:
                    result += sum(status.values())
    return result


def everyone(pids: list[int]) -> int:
    return total(own_pss_bytes, pids)


def climb(command: list[str], limit_bytes: int, last_rung: Callable[[list[int]], int]) -> Climb:
    polls, ends = [0, 0, 0], []
    begin, begin_cpu = time.monotonic(), time.process_time()
    for pids in ticks(command, LADDER_SECONDS):
        rung = 0
        if total(statm_rss_bytes, pids) > limit_bytes:
            rung = 1
            if total(lambda pid: sum(status_bytes(pid).values()), pids) > limit_bytes:
                rung = 2
                last_rung(pids)
        polls[rung] += 1
        ends.append(time.monotonic())
    gaps_ms = sorted((end - before) * 1e3 for before, end in pairwise(ends))
    return Climb((polls[0], polls[1], polls[2]), gaps_ms, time.process_time() - begin_cpu, time.monotonic() - begin)


def row(*cells: object) -> None:
    print("|", " | ".join(map(str, cells)), "|", flush=True)


def heading(*cells: str) -> None:
    print()
    row(*cells)
    row(*("---" for _ in cells))


def microseconds(values: list[int]) -> str:
    ordered = sorted(values)
    return f"{statistics.median(ordered) / 1e3:.0f} / {ordered[len(ordered) * 95 // 100] / 1e3:.0f}"


def show_surveys(surveys: dict[str, list[Sample]]) -> None:
    names = ("rss_bytes", "own_rss_bytes", "pss_bytes", "own_pss_bytes")
    heading("tree (MiB; ratio to d at the moment of d's peak)", "a statm", "b status", "c Pss", "d own Pss", "n")
    for case, samples in surveys.items():
        at_peak = max(samples, key=lambda sample: sample.total("own_pss_bytes"))
        true = at_peak.total("own_pss_bytes")
        cells = [
            f"{max(s.total(name) for s in samples) / MIB:.0f} ({at_peak.total(name) / true:.2f})" for name in names
        ]
        row(case, *cells, max(len(s.readings) for s in samples))
    heading("CPU per process (us, median / 95 %)", "statm", "status", "smaps_rollup")
    for case, samples in surveys.items():
        every = [reading for sample in samples for reading in sample.readings]
        row(
            case,
            *(microseconds([getattr(r, f"{name}_ns") for r in every]) for name in ("statm", "status", "rollup")),
        )
    heading(
        "share of the samples",
        "limit",
        "a over it: needs b",
        "b over it: needs d",
        "d over it: to be acted on",
    )
    for case, samples in surveys.items():
        peak = max(sample.total("rss_bytes") for sample in samples)
        for percent in (25, 50, 75):
            limit = peak * percent // 100
            above = [sum(s.total(n) > limit for s in samples) for n in (names[0], names[1], names[3])]
            row(
                case,
                f"{percent} % = {limit // MIB} MiB",
                *(f"{100 * count / len(samples):.0f} %" for count in above),
            )


def show_climbs(surveys: dict[str, list[Sample]]) -> None:
    heading("ladder, every 10 ms, nothing killed", "limit", "d of", "polls on a / b / d", "gap 95 % / max (ms)", "CPU")
    for case, samples in surveys.items():
        peak = max(sample.total("rss_bytes") for sample in samples)
        for percent in (25, 50, 75, 1000):  # the last out of reach: the price of statm alone
            for last_rung in (everyone, kin_only)[: 1 if percent == 1000 else 2]:
                limit = peak * percent // 100
                result = climb(CASES.get(case) or sys.argv[2:], limit, last_rung)
                gaps = f"{result.gaps_ms[len(result.gaps_ms) * 95 // 100]:.0f} / {result.gaps_ms[-1]:.0f}"
                cpu = f"{100 * result.cpu_seconds / result.elapsed_seconds:.1f} %"
                row(case, f"{limit // MIB} MiB", last_rung.__name__, " / ".join(map(str, result.polls)), gaps, cpu)


def main() -> int:
    become_subreaper()
    cases = CASES
    if sys.argv[1:2] == ["--"]:
        cases = {" ".join(sys.argv[2:]): sys.argv[2:]}
    if not shutil.which("meinproc5"):
        cases = {name: command for name, command in cases.items() if "kde" not in name}
    surveys = {name: survey(command) for name, command in cases.items()}
    show_surveys(surveys)
    show_climbs({name: samples for name, samples in surveys.items() if name != "cxx -j8"})
    return 0


if __name__ == "__main__":
    sys.exit(main())
