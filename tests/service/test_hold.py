# SPDX-License-Identifier: LGPL-2.1-or-later
"""Stopping a process and letting it go on, with real ones and every signal that may come meanwhile."""

from __future__ import annotations

import itertools
import os
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from slicemgr.kernel import kill, procfs
from slicemgr.kernel.errors import NotPermittedError, ProcessGoneError
from slicemgr.kernel.hold import HeldProcess, Stand
from slicemgr.kernel.kill import RefusedError
from slicemgr.model.process import ProcessIdentity
from tests.service.waiting_child import WaitingChild, descriptors, waiting_child

if TYPE_CHECKING:
    from collections.abc import Iterator

PLAIN = ("cat",)
CATCHES = ("sh", "-c", "trap : TERM TSTP; while read line; do echo; done")
"""What it catches is not pending for long, unless it stands."""

WHILE_IT_STANDS: list[tuple[str, tuple[str, ...], tuple[int, ...], Stand]] = [
    ("nothing", PLAIN, (), Stand.STOPPED),
    ("SIGSTOP", PLAIN, (signal.SIGSTOP,), Stand.STOPPED_BY_OTHERS),
    ("SIGTSTP", PLAIN, (signal.SIGTSTP,), Stand.STOPPED_BY_OTHERS),
    ("SIGTTIN", PLAIN, (signal.SIGTTIN,), Stand.STOPPED_BY_OTHERS),
    ("SIGTTOU", PLAIN, (signal.SIGTTOU,), Stand.STOPPED_BY_OTHERS),
    ("SIGSTOP twice", PLAIN, (signal.SIGSTOP, signal.SIGSTOP), Stand.STOPPED_BY_OTHERS),
    ("SIGTERM", PLAIN, (signal.SIGTERM,), Stand.MUST_HEAR),
    ("SIGINT", PLAIN, (signal.SIGINT,), Stand.MUST_HEAR),
    ("SIGHUP", PLAIN, (signal.SIGHUP,), Stand.MUST_HEAR),
    ("SIGQUIT", PLAIN, (signal.SIGQUIT,), Stand.MUST_HEAR),
    ("a message", PLAIN, (signal.SIGUSR1, signal.SIGALRM, signal.SIGWINCH, signal.SIGCHLD), Stand.STOPPED),
    # As it would be without us: it stands, and hears of its end when whoever has stopped it lets it go on.
    ("SIGSTOP, SIGTERM", PLAIN, (signal.SIGSTOP, signal.SIGTERM), Stand.STOPPED_BY_OTHERS),
    ("SIGTERM, SIGSTOP", PLAIN, (signal.SIGTERM, signal.SIGSTOP), Stand.STOPPED_BY_OTHERS),
    ("SIGCONT", PLAIN, (signal.SIGCONT,), Stand.GOES_ON),
    ("SIGSTOP, SIGCONT", PLAIN, (signal.SIGSTOP, signal.SIGCONT), Stand.GOES_ON),
    ("SIGTERM blocked", ("env", "--block-signal=TERM", "cat"), (signal.SIGTERM,), Stand.STOPPED),
    (
        "SIGTERM blocked, SIGINT",
        ("env", "--block-signal=TERM", "cat"),
        (signal.SIGTERM, signal.SIGINT),
        Stand.MUST_HEAR,
    ),
    ("SIGTERM ignored", ("env", "--ignore-signal=TERM", "cat"), (signal.SIGTERM,), Stand.STOPPED),
    ("SIGTERM caught", CATCHES, (signal.SIGTERM,), Stand.MUST_HEAR),
    # It does not stop by that now, so it stands for us alone.
    ("SIGTSTP blocked", ("env", "--block-signal=TSTP", "cat"), (signal.SIGTSTP,), Stand.STOPPED),
    ("SIGTSTP ignored", ("env", "--ignore-signal=TSTP", "cat"), (signal.SIGTSTP,), Stand.STOPPED),
    ("SIGTSTP caught", CATCHES, (signal.SIGTSTP,), Stand.STOPPED_BY_OTHERS),
]
"""What is sent to one that we have stopped, and how it stands then. tests/service/test_let_go_on.py has it as well."""


@pytest.fixture
def child() -> Iterator[WaitingChild]:
    with waiting_child() as started:
        yield started


def _stopped(child: WaitingChild) -> HeldProcess:
    held = HeldProcess(child.identity)
    assert held.stop()
    child.wait_until_stopped()
    return held


def test_it_stands_and_goes_on(child: WaitingChild) -> None:
    """As often as wanted, and it answers as before."""
    with HeldProcess(child.identity) as held:
        for _ in range(3):
            assert held.stop()
            child.wait_until_stopped()
            assert held.stand() is Stand.STOPPED
            assert child.stands()
            held.resume()
            assert not child.stands()
            assert held.stand() is Stand.GOES_ON
            child.answer()


@pytest.mark.parametrize(
    ("command", "sent", "stand"), [row[1:] for row in WHILE_IT_STANDS], ids=[row[0] for row in WHILE_IT_STANDS]
)
def test_what_comes_while_it_stands(command: tuple[str, ...], sent: tuple[int, ...], stand: Stand) -> None:
    """It goes on unless somebody else has stopped it too."""
    with waiting_child(*command) as child, _stopped(child) as held:
        child.send(*sent)
        assert held.stand() is stand
        held.resume()
        assert child.stands() == (stand is Stand.STOPPED_BY_OTHERS)


@pytest.mark.parametrize(
    "order", list(itertools.permutations([signal.SIGSTOP, signal.SIGTERM, signal.SIGTSTP, signal.SIGUSR2]))
)
def test_in_whatever_order_they_come(child: WaitingChild, order: tuple[signal.Signals, ...]) -> None:
    with _stopped(child) as held:
        child.send(*order)
        assert held.stand() is Stand.STOPPED_BY_OTHERS


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_it_ends_by_what_has_come(child: WaitingChild, number: signal.Signals) -> None:
    """As soon as it goes on."""
    with _stopped(child) as held:
        child.send(number)
        held.resume()
        assert child.process.wait() == -number
        assert held.stand() is Stand.GONE


def test_stopped_by_somebody_else_before(child: WaitingChild) -> None:
    """It is none of ours: no second stop stays with it, which its owner's SIGCONT would not be enough for."""
    child.stop_by_somebody_else()
    with HeldProcess(child.identity) as held:
        assert not held.stop()
        assert held.stand() is Stand.STOPPED
    child.send(signal.SIGCONT)
    child.answer()


def test_stopped_again_after_all_were_continued(child: WaitingChild) -> None:
    """`fg` continues all of the command's group."""
    with _stopped(child) as held:
        child.send(signal.SIGCONT)
        held.stop_again()
        child.wait_until_stopped()
        assert held.stand() is Stand.STOPPED
        held.resume()
        child.answer()


def test_stopped_again_where_it_was_not_continued(child: WaitingChild) -> None:
    """In a group of its own (timeout(1)) it has stood all the time: a second stop would look like somebody else's, and
    nobody would ever resume it."""
    with _stopped(child) as held:
        held.stop_again()
        assert held.stand() is Stand.STOPPED
        held.resume()
        child.answer()


def test_a_zombie(child: WaitingChild) -> None:
    """Nobody has collected it; it can't be stopped any more."""
    with HeldProcess(child.identity) as held:
        child.end()
        assert held.stand() is Stand.GONE
        with pytest.raises(ProcessGoneError):
            held.stop()


@pytest.mark.parametrize("was_looked_at", [False, True])
def test_one_that_is_gone(child: WaitingChild, was_looked_at: bool) -> None:
    with HeldProcess(child.identity) as held:
        if was_looked_at:
            held.stand()
        child.be_gone()
        assert held.stand() is Stand.GONE
        for call in (held.stop, held.stop_again, held.resume):
            with pytest.raises(ProcessGoneError):
                call()


def test_killed_while_it_stands(child: WaitingChild) -> None:
    """SIGKILL waits for nobody."""
    with _stopped(child) as held:
        held.kill()
        assert child.process.wait() == -signal.SIGKILL
        assert held.stand() is Stand.GONE


@pytest.mark.parametrize("ticks", [-1, 1, 100])
def test_another_process_has_its_number(child: WaitingChild, ticks: int) -> None:
    """It began at another time, so it is not the one that was meant."""
    before = descriptors()
    with pytest.raises(ProcessGoneError):
        HeldProcess(ProcessIdentity(child.pid, child.identity.start_ticks + ticks))
    assert descriptors() == before
    assert not child.stands()


def test_its_number_is_another_one_s_afterwards(child: WaitingChild) -> None:
    """Between the pidfd and the first look at its files: what stands there under its number is never taken for it."""
    with waiting_child() as other, HeldProcess(child.identity) as held:
        child.be_gone()
        held.identity = ProcessIdentity(other.pid, child.identity.start_ticks)  # As if it had been given out again.
        other.stop_by_somebody_else()
        for _ in range(2):
            assert held.stand() is Stand.GONE
            with pytest.raises(ProcessGoneError):
                held.stop()
            with pytest.raises(ProcessGoneError):
                held.resume()
        assert other.stands()


@pytest.mark.parametrize("pid", [0, 1, os.getpid()])
def test_never_those(pid: int) -> None:
    before = descriptors()
    with pytest.raises(RefusedError):
        HeldProcess(ProcessIdentity(pid, 0))
    assert descriptors() == before


def test_it_has_left_its_job(child: WaitingChild, monkeypatch: pytest.MonkeyPatch) -> None:
    """Moved to another cgroup it is another job's, and is not stopped; not even its start."""
    place = "/build.slice/a.scope/inner"
    monkeypatch.setattr(kill, "cgroup_of", lambda pid: place)
    with HeldProcess(child.identity, "/build.slice/a.scope") as held:
        place = "/build.slice/a.scopes"
        with pytest.raises(ProcessGoneError):
            held.stop()
        with pytest.raises(ProcessGoneError):
            held.kill()
        child.answer()
        with pytest.raises(ProcessGoneError):
            HeldProcess(child.identity, "/build.slice/a.scope")


def test_not_ours_to_signal(child: WaitingChild, monkeypatch: pytest.MonkeyPatch) -> None:
    """sudo's child: that is said, and nothing else happens."""
    with HeldProcess(child.identity) as held:

        def refuse(*_: object) -> None:
            raise PermissionError

        monkeypatch.setattr(signal, "pidfd_send_signal", refuse)
        with pytest.raises(NotPermittedError):
            held.stop()


THREADS = """
import sys, threading
for _ in range(4):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
for _ in iter(sys.stdin.readline, ""):
    print(flush=True)
"""


def test_all_its_threads_stand() -> None:
    """Whichever of them got the signal; and go on together."""
    with waiting_child(sys.executable, "-ISc", THREADS) as child, _stopped(child) as held:
        threads = procfs.thread_ids(child.pid)
        assert len(threads) == 5
        states = [_state_of_thread(child.pid, each) for each in threads]
        assert states == ["T"] * 5
        held.resume()
        child.answer()
        assert "T" not in [_state_of_thread(child.pid, each) for each in threads]


def _state_of_thread(pid: int, tid: int) -> str:
    text = procfs.read_process_file(pid, f"task/{tid}/stat")
    return text.rpartition(b")")[2].split()[0].decode()


@pytest.mark.parametrize("is_looked_at", [False, True])
def test_it_lets_go_of_its_descriptors(child: WaitingChild, is_looked_at: bool) -> None:
    before = descriptors()
    held = HeldProcess(child.identity)
    if is_looked_at:
        held.stand()
    held.close()
    assert descriptors() == before
