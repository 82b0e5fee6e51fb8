# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which backend holds a job: systemd, then plain cgroups, then our own process tree, and why not an earlier one.

In two steps, because the process of the job is forked in between: `choose` looks and connects (the manager says hello
while we fork), `Choice.open_job` places the held process. What fails only then goes to the next backend as well.
"""

from __future__ import annotations

import errno
import os

from slicemgr.placement import systemd
from slicemgr.placement.backend import CGROUPS, JobHandle, PlacementError, cgroup_of, read_text
from slicemgr.placement.bus_connection import ManagerError, NoManagerError
from slicemgr.placement.bus_wire import BusError
from slicemgr.placement.systemd1 import JobFailedError, connect

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

    from slicemgr.placement.systemd1 import Manager

ORDER: Final = ("systemd", "cgroup", "embedded")


class NoBackendError(Exception):
    """The backend that was asked for can't be had, or none at all; one line that ends in what to try."""


class Choice:
    """A backend that looked good, and those that come after it."""

    __slots__ = ("_embedded", "_manager", "_parents", "_rest", "_uid", "backend", "passed_over")

    def __init__(
        self,
        backend: str,
        passed_over: tuple[tuple[str, str], ...],
        rest: tuple[str, ...],
        *,
        uid: int,
        manager: Manager | None = None,
        parents: Sequence[str] | None = None,
        embedded: JobHandle | None = None,
    ) -> None:
        self.backend = backend
        """`systemd`, `cgroup` or `embedded`."""
        self.passed_over = passed_over
        """(backend, reason) of each one before it."""
        self._rest = rest
        self._uid = uid
        self._manager = manager
        self._parents = parents
        self._embedded = embedded

    def open_job(
        self,
        pid: int,
        *,
        name: str,
        slice_name: str,
        command: Sequence[str],
        memory_high: int | None = None,
        memory_max: int | None = None,
        memory_swap_max: int | None = None,
        beside: Sequence[int] = (),
    ) -> JobHandle:
        """Place a held process, here or in the next backend that takes it. Limits in bytes; None is no limit.

        `beside` are pids of our own that stay beside the job until its end: they keep its scope in being, which a
        service manager would take away.

        Blocks for the manager's answer. Raises NoBackendError when nobody takes it.
        """
        passed_over = self.passed_over
        for backend in (self.backend, *self._rest):
            try:
                if backend == "systemd" and self._manager is not None:
                    handle = systemd.open_job(
                        self._manager,
                        pid,
                        name=name,
                        slice_name=slice_name,
                        command=command,
                        memory_high=memory_high,
                        memory_max=memory_max,
                        memory_swap_max=memory_swap_max,
                        beside=beside,
                        is_user=self._uid != 0,
                    )
                elif backend == "cgroup":
                    from slicemgr.placement import delegated

                    handle = delegated.open_job(
                        pid,
                        name=name,
                        parents=self._parents,
                        beside=beside,
                        memory_high=memory_high,
                        memory_max=memory_max,
                        memory_swap_max=memory_swap_max,
                    )
                else:
                    limits = (memory_high, memory_max, memory_swap_max)
                    handle = self._open_embedded(pid, beside, wanted=any(limit is not None for limit in limits))
            except (BusError, JobFailedError, PlacementError, OSError) as error:
                passed_over += ((backend, _reason(backend, error)),)
                continue
            finally:
                self.close()
            handle.passed_over = passed_over
            return handle
        raise NoBackendError(passed_over[-1][1])

    def close(self) -> None:
        """Hang up; of no use after `open_job`."""
        if self._manager is not None:
            self._manager.close()
            self._manager = None

    def _open_embedded(self, pid: int, beside: Sequence[int], *, wanted: bool) -> JobHandle:
        from slicemgr.kernel.errors import ProcessGoneError

        handle = self._embedded or _embedded()
        try:
            if handle.source is not None:
                handle.source.place(pid)
                for ours in beside:
                    handle.source.leave_out(ours)
        except ProcessGoneError:  # Killed while it was held: its status will tell.
            pass
        if wanted:
            handle.why_not = "the embedded backend watches limits and can't hold a job at them; try --backend systemd"
        return handle


def choose(
    preference: str = "auto",
    *,
    uid: int,
    runtime_dir: str | None = None,
    session_bus: str | None = None,
    needs_memory: bool = True,
) -> Choice:
    """The first backend that looks as if it will take a job; before the fork, for the sake of `embedded`.

    `needs_memory`: a limit will be asked for, so a backend without the memory controller is of no use.
    `runtime_dir` and `session_bus` are $XDG_RUNTIME_DIR and $DBUS_SESSION_BUS_ADDRESS. Raises NoBackendError if the
    backend of an explicit preference can't be had.
    """
    candidates = ORDER if preference == "auto" else (preference,)
    passed_over: tuple[tuple[str, str], ...] = ()
    for at, backend in enumerate(candidates):
        rest = candidates[at + 1 :]
        try:
            if backend == "embedded":
                return Choice(backend, passed_over, rest, uid=uid, embedded=_embedded())
            _require_cgroup2(uid, needs_memory=needs_memory and backend == "systemd")
            if backend == "systemd":
                manager = connect(uid, runtime_dir=runtime_dir, session_bus=session_bus, in_turn=True)
                return Choice(backend, passed_over, rest, uid=uid, manager=manager)
            from slicemgr.placement import delegated

            parents = delegated.writable_parents(cgroup_of("self"))
            return Choice(backend, passed_over, rest, uid=uid, parents=parents)
        except (BusError, PlacementError, OSError) as error:
            passed_over += ((backend, _reason(backend, error)),)
    raise NoBackendError(passed_over[-1][1])


def _embedded() -> JobHandle:
    from slicemgr.placement import embedded

    return embedded.open_job()


def _require_cgroup2(uid: int, *, needs_memory: bool) -> None:
    """Raises PlacementError if there is no cgroup v2, or its memory controller does not reach the user's manager."""
    try:
        controllers = read_text(f"{CGROUPS}/cgroup.controllers")
    except OSError:
        raise PlacementError(_why_no_cgroup2()) from None
    if not needs_memory:
        return
    if "memory" not in controllers.split():
        raise PlacementError(systemd.no_controller(["memory"], is_user=False))
    if uid:
        try:
            controllers = read_text(f"{CGROUPS}/user.slice/user-{uid}.slice/user@{uid}.service/cgroup.controllers")
        except OSError:  # No such manager, or elsewhere: connecting and reading back will tell.
            return
        if "memory" not in controllers.split():
            raise PlacementError(systemd.no_controller(["memory"], is_user=True))


def _why_no_cgroup2() -> str:
    """As kernel/features.py says it, which reads the mount table and is not light."""
    if os.path.isdir(f"{CGROUPS}/unified"):
        what = "the cgroups are of version 1, or a mix of both (hybrid)"
    elif os.path.isdir(f"{CGROUPS}/memory"):
        what = "the cgroups are of version 1"
    else:
        return f"no cgroup v2 is mounted at {CGROUPS}; try mount -t cgroup2 cgroup2 {CGROUPS}"
    return f"{what}; try `systemd.unified_cgroup_hierarchy=1` on the kernel command line"


def _reason(backend: str, error: Exception) -> str:
    """One line that ends in what to try."""
    text = str(error)
    if isinstance(error, PlacementError):
        return text
    if isinstance(error, NoManagerError):
        if error.errno in {errno.EACCES, errno.EPERM}:
            return f"not permitted to talk to systemd ({text}); try it as the user who logged in"
        return f"no service manager answers ({text}); try 'systemctl [--user] status', or logging in again"
    if isinstance(error, (ManagerError, JobFailedError)):
        return f"systemd refuses the scope: {text}; try 'systemctl [--user] status'"
    if isinstance(error, BusError):
        return f"no use of the service manager: {text}; try again, or --backend embedded"
    if backend == "embedded":
        text = (error.strerror if isinstance(error, OSError) else None) or text
        return f"can't guard a job: {text}; try a kernel from 5.3 on"
    return f"{text}; try --backend embedded"
