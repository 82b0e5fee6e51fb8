# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a user's session.slice needs, measured; and when its manager is to be told what to keep for it."""

from typing import Final

from slicemgr.config.schema import DEFAULTS, Config
from slicemgr.kernel.cgroupfs import MOUNT, CgroupDir
from slicemgr.kernel.errors import KernelError
from slicemgr.model.slice import SliceKind, SliceSpec
from slicemgr.policy.slice_limits import session_reserve_bytes
from slicemgr.policy.working_set import (
    Caps,
    Protection,
    SessionSample,
    Told,
    WorkingSet,
    is_news,
    next_working_set,
    protection,
)
from slicemgr.service.sessions import SESSION_SLICE

MEASURE_SECONDS: Final = 10.0
"""Between two samples: as long as memory.pressure's own average. One takes 0.1 ms."""


class SessionMemory:
    """Of one user. Its calls are one after the other."""

    def __init__(self, cgroup: str, *, total_bytes: int, mount: str = MOUNT) -> None:
        self._cgroup = cgroup
        self._total_bytes = total_bytes
        self._mount = mount
        self._told: Told | None = None
        self.working_set: WorkingSet | None = None
        """None: nothing has run there yet."""

    def measure(self, config: Config, *, is_active: bool, now_seconds: float) -> Protection | None:
        """Take a sample. What the manager is to be told now, or None.

        Where the configuration names another protection than the default, that holds, and nobody is told.
        """
        sample = self._sample(is_active=is_active, now_seconds=now_seconds)
        if sample is None:
            return None
        self.working_set = next_working_set(self.working_set, sample)
        reserve = session_reserve_bytes(config.machine, self._total_bytes)
        wanted = protection(self.working_set, Caps(self._total_bytes, reserve))
        if not _is_ours_to_set(config) or not is_news(self._told, wanted, now_seconds):
            return None
        self._told = Told(wanted, now_seconds)
        return wanted

    def forget_what_was_told(self) -> None:
        """Somebody has set the slice anew, by the configuration."""
        self._told = None

    def _sample(self, *, is_active: bool, now_seconds: float) -> SessionSample | None:
        try:
            with CgroupDir.open(self._cgroup, self._mount) as directory:
                stat, pressure = directory.stat(), directory.pressure()
                if stat is None or not directory.is_populated():
                    return None
        except KernelError:
            return None
        return SessionSample(
            taken_seconds=now_seconds,
            unreclaimable_bytes=(stat.anon or 0) + (stat.shmem or 0),
            active_file_bytes=stat.active_file or 0,
            inactive_file_bytes=stat.inactive_file or 0,
            stalled_percent=0.0 if pressure is None else pressure.some.avg10,
            is_active=is_active,
        )


def _is_ours_to_set(config: Config) -> bool:
    spec = next((each for each in config.slices if each.unit == SESSION_SLICE), None)
    default: SliceSpec = DEFAULTS[SliceKind.SESSION]
    return spec is not None and (spec.memory_low, spec.memory_min) == (default.memory_low, default.memory_min)
