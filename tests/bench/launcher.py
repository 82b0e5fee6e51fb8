# SPDX-License-Identifier: LGPL-2.1-or-later
"""What does it cost a compile that slicemgr may run it again?

    python3 -m tests.bench.launcher          # a Markdown table, two minutes

The smallest C file there can be, so that the shim is as much of it as it ever is; and `true` in the place of gcc, which
leaves nothing but the shim. Interleaved, so that a load that comes and goes is everybody's; and of 200 times the one that
a tenth of them is below, because a load only ever adds.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from slicemgr.build.launcher import CMAKE_LAUNCHER, Launcher

COMPILES = 200
SYSTEM = "/usr/bin:/bin"


def milliseconds(command: list[str], environment: dict[str, str]) -> float:
    """One run, start to end."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, env=environment)
    return (time.perf_counter() - started) * 1000


def measure(folder: Path, compiler: str, arguments: list[str], runs: int) -> dict[str, list[float]]:
    """The times of each way to start `compiler`, in turn; one run of each before, for the page cache."""
    path = f"{folder / 'tools'}:{SYSTEM}"
    launcher = Launcher(str(folder / "job"), path, shims=str(folder / "shims"))
    outside = {"PATH": path}
    job = {**outside, **launcher.environment(outside)}
    kept = f"{job['PATH'].partition(':')[0]}/{compiler}"
    real = next(f"{each}/{compiler}" for each in path.split(":") if os.access(f"{each}/{compiler}", os.X_OK))
    by_cmake = [*CMAKE_LAUNCHER.split(";"), real, *arguments]
    ways: dict[str, tuple[list[str], dict[str, str]]] = {
        "the real one": ([real, *arguments], outside),
        "in a job, by $PATH": ([kept, *arguments], job),
        "in a job, by CMake's launcher": (by_cmake, job),
        "outside, by a kept path": ([kept, *arguments], outside),
        "outside, by CMake's launcher": (by_cmake, outside),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(runs + 1):
        for name, way in ways.items():
            took = milliseconds(*way)
            if turn:
                times[name].append(took)
    launcher.close()
    return times


def opening(folder: Path, runs: int) -> tuple[float, float]:
    """ms to open a launcher with this machine's own $PATH: the first job's, and of those after it."""
    took = []
    for turn in range(runs + 1):
        started = time.perf_counter()
        launcher = Launcher(str(folder / f"job{turn}"), SYSTEM, shims=str(folder / "more"))
        launcher.environment({"PATH": SYSTEM})
        took.append((time.perf_counter() - started) * 1000)
        launcher.close()
    return took[0], quiet(took[1:])


def quiet(took: list[float]) -> float:
    """What a tenth of them is below."""
    return statistics.quantiles(took, n=10)[0]


def table(columns: dict[str, dict[str, list[float]]]) -> str:
    """Markdown: the quiet times in ms, and their ratio to the first row's."""
    heads = "".join(f" {name}: ms | ratio |" for name in columns)
    rows = [f"| |{heads}", "| --- |" + " --- | --- |" * len(columns)]
    for way in next(iter(columns.values())):
        row = f"| {way} |"
        for times in columns.values():
            took = quiet(times[way])
            row += f" {took:.1f} | {took / quiet(next(iter(times.values()))):.2f} |"
        rows.append(row)
    return "\n".join(rows)


def main() -> None:
    """Print it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "tools").mkdir()
        (folder / "tools/icx").symlink_to("/bin/true")
        (folder / "x.c").write_text("int x;\n")
        out = str(folder / "x.o")
        columns = {
            "`true`": measure(folder, "icx", [], COMPILES),
            "`int x;`": measure(folder, "gcc", ["-c", str(folder / "x.c"), "-o", out], COMPILES),
        }
        print(table(columns))
        first, later = opening(folder, 50)
        print(f"\nA launcher is open after {first:.1f} ms in the first job, and {later:.1f} ms in each one after it.")


if __name__ == "__main__":
    main()
