# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files of several kernels, recorded and made by hand (tests/data/README.md): what each of them tells."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from slicemgr.kernel import cgroup_formats as formats
from slicemgr.kernel.cgroupfs import CgroupDir

if TYPE_CHECKING:
    from slicemgr.model.cgroup import MemoryEvents, MemoryStat

DATA = Path(__file__).parent.parent / "data"
KERNELS = sorted(path.name for path in DATA.glob("kernel-*"))
RECORDED = [name for name in KERNELS if not name.endswith("made-by-hand")]

MIB = 1 << 20

# What a kernel has no row or file for. Everything else it must tell.
LACKS = {
    "kernel-4.19-made-by-hand": {
        "local_events", "pressure", "swap_high", "peak", "oom_group_kill", "kernel", "pagetables", "percpu",
        "workingset_refault_anon", "workingset_refault_file",
    },
    "kernel-5.4-made-by-hand": {
        "swap_high", "peak", "oom_group_kill", "kernel", "pagetables", "percpu", "workingset_refault_anon",
        "workingset_refault_file",
    },
}  # fmt: skip


def missing(value: MemoryStat | MemoryEvents | None) -> set[str]:
    assert value is not None
    return {field.name for field in fields(value) if getattr(value, field.name) is None}


@pytest.mark.parametrize("kernel", KERNELS)
def test_what_a_kernel_tells(kernel: str) -> None:
    """Every file is understood; what is None is what this kernel is known to lack."""
    with CgroupDir.open(kernel, str(DATA)) as cgroup:
        reading = cgroup.reading()
        lacks = missing(reading.stat) | missing(reading.events)
        whole = (cgroup.pressure, cgroup.local_events, cgroup.peak)
        lacks |= {read.__name__ for read in whole if read() is None}
        lacks |= {"swap_high"} if cgroup.read("memory.swap.high") is None else set()
        assert lacks == LACKS.get(kernel, set())
        assert reading.current_bytes > 0
        assert (reading.cpu_usage_usec or 0) > 0
        assert cgroup.memory_max() == 200 * MIB
        assert cgroup.oom_group() is False
        assert (cgroup.is_populated(), cgroup.is_frozen()) == (True, False)
        assert cgroup.processes()
        assert {"memory", "pids"} <= (cgroup.controllers() or set())
        assert cgroup.subtree_control() == frozenset()
        assert cgroup.pids_events() == 0


@pytest.mark.parametrize("kernel", RECORDED)
def test_what_was_recorded(kernel: str) -> None:
    """A hog of 24 MiB and more at memory.high=40M, some of it in zram."""
    folder = DATA / kernel
    with CgroupDir.open(kernel, str(DATA)) as cgroup:
        reading = cgroup.reading()
        assert cgroup.memory_high() == 40 * MIB
        assert cgroup.swap_max() is None
        assert (reading.swap_bytes or 0) > 10 * MIB
        assert reading.local_events is not None
        # The hog went on between the two files.
        assert 0 < (reading.events.high or 0) <= (reading.local_events.high or 0)
        assert 0 < (reading.stat.pgsteal or 0) <= (reading.stat.pgscan or 0)
        assert 10 * MIB < (reading.stat.anon or 0) < 45 * MIB
        assert (cgroup.peak() or 0) >= reading.current_bytes
        assert reading.pressure is not None
        assert reading.pressure.some.total_usec > 0
    memory = formats.parse_meminfo((folder / "proc-meminfo").read_bytes())
    (swap,) = formats.parse_swaps((folder / "proc-swaps").read_bytes())
    zram = formats.parse_zram((folder / "mm_stat").read_bytes())
    assert swap.path == "/dev/zram0"
    assert memory.swap_total == swap.size_bytes
    assert memory.swap_free <= memory.swap_total - 10 * MIB
    assert zram.compressed_bytes <= zram.memory_bytes
    assert 10 * MIB < zram.original_bytes <= swap.used_bytes + MIB
    assert formats.parse_pressure((folder / "proc-pressure-memory").read_bytes()).full is not None
    path = formats.parse_cgroup_path((folder / "proc-PID-cgroup").read_bytes())
    assert path is not None
    assert path.endswith(".scope")
    (tree,) = (
        each for each in formats.parse_mounts((folder / "proc-PID-mountinfo").read_bytes()) if each.type == "cgroup2"
    )
    assert (tree.point, tree.root, tree.read_only) == ("/sys/fs/cgroup", "/", False)
    assert missing(formats.parse_memory_stat((folder / "root-memory.stat").read_bytes())) == set()


def test_there_are_recordings() -> None:
    """The glob above finds them."""
    assert {"kernel-6.1", "kernel-6.12"} <= set(RECORDED)
    assert set(LACKS) <= set(KERNELS)
