# SPDX-License-Identifier: LGPL-2.1-or-later
"""How much each slice suffers, for those who show it: asleep until somebody waits for memory there."""

import asyncio
import contextlib
from collections.abc import Callable, Collection, Mapping
from typing import Final

from slicemgr.kernel.cgroupfs import MOUNT, CgroupDir
from slicemgr.kernel.errors import KernelError, NotSupportedError
from slicemgr.kernel.pressure import PressureThread, PressureTrigger, StallKind, open_trigger
from slicemgr.policy.pressure_level import PressureLevel, pressure_level

STALL_USEC: Final = 100_000
WINDOW_USEC: Final = 2_000_000
"""5 % of the time, where the lowest level begins; a window that an unprivileged daemon may have."""

LOOK_SECONDS: Final = 2.0
"""The kernel makes its averages every 2 s."""


class LevelWatch:
    """Belongs to the loop's thread."""

    def __init__(
        self, pressure: PressureThread, changed: Callable[[Mapping[str, PressureLevel]], object], mount: str = MOUNT
    ) -> None:
        """`changed` is told all levels but NONE, by cgroup."""
        self._pressure = pressure
        self._changed = changed
        self._mount = mount
        self._triggers: dict[str, PressureTrigger | None] = {}
        self._levels: dict[str, PressureLevel] = {}
        self._stalled: set[str] = set()
        self._called = asyncio.Event()

    def watch(self, cgroups: Collection[str]) -> None:
        """These from now on, and no others."""
        for cgroup in self._triggers.keys() - set(cgroups):
            self._forget(cgroup)
        for cgroup in cgroups:
            if cgroup not in self._triggers:
                self._begin(cgroup)

    async def run(self) -> None:
        """For as long as the daemon lives."""
        while True:
            await self._called.wait()
            before = dict(self._levels)
            for cgroup in list(self._stalled):
                self._look(cgroup)
            if self._levels != before:
                self._changed(dict(self._levels))
            if not self._stalled:
                self._called.clear()
            else:
                await asyncio.sleep(LOOK_SECONDS)

    def close(self) -> None:
        """Disarm all triggers."""
        self.watch(())

    def _begin(self, cgroup: str) -> None:
        try:
            with CgroupDir.open(cgroup, self._mount) as directory:
                trigger = open_trigger(directory, StallKind.SOME, STALL_USEC, WINDOW_USEC)
        except KernelError as error:
            if isinstance(error, NotSupportedError):
                self._triggers[cgroup] = None  # Then its level is what readers find in Stalled.
            return
        with contextlib.suppress(OSError, RuntimeError):
            self._pressure.add(trigger, lambda: self._stall(cgroup), lambda: self._forget(cgroup))
            self._triggers[cgroup] = trigger

    def _stall(self, cgroup: str) -> None:
        self._stalled.add(cgroup)
        self._called.set()

    def _look(self, cgroup: str) -> None:
        try:
            with CgroupDir.open(cgroup, self._mount) as directory:
                pressure = directory.pressure()
        except KernelError:
            pressure = None
        percent = 0.0 if pressure is None else pressure.some.avg10
        level = pressure_level(self._levels.get(cgroup, PressureLevel.NONE), percent)
        self._levels[cgroup] = level
        if level is PressureLevel.NONE:
            # Its trigger tells when it begins again.
            del self._levels[cgroup]
            self._stalled.discard(cgroup)

    def _forget(self, cgroup: str) -> None:
        trigger = self._triggers.pop(cgroup, None)
        if trigger is not None:
            self._pressure.remove(trigger)
        self._stalled.discard(cgroup)
        if self._levels.pop(cgroup, None) is not None:
            self._changed(dict(self._levels))
