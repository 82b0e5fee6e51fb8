# SPDX-License-Identifier: LGPL-2.1-or-later
"""What pacing costs: CPU time of the pacer while it paces twenty steps, and while all have room.

    python3 -m tests.bench.pacing_cost [RUNS]

Without a cgroup, where looking is dearest. The steps grow by the clock and hardly compute, so that on two cores the
pacer is measured and not what it has to wait for.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.cli.slicemgr_command import SLICEMGR

ROOT = Path(__file__).parent.parent.parent
STEP = "/usr/bin/python3 {hog} --start 5M --grow {grow}M --rate 20M --hold 2 --comm step{number}"


def run(folder: Path, limit: str, steps: int) -> tuple[float, float, int]:
    """Elapsed seconds, the pacer's CPU seconds, and how many steps waited."""
    hog = ROOT / "tests/hog.py"
    rules = [
        f"s{number}:\n\t@{STEP.format(hog=hog, grow=115 + number * 37 % 80, number=number)}\n"
        for number in range(steps)
    ]
    (folder / "Makefile").write_text(f"all: {' '.join(f's{number}' for number in range(steps))}\n" + "".join(rules))
    report = folder / "report.json"
    command = [*SLICEMGR, "run", "--backend", "embedded", "--max", limit, "--json", str(report), "--", "make", "-j20"]
    environment = {"PATH": "/usr/bin:/bin", "XDG_STATE_HOME": str(folder / "state"), "HOME": str(folder)}
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    told = json.loads(report.read_text())
    return told["elapsed_seconds"], told["pacing"]["cpu_seconds"], told["pacing"]["waited"]


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    print("| twenty steps of 120 to 200 MB, 24 in all | limit | elapsed s | steps that waited | pacer, % of a core |")
    print("| --- | --- | --- | --- | --- |")
    for what, limit, builds in (
        ("paced, the first time", "1G", 1),
        ("the second time", "1G", 2),
        ("all have room", "12G", 2),
    ):
        found = []
        for _ in range(runs):
            with tempfile.TemporaryDirectory() as folder:
                found.append([run(Path(folder), limit, 24) for _ in range(builds)][-1])
        elapsed, cpu, waited = (statistics.median(column) for column in zip(*found, strict=True))
        print(f"| {what} | {limit} | {elapsed:.1f} | {waited:.0f} | {100 * cpu / elapsed:.2f} |")


if __name__ == "__main__":
    main()
