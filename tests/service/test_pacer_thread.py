# SPDX-License-Identifier: LGPL-2.1-or-later
"""The pacer's thread: however it begins, fails or ends, nobody stands afterwards, and no descriptor stays open."""

from __future__ import annotations

import os
import queue
import signal
import threading
from typing import TYPE_CHECKING, cast

import pytest

from slicemgr.kernel import procfs
from slicemgr.kernel.errors import CgroupGoneError, KernelError
from slicemgr.kernel.hold import HeldProcess
from slicemgr.model.pacing import PacingSettings
from slicemgr.model.step import StepSignature
from slicemgr.service import job_pacer, pacer_thread
from slicemgr.service.job_budget import Budget
from slicemgr.service.pacer import Pacer
from slicemgr.service.pacer_thread import FAILED_LOOKS, PacerThread
from slicemgr.service.pacing_tally import PacingSummary
from slicemgr.service.step_watch import StepWatch
from tests.service.step_samples import FakeOutliver
from tests.service.test_pacer import FakeMemory
from tests.service.test_step_watch import started, tree_below
from tests.service.waiting_child import WaitingChild, descriptors, waiting_child

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from slicemgr.model.source import JobSource
    from slicemgr.service.job_pacer import JobPacer

SECONDS = 20.0
SUMMARY = PacingSummary(1, 0, 0.0, 1, 0, 0, 0, ())


class FakeStep:
    """What the thread wants of a step."""

    def __init__(self, process: HeldProcess) -> None:
        self.process = process


class FakePaced:
    """In place of a JobPacer, and of the Pacer in it: it says when it is looked at."""

    def __init__(self) -> None:
        self.pacer = self
        self.looks: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
        """The exited of each."""
        self.raises: list[BaseException] = []
        """What the next looks raise, in their order."""
        self.interval = 1000.0
        self.version = 0
        self.steps: dict[int, FakeStep] = {}
        self.told: list[str] = []
        self.finished = 0
        self.does: Callable[[list[int]], object] = lambda exited: None

    @property
    def paced(self) -> JobPacer:
        return cast("JobPacer", self)

    def look(self, now_seconds: float, exited: Iterable[int] = ()) -> float:
        seen = list(exited)
        try:
            if self.raises:
                raise self.raises.pop(0)
            self.does(seen)
        finally:
            self.looks.put(seen)
        return self.interval

    def end_soon(self) -> None:
        self.told.append("end")

    def hold_again(self) -> None:
        self.told.append("again")

    def mark_killed(self, pid: int) -> None:
        self.told.append(f"killed {pid}")

    def finish(self, now_seconds: float) -> PacingSummary:
        self.finished += 1
        return SUMMARY

    def next_look(self) -> list[int]:
        """Wait for it."""
        return self.looks.get(timeout=SECONDS)


@pytest.fixture(autouse=True)
def nothing_stays(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No descriptor, and no thread; failures follow at once."""
    monkeypatch.setattr(pacer_thread, "FAILED_SECONDS", 0.0)
    before = descriptors()
    yield
    for thread in threading.enumerate():
        if thread.name == "pacer":
            thread.join(SECONDS)
            assert not thread.is_alive()
    assert len(descriptors()) <= len(before)


@pytest.fixture
def paced() -> FakePaced:
    return FakePaced()


@pytest.fixture
def failures() -> list[BaseException]:
    return []


def test_from_its_making_to_its_end(paced: FakePaced, failures: list[BaseException]) -> None:
    """It looks at once, and then when it is to."""
    thread = PacerThread(lambda: paced.paced, failures.append)
    assert paced.next_look() == []
    thread.finish()
    assert thread.summary == SUMMARY
    assert (paced.finished, failures) == (1, [])


@pytest.mark.parametrize("word", ["end", "again"])
def test_what_it_is_told_it_does_at_once(paced: FakePaced, failures: list[BaseException], word: str) -> None:
    """Though the next look would have been in a thousand seconds."""
    thread = PacerThread(lambda: paced.paced, failures.append)
    paced.next_look()
    (thread.end_soon if word == "end" else thread.hold_again)()
    paced.next_look()
    assert paced.told == [word]
    thread.finish()


def test_it_is_told_very_often(paced: FakePaced, failures: list[BaseException]) -> None:
    """More than its pipe can hold, while it is busy."""
    go_on = threading.Event()
    paced.does = lambda exited: go_on.wait(SECONDS)
    thread = PacerThread(lambda: paced.paced, failures.append)
    for _ in range(70_000):
        thread.end_soon()
    go_on.set()
    paced.next_look()
    thread.finish()
    assert failures == []


@pytest.mark.parametrize("error", [CgroupGoneError("/a"), OSError(24, "no"), ValueError("a fault of ours")])
def test_it_cant_be_made(failures: list[BaseException], error: Exception) -> None:
    """Then it is told, and nothing else happens; whatever is asked of it."""

    def make() -> JobPacer:
        raise error

    thread = PacerThread(make, failures.append)
    thread._thread.join(SECONDS)
    thread.end_soon()
    thread.hold_again()
    thread.mark_killed(1)
    thread.finish()
    assert failures == [error]
    assert thread.summary is None


def test_the_job_ends_while_it_is_made(failures: list[BaseException]) -> None:
    """That it can't be made then is no news."""
    may_fail = threading.Event()

    def make() -> JobPacer:
        may_fail.wait(SECONDS)
        raise CgroupGoneError("/a")

    thread = PacerThread(make, failures.append)
    thread.finish()
    may_fail.set()
    thread._thread.join(SECONDS)
    assert failures == []


def test_it_is_finished_while_it_is_made(paced: FakePaced, failures: list[BaseException]) -> None:
    """The command was short: nobody waits for imports, nobody is looked at, and what was made is let go of."""
    may_go_on = threading.Event()

    def make() -> JobPacer:
        may_go_on.wait(SECONDS)
        return paced.paced

    thread = PacerThread(make, failures.append)
    thread.finish()
    assert thread.summary is None
    may_go_on.set()
    thread._thread.join(SECONDS)
    assert paced.looks.empty()
    assert (paced.finished, failures) == (1, [])
    thread.finish()


def test_the_build_is_being_ended_while_it_is_made(paced: FakePaced, failures: list[BaseException]) -> None:
    """Then nobody is held from its first look on."""
    may_go_on = threading.Event()

    def make() -> JobPacer:
        may_go_on.wait(SECONDS)
        return paced.paced

    thread = PacerThread(make, failures.append)
    thread.end_soon()
    may_go_on.set()
    paced.next_look()
    assert paced.told == ["end"]
    thread.finish()


def test_finished_twice(paced: FakePaced, failures: list[BaseException]) -> None:
    """Its descriptors may be somebody else's by then."""
    thread = PacerThread(lambda: paced.paced, failures.append)
    paced.next_look()
    thread.finish()
    pipes = [os.pipe2(os.O_NONBLOCK) for _ in range(4)]
    try:
        thread.finish()
        thread.end_soon()
        thread.hold_again()
        for reading, _ in pipes:
            with pytest.raises(BlockingIOError):
                os.read(reading, 1)
    finally:
        for pipe in pipes:
            for descriptor in pipe:
                os.close(descriptor)
    assert paced.finished == 1


@pytest.mark.parametrize(
    "error", [CgroupGoneError("/a"), OSError(24, "Too many open files"), RuntimeError("no thread")]
)
def test_looks_that_fail_for_a_moment(paced: FakePaced, failures: list[BaseException], error: Exception) -> None:
    """Again and again, but never so many times in a row."""
    paced.interval = 0.0
    for _ in range(3):
        paced.raises += [error] * (FAILED_LOOKS - 1)
    original = paced.raises
    paced.raises = original[: FAILED_LOOKS - 1]
    thread = PacerThread(lambda: paced.paced, failures.append)
    for _ in range(FAILED_LOOKS + 5):
        paced.next_look()
    paced.raises = original[: FAILED_LOOKS - 1]
    for _ in range(FAILED_LOOKS + 5):
        paced.next_look()
    thread.finish()
    assert (failures, paced.finished) == ([], 1)


@pytest.mark.parametrize(
    "errors", [[CgroupGoneError("/a")] * FAILED_LOOKS, [OSError(24, "no")] * FAILED_LOOKS, [ZeroDivisionError()]]
)
def test_looks_that_fail(paced: FakePaced, failures: list[BaseException], errors: list[BaseException]) -> None:
    """Then all are let go, at once, and it is told; the command goes on."""
    last = errors[-1]
    paced.raises = list(errors)
    thread = PacerThread(lambda: paced.paced, failures.append)
    thread._thread.join(SECONDS)
    assert (failures, paced.finished) == ([last], 1)
    thread.end_soon()
    thread.finish()
    assert thread.summary == SUMMARY


def test_its_end_fails(paced: FakePaced, failures: list[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    """That is told as well, and nobody gets a traceback."""
    error = KernelError("no")

    def fail(now_seconds: float) -> PacingSummary:
        raise error

    monkeypatch.setattr(paced, "finish", fail)
    thread = PacerThread(lambda: paced.paced, failures.append)
    paced.next_look()
    thread.finish()
    assert failures == [error]
    assert thread.summary is None


def test_no_thread_is_to_be_had(monkeypatch: pytest.MonkeyPatch, failures: list[BaseException]) -> None:
    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    with pytest.raises(RuntimeError):
        PacerThread(lambda: FakePaced().paced, failures.append)


def _step_of(child: WaitingChild) -> FakeStep:
    return FakeStep(HeldProcess(child.identity))


def test_the_end_of_a_step_is_seen_at_once(paced: FakePaced, failures: list[BaseException]) -> None:
    """By its pidfd."""
    with waiting_child() as first, waiting_child() as second:
        paced.steps = {child.pid: _step_of(child) for child in (first, second)}
        paced.version += 1
        thread = PacerThread(lambda: paced.paced, failures.append)
        paced.next_look()

        def forget(exited: list[int]) -> None:
            for pid in exited:
                paced.steps.pop(pid).process.close()
                paced.version += 1

        paced.does = forget
        for child in (second, first):
            child.end()
            assert paced.next_look() == [child.pid]
        thread.finish()
        assert failures == []


def test_the_last_step_of_all(paced: FakePaced, failures: list[BaseException]) -> None:
    """The linker ends, and make with it: it is learnt from though the end comes while somebody is looked at."""
    with waiting_child() as child:
        paced.steps[child.pid] = _step_of(child)
        paced.version += 1
        is_there = threading.Event()

        def end(exited: list[int]) -> None:
            if not exited:
                child.end()
                assert is_there.wait(SECONDS)
                thread._is_finishing = True

        paced.does = end
        thread = PacerThread(lambda: paced.paced, failures.append)
        is_there.set()
        assert paced.next_look() == []
        assert paced.next_look() == [child.pid]
        thread.finish()
        assert paced.looks.empty()
        paced.steps.pop(child.pid).process.close()
        assert failures == []


def test_a_number_that_was_given_out_again(paced: FakePaced, failures: list[BaseException]) -> None:
    """One ends, and in the same look another begins, whose pidfd has the number of the first."""
    with waiting_child() as first, waiting_child() as second:
        before = paced.steps[first.pid] = _step_of(first)
        number = before.process.fileno()
        paced.version += 1
        thread = PacerThread(lambda: paced.paced, failures.append)
        paced.next_look()

        def replace(exited: list[int]) -> None:
            if exited == [first.pid]:
                del paced.steps[first.pid]
                before.process.close()
                paced.steps[second.pid] = _step_of(second)
                paced.version += 1

        paced.does = replace
        first.end()
        assert paced.next_look() == [first.pid]
        assert paced.steps[second.pid].process.fileno() == number
        second.end()
        assert paced.next_look() == [second.pid]
        paced.steps.pop(second.pid).process.close()
        thread.finish()
        assert failures == []


def test_a_look_fails_when_a_step_has_ended(paced: FakePaced, failures: list[BaseException]) -> None:
    """It is told again: a pidfd stays readable."""
    with waiting_child() as child:
        paced.steps[child.pid] = _step_of(child)
        paced.version += 1
        thread = PacerThread(lambda: paced.paced, failures.append)
        paced.next_look()
        paced.raises = [OSError(24, "Too many open files")]

        def forget(exited: list[int]) -> None:
            for pid in exited:
                paced.steps.pop(pid).process.close()
                paced.version += 1

        paced.does = forget
        child.end()
        assert paced.next_look() == [child.pid]
        assert paced.next_look() == [child.pid]
        thread.finish()
        assert failures == []


class RealPaced:
    """A real pacer of a real tree, of which all but one stand."""

    def __init__(self, root: int) -> None:
        self.outliver = FakeOutliver()
        self.fails: Exception | None = None
        self.stand = threading.Event()
        self._root = root
        watch = StepWatch(
            self._members,
            root_pid=root,
            hold=HeldProcess,
            sign=lambda arguments, directory: StepSignature(arguments[0], "", directory),
        )
        self.pacer = Pacer(
            watch,
            lambda: None,
            lambda now: Budget(1 << 20, 0),
            outliver=self.outliver,
            memory=FakeMemory(),
            planned=self._planned,
            ceiling=1,
        )

    def _members(self) -> Mapping[int, object]:
        if self.fails is not None:
            raise self.fails
        return tree_below(self._root)

    def _planned(self, steps: Mapping[int, object], budget: Budget) -> None:
        if len(self.outliver.held) == 3:
            self.stand.set()

    @property
    def paced(self) -> JobPacer:
        return cast("JobPacer", self)

    def finish(self, now_seconds: float) -> PacingSummary:
        return self.pacer.finish(now_seconds)


@pytest.mark.parametrize("error", [None, CgroupGoneError("/a"), OSError(24, "no"), ZeroDivisionError()])
def test_real_steps_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failures: list[BaseException], error: Exception | None
) -> None:
    """At its end, and when it fails."""
    (tmp_path / "compute").symlink_to("/bin/cat")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with started("sh", "-c", "compute | compute | compute | compute; :") as root:
        pids = [pid for pid, stat in tree_below(root.pid).items() if stat.comm == b"compute"]
        real = RealPaced(root.pid)
        thread = PacerThread(lambda: real.paced, failures.append)
        assert real.stand.wait(SECONDS)
        if error is not None:
            real.fails = error
            thread._thread.join(SECONDS)
            assert failures == [error]
        thread.finish()
        assert real.outliver.held == set()
        assert [procfs.read_stat(pid).state for pid in pids].count("T") == 0
        root.answer()


def test_what_belongs_to_a_pacer_is_closed_where_one_of_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job ends while it is made."""

    def fail(*_: object, **__: object) -> None:
        raise CgroupGoneError("/a")

    monkeypatch.setattr(job_pacer, "JobBudget", fail)
    with waiting_child() as child:
        job = job_pacer.PacedJob(
            pid=child.pid,
            cgroup=None,
            source=cast("JobSource", RealSource(child.pid)),
            limit_bytes=1 << 30,
            directory="/",
            spares=frozenset(),
            outliver=None,
            tokens=None,
            marks=None,
            is_agent=False,
            ceiling=None,
            allowance=lambda: None,
            need=lambda held, wanted, waits: None,
            borrow=lambda size: False,
        )
        before = descriptors()
        settings = PacingSettings(enabled=True, never_hold=(), borrow_bytes=0, reserve_bytes=0)
        with pytest.raises(CgroupGoneError):
            job_pacer.JobPacer(
                job,
                settings,
                steps_path=str(tmp_path / "steps.sqlite"),
                report=lambda report: None,
                failed=lambda error: None,
            )
        assert descriptors() == before
        os.kill(child.pid, signal.SIGCONT)


class RealSource:
    """A process tree."""

    def __init__(self, root: int) -> None:
        self._root = root

    def members(self) -> set[int]:
        return set(tree_below(self._root))
