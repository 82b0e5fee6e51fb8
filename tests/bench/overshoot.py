# SPDX-License-Identifier: LGPL-2.1-or-later
"""How far does a build get above its limit before slicemgr has it down again, and what does watching cost?

    python3 -m tests.bench.overshoot [--runs N] [--max SIZE] [-- COMMAND...]

Without a command: the KDE manuals at -j20 under 400M. Three ways to be scheduled, in turn, so that a slow minute of
the machine hits all three: on equal terms with the build, raised above it (needs privilege), the build lowered below
it. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.proc_readings import checkout

KDE_MANUALS = ["make", "-s", "-k", "-C", "examples/kde-docs", "OUT=@OUT@", "-j20"]

# What slicemgr does by itself is one of the last two; a run sets the two constants to have each on purpose.
TERMS = {
    "on equal terms": (0, 0),
    "slicemgr at nice -10": (10, 0),
    "the command at nice 5": (-1, 5),
}
_START = """
import os, sys
from slicemgr.cli import main
from slicemgr.service import job
job.OWN_RAISE, job.COMMAND_LOWERING = {raise_}, {lowering}
if job.OWN_RAISE < 0:
    def only_lower(pid):
        os.setpriority(os.PRIO_PROCESS, pid, job.COMMAND_LOWERING)
    job._go_before = only_lower
raise SystemExit(main(sys.argv[1:]))
"""


@dataclass(frozen=True, slots=True)
class Run:
    """One build under the limit."""

    over: float
    """Peak as a share of the limit."""
    kills: int
    exit_ms: float
    """Median time from the decision to the exit of a victim."""
    cpu: float
    """Of slicemgr, as a share of one core over the build."""


def run(terms: tuple[int, int], limit: str, command: list[str]) -> Run:
    """A fresh build."""
    with tempfile.TemporaryDirectory(prefix="overshoot-") as folder:
        file = Path(folder) / "report.json"
        start = _START.format(raise_=terms[0], lowering=terms[1])
        argv = [word.replace("@OUT@", f"{folder}/out") for word in command]
        subprocess.run(
            [sys.executable, "-c", start, "run", "--max", limit, "--json", str(file), "--", *argv],
            cwd=checkout(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        report: dict[str, Any] = json.loads(file.read_text())
    kills = report["kills"]
    return Run(
        over=report["peak_bytes"] / report["limits"]["memory_max"],
        kills=len(kills),
        exit_ms=1000 * statistics.median([kill["seconds_to_exit"] for kill in kills] or [0]),
        cpu=report["watching_cpu_seconds"] / report["elapsed_seconds"],
    )


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--max", default="400M")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    command = options.command[options.command[:1] == ["--"] :] or KDE_MANUALS
    runs: dict[str, list[Run]] = {name: [] for name in TERMS}
    for _ in range(options.runs):
        for name, terms in TERMS.items():
            runs[name].append(run(terms, options.max, command))
    print(f"`{' '.join(command)}` under {options.max}, {options.runs} runs each, in turn; median (least - most)\n")
    print("| | peak / limit | killed | exit of a victim, ms | CPU of slicemgr |")
    print("| --- | --- | --- | --- | --- |")
    for name, done in runs.items():
        peaks = sorted(each.over for each in done)
        print(
            f"| {name} | {statistics.median(peaks):.2f} ({peaks[0]:.2f} - {peaks[-1]:.2f}) "
            f"| {statistics.median(each.kills for each in done):.0f} "
            f"| {statistics.median(each.exit_ms for each in done):.0f} "
            f"| {100 * statistics.median(each.cpu for each in done):.1f} % |"
        )


if __name__ == "__main__":
    main()
