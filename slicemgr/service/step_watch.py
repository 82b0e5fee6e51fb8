# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who of a job's processes are steps now: born, told from drivers, measured, gone.

A look is cheap: a list of pids only when somebody may have been born, one small file for each step, and the others
only if they are new.
"""

import os
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final

from slicemgr.build import signature, steps
from slicemgr.kernel import formats, procfs
from slicemgr.kernel.errors import KernelError
from slicemgr.kernel.hold import HeldProcess
from slicemgr.kernel.kill import RefusedError
from slicemgr.kernel.step_files import StepFiles, directory_of, program_of, reads_terminal
from slicemgr.kernel.syscalls import same_address_space
from slicemgr.model.process import ProcessIdentity
from slicemgr.model.step import StepSignature, StepState
from slicemgr.service.lineage import Lineage
from slicemgr.service.live_step import LiveStep

YOUNG_SECONDS: Final = 0.3
"""A process is a copy of its parent until its exec; a child that still has its parent's name then is a worker, forked
to compute."""

WORKED_TICKS: Final = 2
"""And who has used 20 ms of a core: nobody does before an exec. Looked at after 0.5 s, twelve held 200 MB of 160."""

LIST_SECONDS: Final = 0.5
"""Between two lists of all members, if anybody was born or has ended: 1.1 ms for a process tree of sixty."""

FIRST_AGAIN_SECONDS: Final = 0.004
YOUNG_AGAIN_SECONDS: Final = 0.05
SETTLED_AGAIN_SECONDS: Final = 0.25
"""A shell may exec what it was told to run, mostly at once. So who is no step yet is looked at again when it is twice
as old, and at least so often: 40 us each, of twenty at each look they were 6 % of a core."""


class _Other:
    """A member that is no step (yet)."""

    __slots__ = ("born_seconds", "command_line", "due_seconds", "name", "ppid")

    def __init__(self, ppid: int, name: str, now_seconds: float) -> None:
        self.ppid = ppid
        self.name = name
        self.command_line: tuple[str, ...] = ()
        self.born_seconds = now_seconds
        self.due_seconds = now_seconds


class StepWatch:
    """The steps of one job. Only the pacer's thread calls."""

    def __init__(
        self,
        members: Callable[[], Iterable[int]],
        *,
        root_pid: int,
        hold: Callable[[ProcessIdentity], HeldProcess],
        sign: Callable[[Sequence[str], str], StepSignature],
        spared: Iterable[str] = (),
        spares: frozenset[int] = frozenset(),
        root_is_agent: bool = False,
    ) -> None:
        """`root_pid`: the command, which never waits: its stop would be ours. `hold` opens a proven process, and
        raises KernelError or RefusedError for who must not be stopped. `spared`: patterns of names,
        `spares`: pids that are not the job's own (the guardian). `root_is_agent`: the command is a program that a
        person talks to; workers of it, its children by the same name, never wait either."""
        self._root_is_agent = root_is_agent
        self._members = members
        self._root_pid = root_pid
        self._hold = hold
        self._sign = sign
        self._spared, self._spares = tuple(spared), spares
        self._others: dict[int, _Other] = {}
        self._lineage = Lineage()
        self.ancestors_of = self._lineage.ancestors_of
        self._order = 0
        self._ended: list[LiveStep] = []
        self._is_stale = True
        self._list_due = 0.0
        self._judge_due = 0.0
        self.version = 0
        """Grows whenever `steps` changes."""
        self.back: list[LiveStep] = []
        """Steps whose last child has ended, so that they compute again; whoever looks takes them out."""
        self.has_ended = False
        """Some step has."""
        self.steps: dict[int, LiveStep] = {}
        """By pid."""

    def look(
        self, now_seconds: float, *, born: Collection[int] | None = None, exited: Iterable[int] = ()
    ) -> tuple[list[LiveStep], list[LiveStep]]:
        """Who has become a step, and who has ended since the last look.

        `born`: pids that are new, anybody's (kernel/births.py); None: there may be any. `exited`: steps whose pidfd
        says so; they are members until somebody reaps them. Raises KernelError if the job can't be listed (any more).
        """
        # Kept until all has been looked at: what fails for a moment must not lose an end.
        for pid in exited:
            if pid in self.steps and procfs.has_failed(pid):
                self.steps[pid].is_whole = False
            if (step := self.forget(pid)) is not None:
                self._ended.append(step)
        self._is_stale = self._is_stale or born is None or len(born) > 0 or bool(self._ended)
        # Who is adopted, or has ended without having been a step, is seen later.
        if self._is_stale and (born is None or now_seconds >= self._list_due):
            self._list_due = 0.0
            self._list(now_seconds)
            self._list_due = now_seconds + LIST_SECONDS
            self._is_stale = False
        else:
            for pid in born or ():
                self._take_in(pid, now_seconds, is_member=False)
        for pid in self._lineage.gone():
            if pid in self._others:
                self._gone(pid)
        ended, self._ended = self._ended, []
        if now_seconds < self._judge_due:
            return [], ended
        begun = [step for pid in list(self._others) if (step := self._judged(pid, now_seconds)) is not None]
        self._judge_due = min((other.due_seconds for other in self._others.values()), default=0.0)
        return begun, ended

    def measure(self, now_seconds: float) -> None:
        """Every step."""
        for step in self.steps.values():
            step.measure(now_seconds)

    def forget(self, pid: int) -> LiveStep | None:
        """This step has ended; its descriptors are closed."""
        step = self.steps.pop(pid, None)
        self._left(pid)
        if step is not None:
            self.has_ended = True
            self.version += 1
            step.close()
        return step

    def close(self) -> None:
        """Let go of all."""
        for pid in list(self.steps):
            self.forget(pid)

    def is_continuation(self, step: LiveStep) -> bool:
        """Whether a step has started it, and waits for it alone: meinproc5 checks what it reads by an xmllint.

        The one that waits holds what it holds, so to hold the other would only keep both from their ends.
        """
        parent = self.steps.get(self._lineage.parent_of(step.identity.pid))
        return parent is not None and parent.children == 1 and parent.state is StepState.RUNNING

    @property
    def others(self) -> Iterable[int]:
        """The pids of those that are no steps: drivers, and who is too young to tell."""
        return self._others

    def _list(self, now_seconds: float) -> None:
        pids = set(self._members()) - self._spares
        known = {*self._others, *self.steps}
        self._ended += [step for pid in known - pids if (step := self._gone(pid)) is not None]
        for pid in sorted(pids - known):  # Numbers are given out in their order: its parent comes first.
            self._take_in(pid, now_seconds, is_member=True)

    def _take_in(self, pid: int, now_seconds: float, *, is_member: bool) -> None:
        """One that is new. Not listed, it is a member if it is a child of one, and no thread of one of those."""
        if pid in self._others or pid in self.steps or pid in self._spares:
            return
        try:
            stat = procfs.read_stat(pid)
            ppid = stat.ppid
            if not is_member and not (ppid in self._others or ppid in self.steps):
                return
            if not is_member and procfs.thread_group_of(pid) != pid:
                return
        except KernelError:
            return
        # The name at once: whoever is asked about before its parent is compared with that.
        self._others[pid] = _Other(ppid, os.fsdecode(stat.comm), now_seconds)
        self._judge_due = now_seconds
        parent = self.steps.get(ppid)
        self._lineage.has_begun(pid, ppid, is_awaited=parent is not None or self._computes(ppid))
        if parent is not None:
            parent.children += 1

    def _gone(self, pid: int) -> LiveStep | None:
        if pid in self.steps:
            return self.forget(pid)
        del self._others[pid]
        self._left(pid)
        return None

    def _left(self, pid: int) -> None:
        """It is nobody's child any more."""
        ppid = self._lineage.has_ended(pid)
        parent = self.steps.get(ppid)
        if parent is not None:
            parent.children -= 1
            if not parent.children:
                self.back.append(parent)
        elif (other := self._others.get(ppid)) is not None:
            other.due_seconds = self._judge_due = 0.0  # It may compute now.

    def _computes(self, pid: int) -> bool:
        """Whether this one, which is no step because it has a child, is no driver either, and goes on after that."""
        try:
            return pid in self._others and pid != self._root_pid and not steps.is_driver(program_of(pid))
        except (KernelError, OSError):
            return False

    def _judged(self, pid: int, now_seconds: float) -> LiveStep | None:
        """A step, if it is one by now."""
        other = self._others[pid]
        if now_seconds < other.due_seconds:
            return None
        age = now_seconds - other.born_seconds
        is_young = age < YOUNG_SECONDS
        longest = YOUNG_AGAIN_SECONDS if is_young else SETTLED_AGAIN_SECONDS
        other.due_seconds = now_seconds + min(max(age, FIRST_AGAIN_SECONDS), longest)
        if not is_young and self._lineage.has_children(pid):
            return None
        try:
            stat = procfs.read_stat(pid)
            other.name = os.fsdecode(stat.comm)
            if pid == self._root_pid or stat.state in "ZX" or steps.is_no_step(other.name):
                return None
            if self._lineage.has_children(pid):
                return None
            program = program_of(pid)
            if steps.is_driver(program) or self._is_copy(pid, stat, program, is_young):
                return None
            other.command_line = procfs.command_line(pid)
            if is_young and not other.command_line:
                return None  # Amid its exec, which gives the name first.
            return self._begun(pid, stat, other, now_seconds)
        except (KernelError, RefusedError, OSError):
            return None  # It has ended; the next list says so.

    def _is_copy(self, pid: int, stat: formats.ProcStat, program: str, is_young: bool) -> bool:
        """Still before its exec: a fork that looks like its parent, or a vfork whose stop would stop that as well.

        The name alone does not tell: a launcher is a script by the name of its compiler (build/launcher.py).
        """
        parent = self._others.get(stat.ppid) or self.steps.get(stat.ppid)
        if parent is None:
            return False
        name = parent.name if isinstance(parent, _Other) else parent.kind
        if os.fsdecode(stat.comm) != name or program != program_of(stat.ppid):
            return False
        return (is_young and stat.cpu_ticks < WORKED_TICKS) or bool(same_address_space(pid, stat.ppid))

    def _begun(self, pid: int, stat: formats.ProcStat, other: _Other, now_seconds: float) -> LiveStep | None:
        identity = ProcessIdentity(pid, stat.starttime)
        may_wait = not self._is_spared(pid, stat, other)
        process = self._hold(identity)
        try:
            files = StepFiles(pid)
        except BaseException:
            process.close()
            raise
        kind = signature.kind_of(other.name, other.command_line)
        step = LiveStep(self._order, identity, kind, process, files, now_seconds)
        self._order += 1
        step.may_wait = may_wait
        if not may_wait:
            step.enter(StepState.RUNNING, now_seconds)
        step.command_line = other.command_line
        try:
            step.signature = self._sign(other.command_line, directory_of(pid))
        except BaseException:
            step.close()
            raise
        step.measure(now_seconds)
        del self._others[pid]
        self.steps[pid] = step
        self.version += 1
        return step

    def _is_spared(self, pid: int, stat: formats.ProcStat, other: _Other) -> bool:
        """Who must not be stopped, whatever it holds."""
        parent = self._others.get(stat.ppid)
        return (
            stat.session == pid
            or stat.state in "Tt"
            or steps.is_job_of_a_shell(pid, stat.pgrp, "" if parent is None else parent.name)
            or reads_terminal(pid, stat)
            or steps.is_excluded(other.name, self._spared)
            or (self._root_is_agent and self._is_like_root(other))
        )

    def _is_like_root(self, other: _Other) -> bool:
        root = self._others.get(self._root_pid)
        return root is not None and other.ppid == self._root_pid and other.name == root.name
