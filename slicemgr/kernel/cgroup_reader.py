# SPDX-License-Identifier: LGPL-2.1-or-later
"""One reader per file of cgroup v2 (Documentation/admin-guide/cgroup-v2.rst); writes nothing."""

import time
from collections.abc import Callable
from typing import Final, TypeVar

from slicemgr.kernel import cgroup_formats as formats
from slicemgr.kernel.cgroup_files import CgroupFiles
from slicemgr.kernel.errors import NotSupportedError
from slicemgr.model.cgroup import CgroupReading, MemoryEvents, MemoryStat, Pressure

_T = TypeVar("_T")

_NO_MEMORY_CONTROLLER: Final = "`cgroup_enable=memory` on the kernel command line, or Delegate=yes on the unit above"


class CgroupReader(CgroupFiles):
    """The readers of one cgroup.

    Each gives None for a file that this kernel or this cgroup does not have (a controller that is not enabled
    above, an older kernel, the root), and raises CgroupGoneError, CgroupNotPermittedError or FormatError.

    Every file is opened when first read, and kept: 1 descriptor for the directory, 8 after `reading`, 21 when every
    reader has been used, and one more for each file whose controller was off in between. `close` closes all.
    """

    __slots__ = ()

    def memory_current(self) -> int | None:
        """memory.current: bytes, page cache among them."""
        return self._single("memory.current")

    def memory_high(self) -> int | None:
        """memory.high in bytes; None is no limit, or no such file."""
        return self._single("memory.high")

    def memory_max(self) -> int | None:
        """memory.max in bytes; None is no limit, or no such file."""
        return self._single("memory.max")

    def memory_low(self) -> int | None:
        """memory.low in bytes; None is all of it, or no such file."""
        return self._single("memory.low")

    def memory_min(self) -> int | None:
        """memory.min in bytes; None is all of it, or no such file."""
        return self._single("memory.min")

    def swap_current(self) -> int | None:
        """memory.swap.current: bytes."""
        return self._single("memory.swap.current")

    def swap_high(self) -> int | None:
        """memory.swap.high in bytes (since 5.8); None is no limit, or no such file."""
        return self._single("memory.swap.high")

    def swap_max(self) -> int | None:
        """memory.swap.max in bytes; None is no limit, or no such file."""
        return self._single("memory.swap.max")

    def peak(self) -> int | None:
        """memory.peak: the highest memory.current, in bytes (since 5.19)."""
        return self._single("memory.peak")

    def oom_group(self) -> bool | None:
        """memory.oom.group: the kernel's OOM killer takes the whole cgroup (since 4.19)."""
        value = self._single("memory.oom.group")
        return None if value is None else value != 0

    def events(self) -> MemoryEvents | None:
        """memory.events: counts of the whole subtree."""
        return self._parsed("memory.events", formats.parse_memory_events)

    def local_events(self) -> MemoryEvents | None:
        """memory.events.local: counts of this cgroup's own limits (since 5.2)."""
        return self._parsed("memory.events.local", formats.parse_memory_events)

    def stat(self) -> MemoryStat | None:
        """memory.stat, of the whole subtree."""
        return self._parsed("memory.stat", formats.parse_memory_stat)

    def pressure(self) -> Pressure | None:
        """memory.pressure; None too where PSI is off."""
        try:
            return self._parsed("memory.pressure", formats.parse_pressure)
        except NotSupportedError:  # EOPNOTSUPP: psi=0 on the kernel command line, or compiled in as the default.
            return None

    def pids_events(self) -> int | None:
        """pids.events `max`: forks that pids.max refused."""
        return self._parsed("pids.events", formats.parse_pids_events)

    def cpu_usage_usec(self) -> int | None:
        """cpu.stat `usage_usec`: CPU time of the whole subtree; there without the cpu controller too."""
        return self._parsed("cpu.stat", formats.parse_cpu_usage)

    def controllers(self) -> frozenset[str] | None:
        """cgroup.controllers: those that can be enabled here."""
        return self._parsed("cgroup.controllers", formats.parse_words)

    def subtree_control(self) -> frozenset[str] | None:
        """cgroup.subtree_control: those that are enabled for the children."""
        return self._parsed("cgroup.subtree_control", formats.parse_words)

    def is_populated(self) -> bool:
        """cgroup.events `populated`: a living process is here or below. The root, which can't tell, has one."""
        told = self._parsed("cgroup.events", formats.parse_cgroup_events)
        return told is None or told.populated is not False

    def is_frozen(self) -> bool:
        """cgroup.events `frozen`: all here and below stand still, up to 2 s after `freeze` (a stall at memory.high)."""
        told = self._parsed("cgroup.events", formats.parse_cgroup_events)
        return told is not None and told.frozen is True

    def processes(self) -> list[int]:
        """cgroup.procs: the pids of this cgroup alone, zombies left out; may repeat one that moved meanwhile.

        Raises NotSupportedError for a threaded cgroup: its processes stand in the domain above it.
        """
        text = self.read("cgroup.procs", in_pieces=True)
        return [] if text is None else formats.parse_pids(text)

    def reading(self, clock: Callable[[], float] = time.monotonic) -> CgroupReading:
        """What memory is like here, for policy. Raises NotSupportedError without the memory controller."""
        current = self.memory_current()
        if current is None:
            raise NotSupportedError(f"cgroup {self.path} has no memory.current", _NO_MEMORY_CONTROLLER)
        return CgroupReading(
            taken_seconds=clock(),
            current_bytes=current,
            swap_bytes=self.swap_current(),
            events=self.events() or MemoryEvents(),
            local_events=self.local_events(),
            stat=self.stat() or MemoryStat(),
            pressure=self.pressure(),
            cpu_usage_usec=self.cpu_usage_usec(),
        )

    def _single(self, name: str) -> int | None:
        text = self.read(name)
        return None if text is None else formats.parse_single(text, name)

    def _parsed(self, name: str, parse: Callable[[bytes], _T]) -> _T | None:
        text = self.read(name)
        return None if text is None else parse(text)
