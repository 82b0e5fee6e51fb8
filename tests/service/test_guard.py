# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kill path, step by step, on a scripted source: no process is real here."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from itertools import count

import pytest

from slicemgr.kernel.errors import KernelError, NotPermittedError, ProcessGoneError
from slicemgr.kernel.kill import RefusedError
from slicemgr.model.cgroup import CgroupSample, Measure, MemoryLimits
from slicemgr.model.decision import Evidence, Resource, Shortage
from slicemgr.model.process import ProcessIdentity, ProcessSample, ProcessTable
from slicemgr.policy.badness import BadnessScale, Unkillable
from slicemgr.service import guard as guard_module
from slicemgr.service import tree_guard
from slicemgr.service.futility import FUTILE_SACRIFICES, FUTILE_WINDOW_SECONDS
from slicemgr.service.naming import CommandLines
from slicemgr.service.report import HighReport, KillOutcome, KillReport, NoVictimReport, Report
from slicemgr.service.tree_guard import TreeGuard
from tests.unit.samples import process, sample

LIMITS = MemoryLimits(high=800, max=1000)
PAGE = 4096


class ScriptIsOverError(Exception):
    """The source has nothing more to say: the way out of a guard that watches for ever."""


@dataclass
class Machine:
    """A job whose readings are a list, and who writes down what is done to it."""

    readings: list[tuple[int, int]]
    """(unreclaimable, proportional) in bytes for each look; RSS is the first."""
    processes: list[ProcessSample] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    told: list[Report] = field(default_factory=list)
    refusal: Exception | None = None
    exits: bool = True
    """SIGKILL ends the victim."""
    ends_on_kill: bool = True
    """And takes it out of the list."""

    def read(self, measure: Measure) -> CgroupSample:
        if not self.readings:
            raise ScriptIsOverError
        unreclaimable, proportional = self.readings[0]
        self.log.append(measure.value)
        memory = proportional if measure is Measure.PROPORTIONAL else unreclaimable
        return sample(memory, resident=unreclaimable, measure=measure)

    def snapshot(self) -> ProcessTable:
        self.log.append("snapshot")
        return ProcessTable(self.processes)

    @contextmanager
    def prove(self, identity: ProcessIdentity, cgroup: str = "") -> Iterator["FakeVictim"]:
        self.log.append(f"prove {identity.pid}")
        if self.refusal is not None:
            raise self.refusal
        victim = FakeVictim(self, identity)
        try:
            yield victim
        finally:
            victim.close()

    def next_reading(self) -> None:
        if self.readings:
            self.readings.pop(0)

    def place(self, pid: int) -> None:
        raise AssertionError("the guard has no need of this")

    def leave_out(self, pid: int) -> None:
        raise AssertionError("nor of this")

    def members(self) -> set[int]:
        raise AssertionError("the guard has no need of this")

    async def pause(self, seconds: float) -> None:
        if seconds > 0:
            self.log.append("pause")
            self.next_reading()


class FakeVictim:
    """A pipe in place of a pidfd: readable once the writer is closed."""

    cgroup = ""

    def __init__(self, machine: Machine, identity: ProcessIdentity) -> None:
        self._machine = machine
        self._identity = identity
        self._exit, self._writer = os.pipe()
        self._open = True

    def fileno(self) -> int:
        return self._exit

    def ask_to_end(self) -> None:
        self._machine.log.append(f"ask {self._identity.pid}")

    def kill(self) -> None:
        self._machine.log.append(f"kill {self._identity.pid}")
        if self._machine.exits:
            os.close(self._writer)
            self._open = False
            if self._machine.ends_on_kill:
                self._machine.processes = [each for each in self._machine.processes if each.identity != self._identity]
            self._machine.next_reading()

    def close(self) -> None:
        os.close(self._exit)
        if self._open:
            os.close(self._writer)


async def watch(machine: Machine, limits: MemoryLimits = LIMITS, clock: Callable[[], float] = lambda: 7.0) -> TreeGuard:
    """Run a guard to the end of the script."""
    guard = TreeGuard(
        machine,
        limits,
        BadnessScale(total_pages=100_000),
        report=machine.told.append,
        command_lines=CommandLines(lambda: ()),
        prove=machine.prove,
        pause=machine.pause,
        clock=clock,
    )
    with pytest.raises(ScriptIsOverError):
        await guard.watch()
    return guard


def kills(machine: Machine) -> list[tuple[int, KillOutcome]]:
    return [(each.victim.pid, each.outcome) for each in machine.told if isinstance(each, KillReport)]


@pytest.mark.asyncio
async def test_far_below_the_limit_only_rss_is_read() -> None:
    """After the first look, which makes the peak."""
    machine = Machine([(400, 390), (400, 400), (300, 300)])
    guard = await watch(machine)
    assert machine.log == [
        "resident",
        "unreclaimable",
        "proportional",
        "pause",
        "resident",
        "pause",
        "resident",
        "pause",
    ]
    assert (guard.peak_bytes, guard.looks) == (390, 3)
    assert machine.told == []


@pytest.mark.asyncio
async def test_the_order_of_the_kill_path() -> None:
    """Measure, decide, snapshot, look again, prove, kill, measure again; one report with the runners-up."""
    machine = Machine([(1200, 1100), (900, 900)], [process(10, 50), process(11, 70), process(12, 60)])
    await watch(machine)
    assert machine.log[:8] == [
        "resident", "unreclaimable", "proportional", "snapshot", "unreclaimable", "prove 11", "kill 11", "resident",
    ]  # fmt: skip
    (kill,) = [each for each in machine.told if isinstance(each, KillReport)]
    assert (kill.victim.pid, kill.held_bytes, kill.outcome) == (11, 70 * PAGE, KillOutcome.EXITED)
    assert (kill.shortage.usage_bytes, kill.shortage.limit_bytes) == (1100, 1000)
    assert [(each.pid, held) for each, held in kill.runners_up] == [(12, 60 * PAGE), (10, 50 * PAGE)]
    assert kill.usage_after_bytes == 900
    assert kill.at_seconds == 7.0
    assert not kill.was_alone


@pytest.mark.asyncio
async def test_pages_shared_since_a_fork_kill_nobody() -> None:
    """20 children of a 100 MB parent: 2.3 GB by RSS, 0.2 GB in truth."""
    machine = Machine([(2300, 200), (2300, 200)], [process(10, 50)])
    await watch(machine, MemoryLimits(max=1000))
    assert kills(machine) == []
    assert "snapshot" not in machine.log


@pytest.mark.asyncio
async def test_recovered_while_choosing() -> None:
    """A step that ends meanwhile saves the victim: the second look is before the shot."""
    machine = Machine([(1100, 1100), (700, 700)], [process(10, 50)])
    read = machine.snapshot

    def snapshot_then_recover() -> ProcessTable:
        table = read()
        machine.next_reading()
        return table

    machine.snapshot = snapshot_then_recover  # type: ignore[method-assign]
    await watch(machine)
    assert kills(machine) == []
    assert not [entry for entry in machine.log if entry.startswith("prove")]


@pytest.mark.asyncio
async def test_one_victim_at_a_time() -> None:
    """After each kill it looks again, and stops as soon as it is enough."""
    machine = Machine([(1300, 1300), (1200, 1200), (900, 900)], [process(10, 50), process(11, 70), process(12, 60)])
    await watch(machine)
    assert kills(machine) == [(11, KillOutcome.EXITED), (12, KillOutcome.EXITED)]


@pytest.mark.asyncio
async def test_a_warning_once_an_episode() -> None:
    """Above high twice in a row, then below, then above again."""
    machine = Machine([(850, 850), (860, 860), (700, 700), (900, 900)])
    await watch(machine)
    assert [each.usage_bytes for each in machine.told if isinstance(each, HighReport)] == [850, 900]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("refusal", "told"),
    [
        (NotPermittedError(11, "signal"), [(11, KillOutcome.NOT_PERMITTED), (10, KillOutcome.EXITED)]),
        (RefusedError("protected"), [(11, KillOutcome.REFUSED), (10, KillOutcome.EXITED)]),
        # Who has ended by itself is no news, and no reason to spare its like.
        (ProcessGoneError(11), [(11, KillOutcome.EXITED)]),
    ],
)
async def test_a_victim_that_cant_be_killed(refusal: Exception, told: list[tuple[int, KillOutcome]]) -> None:
    """Said with its reason; who can't be killed is not tried for ever, the next one has its turn."""
    machine = Machine([(1200, 1200), (1, 1)], [process(10, 50), process(11, 70)], refusal=refusal)
    attempts = iter(range(2))
    prove = machine.prove

    @contextmanager
    def first_refuses(identity: ProcessIdentity, cgroup: str = "") -> Iterator[FakeVictim]:
        if next(attempts) == 1:
            machine.refusal = None
        with prove(identity) as victim:
            yield victim

    machine.prove = first_refuses  # type: ignore[method-assign]
    await watch(machine)
    assert kills(machine) == told
    killed = [each.killed for each in machine.told if isinstance(each, KillReport)]
    assert killed == [outcome is KillOutcome.EXITED for _, outcome in told]


@pytest.mark.asyncio
async def test_a_victim_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """In an uninterruptible sleep: reported after the time-out, and the next candidate goes."""
    monkeypatch.setattr(guard_module, "EXIT_TIMEOUT_SECONDS", 0.0)
    machine = Machine([(1200, 1200), (1, 1)], [process(10, 50), process(11, 70)], exits=False)
    machine.prove = _ends_after(machine, count=1)  # type: ignore[method-assign,assignment]
    monkeypatch.setattr(guard_module, "readable_within", _exits_if(lambda: machine.exits))
    await watch(machine)
    assert kills(machine) == [(11, KillOutcome.STILL_THERE), (10, KillOutcome.EXITED)]


@pytest.mark.asyncio
async def test_nobody_to_kill_is_said_once() -> None:
    """And tried again, without a busy loop."""
    protected = process(10, 50, oom_score_adj=-1000)
    machine = Machine([(1200, 1200), (1200, 1200), (1200, 1200)], [protected])
    await watch(machine)
    assert [each for each in machine.told if isinstance(each, NoVictimReport)] == machine.told
    (report,) = machine.told
    assert isinstance(report, NoVictimReport)
    assert report.spared == ((protected, Unkillable.ADJUSTED),)
    assert machine.log.count("pause") == 3


GB = 10**9
FAT_PARENT = process(10, 200_000)
"""0.8 GB: a child has to free 0.2 to be no futile sacrifice."""


@pytest.mark.asyncio
@pytest.mark.parametrize("pages", [1, 250_000], ids=["small children", "forked twins that share the parent's memory"])
async def test_children_do_not_die_for_a_leaking_parent_for_ever(pages: int) -> None:
    """Whose end frees nothing: three go, then the parent, whether the rule named them for it or for themselves."""
    children = [process(20 + at, pages, parent=10) for at in range(FUTILE_SACRIFICES + 2)]
    machine = Machine([(2 * GB, 2 * GB)] * (FUTILE_SACRIFICES + 1) + [(1, 1)], [FAT_PARENT, *children])
    await watch(machine, MemoryLimits(max=GB))
    victims = [pid for pid, _ in kills(machine)]
    assert len(victims) == FUTILE_SACRIFICES + 1
    assert victims[-1] == 10
    assert 10 not in victims[:-1]


@pytest.mark.asyncio
async def test_children_whose_end_helps_are_no_futile_sacrifice() -> None:
    """A test runner with many fat children loses children only."""
    children = [process(20 + at, 75_000, parent=10) for at in range(5)]
    usages = [GB * tenths // 10 for tenths in (25, 22, 19, 16, 13, 10)]
    machine = Machine([(usage, usage) for usage in usages] + [(1, 1)], [FAT_PARENT, *children])
    await watch(machine, MemoryLimits(max=GB))
    assert sorted(pid for pid, _ in kills(machine)) == [20, 21, 22, 23, 24]


@pytest.mark.asyncio
async def test_make_is_never_to_blame() -> None:
    """The other compilers grow faster than the victims free: usage rises from kill to kill, and make lives on."""
    make, compilers = process(10, 500), [process(20 + at, 12_000, parent=10) for at in range(8)]
    usages = [GB + GB // 10 * at for at in range(1, 8)]
    machine = Machine([(usage, usage) for usage in usages] + [(1, 1)], [make, *compilers])
    await watch(machine, MemoryLimits(max=GB))
    victims = [pid for pid, _ in kills(machine)]
    assert len(victims) == len(usages)
    assert 10 not in victims


@pytest.mark.asyncio
async def test_old_sacrifices_are_forgotten() -> None:
    """Three in a day are no leak: only those of the last ten seconds count."""
    children = [process(20 + at, 1, parent=10) for at in range(6)]
    machine = Machine([(2 * GB, 2 * GB)] * 5 + [(1, 1)], [FAT_PARENT, *children])
    times = count(0, int(FUTILE_WINDOW_SECONDS))
    await watch(machine, MemoryLimits(max=GB), clock=lambda: float(next(times)))
    assert 10 not in [pid for pid, _ in kills(machine)]


@pytest.mark.asyncio
async def test_a_look_may_fail_for_a_moment() -> None:
    """No thread, no descriptor: it tries again, and the guard does not end."""
    machine = Machine([(500, 500)] * 3)
    failures = iter([OSError("no descriptor"), RuntimeError("can't start new thread"), KernelError("odd")])
    read = machine.read

    def failing_read(measure: Measure) -> CgroupSample:
        if (failure := next(failures, None)) is not None:
            raise failure
        return read(measure)

    machine.read = failing_read  # type: ignore[method-assign]
    machine.readings *= 2
    guard = await watch(machine)
    assert guard.looks == 3


@pytest.mark.asyncio
async def test_a_kill_is_told_also_when_the_next_look_fails() -> None:
    """Nothing may be killed without a word."""
    machine = Machine([(1200, 1200), (1, 1)], [process(10, 50), process(11, 60)])
    read = machine.read

    def fails_once_after_the_kill(measure: Measure) -> CgroupSample:
        if machine.log and machine.log[-1].startswith("kill"):
            machine.log.append("failed look")
            raise OSError("no descriptor")
        return read(measure)

    machine.read = fails_once_after_the_kill  # type: ignore[method-assign]
    await watch(machine)
    assert kills(machine) == [(11, KillOutcome.EXITED)]


@pytest.mark.asyncio
async def test_a_look_that_always_fails_is_told() -> None:
    """After a second of nothing but failures the guard gives up, with the reason."""
    machine = Machine([(500, 500)])

    def failing_read(measure: Measure) -> CgroupSample:
        raise OSError("no /proc")

    machine.read = failing_read  # type: ignore[method-assign]
    with pytest.raises(OSError, match="no /proc"):
        await watch(machine)
    assert machine.log.count("pause") == tree_guard.FAILED_LOOKS - 1


@pytest.mark.asyncio
async def test_the_whole_job_in_one_process() -> None:
    """Then there is no runner-up, and the report says that it was alone."""
    machine = Machine([(1200, 1200), (1, 1)], [process(10, 50)])
    await watch(machine)
    (kill,) = [each for each in machine.told if isinstance(each, KillReport)]
    assert kill.was_alone
    assert kill.runners_up == ()


def _ends_after(machine: Machine, count: int) -> Callable[[ProcessIdentity], AbstractContextManager[FakeVictim]]:
    """The first `count` victims ignore SIGKILL."""
    prove = machine.prove
    seen: list[int] = []

    @contextmanager
    def proving(identity: ProcessIdentity, cgroup: str = "") -> Iterator[FakeVictim]:
        seen.append(identity.pid)
        machine.exits = len(seen) > count
        with prove(identity) as victim:
            yield victim

    return proving


def _exits_if(exits: Callable[[], bool]) -> Callable[[int, float], object]:
    async def readable_within(_descriptor: int, _timeout_seconds: float) -> bool:
        return exits()

    return readable_within


@dataclass
class Hoard:
    """A cgroup whose memory belongs to no process: files in a tmpfs."""

    processes: list[ProcessSample]
    usage_bytes_now: int = 64_000_000
    cgroup: str = "/build.slice/job.scope"

    def snapshot(self) -> ProcessTable:
        return ProcessTable(self.processes)

    def still_short(self, shortage: Shortage) -> bool:
        return True

    async def usage_bytes(self, resource: Resource) -> int:
        return self.usage_bytes_now

    def kill_whole_job(self, victim: ProcessIdentity, table: ProcessTable, spared: frozenset[int]) -> bool:
        return False


@pytest.mark.asyncio
async def test_nobody_dies_in_vain_for_files_in_memory() -> None:
    """The one who stands still writing them goes; then it is told, once, and nobody who comes is taken."""
    machine = Machine([], [process(10, 50), process(11, 70)])
    guard = guard_module.Guard(
        guard_module.KillRules(),
        report=machine.told.append,
        command_lines=CommandLines(lambda: ()),
        prove=machine.prove,
        clock=lambda: 7.0,
    )
    hoard = Hoard(machine.processes)
    shortage = Shortage(Resource.HIGH, 64_000_000, 60_000_000, Evidence.UNRECLAIMABLE)

    async def end() -> guard_module.Ended:
        return await guard.end_shortage(shortage, hoard, lambda table: BadnessScale(total_pages=100_000))

    assert await end() is guard_module.Ended.EXITED
    hoard.processes = [process(10, 50), process(12, 10)]
    assert await end() is guard_module.Ended.NO_VICTIM
    assert await end() is guard_module.Ended.NO_VICTIM
    assert kills(machine) == [(11, KillOutcome.EXITED)]
    assert [each.out_of_reach for each in machine.told if isinstance(each, NoVictimReport)] == [True]
    hoard.processes = [process(10, 50), process(13, 2_000)]
    assert await end() is guard_module.Ended.EXITED  # Whose end would be enough is taken as ever.
    guard.all_is_well(hoard)
    hoard.processes = [process(10, 50)]
    assert await end() is guard_module.Ended.EXITED  # A new episode.
