# SPDX-License-Identifier: LGPL-2.1-or-later
"""THE KILL PATH: from a shortage that reclaim can't end to one process less in the offending group.

In order: snapshot -> name the victim -> look again -> prove its identity and its cgroup -> SIGKILL -> free its
memory -> see it exit -> measure. One victim at a time; nothing between the decision and the signal waits for anything
but the kernel. Reports go into a queue that never blocks.
"""

import asyncio
import dataclasses
import enum
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from slicemgr.kernel.errors import KernelError, NotPermittedError, ProcessGoneError
from slicemgr.kernel.kill import ProvenProcess, RefusedError, release_memory
from slicemgr.model.decision import Evidence, Resource, Shortage
from slicemgr.model.process import ProcessIdentity, ProcessTable
from slicemgr.model.slice import VictimRule
from slicemgr.policy.badness import BadnessScale, why_unkillable
from slicemgr.policy.victim import NoVictim, choose, runners_up
from slicemgr.service.exits import readable_within
from slicemgr.service.futility import Futility, held_bytes
from slicemgr.service.kernel_kills import OwnVictims
from slicemgr.service.naming import CommandLines
from slicemgr.service.report import KillOutcome, KillReport, NoVictimReport, Report
from slicemgr.service.worker import Worker

EXIT_TIMEOUT_SECONDS: Final = 5.0
"""A process in an uninterruptible sleep (a dead NFS server) does not end by SIGKILL. 400 MB took 170 ms to be
freed under emulation, so who is still there after this is not busy exiting: the next candidate has its turn."""

DRY_RUN_SECONDS: Final = 10.0
"""For which a dry run does not name the same victim again."""

FLEETING: Final = (OSError, RuntimeError, KernelError)
"""A look can fail for a moment: no thread, no descriptor, no memory to be had, as a fork bomb makes it."""


ENDED: Final = frozenset({KillOutcome.EXITED, KillOutcome.ASKED, KillOutcome.DRY_RUN})
"""After these nobody else has to go at once; a dry run would else go through the whole slice in a second."""


class Killable(Protocol):
    """A proven process, see kernel/kill.py."""

    @property
    def cgroup(self) -> str:
        """Where it lives, if that had to be proven."""
        ...

    def fileno(self) -> int: ...
    def kill(self) -> None: ...
    def ask_to_end(self) -> None: ...


class Offender(Protocol):
    """The group that is short: a job's process tree, or a cgroup."""

    @property
    def cgroup(self) -> str:
        """As /proc/PID/cgroup names it; empty for a process tree."""
        ...

    def snapshot(self) -> ProcessTable:
        """Its processes, for the victim rule."""
        ...

    def still_short(self, shortage: Shortage) -> bool:
        """Whether the shortage is there yet; reads afresh, and waits for nothing."""
        ...

    async def usage_bytes(self, resource: Resource) -> int:
        """What it holds now of that resource, as exactly as can be had."""
        ...

    def kill_whole_job(self, victim: ProcessIdentity, table: ProcessTable, spared: frozenset[int]) -> bool:
        """SIGKILL to everything in the job of this process; False if that can't be had here, or would hit `spared`."""
        ...


class Ended(enum.Enum):
    """How an attempt to end a shortage went."""

    NO_VICTIM = "nobody can be taken"
    RECOVERED = "no longer short, or the victim ended by itself"
    EXITED = "the victim has exited"
    SURVIVED = "the victim is still there"


@dataclass(frozen=True, slots=True)
class KillRules:
    """How a slice gives up a process."""

    rule: VictimRule = VictimRule.HIGHEST_BADNESS_CHILD
    grace_seconds: float = 0.0
    """Between SIGTERM and SIGKILL; 0: SIGKILL at once."""


class Guard:
    """Ends one process at a time for the groups it is asked for; remembers who did not end, and for whom in vain."""

    def __init__(
        self,
        rules: KillRules,
        *,
        report: Callable[[Report], None],
        command_lines: CommandLines,
        prove: Callable[[ProcessIdentity, str], AbstractContextManager[Killable]] = ProvenProcess,
        dry_run: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`dry_run`: everything but the signal."""
        self._dry_run = dry_run
        self._dry_told: dict[ProcessIdentity, float] = {}
        self._rules = rules
        self._report = report
        self._command_lines = command_lines
        self._prove = prove
        self._clock = clock
        self._futility = Futility()
        self._survivors: set[ProcessIdentity] = set()
        self._without_victim: set[str] = set()
        self._out_of_reach: set[str] = set()
        self._acting = asyncio.Lock()
        self._releasing = Worker("release")
        self.victims = OwnVictims()
        """Whom it has ended: the kernel's OOM killer may count these, too."""

    @property
    def rules(self) -> KillRules:
        """By which rules it was made."""
        return self._rules

    async def at_rest(self) -> None:
        """Wait for the end of a kill that is under way: a victim may be the whole job, and has to be told of."""
        async with self._acting:
            return

    def all_is_well(self, offender: Offender) -> None:
        """The group is short of nothing: if it is again and nobody can be taken, that is news again."""
        self._without_victim.discard(offender.cgroup)
        self._out_of_reach.discard(offender.cgroup)

    async def end_shortage(
        self, shortage: Shortage, offender: Offender, scale_of: Callable[[ProcessTable], BadnessScale]
    ) -> Ended:
        """One victim, if there is still need of one. Raises FLEETING."""
        async with self._acting:
            return await self._end_shortage(shortage, offender, scale_of)

    async def _end_shortage(
        self, shortage: Shortage, offender: Offender, scale_of: Callable[[ProcessTable], BadnessScale]
    ) -> Ended:
        decided = self._clock()
        table = offender.snapshot()
        scale = dataclasses.replace(scale_of(table), survivors=frozenset(self._survivors))
        choice = choose(table, scale, self._futility.exhausted(decided), self._rules.rule)
        if isinstance(choice, NoVictim):
            self._tell_no_victim(NoVictimReport(decided, shortage, choice.spared, offender.cgroup))
            return Ended.NO_VICTIM
        if not offender.still_short(shortage):
            return Ended.RECOVERED
        if _is_out_of_reach(table, scale, shortage):
            if offender.cgroup in self._out_of_reach:
                self._tell_no_victim(NoVictimReport(decided, shortage, (), offender.cgroup, out_of_reach=True))
                return Ended.NO_VICTIM
            self._out_of_reach.add(offender.cgroup)
        victim = choice.victim.process
        kill = await self._kill(victim.identity, shortage, offender, table, scale)
        if kill is None:
            return Ended.RECOVERED  # It ended by itself: that may have been enough.
        outcome, victim_cgroup = kill
        if outcome is KillOutcome.DRY_RUN and not self._is_news(victim.identity, decided):
            return Ended.EXITED
        seconds_to_exit = self._clock() - decided
        try:
            used_after = await offender.usage_bytes(shortage.resource)
        except FLEETING:
            used_after = shortage.usage_bytes  # Who was killed is told, also when it can't be seen what that brought.
        if outcome not in ENDED:
            self._survivors.add(victim.identity)
        if outcome is KillOutcome.EXITED:  # Who did not end freed nothing by that, and its parent is not to blame.
            self._futility.note(table, victim, decided, freed_bytes=shortage.freed_bytes(used_after))
        next_ones = runners_up(table, scale, choice.victim, rule=self._rules.rule)
        self._report(
            KillReport(
                at_seconds=decided,
                victim=victim,
                command_line=self._command_lines.of(victim),
                held_bytes=held_bytes(victim),
                points=choice.victim.points,
                for_parent=None if choice.for_parent is None else choice.for_parent.process,
                shortage=shortage,
                runners_up=tuple((each.process, held_bytes(each.process)) for each in next_ones),
                outcome=outcome,
                seconds_to_exit=seconds_to_exit,
                usage_after_bytes=used_after,
                was_alone=all(each.pid in {victim.pid, *scale.keepers} for each in table),
                cgroup=offender.cgroup,
                victim_cgroup=victim_cgroup,
                rule=self._rules.rule,
                asked_to_end=self._rules.grace_seconds > 0,
            )
        )
        return Ended.SURVIVED if outcome not in ENDED else Ended.EXITED

    async def _kill(
        self,
        identity: ProcessIdentity,
        shortage: Shortage,
        offender: Offender,
        table: ProcessTable,
        scale: BadnessScale,
    ) -> tuple[KillOutcome, str] | None:
        """Prove, kill, and see it exit, and where it lived; None if there was nobody to kill any more."""
        cgroup = offender.cgroup
        try:
            with self._prove(identity, offender.cgroup) as victim:
                cgroup = victim.cgroup
                if self._dry_run:
                    return KillOutcome.DRY_RUN, cgroup
                if await self._ends_when_asked(victim):
                    return KillOutcome.EXITED, cgroup
                if self._rules.grace_seconds > 0 and not offender.still_short(shortage):
                    return KillOutcome.ASKED, cgroup
                whole = self._rules.rule is VictimRule.WHOLE_JOB
                if not (whole and offender.kill_whole_job(identity, table, scale.ourselves | scale.protected)):
                    victim.kill()
                self.victims.add(identity.pid, cgroup)
                self._release(victim.fileno())
                exited = await readable_within(victim.fileno(), EXIT_TIMEOUT_SECONDS)
                if exited:
                    self.victims.exited(identity.pid, self._clock())
        except ProcessGoneError:
            return None
        except NotPermittedError:
            return KillOutcome.NOT_PERMITTED, cgroup
        except RefusedError:
            return KillOutcome.REFUSED, cgroup
        return KillOutcome.EXITED if exited else KillOutcome.STILL_THERE, cgroup

    async def _ends_when_asked(self, victim: Killable) -> bool:
        """SIGTERM and its grace, where the slice has one: an editor may save its files."""
        if self._rules.grace_seconds <= 0:
            return False
        victim.ask_to_end()
        return await readable_within(victim.fileno(), self._rules.grace_seconds)

    def _release(self, pidfd: int) -> None:
        """process_mrelease blocks for up to 90 ms on a big process: a thread may wait for it, the loop may not.

        On a copy of the pidfd, so that nobody has to wait for the thread. Where no copy (OSError) or no thread
        (RuntimeError) is to be had, the exit frees the memory as well, a little later.
        """
        try:
            copy = os.dup(pidfd)
        except OSError:
            return
        try:
            self._releasing.do(partial(release_memory, copy))
        except RuntimeError:
            os.close(copy)

    def _is_news(self, identity: ProcessIdentity, now: float) -> bool:
        """A dry run would name the same victim again and again."""
        told = self._dry_told.get(identity)
        if told is not None and now - told < DRY_RUN_SECONDS:
            return False
        self._dry_told = {each: at for each, at in self._dry_told.items() if now - at < DRY_RUN_SECONDS}
        self._dry_told[identity] = now
        return True

    def _tell_no_victim(self, report: NoVictimReport) -> None:
        """Once an episode."""
        if report.cgroup not in self._without_victim:
            self._without_victim.add(report.cgroup)
            self._report(report)


def _is_out_of_reach(table: ProcessTable, scale: BadnessScale, shortage: Shortage) -> bool:
    """Not even the end of all would be enough: what is stuck is in files of a tmpfs, which belong to no process.

    Who writes such a file goes, because it stands still for ever; after that, to kill would be to take everybody who
    comes, the `rm` of that very file among them (seen: five in five seconds).
    """
    if shortage.evidence not in {Evidence.UNRECLAIMABLE, Evidence.SWAP_FULL}:
        return False
    reach = sum(held_bytes(process) for process in table if why_unkillable(process, scale) is None)
    return reach < shortage.usage_bytes - shortage.limit_bytes
