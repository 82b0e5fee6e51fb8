# SPDX-License-Identifier: LGPL-2.1-or-later
"""How long does it take to run `true` in a scope of its own, beside systemd-run?

    python3 -m tests.bench.launch          # where systemd runs, as root or as a user: a Markdown table, half a minute

Interleaved, so that a load that comes and goes is everybody's. The package is copied and compiled first: an installed
one is, and a checkout that belongs to another user never gets its .pyc files.
"""

from __future__ import annotations

import compileall
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUNS = 15
RUN = "slicemgr run -- true"
PACKAGE = Path(__file__).parent.parent.parent / "slicemgr"

# The least that `slicemgr run` has to do: choose, fork, hold, place, let go, wait.
PLACED = """
import os, sys
sys.path.insert(0, sys.argv[1])
from slicemgr.placement.choose import choose
choice = choose("systemd", uid=os.getuid())
gate, open_gate = os.pipe()
pid = os.fork()
if not pid:
    os.read(gate, 1)
    os.execvp("true", ["true"])
handle = choice.open_job(pid, name="true", slice_name="build.slice", command=["true"], memory_max=1 << 30, memory_high=1 << 29)
assert handle.limits_in_force, handle.why_not
os.write(open_gate, b"x")
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""

MAIN = """
import sys
sys.path.insert(0, sys.argv.pop(1))
sys.argv[0] = "slicemgr"
from slicemgr.cli import main
raise SystemExit(main())
"""


def commands(copy: str) -> dict[str, list[str]]:
    """What is measured, by name; the first is the measure of the others."""
    whose = ["--user"] if os.getuid() else []
    python = [sys.executable, "-I"]
    return {
        "systemd-run --scope true": ["systemd-run", *whose, "--scope", "--quiet", "true"],
        "python3 -I -c pass": [*python, "-c", "pass"],
        "python3 -I -S -c pass": [*python, "-S", "-c", "pass"],
        "fork, place, exec true": [*python, "-c", PLACED, copy],
        "fork, place, exec true (-S)": [*python, "-S", "-c", PLACED, copy],
        RUN: [sys.executable, "-c", MAIN, copy, "run", "--", "true"],
    }


def milliseconds(command: list[str]) -> float:
    """One run, start to end."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return (time.perf_counter() - started) * 1000


def measure(*, but: tuple[str, ...] = (), runs: int = RUNS) -> dict[str, list[float]]:
    """The times of each command `but` some, in turn; one run of each before, for the page cache."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(PACKAGE, Path(folder) / "slicemgr", ignore=shutil.ignore_patterns("__pycache__"))
        compileall.compile_dir(folder, quiet=1)
        all_commands = {name: command for name, command in commands(folder).items() if name not in but}
        times: dict[str, list[float]] = {name: [] for name in all_commands}
        for turn in range(runs + 1):
            for name, command in all_commands.items():
                took = milliseconds(command)
                if turn:
                    times[name].append(took)
    return times


def table(times: dict[str, list[float]]) -> str:
    """Markdown: medians, and their ratio to the first."""
    first = statistics.median(next(iter(times.values())))
    rows = ["| | ms, median (least - most) | ratio |", "| --- | --- | --- |"]
    for name, took in times.items():
        median = statistics.median(took)
        rows.append(f"| {name} | {median:.0f} ({min(took):.0f} - {max(took):.0f}) | {median / first:.2f} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(table(measure()))
