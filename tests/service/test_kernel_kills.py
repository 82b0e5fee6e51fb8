# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernel's OOM kills: whose they are."""

from __future__ import annotations

import pytest

from slicemgr.service import leftover
from slicemgr.service.kernel_kills import DYING_SECONDS, OwnVictims, not_ours

SLICE, JOB, OTHER = "/build.slice", "/build.slice/a.scope", "/build.slice/b.scope"
CC, LD = (11, "cc1plus"), (12, "ld")


@pytest.mark.parametrize(
    ("count", "log", "ours", "dying", "told"),
    [
        (1, (CC,), (), (), (1, (CC,))),
        (1, (CC,), (11,), (11,), (0, ())),
        (2, (CC, LD), (11,), (11,), (1, (LD,))),
        # The log is proof: who is ours, and not in it, excuses nobody.
        (1, (LD,), (11,), (11,), (1, (LD,))),
        # Old lines are not of these kills.
        (1, (CC, LD), (11,), (), (1, (LD,))),
        # No log to read: Debian's kernel.dmesg_restrict.
        (1, (), (11,), (11,), (0, ())),
        (3, (), (11,), (11,), (2, ())),
        (1, (), (11, 12), (11, 12), (0, ())),
        # Long gone: the kernel did not take it.
        (1, (), (11,), (), (1, ())),
        (0, (CC,), (), (), (0, ())),
    ],
)
def test_whose_kill_it_was(
    count: int,
    log: tuple[tuple[int, str], ...],
    ours: tuple[int, ...],
    dying: tuple[int, ...],
    told: tuple[int, tuple[tuple[int, str], ...]],
) -> None:
    assert not_ours(count, log, ours, dying) == told


def test_the_end_of_a_job_goes_by_the_same_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftover, "oom_victims", lambda cgroup: ())
    assert leftover.untold_kernel_kills(JOB, 1, {11}) is None
    report = leftover.untold_kernel_kills(JOB, 2, {11})
    assert report is not None
    assert (report.cgroup, report.count, report.victims) == (JOB, 1, ())


def test_who_is_dying() -> None:
    """From the SIGKILL until its exit is a second old; in its cgroup, and in those above it."""
    victims = OwnVictims()
    victims.add(11, JOB)
    assert victims.dying(JOB, 100.0) == victims.dying(SLICE, 900.0) == {11}
    assert victims.dying(OTHER, 100.0) == frozenset()
    victims.exited(11, 100.0)
    assert victims.dying(JOB, 100.0 + DYING_SECONDS) == {11}
    assert victims.dying(JOB, 100.1 + DYING_SECONDS) == frozenset()
    assert victims.pids() == {11}
    victims.add(11, JOB)  # Another process of this number.
    assert victims.dying(JOB, 900.0) == {11}


def test_only_the_last_few_are_remembered() -> None:
    victims = OwnVictims()
    for pid in range(1000):
        victims.add(pid, JOB)
        victims.exited(pid, 1.0)
    assert victims.pids() == set(range(984, 1000))
    assert victims.dying(JOB, 1.0) == victims.pids()


def test_a_victim_excuses_one_kill() -> None:
    victims = OwnVictims()
    for pid in (11, 12):
        victims.add(pid, JOB)
    assert victims.excused(OTHER, 5, 100.0) == []
    assert victims.excused(JOB, 1, 100.0) + victims.excused(SLICE, 5, 100.0) == [11, 12]
    assert victims.excused(JOB, 1, 100.0) == []
    victims.add(11, JOB)  # Another process of this number.
    assert victims.excused(JOB, 5, 100.0) == [11]
