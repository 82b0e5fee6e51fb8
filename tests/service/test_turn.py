# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who places jobs with one manager does it after the others, and waits for nobody for ever."""

from __future__ import annotations

import fcntl
import os
import stat
from typing import TYPE_CHECKING

import pytest

from slicemgr.placement import systemd1
from slicemgr.placement.bus_connection import NoManagerError
from slicemgr.placement.turn import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, PATIENCE_SECONDS, Turn

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Clock:
    """Time that passes in pauses only; something may happen in one of them."""

    def __init__(self, *happens: Callable[[], object]) -> None:
        self.pauses: list[float] = []
        self._happens = list(happens)

    def __call__(self) -> float:
        return sum(self.pauses)

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        if self._happens:
            self._happens.pop(0)()


def take(directory: Path, clock: Clock) -> Turn:
    return Turn(str(directory), clock=clock, sleep=clock.sleep)


def test_one_after_the_other(tmp_path: Path) -> None:
    """The second one goes on as soon as it looks after the first one's end; then it is the third one's turn to wait."""
    first = take(tmp_path, Clock())
    waiting = Clock(lambda: None, lambda: None, first.end)
    second = take(tmp_path, waiting)
    assert waiting.pauses == [FIRST_PAUSE_SECONDS, 2 * FIRST_PAUSE_SECONDS, 4 * FIRST_PAUSE_SECONDS]
    third = Clock(second.end)
    take(tmp_path, third).end()
    assert len(third.pauses) == 1


def test_not_for_ever(tmp_path: Path) -> None:
    """Who has the turn may have been stopped: then the others go on without it, and its end takes nothing from them."""
    stopped = take(tmp_path, Clock())
    clock = Clock()
    impatient = take(tmp_path, clock)
    assert PATIENCE_SECONDS <= clock() < PATIENCE_SECONDS + LONGEST_PAUSE_SECONDS
    assert max(clock.pauses) == LONGEST_PAUSE_SECONDS
    impatient.end()
    late = Clock(stopped.end)
    take(tmp_path, late).end()
    assert len(late.pauses) == 1


def test_a_child_of_ours_does_not_keep_it(tmp_path: Path) -> None:
    """The command is forked in between, and holds the descriptor until its exec."""
    parent = take(tmp_path, Clock())
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writing)
        os.read(reading, 1)
        os._exit(0)
    parent.end()
    clock = Clock()
    take(tmp_path, clock).end()
    os.close(writing)
    os.close(reading)
    assert os.waitpid(child, 0) == (child, 0)
    assert clock.pauses == []


def test_twice_ended_is_ended_once(tmp_path: Path) -> None:
    """A closed descriptor may be somebody else's file by then."""
    mine = take(tmp_path, Clock())
    mine.end()
    others = os.open(tmp_path, os.O_RDONLY)
    mine.end()
    os.fstat(others)
    os.close(others)


def test_no_manager_no_turn(tmp_path: Path) -> None:
    """It is the connection that will tell."""
    clock = Clock()
    take(tmp_path / "gone", clock).end()
    assert clock.pauses == []


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    """It is made for us alone: who may open it may lock it, and let us wait."""
    path = tmp_path / "slicemgr.turn"
    clock = Clock()
    first = Turn(str(path), is_directory=False, clock=clock, sleep=clock.sleep)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    waiting = Clock(first.end)
    Turn(str(path), is_directory=False, clock=waiting, sleep=waiting.sleep).end()
    assert (clock.pauses, waiting.pauses) == ([], [FIRST_PAUSE_SECONDS])


def test_a_file_that_cant_be_made(tmp_path: Path) -> None:
    """In a container without a /run, or where somebody has put a link in its place: nobody waits."""
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for path in (tmp_path / "gone/slicemgr.turn", tmp_path / "link"):
        clock = Clock()
        Turn(str(path), is_directory=False, clock=clock, sleep=clock.sleep).end()
        assert clock.pauses == []
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    ("uid", "taken"),
    [(0, ("/run/slicemgr.turn", {"is_directory": False})), (1000, ("/run/user/1000/systemd", {}))],
    ids=["root", "user"],
)
def test_where_it_is(monkeypatch: pytest.MonkeyPatch, uid: int, taken: tuple[str, dict[str, bool]]) -> None:
    """Of the system's manager not its directory, which is 0755: any user could hold root up for PATIENCE_SECONDS."""
    asked: list[tuple[str, dict[str, bool]]] = []

    class Noted:
        def __init__(self, path: str, **how: bool) -> None:
            asked.append((path, how))

        def end(self) -> None:
            asked.append(("end", {}))

    def refuse(private: str, bus: str) -> None:
        raise NoManagerError(f"{private} {bus}")

    monkeypatch.setattr(systemd1, "Turn", Noted)
    monkeypatch.setattr(systemd1, "_first_connected", refuse)
    with pytest.raises(NoManagerError):
        systemd1.connect(uid, in_turn=True)
    assert asked == [taken, ("end", {})]


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits there."""

    def refuse(_descriptor: int, _operation: int) -> None:
        raise OSError(38, "Function not implemented")

    clock = Clock()
    with monkeypatch.context() as patched:
        patched.setattr(fcntl, "flock", refuse)
        take(tmp_path, clock)
    assert clock.pauses == []
