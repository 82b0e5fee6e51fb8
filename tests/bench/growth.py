# SPDX-License-Identifier: LGPL-2.1-or-later
"""How fast can processes grow, and how late is a look at one that grows?

    python3 -m tests.bench.growth          # two Markdown tables, about half a minute, up to 6 GiB

The first bounds what passes a limit between two polls. The second asks whether reading a process that faults
heavily waits for its mmap lock: status and smaps_rollup touch the address space, statm only counters.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from itertools import chain

from tests.bench.accounting import HOG, MIB, heading, row
from tests.bench.proc_readings import checkout, slurp, statm_rss_bytes

WINDOW_SECONDS = 0.02
"""Growth is taken over two polls of 10 ms."""

REPEATS = 5

# Takes the mmap lock for writing all the time, as an allocator does that gives large blocks back.
CHURN = """
import mmap
keep = mmap.mmap(-1, 1 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x8000)
print(flush=True)
while True:
    with mmap.mmap(-1, 1 << 26, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x8000):
        pass
"""

GROW = [*HOG, "--ready", "1", "--grow", "1G", "--hold", "0.05"]
PROFILES = {
    "1 GiB, at rest": [*HOG, "--start", "1G", "--ready", "1", "--hold", "1"],
    "growing to 1 GiB at full speed": GROW,
    "the same, two of them": [*GROW, "--fork", "2"],
    "1 GiB, mapping and unmapping 64 MiB all the time": [sys.executable, "-c", CHURN],
}
FILES = ("statm", "status", "smaps_rollup")


def start(argv: list[str]) -> tuple[subprocess.Popen[bytes], int]:
    """The process, and the pid that wrote itself to stdout when it was ready (its own if it wrote none)."""
    process = subprocess.Popen(argv, cwd=checkout(), stdout=subprocess.PIPE)
    assert process.stdout is not None
    return process, int(process.stdout.readline().strip() or process.pid)


def growth_bytes_per_second(count: int, *, huge: bool) -> float:
    """The fastest growth of COUNT processes together over one window."""
    argv = [*HOG, "--grow", f"{4 // count}G", "--ready", "1", *(["--huge"] if huge else [])]
    started = [start(argv) for _ in range(count)]
    track: list[tuple[float, int]] = []
    while all(process.poll() is None for process, _ in started):
        try:
            track.append((time.monotonic(), sum(statm_rss_bytes(pid) for _, pid in started)))
        except (FileNotFoundError, ProcessLookupError, IndexError):
            break
        time.sleep(0.002)
    for process, _ in started:
        process.wait()
    fastest, first = 0.0, 0
    for at, size in track:
        while at - track[first + 1][0] > WINDOW_SECONDS:
            first += 1
        since, before = track[first]
        if at - since > WINDOW_SECONDS:
            fastest = max(fastest, (size - before) / (at - since))
    return fastest


def latencies_us(argv: list[str], name: str) -> list[float]:
    """Wall time of reading one file again and again, 1 ms apart, for at most a second."""
    process, pid = start(argv)
    found = []
    end = time.monotonic() + 1
    try:
        while (begin := time.monotonic()) < end:
            slurp(f"/proc/{pid}/{name}")
            found.append((time.monotonic() - begin) * 1e6)
            time.sleep(0.001)
    except (FileNotFoundError, ProcessLookupError):
        pass
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
    return found


def main() -> int:
    heading("fastest growth over 20 ms", "4 KiB pages", "huge pages")
    for count in (1, 2):
        rates = [max(growth_bytes_per_second(count, huge=huge) for _ in range(REPEATS)) for huge in (False, True)]
        row(f"{count} process{'es' * (count > 1)}", *(f"{rate / MIB:.0f} MiB/s" for rate in rates))
    heading("latency of one read (us): median / 95 % / max", *FILES)
    for profile, argv in PROFILES.items():
        cells = []
        for name in FILES:
            found = sorted(chain.from_iterable(latencies_us(argv, name) for _ in range(REPEATS)))
            cells.append(f"{found[len(found) // 2]:.0f} / {found[len(found) * 95 // 100]:.0f} / {found[-1]:.0f}")
        row(profile, *cells)
    return 0


if __name__ == "__main__":
    sys.exit(main())
