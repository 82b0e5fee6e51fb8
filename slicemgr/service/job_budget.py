# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a job may hold at this moment, and what it holds: for whoever paces its steps.

The tightest of three: its own limit; what is left for it in its slice, by the daemon's word or else by what the other
jobs there hold; and what the machine has. All in bytes of what can't be reclaimed, so that page cache serialises no
build; free swap is ignored. In a cgroup a read takes 13 us, and 150 us four times a second when it looks around, with
four levels above and three jobs beside it (tests/bench/budget.py; the kernel's own part comes on top).
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from slicemgr.kernel.cgroupfs import MOUNT, CgroupDir
from slicemgr.kernel.errors import CgroupGoneError, FormatError, KernelError
from slicemgr.kernel.meminfo import read_total_and_available
from slicemgr.policy.sharing import lone_share
from slicemgr.service.slice_room import SliceRoom, held_by, limit_of

LOOK_SECONDS: Final = 0.25
"""Between two looks at the other jobs and the machine."""

NEWCOMER_SECONDS: Final = 10.0
"""For so long a job that has just come counts as a build though it holds nothing yet (policy/sharing.py)."""

_NO_LIMIT: Final = 1 << 62
"""What nobody limits: no machine has it."""


@dataclass(frozen=True, slots=True)
class Budget:
    """At one instant."""

    budget_bytes: int
    """What can't be reclaimed has to stay below it; 0 and more."""
    used_bytes: int
    is_shared: bool = False
    """Others hold some of what the job could have otherwise: waiting may help even its only step."""


@dataclass(frozen=True, slots=True)
class _Surroundings:
    """As the last look found them."""

    is_told: bool
    """By a daemon, so that nobody has looked at the neighbours."""
    own_limit: int
    slice_limit: int | None
    """For this job and its neighbours together; None: no limit above."""
    others: tuple[int, ...]
    newcomers: int
    machine: int


class JobBudget:
    """Of one job. Used by one thread."""

    def __init__(
        self,
        cgroup: str | None,
        *,
        reserve_bytes: int,
        limit_bytes: int | None = None,
        held: Callable[[], int] = lambda: 0,
        allowance: Callable[[], int | None] = lambda: None,
        mount: str = MOUNT,
        meminfo: str = "/proc/meminfo",
    ) -> None:
        """`cgroup`: the job's; None for a process tree, which has `limit_bytes` and whose memory `held` tells.

        `reserve_bytes`: what the machine keeps (policy/slice_limits.py, thresholds). `allowance`: what the daemon said
        last, None while no daemon says anything; it is called at each read, so let it be an attribute. Opens the
        cgroup: raises KernelError.
        """
        self._reserve = reserve_bytes
        self._limit = limit_bytes
        self._tree_held = held
        self._allowance = allowance
        self._meminfo = meminfo
        self._own: CgroupDir | None = None
        self._slice: SliceRoom | None = None
        if cgroup is not None:
            self._own = CgroupDir.open(cgroup, mount)
            try:
                self._slice = SliceRoom(os.path.dirname(cgroup), mount)
            except BaseException:
                self._own.close()
                raise
        self._name = "" if cgroup is None else os.path.basename(cgroup)
        self._came: dict[str, float] = {}
        self._began_seconds: float | None = None
        self._looked_seconds = 0.0
        self._around: _Surroundings | None = None

    def read(self, now_seconds: float) -> Budget:
        """What it may hold and holds now. Raises CgroupGoneError once it has ended, KernelError."""
        used = self._tree_held() if self._own is None else held_by(self._own)
        allowance = self._allowance()
        is_told = allowance is not None
        around = self._around
        # At once when the daemon goes: nobody has looked at the neighbours as long as it told.
        is_old = not 0 <= now_seconds - self._looked_seconds < LOOK_SECONDS
        if around is None or is_old or around.is_told != is_told:
            around = self._around = self._look(now_seconds, used, is_told=is_told)
            self._looked_seconds = now_seconds
        alone = min(around.own_limit, around.machine)
        budget = alone
        if allowance is not None:
            budget = min(alone, allowance)
        elif around.slice_limit is not None:
            share = lone_share(around.slice_limit, used, around.others, newcomers=around.newcomers)
            budget = min(alone, share)
            alone = min(alone, around.slice_limit)
        return Budget(max(0, budget), used, is_shared=budget < alone)

    def raise_limit(self, size_bytes: int) -> None:
        """A process tree has been let have so much more; of a cgroup its files tell."""
        if self._limit is not None:
            self._limit += size_bytes
        self._around = None

    def _look(self, now_seconds: float, used: int, *, is_told: bool) -> _Surroundings:
        # A daemon that has gone leaves builds behind that may all be about to grow.
        was_told = self._around is not None and self._around.is_told
        if self._began_seconds is None or (was_told and not is_told):
            self._began_seconds = now_seconds
        own_limit = self._limit if self._own is None else limit_of(self._own)
        slice_limit, others, newcomers = (None, (), 0) if is_told else self._neighbours(now_seconds)
        return _Surroundings(
            is_told=is_told,
            own_limit=_NO_LIMIT if own_limit is None else own_limit,
            slice_limit=slice_limit,
            others=others,
            newcomers=newcomers,
            machine=self._machine(used),
        )

    def _neighbours(self, now_seconds: float) -> tuple[int | None, tuple[int, ...], int]:
        if self._slice is None:
            return None, (), 0
        try:
            names = self._slice.jobs()
            room = self._slice.look({*names, self._name})
        except CgroupGoneError:
            raise
        except KernelError:  # Not ours to look at: then its own limit is all that there is.
            return None, (), 0
        self._came = {name: self._came.get(name, now_seconds) for name in names if name != self._name}
        youngest = now_seconds - NEWCOMER_SECONDS
        is_new = self._began_seconds is None or self._began_seconds > youngest
        newcomers = sum(is_new or came > youngest for came in self._came.values())
        return room.limit_bytes, tuple(held for name, held in room.held.items() if name != self._name), newcomers

    def _machine(self, used: int) -> int:
        """What it holds, and what is there beside the reserve."""
        try:
            _, available = read_total_and_available(self._meminfo)
        except (OSError, FormatError):  # Before 3.14, and where /proc is somebody's own.
            return _NO_LIMIT
        return used + available - self._reserve

    def close(self) -> None:
        """Let go of all descriptors."""
        if self._own is not None:
            self._own.close()
        if self._slice is not None:
            self._slice.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
