# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernel's OOM kills: whose they are, and for which cgroup each is told."""

from __future__ import annotations

import pytest

from slicemgr.service import leftover
from slicemgr.service.kernel_kills import DYING_SECONDS, KernelKills, OwnVictims, not_ours

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
    kills = KernelKills()
    assert sorted(kills.excused([11, 12], 1) + kills.excused([11, 12], 5)) == [11, 12]
    assert kills.excused([11, 12], 1) == []


def test_each_is_told_once() -> None:
    """For the lowest cgroup that has seen it; what the slice has seen besides is the slice's."""
    kills, watched = KernelKills(), (SLICE, JOB, OTHER)
    kills.seen(JOB, 2)
    assert kills.take(JOB, watched) == 2
    kills.seen(SLICE, 3)
    assert kills.is_in_doubt(SLICE, lambda: watched)
    assert not kills.is_in_doubt(SLICE, lambda: watched)
    assert kills.take(SLICE, watched) == 1
    assert kills.take(SLICE, watched) == kills.take(JOB, watched) == 0


def test_what_the_slice_has_seen_first() -> None:
    kills, watched = KernelKills(), (SLICE, JOB)
    kills.seen(SLICE, 1)
    assert kills.is_in_doubt(SLICE, lambda: watched)
    kills.seen(JOB, 1)
    assert kills.take(JOB, watched) == 1
    kills.seen(SLICE, 0)
    assert not kills.is_in_doubt(SLICE, lambda: watched)
    assert kills.take(SLICE, watched) == 0


def test_nobody_below_leaves_no_doubt() -> None:
    kills = KernelKills()
    kills.seen(JOB, 1)
    assert not kills.is_in_doubt(JOB, lambda: (SLICE, JOB, OTHER))
    assert kills.take(JOB, ()) == 1


def test_a_slice_whose_first_look_came_after_it() -> None:
    """What was told before is no credit for ever: its next kill is told."""
    kills, watched = KernelKills(), (SLICE, JOB)
    kills.seen(JOB, 1)
    kills.take(JOB, watched)
    kills.seen(SLICE, 0)
    kills.seen(SLICE, 1)
    assert kills.take(SLICE, watched) == 1
