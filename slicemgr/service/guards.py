# SPDX-License-Identifier: LGPL-2.1-or-later
"""All guards of a daemon: one for each slice, or one for all users' slices, and the machine's."""

import asyncio
import os
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from slicemgr.config.schema import Config
from slicemgr.kernel import procfs
from slicemgr.kernel.cgroupfs import CgroupDir
from slicemgr.kernel.errors import CgroupGoneError, NotSupportedError
from slicemgr.kernel.kernel_log import oom_victims
from slicemgr.kernel.machine import MachineReader
from slicemgr.kernel.pressure import MACHINE, PressureThread, StallKind, open_trigger
from slicemgr.kernel.watch import CgroupWatch
from slicemgr.model.cgroup import is_below
from slicemgr.model.process import ProcessIdentity
from slicemgr.model.slice import SliceKind, SliceSpec, slice_path, with_inner_protection
from slicemgr.policy.machine import Thresholds
from slicemgr.policy.slice_limits import resolve_slice, thresholds
from slicemgr.service.cgroup_guard import CgroupGuard
from slicemgr.service.control import somebody_answers
from slicemgr.service.guard import FLEETING, Guard
from slicemgr.service.machine_guard import MachineGuard
from slicemgr.service.managed import ManagedSlice
from slicemgr.service.naming import CommandLines
from slicemgr.service.overview import user_roots
from slicemgr.service.record import Record
from slicemgr.service.report import GuardFailedReport, HighReport, Report
from slicemgr.service.slices import managed_slice

USERS: Final = "/user.slice"
_USER_MANAGER: Final = re.compile(r"(?P<root>/user\.slice/user-(?P<uid>\d+)\.slice/user@(?P=uid)\.service)/")

MACHINE_STALL_USEC: Final = 100_000
MACHINE_WINDOW_USEC: Final = 1_000_000
"""A tenth of a second in which somebody waited: rare on a machine with memory, and time enough to look."""

OWN_DAEMON_SECONDS: Final = 1.0
"""For which it is remembered whether a user has a daemon of their own: asking is a connection."""

_MACHINE: Final = "machine"
"""The name of its task among those of the cgroups, which begin with a slash."""

ABSENT_SECONDS: Final = 5.0
"""A slice that is not there is looked for again: nobody tells of a new one without a bus."""


class Guards:
    """What is guarded now. Belongs to the loop's thread, but for `names_of`."""

    def __init__(
        self,
        config: Config,
        report: Callable[[Report], None],
        warn: Callable[[HighReport], None] = lambda report: None,
        *,
        dry_run: bool,
        is_user: bool,
        spared: Callable[[], frozenset[ProcessIdentity]] = frozenset,
    ) -> None:
        """To be made in the loop's thread. `warn` is as CgroupGuard's. `spared`: who is never taken, in whatever slice.

        Raises OSError without /proc/meminfo.
        """
        self._config = config
        self._of_users = with_inner_protection(config.slices)
        self._report = report
        self._warn = warn
        self._dry_run = dry_run
        self._is_user = is_user
        self._spared = spared
        self._machine = MachineReader()
        self.total_bytes = self._machine.reading().total_bytes
        self._slices: dict[str, ManagedSlice] = {}
        self._running: dict[str, CgroupGuard] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._kill_paths: dict[str, Guard] = {}
        self._command_lines = CommandLines(self._members)
        self._ourselves = procfs.ancestors_of(os.getpid())
        self._watch = CgroupWatch()
        loop = asyncio.get_running_loop()
        loop.add_reader(self._watch.fileno(), self._watch.dispatch)
        self.pressure = PressureThread(loop.call_soon_threadsafe)
        self._own_daemons: dict[int, tuple[float, bool]] = {}

    @staticmethod
    def is_of_the_system(spec: SliceSpec) -> bool:
        """Whether the system's manager has this slice too: it runs builds, and no sessions."""
        return spec.kind is SliceKind.BUILD

    def guard(self, slices: Iterable[ManagedSlice], config: Config, tasks: asyncio.TaskGroup) -> None:
        """Guard these from now on, in place of those before; who is guarded already goes on undisturbed."""
        self._slices = {each.cgroup: replace(each, spared=self._spared) for each in slices}
        self._config = config
        self._of_users = with_inner_protection(config.slices)
        self._kill_paths = {
            path: guard
            for path, guard in self._kill_paths.items()
            if (each := self.managed_of(path)) is not None and each.rules == guard.rules
        }
        roots = set(self._slices) if self._is_user else {*self._slices, USERS}
        # A guard goes down to the last cgroup: a slice within another one would have two, and all be told twice.
        roots = {root for root in roots if not any(root.startswith(outer + "/") for outer in roots)}
        for root in self._tasks.keys() - roots - {_MACHINE}:
            self._tasks.pop(root).cancel()
        for root in sorted(roots - self._tasks.keys()):
            self._tasks[root] = tasks.create_task(self._keep_guarding(root), name=root)
        if _MACHINE not in self._tasks:
            self._tasks[_MACHINE] = tasks.create_task(self._new_machine_guard().watch(), name=_MACHINE)

    def managed(self) -> list[ManagedSlice]:
        """All slices that are there now, users' too."""
        found = dict(self._slices)
        if not self._is_user:
            # Not from what the guard of users has seen: in a shortage of the machine no cgroup has an event.
            for root in user_roots():
                for spec in self._of_users:
                    if (each := self.managed_of(slice_path(root, spec.unit))) is not None:
                        found.setdefault(each.cgroup, each)
        return list(found.values())

    def managed_of(self, cgroup: str) -> ManagedSlice | None:
        """The managed slice that a cgroup is in, the innermost one; None: nothing in it is ours to touch."""
        own = [each for each in self._slices.values() if each.contains(cgroup.rstrip("/"))]
        if own:
            return max(own, key=lambda each: len(each.cgroup))
        manager = _USER_MANAGER.match(cgroup)
        if self._is_user or manager is None:
            return None
        if self._has_own_daemon(int(manager["uid"])):
            return None
        paths = {slice_path(manager["root"], spec.unit): spec for spec in self._of_users}
        fits = [path for path in paths if is_below(cgroup, path)]
        if not fits:
            return None
        path = max(fits, key=len)
        limits = resolve_slice(paths[path], self._config.machine, self.total_bytes)
        return replace(managed_slice(paths[path], limits, path), spared=self._spared)

    def refusal(self, cgroup: str, uid: int) -> str | None:
        """Why this cgroup is not watched for this user, or None."""
        if self._dry_run:
            return "this daemon is a dry run, and ends nobody"
        if self.managed_of(cgroup) is None:
            return f"{cgroup} is in no managed slice; try --slice build"
        if uid not in {0, os.getuid()} and not cgroup.startswith(f"{USERS}/user-{uid}.slice/"):
            return f"{cgroup} is another user's"
        if not any(cgroup.startswith(root + "/") for root in self._running):
            return f"nobody watches {cgroup} yet"
        return None

    def names(self) -> list[str]:
        """The slices, for people."""
        return [os.path.basename(path) for path in self._slices] + ([] if self._is_user else ["all users' slices"])

    def record_of(self, report: Report) -> Record:
        """As of now. From any thread."""
        return Record(report, time.time(), *self.names_of(report))

    def names_of(self, report: Report) -> tuple[str, str]:
        """The slice and the job that a report is about; empty where it is about none."""
        cgroup = getattr(report, "victim_cgroup", "") or getattr(report, "cgroup", "")
        managed = self.managed_of(cgroup) if cgroup else None
        if managed is None:
            return "", ""
        below = cgroup.removeprefix(managed.cgroup).lstrip("/")
        return os.path.basename(managed.cgroup), below.partition("/")[0]

    async def at_rest(self) -> None:
        """Wait for the end of every kill that is under way."""
        for guard in list(self._kill_paths.values()):
            await guard.at_rest()

    def cancel(self) -> None:
        """Guard nothing any more, as soon as the tasks have ended."""
        for task in self._tasks.values():
            task.cancel()
        self._tasks.clear()

    def close(self) -> None:
        """When all tasks have ended: they take out what they watch."""
        self.pressure.close()
        asyncio.get_running_loop().remove_reader(self._watch.fileno())
        self._watch.close()

    async def _keep_guarding(self, root: str) -> None:
        """One cgroup for as long as the daemon lives: it may be removed and come back."""
        failed = ""
        while True:
            try:
                guard = self._new_guard(root)
                self._running[root] = guard
                await guard.watch()
                failed = ""
            except CgroupGoneError:
                failed = ""  # Not there now.
            except FLEETING as error:
                failed = self._tell_failure(error, failed)
            finally:
                self._running.pop(root, None)
            await asyncio.sleep(ABSENT_SECONDS)

    def _tell_failure(self, error: Exception, told: str) -> str:
        text = f"{type(error).__name__}: {error}"
        if text != told:
            self._report(GuardFailedReport(text))
        return text

    def _new_guard(self, root: str) -> CgroupGuard:
        return CgroupGuard(
            CgroupDir.open(root),
            self.managed_of,
            self._guard_of,
            calls=self._watch,
            report=self._report,
            warn=self._warn,
            learn=self._command_lines.learn,
            ourselves=self._ourselves,
            free_swap=lambda: self._machine.reading().swap_free_bytes,
            kernel_log=oom_victims,
        )

    def _new_machine_guard(self) -> MachineGuard:
        guard = MachineGuard(
            self._machine.reading,
            self._thresholds,
            self.managed,
            self._guard_of,
            ourselves=self._ourselves,
            clock=time.monotonic,
        )
        try:
            trigger = open_trigger(MACHINE, StallKind.SOME, MACHINE_STALL_USEC, MACHINE_WINDOW_USEC)
            self.pressure.add(trigger, guard.call, lambda: None)
            guard.is_called = True
        except (NotSupportedError, OSError, RuntimeError):
            pass  # It reads more often than it would have to, that is all.
        return guard

    def _thresholds(self) -> Thresholds:
        return thresholds(self._config.machine, self.total_bytes, self._machine.reading().swap_total_bytes)

    def _has_own_daemon(self, uid: int) -> bool:
        """Whether this user's own daemon guards their slices: then the system's leaves them to it."""
        now = time.monotonic()
        asked, answer = self._own_daemons.get(uid, (-OWN_DAEMON_SECONDS, False))
        if now - asked >= OWN_DAEMON_SECONDS:
            try:
                answer = somebody_answers(f"/run/user/{uid}/slicemgr/control")
            except FileNotFoundError:
                answer = False
            except OSError as error:
                answer = False
                self._tell_failure(error, "")
            self._own_daemons[uid] = now, answer
        return answer

    def _guard_of(self, managed: ManagedSlice) -> Guard:
        """One kill path for each slice, so one victim at a time in each."""
        if managed.cgroup not in self._kill_paths:
            self._kill_paths[managed.cgroup] = Guard(
                managed.rules, report=self._report, command_lines=self._command_lines, dry_run=self._dry_run
            )
        return self._kill_paths[managed.cgroup]

    def _members(self) -> set[int]:
        return set().union(*(guard.members() for guard in list(self._running.values())))
