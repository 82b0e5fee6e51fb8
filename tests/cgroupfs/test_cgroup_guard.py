# SPDX-License-Identifier: LGPL-2.1-or-later
"""The guard of a cgroup tree, from the counters to the victim, on files and a clock that a script moves."""

from __future__ import annotations

import asyncio
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from slicemgr.kernel.cgroupfs import CgroupDir
from slicemgr.kernel.errors import NotSupportedError
from slicemgr.model.decision import Evidence, Resource
from slicemgr.model.slice import VictimRule
from slicemgr.policy import reaction
from slicemgr.policy.limits import high_below
from slicemgr.service import cgroup_guard
from slicemgr.service.cgroup_guard import CgroupGuard
from slicemgr.service.episode import Episode
from slicemgr.service.guard import Guard, KillRules
from slicemgr.service.managed import ManagedSlice
from slicemgr.service.naming import CommandLines
from slicemgr.service.report import HighReport, KernelKillReport, KillReport, NoVictimReport
from tests.cgroupfs.fake_tree import HIGH, MAX, MIB, Calls, FakeTree, Script, ScriptIsOverError, Victims
from tests.unit.samples import process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from slicemgr.model.decision import Decision
    from slicemgr.model.process import ProcessIdentity
    from slicemgr.service.guard import Killable

SLICE, JOB, OTHER = "/build.slice", "/build.slice/a.scope", "/build.slice/b.scope"
ALIEN = "/system.slice"
PAGES = MIB // 4096
SECONDS = 0.05

MAKE, CC, LD, BROWSER = (
    process(10, 2 * PAGES, name="make"),
    process(11, 90 * PAGES, parent=10, name="cc1plus"),
    process(20, 200 * PAGES, name="ld"),
    process(30, 900 * PAGES, name="browser"),
)


class Bench:
    """build.slice with two jobs and a browser beside it; `run` plays the script to its end."""

    def __init__(self, mount: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tree = FakeTree(mount, monkeypatch)
        self.tree.add(SLICE)
        self.tree.add(JOB, anon=90 * MIB, high=HIGH, max=MAX, pids=[10, 11])
        self.tree.add(OTHER, anon=200 * MIB, pids=[20])
        self.tree.add(ALIEN, anon=900 * MIB, pids=[30])
        self.victims = Victims(self.tree, monkeypatch, [MAKE, CC, LD, BROWSER])
        self.script = Script()
        self.calls = Calls()
        self.managed = [ManagedSlice(SLICE)]
        self.ourselves: frozenset[int] = frozenset({1, os.getpid()})
        self.kernel_log: tuple[tuple[int, str], ...] = ()
        self.prove: Callable[[ProcessIdentity, str], object] = self.victims.prove
        self.guard: CgroupGuard | None = None
        self.paths: dict[str, Guard] = {}
        self.warned: list[HighReport] = []

    @property
    def told(self) -> list[object]:
        return list(self.victims.told)

    async def run(self, *steps: Callable[[], object], root: str = SLICE) -> CgroupGuard:
        """Guard `root` while this happens."""
        guard = self.make(*steps, root=root)
        with pytest.raises(ScriptIsOverError):
            await guard.watch()
        return guard

    def make(self, *steps: Callable[[], object], root: str = SLICE) -> CgroupGuard:
        self.script.then(*steps)
        self.paths.clear()

        def guard_of(managed: ManagedSlice) -> Guard:
            return self.paths.setdefault(
                managed.cgroup,
                Guard(
                    managed.rules,
                    report=self.victims.told.append,
                    command_lines=CommandLines(lambda: ()),
                    prove=self.prove,  # type: ignore[arg-type]
                    clock=self.script.clock,
                ),
            )

        self.guard = CgroupGuard(
            CgroupDir.open(root, self.tree.mount),
            lambda cgroup: max(
                (each for each in self.managed if each.contains(cgroup)),
                key=lambda each: len(each.cgroup),
                default=None,
            ),
            guard_of,
            calls=self.calls,
            report=self.victims.told.append,
            warn=self.warned.append,
            learn=lambda now: None,
            ourselves=self.ourselves,
            free_swap=lambda: 0,
            kernel_log=lambda cgroup: self.kernel_log,
            mount=self.tree.mount,
            clock=self.script.clock,
            wait=self.script.wait,
        )
        return self.guard

    # What happens.

    def quiet(self, seconds: float = SECONDS) -> None:
        self.script.now += seconds

    def event(self, path: str = JOB, **events: int) -> None:
        """Something at the limit of this cgroup, and time goes on."""
        for name, count in events.items():
            self.tree.groups[path].events[name] += count
        self.tree.sync()
        self.quiet()

    def stall(self, path: str = JOB, anon: int | None = 101 * MIB, seconds: float = SECONDS) -> None:
        """Above memory.high with nothing to reclaim, and all its tasks wait."""
        group = self.tree.groups[path]
        if anon is not None and path == JOB and {10, 11} <= set(group.pids):
            group.anon = anon
        group.stalled_usec += int(seconds * 1e6)
        group.events["high"] += 1
        self.tree.sync()
        self.quiet(seconds)

    def stalls(self, count: int = 10, path: str = JOB) -> list[Callable[[], None]]:
        return [lambda: self.stall(path)] * count


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


@pytest.mark.asyncio
async def test_a_job_that_stalls_loses_one_compiler(bench: Bench) -> None:
    """Within a second, with its reason; and the biggest process of the slice, in another job, is not it."""
    began = bench.script.now
    await bench.run(*bench.stalls(10))
    assert bench.victims.killed == [11]
    (kill,) = [each for each in bench.told if isinstance(each, KillReport)]
    assert (kill.cgroup, kill.victim_cgroup) == (JOB, JOB)
    assert (kill.shortage.resource, kill.shortage.evidence) == (Resource.HIGH, Evidence.UNRECLAIMABLE)
    assert (kill.shortage.usage_bytes, kill.shortage.limit_bytes) == (101 * MIB, HIGH)
    assert kill.usage_after_bytes == 11 * MIB
    assert reaction.PATIENCE_SECONDS < kill.at_seconds - began < 1.0


@pytest.mark.asyncio
async def test_the_slice_s_own_limit(bench: Bench) -> None:
    """All jobs are in it: the biggest of them all goes."""
    bench.tree.groups[JOB].high = bench.tree.groups[JOB].max = None
    bench.tree.groups[SLICE].high = 280 * MIB
    await bench.run(*bench.stalls(10, SLICE))
    assert bench.victims.kills == [(20, SLICE)]
    (kill,) = [each for each in bench.told if isinstance(each, KillReport)]
    assert kill.victim_cgroup == OTHER


@pytest.mark.asyncio
async def test_the_deepest_first(bench: Bench) -> None:
    """Job and slice stall at once, and what the job gives is enough for both."""
    bench.tree.groups[SLICE].high = 298 * MIB

    def both() -> None:
        bench.tree.groups[SLICE].events["high"] += 1
        bench.tree.groups[SLICE].stalled_usec += int(SECONDS * 1e6)
        bench.stall()

    await bench.run(*[both] * 10)
    assert bench.victims.kills == [(11, JOB)]


@pytest.mark.asyncio
async def test_one_is_not_enough(bench: Bench) -> None:
    """After each victim it cools down and looks again."""
    bench.victims.processes[12] = process(12, 95 * PAGES, parent=10, start=1)
    bench.tree.groups[JOB].pids.append(12)
    bench.tree.groups[JOB].anon = 187 * MIB

    def stall() -> None:
        bench.stall(anon=None)

    await bench.run(*[stall] * 10)
    assert bench.victims.killed == [12]
    bench.tree.groups[JOB].anon = 110 * MIB
    bench.script = Script()
    await bench.run(*[stall] * 10)
    assert bench.victims.killed == [12, 11]


@pytest.mark.asyncio
async def test_nobody_outside_of_the_managed_slices(bench: Bench) -> None:
    """Guarded from above, as the system's daemon guards /user.slice: what is not managed is not even looked at."""
    bench.tree.groups[ALIEN].high = 100 * MIB
    events = bench.tree.mount_file("memory.events")
    events.write_text("high 0\n")

    def step() -> None:
        bench.stall(ALIEN)
        events.write_text(f"high {bench.tree.groups[ALIEN].events['high']}\n")

    guard = await bench.run(*[step] * 20, root="/")
    assert bench.told == []
    assert guard.looks == 0
    assert set(bench.script.waits) == {None}


@pytest.mark.asyncio
async def test_from_above_the_managed_one_is_guarded(bench: Bench) -> None:
    events = bench.tree.mount_file("memory.events")
    events.write_text("high 0\n")

    def step() -> None:
        bench.stall()
        events.write_text(f"high {bench.tree.groups[JOB].events['high']}\n")

    await bench.run(*[step] * 10, root="/")
    assert bench.victims.kills == [(11, JOB)]


@pytest.mark.asyncio
async def test_the_configuration_drops_a_slice_while_it_is_judged(bench: Bench) -> None:
    await bench.run(*bench.stalls(3), bench.managed.clear, *bench.stalls(20))
    assert bench.victims.killed == []


@pytest.mark.asyncio
async def test_a_job_that_begins_between_two_looks(bench: Bench) -> None:
    new = "/build.slice/new.scope"

    def begin() -> None:
        bench.tree.add(new, anon=101 * MIB, high=HIGH, max=MAX, pids=[40])
        bench.victims.processes[40] = process(40, 99 * PAGES)
        bench.stall(new)

    await bench.run(bench.quiet, begin, *bench.stalls(10, new))
    assert bench.victims.kills == [(40, new)]


@pytest.mark.asyncio
async def test_another_job_of_the_same_name(bench: Bench) -> None:
    """Patience is not inherited from the dead one, and its own stall is found."""

    def again() -> None:
        bench.tree.remove(JOB)
        bench.tree.add(JOB, anon=101 * MIB, high=HIGH, max=MAX, pids=[10, 11])
        bench.stall()

    await bench.run(*bench.stalls(5), again, *bench.stalls(4))
    assert bench.victims.killed == []
    bench.script = Script()
    await bench.run(*bench.stalls(5), again, *bench.stalls(12))
    assert bench.victims.killed == [11]


@pytest.mark.asyncio
async def test_a_job_that_ends_while_it_is_judged(bench: Bench) -> None:
    """No word, and the others are guarded as before."""
    bench.tree.groups[OTHER].high = 199 * MIB
    await bench.run(*bench.stalls(5), lambda: bench.tree.remove(JOB), *bench.stalls(10, OTHER))
    assert bench.victims.kills == [(20, OTHER)]


@pytest.mark.asyncio
async def test_the_slice_is_removed(bench: Bench) -> None:
    """The guard is done, and has given everything back."""
    descriptors = len(os.listdir("/proc/self/fd"))
    bench.script.then(*bench.stalls(3), lambda: bench.tree.remove(SLICE))
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):  # It returns, and the script isn't over.
        await bench.run()
    assert bench.calls.files == []
    assert len(os.listdir("/proc/self/fd")) == descriptors


@pytest.mark.asyncio
async def test_a_slice_without_the_memory_controller(bench: Bench) -> None:
    """Said, and tried again by the caller for as long as it likes: nothing is left open."""
    bench.tree.mount_file("bare.slice").mkdir()
    descriptors = len(os.listdir("/proc/self/fd"))
    with pytest.raises(NotSupportedError, match=r"memory\.events"):
        await bench.run(root="/bare.slice")
    assert len(os.listdir("/proc/self/fd")) == descriptors


@pytest.mark.asyncio
async def test_a_slice_that_is_gone_before_it_is_guarded(bench: Bench) -> None:
    directory = CgroupDir.open(OTHER, bench.tree.mount)
    descriptors = len(os.listdir("/proc/self/fd"))
    bench.tree.remove(OTHER)
    with pytest.raises(Exception, match="is gone"):
        CgroupGuard(
            directory,
            lambda cgroup: None,
            lambda managed: pytest.fail("nobody is managed"),
            calls=bench.calls,
            report=bench.victims.told.append,
            learn=lambda now: None,
            ourselves=frozenset(),
            free_swap=lambda: 0,
        )
    assert len(os.listdir("/proc/self/fd")) == descriptors - 1


@pytest.mark.asyncio
async def test_the_kernel_was_first(bench: Bench) -> None:
    """Told once, for the job, with the names of just those; the slice above has the same kill in its counters."""
    bench.kernel_log = ((7, "old"), (8, "older"), (11, "cc1plus"))
    bench.tree.groups[SLICE].high = 1000 * MIB

    def kill() -> None:
        bench.event(SLICE, max=1)
        bench.event(oom=1, oom_kill=1)

    await bench.run(bench.quiet, kill, bench.quiet, bench.quiet)
    (report,) = bench.told
    assert isinstance(report, KernelKillReport)
    assert (report.cgroup, report.count, report.victims) == (JOB, 1, ((11, "cc1plus"),))
    assert bench.victims.killed == []


@pytest.mark.asyncio
async def test_kernel_kills_at_three_levels_are_each_told_once(bench: Bench) -> None:
    bench.tree.add(f"{JOB}/container")

    def kill() -> None:
        bench.event(f"{JOB}/container", oom_kill=1)
        bench.event(JOB, oom_kill=2)
        bench.event(SLICE, oom_kill=4)

    await bench.run(bench.quiet, kill, bench.quiet)
    told = {each.cgroup: each.count for each in bench.told if isinstance(each, KernelKillReport)}
    assert told == {f"{JOB}/container": 1, JOB: 2, SLICE: 4}


@pytest.mark.asyncio
async def test_after_the_kernel_s_kill_nobody_goes_at_once(bench: Bench) -> None:
    """The memory of its victim is on its way back: a look before that would find the stall still there."""

    def kill() -> None:
        bench.stall(seconds=0.01)
        bench.event(oom_kill=1)

    await bench.run(*bench.stalls(5), kill, *[lambda: bench.stall(seconds=0.01)] * 9)
    assert bench.victims.killed == []


@pytest.mark.asyncio
async def test_old_kills_are_no_news(bench: Bench) -> None:
    bench.event(oom_kill=5, high=100)
    guard = await bench.run(bench.quiet, bench.quiet)
    assert bench.told == []
    assert guard.looks == 0


@pytest.mark.asyncio
async def test_a_stall_that_is_older_than_the_guard(bench: Bench) -> None:
    """A daemon that was killed in mid-episode: its successor needs no event."""
    bench.stall()

    def wait() -> None:
        bench.tree.groups[JOB].stalled_usec += int(SECONDS * 1e6)
        bench.tree.sync()
        bench.quiet()

    await bench.run(*[wait] * 12)
    assert bench.victims.kills == [(11, JOB)]


@pytest.mark.asyncio
async def test_page_cache_that_comes_and_goes(bench: Bench) -> None:
    """For twenty seconds at its limit, all its tasks waiting: no process, and no warning."""
    bench.tree.groups[JOB].anon, bench.tree.groups[JOB].file = 20 * MIB, 80 * MIB

    def churn() -> None:
        bench.tree.groups[JOB].file = 161 * MIB - bench.tree.groups[JOB].file
        bench.stall(anon=None)

    guard = await bench.run(*[churn] * 400)
    assert (bench.told, bench.warned) == ([], [])
    assert guard.looks >= 400


@pytest.mark.asyncio
async def test_calm_is_quiet(bench: Bench) -> None:
    """No wake-up before the first event, and none when all is settled."""
    bench.tree.groups[JOB].anon = 50 * MIB

    def settle() -> None:
        bench.quiet(0.5)

    guard = await bench.run(bench.quiet, lambda: bench.event(high=1), *[settle] * 8)
    assert bench.script.waits[:2] == [None, None]
    assert bench.script.waits[2] == reaction.WARM_SECONDS
    assert bench.script.waits[-3:] == [None] * 3
    assert guard.looks < 9
    assert bench.told == []


@pytest.mark.asyncio
async def test_a_limit_that_nobody_set_warns_nobody(bench: Bench) -> None:
    """memory.high a sixteenth below memory.max is ours, and says nothing to a person. Programs are warned."""
    group = bench.tree.groups[JOB]
    group.max, group.high = 128 * MIB, high_below(128 * MIB)

    def above() -> None:
        group.anon = 124 * MIB
        bench.event(high=1)

    await bench.run(above, bench.quiet)
    assert bench.told == []
    assert bench.warned == [HighReport(bench.script.now - SECONDS, 124 * MIB, high_below(128 * MIB), JOB)]


@pytest.mark.asyncio
async def test_a_limit_that_somebody_set_is_warned_of(bench: Bench) -> None:
    def above() -> None:
        bench.tree.groups[JOB].anon = 101 * MIB
        bench.event(high=1)

    await bench.run(above, bench.quiet)
    assert bench.told == [HighReport(bench.script.now - SECONDS, 101 * MIB, HIGH, JOB)]
    assert bench.warned == []


def moved_away(bench: Bench) -> None:
    """A person has taken the compiler out of the job, after it was named."""
    bench.tree.groups[JOB].pids.remove(11)
    bench.tree.groups[ALIEN].pids.append(11)
    bench.tree.sync()


@pytest.mark.asyncio
async def test_who_left_the_cgroup_is_not_killed(bench: Bench) -> None:
    """Between the snapshot and the kill."""
    prove = bench.victims.prove

    @contextmanager
    def too_late(identity: ProcessIdentity, cgroup: str) -> Iterator[Killable]:
        if identity.pid == 11 and 11 in bench.tree.groups[JOB].pids:
            moved_away(bench)
        with prove(identity, cgroup) as victim:
            yield victim

    bench.prove = too_late
    await bench.run(*bench.stalls(12))
    assert 11 not in bench.victims.killed


@pytest.mark.asyncio
@pytest.mark.parametrize("how", ["pid 1", "ourselves", "adjusted", "name", "unit"])
async def test_who_is_never_taken(bench: Bench, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """Though it holds nearly all: the next one goes."""
    kept = process(50, 95 * PAGES, name="keep-me", oom_score_adj=-1000 if how == "adjusted" else 0)
    if how == "pid 1":
        kept = process(1, 95 * PAGES, name="init")
    if how == "ourselves":
        bench.ourselves |= {50}
    if how in {"name", "unit"}:
        bench.managed = [ManagedSlice(SLICE, protect=("keep-*",) if how == "name" else ("keep-*.service",))]
        units = {50: f"{JOB}/keep-me.service"}
        monkeypatch.setattr("slicemgr.service.managed._units", lambda pid, cgroup: units.get(pid, JOB).split("/"))
        if how == "unit":
            kept = process(50, 95 * PAGES, name="other")
    bench.victims.processes |= {kept.pid: kept, 12: process(12, PAGES)}
    bench.tree.groups[JOB].pids[:] = [kept.pid, 12]
    bench.tree.groups[JOB].anon = 101 * MIB
    await bench.run(*bench.stalls(12))
    assert bench.victims.killed == [12]


@pytest.mark.asyncio
async def test_nobody_to_take_is_told_once(bench: Bench) -> None:
    bench.managed = [ManagedSlice(SLICE, protect=("make", "cc1plus"))]
    await bench.run(*bench.stalls(40))
    assert [type(each) for each in bench.told if not isinstance(each, HighReport)] == [NoVictimReport]


@pytest.mark.asyncio
async def test_a_survivor_has_the_next_one_follow(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler in an uninterruptible sleep: make's turn, not the same one again."""
    monkeypatch.setattr("slicemgr.service.guard.EXIT_TIMEOUT_SECONDS", 0.0)
    bench.victims.survives = {11}
    await bench.run(*bench.stalls(12))
    assert bench.victims.killed == [11, 10]


@pytest.mark.asyncio
async def test_one_that_cant_be_read_keeps_us_from_no_other(bench: Bench, tmp_path: Path) -> None:
    """A job that switches the memory controller off below itself while it is judged."""
    inner = f"{JOB}/inner"
    bench.tree.add(inner, anon=MIB, high=MIB // 2)

    def switch_off() -> None:
        directory = tmp_path / inner.lstrip("/")
        (directory / "memory.current").unlink()
        (directory / "memory.current").mkdir()
        del bench.tree.groups[inner]
        bench.stall()

    def both() -> None:
        bench.event(inner, high=1)
        bench.stall()

    await bench.run(both, both, switch_off, *bench.stalls(10))
    assert bench.victims.kills == [(11, JOB)]


@pytest.mark.asyncio
async def test_failures_without_end_are_told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second of them is no moment: whoever runs the guard has to know."""

    def fails(pids: object) -> object:
        raise OSError("no descriptor")

    bench.stall()
    bench.script.then(*bench.stalls(200))
    monkeypatch.setattr("slicemgr.kernel.procfs.snapshot", fails)
    with pytest.raises(OSError, match="no descriptor"):
        await bench.run()
    assert len(bench.script.waits) == pytest.approx(cgroup_guard.FAILED_ROUNDS + 7, abs=3)
    assert bench.calls.files == []


@pytest.mark.asyncio
async def test_a_whole_job(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """cgroup.kill of the job, not of the slice whose limit it was."""
    bench.managed = [ManagedSlice(SLICE, rules=KillRules(VictimRule.WHOLE_JOB))]
    monkeypatch.setattr("slicemgr.service.episode.cgroup_of", bench.victims.cgroup_of)
    monkeypatch.setattr("slicemgr.service.guard.EXIT_TIMEOUT_SECONDS", 0.0)  # Plain files kill nobody.
    bench.tree.groups[JOB].high = bench.tree.groups[JOB].max = None
    bench.tree.groups[SLICE].high = 280 * MIB
    await bench.run(*bench.stalls(12, SLICE))
    written = {path: (tmp_path / path.lstrip("/") / "cgroup.kill").read_text() for path in (SLICE, JOB, OTHER)}
    assert written[OTHER] == "1"
    assert written[SLICE] == ""


CI, CI_JOB = "/ci.slice", "/ci.slice/c.scope"


def beside(bench: Bench) -> None:
    """A second slice, below the same root."""
    bench.tree.mount_file("memory.events").write_text("high 0\n")
    bench.tree.add(CI)
    bench.tree.add(CI_JOB, anon=101 * MIB, high=HIGH, max=MAX, pids=[40])
    bench.victims.processes[40] = process(40, 99 * PAGES, name="rustc")
    bench.managed = [ManagedSlice(SLICE), ManagedSlice(CI)]


def from_above(bench: Bench, *steps: Callable[[], object]) -> list[Callable[[], None]]:
    """The root has no counters of its own here: each step moves them."""
    events = bench.tree.mount_file("memory.events")
    counts = iter(range(1, 1000))

    def moves(step: Callable[[], object]) -> Callable[[], None]:
        def move() -> None:
            step()
            events.write_text(f"high {next(counts)}\n")

        return move

    return [moves(step) for step in steps]


@pytest.mark.asyncio
async def test_a_slow_exit_keeps_no_other_slice_waiting(bench: Bench) -> None:
    """Below one root, as all users' slices are: the other one's victim is named and gone before the first has ended."""
    beside(bench)
    bench.victims.survives = {11}
    steps = [*bench.stalls(10), *bench.stalls(10, CI_JOB), lambda: bench.victims.exit(11), bench.quiet]
    await bench.run(*from_above(bench, *steps), root="/")
    assert bench.victims.killed == [11, 40]
    assert bench.victims.kills == [(40, CI_JOB), (11, JOB)]


@pytest.mark.asyncio
async def test_the_slice_above_a_slow_exit_waits_for_it(bench: Bench) -> None:
    """What the job gives is enough for both, and that shows only when its victim has gone."""
    bench.tree.groups[SLICE].high = 298 * MIB
    bench.victims.survives = {11}

    def both() -> None:
        bench.tree.groups[SLICE].events["high"] += 1
        bench.tree.groups[SLICE].stalled_usec += int(SECONDS * 1e6)
        bench.stall()

    looks: list[int] = []

    def count() -> None:
        looks.append(bench.tree.reads.count((SLICE, "memory.pressure")))

    steps = [*[both] * 10, count, *[both] * 20, count, lambda: bench.victims.exit(11), *[both] * 5, count]
    await bench.run(*steps)
    assert bench.victims.kills == [(11, JOB)]
    assert bench.victims.killed == [11]
    assert 0 < looks[0] == looks[1] < looks[2]


@pytest.mark.asyncio
async def test_a_slice_gives_one_at_a_time(bench: Bench) -> None:
    """Another job of it is looked at meanwhile, and warned of; its victim goes by the readings of its own turn."""
    bench.tree.groups[OTHER].high = 199 * MIB
    bench.victims.survives = {11}
    after = [lambda: bench.victims.exit(11), *bench.stalls(2, OTHER)]
    await bench.run(*bench.stalls(10), *bench.stalls(20, OTHER), *after)
    assert bench.victims.killed == [11, 20]
    _, kill = [each for each in bench.told if isinstance(each, KillReport)]
    assert kill.shortage.stalled_seconds > 15 * SECONDS
    assert OTHER in {each.cgroup for each in bench.told if isinstance(each, HighReport)}


@pytest.mark.asyncio
async def test_the_last_victim_was_all_of_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job is removed before its exit has been seen: the guard returns, and the person is told."""
    bench.victims.survives = {11}
    descriptors = len(os.listdir("/proc/self/fd"))
    guard = bench.make(*bench.stalls(10), lambda: bench.tree.remove(JOB), root=JOB)
    finish = guard._endings.finish

    async def exits_then() -> None:
        bench.victims.exit(11)
        await finish()

    monkeypatch.setattr(guard._endings, "finish", exits_then)
    async with asyncio.timeout(30):
        await guard.watch()
    assert bench.victims.kills == [(11, JOB)]
    assert len(os.listdir("/proc/self/fd")) == descriptors


@pytest.mark.asyncio
async def test_it_is_cancelled_while_a_victim_goes(bench: Bench) -> None:
    """Nothing is left open, and nobody at work; whoever wants to hear of the victim asks the kill path before."""
    bench.victims.survives = {11}
    descriptors = len(os.listdir("/proc/self/fd"))
    await bench.run(*bench.stalls(12))
    assert bench.victims.killed == [11]
    assert bench.victims.kills == []
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert len(os.listdir("/proc/self/fd")) == descriptors
    await bench.paths[SLICE].at_rest()


@pytest.mark.asyncio
async def test_another_job_of_the_name_while_the_victim_of_the_first_goes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is looked at afterwards; and the directory of the first is given back, but not while it is needed."""
    bench.victims.survives = {11}
    descriptors = len(os.listdir("/proc/self/fd"))
    close = Episode.close

    def when_over(episode: Episode) -> None:
        assert 11 not in bench.victims.processes
        close(episode)

    monkeypatch.setattr(Episode, "close", when_over)

    def again() -> None:
        bench.tree.remove(JOB)
        bench.tree.add(JOB, anon=101 * MIB, high=HIGH, max=MAX, pids=[12])
        bench.victims.processes[12] = process(12, 99 * PAGES)
        bench.stall()

    await bench.run(*bench.stalls(10), again, *bench.stalls(5), lambda: bench.victims.exit(11), *bench.stalls(10))
    assert bench.victims.killed == [11, 12]
    assert len(os.listdir("/proc/self/fd")) == descriptors


@pytest.mark.asyncio
async def test_an_exit_is_no_moment_to_be_slept_through(bench: Bench) -> None:
    """Nobody calls, and it would sleep for ever: the exit by itself brings the next round."""
    bench.victims.survives = {11}
    guard = bench.make(*bench.stalls(10))
    waited: list[float | None] = []

    async def wait(called: asyncio.Event, seconds: float | None) -> None:
        with_steps = len(bench.script.waits) < 10
        if not with_steps:
            waited.append(seconds)
        if not with_steps and 11 in bench.victims.processes:
            asyncio.get_running_loop().call_soon(bench.victims.exit, 11)
            await asyncio.Event().wait()
        await bench.script.wait(called, seconds)

    guard._wait = wait
    async with asyncio.timeout(30):
        with pytest.raises(ScriptIsOverError):
            await guard.watch()
    assert bench.victims.kills == [(11, JOB)]
    assert waited == [None, reaction.HOT_SECONDS]


@pytest.mark.asyncio
async def test_a_kill_path_that_fails_later_is_a_failure_of_the_round(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its grace, say, no descriptor is to be had: it is tried again after a pause, and not at once."""
    original = Guard.end_shortage
    failures = iter([OSError("no descriptor")] * 3)
    pauses: list[int] = []

    async def fails_late(*arguments: object) -> object:
        pauses.append(len(bench.script.waits))
        await asyncio.sleep(0)
        for failure in failures:
            raise failure
        return await original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Guard, "end_shortage", fails_late)
    await bench.run(*bench.stalls(12))
    assert bench.victims.kills == [(11, JOB)]
    assert len(pauses) == len(set(pauses)) == 4


@pytest.mark.asyncio
async def test_who_is_managed_no_longer_is_let_go(bench: Bench) -> None:
    """A reload, or the user's own daemon: it is not looked at any more, and nobody is told of it."""
    seen: list[int] = []

    def drop() -> None:
        bench.managed.clear()
        assert bench.guard is not None
        seen.append(bench.guard.looks)

    steps = [*bench.stalls(3), drop, lambda: bench.event(oom_kill=1), *[bench.quiet] * 5]
    guard = await bench.run(*steps)
    assert guard.looks == seen[0]
    assert bench.script.waits[-3:] == [None] * 3
    assert not [each for each in bench.told if isinstance(each, KernelKillReport)]


@pytest.mark.asyncio
@pytest.mark.parametrize("settles", [False, True], ids=["in its episode", "after it, without room"])
async def test_a_kill_path_forgets_with_the_cgroup(bench: Bench, settles: bool) -> None:
    """A job of the same name is news again, and of those that are gone nothing is kept."""
    bench.managed = [ManagedSlice(SLICE, protect=("make", "cc1plus"))]
    in_episodes: list[bool] = []

    def full() -> None:
        """At its memory.max, of which nobody is warned."""
        group = bench.tree.groups[JOB]
        group.anon, group.high, group.max = HIGH, None, HIGH
        bench.stall(anon=None)

    def seen() -> None:
        assert bench.guard is not None
        in_episodes.append(JOB in bench.guard._episodes)
        bench.quiet()

    def again() -> None:
        bench.tree.add(JOB, pids=[10, 11])
        full()

    quiet = [*[lambda: bench.quiet(0.5)] * 8, full, *[lambda: bench.quiet(0.5)] * 8] if settles else []
    descriptors = len(os.listdir("/proc/self/fd"))
    gone = [seen, lambda: bench.tree.remove(JOB), lambda: bench.event(SLICE, max=1)]
    await bench.run(*[full] * 12, *quiet, *gone, again, *[full] * 12)
    assert [each.cgroup for each in bench.told if isinstance(each, NoVictimReport)] == [JOB, JOB]
    bench.script = Script()
    kept: list[str] = []
    await bench.run(*[full] * 12, *quiet, *gone, lambda: kept.extend(bench.paths[SLICE]._without_victim))
    assert kept == []
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert in_episodes == [not settles] * 2


def kills_between(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel takes one of the job after the walk of the counters, and before the slice is looked at."""
    look = Episode.look
    missing = [1]

    def and_then(episode: Episode) -> Decision:
        if episode.cgroup == SLICE and missing:
            bench.tree.groups[JOB].events["oom_kill"] += missing.pop()
            bench.tree.sync()
        return look(episode)

    monkeypatch.setattr(Episode, "look", and_then)


@pytest.mark.asyncio
async def test_a_kernel_kill_between_the_counters_and_the_look(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The slice sees it first: it is the job's all the same, and told once."""
    bench.tree.groups[SLICE].high = 1000 * MIB
    kills_between(bench, monkeypatch)
    await bench.run(bench.quiet, lambda: bench.event(SLICE, max=1), *[bench.quiet] * 4)
    told = [(each.cgroup, each.count) for each in bench.told if isinstance(each, KernelKillReport)]
    assert told == [(JOB, 1)]


@pytest.mark.asyncio
@pytest.mark.parametrize("slice_is_watched", [False, True], ids=["the job alone", "the slice too, counted up late"])
async def test_a_kernel_kill_that_a_look_has_found(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, slice_is_watched: bool
) -> None:
    """And then the job goes before the next walk of the counters: it is told for the job, and not for the slice."""
    look = Episode.look
    missing = [1]

    def after_the_kill(episode: Episode) -> Decision:
        if episode.cgroup == JOB and missing:
            bench.tree.groups[JOB].events["oom_kill"] += missing.pop()
            bench.tree.sync()
            if slice_is_watched:
                bench.tree.show(SLICE, "oom_kill", 0)
        return look(episode)

    monkeypatch.setattr(Episode, "look", after_the_kill)
    if slice_is_watched:
        bench.tree.groups[SLICE].high = 1000 * MIB
    begin = [bench.quiet, lambda: bench.event(SLICE, max=1)] if slice_is_watched else [bench.quiet]
    await bench.run(*begin, lambda: bench.event(max=1), lambda: bench.tree.remove(JOB), *[bench.quiet] * 4)
    told = [(each.cgroup, each.count) for each in bench.told if isinstance(each, KernelKillReport)]
    assert told == [(JOB, 1)]
    assert missing == []


@pytest.mark.asyncio
@pytest.mark.parametrize("when", ["before it is opened", "before its first look", "before a later look"])
async def test_the_kernel_took_the_last_one(bench: Bench, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    """The walk of the counters finds the kill, and then the job goes: told once, and what was told before is not."""
    opened, look = CgroupDir.open, Episode.look
    goes: list[str] = []

    def goes_before(moment: str, path: str) -> None:
        if goes == [moment] and path == JOB:
            bench.tree.remove(goes.pop() and JOB)

    def open_it(path: str, mount: str) -> CgroupDir:
        goes_before("before it is opened", path)
        return opened(path, mount)

    def look_at_it(episode: Episode) -> Decision:
        goes_before("before its first look", episode.cgroup)
        goes_before("before a later look", episode.cgroup)
        return look(episode)

    monkeypatch.setattr(CgroupDir, "open", open_it)
    monkeypatch.setattr(Episode, "look", look_at_it)

    def kill() -> None:
        goes.append(when)
        bench.event(oom_kill=2)

    before = [lambda: bench.event(oom_kill=1), bench.quiet] if when == "before a later look" else []
    await bench.run(bench.quiet, *before, kill, *[bench.quiet] * 4, lambda: bench.event(SLICE, max=1), bench.quiet)
    told = [(each.cgroup, each.count) for each in bench.told if isinstance(each, KernelKillReport)]
    assert told == [*([(JOB, 1)] if before else []), (JOB, 2)]
    assert goes == []


@pytest.mark.asyncio
async def test_a_kernel_kill_that_the_slice_sees_much_later(bench: Bench) -> None:
    """It is not looked at while a victim of one of its jobs goes, and then it has the kill of another in its counters."""
    bench.tree.groups[SLICE].high = 1000 * MIB
    bench.victims.survives = {11}

    def both() -> None:
        bench.tree.groups[SLICE].events["max"] += 1
        bench.stall()

    steps = [*[both] * 10, lambda: bench.event(OTHER, oom_kill=1), bench.quiet, bench.quiet]
    await bench.run(*steps, lambda: bench.victims.exit(11), *[bench.quiet] * 4)
    told = [(each.cgroup, each.count) for each in bench.told if isinstance(each, KernelKillReport)]
    assert told == [(OTHER, 1)]


@pytest.mark.asyncio
@pytest.mark.parametrize("log", [(), ((11, "cc1plus"),)], ids=["no log to read", "a log"])
async def test_our_own_victim_is_not_told_as_the_kernel_s(bench: Bench, log: tuple[tuple[int, str], ...]) -> None:
    """It was dying of our SIGKILL when the kernel took it. The next one of the kernel's is its own."""
    bench.kernel_log = log

    def and_taken() -> None:
        bench.event(oom_kill=1)
        bench.victims.exit(11)

    def another() -> None:
        bench.kernel_log = (*log, (10, "make")) if log else ()
        bench.event(oom_kill=1)

    bench.victims.survives = {11}
    await bench.run(*bench.stalls(10), and_taken, bench.quiet, another, bench.quiet)
    assert bench.victims.kills == [(11, JOB)]
    (report,) = [each for each in bench.told if isinstance(each, KernelKillReport)]
    assert (report.count, report.victims) == (1, ((10, "make"),) if log else ())
