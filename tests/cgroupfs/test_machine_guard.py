# SPDX-License-Identifier: LGPL-2.1-or-later
"""The guard of the machine: which slice gives, whom it gives, and when it looks."""

from __future__ import annotations

import asyncio
import errno
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from slicemgr.config.schema import PROTECTED
from slicemgr.model.cgroup import Pressure, Stall
from slicemgr.model.decision import Evidence, Resource
from slicemgr.model.machine import MachineReading
from slicemgr.model.slice import SliceKind, VictimRule
from slicemgr.policy.machine import LONGEST_INTERVAL_SECONDS, SHORTEST_INTERVAL_SECONDS, Thresholds
from slicemgr.service.guard import Guard, KillRules
from slicemgr.service.machine_guard import MachineGuard
from slicemgr.service.managed import ManagedSlice
from slicemgr.service.naming import CommandLines
from slicemgr.service.report import KillReport, NoVictimReport
from slicemgr.service.rounds import Rounds
from tests.cgroupfs.fake_tree import MIB, FakeTree, Script, ScriptIsOverError, Victims
from tests.unit.samples import process

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from slicemgr.model.process import ProcessIdentity
    from tests.cgroupfs.fake_tree import FakeVictim

PAGES = MIB // 4096
TOTAL = 1000 * MIB
LOW = Thresholds(available_bytes=100 * MIB, swap_free_bytes=0)
BUILD, CI, APP, SESSION = "/build.slice", "/ci.slice", "/app.slice", "/session.slice"

SHELL, EDITOR, BROWSER, MAKE, CC, LD = (
    process(10, 90 * PAGES, name="gnome-shell"),
    process(11, 40 * PAGES, name="tracker"),
    process(20, 300 * PAGES, name="browser"),
    process(30, 10 * PAGES, name="make"),
    process(31, 120 * PAGES, parent=30, name="cc1plus"),
    process(40, 60 * PAGES, name="ld"),
)


class Bench:
    """Four slices on a machine of 1000 MiB, of which `taken` is held by nobody that is managed."""

    def __init__(self, mount: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tree = FakeTree(mount, monkeypatch)
        self.tree.add(SESSION, anon=130 * MIB, pids=[10, 11])
        self.tree.add(APP, anon=300 * MIB, pids=[20])
        self.tree.add(BUILD, anon=130 * MIB, pids=[30, 31])
        self.tree.add(CI, anon=60 * MIB, pids=[40])
        self.victims = Victims(self.tree, monkeypatch, [SHELL, EDITOR, BROWSER, MAKE, CC, LD])
        self.taken = 300 * MIB
        self.managed = [
            ManagedSlice(APP, SliceKind.APP, KillRules(VictimRule.HIGHEST_BADNESS), PROTECTED),
            ManagedSlice(SESSION, SliceKind.SESSION, KillRules(VictimRule.HIGHEST_BADNESS), PROTECTED),
            ManagedSlice(CI),
            ManagedSlice(BUILD),
        ]
        self.script = Script()
        self.paths: dict[str, Guard] = {}
        self.guard = MachineGuard(
            self.read,
            lambda: LOW,
            lambda: self.managed,
            self.guard_of,
            ourselves=frozenset(),
            mount=self.tree.mount,
            clock=self.script.clock,
            wait=self.script.wait,
        )

    def read(self) -> MachineReading:
        held = sum(group.anon for group in self.tree.groups.values())
        available = max(0, TOTAL - self.taken - held)
        return MachineReading(self.script.now, TOTAL, available, 0, 0, 0, 0, 0, None)

    def guard_of(self, managed: ManagedSlice) -> Guard:
        return self.paths.setdefault(
            managed.cgroup,
            Guard(
                managed.rules,
                report=self.victims.told.append,
                command_lines=CommandLines(lambda: ()),
                prove=self.victims.prove,
                clock=self.script.clock,
            ),
        )

    async def run(self, *steps: Callable[[], object]) -> None:
        self.script.then(*steps)
        with pytest.raises(ScriptIsOverError):
            await self.guard.watch()

    def quiet(self) -> None:
        self.script.now += 0.1


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


@pytest.mark.asyncio
async def test_a_build_gives_first(bench: Bench) -> None:
    """One compiler of the biggest build, though a browser holds twice as much; and then no more."""
    await bench.run(*[bench.quiet] * 5)
    (kill,) = bench.victims.told
    assert isinstance(kill, KillReport)
    assert (kill.victim.pid, kill.cgroup, kill.victim_cgroup) == (31, BUILD, BUILD)
    assert (kill.shortage.resource, kill.shortage.evidence) == (Resource.MACHINE, Evidence.MACHINE)
    assert (kill.shortage.usage_bytes, kill.usage_after_bytes) == (80 * MIB, 200 * MIB)


@pytest.mark.asyncio
async def test_as_long_as_it_is_short(bench: Bench) -> None:
    """Builds, then apps, then what a session can do without; its shell never, and that is told once."""
    bench.taken = 950 * MIB
    await bench.run(*[bench.quiet] * 20)
    assert bench.victims.killed == [31, 40, 30, 20, 11]
    assert 10 in bench.victims.processes
    assert [each.cgroup for each in bench.victims.told if isinstance(each, NoVictimReport)] == [SESSION]


@pytest.mark.asyncio
async def test_who_is_within_its_share_gives_nothing(bench: Bench) -> None:
    bench.managed = [replace(each, share_bytes=130 * MIB) for each in bench.managed]
    await bench.run(*[bench.quiet] * 5)
    assert bench.victims.killed == [20]


@pytest.mark.asyncio
async def test_enough_is_left(bench: Bench) -> None:
    """Looks are as far apart as the headroom allows."""
    bench.taken = 0
    await bench.run(bench.quiet, bench.quiet)
    assert bench.victims.told == []
    assert bench.script.waits == [0.0, *[pytest.approx(280 * MIB / (2 << 30))] * 2]
    assert SHORTEST_INTERVAL_SECONDS < 280 * MIB / (2 << 30) < LONGEST_INTERVAL_SECONDS


@pytest.mark.asyncio
async def test_a_survivor_has_the_next_one_of_its_slice_follow(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the next round, after another look at the machine; not somebody of another slice at once."""
    monkeypatch.setattr("slicemgr.service.guard.EXIT_TIMEOUT_SECONDS", 0.0)
    bench.victims.survives = {31}
    await bench.run(bench.quiet)
    assert bench.victims.killed == [31]
    bench.script = Script(bench.quiet)
    bench.guard._wait = bench.script.wait
    await bench.run()
    assert bench.victims.killed == [31, 30]


@pytest.mark.asyncio
async def test_patience_anew_after_each_victim(bench: Bench) -> None:
    """Swap has room, and all wait for it: a second for each, for what was freed has to show first."""
    bench.taken = 950 * MIB
    read = bench.read

    def swapping() -> MachineReading:
        full = Stall(0.0, 0.0, 0.0, int((bench.script.now - 100.0) * 1e6))
        return replace(read(), swap_total_bytes=500 * MIB, swap_free_bytes=500 * MIB, pressure=Pressure(full, full))

    bench.guard._read = swapping
    await bench.run(*[bench.quiet] * 25)
    assert bench.victims.killed == [31, 40]


@pytest.mark.asyncio
async def test_a_slice_that_is_not_there(bench: Bench) -> None:
    bench.tree.remove(BUILD)
    bench.taken += 130 * MIB
    await bench.run(*[bench.quiet] * 3)
    assert bench.victims.killed[:1] == [40]


@pytest.mark.asyncio
async def test_recovered_at_the_second_look(bench: Bench) -> None:
    """Something has ended while the victim was chosen."""
    snapshot = bench.victims.snapshot

    def and_then_it_is_over(pids: object) -> object:
        bench.taken = 0
        return snapshot(pids)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("slicemgr.kernel.procfs.snapshot", and_then_it_is_over)
        await bench.run(*[bench.quiet] * 3)
    assert bench.victims.told == []


@pytest.mark.asyncio
async def test_a_look_may_fail_for_a_moment(bench: Bench) -> None:
    """A second later it is tried again."""
    read = bench.read
    failures = iter([OSError("no descriptor")])

    def fails_once() -> MachineReading:
        if (failure := next(failures, None)) is not None:
            raise failure
        return read()

    bench.guard._read = fails_once
    await bench.run(*[bench.quiet] * 3)
    assert bench.script.waits[:2] == [0.0, 1.0]
    assert bench.victims.killed == [31]


@pytest.mark.asyncio
async def test_a_call_ends_the_wait(bench: Bench) -> None:
    """The pressure trigger does not wait for the next reading."""
    loop = asyncio.get_running_loop()
    waited: list[float | None] = []

    async def wait(called: asyncio.Event, seconds: float | None) -> None:
        waited.append(seconds)
        if len(waited) == 1:
            return
        if len(waited) == 3:
            raise ScriptIsOverError
        loop.call_soon(bench.guard.call)
        await Rounds()(called, 3600.0)

    bench.guard._wait = wait
    with pytest.raises(ScriptIsOverError):
        await asyncio.wait_for(bench.guard.watch(), 30)
    assert bench.victims.killed == [31]


@pytest.mark.asyncio
async def test_a_shortage_that_lasts_is_remembered_once_for_each_slice(bench: Bench) -> None:
    """For hours it is the same four that have nobody to give."""
    bench.taken = 950 * MIB
    await bench.run(*[bench.quiet] * 200)
    assert {guard for guard, _ in bench.guard._asked.values()} <= set(bench.paths.values())
    assert len(bench.guard._asked) <= len(bench.managed)


@pytest.mark.asyncio
async def test_no_other_slice_pays_for_a_descriptor_that_we_lack(bench: Bench) -> None:
    """The build's victim is named again in the next round, a tenth of a second later."""
    prove = bench.victims.prove
    failures = iter([OSError(errno.ENFILE, "none")])

    def fails_once(identity: ProcessIdentity, cgroup: str) -> AbstractContextManager[FakeVictim]:
        for failure in failures:
            raise failure
        return prove(identity, cgroup)

    bench.victims.prove = fails_once  # type: ignore[method-assign,assignment]
    await bench.run(*[bench.quiet] * 5)
    assert bench.victims.killed == [31]
    assert bench.script.waits[1] == SHORTEST_INTERVAL_SECONDS
