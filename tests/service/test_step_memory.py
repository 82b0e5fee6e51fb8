# SPDX-License-Identifier: LGPL-2.1-or-later
"""Knowledge of steps that costs no build anything: a broken file is told once, and the build goes on without."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from slicemgr.build.learned import LearnedError, LearnedSteps
from slicemgr.model.step import Profile, StepSignature
from slicemgr.service.step_memory import FLUSH_SECONDS, RememberedSteps
from slicemgr.service.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ONE = StepSignature("cc1plus", "a.o", "/src")
PROFILE = Profile(100 << 20, 1.0, 2.0)


class Memory:
    """With a clock that the test turns, and what was told."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now = 100.0
        self.told: list[LearnedError] = []
        self.steps = RememberedSteps(str(path), self.told.append, directory="/src", clock=lambda: self.now)

    def written(self) -> Profile | None:
        """What another build finds there."""
        with LearnedSteps(str(self.path)) as others:
            return others.profile(ONE)


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Memory]:
    made = Memory(tmp_path / "state" / "steps.sqlite")
    yield made
    made.steps.close()


def test_nothing_is_known(memory: Memory) -> None:
    """And no file is made for that."""
    assert memory.steps.profile(ONE) is None
    assert list(memory.steps.ended("cc1plus")) == []
    memory.steps.close()
    assert not memory.path.exists()
    assert memory.told == []


def test_what_is_learnt_is_known_at_once(memory: Memory) -> None:
    memory.steps.learn(ONE, PROFILE)
    assert memory.steps.profile(ONE) == PROFILE


def test_it_is_there_for_the_next_build(memory: Memory) -> None:
    """At the latest when it is closed."""
    memory.steps.learn(ONE, PROFILE)
    memory.steps.close()
    assert memory.written() == PROFILE
    again = Memory(memory.path)
    assert again.steps.profile(ONE) == PROFILE
    assert list(again.steps.ended("cc1plus")) == [PROFILE]
    again.steps.close()


def test_it_is_written_now_and_then(memory: Memory) -> None:
    """In a thread of its own; a slicemgr that is killed loses the last seconds."""
    memory.steps.learn(ONE, PROFILE)
    memory.now += FLUSH_SECONDS * 0.99
    memory.steps.learn(ONE, PROFILE)
    assert not memory.path.exists()
    memory.now += FLUSH_SECONDS
    memory.steps.learn(ONE, PROFILE)
    memory.steps._writer.finish()
    assert memory.written() == PROFILE
    memory.steps._writer = Worker("steps")


def _no_directory(path: Path) -> None:
    path.parent.parent.joinpath("state").write_text("a file")


def _no_database(path: Path) -> None:
    path.parent.mkdir()
    path.mkdir()


def _newer(path: Path) -> None:
    import sqlite3

    with LearnedSteps(str(path)) as steps:
        steps.learn(ONE, PROFILE, 1.0)
        steps.flush()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 1000")
    connection.commit()
    connection.close()


@pytest.mark.parametrize("breaks", [_no_directory, _no_database, _newer])
@pytest.mark.parametrize("asks_first", [False, True])
def test_a_broken_file(memory: Memory, breaks: Callable[[Path], None], asks_first: bool) -> None:
    """It costs the knowledge, and is told once; whatever is asked and learnt then."""
    breaks(memory.path)
    for _ in range(3):
        if asks_first:
            assert memory.steps.profile(ONE) is None
            assert list(memory.steps.ended("cc1plus")) == []
        memory.steps.learn(ONE, PROFILE)
    memory.steps.close()
    assert len(memory.told) == 1
    assert str(memory.path) in str(memory.told[0])
    assert "; try" in str(memory.told[0])


def test_it_breaks_in_between(memory: Memory) -> None:
    """While the thread writes: what asks at that moment gets no answer, and that is all."""
    memory.now += 2 * FLUSH_SECONDS
    _no_directory(memory.path)
    memory.steps.learn(ONE, PROFILE)
    memory.steps._writer.finish()
    assert len(memory.told) == 1
    assert memory.steps.profile(ONE) is None
    memory.steps._writer = Worker("steps")
    memory.steps.learn(ONE, PROFILE)
    memory.steps.close()
    assert len(memory.told) == 1


def test_two_threads_find_it_broken(memory: Memory) -> None:
    """One of them tells."""
    errors = threading.Barrier(4)

    def give_up() -> None:
        errors.wait()
        memory.steps._give_up(LearnedError("'steps.sqlite' is broken; try again"))

    threads = [threading.Thread(target=give_up) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(memory.told) == 1


def test_no_thread_is_to_be_had(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full process table: then it is written at the end."""

    def fail(worker: Worker, call: Callable[[], None]) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(Worker, "do", fail)
    memory.now += 2 * FLUSH_SECONDS
    memory.steps.learn(ONE, PROFILE)
    memory.steps.close()
    assert memory.written() == PROFILE
    assert memory.told == []
