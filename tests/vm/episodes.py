# SPDX-License-Identifier: LGPL-2.1-or-later
"""Recordings of a scope that meets its limits: the raw text of its cgroup's files, some twenty times a second.

A recording is lines of JSON, compressed: a header, then one object a sample. `load` reads it, on any machine.
`record` makes it, in the guest.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.vm.systemd import cgroup_of

if TYPE_CHECKING:
    from collections.abc import Iterator

FILES = (
    "memory.current",
    "memory.events",
    "memory.events.local",
    "memory.stat",
    "memory.pressure",
    "memory.swap.current",
    "cpu.stat",
)
INTERVAL_SECONDS = 0.05
"""Between two samples. A sample is 4 kB, and takes 0.4 ms of an emulated processor."""

MEMINFO_ROWS = ("MemAvailable", "SwapFree")


@dataclass(frozen=True, slots=True)
class Header:
    """What a recording is of."""

    scenario: str
    kernel: str
    high_bytes: int
    max_bytes: int
    swap_max: str
    """memory.swap.max, as the file tells it."""
    swap: str | None
    """"disk", "zram" or None: what the machine has."""
    disk_limits: list[str]
    """What slowed the disk down, as systemd's properties; empty if nothing did."""
    expected: str
    """What has to be decided: "kill" or "spare". For the policy to choose are "thrash" (more is in use than may be
    held: all goes on, if slowly) and "wait" (one stands still beside another who works: how long does that take?)."""
    command: str
    onset_seconds: float | None
    """`seconds` of the first sample in which memory.events.local counts a `high`; None if there is none."""
    page_bytes: int = field(default_factory=lambda: os.sysconf("SC_PAGE_SIZE"))


@dataclass(frozen=True, slots=True)
class Sample:
    """All files at one instant, as they are read."""

    seconds: float
    """Monotonic clock, since the workload was let go."""
    files: dict[str, str]
    """Text by name: FILES, and `meminfo` with MEMINFO_ROWS of /proc/meminfo. A file that is not there is missing."""

    def number(self, name: str) -> int:
        """A file that is one number."""
        return int(self.files[name])

    def row(self, name: str, key: str) -> int:
        """One row of a flat keyed file: `row("memory.stat", "anon")`."""
        rows = dict(line.split(maxsplit=1) for line in self.files[name].splitlines())
        return int(rows[key].split()[0])

    def stalled_usec(self, kind: str) -> int:
        """`total=` of the line `some` or `full` of memory.pressure."""
        (line,) = (line for line in self.files["memory.pressure"].splitlines() if line.startswith(kind))
        return int(line.rpartition("total=")[2])


@dataclass(frozen=True, slots=True)
class Recording:
    header: Header
    samples: list[Sample]

    def grew(self, name: str, key: str) -> int:
        """By how much a counter of a flat keyed file is up from the first sample to the last."""
        return self.samples[-1].row(name, key) - self.samples[0].row(name, key)


def load(path: Path) -> Recording:
    """Read what `save` wrote."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        header = Header(**json.loads(next(lines)))
        samples = []
        for line in lines:
            seconds, files = (value := json.loads(line)).pop("seconds"), value
            samples.append(Sample(seconds, files))
    return Recording(header, samples)


def save(recording: Recording, path: Path) -> None:
    """Write it; the same recording is the same file."""
    values: list[dict[str, Any]] = [asdict(recording.header)]
    values += [{"seconds": round(sample.seconds, 4), **sample.files} for sample in recording.samples]
    text = "".join(json.dumps(value) + "\n" for value in values)
    path.write_bytes(gzip.compress(text.encode(), compresslevel=9, mtime=0))


@dataclass(frozen=True, slots=True)
class Episode:
    """A workload in a scope, to be recorded."""

    name: str
    expected: str
    high: str
    max: str
    command: str
    """For the shell; `hog`, `workload` and `data` are variables of it."""
    seconds: float = 5.0
    swap: str | None = None
    swap_max: str = "infinity"
    disk_limits: tuple[str, ...] = ()
    """Such as SEEKS: for the disk of the swap if it is on one, else for that of the files."""


SEEKS = ("ReadIOPSMax=150", "WriteBandwidthMax=10M")
"""A hard disk."""

CRAWLS = ("ReadIOPSMax=150", "WriteIOPSMax=150")
"""A worn-out card: pages are written one by one."""

SWAP_DISK = Path("/dev/disk/by-id/virtio-swap")


def scope_properties(episode: Episode) -> list[str]:
    """The episode's limits, as `systemd-run --property` takes them."""
    properties = [f"MemoryHigh={episode.high}", f"MemoryMax={episode.max}", f"MemorySwapMax={episode.swap_max}"]
    properties += ["Delegate=yes", "OOMPolicy=continue", "CPUAccounting=yes", "CollectMode=inactive-or-failed"]
    disk = SWAP_DISK if episode.swap == "disk" else DATA.parent
    for limit in episode.disk_limits:
        name, _, value = limit.partition("=")
        properties.append(f"IO{name}={disk.resolve()} {value}")
    return [f"--property={each}" for each in properties]


@contextlib.contextmanager
def held_scope(episode: Episode) -> Iterator[tuple[Path, subprocess.Popen[bytes]]]:
    """The episode's scope with its shell held at `read`; ended with all that is in it."""
    unit = f"episode-{episode.name}.scope"
    variables = f"hog='{sys.executable} tests/hog.py' workload='{sys.executable} -m tests.vm.workload' data={DATA}"
    script = f"echo; read go; {variables}; {episode.command}"
    process = subprocess.Popen(
        ["systemd-run", "--scope", "--quiet", f"--unit={unit}", *scope_properties(episode), "sh", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:
        if not process.stdout.readline():
            raise RuntimeError(f"the scope {unit} ended with {process.wait()} before it began")
        cgroup = cgroup_of(process.pid)
        try:
            yield cgroup, process
        finally:
            with contextlib.suppress(FileNotFoundError):  # all are gone, and the scope with them
                if episode.disk_limits:  # or else the swapoff afterwards waits 170 s for what is queued
                    for line in (cgroup / "io.max").read_text().splitlines():
                        (cgroup / "io.max").write_text(f"{line.split()[0]} rbps=max wbps=max riops=max wiops=max")
                (cgroup / "cgroup.kill").write_text("1")
            process.wait()


DATA = Path("/var/tmp/slicemgr-episodes")
"""A file of DATA_BYTES outside of every limit; see `workload.prepare`."""

OUT = Path(f"{DATA}.out")
"""What workloads write; gone before an episode."""

DATA_BYTES = 300 << 20


def record(episode: Episode) -> Recording:
    """Let the workload go, and sample its cgroup until it ends or its time is over."""
    samples: list[Sample] = []
    with contextlib.ExitStack() as stack:
        cgroup, process = stack.enter_context(held_scope(episode))
        opened: dict[str, int] = {}
        for name in FILES:
            with contextlib.suppress(FileNotFoundError):  # a kernel without it
                opened[name] = os.open(cgroup / name, os.O_RDONLY | os.O_CLOEXEC)
                stack.callback(os.close, opened[name])
        meminfo = os.open("/proc/meminfo", os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, meminfo)
        swap_max = (cgroup / "memory.swap.max").read_text().strip() if "memory.swap.current" in opened else "max"
        assert process.stdin is not None
        begin = time.monotonic()
        due = 0.0
        while (now := time.monotonic() - begin) < episode.seconds and process.poll() is None:
            try:
                files = {name: os.pread(fd, 8192, 0).decode() for name, fd in opened.items()}
            except OSError:  # ENODEV: the last process has gone, and systemd was quick
                break
            rows = os.pread(meminfo, 8192, 0).decode().splitlines(keepends=True)
            files["meminfo"] = "".join(row for row in rows if row.startswith(MEMINFO_ROWS))
            samples.append(Sample(now, files))
            if len(samples) == 1:
                process.stdin.write(b"go\n")
                process.stdin.close()
            due = max(due + INTERVAL_SECONDS, now)
            time.sleep(max(0.0, begin + due - time.monotonic()))
    onset = next((each.seconds for each in samples if each.row("memory.events.local", "high")), None)
    return Recording(
        Header(
            scenario=episode.name,
            kernel=platform.release(),
            high_bytes=_bytes(episode.high),
            max_bytes=_bytes(episode.max),
            swap_max=swap_max,
            swap=episode.swap,
            disk_limits=list(episode.disk_limits),
            expected=episode.expected,
            command=episode.command,
            onset_seconds=onset,
        ),
        samples,
    )


def _bytes(text: str) -> int:
    return int(text.removesuffix("M")) << 20
