# SPDX-License-Identifier: LGPL-2.1-or-later
"""The machine's own memory: /proc/meminfo, swap, what zram really takes, and the pressure of all.

Descriptors are kept, and there is no psutil: this is read while the machine is short of memory.
"""

import contextlib
import errno
import os
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from slicemgr.kernel import cgroup_formats as formats
from slicemgr.model.cgroup import Pressure
from slicemgr.model.machine import MachineReading

_LONGEST_READ: Final = 1 << 14
"""Bytes. meminfo is 1.5 kB, and 32 swap devices (MAX_SWAPFILES) make 3 kB."""


class MachineReader:
    """The files of the machine's memory. A context manager; 3 descriptors, and one more per zram device."""

    def __init__(self, proc: str = "/proc", sys: str = "/sys") -> None:
        """Opens nothing yet."""
        self._proc = proc
        self._sys = sys
        self._kept: dict[str, int] = {}

    def reading(self, clock: Callable[[], float] = time.monotonic) -> MachineReading:
        """What memory is like now. Raises OSError where there is no /proc/meminfo, FormatError."""
        memory = formats.parse_meminfo(self._read(f"{self._proc}/meminfo"))
        zram_size, zram_used, zram_memory = self._zram()
        return MachineReading(
            taken_seconds=clock(),
            total_bytes=memory.total,
            available_bytes=memory.available,
            swap_total_bytes=memory.swap_total,
            swap_free_bytes=memory.swap_free,
            zram_size_bytes=zram_size,
            zram_used_bytes=zram_used,
            zram_memory_bytes=zram_memory,
            pressure=self._pressure(),
        )

    def _zram(self) -> tuple[int, int, int | None]:
        """Size, use, and RAM taken; the last is None if a device keeps it to itself."""
        size = used = 0
        memory: int | None = 0
        for device in self._swaps():
            name = device.path.rpartition("/")[2]
            if name.startswith("zram") and name[4:].isdecimal():
                size += device.size_bytes
                used += device.used_bytes
                taken = self._zram_memory(name)
                memory = None if taken is None or memory is None else memory + taken
        return size, used, memory

    def _swaps(self) -> tuple[formats.SwapDevice, ...]:
        try:
            return formats.parse_swaps(self._read(f"{self._proc}/swaps"))
        except OSError:  # Without CONFIG_SWAP there is no such file.
            return ()

    def _zram_memory(self, name: str) -> int | None:
        path = f"{self._sys}/block/{name}/mm_stat"
        try:
            return formats.parse_zram(self._read(path)).memory_bytes
        except OSError as error:
            if error.errno == errno.ENODEV and path in self._kept:
                # The device has been removed, and one of its name made anew: the next reading opens that one.
                os.close(self._kept.pop(path))
            return None

    def _pressure(self) -> Pressure | None:
        try:
            return formats.parse_pressure(self._read(f"{self._proc}/pressure/memory"))
        except OSError:  # ENOENT without CONFIG_PSI, EOPNOTSUPP with psi=0.
            return None

    def _read(self, path: str) -> bytes:
        descriptor = self._kept.get(path)
        if descriptor is None:
            descriptor = self._kept[path] = os.open(path, os.O_RDONLY)
        return os.pread(descriptor, _LONGEST_READ, 0)

    def close(self) -> None:
        """Close all files. The next reading would open them again."""
        while self._kept:
            with contextlib.suppress(OSError):
                os.close(self._kept.popitem()[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def machine_reading() -> MachineReading:
    """One reading for who needs no second. Raises as MachineReader.reading."""
    with MachineReader() as reader:
        return reader.reading()
