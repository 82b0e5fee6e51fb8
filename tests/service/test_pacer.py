# SPDX-License-Identifier: LGPL-2.1-or-later
"""The pacer, look by look at given times: who is stopped, who goes on, and that nobody is left standing."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING, cast

import pytest

from slicemgr.kernel import procfs
from slicemgr.kernel.errors import CgroupGoneError, NotPermittedError, ProcessGoneError
from slicemgr.kernel.hold import HeldProcess, Stand
from slicemgr.model.step import Profile, StepSignature, StepState
from slicemgr.policy.pacing import Pace
from slicemgr.policy.watchdog import STUCK_SECONDS
from slicemgr.service import pacer as pacer_module
from slicemgr.service.job_budget import Budget
from slicemgr.service.pacer import (
    ENDING_SECONDS,
    FAR_SECONDS,
    NEAR_SECONDS,
    PLAN_SECONDS,
    SHORT_SECONDS,
    Pacer,
    Shortage,
)
from slicemgr.service.step_watch import StepWatch
from tests.service.step_samples import MIB, FakeBudget, FakeOutliver, FakeStep, FakeWatch
from tests.service.test_step_watch import started, tree_below
from tests.service.waiting_child import descriptors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from slicemgr.model.step import Step
    from slicemgr.service.live_step import LiveStep

SECONDS = 20.0


class FakeMemory:
    """What was learnt before, and what is learnt now."""

    def __init__(self) -> None:
        self.known: dict[str, Profile] = {}
        """By what a step makes."""
        self.kin: list[Profile] = []
        """The latest first."""
        self.learnt: list[tuple[str, Profile]] = []

    def profile(self, signature: StepSignature) -> Profile | None:
        return self.known.get(signature.what)

    def ended(self, program: str) -> Sequence[Profile]:
        return tuple(self.kin)

    def learn(self, signature: StepSignature, profile: Profile) -> None:
        self.learnt.append((signature.what, profile))


class Build:
    """A build of fake steps, and a pacer that looks at it."""

    def __init__(self, budget_mib: int = 1000, *, outlived: bool = True, ceiling: int | None = None) -> None:
        self.now = 100.0
        self.fakes = FakeWatch()
        self.budget = FakeBudget(self.fakes, budget_mib * MIB)
        self.outliver = FakeOutliver()
        self.memory = FakeMemory()
        self.shortages: list[Shortage] = []
        self.planned: list[int] = []
        self.again: set[int] = set()
        self.count = 0
        self.pacer = Pacer(
            self.fakes.watch,
            lambda: None,
            self.budget.read,
            outliver=self.outliver if outlived else None,
            memory=self.memory,
            runs_again=lambda ancestors: bool(self.again & set(ancestors)),
            last_resort=self._is_short,
            planned=self._planned,
            ceiling=ceiling,
        )

    def _is_short(self, shortage: Shortage) -> None:
        # What may be done at once is in test_pacer_shortage.py.
        if shortage.is_sure:
            self.shortages.append(shortage)

    def _planned(self, steps: Mapping[int, LiveStep], budget: Budget) -> None:
        self.planned.append(len(steps))

    def begin(self, count: int = 1, *, mib: int = 5, peak_mib: int | None = None) -> list[FakeStep]:
        """So many are born, and hold this; `peak_mib` was learnt of them."""
        made: list[FakeStep] = []
        for _ in range(count):
            step = FakeStep(self.count, now_seconds=self.now)
            step.signature = StepSignature("cc1plus", f"{self.count}.o", "/src")
            if peak_mib is not None:
                self.memory.known[f"{self.count}.o"] = Profile(peak_mib * MIB, 0.5, 1.0)
            step.hold_bytes(mib * MIB, self.now)
            self.count += 1
            made.append(step)
        self.fakes.begin(*made)
        return made

    def look(self, after: float = 0.01, exited: Sequence[int] = ()) -> float:
        self.now += after
        return self.pacer.look(self.now, exited)

    def looks(self, seconds: float) -> None:
        """As often as the pacer wants to."""
        until = self.now + seconds
        pause = self.look()
        while self.now + pause < until:
            pause = self.look(pause)

    @property
    def held(self) -> list[int]:
        """Who is stopped by us, by age; and those are the ones that would be resumed after our death."""
        steps = [step for step in self.fakes.steps.values() if step.is_held]
        assert self.outliver.held >= {(step.identity.pid, step.identity.start_ticks) for step in steps}
        return sorted(step.order for step in steps)

    def scripted(self, monkeypatch: pytest.MonkeyPatch) -> list[Pace]:
        """What is decided is what the test puts here last."""
        decisions = [Pace()]
        monkeypatch.setattr(pacer_module, "pace", lambda *_, **__: decisions[-1])
        return decisions


def _told(steps: Sequence[FakeStep]) -> list[list[str]]:
    return [step.fake_process.told for step in steps]


def test_near_the_budget_they_are_held_in_the_same_look() -> None:
    """Before they take anything: all but those that fit."""
    build = Build(1000)
    steps = build.begin(20, peak_mib=300)
    assert build.look() == NEAR_SECONDS
    assert build.pacer.is_near
    running = [step for step in steps if step.state is StepState.RUNNING]
    assert 1 <= len(running) <= 3
    for step in steps:
        assert step.fake_process.told == ([] if step in running else ["stop"])
        assert step.state is (StepState.RUNNING if step in running else StepState.NEW)
    assert build.held == [step.order for step in steps if step not in running]


def test_far_from_it_nobody_is_held() -> None:
    """And a look is only for learning."""
    build = Build(100_000)
    steps = build.begin(20, peak_mib=300)
    assert build.look() == FAR_SECONDS
    assert not build.pacer.is_near
    assert _told(steps) == [[]] * 20
    assert all(step.state is StepState.RUNNING for step in steps)
    assert build.outliver.held == set()


def test_of_unknown_steps_not_all_begin() -> None:
    build = Build(1000)
    steps = build.begin(20)
    build.look()
    assert 1 <= sum(step.state is StepState.RUNNING for step in steps) <= 4


def test_before_the_first_step() -> None:
    """Near: somebody unknown may be born at any moment."""
    assert Build(1000).look() == NEAR_SECONDS


def _run(build: Build, steps: Sequence[FakeStep], peak_mib: int, growth_mib: int) -> int:
    """Until all have ended; who runs takes so much in each look, and ends when it holds its peak. The most it held."""
    most = 0
    for _ in range(20_000):
        living = list(build.fakes.steps.values())
        if not living and build.count == len(steps) and build.pacer.looks > 1:
            return most
        build.look()
        exited = []
        for step in cast("list[FakeStep]", list(build.fakes.steps.values())):
            if step.is_held:
                assert step.fake_process.stand_now is Stand.STOPPED
            else:
                step.fake_files.bytes += growth_mib * MIB
                if step.fake_files.bytes >= peak_mib * MIB:
                    exited.append(step.pid)
        most = max(most, sum(cast("FakeStep", each).fake_files.bytes for each in build.fakes.steps.values()))
        if exited:
            build.look(0.0, exited)
    raise AssertionError(f"it does not end: {build.held}")


@pytest.mark.parametrize("is_known", [False, True])
def test_a_build_that_does_not_fit_ends(is_known: bool) -> None:
    """20 steps of 200 MB in 1 GB: all are run, none is left standing, and it stays below."""
    build = Build(1000)
    steps = build.begin(20, peak_mib=200 if is_known else None)
    assert _run(build, steps, peak_mib=200, growth_mib=4) < 1000 * MIB
    assert build.outliver.held == set()
    assert build.shortages == []
    summary = build.pacer.finish(build.now)
    assert (summary.steps, len(build.memory.learnt)) == (20, 20)
    assert summary.waited > 0
    assert 1 < summary.most_running < 20


def test_at_most_so_many_at_once() -> None:
    """--retry: with fewer than before."""
    build = Build(1000, ceiling=2)
    steps = build.begin(10, peak_mib=50)
    _run(build, steps, peak_mib=50, growth_mib=4)
    assert build.pacer.finish(build.now).most_running == 2


def test_nobody_outlives_us() -> None:
    """Then nobody is stopped, whatever they take."""
    build = Build(100, outlived=False)
    steps = build.begin(20, peak_mib=90)
    assert build.look() == FAR_SECONDS
    build.looks(1.0)
    assert _told(steps) == [[]] * 20
    assert all(step.state is StepState.RUNNING for step in steps)


def test_who_outlives_us_is_killed() -> None:
    """From the next one on nobody is held, and all that stand go on."""
    build = Build(1000)
    steps = build.begin(10, peak_mib=300)
    build.look()
    assert build.held
    build.outliver.is_dead = True
    steps += build.begin(3, peak_mib=300)
    build.looks(1.0)
    assert build.held == []
    assert all(step.state is StepState.RUNNING for step in steps)
    assert all(each in ([], ["stop", "resume"]) for each in _told(steps))
    assert build.look() == FAR_SECONDS


def test_who_cant_be_stopped_runs() -> None:
    """And the others are held all the same."""
    build = Build(1000)
    steps = build.begin(10, peak_mib=300)
    steps[9].fake_process.refuses = NotPermittedError(9, "signal")
    build.look()
    assert 9 not in build.held
    assert not steps[9].may_wait
    assert len(build.held) >= 6


def test_the_build_is_being_ended() -> None:
    """All go on in this look, and nobody new is held, for a while."""
    build = Build(1000)
    steps = build.begin(10, peak_mib=300)
    build.look()
    assert build.held
    build.pacer.end_soon()
    build.look(0.001)
    assert build.held == []
    steps += build.begin(5, peak_mib=300)
    build.looks(ENDING_SECONDS * 0.9)
    assert build.held == []
    assert build.outliver.held == set()
    build.looks(ENDING_SECONDS * 0.2)
    assert build.pacer.is_near  # It has gone on, as an agent does after ^C.


def test_what_ends_by_a_signal_is_not_learnt() -> None:
    build = Build(1000)
    (step,) = build.begin(1, mib=50)
    build.look()
    build.pacer.end_soon()
    build.look()
    build.look(exited=[step.pid])
    assert build.memory.learnt == []


def test_after_fg_all_that_stood_stand() -> None:
    """And nobody else."""
    build = Build(1000)
    steps = build.begin(10, peak_mib=300)
    build.look()
    held = build.held
    for step in steps:
        step.fake_process.stand_now = Stand.GOES_ON
    build.pacer.hold_again()
    build.look(0.001)
    assert build.held == held
    assert [step.order for step in steps if step.fake_process.told == ["stop", "again"]] == held
    build.looks(1.0)
    assert build.held == held


def test_kill_of_a_stopped_job() -> None:
    """The shell sends SIGTERM and then SIGCONT: nobody is to stand then."""
    build = Build(1000)
    steps = build.begin(10, peak_mib=300)
    build.look()
    build.pacer.end_soon()
    build.pacer.hold_again()
    build.look(0.001)
    assert build.held == []
    assert "again" not in [word for told in _told(steps) for word in told]


def test_a_step_that_somebody_wants_to_end() -> None:
    """It was sent SIGTERM alone while it stood: it hears it."""
    build = Build(1000)
    steps = build.begin(10, peak_mib=300)
    build.look()
    victim = steps[9]
    victim.fake_process.stand_now = Stand.MUST_HEAR
    build.looks(0.5)
    assert victim.fake_process.told == ["stop", "resume"]
    assert not victim.is_held


def test_nothing_moves() -> None:
    """Who runs waits for who stands: each gets its turn at last."""
    build = Build(1000)
    steps = build.begin(6, peak_mib=600)
    build.look()
    held = build.held
    for step in steps:
        step.progresses = False
    build.looks(len(steps) * (STUCK_SECONDS + 1.0))
    assert all("resume" in steps[order].fake_process.told for order in held)


def test_stopped_and_resumed_as_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each once, and counted."""
    build = Build(1000)
    decisions = build.scripted(monkeypatch)
    decisions.append(Pace(go=(0, 1)))
    steps = build.begin(3)
    build.look()
    assert _told(steps) == [[], [], ["stop"]]
    decisions.append(Pace(stop=(1,), go=(2,)))
    build.look(PLAN_SECONDS)
    decisions.append(Pace())
    build.look(PLAN_SECONDS)
    assert _told(steps) == [[], ["stop"], ["stop", "resume"]]
    assert [step.state for step in steps] == [StepState.RUNNING, StepState.WAITING, StepState.RUNNING]
    assert build.pacer.finish(build.now).stops == 1
    assert build.outliver.held == set()


def test_the_last_resort_comes_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """When it has been true for a while that not even one fits; and once for each while."""
    build = Build(1000)
    decisions = build.scripted(monkeypatch)
    build.begin(2, mib=500)
    decisions.append(Pace(go=(0,), short_bytes=7))
    build.look()
    for _ in range(2):
        build.looks(SHORT_SECONDS * 0.9)
        count = len(build.shortages)
        build.looks(SHORT_SECONDS * 0.5)
        assert len(build.shortages) == count + 1
        decisions.append(Pace(short_bytes=0))
        build.looks(SHORT_SECONDS)
        decisions.append(Pace(short_bytes=7))
        build.look(PLAN_SECONDS)
    assert build.shortages[0].short_bytes == 7
    assert build.shortages[0].budget.budget_bytes == 1000 * MIB


def test_a_shortage_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing irreversible is done for it."""
    build = Build(1000)
    decisions = build.scripted(monkeypatch)
    build.begin(2, mib=500)
    build.look()
    for _ in range(10):
        decisions.append(Pace(short_bytes=7))
        build.looks(SHORT_SECONDS * 0.8)
        decisions.append(Pace())
        build.looks(PLAN_SECONDS * 1.5)
    assert build.shortages == []


def test_one_that_comes_again() -> None:
    """It was killed for lack of memory: it runs alone."""
    build = Build(1000)
    build.again = {77}
    (step,) = build.begin()
    build.fakes.ancestors[step.pid] = [77, 1]
    (other,) = build.begin()
    build.look()
    assert (step.alone, other.alone) == (True, False)


def test_its_parent_waits_for_it() -> None:
    """To hold it would keep both from their ends."""
    build = Build(1000)
    (step,) = build.begin(1, peak_mib=2000)
    build.fakes.continuations.add(step.pid)
    build.look()
    assert step.state is StepState.RUNNING
    assert step.fake_process.told == []


@pytest.mark.parametrize("peak_mib", [100, 5000])
def test_it_has_waited_for_its_child(peak_mib: int) -> None:
    """It goes on when it fits, as if it had just been born."""
    build = Build(1000)
    (first, step) = build.begin(2, peak_mib=100)
    build.look()
    assert build.held == []
    step.profile = Profile(peak_mib * MIB, 0.5, 1.0)
    build.fakes.back = [step]
    build.look()
    assert build.held == ([] if peak_mib == 100 else [step.order])
    assert first.state is StepState.RUNNING


def test_what_is_learnt() -> None:
    """Of who has ended by itself, and has run."""
    build = Build(100_000)
    whole, cut, never = build.begin(3, mib=50)
    build.look()
    for _ in range(5):
        build.look(0.1)
    cut.is_whole = False
    never.peak_bytes = 0
    build.look(exited=[whole.pid, cut.pid, never.pid])
    ((what, profile),) = build.memory.learnt
    assert what == "0.o"
    assert profile.peak_bytes == 50 * MIB
    assert profile.run_seconds == pytest.approx(0.5, abs=0.2)


def test_who_was_killed_while_it_stood_tells_nothing() -> None:
    """It would have grown; and who outlives us is told that it is gone."""
    build = Build(1000)
    steps = build.begin(10, mib=40, peak_mib=300)
    build.look()
    build.look(0.1)
    victim = steps[build.held[0]]
    victim.peak_bytes = 40 * MIB
    build.look(exited=[victim.pid])
    assert build.memory.learnt == []
    assert (victim.pid, victim.identity.start_ticks) not in build.outliver.held


def test_the_latest_kin_come_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """As policy wants them; what was learnt before comes the latest first."""
    seen: list[list[int]] = []

    def pace(steps: Sequence[Step], ended: Mapping[str, Sequence[Profile]], **_: object) -> Pace:
        seen.append([profile.peak_bytes for profile in ended["cc1plus"]])
        return Pace(go=tuple(step.order for step in steps))

    monkeypatch.setattr(pacer_module, "pace", pace)
    build = Build(1000)
    build.memory.kin = [Profile(size * 300 * MIB, 1.0, 1.0) for size in (3, 2, 1)]
    (step,) = build.begin(1, mib=50)
    build.look()
    build.look(0.1)
    build.look(exited=[step.pid])
    build.begin()
    build.look()
    assert seen[0] == [300 * MIB, 600 * MIB, 900 * MIB]
    assert seen[-1] == [*seen[0], 50 * MIB]


@pytest.mark.parametrize("error", [CgroupGoneError("/a"), OSError(24, "Too many open files")])
def test_a_look_fails(error: Exception) -> None:
    """Whoever stands is let go at the end in any case."""
    build = Build(1000)
    steps = build.begin(10, peak_mib=300)
    build.look()
    held = build.held
    assert held
    build.fakes.raises = error
    for _ in range(3):
        with pytest.raises(type(error)):
            build.look()
    build.pacer.finish(build.now)
    assert [step.order for step in steps if step.fake_process.told == ["stop", "resume"]] == held
    assert build.outliver.held == set()


def test_the_end() -> None:
    """All go on, and all descriptors are let go of."""
    build = Build(1000)
    steps = build.begin(10, peak_mib=300)
    build.looks(1.0)
    build.pacer.finish(build.now)
    assert all(step.fake_process.stand_now is not Stand.STOPPED for step in steps)
    assert all(step.fake_process.is_closed and step.fake_files.is_closed for step in steps)
    assert build.outliver.held == set()


def test_each_plan_is_told() -> None:
    """For the tokens of make, and the daemon."""
    build = Build(1000)
    build.begin(3, peak_mib=300)
    build.look()
    assert build.planned == [3]
    far = Build(100_000)
    far.begin(3)
    far.look()
    assert far.planned == [3]


def _states(pids: Sequence[int]) -> list[str]:
    """Of all that are there."""
    found = []
    for pid in pids:
        with contextlib.suppress(ProcessGoneError):
            found.append(procfs.read_stat(pid).state)
    return found


def _wait_for_states(pids: Sequence[int], wanted: Callable[[list[str]], bool]) -> None:
    """They are nobody's children here, so this is a poll."""
    deadline = time.monotonic() + SECONDS
    while not wanted(_states(pids)):
        assert time.monotonic() < deadline, _states(pids)
        os.sched_yield()


def test_real_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four that begin at once some stand, in T; and in the end nobody does."""
    (tmp_path / "compute").symlink_to("/bin/cat")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    before = descriptors()
    with started("sh", "-c", "compute | compute | compute | compute; :") as root:
        pids = [pid for pid, stat in tree_below(root.pid).items() if stat.comm == b"compute"]
        watch = StepWatch(
            lambda: tree_below(root.pid),
            root_pid=root.pid,
            hold=HeldProcess,
            sign=lambda arguments, directory: StepSignature(arguments[0], str(len(arguments)), directory),
        )
        outliver = FakeOutliver()
        paced = Pacer(
            watch, lambda: None, lambda now: Budget(MIB, 0), outliver=outliver, memory=FakeMemory(), ceiling=1
        )
        assert paced.look(1.0) == NEAR_SECONDS
        assert len(watch.steps) == 4
        assert len(outliver.held) == 3
        _wait_for_states(pids, lambda states: states.count("T") == 3)
        # One that is killed while it stands is gone as others are.
        (victim, *_) = [step for step in watch.steps.values() if step.is_held]
        os.kill(victim.identity.pid, signal.SIGKILL)
        pidfd = victim.process.fileno()
        assert pidfd >= 0
        _wait_for_states([victim.identity.pid], lambda states: states in ([], ["Z"]))
        paced.look(1.1, [victim.identity.pid])
        assert len(outliver.held) <= 2
        paced.finish(1.2)
        assert "T" not in _states(pids)
        assert outliver.held == set()
    assert len(descriptors()) <= len(before)
