# SPDX-License-Identifier: LGPL-2.1-or-later
"""The guard of one cgroup without a daemon: what `slicemgr run` loads beside its own job."""

import asyncio
import contextlib
import dataclasses
import os
import time
from collections.abc import Callable
from functools import partial

from slicemgr.kernel import procfs
from slicemgr.kernel.cgroupfs import MOUNT, CgroupDir
from slicemgr.kernel.errors import KernelError
from slicemgr.kernel.kernel_log import oom_victims
from slicemgr.kernel.kill import ProvenProcess
from slicemgr.kernel.machine import MachineReader
from slicemgr.kernel.watch import CgroupWatch
from slicemgr.model.cgroup import is_below
from slicemgr.model.process import ProcessIdentity
from slicemgr.service.cgroup_guard import CgroupGuard
from slicemgr.service.guard import Guard
from slicemgr.service.managed import ManagedSlice
from slicemgr.service.naming import CommandLines
from slicemgr.service.report import Report


class LoneGuard:
    """Guards one job with everything that this takes, and lets go of it in the end.

    The slice above it may be at a limit of its own, which a daemon has set that is gone by now. Then each lone guard in
    it comes to the same victim, by the same rule, and the one whose job it is in ends it.
    """

    def __init__(
        self,
        managed: ManagedSlice,
        *,
        report: Callable[[Report], None],
        about_to_kill: Callable[[int], None] = lambda pid: None,
        is_new: bool = False,
        mount: str = MOUNT,
    ) -> None:
        """To be made in the loop's thread. Raises KernelError if the cgroup can't be watched.

        `is_new`: nobody has watched it before, and what happened in it until now has not been told. `about_to_kill`
        is told a victim's pid before anything happens to it.
        """
        self._watch = CgroupWatch()
        self._machine = MachineReader()
        self._guards: list[CgroupGuard] = []
        lines = CommandLines(self._members)
        self._kill_path = Guard(
            managed.rules,
            report=report,
            command_lines=lines,
            prove=partial(_prove_within, managed.cgroup, about_to_kill),
        )
        above = dataclasses.replace(managed, cgroup=os.path.dirname(managed.cgroup))

        def guard(path: str, which: Callable[[str], ManagedSlice | None], *, is_new: bool) -> CgroupGuard:
            return CgroupGuard(
                CgroupDir.open(path, mount),
                which,
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

        self._guards.append(
            guard(managed.cgroup, lambda cgroup: managed if managed.contains(cgroup) else None, is_new=is_new)
        )
        if above.cgroup.endswith(".slice"):
            with contextlib.suppress(KernelError):  # Another user's, or gone: then the job's own limit is all we know.
                self._guards.append(
                    guard(above.cgroup, lambda cgroup: above if cgroup == above.cgroup else None, is_new=False)
                )

    @property
    def looks(self) -> int:
        """How often it has read a cgroup."""
        return sum(guard.looks for guard in self._guards)

    async def at_rest(self) -> None:
        """Wait for the end of a kill that is under way."""
        await self._kill_path.at_rest()

    async def watch(self) -> None:
        """Guard it until it is gone, or until cancelled."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._watch.fileno(), self._watch.dispatch)
        own, *others = self._guards
        tasks = [asyncio.create_task(_without_failing(guard)) for guard in others]
        try:
            await own.watch()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            loop.remove_reader(self._watch.fileno())
            self._watch.close()
            self._machine.close()

    def _members(self) -> set[int]:
        return set().union(*(guard.members() for guard in self._guards))


def _prove_within(
    job: str, about_to_kill: Callable[[int], None], identity: ProcessIdentity, cgroup: str
) -> ProvenProcess:
    """Of a slice's processes only those of our own job are ours to end."""
    about_to_kill(identity.pid)
    return ProvenProcess(identity, cgroup if is_below(cgroup, job) else job)


async def _without_failing(guard: CgroupGuard) -> None:
    """The slice above is an extra: if it can't be watched, the job still is."""
    with contextlib.suppress(KernelError, OSError, RuntimeError):
        await guard.watch()
