# SPDX-License-Identifier: LGPL-2.1-or-later
"""Resuming what a dead slicemgr had stopped, with real processes; and by the same rule as while it lived."""

from __future__ import annotations

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicemgr.kernel import let_go_on as let_go_on_module
from slicemgr.kernel.hold import HeldProcess, Stand
from slicemgr.kernel.let_go_on import let_go_on
from tests.service.test_hold import WHILE_IT_STANDS
from tests.service.waiting_child import WaitingChild, descriptors, waiting_child


def _entry(child: WaitingChild) -> tuple[int, int]:
    return child.pid, child.identity.start_ticks


@pytest.mark.parametrize(
    ("command", "sent", "stand"), [row[1:] for row in WHILE_IT_STANDS], ids=[row[0] for row in WHILE_IT_STANDS]
)
def test_it_agrees_with_who_stopped_them(command: tuple[str, ...], sent: tuple[int, ...], stand: Stand) -> None:
    """Two of a kind, to which the same happens: one is resumed by the pacer, and one after its death."""
    with waiting_child(*command) as first, waiting_child(*command) as second, HeldProcess(first.identity) as held:
        assert held.stop()
        second.send(signal.SIGSTOP)
        for each in (first, second):
            each.wait_until_stopped()
            each.send(*sent)
        held.resume()
        let_go_on([_entry(second)])
        assert first.stands() == second.stands() == (stand is Stand.STOPPED_BY_OTHERS)


def test_all_of_them() -> None:
    """One that is gone, and one that stands for somebody else, keep it from no other."""
    with waiting_child() as first, waiting_child() as gone, waiting_child() as others, waiting_child() as last:
        for child in (first, gone, others, last):
            child.stop_by_somebody_else()
        others.send(signal.SIGTSTP)
        gone.be_gone()
        before = descriptors()
        let_go_on([_entry(first), _entry(gone), _entry(others), _entry(last)])
        assert descriptors() == before
        assert not first.stands()
        assert others.stands()
        last.answer()


def test_a_zombie_is_no_trouble() -> None:
    with waiting_child() as zombie, waiting_child() as last:
        zombie.stop_by_somebody_else()
        last.stop_by_somebody_else()
        zombie.end()
        let_go_on([_entry(zombie), _entry(last)])
        last.answer()


@pytest.mark.parametrize("ticks", [-1, 1, 1000])
def test_the_number_is_another_one_s(ticks: int) -> None:
    """It began at another time: whoever it is, it was not stopped by us."""
    with waiting_child() as child:
        child.stop_by_somebody_else()
        let_go_on([(child.pid, child.identity.start_ticks + ticks)])
        assert child.stands()


def test_one_that_runs() -> None:
    """It was told of before it was to be stopped, and then nobody was there to do it."""
    with waiting_child() as child:
        let_go_on([_entry(child)])
        child.answer()


@pytest.mark.parametrize("comm", [") T 1 (", "a b) (c", "State: S", "SigPnd: ff", ")", "T"])
def test_hostile_names(comm: str) -> None:
    """A name may look like the rest of the line."""
    shell = f"printf '%s' '{comm}' >/proc/$$/comm; while read line; do echo; done"
    with waiting_child("sh", "-c", shell) as child:
        child.stop_by_somebody_else()
        let_go_on([_entry(child)])
        child.answer()


def test_a_name_with_a_newline() -> None:
    """Which the kernel shows as two signs in `status`, and as itself in `stat`."""
    shell = "printf 'x\\nState:\\tR\\nSig' >/proc/$$/comm; while read line; do echo; done"
    with waiting_child("sh", "-c", shell) as child:
        child.stop_by_somebody_else()
        child.send(signal.SIGSTOP)
        let_go_on([_entry(child)])
        assert child.stands()


@given(st.lists(st.tuples(st.integers(max_value=0) | st.integers(min_value=1 << 22), st.integers())))
def test_numbers_that_nobody_has(held: list[tuple[int, int]]) -> None:
    """However it came by them: nothing is raised, and nobody signalled."""
    let_go_on(held)


@pytest.mark.parametrize("text", [b"", b"State:\n", b"State:\tT\nSigPnd:\tx\n", b"SigPnd:\n"])
def test_files_that_say_nothing(monkeypatch: pytest.MonkeyPatch, text: bytes) -> None:
    """One that can't be read is left as it is, and the others are not."""
    with waiting_child() as child, waiting_child() as last:
        child.stop_by_somebody_else()
        last.stop_by_somebody_else()
        original = let_go_on_module._read
        hidden = lambda pid, name: text if (pid, name) == (child.pid, "stat") else original(pid, name)  # noqa: E731
        monkeypatch.setattr(let_go_on_module, "_read", hidden)
        let_go_on([_entry(child), _entry(last)])
        assert child.stands()
        last.answer()
