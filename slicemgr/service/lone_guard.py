# SPDX-License-Identifier: LGPL-2.1-or-later
"""The guard of one cgroup without a daemon: what `slicemgr run` loads beside its own job."""

import asyncio
import os
import time
from collections.abc import Callable

from slicemgr.kernel import procfs
from slicemgr.kernel.cgroupfs import MOUNT, CgroupDir
from slicemgr.kernel.kernel_log import oom_victims
from slicemgr.kernel.machine import MachineReader
from slicemgr.kernel.watch import CgroupWatch
from slicemgr.service.cgroup_guard import CgroupGuard
from slicemgr.service.guard import Guard
from slicemgr.service.managed import ManagedSlice
from slicemgr.service.naming import CommandLines
from slicemgr.service.report import Report


class LoneGuard:
    """Guards one job with everything that this takes, and lets go of it in the end."""

    def __init__(
        self, managed: ManagedSlice, *, report: Callable[[Report], None], is_new: bool = False, mount: str = MOUNT
    ) -> None:
        """To be made in the loop's thread. Raises KernelError if the cgroup can't be watched.

        `is_new`: nobody has watched it before, and what happened in it until now has not been told.
        """
        self._watch = CgroupWatch()
        self._machine = MachineReader()
        self._guard: CgroupGuard | None = None
        lines = CommandLines(self._members)
        self._kill_path = Guard(managed.rules, report=report, command_lines=lines)
        self._guard = CgroupGuard(
            CgroupDir.open(managed.cgroup, mount),
            lambda cgroup: managed if managed.contains(cgroup) else None,
            lambda _: self._kill_path,
            calls=self._watch,
            report=report,
            learn=lines.learn,
            ourselves=procfs.ancestors_of(os.getpid()),
            free_swap=lambda: self._machine.reading(time.monotonic).swap_free_bytes,
            kernel_log=oom_victims,
            is_new=is_new,
            mount=mount,
        )

    @property
    def looks(self) -> int:
        """How often the job was read."""
        return 0 if self._guard is None else self._guard.looks

    async def at_rest(self) -> None:
        """Wait for the end of a kill that is under way."""
        await self._kill_path.at_rest()

    async def watch(self) -> None:
        """Guard it until it is gone, or until cancelled."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._watch.fileno(), self._watch.dispatch)
        try:
            if self._guard is not None:
                await self._guard.watch()
        finally:
            loop.remove_reader(self._watch.fileno())
            self._watch.close()
            self._machine.close()

    def _members(self) -> set[int]:
        return set() if self._guard is None else self._guard.members()
