# SPDX-License-Identifier: LGPL-2.1-or-later
"""The machine's memory on trees of /proc and /sys, and on this machine's own."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from slicemgr.kernel.errors import FormatError
from slicemgr.kernel.machine import MachineReader, machine_reading
from slicemgr.model.cgroup import Pressure, Stall
from tests.cgroupfs.tree import Tree, grow

if TYPE_CHECKING:
    from pathlib import Path

KIB = 1 << 10

MEMINFO = "MemTotal: 2000 kB\nMemFree: 100 kB\nMemAvailable: 700 kB\nSwapTotal: 1500 kB\nSwapFree: 900 kB\n"
HEADING = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
DISK = "/dev/vdc                                partition\t500\t\t100\t\t-2\n"
ZRAM0 = "/dev/zram0                              partition\t600\t\t300\t\t100\n"
ZRAM1 = "/dev/zram1                              partition\t400\t\t200\t\t100\n"
MM_STAT = "{} {} {} 0 0 0 0 0 0\n"


def reader(tmp_path: Path, proc: Tree, block: Tree | None = None) -> MachineReader:
    return MachineReader(str(grow(tmp_path / "proc", proc)), str(grow(tmp_path / "sys", {"block": block or {}})))


def zram(original: int, compressed: int, memory: int) -> Tree:
    return {"mm_stat": MM_STAT.format(original * KIB, compressed * KIB, memory * KIB)}


def test_memory_swap_and_pressure(tmp_path: Path) -> None:
    """Of a machine with a disk to swap to."""
    stall = "some avg10=1.00 avg60=0.00 avg300=0.00 total=5\nfull avg10=0.50 avg60=0.00 avg300=0.00 total=4\n"
    proc: Tree = {"meminfo": MEMINFO, "swaps": HEADING + DISK, "pressure": {"memory": stall}}
    with reader(tmp_path, proc) as machine:
        reading = machine.reading(lambda: 3.0)
    assert (reading.taken_seconds, reading.total_bytes, reading.available_bytes) == (3.0, 2000 * KIB, 700 * KIB)
    assert (reading.swap_total_bytes, reading.swap_free_bytes) == (1500 * KIB, 900 * KIB)
    assert (reading.zram_size_bytes, reading.zram_used_bytes, reading.zram_memory_bytes) == (0, 0, 0)
    assert reading.pressure == Pressure(Stall(1.0, 0.0, 0.0, 5), Stall(0.5, 0.0, 0.0, 4))


def test_zram_is_summed(tmp_path: Path) -> None:
    """What two devices hold, and the RAM that they take for it; the disk is not in it."""
    proc: Tree = {"meminfo": MEMINFO, "swaps": HEADING + ZRAM0 + DISK + ZRAM1}
    with reader(tmp_path, proc, {"zram0": zram(300, 90, 100), "zram1": zram(200, 50, 60)}) as machine:
        reading = machine.reading()
    assert (reading.zram_size_bytes, reading.zram_used_bytes) == (1000 * KIB, 500 * KIB)
    assert reading.zram_memory_bytes == 160 * KIB


def test_zram_that_does_not_tell(tmp_path: Path) -> None:
    """No /sys, as in some containers: unknown, and not nothing."""
    proc: Tree = {"meminfo": MEMINFO, "swaps": HEADING + ZRAM0 + ZRAM1}
    with reader(tmp_path, proc, {"zram1": zram(200, 50, 60)}) as machine:
        reading = machine.reading()
    assert (reading.zram_size_bytes, reading.zram_memory_bytes) == (1000 * KIB, None)


@pytest.mark.parametrize("name", ["/dev/zram", "/dev/zram0p1", "/swap/zram..", "/dev/zramdisk", "/zram\\040(deleted)"])
def test_names_that_only_look_like_zram(tmp_path: Path, name: str) -> None:
    """A file may be called anything."""
    with reader(tmp_path, {"meminfo": MEMINFO, "swaps": f"{HEADING}{name} file 600 300 -2\n"}) as machine:
        assert machine.reading().zram_size_bytes == 0


def test_only_meminfo_is_needed(tmp_path: Path) -> None:
    """No swap in the kernel, no PSI."""
    with reader(tmp_path, {"meminfo": "MemTotal: 2000 kB\n"}) as machine:
        reading = machine.reading()
    assert (reading.available_bytes, reading.swap_total_bytes, reading.pressure) == (None, 0, None)
    with reader(tmp_path / "empty", {}) as machine, pytest.raises(FileNotFoundError):
        machine.reading()
    with reader(tmp_path / "strange", {"meminfo": "?"}) as machine, pytest.raises(FormatError):
        machine.reading()


def test_files_are_kept_and_read_anew(tmp_path: Path) -> None:
    """As many descriptors as the docstring says, and none after close."""
    before = len(os.listdir("/proc/self/fd"))
    pressure: Tree = {"memory": "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"}
    proc: Tree = {"meminfo": MEMINFO, "swaps": HEADING + ZRAM0, "pressure": pressure}
    machine = reader(tmp_path, proc, {"zram0": zram(1, 1, 1)})
    for available in (700, 200):
        (tmp_path / "proc/meminfo").write_text(MEMINFO.replace("700", str(available)))
        assert machine.reading().available_bytes == available * KIB
        assert len(os.listdir("/proc/self/fd")) == before + 4
    machine.close()
    machine.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_this_machine() -> None:
    """It has memory, and some of it is free."""
    reading = machine_reading()
    assert reading.available_bytes is not None
    assert 0 < reading.available_bytes < reading.total_bytes
    assert reading.swap_free_bytes <= reading.swap_total_bytes
