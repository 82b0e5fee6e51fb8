# SPDX-License-Identifier: LGPL-2.1-or-later
"""Records the steps of real builds for the simulator: what each process holds over its CPU time.

    python3 -m tests.pacing.record manuals cxx        # into tests/data/builds, a minute or two

One step after the other, looked at each 5 ms. The clock is the CPU time of the step (/proc/PID/schedstat), so that
whatever else the machine does is not in it.
"""

import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from tests.pacing.builds import RECORDED

LOOK_SECONDS = 0.005
SHORTEST_SECONDS = 0.1
"""Of CPU time; who takes less is not worth holding."""

CHANGE_SHARE = 0.03
"""Of the peak: less is no new point."""

NO_STEPS = {"g++", "sh", "as", "xmllint"}
"""Drivers, and what holds some MB for a tenth of a second."""

HEADERS = ("bits/stdc++.h", "regex", "ranges", "filesystem", "functional", "iostream")
BODIES = {
    "plain": "int main() { return 0; }",
    "regex": '#include <regex>\n#include <string>\nbool f(const std::string &s) { return std::regex_match(s, std::regex("a+b*")); }',
    "deep": "#include <tuple>\n#include <utility>\ntemplate <std::size_t... I> auto g(std::index_sequence<I...>) "
    "{ return std::make_tuple((I, sizeof(std::tuple<char[I + 1]>))...); }\nauto h() { return g(std::make_index_sequence<DEPTH>()); }",
}


def manuals(directory: Path) -> Iterator[list[str]]:
    """The KDE manuals of the 2010 report."""
    for index, path in enumerate(sorted(Path("/usr/share/doc/HTML").rglob("index.docbook"))):
        yield ["meinproc5", "--check", "--cache", str(directory / f"{index}.bz2"), str(path)]


def cxx(directory: Path) -> Iterator[list[str]]:
    """g++ on heavy headers and templates, with and without optimisation."""
    for index, header in enumerate(HEADERS):
        for name, body in BODIES.items():
            source = directory / f"{index}-{name}.cc"
            source.write_text(f"#include <{header}>\n{body}\n")
            option = ("-O2", "-g", "-O0")[index % 3]
            yield ["g++", "-std=c++20", option, f"-DDEPTH={40 + 20 * index}", "-c", str(source), "-o", f"{source}.o"]


def record(argv: list[str]) -> Iterator[dict[str, object]]:
    """One row for each process below it that computed."""
    found: dict[int, tuple[str, list[tuple[float, int]]]] = {}
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            for pid in _tree(process.pid):
                try:
                    name = Path(f"/proc/{pid}/comm").read_text().strip()
                    _, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_text().split()
                    seconds = int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
                except (OSError, ValueError):
                    continue
                held = (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")
                known = found.get(pid)
                if known is None or known[0] != name:
                    known = found[pid] = (name, [])
                if held and (not known[1] or seconds > known[1][-1][0]):
                    known[1].append((seconds, held))
            time.sleep(LOOK_SECONDS)
    for name, course in found.values():
        if name not in NO_STEPS and course and course[-1][0] >= SHORTEST_SECONDS:
            yield {"kind": name, "course": _thinned(course)}


def _tree(pid: int) -> Iterator[int]:
    yield pid
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return
    for child in children:
        yield from _tree(int(child))


def _thinned(course: list[tuple[float, int]]) -> list[tuple[float, int]]:
    least = max(held for _, held in course) * CHANGE_SHARE
    kept = [(0.0, course[0][1])]
    for before, at in pairwise(course):
        if abs(at[1] - kept[-1][1]) >= least:
            if before[0] > kept[-1][0]:
                kept.append(before)
            kept.append(at)
    if course[-1][0] > kept[-1][0]:
        kept.append(course[-1])
    return [(round(seconds, 4), held) for seconds, held in kept]


def main() -> int:
    """Record the builds named."""
    for name in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as directory:
            rows = [row for argv in {"manuals": manuals, "cxx": cxx}[name](Path(directory)) for row in record(argv)]
        # No time and no name in the header: the same rows are the same file.
        text = "".join(json.dumps(row) + "\n" for row in rows).encode()
        (RECORDED / f"{name}.jsonl.gz").write_bytes(gzip.compress(text, mtime=0))
        print(f"{name}: {len(rows)} steps")
    return 0


if __name__ == "__main__":
    sys.exit(main())
