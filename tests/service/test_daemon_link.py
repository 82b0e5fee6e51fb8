# SPDX-License-Identifier: LGPL-2.1-or-later
"""The link from `slicemgr run` to a daemon: what it needs is told seldom, and what it may have is heard at once."""

from __future__ import annotations

import socket
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from slicemgr.service import daemon_link
from slicemgr.service.control import _budget_line
from slicemgr.service.daemon_link import DaemonLink
from slicemgr.service.record import report_to_line
from slicemgr.service.report import HighReport
from slicemgr.service.waiting import Waiting

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from slicemgr.service.report import Report

JOB = "/build.slice/slicemgr-make-7.scope"
HIGH = HighReport(1.0, 2, 3, JOB)


class Ends:
    """Both ends of one link, and what came of it."""

    def __init__(self, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(daemon_link, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.budgets: list[int | None] = []
        self.reports: list[Report] = []
        self.lost: list[str] = []
        self.waiting = Waiting()
        self.link = DaemonLink(
            self.waiting, self.reports.append, lambda: self.lost.append("lost"), budget=self.budgets.append
        )
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path)
            listening.listen()
            assert self.link.open(path, JOB)
            self.daemon, _ = listening.accept()
        self.daemon.settimeout(20)
        assert self.daemon.recv(4096) == f"watch {JOB}\n".encode()

    def say(self, text: bytes) -> None:
        """From the daemon; and it is heard."""
        self.daemon.sendall(text)
        self.waiting.wait()

    def heard(self) -> list[str]:
        """What the daemon has been told since the last time."""
        self.daemon.setblocking(False)
        try:
            return self.daemon.recv(65536).decode().splitlines()
        except BlockingIOError:
            return []

    def close(self) -> None:
        self.link.finish(linger=False)
        self.daemon.close()


@pytest.fixture
def ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ends]:
    made = Ends(str(tmp_path / "control"), monkeypatch)
    yield made
    made.close()


@pytest.fixture
def watched(ends: Ends) -> Ends:
    ends.say(b"ok\n")
    return ends


def test_a_need(watched: Ends) -> None:
    """In bytes, and never below nothing."""
    watched.link.need(5 << 20, 7 << 20, True)
    watched.now += 1
    watched.link.need(-5, -7, False)
    assert watched.heard() == [f"need {5 << 20} {7 << 20} 1", "need 0 0 0"]


def test_nothing_is_told_before_the_daemon_has_agreed(ends: Ends) -> None:
    """It may say no; and what is needed by then is told afterwards."""
    ends.link.need(1, 2, True)
    assert ends.heard() == []
    ends.say(b"ok\n")
    ends.link.need(1, 2, True)
    assert ends.heard() == ["need 1 2 1"]


@pytest.mark.parametrize(
    ("later", "held", "wanted", "waiting", "is_told"),
    [
        (0.1, 5000, 5000, False, False),
        (0.3, 1000, 1000, True, False),
        (0.3, 1020, 980, True, False),
        (0.3, 1021, 1000, True, True),
        (0.3, 1000, 979, True, True),
        (0.3, 1000, 1000, False, True),
        (1.9, 1000, 1000, True, False),
        (2.0, 1000, 1000, True, True),
    ],
)
def test_only_news_is_told(watched: Ends, later: float, held: int, wanted: int, waiting: bool, is_told: bool) -> None:
    """Not within a quarter of a second, and the same again after two."""
    watched.link.need(1000, 1000, True)
    assert watched.heard() == ["need 1000 1000 1"]
    watched.now += later
    watched.link.need(held, wanted, waiting)
    assert watched.heard() == ([f"need {held} {wanted} {waiting:d}"] if is_told else [])


def test_small_steps_add_up(watched: Ends) -> None:
    """They are compared with what was told, not with what was last asked."""
    watched.link.need(1000, 0, True)
    for held in range(1000, 1060, 10):
        watched.now += 0.25
        watched.link.need(held, 0, True)
    assert watched.heard() == ["need 1000 0 1", "need 1030 0 1"]


def test_a_budget(watched: Ends) -> None:
    """As control.py writes it, beside reports, and in whatever pieces."""
    watched.say(_budget_line(5 << 20) + report_to_line(HIGH) + _budget_line(None)[:10])
    assert (watched.budgets, watched.reports) == ([5 << 20], [HIGH])
    watched.say(_budget_line(None)[10:] + _budget_line(0))
    assert watched.budgets == [5 << 20, None, 0]


@pytest.mark.parametrize(
    "line",
    [
        b'{"kind": "budget"}',
        b'{"kind": "budget", "allowance_bytes": -1}',
        b'{"kind": "budget", "allowance_bytes": 1.5}',
        b'{"kind": "budget", "allowance_bytes": true}',
        b'{"kind": "budget", "allowance_bytes": "7"}',
        b'{"kind": "budget", "allowance_bytes": NaN}',
        b'{"kind": "budget", "allowance_bytes": 1',
        b'{"kind": "budget", "allowance_bytes": ' + b"[" * 100_000,
        b'{"kind": "budget", "allowance_bytes": ' + b"9" * 5_000 + b"}",
        b'{"kind": "budget"\xff',
        b'{"kind": "budgets", "allowance_bytes": 7}',
        b'{"kind": "weather", "allowance_bytes": 7}',
        b"nonsense",
    ],
    ids=lambda line: repr(line)[:60],
)
def test_what_it_has_no_words_for(watched: Ends, line: bytes) -> None:
    """A newer daemon's: nothing comes of it, and the next line is heard."""
    watched.say(_budget_line(1))
    watched.daemon.sendall(line + b"\n" + _budget_line(2))
    while 2 not in watched.budgets:
        watched.waiting.wait()
    assert (watched.budgets, watched.reports, watched.lost) == ([1, 2], [], [])


def test_a_newer_daemon_may_say_more(watched: Ends) -> None:
    watched.say(b'{"kind": "budget", "allowance_bytes": 7, "why": "because"}\n')
    assert watched.budgets == [7]


def test_a_daemon_that_goes_takes_its_word_along(watched: Ends) -> None:
    """What it allowed is no longer so: others may begin that it does not know."""
    watched.say(_budget_line(7))
    watched.daemon.close()
    watched.waiting.wait()
    assert (watched.budgets, watched.lost) == ([7, None], ["lost"])
    watched.link.need(1, 2, True)  # Nobody hears it.


def test_one_that_has_never_said_anything_takes_nothing_back(watched: Ends) -> None:
    watched.daemon.close()
    watched.waiting.wait()
    assert (watched.budgets, watched.lost) == ([], ["lost"])


def test_a_daemon_that_does_not_read_is_not_waited_for(watched: Ends) -> None:
    """What it does not take is told again, as soon as it does."""
    told = 0
    while True:
        watched.now += 10
        watched.link.need(told, 0, False)
        if watched.link._needed_seconds != watched.now:
            break
        told += 1
    assert told > 10
    lines = watched.heard()
    while more := watched.heard():
        lines += more
    watched.now += 0.01
    watched.link.need(4711, 0, False)
    assert watched.heard() == ["need 4711 0 0"]


class Watched:
    """A socket that notes who has the turn whenever it is written to or closed."""

    def __init__(self, link: DaemonLink) -> None:
        assert link._socket is not None
        self._socket = link._socket
        self._turn = link._turn
        self.told: list[tuple[str, bool]] = []

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, text: bytes, flags: int) -> int:
        self.told.append(("send", self._turn.locked()))
        return self._socket.send(text, flags)

    def close(self) -> None:
        self.told.append(("close", self._turn.locked()))
        self._socket.close()


def test_another_thread_may_speak_while_it_ends(watched: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never both at once: what is written would go to whoever has the number of the socket by then."""
    between = Watched(watched.link)
    monkeypatch.setattr(watched.link, "_socket", between)
    speaker = threading.Thread(target=watched.link.need, args=(1, 2, True))
    speaker.start()
    speaker.join()
    watched.link._close()
    assert between.told == [("send", True), ("close", True)]
    watched.now += 10
    watched.link.need(1, 2, True)
    assert len(between.told) == 2
    assert not watched.link._turn.locked()
