# SPDX-License-Identifier: LGPL-2.1-or-later
"""How long does a build take whose steps wait, beside the best fixed -jN that fits?

    python3 -m tests.bench.pacing_guest      # a Markdown table, ten minutes; a machine with cgroup v2 and make

or the same in the guest, where the table comes to be among the results:

    SLICEMGR_VM_BENCH=1 pytest tests/vm/test_pacing_bench.py

Steps grow by wall clock and use next to no core, so that memory is all that they wait for: it says what pacing does, and
nothing about compilers that wait for cores as well.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

HOG = Path(__file__).parents[1] / "hog.py"
LIMIT = "400M"
ALIKE = [("60M", "25M", "3")] * 16
MIXED = [("20M", "20M", "1"), ("30M", "20M", "3"), ("150M", "50M", "2"), ("60M", "25M", "2")] * 4
"""What each step grows by, how fast in a second, and for how long it keeps that."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one build."""

    seconds: float
    killed: int
    stops: int
    peak_mib: int


def run(folder: Path, jobs: int, state: Path, *options: str) -> Outcome:
    """One build to its end."""
    file = folder / "report.json"
    command = ["slicemgr", "run", "--max", LIMIT, "--json", str(file), *options]
    environment = {**os.environ, "XDG_STATE_HOME": str(state)}
    subprocess.run(
        [*command, "--", "make", "-k", f"-j{jobs}", "-C", str(folder)],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    report = json.loads(file.read_text())
    stops = 0 if report["pacing"] is None else report["pacing"]["stops"]
    killed = len(report["kills"]) + len(report["kernel_kills"])
    return Outcome(report["elapsed_seconds"], killed, stops, report["peak_bytes"] >> 20)


def prepare(folder: Path, steps: list[tuple[str, str, str]]) -> None:
    """A Makefile of these."""
    rules = ""
    for at, (grow, rate, hold) in enumerate(steps):
        rules += (
            f"s{at}:\n\t@{sys.executable} -IS {HOG} --start 5M --grow {grow} --rate {rate} --hold {hold} --comm s{at}\n"
        )
    names = " ".join(f"s{at}" for at in range(len(steps)))
    (folder / "Makefile").write_text(f"all: {names}\n.PHONY: all {names}\n{rules}")


def measure(steps: list[tuple[str, str, str]]) -> dict[str, Outcome]:
    """Fixed -jN, one more each time, until something is killed; then all at once, paced: nothing known, and known."""
    found: dict[str, Outcome] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder, state = Path(scratch), Path(scratch) / "state"
        prepare(folder, steps)
        for jobs in range(2, len(steps) + 1):
            found[f"-j{jobs}"] = run(folder, jobs, state, "--no-pacing")
            if found[f"-j{jobs}"].killed:
                break
        for name in ("paced, nothing known", "paced, known", "paced, known (again)"):
            found[name] = run(folder, len(steps), state)
    return found


def table(name: str, found: dict[str, Outcome]) -> str:
    """As Markdown."""
    best = min(each.seconds for way, each in found.items() if way.startswith("-j") and not each.killed)
    lines = [f"| {name} | s | to the best -jN | killed | stops | peak, MiB |", "| --- | --- | --- | --- | --- | --- |"]
    for way, each in found.items():
        ratio = f"{each.seconds / best:.2f}"
        lines.append(f"| {way} | {each.seconds:.1f} | {ratio} | {each.killed} | {each.stops} | {each.peak_mib} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Both builds."""
    for name, steps in (("alike", ALIKE), ("mixed", MIXED)):
        print(table(name, measure(steps)), flush=True)


if __name__ == "__main__":
    main()
